"""What is done to the waveform: pitch moved without moving formants, filters that add no click, exact lengths."""

from __future__ import annotations

import numpy as np
import pytest

from vividcover.voice.classic import f0, sound
from vividcover.voice.classic.features import BANDS, FRAME, RATE, envelope, frame_count

SECOND = np.arange(RATE) / RATE


def buzz(hertz: float) -> np.ndarray:
    signal = sum(
        np.sin(2 * np.pi * n * hertz * SECOND) / (1 + ((n * hertz - 700) / 300) ** 2)
        for n in range(1, int(8000 / hertz))
    )
    return (0.1 * signal).astype(np.float32)


def pitch_of(signal: np.ndarray) -> np.ndarray:
    strength, level = f0.strengths(signal, RATE, frame_count(len(signal)), FRAME)
    return f0.track(*f0.candidates(strength), level)


@pytest.mark.parametrize("semitones", [-12, -5, 3, 12])
def test_a_moved_pitch_is_the_wanted_one_and_keeps_length_and_formant(semitones: int) -> None:
    signal = buzz(180.0)
    pitch = pitch_of(signal)
    moved = sound.shift_pitch(signal, pitch, 2 ** (semitones / 12))
    assert len(moved) == len(signal)
    wanted = 180 * 2 ** (semitones / 12)
    found = pitch_of(moved)[15:-15]
    assert abs(1200 * np.log2(np.median(found[found > 0]) / wanted)) < 20
    before = envelope(signal, pitch)[20:-20].mean(0)
    after = envelope(moved, pitch_of(moved))[20:-20].mean(0)
    assert abs(int(before.argmax()) - int(after.argmax())) <= 5  # bands of 33 Hz there


def test_a_flat_difference_changes_nothing() -> None:
    signal = np.stack([buzz(200.0), 0.5 * buzz(150.0)])
    filtered = sound.apply_envelope(signal, np.zeros((frame_count(RATE), BANDS), np.float32))
    assert filtered.shape == signal.shape
    assert np.abs(filtered - signal).max() < 1e-4


def test_a_constant_difference_is_a_gain() -> None:
    signal = buzz(200.0)[None]
    filtered = sound.apply_envelope(signal, np.full((frame_count(RATE), BANDS), 2 * np.log(2), np.float32))
    assert np.abs(filtered - 2 * signal).max() < 1e-3


def test_silence_stays_silent_through_every_step() -> None:
    nothing = np.zeros(RATE, np.float32)
    pitch = np.full(frame_count(RATE), 200.0, np.float32)
    assert not sound.shift_pitch(nothing, pitch, 2.0).any()
    assert not sound.apply_envelope(nothing[None], np.ones((frame_count(RATE), BANDS), np.float32)).any()
