"""What looks at pictures, as tiny nets in the published files' layout (two safety checkers, Redux's eye, depth), and a
FLUX that is smaller still than the tests' tiny one.

    files = eyes_folder()               # the registry's names → folders, as VIVIDCOVER_WEIGHT_FILES takes them
    folder = smallest_flux_folder()

The checkers always judge alike: the first objects to nothing, the second is 60 % sure of everything. So a picture is
given out from `safety_tolerance` 2 on, where it takes both, and held back at 0 and 1, where one of them is enough.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flux_making import HEAD_DIM, WIDTH, tiny_flux_folder

SURE = 0.6  # of the second checker, of any picture
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
NAMES = ("safety-checker", "nsfw-detector", "flux-redux", "depth-anything-v2-small")


@functools.cache
def eyes_folder() -> dict[str, Path]:
    """Made once on this machine for this text of the recipe. Do not change what is in it."""
    folder = _once("eyes", _eyes)
    return {name: folder / name for name in NAMES}


@functools.cache
def smallest_flux_folder(channels: int = 64) -> Path:
    """Like `tiny_flux_folder`, with one block of each kind and a thin autoencoder: 4 megapixels take it seconds."""
    return _once(f"smallest-{channels}", functools.partial(_smallest, channels=channels))


def _once(name: str, make: Callable[[Path], None]) -> Path:
    recipe = Path(__file__).read_bytes() + f"{version('diffusers')} {version('transformers')}".encode()
    shelf = Path(tempfile.gettempdir()) / f"vividcover-tiny-flux-{os.getuid()}"
    shelf.mkdir(mode=0o700, exist_ok=True)
    folder = shelf / f"{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if not folder.is_dir():
        import torch

        part = Path(tempfile.mkdtemp(dir=shelf))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make(part)
        try:
            part.rename(folder)
        except OSError:  # another worker was first
            shutil.rmtree(part)
    return folder


def _smallest(folder: Path, channels: int) -> None:
    import diffusers

    other: Any = diffusers
    for part in tiny_flux_folder(in_channels=channels).iterdir():
        if part.is_dir() and part.name not in ("transformer", "vae"):
            shutil.copytree(part, folder / part.name)
    shutil.copy(tiny_flux_folder(in_channels=channels) / "model_index.json", folder)
    other.FluxTransformer2DModel(
        in_channels=channels, out_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=HEAD_DIM,
        num_attention_heads=1, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).save_pretrained(folder / "transformer")  # fmt: skip
    other.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(2,) * 4, layers_per_block=1, norm_num_groups=1, latent_channels=16, sample_size=64,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
    ).save_pretrained(folder / "vae")  # fmt: skip


def _eyes(root: Path) -> None:
    _checkers(root)
    _redux(root / "flux-redux")
    _depth(root / "depth-anything-v2-small")


def _checkers(root: Path) -> None:
    import torch
    import transformers as t
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    text = {"hidden_size": 16, "num_hidden_layers": 1}
    checker = StableDiffusionSafetyChecker(t.CLIPConfig(projection_dim=16, vision_config=VISION, text_config=text))
    for name, count in (("concept", 17), ("special_care", 3)):
        getattr(checker, f"{name}_embeds").data = torch.randn(count, 16)
        getattr(checker, f"{name}_embeds_weights").data = torch.full((count,), 2.0)  # no cosine is as large
    checker.save_pretrained(root / NAMES[0])
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    t.CLIPImageProcessor(**crop).save_pretrained(root / NAMES[0])

    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    detector = t.ViTForImageClassification(t.ViTConfig(**VISION, **labels))
    detector.classifier.weight.data.zero_()
    detector.classifier.bias.data = torch.tensor([0.0, math.log(SURE / (1 - SURE))])
    detector.save_pretrained(root / NAMES[1])
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / NAMES[1])


def _redux(root: Path) -> None:
    import transformers as t
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    t.SiglipVisionModel(t.SiglipVisionConfig(**VISION)).save_pretrained(root / "image_encoder")
    t.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "feature_extractor")
    ReduxImageEncoder(redux_dim=32, txt_in_features=WIDTH).save_pretrained(root / "image_embedder")


def _depth(root: Path) -> None:
    import transformers as t

    back = t.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    sizes: dict[str, Any] = {
        "reassemble_hidden_size": 16, "neck_hidden_sizes": [4, 8, 8, 8], "fusion_hidden_size": 8, "head_hidden_size": 4,
    }  # fmt: skip
    depth = t.DepthAnythingForDepthEstimation(t.DepthAnythingConfig(backbone_config=back, **sizes))
    for convolution in (depth.head.conv1, depth.head.conv2, depth.head.conv3):
        convolution.weight.data.mul_(100)  # a random net sees hardly any depth
    depth.save_pretrained(root)
    processor = t.DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True)
    processor.save_pretrained(root)
