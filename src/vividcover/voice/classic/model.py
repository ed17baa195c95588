"""The file of a trained classic voice: a flat zip of `model.json` and arrays, the same bytes for the same voice."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.archives import write_zip
from vividcover.errors import ModelFileError, NotFoundError
from vividcover.trained import kind_name, read_card
from vividcover.voice.classic.features import BANDS, Array
from vividcover.voice.classic.mapping import Moments
from vividcover.voice.classic.network import LAYERS, Network
from vividcover.workspace import canonical

KIND = kind_name("voice")
ENGINE = "classic"
FORMAT = 1
HINT = "Give the .zip that `vividcover voice train` made with the classic engine."


@dataclass(frozen=True)
class Voice:
    """`card` is model.json; `moments` and `network` are of all recordings.

    `frames` are log bands [N, BANDS] of some of them, `voiced` [N] says which are voiced: to compare singers with.
    """

    card: Mapping[str, Any]
    frames: Array
    voiced: NDArray[np.bool_]
    moments: Moments
    network: Network


def save(voice: Voice, out: Path) -> Path:
    arrays = {"frames.npy": voice.frames.astype(np.float16), "voiced.npy": voice.voiced}
    arrays |= {"mean.npy": voice.moments.mean, "deviation.npy": voice.moments.deviation}
    for layer, (weight, bias) in enumerate(zip(voice.network.weights, voice.network.biases)):
        arrays |= {f"weight_{layer}.npy": weight, f"bias_{layer}.npy": bias}
    files: dict[str, Path | bytes] = {"model.json": (canonical(dict(voice.card)) + "\n").encode()}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        files[name] = buffer.getvalue()
    return write_zip(out, files, compress=True)


def load(path: Path) -> Voice:
    """Raises `ModelFileError` that says what the file is, if it is not a classic voice."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no voice model at {path}.", HINT)
    stat = path.stat()
    return _load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _load(path: Path, _modified: int, _size: int) -> Voice:
    card = read_card(path, "voice", HINT)
    _check(card, path)
    try:
        with zipfile.ZipFile(path) as archive:
            frames = _array(archive, "frames.npy").astype(np.float32)
            voiced = _array(archive, "voiced.npy").astype(bool)
            own = Moments(_array(archive, "mean.npy"), _array(archive, "deviation.npy"))
            network = Network(
                *(
                    tuple(_array(archive, f"{kind}_{layer}.npy").astype(np.float32) for layer in range(LAYERS))
                    for kind in ("weight", "bias")
                )
            )
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"{path.name} is damaged: {error}.", HINT) from error
    if (
        frames.ndim != 2
        or frames.shape[1] != BANDS
        or voiced.shape != frames.shape[:1]
        or not np.isfinite(frames).all()
    ):
        raise ModelFileError(f"{path.name} is damaged: its frames have the shape {frames.shape}.", HINT)
    return Voice(card, frames, voiced, own, network)


def _check(card: Mapping[str, Any], path: Path) -> None:
    if card.get("engine") != ENGINE:
        raise ModelFileError(
            f"{path.name} is a voice of the {card.get('engine')!r} engine; the classic engine cannot read it.",
            f"Convert with --engine {card.get('engine')}.",
        )
    if card.get("format") != FORMAT:
        raise ModelFileError(
            f"{path.name} has format {card.get('format')!r}; this version reads format {FORMAT}.",
            "Train the voice again, or use the version that made it.",
        )


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    return np.asarray(np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False))
