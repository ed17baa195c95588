"""How much room is in a recording? A blind estimate of the reverberation time, from how fast sounds die away.

After a sound ends, a room lets it fall by 60 dB in its reverberation time, at a steady rate in dB per second. A mouth
can stop faster than that, a room cannot: so of all the stretches in which a band's level falls steadily, the fastest
ones tell the room (after H. W. Löllmann et al., "An improved algorithm for blind reverberation time estimation",
IWAENC 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter

Falls = list[NDArray[np.float64]]  # of each band, dB/s

RATE = 16_000  # Hz
HOP, SIZE = 128, 512  # samples: 8 ms, 32 ms
EDGES = (400.0, 800.0, 1600.0, 3200.0, 6400.0)  # Hz, of the bands
STEPS = 16  # hops (128 ms) that a fall must last
FALL = 5.0  # dB that it must fall in these
STRAIGHT = 1.5  # dB that it may differ from a straight line
ABOVE = 6.0  # dB over the background, where a fall must end
SHARE = 10.0  # percentile of the falls, from the fastest, that tells the room
FEWEST = 12  # falls that a band must have
# What the falls say of five voices in rooms of known reverberation (s, direct sound 5 to 0 dB over the room). Voices
# without a room say 0.31 to 0.41, and those that sing, 0.54.
SAID = (0.22, 0.29, 0.45, 0.64, 0.77, 0.90)
TRUE = (0.20, 0.30, 0.50, 0.80, 1.20, 2.00)
BLOCK = 60.0  # s looked at at a time


def falls(samples: NDArray[np.float32]) -> Falls:
    """Rates (dB/s, positive) of every steady fall in each band of samples [N] at 16 kHz."""
    if len(samples) < SIZE + HOP * STEPS:
        return [np.zeros(0)] * (len(EDGES) - 1)
    frames = np.lib.stride_tricks.sliding_window_view(samples, SIZE)[::HOP] * np.hanning(SIZE).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    bins = [round(hertz * SIZE / RATE) for hertz in EDGES]
    found = []
    time = (np.arange(STEPS) - (STEPS - 1) / 2) * HOP / RATE
    for low, high in pairwise(bins):
        level = 10 * np.log10(power[:, low:high].sum(axis=1) + 1e-10)
        windows = np.lib.stride_tricks.sliding_window_view(level, STEPS)  # [T, STEPS]
        slope = windows @ time / (time @ time)  # dB/s
        line = windows.mean(axis=1, keepdims=True) + slope[:, None] * time
        rough = np.sqrt(np.mean((windows - line) ** 2, axis=1))
        heard = windows[:, -1] > np.percentile(level, 5) + ABOVE
        steady = (-slope * time[-1] * 2 > FALL) & (rough < STRAIGHT) & heard
        found.append(-slope[steady])
    return found


def measure(pcm: Path, reporter: Reporter) -> Falls:
    """All the falls of a working file, in blocks."""
    found: list[Falls] = []
    with PcmReader(pcm) as reader:
        for block in reader.blocks(round(BLOCK * reader.rate)):
            reporter.check()
            found.append(falls(soxr.resample(block.mean(axis=0), reader.rate, RATE)))
    return together(found)


def together(parts: Sequence[Falls]) -> Falls:
    """The falls of several recordings, band by band."""
    return [np.concatenate([np.zeros(0), *(part[band] for part in parts)]) for band in range(len(EDGES) - 1)]


def seconds(found: Falls) -> float | None:
    """Reverberation time (s, to −60 dB); None where too few sounds die away to tell."""
    times = [60 / float(np.percentile(rates, 100 - SHARE)) for rates in found if len(rates) >= FEWEST]
    return float(np.interp(np.median(times), SAID, TRUE)) if times else None
