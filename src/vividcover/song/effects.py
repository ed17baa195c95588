"""Studio effects, in blocks: high-pass, compressor, reverb, gain; and the chain that the seed puts on main vocals.

The parameters mean what they mean in pedalboard, which AICoverGen (zsxkib/realistic-voice-cloning) uses; written from
the published algorithms: first-order Butterworth, peak compressor with ballistics, Freeverb (Jezar, 2000; described in
J. O. Smith, "Physical Audio Signal Processing", ch. "Freeverb"). Every effect keeps the number of samples and has no
delay; what a reverb would add behind the end of the song is not produced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import lfilter

from vividcover.errors import ParameterError
from vividcover.song.pcm import Signal
from vividcover.song.pitchshift import shift_pitch

__all__ = ["Chain", "Compressor", "Effect", "Gain", "HighPass", "Reverb", "main_vocals_chain", "shift_pitch"]

Array = NDArray[np.float64]


class Effect(Protocol):
    """Takes [channels, n] and gives [channels, n]; remembers what it needs between blocks."""

    def process(self, block: Signal) -> Signal: ...


class Chain:
    """Effects one after another."""

    def __init__(self, effects: Sequence[Effect]) -> None:
        self._effects = effects

    def process(self, block: Signal) -> Signal:
        for effect in self._effects:
            block = effect.process(block)
        return block


class Gain:
    """A constant change of level in dB."""

    def __init__(self, decibels: float) -> None:
        self._factor = np.float32(10 ** (decibels / 20))

    def process(self, block: Signal) -> Signal:
        return np.asarray(block * self._factor, np.float32)


class HighPass:
    """First-order high-pass (6 dB per octave), -3 dB at `cutoff` Hz."""

    def __init__(self, rate: int, channels: int, cutoff: float = 50.0) -> None:
        n = math.tan(math.pi * cutoff / rate)
        self._b = np.array([1.0, -1.0]) / (n + 1)
        self._a = np.array([1.0, (n - 1) / (n + 1)])
        self._state = np.zeros((channels, 1))

    def process(self, block: Signal) -> Signal:
        out, self._state = lfilter(self._b, self._a, block.astype(np.float64), axis=1, zi=self._state)
        return np.asarray(out, np.float32)


class Compressor:
    """Above `threshold` dBFS the level grows by 1 dB for `ratio` dB of input; times in ms.

    One envelope, that of the loudest channel, for all channels, so that the stereo picture does not move.
    """

    def __init__(
        self, rate: int, *, threshold: float = -15.0, ratio: float = 4.0, attack: float = 1.0, release: float = 100.0
    ) -> None:
        self._threshold = 10 ** (threshold / 20)
        self._slope = 1 / ratio - 1
        self._attack = math.exp(-2 * math.pi * 1000 / (rate * attack))
        self._release = math.exp(-2 * math.pi * 1000 / (rate * release))
        self._level = 0.0

    def process(self, block: Signal) -> Signal:
        envelope = self._envelope(np.abs(block).max(0))
        over = np.maximum(envelope / self._threshold, 1.0)
        return np.asarray(block * over**self._slope, np.float32)

    def _envelope(self, peaks: NDArray[np.float32]) -> Array:
        """A one-pole follower whose pole depends on whether the level rises or falls."""
        level, attack, release = self._level, self._attack, self._release
        out = []
        for peak in peaks.tolist():  # a recursion with a branch: plain numbers are the fastest way through it
            level = peak + (attack if peak > level else release) * (level - peak)
            out.append(level)
        self._level = level if level > 1e-15 else 0.0
        return np.array(out)


class Reverb:
    """Freeverb: 8 damped comb filters side by side, then 4 all-passes, per channel. All parameters 0..1.

    It is linear and does not change with time, so it is computed as what it is: a convolution with its own impulse
    response, which is got once from the network of filters and cut where it has faded by 100 dB.
    """

    COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)  # samples at 44.1 kHz
    ALLPASSES = (556, 441, 341, 225)
    SPREAD = 23  # samples by which the right channel's delays are longer
    TUNED_AT = 44_100  # Hz
    ALLPASS_GAIN = 0.5
    INPUT = 0.015
    WET, DRY = 3.0, 2.0  # what a level of 1 means
    DAMP = 0.4
    ROOM, ROOM_FROM = 0.28, 0.7  # feedback = ROOM · room_size + ROOM_FROM
    FADED = 1e-5  # of the peak, where the response is cut
    LONGEST = 12.0  # s
    FLOOR = 1e-6  # below -120 dBFS the wet part is rounding noise: silence stays silent

    def __init__(
        self, rate: int, channels: int, *, room_size: float = 0.15, damping: float = 0.7, wet_level: float = 0.2,
        dry_level: float = 0.8,
    ) -> None:  # fmt: skip
        for name, value in (
            ("room_size", room_size), ("damping", damping), ("wet_level", wet_level), ("dry_level", dry_level),
        ):  # fmt: skip
            if not 0 <= value <= 1:
                raise ParameterError(f"Reverb {name} is {value:g}.", "Use a value from 0 to 1.")
        self._dry = np.float32(dry_level * self.DRY)
        self._responses = [
            self._response(rate, room_size, damping, self.SPREAD * c) * self.INPUT * self.WET * wet_level
            for c in range(channels)
        ]
        self._wet = wet_level > 0
        length = max(len(r) for r in self._responses)
        self._tail = np.zeros((channels, length - 1), np.float32)
        self._spectra: dict[int, NDArray[np.complex64]] = {}

    def process(self, block: Signal) -> Signal:
        dry = block * self._dry
        if not self._wet:
            return np.asarray(dry, np.float32)
        count, length = block.shape[1], self._tail.shape[1]
        size = fft.next_fast_len(count + length, real=True)
        if not block.any():
            wet = np.zeros((len(block), count + length), np.float32)
        else:
            both = block.sum(0) if len(block) > 1 else block[0] * 2  # the network hears left + right
            wet = fft.irfft(fft.rfft(both, size) * self._spectrum(size), size)[:, : count + length]
        wet[:, :length] += self._tail
        self._tail = wet[:, count:].copy()
        wet = wet[:, :count]
        wet[np.abs(wet) < self.FLOOR] = 0.0
        return np.asarray(dry + wet, np.float32)

    def _spectrum(self, size: int) -> NDArray[np.complex64]:
        if size not in self._spectra:
            self._spectra = {size: np.stack([fft.rfft(r.astype(np.float32), size) for r in self._responses])}
        return self._spectra[size]

    def _response(self, rate: int, room_size: float, damping: float, spread: int) -> Array:
        """The network's answer to one sample of 1."""
        feedback, damp = self.ROOM * room_size + self.ROOM_FROM, damping * self.DAMP
        scale = rate / self.TUNED_AT
        loops = math.log(self.FADED) / math.log(feedback)
        count = int(min((loops + 4) * max(self.COMBS) * scale, self.LONGEST * rate))
        out = sum(_comb(count, int((d + spread) * scale), feedback, damp) for d in self.COMBS)
        for delay in self.ALLPASSES:
            out = _allpass(np.asarray(out), int((delay + spread) * scale), self.ALLPASS_GAIN)
        response = np.asarray(out)
        loud = np.flatnonzero(np.abs(response) > self.FADED * np.abs(response).max())
        return response[: loud[-1] + 1]


