"""The trained image model on disk: a deterministic tar with model.json, cut-outs (RGBA PNG) and their landmarks."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vividcover.errors import ModelFileError

KIND, ENGINE, FORMAT = "vividcover-image", "classic", 1
MOST_BYTES = 256 << 20  # of one member
HINT = "Give a model made by `vividcover image train`."


@dataclass(frozen=True, slots=True)
class Model:
    """`info` is model.json; `files` the other members' bytes."""

    info: dict[str, Any]
    files: dict[str, bytes]

    def cutout(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(sRGB float32 [H,W,3] 0..1, alpha float32 [H,W])."""
        with Image.open(io.BytesIO(self.files[name])) as image:
            rgba = np.asarray(image.convert("RGBA"), np.float32) / 255.0
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])

    def array(self, name: str) -> NDArray[np.float32]:
        return np.asarray(np.load(io.BytesIO(self.files[name]), allow_pickle=False), np.float32)


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def npy_bytes(array: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return stream.getvalue()


def write_model(out: Path, info: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Same content, same bytes: names sorted, no times, no owners."""
    story = {"kind": KIND, "engine": ENGINE, "format": FORMAT, **info}
    members = {"model.json": json.dumps(story, indent=1, sort_keys=True, ensure_ascii=False).encode(), **files}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(members[name]))


def read_model(path: Path) -> Model:
    """Raises `ModelFileError`, naming what the file is instead."""
    try:
        with tarfile.open(path, "r:*") as archive:
            files: dict[str, bytes] = {}
            for entry in archive:
                if not entry.isfile():
                    continue
                if entry.size > MOST_BYTES or len(files) > 200:
                    raise ModelFileError(f"{path.name} is too large for a classic image model.", HINT)
                if entry.name.endswith(".safetensors"):
                    raise ModelFileError(
                        f"{path.name} is a FLUX LoRA ({entry.name}), made for the neural engine, not the classic one.",
                        "Use the neural or hosted engine for it, or train a classic model from the photos.",
                    )
                stream = archive.extractfile(entry)
                files[entry.name] = stream.read() if stream else b""
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ModelFileError(f"There is no image model at {path}.", HINT) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelFileError(f"{path.name} is not an image model: {_what_is(path)}.", HINT) from error
    if "model.json" not in files:
        raise ModelFileError(f"{path.name} is not an image model: it is a tar without model.json.", HINT)
    try:
        info = json.loads(files.pop("model.json"))
        kind, engine, format_ = info["kind"], info["engine"], info["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path.name}: its model.json cannot be read ({error}).", HINT) from error
    if (kind, engine) != (KIND, ENGINE):
        raise ModelFileError(f"{path.name} is a {kind} of engine {engine}, not a classic image model.", HINT)
    if format_ != FORMAT:
        raise ModelFileError(
            f"{path.name} has format {format_}; this version reads format {FORMAT}.", "Train it again."
        )
    return Model(info, files)


def _what_is(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(16)
    known = {
        b"PK\x03\x04": "it is a zip (a voice model or a dataset?)", b"\x89PNG": "it is a PNG picture",
        b"\xff\xd8\xff": "it is a JPEG picture", b"RIFF": "it is an audio or WebP file",
    }  # fmt: skip
    for start, text in known.items():
        if head.startswith(start):
            return text
    if len(head) > 9 and head[8:9] == b"{":
        return "it is a safetensors file, made for the neural engine"
    return "the file is empty" if not head else "it is no tar file, or it is damaged"
