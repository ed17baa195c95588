"""Fundamental frequency of a voice: SWIPE' pitch strength, candidates, then one Viterbi path over the whole piece.

A. Camacho, J. G. Harris, "A sawtooth waveform inspired pitch estimator for speech and music", JASA 124(3), 2008:
the square-rooted spectrum is compared with a cosine kernel at the first and prime harmonics only, which is what keeps
sub-octaves weak. Windows of about 8 periods are approximated by three lengths. The path costs octave jumps dearly
(they are what listeners hear first) and prefers the range in which this singer mostly sings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pitch:
    """Numbers of the tracker."""

    rate: int = 11_025  # Hz, after decimation: harmonics up to 5 kHz carry the pitch
    hop: int = 110  # samples at `rate`; the frame's time is index·FRAME of features.py, see `frame_centres`
    low: float = 55.0  # Hz, below any sung note that matters (A1)
    high: float = 1150.0  # Hz, above soprano's C6 (1047 Hz)
    step: float = 20.0  # cents between candidates
    windows: tuple[int, ...] = (1024, 512, 256)  # samples at `rate`: 93, 46, 23 ms
    fft: int = 2048  # bins of 5.4 Hz for every window
    erb_step: float = 0.1  # ERB numbers between spectral samples, as in the paper
    candidates: int = 6  # peaks kept per frame
    voiced: float = 0.22  # strength (0..1) at which voiced and unvoiced cost the same
    jump: float = 0.55  # cost of a one-octave jump between neighbouring frames
    change: float = 0.22  # cost of switching voiced ↔ unvoiced
    range_weight: float = 0.012  # cost per (semitone / spread)² away from the singer's middle, see `track`
    gate: float = 50.0  # dB below the loud frames at which nothing is voiced


P = Pitch()
SLICE = 256  # frames handled at a time, for memory
STEADY, STEADY_WITHIN = 21, 0.35  # frames, and the deviation in semitones, of a held note or its vibrato
SPOKEN, SUNG = 0.15, 0.6  # share of held frames: eight people spoke with 0.01 to 0.04, two sang with 0.59 and 0.67


def grid() -> NDArray[np.float64]:
    """Candidate frequencies, Hz [C], ascending."""
    count = int(1200 * np.log2(P.high / P.low) / P.step) + 1
    return np.asarray(P.low * 2 ** (np.arange(count) * P.step / 1200), dtype=np.float64)


def _primes(limit: int) -> list[int]:
    return [1, *(n for n in range(2, limit + 1) if all(n % d for d in range(2, int(n**0.5) + 1)))]


@lru_cache(maxsize=1)
def _kernels() -> tuple[Array, Array, list[Array]]:
    """ERB sampling matrix [fft/2+1, E]; pitch kernels [E, C]; weight of each window per candidate, [C] each."""
    top = P.rate / 2 * 0.98
    erbs = np.arange(_erb(P.low / 4), _erb(top), P.erb_step)
    hertz = (10 ** (erbs / 21.4) - 1) * 229
    position = hertz / (P.rate / P.fft)
    base = np.minimum(position.astype(int), P.fft // 2 - 1)
    sampling = np.zeros((P.fft // 2 + 1, len(hertz)), np.float32)
    columns = np.arange(len(hertz))
    sampling[base, columns] = 1 - (position - base)
    sampling[base + 1, columns] += position - base

    centres = grid()
    kernels = np.zeros((len(hertz), len(centres)), np.float32)
    for index, f0 in enumerate(centres):
        q = hertz / f0
        kernel = np.zeros_like(q)
        for harmonic in _primes(max(1, int(top / f0 - 0.75))):
            away = np.abs(q - harmonic)
            peak, valley = away < 0.25, (away >= 0.25) & (away < 0.75)
            kernel[peak] = np.cos(2 * np.pi * q[peak])
            kernel[valley] += np.cos(2 * np.pi * q[valley]) / 2
        kernel *= np.sqrt(1 / hertz)
        kernels[:, index] = kernel / np.linalg.norm(np.maximum(kernel, 0))

    best = np.log2(8 * P.rate / centres)  # log2 of the ideal window
    sizes = np.log2(P.windows)
    weights = [np.maximum(0, 1 - np.abs(np.clip(best, sizes.min(), sizes.max()) - size)) for size in sizes]
    return sampling, kernels, [weight.astype(np.float32) for weight in weights]


def _erb(hertz: float) -> float:
    return 21.4 * float(np.log10(1 + hertz / 229))


def strengths(signal: NDArray[np.floating], rate: int, frames: int, hop: float) -> tuple[Array, Array]:
    """Pitch strength [frames, C], about -1..1, and level in dB [frames] of a mono signal; frame i at i·hop seconds."""
    low = soxr.resample(np.asarray(signal, np.float32), rate, P.rate) if rate != P.rate else signal
    sampling, kernels, weights = _kernels()
    centres = np.round(np.arange(frames) * hop * P.rate).astype(int)
    out = np.zeros((frames, kernels.shape[1]), np.float32)
    power = np.zeros(frames, np.float32)
    longest = max(P.windows)
    padded = np.pad(np.asarray(low, np.float32), (longest, longest + int(max(0, centres[-1] + 1 - len(low)))))
    for size, weight in zip(P.windows, weights):
        window = np.hanning(size + 1)[:size].astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)
        spectrum = np.empty((frames, P.fft // 2 + 1), np.float32)
        for t in range(0, frames, SLICE):
            pieces = windows[centres[t : t + SLICE] + longest - size // 2] * window
            if size == 512:
                power[t : t + SLICE] = np.mean(pieces**2, axis=1)
            spectrum[t : t + SLICE] = np.abs(np.fft.rfft(pieces, P.fft, axis=1))
        loudness = np.sqrt(spectrum @ sampling)
        loudness /= np.linalg.norm(loudness, axis=1, keepdims=True) + 1e-9
        used = weight > 0
        out[:, used] += (loudness @ kernels[:, used]) * weight[used]
    return out, (10 * np.log10(power + 1e-12)).astype(np.float32)


def candidates(strength: Array) -> tuple[Array, Array]:
    """The strongest peaks of each frame: log2 Hz and strength, [frames, K] each; missing ones have strength -1."""
    inner = strength[:, 1:-1]
    peak = (inner >= strength[:, :-2]) & (inner > strength[:, 2:])
    score = np.where(peak, inner, np.float32(-1))
    order = np.argsort(-score, axis=1, kind="stable")[:, : P.candidates]
    rows = np.arange(len(strength))[:, None]
    value, left, right = score[rows, order], strength[rows, order], strength[rows, order + 2]
    bend = left - 2 * inner[rows, order] + right
    shift = np.where(value > -1, 0.5 * (left - right) / np.where(np.abs(bend) < 1e-9, 1, bend), 0)
    octave = np.log2(P.low) + (order + 1 + np.clip(shift, -0.5, 0.5)) * P.step / 1200
    return octave.astype(np.float32), value.astype(np.float32)


def track(octave: Array, strength: Array, level: Array) -> Array:
    """The best path: f0 in Hz [frames], 0 where unvoiced. The first pass finds the singer's middle and spread."""
    first = _viterbi(octave, strength, level, None)
    voiced = first > 0
    if voiced.sum() < 20:
        return first
    tones = 12 * np.log2(first[voiced])
    middle = float(np.median(tones))
    spread = max(4.0, 1.4826 * float(np.median(np.abs(tones - middle))))
    return _viterbi(octave, strength, level, (middle, spread))


