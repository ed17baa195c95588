"""Which files Sonic consists of, and what they say of its sizes.

files = sonic_files(weights)            # a registry of weights (`vividcover.weights`), or a shelf
config = unet_config(files)             # SVD's own configuration
heard = audio_config(files, tokens)     # whisper's, and the shapes of audio2token
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vividcover.errors import ModelFileError, WeightsError
from vividcover.portrait.sonic.config import TOKEN_REACH, AudioConfig, UNetConfig, unet_from_published

if TYPE_CHECKING:
    from vividcover.portrait.sonic.published import Published
    from vividcover.weights import Resolver

NETS = {  # part: its name in the registry of weights
    "unet": "sonic-unet", "audio2token": "sonic-audio2token", "audio2bucket": "sonic-audio2bucket",
    "svd": "svd-xt", "whisper": "whisper-tiny", "rife": "rife",
}  # fmt: skip
Sizes = TypeVar("Sizes")
SVD_HINT = "Get it with `vividcover weights pull svd-xt`, or give the folder of stable-video-diffusion-img2vid-xt."
WHISPER_HINT = "Get it with `vividcover weights pull whisper-tiny`, or give the folder of openai/whisper-tiny."


@dataclass(frozen=True)
class SonicFiles:
    """Where the parts are. `svd` holds unet/config.json, vae and image_encoder; `whisper` is a folder too."""

    unet: Path
    audio2token: Path
    audio2bucket: Path
    svd: Path
    whisper: Path
    rife: Path


def sonic_files(weights: Resolver) -> SonicFiles:
    """The files out of the registry. Raises `WeightsError` for what was not pulled."""
    return SonicFiles(**{part: weights.path(name) for part, name in NETS.items()})


def unet_config(files: SonicFiles) -> UNetConfig:
    """From SVD's folder. Raises `ModelFileError` for another model's, `WeightsError` where something is missing."""
    if files.svd.is_file():
        raise ModelFileError(
            f"{files.svd.name} is one file, and the folder of Stable Video Diffusion is needed: its autoencoder and "
            "picture encoder are read in diffusers' layout.", SVD_HINT,
        )  # fmt: skip
    for part in ("vae", "image_encoder"):
        if not (files.svd / part / "config.json").is_file():
            raise WeightsError(f"There is no {part}/config.json in {files.svd}.", SVD_HINT)
    vae = read_json(files.svd / "vae" / "config.json", SVD_HINT)
    if (name := vae.get("_class_name")) != "AutoencoderKLTemporalDecoder":
        raise ModelFileError(f"{files.svd} is not Stable Video Diffusion: its autoencoder is a {name}.", SVD_HINT)
    config = _sizes(unet_from_published, read_json(files.svd / "unet" / "config.json", SVD_HINT), files.svd, SVD_HINT)
    clip = read_json(files.svd / "image_encoder" / "config.json", SVD_HINT).get("projection_dim")
    if clip != config.context:
        raise ModelFileError(
            f"The parts of {files.svd} do not fit: its picture encoder says {clip} numbers, and its UNet takes "
            f"{config.context}.", SVD_HINT,
        )  # fmt: skip
    return config


def audio_config(files: SonicFiles, tokens: Published, config: UNetConfig) -> AudioConfig:
    """From whisper's folder and the shapes of audio2token. Raises `ModelFileError` where they do not fit."""
    values = read_json(files.whisper / "config.json", WHISPER_HINT)
    if (kind := values.get("model_type")) != "whisper":
        raise ModelFileError(f"{files.whisper} is not whisper: it is {kind or 'something else'}.", WHISPER_HINT)
    hidden, heard = tokens.shape("proj1.weight", 2)
    (context,), (out,) = tokens.shape("norm.weight", 1), tokens.shape("proj3.bias", 1)
    found = _sizes(
        lambda v: AudioConfig(
            v["d_model"], v["encoder_layers"], v["encoder_attention_heads"], v["encoder_ffn_dim"],
            v["max_source_positions"], v["num_mel_bins"], hidden, context, out // context,
        ), values, files.whisper, WHISPER_HINT,
    )  # fmt: skip
    if heard != (expected := TOKEN_REACH * (found.layers + 1) * found.width):
        raise ModelFileError(
            f"{files.whisper} does not go with {tokens.path.name}: that hears {heard} numbers a frame, and this "
            f"whisper gives {expected}.", WHISPER_HINT,
        )  # fmt: skip
    if context != config.context:
        raise ModelFileError(
            f"{tokens.path.name} makes tokens of {context} numbers, and the UNet takes {config.context}.",
            "They belong to different models: give the files of one.",
        )
    return found


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """A configuration. Raises `WeightsError` where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is missing or cannot be read.", hint) from error
    return found if isinstance(found, dict) else {}


def _sizes(make: Callable[[dict[str, Any]], Sizes], values: dict[str, Any], folder: Path, hint: str) -> Sizes:
    try:
        return make(values)
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{folder} has a configuration without {error}.", hint) from error
