"""What the classic engine knows about a moment of voice: pitch, loudness and the vocal tract's envelope.

The envelope is WORLD's CheapTrick (M. Morise, "CheapTrick, a spectral envelope estimator for high-quality speech
synthesis", Speech Communication 67, 2015) averaged into bands on the mel scale (Stevens, Volkmann, Newman 1937, in
O'Shaughnessy's form 2595·log10(1 + f/700)). Everything that learns works on these log bands; the sound itself is only
ever filtered by a smooth difference of them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyworld
from numpy.typing import NDArray

Array = NDArray[np.float32]

RATE = 44_100  # Hz
HOP = 441  # samples: frames of 10 ms, 100 Hz
FRAME = HOP / RATE  # s
FFT = 2048  # CheapTrick's length at 44.1 kHz for its 71 Hz floor
BANDS = 80  # mel bands from 0 to TOP
TOP = 20_000.0  # Hz
FLOOR = 1e-11  # power added before the logarithm: -110 dB


def mel(hertz: NDArray[np.floating] | float) -> NDArray[np.float64]:
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz, dtype=np.float64) / 700))


def hertz(mels: NDArray[np.floating] | float) -> NDArray[np.float64]:
    return np.asarray(700 * (10 ** (np.asarray(mels, dtype=np.float64) / 2595) - 1))


@lru_cache(maxsize=1)
def band_centres() -> NDArray[np.float64]:
    """Centre of each band, Hz [BANDS]."""
    return hertz(np.linspace(mel(60.0), mel(TOP), BANDS))


@lru_cache(maxsize=1)
def _averaging() -> Array:
    """Triangular averaging matrix [FFT/2+1, BANDS]; every column sums to 1."""
    bins = mel(np.arange(FFT // 2 + 1) * RATE / FFT)
    centres = mel(band_centres())
    width = max(centres[1] - centres[0], 1e-9)
    weight = np.maximum(0, 1 - np.abs(bins[:, None] - centres[None]) / width)
    for column in np.flatnonzero(weight.sum(0) < 1):  # bands narrower than a bin: interpolate
        position = centres[column]
        right = int(np.searchsorted(bins, position))
        share = (position - bins[right - 1]) / (bins[right] - bins[right - 1])
        weight[:, column] = 0
        weight[right - 1, column], weight[right, column] = 1 - share, share
    return np.asarray(weight / weight.sum(0), dtype=np.float32)


def spread(bins: int) -> Array:
    """Interpolation matrix [BANDS, bins] from bands to `bins` linear frequencies 0 … RATE/2; columns sum to 1."""
    at = np.interp(mel(np.linspace(0, RATE / 2, bins)), mel(band_centres()), np.arange(BANDS))
    low = np.minimum(at.astype(int), BANDS - 2)
    matrix = np.zeros((BANDS, bins), np.float32)
    matrix[low, np.arange(bins)] = 1 - (at - low)
    matrix[low + 1, np.arange(bins)] += at - low
    return matrix


def below_pitch(pitch: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which bands [T, BANDS] hold no harmonic as they lie below the fundamental, and the fundamental's own band [T, 1].

    `pitch` [T] in Hz; where it is 0 no band is below.
    """
    first = np.searchsorted(band_centres(), 0.9 * np.asarray(pitch))[:, None]
    return np.arange(BANDS) < first, first


def frame_count(samples: int) -> int:
    """Frames at 0, HOP, 2·HOP … that lie inside `samples`."""
    return samples // HOP + 1


def envelope(signal: NDArray[np.floating], f0: NDArray[np.floating]) -> Array:
    """Log power of the bands [frames, BANDS] (natural log) of a mono signal at RATE with its f0 [frames] in Hz."""
    times = np.arange(len(f0)) * FRAME
    power = pyworld.cheaptrick(
        np.ascontiguousarray(signal, np.float64), np.ascontiguousarray(f0, np.float64), times, RATE, fft_size=FFT
    )
    return np.asarray(np.log(power.astype(np.float32) @ _averaging() + FLOOR), dtype=np.float32)
