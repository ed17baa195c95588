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
ALPHA = (0.84, 1.19)  # limits of the vocal-tract warp: about the span between adult men and women
ALPHA_STEPS = 13
ALPHA_PRIOR = 0.03  # weight of ((ln alpha - expected) / ALPHA_SPREAD)² against the relative distance
ALPHA_SPREAD = 0.15  # deviation of ln(vocal-tract length) to be expected, and the most that pitch alone suggests
TRACT_PER_OCTAVE = 0.17  # ln(length ratio) per octave of pitch: men and women differ by 15 % and 0.8 octaves
SINGING_RISE = 0.25  # octaves by which people sing above their speaking pitch
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


def resample_matrix(frequencies: NDArray[np.float64]) -> Array:
    """Right-multiply bands [T, BANDS] to let each take what lay at `frequencies` [BANDS], Hz."""
    at = np.interp(mel(frequencies), mel(band_centres()), np.arange(BANDS))
    low = np.minimum(at.astype(int), BANDS - 2)
    matrix = np.zeros((BANDS, BANDS), np.float32)
    matrix[low, np.arange(BANDS)] = 1 - (at - low)
    matrix[low + 1, np.arange(BANDS)] += at - low
    return matrix


def warp_matrix(alpha: float) -> Array:
    """Lets the band at f take what lay at f·alpha: alpha < 1 raises the formants, as of a shorter vocal tract."""
    return resample_matrix(band_centres() * alpha)


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


def match(
    values: Array,
    voiced: NDArray[np.bool_],
    source: Moments,
    target: Moments,
    limits: tuple[float, float] | None = SPREAD,
) -> Array:
    """Cepstra [T, ORDER] with the target's mean and deviation per dimension; the ratio of deviations is limited."""
    ratio = target.deviations(voiced) / source.deviations(voiced)
    if limits:
        ratio = np.clip(ratio, *limits)
    return np.asarray((values - source.means(voiced)) * ratio + target.means(voiced), dtype=np.float32)


def find_warp(
    source: Array, source_voiced: NDArray[np.bool_], target: Array, target_voiced: NDArray[np.bool_], rise: float
) -> float:
    """The warp that brings the source's bands [T, BANDS] nearest to the target's, both normalised.

    `rise` is how many octaves the target speaks above the source's singing: it says what to expect, softly.
    """
    index = _shapes(cepstra(target), target_voiced)
    index = index[:: max(1, len(index) // INDEX)]
    chosen = np.flatnonzero(source_voiced)
    chosen = chosen[:: max(1, len(chosen) // QUERIES)]
    alphas = np.exp(np.linspace(np.log(ALPHA[0]), np.log(ALPHA[1]), ALPHA_STEPS))
    distance = np.array(
        [_distance(_shapes(cepstra(source @ warp_matrix(a)), source_voiced)[chosen], index) for a in alphas]
    )
    expected = np.clip(-TRACT_PER_OCTAVE * (rise + SINGING_RISE), -ALPHA_SPREAD, ALPHA_SPREAD)
    cost = distance / distance.min() + ALPHA_PRIOR * ((np.log(alphas) - expected) / ALPHA_SPREAD) ** 2
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
