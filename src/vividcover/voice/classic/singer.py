"""From a singer to the voice: what is worked out once per song, and the envelope difference of any frame after that.

    1  warp     the singer's vocal-tract length is brought to the voice's
    2  moments  mean and deviation of every cepstrum, voiced and unvoiced apart
    3  network  the voice's own network corrects each sound in its context (`network.py`)
    4  nearest  part of the way to the nearest recorded sounds of the voice; sounds that are alike in the song go alike,
                so that one wrong neighbour does not change a word
    5  trials   mean and deviation that trials of the finished sound still lack

Corrections are smoothed in time and added to step 2, so the singer's own articulation stays. Steps 3 and 4 grow with
the strength: they buy likeness with clarity. Steps 2 and 5 hardly cost any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vividcover.voice.classic.features import Array, below_pitch
from vividcover.voice.classic.mapping import SPREAD, Moments, bands_of, cepstra, find_warp, moments, warp_matrix
from vividcover.voice.classic.model import Voice
from vividcover.voice.classic.network import normalise

Mask = NDArray[np.bool_]
SMOOTH = 1.0  # frames of 10 ms, deviation of the smoothing of the network's correction, and
NEAR_SMOOTH = 1.0  # of the step towards the nearest frames
REACH = 1.3  # times the network's correction, from half strength on
NEAR_REACH = 2.0  # of the way to the nearest frames at full strength; what exceeds 1 is a second step
NEAREST = 4  # frames whose mean is approached
ALIKE = 24  # frames of the song over whose steps each step is averaged: those that look most like it
SEEN, BESIDE, BESIDE_WEIGHT, VOICING_WEIGHT = 12, 5, 0.5, 3.0  # cepstra, frames to each side, weights: what is near
TRIAL_SHARE = 0.8  # of what a trial finds lacking that is added
TRIAL_SPREAD, TRIAL_LIVELINESS = (0.7, 1.5), 0.56  # limits of the ratio of deviations, and its exponent
TRIALS_SPREAD = (0.6, 2.0)  # limits of what all trials together make of the deviations
LIVELY = (1.0, 2.0)  # limits of what the network's damped variation is multiplied by
LIVELINESS = 0.7  # exponent: 1 would restore the voice's whole variance
ENOUGH = 100  # frames: with fewer nothing can be said of a singer


@dataclass(frozen=True)
class Singer:
    """The warp, the singer's moments after it, and the network's answers'; not `known` without evidence."""

    alpha: float
    own: Moments
    answers: Moments
    known: bool = True
    shift: Array | None = None  # what the trial found: added to the means, [2, ORDER]
    spread: Array | None = None  # and factors of the deviations


@dataclass(frozen=True)
class Heard:
    """The frames listened to: bands [N, BANDS], voicing [N], and the octave of the median pitch (log2 Hz)."""

    bands: Array
    voiced: Mask
    octave: float


def study(heard: Heard, voice: Voice) -> Singer:
    """Everything about the singer; a singer of whom too little was heard is left as they are."""
    if len(heard.bands) < ENOUGH:
        return Singer(1.0, voice.moments, voice.moments, known=False)
    rise = float(np.log2(voice.card["f0_hz"]["median"])) - heard.octave
    alpha = find_warp(heard.bands, heard.voiced, voice.frames, voice.voiced, rise)
    warped = cepstra(heard.bands @ warp_matrix(alpha))
    own = moments(warped, heard.voiced)
    answers = voice.network(normalise(warped, heard.voiced, own), heard.voiced)
    return Singer(alpha, own, moments(np.pad(answers, ((0, 0), (1, 0))), heard.voiced))


