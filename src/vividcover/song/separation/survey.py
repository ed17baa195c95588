"""First pass: what the whole song is like, cheaply. The choice of a recipe and the song's thresholds come from here."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vividcover.song.pcm import RATE, Signal
from vividcover.song.separation import melody, stft
from vividcover.song.separation.stft import Real
from vividcover.song.separation.workers import Check

EDGES = (0.0, 75.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12000.0, 22050.0)  # Hz, of the survey's bands
BANDS = len(EDGES) - 1


@dataclass(frozen=True)
class Survey:
    """Frame by frame, every HOP samples. About 20 kB per second of song."""

    salience: NDArray[np.float16]  # [T, PITCHES], of the mid signal, in the song's own units
    mid: Real  # [T, BANDS], energy of (left + right) / 2
    side: Real  # [T, BANDS], energy of (left - right) / 2
    comb: Real  # [T], fraction of the energy at 75..5000 Hz on the harmonics of the frame's strongest pitch

    @staticmethod
    def join(parts: list[Survey]) -> Survey:
        return Survey(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Survey)))


def survey_block(signal: Signal, check: Check) -> Survey:
    """Surveys samples [2, stft.span] of some consecutive frames."""
    left, right = stft.analyse(signal)
    mid, side = np.abs(left + right) / 2, np.abs(left - right) / 2
    check()
    strength = melody.salience(mid)
    check()
    edges = [int(np.ceil(f * stft.SIZE / RATE)) for f in EDGES[:-1]]
    energy = np.square(mid)
    return Survey(
        strength.astype(np.float16),
        np.add.reduceat(energy, edges, axis=1),
        np.add.reduceat(np.square(side), edges, axis=1),
        comb_fraction(energy, melody.pitch_hz()[strength.argmax(1)]),
    )


def comb_fraction(energy: Real, f0: Real) -> Real:
    """Fraction [T] of the energy [T, BINS] at 75..5000 Hz near a harmonic of f0 [T], Hz."""
    low, high = int(75 * stft.SIZE / RATE), melody.LOW_BINS - 8
    bins = np.arange(low, high, dtype=np.float32)
    step = f0[:, None] * np.float32(stft.SIZE / RATE)
    order = np.maximum(np.round(bins / step), 1)
    near = np.abs(bins - order * step) <= np.maximum(2.5, 0.02 * bins)
    band = energy[:, low:high]
    result: Real = (band * near).sum(1) / np.maximum(band.sum(1), 1e-20)
    return result