def _viterbi(octave: Array, strength: Array, level: Array, singer: tuple[float, float] | None) -> Array:
    frames, count = octave.shape
    loud = float(np.percentile(level, 95)) if frames else 0.0
    quiet = level < max(loud - P.gate, -75.0)
    local = P.voiced - np.asarray(strength, np.float64)
    if singer:
        local += P.range_weight * (np.maximum(np.abs(12 * octave - singer[0]) - singer[1], 0) / singer[1]) ** 2
    local[strength <= -1] = 9.0
    local[quiet] += 1.0
    cost = np.zeros(count + 1)  # last state: unvoiced
    back = np.zeros((frames, count + 1), np.int8)
    trans = np.full((count + 1, count + 1), P.change)
    trans[count, count] = 0.0
    here = np.zeros(count + 1)
    states = np.arange(count + 1)
    for t in range(frames):
        if t:
            leap = np.abs(octave[t - 1][:, None] - octave[t][None, :])
            trans[:count, :count] = P.jump * np.minimum(leap * (1 + 3 * (leap > 0.1)), 1.0)
            total = cost[:, None] + trans
            back[t] = total.argmin(0)
            cost = total[back[t], states]
        here[:count] = local[t]
        cost = cost + here
    path = np.zeros(frames, int)
    state = int(cost.argmin()) if frames else 0
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state = int(back[t, state])
    chosen = octave[np.arange(frames), np.minimum(path, count - 1)]
    return np.where(path < count, np.exp2(chosen), 0).astype(np.float32)


def sung_share(pitch: Array) -> float:
    """0 = spoken … 1 = sung, of a track [T] in Hz: how often the pitch is held for STEADY frames."""
    voiced = pitch > 0
    if len(pitch) < STEADY or not voiced.any():
        return 0.0
    notes = 12 * np.log2(np.where(voiced, pitch, 1))
    whole = sliding_window_view(voiced, STEADY).all(1)
    held = whole & (sliding_window_view(notes, STEADY).std(1) < STEADY_WITHIN)
    share = np.count_nonzero(held) / np.count_nonzero(voiced)
    return float(np.clip((share - SPOKEN) / (SUNG - SPOKEN), 0, 1))
