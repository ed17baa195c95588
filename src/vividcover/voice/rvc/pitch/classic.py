"""Pitch without a net: `pm` (autocorrelation, as Praat does it), and WORLD's `dio` and `harvest`.

P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
sound", IFA Proceedings 17, 1993. The autocorrelation of each windowed frame is divided by the window's own; its peaks
are candidates; one path over the whole recording pays for octave jumps and for changes of voicing.
M. Morise, "Harvest", 2017, and "WORLD", 2016, through pyworld.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import medfilt

from vividcover.voice.rvc.pitch.decode import Array

RATE, HOP = 16_000, 160  # Hz, samples
LOW, HIGH = 50.0, 1100.0  # Hz: what RVC searches
Floats = NDArray[np.float64]


# --- autocorrelation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Praat:
    """Praat's own numbers, but the voicing threshold, which RVC sets."""

    periods: int = 3  # of the lowest pitch in a window
    voicing: float = 0.6  # strength of "unvoiced"
    silence: float = 0.03  # of the loudest sample: below it a frame tends to be unvoiced
    octave: float = 0.01  # what a candidate pays per octave downwards
    jump: float = 0.35  # what a path pays per octave between two frames
    switch: float = 0.14  # what it pays between voiced and unvoiced
    candidates: int = 15  # per frame, with "unvoiced"
    fine: int = 4  # points per sample between which the autocorrelation's peaks are searched


P = Praat()
BLOCK = 200  # frames at a time, 13 MB of spectra


def pm(samples: Array) -> Array:
    """Hz [N//160 + 1], 0 where unvoiced."""
    signal = samples.astype(np.float64)
    loudest = float(np.abs(signal - signal.mean()).max())
    count = len(signal) // HOP + 1
    if loudest == 0:
        return np.zeros(count, np.float32)
    size = int(P.periods / LOW * RATE) // 2 * 2  # samples of a window: 960
    starts = np.arange(count) * HOP - size // 2
    inside = (starts >= 0) & (starts + size <= len(signal))  # elsewhere there is no whole window, and no pitch
    pitch = np.zeros((count, P.candidates))
    strength = np.full((count, P.candidates), -np.inf)
    strength[:, 0] = P.voicing + 2.0  # silence
    if inside.any():
        windows = sliding_window_view(signal, size)
        where = np.flatnonzero(inside)
        for at in range(0, len(where), BLOCK):
            rows = where[at : at + BLOCK]
            pitch[rows], strength[rows] = _candidates(windows[starts[rows]], loudest)
    return _path(pitch, strength).astype(np.float32)


