"""Formant shift: the resonances of the vocal tract move, the melody stays. Up sounds smaller, down larger.

The spectral envelope (the spectrum's cepstrum up to 2 ms, which no pitch below 500 Hz enters) is read at another scale,
and each frame is multiplied by what that changes. As a stream: `push` gives samples as soon as they are settled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FRAME_S = 0.043  # s, about; the nearest power of two is taken
LIFTER = 0.002  # s
LIMIT = 3.0  # nepers (26 dB) by which a frequency may be changed
FLOOR = 1e-12  # of power, before logarithms

Array = NDArray[np.float32]


class FormantShift:
    """A mono stream at `rate` Hz, its formants moved by `semitones`. As many samples come out as went in."""

    def __init__(self, rate: int, semitones: float) -> None:
        self.frame = 1 << round(np.log2(rate * FRAME_S))
        self.hop = self.frame // 4
        self.ratio = 2 ** (semitones / 12)
        self.window = np.hanning(self.frame + 1)[: self.frame].astype(np.float32)
        half = max(2, round(LIFTER * rate))
        self.lifter = np.zeros(self.frame, np.float32)
        self.lifter[:half] = 0.5 + 0.5 * np.cos(np.pi * np.arange(half) / half)
        self.lifter[-half + 1 :] = self.lifter[1:half][::-1]
        self.waiting = np.zeros(self.frame - self.hop, np.float32)
        self.sums = np.zeros(self.frame, np.float32)
        self.ahead = self.frame - self.hop  # samples of the lead-in that are still to be dropped
        self.taken = self.given = 0

    def push(self, samples: Array) -> Array:
        if self.ratio == 1:
            return samples
        self.taken += len(samples)
        self.waiting = np.concatenate([self.waiting, samples])
        return self._run()

    def finish(self) -> Array:
        if self.ratio == 1:
            return np.zeros(0, np.float32)
        self.waiting = np.concatenate([self.waiting, np.zeros(self.frame, np.float32)])
        return self._run()

    def _run(self) -> Array:
        out = []
        while len(self.waiting) >= self.frame:
            self.sums += self._shifted(self.waiting[: self.frame])
            out.append(self.sums[: self.hop].copy())
            self.sums = np.concatenate([self.sums[self.hop :], np.zeros(self.hop, np.float32)])
            self.waiting = self.waiting[self.hop :]
        whole = np.concatenate([np.zeros(0, np.float32), *out])
        dropped = min(self.ahead, len(whole))
        self.ahead -= dropped
        whole = whole[dropped : dropped + self.taken - self.given]
        self.given += len(whole)
        return whole

    def _shifted(self, frame: Array) -> Array:
        """One windowed frame with its envelope moved, windowed again (Hann twice at a quarter: sums to 1.5)."""
        if not frame.any():
            return np.zeros(self.frame, np.float32)
        spectrum = fft.rfft(frame * self.window)
        power = spectrum.real**2 + spectrum.imag**2
        cepstrum = fft.irfft(np.log(power + FLOOR + 1e-7 * power.max()) / 2, self.frame)
        envelope = fft.rfft(cepstrum * self.lifter).real
        bins = np.arange(len(envelope))
        moved = np.interp(bins / self.ratio, bins, envelope)
        change = np.exp(np.clip(moved - envelope, -LIMIT, LIMIT))
        return np.asarray(fft.irfft(spectrum * change, self.frame) * self.window / 1.5, np.float32)
