"""Promises of song/pitchshift.py: the key moves exactly, and nothing else does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from making import RATE, lag, music, tone
from scipy.signal import hilbert, lfilter

from vividcover.errors import ParameterError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.pitchshift import shift_pitch


def shifted(x: np.ndarray, semitones: float, tmp_path: Path, **how: bool) -> np.ndarray:
    shift_pitch(write_pcm(tmp_path / "x.wav", x), tmp_path / "y.wav", semitones, **how)
    y, _ = read_pcm(tmp_path / "y.wav")
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    return y


@pytest.mark.parametrize("semitones", [-12, -5, -0.5, 1, 3.3, 7, 12])
@pytest.mark.parametrize("frequency", [82.4, 440.0, 3000.0])
def test_a_sine_moves_exactly_and_does_not_flutter(frequency: float, semitones: float, tmp_path: Path) -> None:
    y = shifted(tone(frequency, 2.0), semitones, tmp_path)
    analytic = hilbert(y[0].astype(float))[RATE // 2 : -RATE // 2]
    phase = np.unwrap(np.angle(analytic))
    found = np.polyfit(np.arange(len(phase)) / RATE, phase, 1)[0] / (2 * np.pi)
    assert 1200 * math.log2(found / frequency) == pytest.approx(100 * semitones, abs=1.0)  # cents
    swing = np.abs(analytic)
    assert 20 * math.log10(swing.max() / swing.min()) < 0.5
    assert np.median(swing) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("semitones", [-7, -2, 4, 12])
def test_clicks_stay_sharp_and_in_their_place(semitones: float, tmp_path: Path) -> None:
    x = np.zeros((2, 3 * RATE), np.float32)
    places = [RATE // 2 + 13_777 * i for i in range(7)]
    for place in places:
        x[:, place : place + 20] = 0.9 * np.hanning(20)
    y = shifted(x, semitones, tmp_path)
    for place in places:
        energy = y[0, place - 4_000 : place + 4_000].astype(float) ** 2
        spread = np.cumsum(energy) / energy.sum()
        early, late = np.searchsorted(spread, [0.05, 0.95])
        assert abs(int(np.argmax(energy)) - 4_010) < 0.002 * RATE
        assert late - early < 0.002 * RATE


def test_the_rhythm_of_music_stays(tmp_path: Path) -> None:
    x = music(4.0)
    y = shifted(x, 3, tmp_path)

    def loudness(s: np.ndarray) -> np.ndarray:
        return np.sqrt((s[:, : 4 * RATE].astype(float) ** 2).sum(0).reshape(-1, 441).mean(1))[None]

    assert abs(lag(loudness(x), loudness(y))) <= 1  # of 10 ms
    assert np.corrcoef(loudness(x)[0], loudness(y)[0])[0, 1] > 0.9
    assert loudness(y).mean() == pytest.approx(loudness(x).mean(), rel=0.1)


def test_both_sides_turn_together(tmp_path: Path) -> None:
    """What is the same on both sides stays so, and what is on one side only stays there."""
    x = music(2.0)
    both = np.stack([x[0], x[0]])
    y = shifted(both, 4, tmp_path)
    assert np.abs(y[0] - y[1]).max() < 1e-5
    left = np.stack([x[0], 0 * x[0]])
    assert not shifted(left, 4, tmp_path)[1].any()


def test_silence_stays_silent(tmp_path: Path) -> None:
    x = np.zeros((2, 3 * RATE), np.float32)
    assert not shifted(x, 5, tmp_path).any()
    x[:, :RATE] = tone(seconds=1.0)
    assert np.abs(shifted(x, 5, tmp_path)[:, RATE + RATE // 4 :]).max() < 1e-6


def test_no_change_changes_nothing_and_mono_works(tmp_path: Path) -> None:
    x = music(1.0)
    assert np.array_equal(shifted(x, 0, tmp_path), x)
    assert shifted(x[:1], -3, tmp_path).shape == (1, RATE)
    assert shifted(x[:, :500], 2, tmp_path).shape == (2, 500)


def test_a_voice_keeps_its_formants(tmp_path: Path) -> None:
    t = np.arange(2 * RATE) / RATE
    pitch = 200 * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * t))
    vowel = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0)
    for frequency, width in ((700, 80), (1200, 90), (2700, 120)):  # an "a"
        r = math.exp(-math.pi * width / RATE)
        vowel = lfilter([1 - r], [1, -2 * r * math.cos(2 * math.pi * frequency / RATE), r * r], vowel)
    x = np.stack([vowel / np.abs(vowel).max() * 0.5] * 2).astype(np.float32)

    def envelope(signal: np.ndarray) -> np.ndarray:
        """Mean spectral envelope in dB from 200 to 5000 Hz, by the cepstrum."""
        frames = np.lib.stride_tricks.sliding_window_view(signal[0], 2048)[::512] * np.hanning(2048)
        cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-9).mean(0))
        cepstrum[45:-44] = 0
        return 4.34 * np.fft.rfft(cepstrum).real[10:232]

    def change(**how: bool) -> float:
        return float(np.std(envelope(shifted(x, 4, tmp_path, **how)) - envelope(x)))

    assert change(preserve_formants=True) < 3.0 < 8.0 < change(preserve_formants=False)


def test_the_same_song_gives_the_same_samples(tmp_path: Path) -> None:
    x = music(1.0)
    assert np.array_equal(shifted(x, 2.5, tmp_path), shifted(x, 2.5, tmp_path))


def test_more_than_an_octave_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="13 semitones"):
        shift_pitch(write_pcm(tmp_path / "x.wav", tone()), tmp_path / "y.wav", 13)
    assert not (tmp_path / "y.wav").exists()
