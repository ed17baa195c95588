"""What is added to a singer's envelopes: trials mend what is lacking, kind by kind; one odd frame moves nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.voice.classic import singer as singing
from vividcover.voice.classic.features import band_centres
from vividcover.voice.classic.mapping import ORDER, bands_of, cepstra, moments
from vividcover.voice.classic.model import Voice
from vividcover.voice.classic.network import L, Network, in_context
from vividcover.voice.classic.singer import Heard, audible, corrected, difference, held_below_pitch, study

Array = NDArray[np.float32]


def frames(count: int, seed: int, offset: float = 0.0) -> tuple[Array, NDArray[np.bool_]]:
    """Smooth made-up bands [count, BANDS] with four sounds, and their voicing: every fifth run is unvoiced."""
    chance = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(count // 20 + 1) % 4, 20)[:count]
    sounds = np.random.default_rng(1).normal(0, 3, (4, ORDER)) / (1 + np.arange(ORDER))
    values = sounds[kinds] + chance.normal(0, 0.15, (count, ORDER)) + offset / (1 + np.arange(ORDER))
    voiced = np.repeat(np.arange(count // 20 + 1) % 5 != 4, 20)[:count]
    return bands_of(values.astype(np.float32)), voiced


@pytest.fixture(scope="module")
def voice() -> Voice:
    bands, voiced = frames(2000, seed=2, offset=2.0)
    sizes = (in_context(np.zeros((1, ORDER), np.float32), np.ones(1, bool)).shape[1], *L.hidden, ORDER - 1)
    chance = np.random.default_rng(3)
    weights = tuple(chance.normal(0, 0.05, size).astype(np.float32) for size in pairwise(sizes))
    network = Network(weights, tuple(np.zeros(size, np.float32) for size in sizes[1:]))
    return Voice({"f0_hz": {"median": 180.0}}, bands, voiced, moments(cepstra(bands), voiced), network)


def test_a_trial_mends_the_voiced_sounds_of_a_song_without_unvoiced_ones(voice: Voice) -> None:
    bands, _ = frames(600, seed=4)
    voiced = np.arange(600) >= 20  # a legato song: hardly any consonant
    known = study(Heard(bands, voiced, 7.5), voice)
    found = corrected(known, cepstra(bands), voiced, voice)
    assert found.shift is not None
    assert found.spread is not None
    lacking = voice.moments.mean[1] - cepstra(bands)[voiced].mean(0)
    assert np.allclose(found.shift[1], singing.TRIAL_SHARE * lacking, atol=1e-3)
    assert not found.shift[0].any()  # of twenty unvoiced frames nothing can be said
    assert (found.spread[0] == 1).all()


def test_every_trial_leaves_less_to_mend(voice: Voice) -> None:
    bands, voiced = frames(400, seed=5)
    known = study(Heard(bands, voiced, 7.5), voice)
    apart = []
    for _ in range(4):
        sung = cepstra(bands + difference(bands, voiced, known, voice, 0.5))
        apart.append(float(np.abs(voice.moments.mean[1] - sung[voiced].mean(0))[1:].mean()))
        known = corrected(known, sung, voiced, voice)
    assert apart[3] < 0.6 * apart[0]


def test_sounds_that_are_alike_go_alike_though_a_neighbour_is_wrong(
    voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands, voiced = frames(400, seed=6)
    known = study(Heard(bands, voiced, 7.5), voice)
    stray = voice.frames.copy()
    stray[::40] += bands_of(np.random.default_rng(7).normal(0, 2, (len(stray[::40]), ORDER)).astype(np.float32))
    other = replace(voice, frames=stray)
    astray = {}
    for alike in (1, singing.ALIKE):
        monkeypatch.setattr(singing, "ALIKE", alike)
        moved, strayed = (difference(bands, voiced, known, v, 0.5) for v in (voice, other))
        astray[alike] = float(np.sqrt(np.mean((moved - strayed) ** 2)))
    assert astray[singing.ALIKE] < 0.8 * astray[1]


def test_without_strength_the_recorded_frames_are_not_asked(voice: Voice) -> None:
    bands, voiced = frames(300, seed=8)
    known = study(Heard(bands, voiced, 7.5), voice)
    deaf = replace(voice, frames=np.full_like(voice.frames, np.nan))
    assert np.isfinite(difference(bands, voiced, known, deaf, 0.0)).all()


def test_of_a_moment_nothing_can_be_said(voice: Voice) -> None:
    bands, voiced = frames(60, seed=9)
    unknown = study(Heard(bands, voiced, 7.5), voice)
    assert not unknown.known
    assert not difference(bands, voiced, unknown, voice, 0.5).any()


def test_below_the_fundamental_nothing_is_raised_and_nothing_is_missed(voice: Voice) -> None:
    bands, _ = frames(40, seed=10)
    pitch = np.where(np.arange(40) < 20, 400, 0).astype(np.float32)
    low = band_centres() < 300
    change = np.where(low, 9, 1).astype(np.float32) * np.ones((40, 1), np.float32)
    held = held_below_pitch(change, pitch)
    assert (held[:20] == 1).all()
    assert (held[20:] == change[20:]).all()
    hollow = np.where(low, bands - 9, bands)  # as the sound of an octave higher is
    assert np.allclose(audible(hollow, pitch, voice)[:20], audible(bands, pitch, voice)[:20])
    assert (audible(hollow, pitch, voice)[20:] == hollow[20:]).all()
