"""From a singer to the voice: what is worked out once per song, and the envelope difference of any frame after that.

    1  warp     the singer's vocal-tract length is brought to the voice's
    2  moments  mean and deviation of every cepstrum, voiced and unvoiced apart
    3  network  the voice's own network corrects each sound in its context (`network.py`)

The correction is smoothed in time and added to step 2, so the singer's own articulation stays. Looking up the nearest
recorded frames on top (as RVC's index does) was measured and turned down: +0.01 in likeness for -0.09 in clarity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vividcover.voice.classic.features import Array
from vividcover.voice.classic.mapping import Moments, bands_of, cepstra, find_warp, match, moments, warp_matrix
from vividcover.voice.classic.model import Voice
from vividcover.voice.classic.network import normalise

Mask = NDArray[np.bool_]
SMOOTH = 2.0  # frames of 10 ms, deviation of the smoothing of the correction, at half strength and below
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


def difference(bands: Array, voiced: Mask, singer: Singer, voice: Voice, strength: float) -> Array:
    """Log power to add to bands [T, BANDS] of the singer to make them the voice's.

    `strength` 0..1: 0 only moments, 0.5 with the smoothed correction of the network, 1 with all its detail.
    """
    if not singer.known:
        return np.zeros_like(bands)
    own = cepstra(bands)
    warped = cepstra(bands @ warp_matrix(singer.alpha))
    wanted = match(warped, voiced, singer.own, voice.moments)
    if strength > 0:
        correction = _correction(normalise(warped, voiced, singer.own), voiced, singer, voice)
        smooth = SMOOTH * min(1.0, 2 - 2 * strength)
        if smooth > 0.1:
            correction = gaussian_filter1d(correction, smooth, axis=0)
        wanted[:, 1:] += min(1.0, 2 * strength) * correction * voice.moments.deviations(voiced)[:, 1:]
    wanted[:, 0] = own[:, 0]
    return bands_of(wanted - own)


def _correction(normal: Array, voiced: Mask, singer: Singer, voice: Voice) -> Array:
    """What the network changes in normalised cepstra 1…, its damped variation made lively again: [T, ORDER - 1]."""
    answers = voice.network(normal, voiced)
    middle = singer.answers.means(voiced)[:, 1:]
    lively = np.clip(1 / singer.answers.deviations(voiced)[:, 1:], *LIVELY) ** LIVELINESS
    return np.asarray((answers - middle) * lively + middle - normal[:, 1:], dtype=np.float32)
