"""Short-time spectra as torch computes them (`center=True`, periodic Hann, mirrored ends), for numpy, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # [..., N]
Spectra = NDArray[np.complex64]  # [..., bins, frames]


@dataclass(frozen=True)
class Stft:
    """`size` samples a frame, a frame every `hop`. A signal of hop * (T - 1) samples has T frames."""

    size: int
    hop: int

    @cached_property
    def window(self) -> Samples:
        shape: Samples = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size)).astype(np.float32)
        return shape

    @property
    def bins(self) -> int:
        return self.size // 2 + 1

    def forward(self, x: Samples, bins: int | None = None) -> Spectra:
        """[..., N] -> [..., bins, frames]; only the lowest `bins`, if that is given."""
        half = self.size // 2
        padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
        framed = np.lib.stride_tricks.sliding_window_view(padded, self.size, axis=-1)[..., :: self.hop, :]
        spectra: Any = scipy.fft.rfft(framed * self.window, axis=-1)[..., :bins]
        return np.swapaxes(spectra, -1, -2)

    def inverse(self, spectra: Spectra, length: int) -> Samples:
        """[..., bins, frames] -> [..., length]; bins that are missing at the top count as silent."""
        frames: Any = scipy.fft.irfft(np.swapaxes(spectra, -1, -2), n=self.size, axis=-1).astype(np.float32, copy=False)
        count = frames.shape[-2]
        total = self.size + self.hop * (count - 1)
        out = np.zeros((*frames.shape[:-2], total), np.float32)
        weight = np.zeros(total, np.float32)
        for t in range(count):
            place = slice(t * self.hop, t * self.hop + self.size)
            out[..., place] += frames[..., t, :] * self.window
            weight[place] += self.window**2
        half = self.size // 2
        return np.divide(out[..., half : half + length], weight[half : half + length], dtype=np.float32)