def _candidates(frames: Floats, loudest: float) -> tuple[Floats, Floats]:
    """Pitches and strengths of frames [T, size], [T, 15] each; the first candidate is "unvoiced" (0 Hz)."""
    size, shortest = frames.shape[1], int(RATE / LOW)  # a period of the lowest pitch
    around = slice(size // 2 - shortest, size // 2 + shortest)
    frames = frames - frames[:, around].mean(1, keepdims=True)
    middle = slice(size // 2 - shortest // 2, size // 2 + shortest // 2)
    level = np.minimum(np.abs(frames[:, middle]).max(1) / loudest, 1)
    window = np.hanning(size + 2)[1:-1]
    correlation = _autocorrelation(frames * window) / _autocorrelation(window[None])  # [T, lags · fine]
    lags = np.arange(correlation.shape[1]) / (P.fine * RATE)  # seconds
    first, last = int(P.fine * RATE / HIGH), int(P.fine * RATE / LOW) + 1
    left, here, right = (
        correlation[:, first - 1 : last - 1],
        correlation[:, first:last],
        correlation[:, first + 1 : last + 1],
    )
    bend = np.minimum(left - 2 * here + right, -1e-12)
    shift = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)  # the top of a parabola through three points
    height = here - 0.25 * (left - right) * shift
    peak = (here > left) & (here >= right) & (here > 0.5 * P.voicing)
    hertz = 1 / (lags[first:last] + shift / (P.fine * RATE))
    height = np.minimum(height, 1 / np.maximum(height, 1))  # a pitch above what the window can tell
    worth = np.where(peak & (hertz >= LOW) & (hertz <= HIGH), height - P.octave * np.log2(LOW / hertz), -np.inf)
    best = np.argsort(-worth, axis=1)[:, : P.candidates - 1]
    pitch, strength = np.take_along_axis(hertz, best, 1), np.take_along_axis(worth, best, 1)
    unvoiced = P.voicing + np.maximum(0, 2 - level / (P.silence / (1 + P.voicing)))
    unvoiced[level == 0] = P.voicing + 2
    return np.column_stack((np.zeros(len(frames)), pitch)), np.column_stack((unvoiced, strength))


def _autocorrelation(frames: Floats) -> Floats:
    """Normalised to 1 at lag 0, `fine` points per sample, up to half the window."""
    size = frames.shape[1]
    length = 2 ** int(np.ceil(np.log2(1.5 * size)))
    power = np.abs(np.fft.rfft(frames, length)) ** 2
    power = np.pad(power, ((0, 0), (0, (P.fine - 1) * length // 2)))  # band-limited interpolation
    correlation = np.fft.irfft(power, P.fine * length)[:, : P.fine * (size // 2)]
    return np.asarray(correlation / np.maximum(correlation[:, :1], 1e-30))


def _path(pitch: Floats, strength: Floats) -> Floats:
    """The pitches along the best path: most strength, least jumps."""
    count = len(pitch)
    octaves = np.log2(np.maximum(pitch, 1e-9))
    voiced = pitch > 0
    value, came_from = strength[0], np.zeros(pitch.shape, np.int64)
    for frame in range(1, count):
        both = voiced[frame - 1][:, None] & voiced[frame]
        cost = np.where(
            both,
            P.jump * np.abs(octaves[frame - 1][:, None] - octaves[frame]),
            P.switch * (voiced[frame - 1][:, None] != voiced[frame]),
        )
        ways = value[:, None] - cost
        came_from[frame] = ways.argmax(0)
        value = ways.max(0) + strength[frame]
    path = np.empty(count, np.int64)
    path[-1] = value.argmax()
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return np.asarray(pitch[np.arange(count), path])


# --- WORLD ---------------------------------------------------------------------------------------------------------

PIECE = 60  # seconds at a time: WORLD keeps a candidate per band and millisecond
OVERLAP = 3  # seconds seen beyond, to either side


def dio(samples: Array, *, parity: bool = False) -> Array:
    """WORLD's DIO with its refinement; `parity`: then a median of three frames, rests included, as AICoverGen does."""
    f0 = _world("dio", samples)
    return medfilt(f0, 3).astype(np.float32) if parity else f0


def harvest(samples: Array, *, parity_median: bool = False) -> Array:
    """WORLD's Harvest with its refinement; `parity_median`: then RVC's median of three frames, rests included."""
    f0 = _world("harvest", samples)
    return medfilt(f0, 3).astype(np.float32) if parity_median else f0


def _world(method: str, samples: Array) -> Array:
    import pyworld

    track: Callable[..., tuple[Any, Any]] = getattr(pyworld, method)
    signal = samples.astype(np.float64)
    count = len(signal) // HOP + 1
    found = np.zeros(count, np.float32)
    step, beyond = PIECE * RATE // HOP, OVERLAP * RATE // HOP  # frames
    for first in range(0, count, step):
        start = max(0, first - beyond)
        piece = np.ascontiguousarray(signal[start * HOP : (first + step + beyond) * HOP])
        f0, times = track(piece, RATE, f0_floor=LOW, f0_ceil=HIGH, frame_period=1000 * HOP / RATE)
        refined = pyworld.stonemask(piece, f0, times, RATE)[first - start : first - start + min(step, count - first)]
        found[first : first + len(refined)] = refined
    return found
