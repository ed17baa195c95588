"""What the singer's mouth can be told from the vocals: a few numbers every 10 ms, made in one streaming pass.

Only bands are measured, no formants are tracked: linear prediction locks onto single harmonics of high singing
voices. Band limits follow the vowel formant ranges of Peterson & Barney 1952 ("Control methods used in a study of
the vowels"): F1 250-1000 Hz rises with the jaw's opening, F2 800-2600 Hz with the spread of the lips.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter, Silent

Curve = NDArray[np.float32]  # [T]

RATE = 16_000  # Hz, analysis
HOP = 160  # samples: 100 frames a second
WINDOW = 512  # samples, Hann
FRAME_RATE = RATE / HOP  # Hz
BLOCK = 2.0  # seconds read at a time
FLOOR = 1e-10  # power of "nothing", full scale = 1: -100 dB

BANDS: dict[str, tuple[float, float]] = {  # Hz
    "voice": (90.0, 5000.0),
    "murmur": (90.0, 450.0),  # all that is left of m and n
    "open": (550.0, 1150.0),  # F1 of open vowels
    "back": (500.0, 1300.0),  # F2 of rounded vowels
    "front": (1700.0, 3200.0),  # F2 of spread vowels
    "hiss": (4200.0, 7900.0),  # s, sh, f
}


@dataclass(frozen=True, slots=True)
class Heard:
    """Band levels in dB re full scale, each [T] at 100 Hz; frame i is centred on i / 100 s."""

    seconds: float
    bands: dict[str, Curve]

    def __getitem__(self, band: str) -> Curve:
        return self.bands[band]


def listen(vocals: Path, *, reporter: Reporter | None = None) -> Heard:
    """Measures a working file (any rate, any channels). Memory: 2.4 kB a second of audio."""
    reporter = reporter or Silent()
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    window /= np.sqrt(np.sum(window**2) * WINDOW / 2)  # a full-scale sine has a power of about 1/2
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    select = np.stack([(bins >= low) & (bins < high) for low, high in BANDS.values()], 1).astype(np.float32)
    rows: list[NDArray[np.float32]] = []
    with PcmReader(vocals) as file:
        wanted = int(np.floor(file.seconds * FRAME_RATE)) + 1
        resampler = soxr.ResampleStream(file.rate, RATE, 1, dtype="float32")
        tail = np.zeros(WINDOW // 2, np.float32)
        read = 0
        for block in file.blocks(int(BLOCK * file.rate)):
            reporter.check()
            read += block.shape[1]
            fresh = resampler.resample_chunk(block.mean(axis=0), last=read >= file.frames)
            tail = np.concatenate([tail, fresh])
            tail = _measure(tail, window, select, rows)
        _measure(np.concatenate([tail, np.zeros(2 * WINDOW, np.float32)]), window, select, rows)
        power = np.concatenate(rows)[:wanted] if rows else np.zeros((0, len(BANDS)), np.float32)
        power = np.pad(power, ((0, wanted - len(power)), (0, 0)))
        levels = 10.0 * np.log10(power + FLOOR)
        return Heard(file.seconds, {name: levels[:, k].astype(np.float32) for k, name in enumerate(BANDS)})


def _measure(
    samples: NDArray[np.float32],
    window: NDArray[np.float32],
    select: NDArray[np.float32],
    rows: list[NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Appends the band powers [frames, bands] of all whole windows to `rows`; returns the samples still needed."""
    count = (len(samples) - WINDOW) // HOP + 1
    if count <= 0:
        return samples
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[: count * HOP : HOP]
    spectrum = np.fft.rfft(frames * window, axis=1)
    rows.append((np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32) @ select)
    return samples[count * HOP :]
