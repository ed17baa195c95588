"""Voices in files: what RVC, Applio and we write, read and written.

    file = read_voice_file(Path("vivi.pth"))       # → what it is: version, rate, pitch, speakers, weights
    voice = synthesizer(file, device)              # → a network that sings
    write_voice_file(Path("out.pth"), trained)     # the published layout: RVC and Applio read it too

A published voice is a dict: `weight` (float16, no posterior encoder, weight norm as `weight_g`, `weight_v`), `config`
(18 entries), `info`, `sr`, `f0`, `version`. Applio adds epoch, step, author, embedder_model, vocoder and more.
A training checkpoint (`G_*.pth`, `pretrained_v2/f0G48k.pth`) has `model` and no `config`: that is told from shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vividcover.errors import ModelFileError
from vividcover.tensors import check_keys, check_shapes, metadata_of, read_tensors, write_tensors, write_torch
from vividcover.voice.rvc.config import CONFIGS, FEATURES, RvcConfig
from vividcover.voice.rvc.network import Synthesizer
from vividcover.voice.rvc.weightnorm import folded, published

FROM_TRAINER = "Choose the voice itself: the .pth that the trainer exports for singing, about 55 MB."
EMBEDDERS = ("", "contentvec", "hubert", "hubert_base")  # names under which ContentVec is known
VOCODERS = ("", "HiFi-GAN", "HiFi-GAN NSF", "NSF-HiFiGAN")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METADATA = "rvc"  # where a .safetensors voice keeps what is not a tensor, as JSON


@dataclass(frozen=True)
class VoiceFile:
    """A voice as it lies in a file. `weights` have the published names, without the posterior encoder."""

    config: RvcConfig
    f0: bool  # sings at a given pitch
    weights: Mapping[str, Tensor]
    info: str = ""  # "500epoch"
    extras: Mapping[str, Any] = field(default_factory=dict)  # the other plain values of the file
    kind: str = "voice"  # or "checkpoint": of a training

    @property
    def version(self) -> str:
        return self.config.version

    @property
    def speakers(self) -> int:
        """How many speaker numbers it has. (One voice is learnt as number 0; the others are then never trained.)"""
        return self.config.speakers


# --- reading -------------------------------------------------------------------------------------------------------


def read_voice_file(path: Path | bytes, name: str = "") -> VoiceFile:
    """Reads a voice: `.pth` of RVC or Applio, our `.safetensors`, or the generator's checkpoint of a training.

    Raises `ModelFileError` for anything else, and says what it is; also for a voice that needs a vocoder or features
    that we do not have, and for one whose numbers are not finite.
    """
    what = name or (path.name if isinstance(path, Path) else "The voice")
    found = read_tensors(path, what)
    if METADATA in (beside := metadata_of(path)):
        found = {**_json(beside[METADATA], what), "weight": found}
    if isinstance(found.get("weight"), Mapping) and "config" in found:
        return _voice(found, what)
    weights = found.get("model", found)
    if isinstance(weights, Mapping) and any("enc_p.emb_phone.weight" in str(key) for key in weights):
        return _checkpoint(found, weights, what)
    raise ModelFileError(f"{what} is not an RVC voice: {describe(found)}.", FROM_TRAINER)


def _voice(found: Mapping[str, Any], what: str) -> VoiceFile:
    weights = _weights(found["weight"], what)
    _refuse_unsupported(found, what)
    entries = list(found["config"]) if isinstance(found["config"], (list, tuple)) else []
    config = replace(RvcConfig.from_list(entries, _version(weights, what)), speakers=_speakers(weights, what))
    known = ("weight", "config", "info", "f0", "version")
    extras = {key: value for key, value in found.items() if key not in known and _plain(value)}
    info = str(found.get("info") or "")
    return _checked(VoiceFile(config, "enc_p.emb_pitch.weight" in weights, weights, info, extras), what)


def _checkpoint(found: Mapping[str, Any], state: Mapping[str, Any], what: str) -> VoiceFile:
    """A generator's training checkpoint. It holds no `config`: the one whose shapes fit is taken."""
    weights = _weights({str(key).removeprefix("module."): value for key, value in state.items()}, what)
    version, f0 = _version(weights, what), "enc_p.emb_pitch.weight" in weights
    spectrum = _shape(state, "enc_q.pre.weight")
    for config in CONFIGS.values():
        shapes = _shapes(config, f0)
        same = all(_shape(weights, name) == shape for name, shape in shapes.items() if name != "emb_g.weight")
        if config.version == version and same and spectrum[1:2] in ((), (config.spec_channels,)):
            config = replace(config, speakers=_speakers(weights, what))
            step = found.get("iteration")
            extras = {"epoch": step} if isinstance(step, int) else {}
            return _checked(VoiceFile(config, f0, weights, "", extras, "checkpoint"), what)
    raise ModelFileError(
        f"{what} is a training checkpoint, and its shapes fit none of the published networks.", FROM_TRAINER
    )


