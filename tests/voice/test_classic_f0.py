"""The pitch tracker finds the sung note, not its octave, also under a band; and nothing where nobody sings."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.voice.classic import f0
from vividcover.voice.classic.features import FRAME, RATE, frame_count

Audio = NDArray[np.float32]


def voice(hertz: NDArray[np.float64], harmonics: int = 30) -> Audio:
    """A buzzing voice with formants around 600 and 1800 Hz at `hertz` [N] per sample."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    total = np.zeros(len(hertz))
    for number in range(1, harmonics):
        at = number * hertz
        strength = 1 / (1 + ((at - 600) / 250) ** 2) + 0.3 / (1 + ((at - 1800) / 300) ** 2) + 0.05
        total += np.where(at < RATE / 2.2, strength, 0) * np.sin(number * phase)
    return np.asarray(0.2 * total / np.abs(total).max(), dtype=np.float32)


def tracked(signal: Audio) -> NDArray[np.float32]:
    strength, level = f0.strengths(signal, RATE, frame_count(len(signal)), FRAME)
    return f0.track(*f0.candidates(strength), level)


@pytest.mark.parametrize("hertz", [70.0, 110.0, 220.0, 440.0, 880.0])
def test_a_held_note_is_found_within_ten_cents_from_bass_to_soprano(hertz: float) -> None:
    found = tracked(voice(np.full(RATE, hertz)))[10:-10]
    assert (found > 0).all()
    assert np.abs(1200 * np.log2(found / hertz)).max() < 10


def test_a_glide_over_an_octave_never_jumps() -> None:
    wanted = 150 * 2 ** np.linspace(0, 1, 2 * RATE)
    found = tracked(voice(wanted))[10:-10]
    truth = np.interp(np.arange(10, 10 + len(found)) * FRAME * RATE, np.arange(len(wanted)), wanted)
    assert np.abs(1200 * np.log2(found / truth)).max() < 60


def test_the_band_bleeding_through_does_not_pull_the_note_away() -> None:
    chance = np.random.default_rng(1)
    times = np.arange(2 * RATE) / RATE
    band = sum(np.sin(2 * np.pi * f * times + f) for f in (82.4, 98.0, 123.5)) + 0.5 * chance.standard_normal(
        len(times)
    )
    found = tracked(voice(np.full(2 * RATE, 233.0)) + 0.006 * np.asarray(band, dtype=np.float32))
    voiced = found[found > 0]
    assert len(voiced) > 0.8 * len(found)
    assert np.mean(np.abs(1200 * np.log2(voiced / 233)) < 50) > 0.98


def test_noise_and_silence_have_no_pitch() -> None:
    chance = np.random.default_rng(2)
    assert np.mean(tracked(0.1 * chance.standard_normal(RATE).astype(np.float32)) > 0) < 0.05
    assert not tracked(np.zeros(RATE, np.float32)).any()
