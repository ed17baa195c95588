"""A published file of weights, looked into without reading it whole, and said what it is where it is another.

    file = Published(Path("unet.pth"), "unet")
    file.tensors                        # name → tensor that is read when it is first looked at
    file.keep()                         # a pickle: checked number by number, and copied once to unet.pth.safetensors

Sonic's own nets and RIFE's are published as pickles. They are opened by the restricted reader, which runs nothing; the
copy beside them is what later runs open. It says of which file it is one: of another, it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vividcover.errors import ModelFileError, StorageError
from vividcover.files import aside
from vividcover.tensors import check_shapes, metadata_of, read_tensors

SAID = {
    "unet": "Sonic's UNet", "tokens": "Sonic's audio2token", "buckets": "Sonic's audio2bucket",
    "rife": "RIFE's flownet", "whisper": "whisper-tiny's encoder",
    "vae": "the autoencoder of Stable Video Diffusion",
    "clip": "the picture encoder (CLIP) of Stable Video Diffusion",
}  # fmt: skip
PREFIX = "module."  # of names in a file that was saved from several GPUs; what has it not is no part of the net there
COPY, SOURCE = ".safetensors", "copy_of"  # ending of a copy; where it says of what
SPARE = 1 << 30  # bytes of the disk that a copy leaves free
FORSAKEN = 600  # seconds after which nobody writes at a half-written copy any more
WORTH_SAYING = 1 << 28  # bytes from which a copy is no trifle
AT_ONCE = 1 << 26  # bytes written at a time
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
AGAIN = "Get it again with `vividcover weights pull`, or check the file that was given for it."


class Published:
    """One file. `kind` is a key of `SAID`; `only` is the beginning of the names that matter, others are left out.

    Raises `ModelFileError` for what is no file of weights, or asks to run something.
    """

    def __init__(self, path: Path, kind: str, only: str = "") -> None:
        self.path, self.what, self.kind, self.only = path, SAID[kind], kind, only
        self.copy = path.with_name(path.name + COPY)
        self.kept = path.suffix == COPY or _source_of(self.copy) == stamp(path)
        try:
            self._open(self.copy if self.kept and path.suffix != COPY else path)
        except ModelFileError:
            if not self.kept or path.suffix == COPY:
                raise
            self.kept = False  # the copy is damaged
            self._open(path)

    def _open(self, path: Path) -> None:
        found = read_tensors(path, self.path.name, mapped=True)
        if any(name.startswith(PREFIX) for name in found):
            found = {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
        self.everything = found
        self.tensors: dict[str, Tensor] = {n: value for n, value in found.items() if n.startswith(self.only)}

    @property
    def kept_by_us(self) -> bool:
        """Whether what is read is our own copy, of which every number was checked."""
        return self.kept and self.path.suffix != COPY

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Raises `ModelFileError` where there is no such tensor of so many dimensions."""
        value = self.tensors.get(name)
        if not isinstance(value, Tensor) or value.dim() != dimensions:
            raise self._another()
        return tuple(value.shape)

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises `ModelFileError` that says what the file is, or what is missing, not known, or of another shape."""
        if set(wanted) - set(self.tensors) and describe(self.everything) not in ("", self.what):
            raise self._another()
        check_shapes(wanted, self.tensors, f"{self.path.name}, which should be {self.what},")

    def _another(self) -> ModelFileError:
        kind = describe(self.everything)
        found = f"it is {kind}" if kind else f"it holds {_some(self.everything)}"
        return ModelFileError(f"{self.path.name} is not {self.what}: {found}.", AGAIN)

    def keep(self) -> str:
        """Copies a pickle, once, to where later runs find it, and goes on with the copy.

        Where there is no room or no leave to write, it goes on with the pickle. Returns what is worth saying about
        that, or "". Raises `ModelFileError` for numbers that are none.
        """
        if self.kept:
            return ""
        size = sum(value.nbytes for value in self.tensors.values())
        before = stamp(self.path)
        self._sweep()
        try:
            if shutil.disk_usage(self.path.parent).free < size + SPARE:
                return self._without("there is no room for it")
            with aside(self.copy) as part, part.open("wb") as file:
                self._write(file, before)
        except StorageError as error:
            return self._without(error.message.rstrip("."))
        except OSError as error:
            return self._without(error.strerror or "it could not be written")
        self.kept = True
        self._open(self.copy)
        if size < WORTH_SAYING:
            return ""
        return f"{self.path.name} was checked and copied, once, to {self.copy.name} ({size / 1e9:.1f} GB)"

    def _sweep(self) -> None:
        """Removes what a killed process left half-written. One that is still at it has just written more."""
        for part in self.path.parent.glob(f".{self.copy.name}.*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > FORSAKEN:
                    part.unlink()

    def _without(self, why: str) -> str:
        return f"{self.path.name} is not copied to a .safetensors file beside it ({why}): every start checks it anew"

    def _write(self, file: BinaryIO, source: str) -> None:
        """The format of safetensors, one tensor after the other, so that none but one is in memory."""
        header: dict[str, Any] = {"__metadata__": {SOURCE: source}}
        end = 0
        for name, value in self.tensors.items():
            sound(name, value, self.path.name)
            start, end = end, end + value.nbytes
            header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        file.write(len(text).to_bytes(8, "little") + text)
        for value in self.tensors.values():
            data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
            for start in range(0, len(data), AT_ONCE):
                file.write(data[start : start + AT_ONCE].data)
        file.flush()
        os.fsync(file.fileno())

    def fingerprint(self) -> str:
        """Changes with the numbers; looks at a few of each tensor, so that it costs next to nothing."""
        return fingerprint(self.tensors)


def stamp(path: Path) -> str:
    """What changes when a file is replaced. Raises `ModelFileError` where there is none."""
    try:
        found = path.stat()
    except OSError as error:
        raise ModelFileError(f"There is no file {path}.", AGAIN) from error
    return f"{found.st_size}:{found.st_mtime_ns}"


def sound(name: str, value: Any, what: str) -> None:
    """Raises `ModelFileError` unless it is a plain tensor of finite numbers."""
    if not isinstance(value, Tensor) or value.dtype not in NAMES or value.layout is not torch.strided:
        raise ModelFileError(f"{what} is damaged: {name} is not a plain tensor of numbers.", AGAIN)
    if not bool(torch.isfinite(value).all()):
        raise ModelFileError(f"{what} cannot be used: {name} holds values that are not finite numbers.", AGAIN)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, and at most 64 numbers of each tensor."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().reshape(-1)
        some = value[:: max(1, len(value) // 64)][:64].float().cpu().contiguous()
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def describe(found: Mapping[str, Any]) -> str:
    """What a file holds, in words, where its names tell; "" otherwise."""
    names = [str(name) for name in found]

    def has(*parts: str) -> bool:
        return all(any(part in name for name in names) for part in parts)

    if {"weight", "config"} <= set(names) or has("enc_p.emb_phone"):
        return "an RVC voice"
    if has("lora_") or has(".lora."):
        return "a LoRA"
    if has("double_blocks.") or has("single_transformer_blocks."):
        return "FLUX.1, which paints pictures"
    if has("model.diffusion_model."):
        kind = "Stable Video Diffusion" if has("time_stack") else "Stable Diffusion"
        return f"{kind} in its makers' own layout, in one file"
    if has("down_blocks.", "attn2.", "up_blocks."):
        if not has("temporal_transformer_blocks."):
            return "the UNet of Stable Diffusion, which draws single pictures"
        return (
            SAID["unet"] if has("_ip.0.weight") else "the UNet of Stable Video Diffusion without what hears (Sonic's)"
        )
    if has("block0.conv0", "block_tea."):
        return SAID["rife"]
    if has("block0.conv0"):
        return "RIFE in another version than HDv3"
    if has("proj1.weight", "proj3.weight"):
        return SAID["tokens"] if "norm.weight" in names else SAID["buckets"]
    if has("model.encoder.embed_positions"):
        return SAID["whisper"]
    if has("vision_model."):
        return SAID["clip"]
    if has("decoder.conv_in", "encoder.conv_in"):
        return "the autoencoder of an image model"
    if {"state_dict", "optimizer"} & set(names) or names == ["model"]:
        return "a checkpoint of a training"
    return ""


def _some(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in list(names)[:3]) or "nothing"


def _source_of(copy: Path) -> str:
    try:
        return metadata_of(copy).get(SOURCE, "")
    except OSError:
        return ""
