"""A tiny random Sonic in the published files' layout: the test bed of the neural portrait.

    files = tiny_sonic_files()                  # built once on this machine, then shared by all tests: do not change
    files = tiny_sonic(tmp_path / "sonic", 1)   # one of your own, from another seed

It has every part of the real one under the names and in the kinds of file that are published: pickles of Sonic's own
nets and of RIFE, the folders of stable-video-diffusion-img2vid-xt and of whisper-tiny. Stock diffusers and transformers
open the folders. All weights follow from their names and the seed (`oracles/seeded.py`), so an oracle can make the
UNet, audio nets and whisper alike without these files. Sizes: `config.TINY`, `config.TINY_AUDIO`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "oracles"))
from seeded import fill, shapes_of

from vividcover.image.flux.folders import quietly
from vividcover.portrait.sonic.config import (
    BUCKET_REACH,
    SIGMA_MAX,
    SIGMA_MIN,
    TINY,
    TINY_AUDIO,
    TOKEN_REACH,
    AudioConfig,
    UNetConfig,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]
PARTS = {  # name in the registry of weights → file or folder
    "sonic-unet": "Sonic/unet.pth", "sonic-audio2token": "Sonic/audio2token.pth",
    "sonic-audio2bucket": "Sonic/audio2bucket.pth", "rife": "RIFE/flownet.pkl",
    "svd-xt": "stable-video-diffusion-img2vid-xt", "whisper-tiny": "whisper-tiny",
}  # fmt: skip
RIFE_WIDTH = 16  # channels of each block; the published net has 90
FULL_RIFE_WIDTH = 90
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.24.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "set_alpha_to_one": False, "sigma_max": SIGMA_MAX,
    "sigma_min": SIGMA_MIN, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
    "timestep_type": "continuous", "trained_betas": None, "use_karras_sigmas": True,
}  # fmt: skip


@functools.cache
def tiny_sonic_files(seed: int = 0) -> dict[str, Path]:
    """The same as `tiny_sonic`, made once on this machine for this text of the recipe. Do not change what is in it."""
    recipes = (Path(__file__), Path(__file__).with_name("oracles") / "seeded.py")
    text = b"".join(path.read_bytes() for path in recipes) + repr((TINY, TINY_AUDIO)).encode()
    versions = f"{version('diffusers')} {version('transformers')}"
    name = f"{hashlib.sha256(text + versions.encode()).hexdigest()[:12]}-{seed}"
    shelf = Path(tempfile.gettempdir()) / f"vividcover-tiny-sonic-{os.getuid()}"
    shelf.mkdir(mode=0o700, exist_ok=True)
    if not (shelf / name).is_dir():
        part = Path(tempfile.mkdtemp(dir=shelf))
        tiny_sonic(part, seed)
        try:
            part.rename(shelf / name)
        except OSError:  # another worker was first
            shutil.rmtree(part)
    return {part: shelf / name / path for part, path in PARTS.items()}


def tiny_sonic(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Writes every part into `folder`; → where each lies, by its name in the registry of weights."""
    import torch

    places = {name: folder / path for name, path in PARTS.items()}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(unet_shapes(), seed), places["sonic-unet"])
    torch.save(tensors(token_shapes(), seed), places["sonic-audio2token"])
    torch.save(tensors(bucket_shapes(), seed), places["sonic-audio2bucket"])
    rife = {f"module.{name}": value for name, value in rife_tensors(seed).items()}
    torch.save(rife, places["rife"], _use_new_zipfile_serialization=False)
    with quietly():
        _svd(places["svd-xt"], seed)
        filled(tiny_whisper(), seed).save_pretrained(str(places["whisper-tiny"]))
    return places


class Laid:
    """A resolver of weights over files that lie anywhere: what `sonic_files` is handed in tests."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        self.places = places

    def path(self, name: str) -> Path:
        return self.places[name]

    def has(self, name: str) -> bool:
        return name in self.places


def tensors(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Tensor]:
    """float32 values that follow from names and seed."""
    import torch

    return {name: torch.from_numpy(value) for name, value in fill(shapes, seed).items()}


def filled(net: Any, seed: int = 0) -> Any:
    """The net with values that follow from names and seed, in eval mode and without gradients."""
    net.load_state_dict(tensors(shapes_of(net), seed))
    return net.eval().requires_grad_(False)


# --- Sonic's own nets -------------------------------------------------------------------------------------------------


def stock_unet(config: UNetConfig = TINY) -> Any:
    """SVD's UNet as diffusers has it, unfilled: what Sonic's becomes when its 64 audio tensors are taken away."""
    import diffusers

    kind: Any = diffusers.UNetSpatioTemporalConditionModel
    return kind(
        sample_size=96, in_channels=config.in_channels, out_channels=config.out_channels, num_frames=25,
        block_out_channels=config.channels, num_attention_heads=config.heads, layers_per_block=config.layers,
        cross_attention_dim=config.context, addition_time_embed_dim=config.added,
        projection_class_embeddings_input_dim=3 * config.added,
    )  # fmt: skip


def unet_shapes(config: UNetConfig = TINY) -> Shapes:
    """All 1,492 tensors of `unet.pth`: stock SVD's, and two beside every cross-attention."""
    import torch

    with torch.device("meta"):
        shapes: Shapes = shapes_of(stock_unet(config))
    added: Shapes = {}
    for name, shape in shapes.items():
        if name.endswith("attn2.to_k.weight"):
            attention = name.removesuffix(".to_k.weight")
            added |= {f"{attention}.processor.to_{letter}_ip.0.weight": shape for letter in "kv"}
    return shapes | added


