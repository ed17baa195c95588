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
from vividcover.trained import CARD, kind_name, read_card

ENGINE, FORMAT = "classic", 1
MOST_BYTES = 256 << 20  # of one member
MOST_FILES = 200
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
    story = {"kind": kind_name("image"), "engine": ENGINE, "format": FORMAT, **info}
    members = {CARD: json.dumps(story, indent=1, sort_keys=True, ensure_ascii=False).encode(), **files}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(members[name]))


def read_model(path: Path) -> Model:
    """Raises `ModelFileError`, naming what the file is instead."""
    if not path.is_file():
        raise ModelFileError(f"There is no image model at {path}.", HINT)
    card = read_card(path, "image", HINT)
    if card.get("engine") != ENGINE:
        raise ModelFileError(
            f"{path.name} is an image model of the engine {card.get('engine')!r}, not classic.",
            f"Use --engine {card.get('engine')}, or one that the classic engine trained.",
        )
    if card.get("format") != FORMAT:
        raise ModelFileError(
            f"{path.name} has format {card.get('format')}; this version reads format {FORMAT}.", "Train it again."
        )
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for entry in archive:
                if not entry.isfile() or entry.name == CARD:
                    continue
                if entry.size > MOST_BYTES or len(files) > MOST_FILES:
                    raise ModelFileError(f"{path.name} is too large for a classic image model.", HINT)
                stream = archive.extractfile(entry)
                files[entry.name] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelFileError(f"{path.name} is damaged: {error}.", HINT) from error
    return Model(card, files)
