"""Formant shift: the resonances of the vocal tract move, the melody stays. Up sounds smaller, down larger.

The spectral envelope (the spectrum's cepstrum up to half a period of the pitch) is read at another scale, and each
frame is multiplied by what that changes. As a stream: `push` gives samples as soon as they are settled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FRAME_S = 0.043  # s, about; the nearest power of two is taken
LIFTER = 0.002  # s of cepstrum that are envelope where no pitch is known
SHORTEST, LONGEST = 0.0012, 0.0045  # s, where one is known: half its period, between these
STEP = 0.0001  # s to which that is rounded
LIMIT = 3.0  # nepers (26 dB) by which a frequency may be changed
ROUNDS = 12  # of smoothing until the envelope touches the harmonics
FLOOR = 1e-12  # of power, before logarithms

Array = NDArray[np.float32]


class FormantShift:
    """A mono stream at `rate` Hz, its formants moved by `semitones`. As many samples come out as went in.

    `f0`: the pitch that it sings, in Hz every 10 ms, 0 where there is none.
    """

    def __init__(self, rate: int, semitones: float, f0: Array | None = None) -> None:
        self.rate, self.f0 = rate, f0
        self.frame = 1 << round(np.log2(rate * FRAME_S))
        self.hop = self.frame // 4
        self.ratio = 2 ** (semitones / 12)
        self.window = np.hanning(self.frame + 1)[: self.frame].astype(np.float32)
        self.lifters: dict[int, Array] = {}
        self.waiting = np.zeros(self.frame - self.hop, np.float32)
        self.sums = np.zeros(self.frame, np.float32)
        self.ahead = self.frame - self.hop  # samples of the lead-in that are still to be dropped
        self.taken = self.given = self.frames = 0

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
            self.sums += self._shifted(self.waiting[: self.frame], self._lifter(self.frames))
            self.frames += 1
            out.append(self.sums[: self.hop].copy())
            self.sums = np.concatenate([self.sums[self.hop :], np.zeros(self.hop, np.float32)])
            self.waiting = self.waiting[self.hop :]
        whole = np.concatenate([np.zeros(0, np.float32), *out])
        dropped = min(self.ahead, len(whole))
        self.ahead -= dropped
        whole = whole[dropped : dropped + self.taken - self.given]
        self.given += len(whole)
        return whole

    def _shifted(self, frame: Array, lifter: Array) -> Array:
        """One windowed frame with its envelope moved, windowed again (Hann twice at a quarter: sums to 1.5)."""
        if not frame.any():
            return np.zeros(self.frame, np.float32)
        spectrum = fft.rfft(frame * self.window)
        power = spectrum.real**2 + spectrum.imag**2
        envelope = self._envelope(np.log(power + FLOOR + 1e-7 * power.max()) / 2, lifter)
        bins = np.arange(len(envelope))
        moved = np.interp(bins / self.ratio, bins, envelope)
        change = np.exp(np.clip(moved - envelope, -LIMIT, LIMIT))
        return np.asarray(fft.irfft(spectrum * change, self.frame) * self.window / 1.5, np.float32)

    def _lifter(self, number: int) -> Array:
        """Weights of the cepstrum for frame `number`: 1 at 0, falling to 0 at half a period of the pitch."""
        middle = (number + 1) * self.hop - self.frame / 2  # samples from the beginning
        there = round(middle / self.rate * 100)
        pitch = float(self.f0[there]) if self.f0 is not None and 0 <= there < len(self.f0) else 0.0
        width = LIFTER if pitch <= 0 else min(max(0.5 / pitch, SHORTEST), LONGEST)
        steps = round(width / STEP)
        if steps not in self.lifters:
            half = max(2, round(steps * STEP * self.rate))
            lifter = np.zeros(self.frame, np.float32)
            lifter[:half] = 0.5 + 0.5 * np.cos(np.pi * np.arange(half) / half)
            lifter[-half + 1 :] = lifter[1:half][::-1]
            self.lifters[steps] = lifter
        return self.lifters[steps]

    def _envelope(self, spectrum: NDArray[np.floating], lifter: Array) -> NDArray[np.floating]:
        """What is smooth in a log spectrum and touches its peaks, not their middle: smoothed again and again, with
        what lies below the last result lifted to it (A. Röbel & X. Rodet, "true envelope", DAFx 2005)."""
        envelope = np.full_like(spectrum, -np.inf)
        for _ in range(ROUNDS):
            lifted = np.maximum(spectrum, envelope)
            envelope = fft.rfft(fft.irfft(lifted, self.frame) * lifter).real
        return envelope