def token_shapes(config: AudioConfig = TINY_AUDIO) -> Shapes:
    heard = TOKEN_REACH * (config.layers + 1) * config.width
    shapes = _projections(config.hidden, heard, config.tokens * config.context)
    return shapes | {"norm.weight": (config.context,), "norm.bias": (config.context,)}


def bucket_shapes(config: AudioConfig = TINY_AUDIO) -> Shapes:
    return _projections(config.hidden, BUCKET_REACH * config.width + config.context, 2)


def _projections(hidden: int, first: int, last: int) -> Shapes:
    sizes = {"proj1": (hidden, first), "proj2": (hidden, hidden), "proj3": (last, hidden)}
    weights: Shapes = {f"{name}.weight": size for name, size in sizes.items()}
    return weights | {f"{name}.bias": size[:1] for name, size in sizes.items()}


# --- RIFE -------------------------------------------------------------------------------------------------------------


def rife_shapes(width: int = RIFE_WIDTH) -> Shapes:
    """All 160 tensors of IFNet HDv3, without the prefix `module.` that the file gives them."""
    shapes: Shapes = {}
    for block, channels in {"block0": 11, "block1": 11, "block2": 11, "block_tea": 14}.items():
        convs = {"conv0.0": (width // 2, channels), "conv0.1": (width, width // 2)}
        convs |= {f"convblock{i}.{j}": (width, width) for i in range(4) for j in range(2)}
        for name, (out, into) in convs.items():
            shapes |= {
                f"{block}.{name}.0.weight": (out, into, 3, 3), f"{block}.{name}.0.bias": (out,),
                f"{block}.{name}.1.weight": (out,),
            }  # fmt: skip
        for name, last in {"conv1": 4, "conv2": 1}.items():  # flow; mask. These weigh [in, out, 4, 4]
            half = width // 2
            shapes |= {
                f"{block}.{name}.0.weight": (width, half, 4, 4), f"{block}.{name}.0.bias": (half,),
                f"{block}.{name}.1.weight": (half,),
                f"{block}.{name}.2.weight": (half, last, 4, 4), f"{block}.{name}.2.bias": (last,),
            }  # fmt: skip
    return shapes


def rife_tensors(seed: int = 0, width: int = RIFE_WIDTH) -> dict[str, Tensor]:
    """As filled by name, but with slopes that bend, and flows of a few pixels rather than of half the picture."""
    found = tensors(rife_shapes(width), seed)
    for name in found:
        if name.endswith(".weight") and found[name].dim() == 1:
            found[name] = 0.25 * found[name]
        if name.endswith(("conv1.2.weight", "conv1.2.bias")):
            found[name] = 0.1 * found[name]
    return found


# --- Stable Video Diffusion and whisper -------------------------------------------------------------------------------


def tiny_vae() -> Any:
    """SVD's autoencoder: 4 channels, 8 px a latent, frames blended in time as they are decoded. Unfilled."""
    import diffusers

    kind: Any = diffusers.AutoencoderKLTemporalDecoder
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32, 32, 32, 32), layers_per_block=1,
        latent_channels=4, sample_size=768, scaling_factor=0.18215, force_upcast=True,
    )  # fmt: skip


def tiny_clip() -> Any:
    """CLIP's picture encoder: 224 px, as wide at its end as the UNet's context. Unfilled."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=32,
        image_size=224, projection_dim=TINY.context, hidden_act="gelu",
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def tiny_whisper(config: AudioConfig = TINY_AUDIO) -> Any:
    """Whole, with a decoder that nobody here needs, as whisper-tiny is published. Unfilled."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    settings = WhisperConfig(
        vocab_size=60, num_mel_bins=config.mels, d_model=config.width, encoder_layers=config.layers,
        encoder_attention_heads=config.heads, encoder_ffn_dim=config.inner, max_source_positions=config.positions,
        decoder_layers=1, decoder_attention_heads=config.heads, decoder_ffn_dim=config.inner, max_target_positions=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(settings)


def _svd(folder: Path, seed: int) -> None:
    """The folder as published, in half precision, without its UNet's weights: `unet.pth` takes their place."""
    import torch

    with torch.device("meta"):
        unet = stock_unet()
    unet.save_config(str(folder / "unet"))
    vae = filled(tiny_vae(), seed)
    last = vae.decoder.conv_out.weight  # [3, C, 3, 3]: so that what comes out is neither all black nor all white
    last.copy_(0.5 * (last - last.mean((1, 2, 3), keepdim=True)))
    vae.half().save_pretrained(str(folder / "vae"), variant="fp16")
    filled(tiny_clip(), seed).half().save_pretrained(str(folder / "image_encoder"), variant="fp16")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))


def as_nets(files: Mapping[str, Path]) -> dict[str, nn.Module]:
    """The stock nets of diffusers and transformers, opened from the folders: what an oracle compares with."""
    import diffusers
    from transformers import CLIPVisionModelWithProjection, WhisperModel

    kind: Any = diffusers.AutoencoderKLTemporalDecoder
    svd = str(files["svd-xt"])
    with quietly():
        nets = {
            "vae": kind.from_pretrained(svd, subfolder="vae", variant="fp16"),
            "clip": CLIPVisionModelWithProjection.from_pretrained(svd, subfolder="image_encoder", variant="fp16"),
            "whisper": WhisperModel.from_pretrained(str(files["whisper-tiny"])),
        }
    return {name: net.float().eval() for name, net in nets.items()}
