"""Where in a recording is a voice, and not only sound? By voicing, level and spectrum, every 10 ms, without a net.

A voice is periodic most of the time: its autocorrelation has a peak at the pitch (P. Boersma, "Accurate short-term
analysis of the fundamental frequency", IFA Proceedings 17, 1993: divided by the window's own). Breaths and consonants
are not, but never last long, so what is near enough to voicing counts too. Typing, applause, rustling, wind and doors
have no such peak for long; a beep has one, and no overtones. Music is `music.py`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter

Floats = NDArray[np.float32]

RATE = 8000  # Hz, at which voicing is looked for
HOP = 80  # samples: 10 ms, the hops of `slicing.py`
SIZE = 400  # samples of a frame: 50 ms, three periods of the lowest voice
FFT = 1024
LAGS = (7, 133)  # samples: 1143 to 60 Hz
RUMBLE = 100.0  # Hz, below which nothing tells a voice
BLOCK = 1000  # hops looked at at a time


@dataclass(frozen=True, slots=True)
class Limits:
    voicing: float = 0.45  # height of the autocorrelation's peak: noise 0.1 … 0.3, voices 0.6 … 0.99
    tone: float = 0.995  # share of the power within 47 Hz of the highest peak, above which it is a beep
    shortest: int = 5  # hops of voicing that count at all
    near: int = 35  # hops around voicing that belong to the voice: breaths, consonants


LIMITS = Limits()


class Voicing(NamedTuple):
    """Of every 10 ms, [T] each: how periodic (0..1), the share of power in the strongest tone, the pitch in Hz."""

    peak: Floats
    tone: Floats
    pitch: Floats


def voicing(samples: Floats) -> Voicing:
    """What `Voicing` says of samples [N] at 8 kHz. The pitch means something where the peak is high."""
    count = len(samples) // HOP
    if not count:
        return Voicing(*(np.zeros(0, np.float32),) * 3)
    padded = np.pad(samples.astype(np.float32), ((SIZE - HOP) // 2, SIZE))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[: count * HOP : HOP]
    window = np.hanning(SIZE).astype(np.float32)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    power = np.abs(np.fft.rfft(frames, FFT, axis=1)) ** 2  # [T, F]
    peak, lag = _summit(power, window)
    highest = power[:, 4:-6].argmax(axis=1) + 4
    around = np.take_along_axis(np.pad(power.cumsum(axis=1), ((0, 0), (1, 0))), highest[:, None] + [[-4, 7]], axis=1)
    tone = (around[:, 1] - around[:, 0]) / (power.sum(axis=1) + 1e-9)
    return Voicing(*(part.astype(np.float32) for part in (np.clip(peak, 0, 1), tone, RATE / lag)))


def _summit(power: Floats, window: Floats) -> tuple[Floats, Floats]:
    """(height, lag in samples) of the highest summit of the autocorrelation, from power spectra [T, F]."""
    own = np.fft.irfft(np.abs(np.fft.rfft(window, FFT)) ** 2)
    again = np.fft.irfft(power * (np.arange(FFT // 2 + 1) * RATE / FFT > RUMBLE), axis=1)
    low, high = LAGS
    height = again[:, low - 1 : high + 1] / (own[low - 1 : high + 1] / own[0]) / (again[:, :1] + 1e-9)
    inner, before, after = height[:, 1:-1], height[:, :-2], height[:, 2:]
    summit = (inner >= before) & (inner >= after)  # and not the slope of the peak at lag 0
    earlier = 1 - 0.02 * np.log2(np.arange(low, high) / low)  # of two equal summits the earlier: no octave too low
    best = np.where(summit, inner * earlier, 0).argmax(axis=1)[:, None]
    at, left, right = (np.take_along_axis(part, best, axis=1)[:, 0] for part in (inner, before, after))
    found = np.take_along_axis(summit, best, axis=1)[:, 0]
    bend = 2 * at - left - right
    aside = np.where(found & (bend > 1e-6), (right - left) / (2 * np.maximum(bend, 1e-6)), 0)
    return np.where(found, at, 0), best[:, 0] + low + np.clip(aside, -0.5, 0.5)


def active(peak: Floats, tone: Floats, quiet: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[T] where there is a voice: voiced, not a mere beep, not too quiet; and what is near that."""
    voiced = (peak > LIMITS.voicing) & (tone < LIMITS.tone) & ~quiet
    kept = np.zeros(len(voiced) + 1, np.int64)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], voiced.astype(np.int8), [0]))))
    for start, end in zip(edges[::2], edges[1::2]):
        if end - start >= LIMITS.shortest:
            kept[max(0, start - LIMITS.near)] += 1
            kept[min(len(voiced), end + LIMITS.near)] -= 1
    return np.asarray(kept.cumsum()[:-1] > 0)


def listen(pcm: Path, quiet: NDArray[np.bool_], reporter: Reporter) -> NDArray[np.bool_]:
    """`active` for a working file, in blocks; `quiet` [T] as of `slicing.Track`."""
    peaks, tones = [], []
    with PcmReader(pcm) as reader:
        hop, margin = round(reader.rate / 100), round(reader.rate / 10)
        for start in range(0, reader.frames, BLOCK * hop):
            reporter.check()
            block = reader.read(start - margin, BLOCK * hop + 2 * margin).mean(axis=0)
            peak, tone, _ = voicing(soxr.resample(block, reader.rate, RATE))
            peaks.append(peak[10 : BLOCK + 10])
            tones.append(tone[10 : BLOCK + 10])
    if not peaks:
        return np.zeros(len(quiet), np.bool_)
    peak, tone = (np.concatenate(parts)[: len(quiet)] for parts in (peaks, tones))
    short = len(quiet) - len(peak)
    return active(np.pad(peak, (0, short)), np.pad(tone, (0, short)), quiet)
