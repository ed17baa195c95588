"""From one singer's envelopes to the other's: vocal-tract warp, matched moments. Arrays only, no files.

Envelopes are log band powers [T, BANDS] of `features.envelope`. They are handled as cepstra: the cosine transform along
the bands, of which the first is loudness and stays the song's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from vividcover.voice.classic.features import BANDS, Array, band_centres, mel

ORDER = 32  # cepstra that are learnt and moved: what lies above is the song's own detail
SPREAD = (0.6, 1.6)  # limits of the ratio of deviations, target / source
ALPHA = (0.85, 1.18)  # limits of the vocal-tract warp: about the span between adult men and women
ALPHA_STEPS = 13
ALPHA_PRIOR = 0.35  # weight of (ln alpha / 0.15)² against the relative distance: no warp without evidence
NEIGHBOURS = 4
CONTEXT = (-6, 0, 6)  # frames of 10 ms seen together when frames are compared
INDEX = 3000  # target frames and
QUERIES = 600  # source frames that the warp is judged on


@lru_cache(maxsize=1)
def _cosines() -> Array:
    """Orthonormal DCT-II [BANDS, ORDER]."""
    return np.ascontiguousarray(dct(np.eye(BANDS), axis=1, norm="ortho")[:, :ORDER], dtype=np.float32)


def cepstra(bands: Array) -> Array:
    """[T, BANDS] → [T, ORDER]."""
    return np.asarray(bands @ _cosines(), dtype=np.float32)


def bands_of(cepstra_: Array) -> Array:
    """[T, ORDER] → [T, BANDS]."""
    return np.asarray(cepstra_ @ _cosines().T, dtype=np.float32)


def warp_matrix(alpha: float) -> Array:
    """Right-multiply bands [T, BANDS] to let the band at f take what lay at f·alpha: alpha < 1 raises the formants."""
    centres = band_centres()
    at = np.interp(mel(centres * alpha), mel(centres), np.arange(BANDS))
    low = np.minimum(at.astype(int), BANDS - 2)
    matrix = np.zeros((BANDS, BANDS), np.float32)
    matrix[low, np.arange(BANDS)] = 1 - (at - low)
    matrix[low + 1, np.arange(BANDS)] += at - low
    return matrix


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of the cepstra, unvoiced [0] and voiced [1]: [2, ORDER] each."""

    mean: Array
    deviation: Array

    def means(self, voiced: NDArray[np.bool_]) -> Array:
        return np.asarray(self.mean[voiced.astype(int)])

    def deviations(self, voiced: NDArray[np.bool_]) -> Array:
        return np.asarray(self.deviation[voiced.astype(int)])


def moments(values: Array, voiced: NDArray[np.bool_]) -> Moments:
    """Of cepstra [T, ORDER]; where one kind has too few frames, both kinds' together stand for it."""
    kinds = [values[voiced == kind] if np.count_nonzero(voiced == kind) >= 50 else values for kind in (False, True)]
    return Moments(
        np.stack([kind.mean(0) for kind in kinds]).astype(np.float32),
        np.stack([kind.std(0) + 1e-3 for kind in kinds]).astype(np.float32),
    )


def match(values: Array, voiced: NDArray[np.bool_], source: Moments, target: Moments) -> Array:
    """Cepstra [T, ORDER] with the target's mean and deviation per dimension."""
    ratio = np.clip(target.deviations(voiced) / source.deviations(voiced), *SPREAD)
    return np.asarray((values - source.means(voiced)) * ratio + target.means(voiced), dtype=np.float32)


def find_warp(
    source: Array, source_voiced: NDArray[np.bool_], target: Array, target_voiced: NDArray[np.bool_]
) -> float:
    """The warp that brings the source's bands [T, BANDS] nearest to the target's, both normalised, with a prior."""
    index = _shapes(cepstra(target), target_voiced)
    index = index[:: max(1, len(index) // INDEX)]
    chosen = np.flatnonzero(source_voiced)
    chosen = chosen[:: max(1, len(chosen) // QUERIES)]
    alphas = np.exp(np.linspace(np.log(ALPHA[0]), np.log(ALPHA[1]), ALPHA_STEPS))
    distance = np.array(
        [_distance(_shapes(cepstra(source @ warp_matrix(a)), source_voiced)[chosen], index) for a in alphas]
    )
    cost = distance / distance.min() + ALPHA_PRIOR * (np.log(alphas) / 0.15) ** 2
    best = int(cost.argmin())
    if 0 < best < ALPHA_STEPS - 1:
        left, middle, right = cost[best - 1 : best + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        return float(np.exp(np.log(alphas[best]) + shift * np.log(alphas[1] / alphas[0])))
    return float(alphas[best])


def _shapes(values: Array, voiced: NDArray[np.bool_]) -> Array:
    """Speaker-normalised cepstra 1..13 with the voicing, in context: [T, 14·len(CONTEXT)]."""
    normal = ((values - values.mean(0)) / (values.std(0) + 1e-3))[:, 1:14]
    frame = np.concatenate([normal, 2 * voiced[:, None].astype(np.float32) - 1], axis=1)
    places = np.arange(len(frame))
    return np.concatenate([frame[np.clip(places + offset, 0, len(frame) - 1)] for offset in CONTEXT], axis=1)


def _distance(queries: Array, index: Array) -> float:
    """Mean squared distance to the nearest neighbours."""
    squared = (queries**2).sum(1)[:, None] + (index**2).sum(1)[None] - 2 * queries @ index.T
    return float(np.partition(squared, NEIGHBOURS, axis=1)[:, :NEIGHBOURS].mean())
