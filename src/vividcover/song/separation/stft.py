"""Short-time Fourier transform on a grid that is fixed for the whole song.

Frame `t` is centred on sample `t * HOP`, whichever block it is computed in: blocks can be worked on apart, then joined.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vividcover.song.pcm import Signal

SIZE = 4096  # samples of a frame, 93 ms at 44.1 kHz: resolves the harmonics of a voice from 80 Hz
HOP = 1024  # samples between frames, 23 ms
BINS = SIZE // 2 + 1
SLICE = 64  # frames handled at a time, for memory

Spectrum = NDArray[np.complex64]  # [..., frames, BINS]
Real = NDArray[np.float32]

_WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)).astype(np.float32)  # periodic Hann
_GAIN = np.float32(1.5 * SIZE / HOP / 4)  # what Hann squared adds up to at this hop


def span(first: int, count: int) -> tuple[int, int]:
    """(start sample, samples) that `analyse` needs for frames `first` … `first + count - 1`."""
    return first * HOP - SIZE // 2, (count - 1) * HOP + SIZE


def analyse(signal: Signal) -> Spectrum:
    """Spectra [channels, frames, BINS] of samples [channels, (frames - 1) * HOP + SIZE]."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, SIZE, axis=-1)[..., ::HOP, :]
    spectrum: Spectrum = np.empty((*frames.shape[:-1], BINS), np.complex64)
    for t in range(0, frames.shape[-2], SLICE):
        spectrum[..., t : t + SLICE, :] = scipy.fft.rfft(frames[..., t : t + SLICE, :] * _WINDOW, axis=-1)
    return spectrum


def synthesise(spectrum: Spectrum) -> Signal:
    """Samples [channels, (frames - 1) * HOP + SIZE]; the first and last SIZE - HOP of them lack some frames."""
    channels, count, _ = spectrum.shape
    out = np.zeros((channels, (count - 1) + SIZE // HOP, HOP), np.float32)
    for channel in range(channels):
        frames = scipy.fft.irfft(spectrum[channel], n=SIZE, axis=-1)
        frames *= _WINDOW
        parts = frames.reshape(count, SIZE // HOP, HOP)
        for k in range(SIZE // HOP):
            out[channel, k : k + count] += parts[:, k]
    out *= np.float32(1 / _GAIN)
    return out.reshape(channels, -1)
