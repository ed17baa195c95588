"""Which pitch is sung when: harmonic-sum salience with penalties between the harmonics, then the smoothest strong path.

Salience after Hermes, "Measurement of pitch by subharmonic summation" (JASA 1988), with the valleys of Camacho and
Harris, "A sawtooth waveform inspired pitch estimator" (JASA 2008) against octave errors; path by Viterbi.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from vividcover.song.pcm import RATE
from vividcover.song.separation.stft import SIZE, Real
from vividcover.song.separation.workers import Check

LOWEST, HIGHEST = 75.0, 1000.0  # Hz, of a singing voice
PER_OCTAVE = 60  # pitch bins, 20 cents each
PITCHES = int(np.log2(HIGHEST / LOWEST) * PER_OCTAVE) + 1
HARMONICS = 20
DECAY = 0.92  # weight of each harmonic over the one below
VALLEY = 0.1  # weight of the valleys between harmonics
TOP = 5000.0  # Hz, highest partial that counts
LOW_BINS = int(TOP * SIZE / RATE) + 8  # bins of a frame that the salience looks at
FLOOR_BINS = 31  # width of the moving mean that is taken off: whitening
STEP = 0.004  # cost of a move by one pitch bin per frame, in units of a strong salience
LEAP = 1.5  # cost of any leap
CHECK = 512  # frames between two looks at the cancel flag
REACH = 12  # pitch bins per frame that a glide or a vibrato may move


def pitch_hz() -> Real:
    """Frequencies of the pitch bins, [PITCHES] in Hz."""
    return (LOWEST * 2 ** (np.arange(PITCHES) / PER_OCTAVE)).astype(np.float32)


@lru_cache
def _kernel() -> Real:
    """[LOW_BINS, PITCHES]: weights of the whitened spectrum's bins in each pitch's salience."""
    bins = np.arange(LOW_BINS)
    kernel = np.zeros((LOW_BINS, PITCHES))
    for p, f0 in enumerate(pitch_hz().astype(float) * SIZE / RATE):  # in bins
        for h2 in range(1, 2 * HARMONICS + 2):
            centre, width = h2 * f0 / 2, max(1.2, 0.012 * h2 * f0 / 2)
            if centre > TOP * SIZE / RATE:
                break
            tent = np.maximum(1 - np.abs(bins - centre) / width, 0)
            weight = DECAY ** (h2 / 2 - 1) * (1.0 if h2 % 2 == 0 else -VALLEY)
            kernel[:, p] += weight * tent / max(tent.max(), 1e-9)
    return np.ascontiguousarray(kernel, dtype=np.float32)


def whiten(magnitude: Real) -> Real:
    """Root magnitudes [T, LOW_BINS] above their moving mean over frequency: peaks stand out, tilt goes."""
    root = np.sqrt(magnitude[:, :LOW_BINS])
    root -= uniform_filter1d(root, FLOOR_BINS, axis=1)
    return np.maximum(root, 0, out=root)


def salience(magnitude: Real) -> Real:
    """Strength of each pitch in each frame, [T, PITCHES] >= 0, from magnitudes [T, >= LOW_BINS]."""
    result: Real = np.maximum(whiten(magnitude) @ _kernel(), 0)
    return result


def track(strength: Real, check: Check) -> NDArray[np.int64]:
    """The pitch bins [T] of the path that is strongest and smoothest, from saliences [T, PITCHES] scaled to about 1."""
    frames = len(strength)
    if frames == 0:
        return np.zeros(0, np.int64)
    back = np.empty((frames, PITCHES), np.int16)
    moves = np.arange(-REACH, REACH + 1)
    cost = (STEP * np.abs(moves))[:, None].astype(np.float32)
    own = np.arange(PITCHES)
    padded = np.full(PITCHES + 2 * REACH, -np.inf, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, PITCHES)
    score = strength[0].copy()
    for t in range(1, frames):
        if t % CHECK == 0:
            check()
        padded[REACH:-REACH] = score
        options = windows - cost
        move = options.argmax(0)
        best = options[move, own]
        origin = own + moves[move]
        leap = int(score.argmax())
        leaps = score[leap] - LEAP > best
        back[t] = np.where(leaps, leap, origin)
        score = np.where(leaps, score[leap] - LEAP, best) + strength[t]
    path = np.empty(frames, np.int64)
    path[-1] = int(score.argmax())
    for t in range(frames - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


def refine(strength: Real, path: NDArray[np.int64]) -> Real:
    """Frequencies [T] in Hz: the path's bins moved to the top of the parabola through their neighbours."""
    middle = np.clip(path, 1, PITCHES - 2)
    t = np.arange(len(path))
    a, b, c = strength[t, middle - 1], strength[t, middle], strength[t, middle + 1]
    curve = a - 2 * b + c
    shift = np.where(curve < -1e-9, 0.5 * (a - c) / np.minimum(curve, -1e-9), 0.0)
    result: Real = (LOWEST * 2 ** ((middle + np.clip(shift, -0.5, 0.5)) / PER_OCTAVE)).astype(np.float32)
    return result
