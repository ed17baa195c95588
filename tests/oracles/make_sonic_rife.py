"""Golden values of the picture between two pictures, from the RIFE (HDv3) that Sonic brings along.

    python tests/oracles/make_sonic_rife.py SONIC_FOLDER

SONIC_FOLDER is a checkout of github.com/jixiaozhong/Sonic (CC BY-NC-SA 4.0; its RIFE is MIT). Its network is filled by
name (seeded.py), written to a `flownet.pkl` as the published one is, loaded by its own loader and shown two pictures.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from seeded import fill, noise, shapes_of

HERE = Path(__file__).parent
SIZES = ((64, 64, 2), (64, 128, 1), (192, 128, 1))  # height, width, pairs
SLOPE = 0.25  # of the PReLUs: with 1 the network would be linear
LARGER = 5.0  # the last layers': pictures then move by several pixels, and the mask decides something


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Name → values; what a PReLU multiplies with below zero is around `SLOPE`."""
    made = {name: torch.from_numpy(value) for name, value in fill(shapes).items()}
    for name, value in made.items():
        if name.endswith((".conv1.2.weight", ".conv2.2.weight")):
            value *= LARGER
        elif name.endswith("weight") and value.ndim == 1:
            value *= SLOPE
    return made


def pictures(height: int, width: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth pictures [N, 3, H, W] in 0..1, the second a moved and slightly changed first."""
    coarse = torch.from_numpy(noise(f"picture {height} {width}", pairs, 3, height // 8 + 2, width // 8 + 2))
    large = F.interpolate(coarse, scale_factor=8, mode="bicubic").mul(0.25).add(0.5).clamp(0, 1)
    a, b = large[..., :height, :width], large[..., 3 : height + 3, 5 : width + 5]
    return a.contiguous(), (b * 0.95 + 0.03).contiguous()


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    from src.utils.RIFE.RIFE_HDv3 import RIFEModel

    torch.set_num_threads(1)
    model = RIFEModel(device=torch.device("cpu"))
    state = weights(shapes_of(model.flownet))
    gold: dict[str, Any] = {"names": np.array(sorted(f"{name} {list(value.shape)}" for name, value in state.items()))}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        torch.save({f"module.{name}": value for name, value in state.items()}, Path(folder, "flownet.pkl"))
        model.load_model(folder)
        for height, width, pairs in SIZES:
            a, b = pictures(height, width, pairs)
            flows, mask, _ = model.flownet(torch.cat((a, b), 1), [4, 2, 1])
            size = f"{height}x{width}"
            gold[f"middle/{size}"] = model.inference(a, b).clamp(0, 1).numpy()[..., ::3, ::2]
            gold[f"flow/{size}"], gold[f"mask/{size}"] = flows[2].numpy()[..., ::5, ::7], mask.numpy()[..., ::5, ::7]
            print(size, [float(f.abs().mean()) for f in flows], float(mask.min()), float(mask.max()))
    np.savez_compressed(HERE / "golden_sonic_rife.npz", **gold)
    print(f"{len(gold)} arrays, {(HERE / 'golden_sonic_rife.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
