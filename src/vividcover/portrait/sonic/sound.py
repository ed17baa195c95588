"""The vocals as whisper hears them: 16 kHz, mono, as raw float32 in a file that is read piece by piece.

As librosa reads a file, with which the published program hears: the mean of the channels, soxr's "HQ", as many samples
as the seconds ask for, rounded up.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.errors import AudioError
from vividcover.files import aside
from vividcover.portrait.sonic.config import AUDIO_RATE, SHORTEST
from vividcover.song.decoding import decode
from vividcover.song.media import look, probe
from vividcover.song.pcm import HEADER, PcmReader
from vividcover.workspace import Reporter

BLOCK = 1 << 16  # samples handled at a time
LONGEST = 24 * 3600.0  # seconds; whoever calls has limits of their own

Samples = NDArray[np.float32]


def to_file(vocals: Path, out: Path, reporter: Reporter, heard: Callable[[Samples], None]) -> tuple[int, float]:
    """Writes `out`; tells the samples in it, and the seconds of the original. `heard` is given every block.

    `vocals` is a working file, or any file with sound. Raises `AudioError` for none, and for less than 0.08 s of it.
    """
    if _is_working(vocals):
        return _resample(vocals, out, reporter, heard)
    plain = out.with_name(f"{out.name}.wav")
    try:
        decode(
            vocals, plain, rate=probe(vocals).rate, channels=1, min_seconds=0.0, max_seconds=LONGEST,
            reporter=reporter,
        )  # fmt: skip
        return _resample(plain, out, reporter, heard, vocals.name)
    finally:
        plain.unlink(missing_ok=True)


def _is_working(path: Path) -> bool:
    """True for float32 WAV as this program writes it, which needs no decoder."""
    look(path)
    with path.open("rb") as file:
        head = file.read(HEADER)
    return len(head) == HEADER and head[:4] == b"RIFF" and head[50:54] == b"data" and _is_float(head)


def _is_float(head: bytes) -> bool:
    kind, bits = struct.unpack("<H", head[20:22])[0], struct.unpack("<H", head[34:36])[0]
    return (kind, bits) == (3, 32)


def _resample(
    vocals: Path, out: Path, reporter: Reporter, heard: Callable[[Samples], None], name: str = ""
) -> tuple[int, float]:
    with PcmReader(vocals) as source, aside(out) as part, part.open("wb") as file:
        length = math.ceil(source.frames * (AUDIO_RATE / source.rate))
        if length < SHORTEST * AUDIO_RATE:
            raise AudioError(
                f"{name or vocals.name} is {source.seconds:.2f} s long: too short for one frame.",
                f"At least {SHORTEST:.2f} s of sound are needed.",
            )
        written = 0

        def give(block: Samples) -> None:
            nonlocal written
            block = block[: length - written]
            heard(block)
            file.write(block.astype("<f4").tobytes())
            written += len(block)

        stream = None if source.rate == AUDIO_RATE else soxr.ResampleStream(source.rate, AUDIO_RATE, 1, quality="HQ")
        for block in source.blocks(BLOCK):
            reporter.check()
            mono = np.nan_to_num(block.mean(0), posinf=0.0, neginf=0.0)
            give(mono if stream is None else stream.resample_chunk(mono))
        if stream is not None:
            give(stream.resample_chunk(np.zeros(0, np.float32), last=True))
        give(np.zeros(length - written, np.float32))
        return length, source.seconds


def read(path: Path, start: int, count: int, dtype: str = "<f4") -> NDArray[np.float32]:
    """Numbers `start` … `start + count` of a raw file, zeros before its beginning and past its end.

    Read, not mapped: the pages of a mapped file count as this process's memory.
    """
    size = np.dtype(dtype).itemsize
    out = np.zeros(count, dtype)
    with path.open("rb", buffering=0) as file:
        low = max(start, 0)
        data = os.pread(file.fileno(), max(start + count - low, 0) * size, low * size)
    found = np.frombuffer(data[: len(data) // size * size], dtype)
    out[low - start : low - start + len(found)] = found
    return out
