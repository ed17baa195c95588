"""What is done to the sound itself: moving the pitch by overlap-add, and filtering with a smooth envelope difference.

No vocoder: breath, consonants and the grain of the voice are the recording's own. Pitch is moved by TD-PSOLA
(E. Moulines, F. Charpentier, "Pitch-synchronous waveform processing techniques for text-to-speech synthesis using
diphones", Speech Communication 9, 1990), which leaves the formants where they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from vividcover.voice.classic.features import HOP, RATE, Array, spread

WINDOW = 1024  # samples, 23 ms: of the filter
STEP = 256
SLICE = 128  # pieces filtered at a time, for memory
FILTER_FFT = 2048  # room for the filter's own response of ±512 samples
GAIN_LIMITS = (-14.0, 7.0)  # nepers of power (-60, 30 dB) that the filter may take and add: adding brings up noise
MARK_BAND = (60.0, 1500.0)  # Hz, where the pulses of a voice are seen: running means of 1/f take off what lies outside
MARK_REACH = 0.15  # of a period: how far a mark may lie from where the pitch expects it
PULSE = 0.3  # weight of being the period's peak, and
STRAIGHT = 0.15  # of lying where expected, against being like the last period (1)
FADE = 441  # samples, 10 ms: between moved and untouched sound


def apply_envelope(signal: Array, difference: Array) -> Array:
    """Filters channels [C, N] with log power differences [T, BANDS] at HOP samples; zero phase, same length."""
    count = signal.shape[1]
    frames = count // STEP + 6  # from two steps before the first sample to two after the last
    at = np.maximum(np.arange(frames) - 2, 0) * STEP / HOP
    low = np.minimum(at.astype(int), len(difference) - 2)
    part = np.clip(at - low, 0, 1)[:, None].astype(np.float32)
    smooth = (1 - part) * difference[low] + part * difference[low + 1]
    gain = smooth @ spread(FILTER_FFT // 2 + 1)
    np.clip(gain, *GAIN_LIMITS, out=gain)
    gain *= np.float32(0.5)
    np.exp(gain, out=gain)
    window = np.hanning(WINDOW + 1)[:WINDOW].astype(np.float32)
    lead = (FILTER_FFT - WINDOW) // 2
    out = np.zeros_like(signal)
    for channel, samples in enumerate(signal):
        padded = np.pad(samples, (WINDOW // 2 + 2 * STEP, 2 * WINDOW))
        pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP][:frames]
        filtered = np.empty((frames, FILTER_FFT), np.float32)
        for t in range(0, frames, SLICE):
            spectra = np.fft.rfft(pieces[t : t + SLICE] * window, FILTER_FFT, axis=1) * gain[t : t + SLICE]
            filtered[t : t + SLICE] = np.roll(np.fft.irfft(spectra, axis=1), lead, axis=1)
        total = np.zeros((frames + FILTER_FFT // STEP, STEP), np.float32)
        for piece in range(FILTER_FFT // STEP):
            total[piece : piece + frames] += filtered[:, piece * STEP : (piece + 1) * STEP]
        start = lead + WINDOW // 2 + 2 * STEP
        out[channel] = total.ravel()[start : start + count] / (WINDOW / STEP / 2)
    return out


def shift_pitch(signal: Array, f0: Array, ratio: float) -> Array:
    """Mono [N] with its f0 [T] (Hz, 0 = unvoiced) multiplied by `ratio`; unvoiced sound is left alone."""
    if abs(ratio - 1) < 1e-4 or not (f0 > 0).any():
        return signal
    moved = np.zeros(len(signal) + 2 * RATE // 50, np.float32)
    untouched = np.ones(len(signal), np.float32)
    for marks in pitch_marks(signal, f0):
        periods = np.diff(marks)
        periods = np.append(periods, periods[-1])
        _lay_grains(signal, marks, periods, ratio, moved)
        untouched[marks[0] : marks[-1]] = 0
    untouched = uniform_filter1d(untouched, FADE)
    mixed = moved[: len(signal)] / np.sqrt(ratio) * (1 - untouched) + signal * untouched
    return np.asarray(mixed, dtype=np.float32)


def _lay_grains(signal: Array, marks: NDArray[np.int64], periods: NDArray[np.int64], ratio: float, out: Array) -> None:
    """Copies two-period pieces around the marks to where the moved pitch wants them."""
    place, nearest = float(marks[0]), 0
    while place <= marks[-1]:
        while nearest + 1 < len(marks) and abs(marks[nearest + 1] - place) < abs(marks[nearest] - place):
            nearest += 1
        period, mark = int(periods[nearest]), int(marks[nearest])
        to = round(place) - period
        if mark - period >= 0 and mark + period <= len(signal) and to >= 0 and to + 2 * period <= len(out):
            grain = np.hanning(2 * period + 1)[:-1].astype(np.float32)
            out[to : to + 2 * period] += signal[mark - period : mark + period] * grain
        place += period / ratio


def pitch_marks(signal: Array, f0: Array) -> list[NDArray[np.int64]]:
    """For every voiced stretch the samples of its pulses, one a period, ascending; at least 3 each."""
    voiced = f0 > 0
    frames = np.arange(len(f0))
    log_period = np.interp(frames, frames[voiced], np.log(RATE / f0[voiced]))
    slow, fast = (round(RATE / edge) for edge in MARK_BAND)
    exact = np.asarray(signal, np.float64)
    low = uniform_filter1d(uniform_filter1d(exact, fast // 2), fast // 2) - uniform_filter1d(exact, slow)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(int)))
    found = []
    for begin, end in zip(edges[::2], edges[1::2]):
        first, last = max(0, int((begin - 0.5) * HOP)), min(len(signal), int((end - 0.5) * HOP))
        if last - first < 3 * np.exp(log_period[begin]):
            continue
        start = first + int(np.argmax(np.abs(low[first:last])))
        shape = low * (1.0 if low[start] >= 0 else -1.0)
        backward = _walk(shape, start, -1, first, last, log_period)
        marks = np.array([*backward[::-1], start, *_walk(shape, start, 1, first, last, log_period)], np.int64)
        if len(marks) >= 3:
            found.append(marks)
    return found


def _walk(
    shape: NDArray[np.float64], at: int, sign: int, first: int, last: int, log_period: NDArray[np.float64]
) -> list[int]:
    marks: list[int] = []
    while True:
        period = float(np.exp(log_period[min(len(log_period) - 1, int(at / HOP + 0.5))]))
        low = int(at + sign * period - MARK_REACH * period)
        high = int(at + sign * period + MARK_REACH * period) + 1
        if low < first or high > last:
            return marks
        half = int(period / 2)
        if at - half < 0 or low - half < 0 or high + half > len(shape):
            return marks
        alike = np.correlate(shape[low - half : high + half], shape[at - half : at + half], "valid")
        piece = shape[low : low + len(alike)]
        size = float(shape[at - half : at + half] @ shape[at - half : at + half]) + 1e-12
        peak = (piece - piece.min()) / (np.ptp(piece) + 1e-12)
        near = np.abs(np.linspace(-1, 1, len(piece)))
        at = low + int(np.argmax(alike / size + PULSE * peak - STRAIGHT * near))
        marks.append(at)


def level_db(signal: Array, frames: int, window: int = 2) -> Array:
    """Mean power in dB [T] of mono [N] around each frame, over `window` frames."""
    power = uniform_filter1d(np.asarray(signal, np.float64) ** 2, window * HOP, mode="constant")
    at = np.minimum(np.arange(frames) * HOP, max(0, len(signal) - 1))
    return np.asarray(10 * np.log10(np.maximum(power[at], 0) + 1e-12), dtype=np.float32)


def apply_gain(signal: Array, gain_db: Array) -> Array:
    """Channels [C, N] with a gain in dB [T] at HOP samples, interpolated."""
    at = np.arange(signal.shape[1]) / HOP
    gain = np.interp(at, np.arange(len(gain_db)), np.exp(gain_db * (np.log(10) / 20)))
    return np.asarray(signal * gain, dtype=np.float32)
