"""How loud a song is, and a limiter that keeps it below full scale.

Sources: ITU-R BS.1770-5 (K-weighting, gating, true peak), EBU Tech 3341 (meters), EBU Tech 3342 (loudness range).
The standard gives its filters for 48 kHz only; the analogue prototypes behind them, for any rate, are those of
B. De Man, "Evaluation of implementations of the EBU R128 loudness measurement" (AES 145, 2018).
Everything works on blocks `[channels, samples]`; what grows with the song is one number per 100 ms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from scipy.signal import firwin, sosfilt

from vividcover.song.pcm import PcmReader, Signal
from vividcover.workspace import Reporter, Silent

Array = NDArray[np.float64]

BLOCK = 1 << 14  # samples handled at a time
SHELF = (1681.974450955533, 3.999843853973347, 0.7071752369554196)  # Hz, dB, Q: the head
SHELF_SLOPE = 0.4996667741545416  # exponent of the shelf's middle gain
HIGHPASS = (38.13547087602444, 0.5003270373238773)  # Hz, Q: the "revised low-frequency B-curve"
OFFSET = -0.691  # dB, so that a 997 Hz sine of 0 dBFS in one channel reads -3.01 LKFS
STEP = 0.1  # s between two gating blocks
MOMENTARY = 4  # steps in a gating block (400 ms)
SHORT_TERM = 30  # steps in a short-term block (3 s)
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU below the ungated loudness
RANGE_GATE = -20.0  # LU, for the loudness range
RANGE_PERCENTILES = (10, 95)  # of the gated short-term loudness
OVERSAMPLING = 4  # true peak is looked for at this many times the rate
TAPS = 48  # of the interpolation filter, per phase (the standard's has 12, and misses what lies above 16 kHz)
CUTOFF, KAISER = 1.03, 8.0  # of that filter, times half the rate; shape of its window
ROW = 64  # samples whose interpolation is one row of a matrix product
PIECE = 32  # rows multiplied at a time: small, so that the product stays in the cache and in this thread
SILENT = -math.inf  # LUFS and dBTP of nothing


@dataclass(frozen=True, slots=True)
class Loudness:
    """`integrated` in LUFS, `range` in LU, `true_peak` in dBTP; -inf for silence."""

    integrated: float
    range: float
    true_peak: float


def measure(pcm: Path, *, reporter: Reporter | None = None) -> Loudness:
    """Loudness of a working file."""
    reporter = reporter or Silent()
    with PcmReader(Path(pcm)) as file:
        meter = Meter(file.rate, file.channels)
        for start in range(0, file.frames, BLOCK):
            reporter.progress(start / file.frames, "measuring loudness")
            meter.add(file.read(start, min(BLOCK, file.frames - start)))
    return meter.result()


def k_weighting(rate: int) -> Array:
    """The two filters of BS.1770 as second-order sections [2, 6] at `rate` Hz."""
    frequency, gain, q = SHELF
    k = math.tan(math.pi * frequency / rate)
    high = 10 ** (gain / 20)
    middle = high**SHELF_SLOPE
    a0 = 1 + k / q + k * k
    shelf = [
        (high + middle * k / q + k * k) / a0, 2 * (k * k - high) / a0, (high - middle * k / q + k * k) / a0,
        1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0,
    ]  # fmt: skip
    frequency, q = HIGHPASS
    k = math.tan(math.pi * frequency / rate)
    a0 = 1 + k / q + k * k
    highpass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    return np.array([shelf, highpass])


class Meter:
    """Takes blocks of any size, then tells the loudness of all of them."""

    def __init__(self, rate: int, channels: int) -> None:
        self._sos = k_weighting(rate)
        self._state = np.zeros((2, channels, 2))
        self._step = round(STEP * rate)
        self._rest = np.zeros(0)  # K-weighted power of the samples of an unfinished step
        self._powers: list[Array] = []  # mean K-weighted power per step, summed over channels
        self._peak = TruePeak(channels)

    def add(self, block: Signal) -> None:
        self._peak.add(block)
        weighted, self._state = sosfilt(self._sos, block.astype(np.float64), axis=1, zi=self._state)
        power = np.concatenate([self._rest, np.einsum("cn,cn->n", weighted, weighted)])
        whole = len(power) // self._step * self._step
        self._powers.append(power[:whole].reshape(-1, self._step).mean(1))
        self._rest = power[whole:]

    def result(self) -> Loudness:
        steps = np.concatenate(self._powers) if self._powers else np.zeros(0)
        return Loudness(integrated(steps), loudness_range(steps), decibels(self._peak.finish()))


def integrated(steps: Array) -> float:
    """LUFS from the mean power of each 100 ms [n], with the absolute and the relative gate of BS.1770."""
    blocks = _sliding_mean(steps, MOMENTARY)
    blocks = blocks[_lufs(blocks) > ABSOLUTE_GATE]
    if not len(blocks):
        return SILENT
    gate = float(_lufs(blocks.mean())) + RELATIVE_GATE
    return float(_lufs(blocks[_lufs(blocks) > gate].mean()))


def loudness_range(steps: Array) -> float:
    """LU between the 10th and the 95th percentile of the gated short-term loudness (EBU Tech 3342)."""
    blocks = _sliding_mean(steps, SHORT_TERM)
    blocks = blocks[_lufs(blocks) > ABSOLUTE_GATE]
    if not len(blocks):
        return 0.0
    levels = _lufs(blocks[_lufs(blocks) > _lufs(blocks.mean()) + RANGE_GATE])
    low, high = np.percentile(levels, RANGE_PERCENTILES)
    return float(high - low)


def decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else SILENT


def _sliding_mean(steps: Array, width: int) -> Array:
    if len(steps) < width:
        return np.zeros(0)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(steps, width).mean(1))


def _lufs(power: Array | np.floating | float) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(OFFSET + 10 * np.log10(power))


# --- true peak ----------------------------------------------------------------------------------------------------


def _interpolator() -> NDArray[np.float32]:
    """[TAPS, OVERSAMPLING]: column p gives the signal p/4 sample after the window's middle (column 0: the sample)."""
    taps = firwin(OVERSAMPLING * TAPS - 1, CUTOFF / OVERSAMPLING, window=("kaiser", KAISER)) * OVERSAMPLING
    matrix = np.zeros((TAPS, OVERSAMPLING))
    for phase in range(OVERSAMPLING):
        for tap in range(TAPS):
            index = OVERSAMPLING * (TAPS // 2 - 1 - tap) + phase + len(taps) // 2
            matrix[tap, phase] = taps[index] if 0 <= index < len(taps) else 0.0
    return matrix.astype(np.float32)


INTERPOLATOR = _interpolator()
BEFORE, AFTER = TAPS // 2 - 1, TAPS // 2  # samples that the filter sees around the one it looks at


def _row_matrix() -> NDArray[np.float32]:
    """[ROW + TAPS - 1, 3 × ROW]: gives the 3 values after each of ROW samples in one product."""
    matrix = np.zeros((ROW + TAPS - 1, OVERSAMPLING - 1, ROW), np.float32)
    for sample in range(ROW):
        matrix[sample : sample + TAPS, :, sample] = INTERPOLATOR[:, 1:]
    return matrix.reshape(ROW + TAPS - 1, -1)


ROW_MATRIX = _row_matrix()


def oversampled_peak(padded: Signal) -> NDArray[np.float32]:
    """Largest magnitude [n] at each sample and up to the next, over all channels.

    `padded` [channels, BEFORE + n + AFTER] holds the n samples and their surroundings.
    """
    count = padded.shape[1] - TAPS + 1
    rows = -(-count // ROW)
    peak: NDArray[np.float32] = np.abs(padded[:, BEFORE : BEFORE + count]).max(0)
    for channel in padded:
        channel = np.append(channel, np.zeros(rows * ROW - count, np.float32))
        windows = np.lib.stride_tricks.sliding_window_view(channel, ROW + TAPS - 1)[::ROW]
        for row in range(0, rows, PIECE):
            between = np.abs(windows[row : row + PIECE] @ ROW_MATRIX).reshape(-1, OVERSAMPLING - 1, ROW).max(1).ravel()
            here = peak[row * ROW : row * ROW + len(between)]
            np.maximum(here, between[: len(here)], out=here)
    return peak


class TruePeak:
    """Largest magnitude of the signal between its samples (BS.1770 annex 2, with a longer filter)."""

    def __init__(self, channels: int) -> None:
        self._tail = np.zeros((channels, BEFORE), np.float32)
        self._peak = 0.0

    def add(self, block: Signal) -> None:
        padded = np.concatenate([self._tail, block], axis=1)
        if padded.shape[1] >= TAPS:
            self._peak = max(self._peak, float(oversampled_peak(padded).max()))
            padded = padded[:, -(TAPS - 1) :]
        self._tail = padded

    def finish(self) -> float:
        """The peak as an amplitude (1 = full scale)."""
        self.add(np.zeros((self._tail.shape[0], TAPS), np.float32))
        return self._peak


# --- limiter ------------------------------------------------------------------------------------------------------


class Limiter:
    """Look-ahead true-peak limiter: what leaves it is nowhere above `ceiling` dBTP, what is below it passes unchanged.

    The gain reduction that each sample needs (in dB, the same for all channels) is held over the look-ahead, released
    exponentially, and smoothed by a window as long as the look-ahead: an average over values that all cover the peak
    covers the peak. `process` gives back samples late; `finish` gives the rest, so that all lengths are kept.
    """

    LOOKAHEAD = 0.005  # s before a peak in which the gain comes down
    RELEASE = 0.080  # s in which the reduction falls to 1/e
    MARGIN = 0.1  # dB kept below the ceiling, for what the smoothing does between samples
    QUIET = 1e-3  # dB of reduction that counts as none

    def __init__(self, rate: int, channels: int, ceiling: float = -1.0) -> None:
        self._ceiling = 10 ** ((ceiling - self.MARGIN) / 20)
        self._width = 2 * (round(self.LOOKAHEAD * rate) // 2) + 1  # samples, odd
        self._decay = 1 / (self.RELEASE * rate)  # nepers per sample
        window = np.hanning(self._width + 2)[1:-1]
        self._window = window / window.sum()
        self.max_reduction = 0.0  # dB
        self._signal = np.zeros((channels, BEFORE), np.float32)  # samples whose peaks are not known yet, and BEFORE
        self._waiting = np.zeros((channels, 0), np.float32)  # samples whose gain is not known yet
        self._needed = np.zeros(self._width - 1)  # dB, the latest reductions needed
        self._held = np.zeros(self._width - 1)  # dB, the latest reductions after hold and release
        self._skip = self._width - 1  # samples of gain that belong to before the beginning

    def process(self, block: Signal) -> Signal:
        """Takes [channels, n]; gives the samples that are finished, fewer at first."""
        padded = np.concatenate([self._signal, block], axis=1)
        if padded.shape[1] < TAPS:
            self._signal = padded
            return padded[:, :0]
        peak = oversampled_peak(padded)
        self._signal = padded[:, -(TAPS - 1) :]
        self._waiting = np.concatenate([self._waiting, padded[:, BEFORE : padded.shape[1] - AFTER]], axis=1)
        reduction = self._reduction(peak)
        self.max_reduction = max(self.max_reduction, float(reduction.max(initial=0.0)))
        skipped = min(self._skip, len(reduction))
        self._skip -= skipped
        reduction = reduction[skipped:]
        ready, self._waiting = self._waiting[:, : len(reduction)], self._waiting[:, len(reduction) :]
        if not reduction.any():
            return ready
        return np.asarray(ready * 10 ** (-reduction / 20), np.float32)

    def finish(self) -> Signal:
        channels = self._signal.shape[0]
        return self.process(np.zeros((channels, AFTER + self._width - 1), np.float32))

    def _reduction(self, peak: NDArray[np.float32]) -> Array:
        """dB of gain reduction, `width - 1` samples late."""
        needed = np.maximum(20 * np.log10(np.maximum(peak, 1e-9) / self._ceiling), 0.0)
        # a peak lies between its sample and the next: both need the gain
        history = np.concatenate([self._needed, needed])
        self._needed = history[-(self._width - 1) :]
        half = self._width // 2
        held = maximum_filter1d(history, self._width, mode="constant", origin=0)[half : len(history) - half]
        held = self._released(held, float(self._held[-1]))
        history = np.concatenate([self._held, held])
        self._held = history[-(self._width - 1) :]
        if not history.any():
            return np.zeros(len(peak))
        return np.asarray(np.convolve(history, self._window, mode="valid"))

    def _released(self, held: Array, before: float) -> Array:
        """d[n] = max(held[n], d[n-1]·exp(-decay)), which in the logarithm is a running maximum."""
        if not held.any() and before < self.QUIET:
            return np.zeros(len(held))
        ramp = self._decay * np.arange(len(held) + 1)
        logs = np.log(np.maximum(np.append(before, held), 1e-12)) + ramp
        out = np.exp(np.maximum.accumulate(logs) - ramp)[1:]
        return np.asarray(np.where(out < self.QUIET, np.minimum(out, held), out))