def _comb(count: int, delay: int, feedback: float, damp: float) -> Array:
    """Impulse response [count] of a comb whose feedback goes through a one-pole low-pass."""
    fed = np.zeros(count + delay)  # what enters the delay line
    fed[0] = 1.0
    state = np.zeros(1)
    for start in range(0, count, delay):
        old = fed[start : start + delay]
        low, state = lfilter([1 - damp], [1, -damp], old, zi=state)
        end = min(start + 2 * delay, len(fed))
        fed[start + delay : end] += feedback * low[: end - start - delay]
    return np.concatenate([np.zeros(delay), fed])[:count]


def _allpass(signal: Array, delay: int, gain: float) -> Array:
    """Freeverb's all-pass: y[n] = b[n - delay] - x[n], b[n] = x[n] + gain · b[n - delay]."""
    padded = np.append(signal, np.zeros(-len(signal) % delay)).reshape(-1, delay)  # every column is a filter of its own
    line = lfilter([1.0], [1.0, -gain], padded, axis=0).ravel()[: len(signal)]
    return np.asarray(np.concatenate([np.zeros(delay), line])[: len(signal)] - signal)


def main_vocals_chain(
    rate: int, channels: int, *, room_size: float = 0.15, wetness: float = 0.2, dryness: float = 0.8,
    damping: float = 0.7,
) -> Chain:  # fmt: skip
    """What the seed puts on the converted main vocals: high-pass at 50 Hz, compressor 4:1 at -15 dB, reverb."""
    return Chain(
        [
            HighPass(rate, channels, 50.0),
            Compressor(rate, threshold=-15.0, ratio=4.0),
            Reverb(rate, channels, room_size=room_size, damping=damping, wet_level=wetness, dry_level=dryness),
        ]
    )
