"""The working format between stages: float32 WAV, read and written in blocks, so that memory never grows with length.

Decoding and encoding what users bring and get is `song/codec.py`'s work (PyAV); this file only moves samples.
WAV with format tag 3 (IEEE float), as in Microsoft's "Multimedia Programming Interface and Data Specifications 1.0".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import AudioError
from vividcover.files import Closing

RATE = 44_100  # Hz, of every song inside the program
HEADER = 58  # bytes before the samples: RIFF 12, fmt 26, fact 12, data 8
LIMIT = 2**32 - 1 - HEADER  # bytes of samples that a WAV can hold: 3.3 h of 44.1 kHz stereo

Signal = NDArray[np.float32]  # [channels, samples], full scale ±1


class PcmWriter(Closing):
    """Writes blocks `[channels, samples]`; the header is completed by `close`."""

    def __init__(self, path: Path, rate: int = RATE, channels: int = 2) -> None:
        self.path, self.rate, self.channels, self.frames = Path(path), rate, channels, 0
        self._file = self.path.open("wb")
        self._file.write(self._header())

    def _header(self) -> bytes:
        size, align = self.frames * self.channels * 4, self.channels * 4
        return (
            struct.pack("<4sI4s", b"RIFF", HEADER - 8 + size, b"WAVE")
            + struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, self.channels, self.rate, self.rate * align, align, 32, 0)
            + struct.pack("<4sII", b"fact", 4, self.frames)
            + struct.pack("<4sI", b"data", size)
        )

    def write(self, block: NDArray[np.floating]) -> None:
        block = np.atleast_2d(block)
        if block.shape[0] != self.channels:
            raise ValueError(f"block of {block.shape[0]} channels for a file of {self.channels}")
        if (self.frames + block.shape[1]) * self.channels * 4 > LIMIT:
            raise AudioError("The audio is longer than a WAV file can hold (3.3 hours).", "Use a shorter piece.")
        self._file.write(np.ascontiguousarray(block.T, dtype="<f4").data)
        self.frames += block.shape[1]

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._file.write(self._header())
            self._file.close()


class PcmReader(Closing):
    """Reads any span of a file that `PcmWriter` wrote. `frames`, `rate`, `channels`, `seconds` tell its size."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb")
        head = self._file.read(HEADER)
        if len(head) < HEADER or head[:4] != b"RIFF" or head[12:16] != b"fmt " or head[50:54] != b"data":
            self._file.close()
            raise AudioError(f"{self.path.name} is not one of our working files.", "Decode it first.")
        self.channels: int
        self.rate: int
        _, self.channels, self.rate = struct.unpack("<HHI", head[20:28])
        self.frames: int = struct.unpack("<I", head[54:58])[0] // (4 * self.channels)

    @property
    def seconds(self) -> float:
        return float(self.frames / self.rate)

    def read(self, start: int, count: int) -> Signal:
        """Samples [channels, count] from `start`; zeros before the beginning and past the end."""
        out = np.zeros((self.channels, count), np.float32)
        low, high = max(start, 0), min(start + count, self.frames)
        if high > low:
            self._file.seek(HEADER + low * 4 * self.channels)
            data = self._file.read((high - low) * 4 * self.channels)
            out[:, low - start : high - start] = np.frombuffer(data, "<f4").reshape(-1, self.channels).T
        return out

    def blocks(self, size: int) -> Iterator[Signal]:
        """The whole file in blocks of `size` samples, the last one shorter."""
        for start in range(0, self.frames, size):
            yield self.read(start, min(size, self.frames - start))

    def all(self) -> Signal:
        """The whole file: only for what is known to be short."""
        return self.read(0, self.frames)

    def close(self) -> None:
        self._file.close()


def write_pcm(path: Path, signal: NDArray[np.floating], rate: int = RATE) -> Path:
    """Writes a whole (short) signal `[channels, samples]` or `[samples]`."""
    signal = np.atleast_2d(signal)
    with PcmWriter(path, rate, signal.shape[0]) as out:
        out.write(signal)
    return path


def read_pcm(path: Path) -> tuple[Signal, int]:
    """A whole (short) working file: samples [channels, samples] and its rate in Hz."""
    with PcmReader(path) as file:
        return file.all(), file.rate
