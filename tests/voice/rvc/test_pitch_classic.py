"""Pitch without a net: autocorrelation beside Praat's, and WORLD's two in blocks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vividcover.voice.rvc.pitch import classic

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from seeded import signal

GOLDEN = np.load(Path(__file__).parents[2] / "oracles" / "golden_pitch_pm.npz")


def glide(low, high, seconds=1.0):
    """A voice of 30 harmonics that rises from `low` to `high` Hz, and its pitch every 10 ms."""
    time = np.arange(int(seconds * 16000)) / 16000
    f0 = low * (high / low) ** (time / seconds)
    phase = 2 * np.pi * np.cumsum(f0) / 16000
    voice = sum((f0 * n < 7500) / n * np.sin(n * phase) for n in range(1, 31))
    return (0.2 * voice).astype(np.float32), np.append(f0, f0[-1])[::160]


def test_autocorrelation_is_praats():
    """Two seconds of the test voice: Praat's frames are ours. Praat: 137 of 200 frames voiced."""
    f0, praat = classic.pm(signal(2.0, 16000))[:200], GOLDEN["f0"]
    assert np.mean((f0 > 0) == (praat > 0)) > 0.97
    both = (f0 > 0) & (praat > 0)
    assert both.sum() > 130
    cents = np.abs(1200 * np.log2(f0[both] / praat[both]))
    assert np.median(cents) < 0.01 and cents.max() < 1


@pytest.mark.parametrize("method", [classic.pm, classic.dio, classic.harvest])
@pytest.mark.parametrize(("low", "high"), [(70, 160), (150, 400), (400, 1000)])
def test_a_known_pitch_is_found(method, low, high):
    sound, truth = glide(low, high)
    f0 = method(sound)
    assert f0.dtype == np.float32 and f0.shape == truth.shape
    inner = slice(10, -10)
    assert (f0[inner] > 0).mean() > 0.97
    voiced = f0[inner] > 0
    assert np.median(np.abs(1200 * np.log2(f0[inner][voiced] / truth[inner][voiced]))) < 4


def test_worlds_methods_in_blocks_are_those_on_the_whole(monkeypatch):
    """DIO to the last digit. Harvest's candidates hang on the length of its transforms: 98 % within 0.01 Hz."""
    sound = signal(4.0, 16000, 2)
    whole = {method: method(sound) for method in (classic.dio, classic.harvest)}
    monkeypatch.setattr(classic, "PIECE", 2)
    monkeypatch.setattr(classic, "OVERLAP", 1)
    np.testing.assert_allclose(classic.dio(sound), whole[classic.dio], atol=1e-3)
    assert np.mean(np.abs(classic.harvest(sound) - whole[classic.harvest]) < 0.01) > 0.98


def test_autocorrelation_in_blocks_is_that_on_the_whole(monkeypatch):
    sound = signal(3.0, 16000, 4)
    whole = classic.pm(sound)
    monkeypatch.setattr(classic, "BLOCK", 37)
    np.testing.assert_array_equal(classic.pm(sound), whole)