def _weights(state: Mapping[Any, Any], what: str) -> dict[str, Tensor]:
    """The weights for singing, under their published names."""
    return _sound({name: value for name, value in state.items() if not str(name).startswith("enc_q.")}, what)


def _sound(state: Mapping[Any, Any], what: str) -> dict[str, Tensor]:
    """Plain tensors of finite numbers, under their published names."""
    for name, value in state.items():
        plain = (
            isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
            and value.dtype in FLOATS and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        )  # fmt: skip
        if not plain:
            raise ModelFileError(
                f"{what} is damaged: {name} is not a plain tensor.", "Get it again from where it came from."
            )
        if not bool(torch.isfinite(value).all()):
            raise ModelFileError(
                f"{what} cannot be used: {name} holds values that are not finite numbers.",
                "Its training went wrong, or it was damaged: take an earlier checkpoint, or get it again.",
            )
    return {published(str(name)): value for name, value in state.items()}


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(getattr(state.get(name), "shape", ()))


def _version(weights: Mapping[str, Tensor], what: str) -> str:
    """From the width of the features, which cannot lie. (Files before v2 name no version.)"""
    width = _shape(weights, "enc_p.emb_phone.weight")[1:]
    for version, features in FEATURES.items():
        if width == (features,):
            return version
    wide = f"features of width {width[0]}" if width else "no features at all"
    raise ModelFileError(
        f"{what} was made for {wide}; voices of version v1 (256) and v2 (768) can be used.",
        "It is of another program, or was learnt with another feature network.",
    )


def _speakers(weights: Mapping[str, Tensor], what: str) -> int:
    shape = _shape(weights, "emb_g.weight")
    if len(shape) != 2 or not shape[0]:
        raise ModelFileError(f"{what} is damaged: it has no speakers (emb_g).", "Get it again from where it came from.")
    return shape[0]


def _refuse_unsupported(found: Mapping[str, Any], what: str) -> None:
    vocoder = str(found.get("vocoder") or "")
    if vocoder not in VOCODERS:
        raise ModelFileError(
            f"{what} needs the vocoder {vocoder!r}; only HiFi-GAN voices can be used.",
            "Ask its maker for a version with the standard vocoder, or train it again here.",
        )
    embedder = str(found.get("embedder_model") or "")
    if embedder not in EMBEDDERS:
        raise ModelFileError(
            f"{what} was learnt on the features of {embedder!r}; only ContentVec voices can be used.",
            "With other features it would not sing words. Ask for a ContentVec version, or train it again here.",
        )


def _checked(file: VoiceFile, what: str) -> VoiceFile:
    """Every tensor is there, and of the shape that `config` says."""
    check_shapes(_shapes(file.config, file.f0), file.weights, what)
    return file


