"""What is heard and how it is acted: levels, vowels, hisses, gaps, beats, blinks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.portrait.classic.act import Act, act, articulate, smooth
from vividcover.portrait.classic.beat import onsets, track
from vividcover.portrait.classic.listen import FRAME_RATE, Heard, listen
from vividcover.song.pcm import RATE, write_pcm

Signal = NDArray[np.float64]


def vowel(seconds: float, first: float, second: float, rate: int = RATE) -> Signal:
    """Harmonics of 200 Hz shaped by two formants (Hz)."""
    time = np.arange(round(seconds * rate)) / rate
    out = np.zeros_like(time)
    for k in range(1, 20):
        f = 200.0 * k
        gain = 1 / (1 + ((f - first) / 90) ** 2) + 0.5 / (1 + ((f - second) / 120) ** 2) + 0.004
        out += gain * np.sin(2 * np.pi * f * time + k)
    return np.asarray(0.2 * out / np.sqrt(np.mean(out**2)))


def heard(tmp_path: Path, signal: Signal, rate: int = RATE) -> Heard:
    return listen(write_pcm(tmp_path / "v.wav", np.asarray(signal, np.float32), rate))


def perform(tmp_path: Path, signal: Signal, fps: int = 25) -> Act:
    sound = heard(tmp_path, signal)
    return act(sound, round(sound.seconds * fps), fps, beats=np.zeros(0))


def test_features_come_at_100_hz_whatever_the_block_and_the_rate(tmp_path: Path) -> None:
    for rate in (16_000, 44_100, 48_000):
        sound = heard(tmp_path, vowel(5.03, 700, 1200, rate), rate)
        assert len(sound["voice"]) == int(5.03 * FRAME_RATE) + 1
        assert np.ptp(sound["voice"][20:-20]) < 1.5  # no dip where two blocks meet


def test_the_mouth_follows_the_level_without_delay(tmp_path: Path) -> None:
    time = np.arange(4 * RATE) / RATE
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * 1.3 * time)
    play = perform(tmp_path, vowel(4.0, 700, 1200) * envelope)
    level = envelope.reshape(100, -1).mean(1)
    r = {lag: np.corrcoef(play.jaw[5 + lag : 95 + lag], level[5:95])[0, 1] for lag in (-2, -1, 0, 1, 2)}
    assert max(r, key=lambda lag: r[lag]) == 0
    assert r[0] > 0.9


def test_open_vowels_open_wider_and_front_vowels_spread(tmp_path: Path) -> None:
    sounds = {"a": (800, 1250), "i": (300, 2400), "u": (320, 800)}
    line = np.concatenate([vowel(0.5, *sounds[k]) for k in "aiuaiu"])
    play = perform(tmp_path, line)
    jaw, spread = (
        {k: float(c[n * 12 + 4 : n * 12 + 9].mean()) for n, k in enumerate("aiu")} for c in (play.jaw, play.spread)
    )
    assert jaw["a"] > jaw["i"] and jaw["a"] > jaw["u"]
    assert spread["i"] > 0.2 > -0.2 > spread["u"]


def test_a_hiss_brings_the_teeth_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    white = np.fft.rfft(rng.standard_normal(RATE // 4))
    white[: int(4500 / 4)] = 0
    hiss = np.fft.irfft(white)
    hiss *= 0.08 / hiss.std()
    play = perform(tmp_path, np.concatenate([vowel(0.5, 800, 1250), hiss, vowel(0.5, 800, 1250)]))
    assert play.part[14:17].mean() > 0.4
    assert play.jaw[14:17].mean() < 0.5 * play.jaw[4:10].mean()


def test_a_murmur_between_vowels_closes_the_lips(tmp_path: Path) -> None:
    time = np.arange(RATE // 5) / RATE
    murmur = 0.10 * np.sin(2 * np.pi * 200 * time)
    play = perform(tmp_path, np.concatenate([vowel(0.5, 800, 1250), murmur, vowel(0.5, 800, 1250)]))
    assert play.press[13:17].max() > 0.4
    assert play.jaw[13:17].min() < 0.6 * play.jaw[4:10].mean()


def test_gaps_are_exactly_still(tmp_path: Path) -> None:
    gap = np.zeros(round(1.2 * RATE))
    play = perform(tmp_path, np.concatenate([vowel(1.0, 800, 1250), gap, vowel(1.0, 800, 1250)]))
    for curve in (play.jaw, play.part, play.spread, play.press):
        assert np.abs(curve[30:50]).max() < 1e-3


def test_quiet_bleed_from_a_separation_does_not_open_the_mouth(tmp_path: Path) -> None:
    bleed = np.random.default_rng(0).standard_normal(RATE) * 0.2 * 10 ** (-42 / 20)
    _, sung = articulate(heard(tmp_path, np.concatenate([vowel(2.0, 800, 1250), bleed])))
    assert sung[10:190].all() and not sung[215:].any()


def test_silence_and_digital_zero_sing_nothing(tmp_path: Path) -> None:
    for signal in (np.zeros(2 * RATE), np.random.default_rng(0).standard_normal(2 * RATE) * 1e-4):
        play = perform(tmp_path, signal)
        assert play.jaw.max() == 0 and play.singing.max() == 0
        assert play.lid.max() > 0.9  # but they blink


def test_a_deep_breath_comes_before_each_phrase(tmp_path: Path) -> None:
    gap = np.zeros(2 * RATE)
    play = perform(tmp_path, np.concatenate([gap, vowel(2.0, 800, 1250), gap, vowel(2.0, 800, 1250)]))
    for onset in (50, 150):
        assert onset - 4 <= np.argmax(play.breath[onset - 25 : onset + 25]) + onset - 25 <= onset + 4


def test_blinks_are_uneven_and_neither_rare_nor_constant(tmp_path: Path) -> None:
    play = perform(tmp_path, np.zeros(60 * 1000 + 60 * 43_100))
    closed = np.flatnonzero((play.lid[1:] > 0.9) & (play.lid[:-1] <= 0.9))
    assert 10 <= len(closed) <= 26  # a minute
    assert np.diff(closed).std() > 15


def test_clicks_at_120_give_beats_at_120(tmp_path: Path) -> None:
    signal = np.zeros(12 * RATE)
    decay = np.exp(-np.arange(2000) / 300) * np.random.default_rng(0).standard_normal(2000) * 0.5
    for k in range(24):
        signal[k * RATE // 2 : k * RATE // 2 + 2000] += decay
    beats = track(onsets(write_pcm(tmp_path / "b.wav", signal)))
    assert np.median(np.diff(beats)) == pytest.approx(0.5, abs=0.02)
    assert np.abs(beats[2:-2] * 2 - np.round(beats[2:-2] * 2)).max() < 0.1


def test_noise_has_no_beat_and_short_songs_neither(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(12 * RATE) * 0.1
    assert len(track(onsets(write_pcm(tmp_path / "n.wav", noise)))) == 0
    assert len(track(onsets(write_pcm(tmp_path / "s.wav", noise[: RATE // 10])))) == 0


def test_smoothing_does_not_shift() -> None:
    pulse = np.zeros(101)
    pulse[50] = 1
    assert int(np.argmax(smooth(pulse, 0.05, 100))) == 50
    assert smooth(pulse, 0.05, 100).sum() == pytest.approx(1)
