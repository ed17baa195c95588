"""Golden values of Sonic's crop, mask and size, from its published preprocessing.

    python tests/oracles/make_sonic_framing.py SONIC_FOLDER

SONIC_FOLDER is a checkout of github.com/jixiaozhong/Sonic (CC BY-NC-SA 4.0). Its two functions are run on boxes of
faces; what they import besides (torchvision, librosa, CLIP's processor) is stood in for, since nothing of it decides
what is kept here. Stills are made by `still`, which the tests use too.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from seeded import noise

HERE = Path(__file__).parent
CROPS = 400
PICTURES = ((90, 90, 64), (90, 131, 64), (200, 149, 128), (64, 64, 64), (97, 60, 128))  # width, height, resolution


def boxes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Stills' sizes [N, 2] (height, width) and faces' boxes [N, 4] (x, y, x, y) in them, some beyond their edges."""
    draw = np.random.default_rng(6)
    sizes = draw.integers(60, 3000, (count, 2))
    sizes[::5, 1] = sizes[::5, 0]
    high = sizes.min(axis=1) * draw.uniform(0.1, 1.1, count)
    wide = high * draw.uniform(0.6, 1.1, count)
    middle = draw.uniform(0.0, 1.0, (count, 2)) * sizes[:, ::-1]
    found = np.stack(
        [middle[:, 0] - wide / 2, middle[:, 1] - high / 2, middle[:, 0] + wide / 2, middle[:, 1] + high / 2], 1
    )
    found[::3] = np.round(found[::3])  # whole and half numbers: where roundings differ
    found[1::3] = np.round(found[1::3] * 2) / 2
    return sizes, found


def still(width: int, height: int) -> np.ndarray:
    """A smooth picture uint8 [height, width, 3]."""
    coarse = noise(f"still {width} {height}", height // 8 + 2, width // 8 + 2, 3)
    coarse = np.clip(128 + 60 * coarse, 0, 255).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def face_in(width: int, height: int) -> tuple[float, float, float, float]:
    """x, y, width, height of the face that is said to be there."""
    return 0.21 * width, 0.17 * height, 0.55 * width, 0.6 * height


def stand_ins() -> None:
    """Modules that the published file imports, as far as it uses them here."""

    def as_array(picture: Any) -> np.ndarray:
        return np.asarray(picture)

    transforms = ModuleType("torchvision.transforms")
    transforms.Compose = lambda steps: steps[0]  # type: ignore[attr-defined]
    transforms.ToTensor = lambda: as_array  # type: ignore[attr-defined]
    transforms.Normalize = lambda *_: None  # type: ignore[attr-defined]
    torchvision, librosa, transformers = (ModuleType(name) for name in ("torchvision", "librosa", "transformers"))
    torchvision.transforms = transforms  # type: ignore[attr-defined]
    librosa.load = lambda *_, **__: (np.zeros(640, np.float32), 16000)  # type: ignore[attr-defined]
    transformers.CLIPImageProcessor = (  # type: ignore[attr-defined]
        lambda: lambda **_: SimpleNamespace(pixel_values=[None])
    )
    sys.modules |= {
        "torchvision": torchvision, "torchvision.transforms": transforms, "librosa": librosa,
        "transformers": transformers,
    }  # fmt: skip


def main() -> None:
    stand_ins()
    sys.path.insert(0, sys.argv[1])
    published: Any = importlib.import_module("src.dataset.test_preprocess")
    import torch

    def hear(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(input_features=torch.zeros(1, 80, 1))

    sizes, found = boxes(CROPS)
    crops = [
        published.process_bbox(tuple(box), expand_radio=0.5, height=int(h), width=int(w))
        for (h, w), box in zip(sizes, found, strict=True)
    ]
    kept: dict[str, np.ndarray] = {"crops": np.array(crops, np.int32)}
    with tempfile.TemporaryDirectory() as folder:
        for number, (width, height, resolution) in enumerate(PICTURES):
            path = Path(folder) / "still.png"
            Image.fromarray(still(width, height)).save(path)
            box = np.array(face_in(width, height))
            made = published.image_audio_to_tensor(
                lambda _, maxface, box=box: (None, None, [box]), hear, str(path), "", image_size=resolution, area=1.1
            )
            kept[f"mask_{number}"] = made["face_mask"][..., 0]
            kept[f"picture_{number}"] = made["ref_img"]
    np.savez_compressed(HERE / "golden_sonic_framing.npz", **kept)


if __name__ == "__main__":
    main()
