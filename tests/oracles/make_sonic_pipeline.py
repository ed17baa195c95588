"""The whole of Sonic, from a picture and a voice to frames, at a tiny size: `golden_sonic_pipeline.npz`.

    python tests/oracles/make_sonic_pipeline.py SONIC      # a checkout of github.com/jixiaozhong/Sonic

in the environment that make_sonic_audio.py needs. The published program's own `test` and its own pipeline class run
from sound and picture to frames; only the noise that they would draw is ours, as are the weights. The still is already
cut out and of the right size (framing has promises of its own).
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from seeded import noise

HERE = Path(__file__).parent
CASES = {  # seconds, height, width in px, steps, dynamic_scale; frames of which latents are kept
    "song": (3.36, 64, 64, 6, 1.0, range(0, 42, 2)),  # 42 frames: two windows, the last one around the end
    "wide": (0.56, 64, 128, 3, 1.4, range(7)),  # 7 frames: the only window holds some of them four times
    "two": (2.08, 128, 64, 3, 0.7, range(0, 26, 5)),  # 26 frames: most of them twice
}
RATE = 16_000


def still(height: int, width: int) -> Any:
    """A picture uint8 [height, width, 3] of soft spots."""
    small = noise("still", height // 16, width // 16, 3)
    spots = np.kron(small, np.ones((16, 16, 1), np.float32))
    shade = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    return np.clip(128 + 50 * spots + 40 * shade, 0, 255).astype(np.uint8)


def first_noise(case: str, frames: int, height: int, width: int) -> Any:
    """[frames, 4, h, w]"""
    return noise(f"start/{case}", frames, 4, height // 8, width // 8)


def scheduler() -> Any:
    from diffusers import EulerDiscreteScheduler

    from sonic_making import SCHEDULER

    return EulerDiscreteScheduler.from_config(SCHEDULER)


def pipeline() -> tuple[Any, Any]:
    """The published pipeline of tiny nets, and its picture encoder."""
    from make_sonic_unet import TINY, TINY_TOKENS, filled, peer

    from sonic_making import as_nets, tiny_sonic_files

    stock = as_nets(tiny_sonic_files())
    kind = import_module("src.pipelines.pipeline_sonic").SonicPipeline
    pipe = kind(
        vae=stock["vae"], image_encoder=stock["clip"], unet=filled(peer(TINY, TINY_TOKENS)), scheduler=scheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, stock["clip"]


def played(case: str, sonic: Any, pipe: Any, encoder: Any) -> dict[str, Any]:
    from make_sonic_audio import TINY_AUDIO, nets, wave
    from make_sonic_unet import soft_mask
    from PIL import Image
    from transformers import CLIPImageProcessor, WhisperFeatureExtractor

    seconds, height, width, steps, scale, kept = CASES[case]
    taken: dict[str, Any] = {}

    class Pipe:
        device = "cpu"

        def __call__(self, *given: Any, **more: Any) -> Any:
            drawn = torch.from_numpy(first_noise(case, more["num_frames"], height, width))[None]
            latents = pipe(*given, latents=drawn, output_type="latent", **more).frames
            taken["latents"] = latents[0].numpy()
            return SimpleNamespace(frames=pipe.decode_latents(latents, more["num_frames"], more["decode_chunk_size"]))

    rgb = still(height, width)
    small = Image.fromarray(rgb).resize((224, 224), Image.Resampling.LANCZOS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.wav")
        import_module("soundfile").write(path, wave(seconds, RATE, 1).T, RATE, subtype="FLOAT")
        features, length = import_module("src.dataset.test_preprocess").get_audio_feature(
            str(path), WhisperFeatureExtractor(feature_size=TINY_AUDIO.mels)
        )
    batch = {
        "ref_img": (torch.from_numpy(rgb).permute(2, 0, 1).float() / 255 - 0.5) / 0.5,
        "clip_images": CLIPImageProcessor()(images=small, return_tensors="pt").pixel_values[0],
        "face_mask": torch.from_numpy(soft_mask(height, width)).expand(3, -1, -1), "audio_feature": features[0],
        "audio_len": length,
    }  # fmt: skip
    config = sonic.OmegaConf.load(sonic.BASE_DIR + "/config/inference/sonic.yaml")
    config.num_inference_steps, config.motion_bucket_scale = steps, scale
    video = sonic.test(Pipe(), config, *nets(TINY_AUDIO), encoder, width, height, batch)  # [1, 3, F, H, W] in 0..1
    frames = video[0].permute(1, 0, 2, 3).numpy()
    print(case, frames.shape, taken["latents"].std(), frames.std(), frames.std(0).mean())
    return {
        f"{case}/latents": taken["latents"][list(kept)], f"{case}/count": len(frames),
        f"{case}/frames": frames[:, :, 3::16, 3::16],
    }  # fmt: skip


def main() -> None:
    sys.path[:0] = [str(Path(sys.argv[1]).resolve()), str(HERE.parent)]
    import diffusers  # noqa: F401  (looks for torchvision, and must not find what stands for it below)
    import transformers  # noqa: F401
    from make_sonic_audio import quiet

    for name in ("torchvision", "torchvision.transforms", "imageio"):  # to read pictures from files
        sys.modules[name] = SimpleNamespace(transforms=SimpleNamespace())  # type: ignore[assignment]
    torch.set_num_threads(1)
    sonic = import_module("sonic")
    sonic.tqdm = quiet  # type: ignore[attr-defined]
    gold: dict[str, Any] = {}
    pipe, encoder = pipeline()
    with torch.inference_mode():
        for case in CASES:
            gold |= played(case, sonic, pipe, encoder)
    np.savez_compressed(HERE / "golden_sonic_pipeline.npz", **gold)
    print((HERE / "golden_sonic_pipeline.npz").stat().st_size)


if __name__ == "__main__":
    main()