@lru_cache(32)
def _shapes(config: RvcConfig, f0: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of a voice for singing, by name."""
    with torch.device("meta"):
        voice = Synthesizer(config, f0, posterior=False)
    return {name: tuple(tensor.shape) for name, tensor in voice.state_dict().items()}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ModelFileError(f"{what} is damaged: what it says of itself cannot be read.", "Get it again.")
    return found


def describe(found: Mapping[str, Any]) -> str:
    """What a file that is not a voice seems to be, in words."""
    inner = found.get("model", found.get("state_dict", found))
    keys = [str(key) for key in inner] if isinstance(inner, Mapping) else []
    known = {
        "discriminators.": "it is a checkpoint of the critics (D_*.pth), which training alone needs",
        "post_extract_proj": "it is the feature network (ContentVec, HuBERT)",
        "feature_projection.": "it is the feature network (ContentVec, HuBERT)",
        "unet.encoder.": "it is the pitch network RMVPE",
        "text_encoder.": "it is a model of another program",
        "lora_": "it is a LoRA of an image model",
    }
    for part, words in known.items():
        if any(part in key for key in keys):
            return words
    if "weight" in found:
        return "it has weights but no `config` of RVC, so it is of another program"
    return f"it holds {', '.join(repr(str(key)) for key in list(found)[:4]) or 'nothing'}"


def synthesizer(file: VoiceFile, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Synthesizer:
    """The network of a voice, ready to sing. `dtype` is the vocoder's, where the time goes; the rest stays float32."""
    with torch.device("meta"):
        voice = Synthesizer(file.config, file.f0, posterior=False).fold()
    check_keys(voice, folded(file.weights), "The voice", assign=True)
    voice.requires_grad_(False).eval().to(device)
    voice.dec.to(dtype)
    return voice


def read_pretrained(path: Path, critic: bool = False) -> dict[str, Tensor]:
    """What training starts from: the weights of a `pretrained` generator (f0G48k.pth) or critic (f0D48k.pth), float32.

    Also the `G_*.pth` and `D_*.pth` of a training. Raises `ModelFileError` where it is the other, or something else.
    """
    found = read_tensors(path)
    state = found.get("model", found)
    state = (
        {str(key).removeprefix("module."): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    )
    wanted, said = ("discriminators.", "critic (D)") if critic else ("enc_q.", "generator (G)")
    if not any(name.startswith(wanted) for name in state):
        what = "it is a voice for singing, which lacks the posterior encoder" if "weight" in found else describe(found)
        what = "it is a generator" if "enc_p.emb_phone.weight" in state else what
        raise ModelFileError(
            f"{path.name} is not a {said} that training can start from: {what}.",
            "Choose a pretrained file of the same version and rate, such as pretrained_v2/f0G48k.pth and f0D48k.pth.",
        )
    return {name: value.float() for name, value in _sound(state, path.name).items()}


def model_info(path: Path) -> dict[str, Any]:
    """What a voice's file says of itself, for people: plain values only."""
    file = read_voice_file(path)
    return {
        "kind": file.kind, "version": file.version, "rate": file.config.rate, "f0": file.f0, "info": file.info,
        "speakers": file.speakers, "parameters": sum(tensor.numel() for tensor in file.weights.values()),
        "dtype": str(next(iter(file.weights.values())).dtype).removeprefix("torch."), **file.extras,
    }  # fmt: skip


# --- writing -------------------------------------------------------------------------------------------------------


def write_voice_file(
    path: Path, voice: VoiceFile | Synthesizer, *, info: str = "", extras: Mapping[str, Any] | None = None
) -> Path:
    """Writes a voice for singing, whole or not at all: the published layout, or `.safetensors` where `path` ends so.

    `info` and `extras` (plain values) are added to what the voice says of itself. Raises `StorageError` for a full disk
    and `ModelFileError` for weights that float16 cannot hold.
    """
    if isinstance(voice, Synthesizer):
        voice = VoiceFile(voice.config, voice.f0, _for_singing(voice.state_dict().items()))
    _checked(voice, path.name)
    weights = _weights({name: tensor.detach().cpu().half() for name, tensor in voice.weights.items()}, path.name)
    rate = f"{voice.config.rate // 1000}k"
    config = replace(voice.config, speakers=_speakers(weights, path.name))
    about = {
        "config": config.to_list(), "info": info or voice.info, "sr": rate, "f0": int(voice.f0),
        "version": config.version, **{k: v for k, v in voice.extras.items() if k != "sr"}, **(extras or {}),
    }  # fmt: skip
    if path.suffix == ".safetensors":
        return write_tensors(path, weights, {METADATA: json.dumps(about)})
    return write_torch(path, {"weight": weights, **about})


def _for_singing(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state if not name.startswith("enc_q.")}