def corrected(singer: Singer, values: Array, voiced: Mask, voice: Voice) -> Singer:
    """The singer with what cepstra [N, ORDER] of the finished sound lack of the voice's moments.

    It comes on top of what earlier trials found; a kind of frame, voiced or not, that is rare is left as it is.
    """
    sung = moments(values, voiced)
    enough = np.array([[np.count_nonzero(voiced == kind) >= ENOUGH // 2] for kind in (False, True)])
    lacking = np.where(enough, TRIAL_SHARE * (voice.moments.mean - sung.mean), 0)
    ratio = np.clip(voice.moments.deviation / sung.deviation, *TRIAL_SPREAD) ** TRIAL_LIVELINESS
    shift = lacking + (0 if singer.shift is None else singer.shift)
    spread = np.clip(np.where(enough, ratio, 1) * (1 if singer.spread is None else singer.spread), *TRIALS_SPREAD)
    return replace(singer, shift=shift.astype(np.float32), spread=spread.astype(np.float32))


def difference(bands: Array, voiced: Mask, singer: Singer, voice: Voice, strength: float) -> Array:
    """Log power to add to bands [T, BANDS] of the singer to make them the voice's.

    `strength` 0..1: at 0 only moments; the network's whole correction from 0.5 on, the nearest frames ever more.
    """
    if not singer.known:
        return np.zeros_like(bands)
    own = cepstra(bands)
    normal = normalise(cepstra(bands @ warp_matrix(singer.alpha)), voiced, singer.own)
    ratio = np.clip(voice.moments.deviation / singer.own.deviation, *SPREAD) / (
        voice.moments.deviation / singer.own.deviation
    )
    wanted = (normal * ratio[voiced.astype(int)])[:, 1:]
    if strength > 0:
        correction = gaussian_filter1d(_correction(normal, voiced, singer, voice), SMOOTH, axis=0)
        wanted = wanted + REACH * min(1.0, 2 * strength) * correction
        wanted = _approach(wanted, voiced, voice, NEAR_REACH * strength)
    moved = own.copy()
    moved[:, 1:] = wanted * voice.moments.deviations(voiced)[:, 1:] + voice.moments.means(voiced)[:, 1:]
    if singer.shift is not None and singer.spread is not None:
        kind = voiced.astype(int)
        lively = (moved - voice.moments.means(voiced)) * (singer.spread[kind] - 1)
        moved[:, 1:] += (lively + singer.shift[kind])[:, 1:]
    return bands_of(moved - own)


def held_below_pitch(change: Array, pitch: Array) -> Array:
    """Changes [T, BANDS] that raise nothing below the fundamental, `pitch` [T] Hz, more than it: rumble lies there."""
    below, first = below_pitch(pitch)
    return np.where(below, np.minimum(change, np.take_along_axis(change, first, 1)), change)


def audible(bands: Array, pitch: Array, voice: Voice) -> Array:
    """Bands [T, BANDS] of sung sound of which nothing below the fundamental can be blamed: there they are as wanted."""
    below, first = below_pitch(pitch)
    wanted = bands_of(voice.moments.mean[1:])[0]
    return np.where(below, wanted + np.take_along_axis(bands, first, 1) - wanted[first], bands)


def _approach(wanted: Array, voiced: Mask, voice: Voice, reach: float) -> Array:
    """Normalised cepstra 1… [T, ORDER - 1] moved towards the mean of the nearest recorded frames."""
    if reach <= 0:
        return wanted
    recorded = normalise(cepstra(voice.frames.astype(np.float32)), voice.voiced, voice.moments)[:, 1:]
    index = _looks(recorded, voice.voiced)
    looks = _looks(wanted, voiced)
    alike = _nearest(looks, looks, ALIKE)
    while reach > 0:
        step = _mean_of(recorded, _nearest(_looks(wanted, voiced), index, NEAREST)) - wanted
        step = gaussian_filter1d(_mean_of(step, alike), NEAR_SMOOTH, axis=0)
        wanted = wanted + np.float32(min(1.0, reach)) * step
        reach -= 1
    return wanted


def _looks(values: Array, voiced: Mask) -> Array:
    """By what frames are found: smoothed cepstra, those before and after, voicing: [T, 3·SEEN + 1]."""
    smooth = gaussian_filter1d(values[:, :SEEN], 1.0, axis=0)
    places = np.arange(len(smooth))
    beside = [BESIDE_WEIGHT * smooth[np.clip(places + k, 0, len(smooth) - 1)] for k in (-BESIDE, BESIDE)]
    sign = VOICING_WEIGHT * (2 * voiced[:, None] - 1)
    return np.concatenate([smooth, *beside, sign], axis=1).astype(np.float32)


def _nearest(queries: Array, index: Array, count: int) -> NDArray[np.int64]:
    """Places of the `count` nearest rows of `index` for every query: [T, count], in no order."""
    size = (index**2).sum(1)
    count = min(count, len(index))
    parts = np.array_split(queries, max(1, len(queries) // 64))  # for memory: the distances to all of `index` are many
    found = [np.argpartition(size - 2 * p @ index.T, count - 1, axis=1)[:, :count].copy() for p in parts]
    return np.concatenate(found)


def _mean_of(values: Array, places: NDArray[np.int64]) -> Array:
    """Mean of the rows of `values` [N, D] at `places` [T, K]: [T, D]."""
    return np.asarray(values[places].mean(axis=1))


def _correction(normal: Array, voiced: Mask, singer: Singer, voice: Voice) -> Array:
    """What the network changes in normalised cepstra 1…, its damped variation made lively again: [T, ORDER - 1]."""
    answers = voice.network(normal, voiced)
    middle = singer.answers.means(voiced)[:, 1:]
    lively = np.clip(1 / singer.answers.deviations(voiced)[:, 1:], *LIVELY) ** LIVELINESS
    return np.asarray((answers - middle) * lively + middle - normal[:, 1:], dtype=np.float32)
