"""Promises of song/effects.py: the effects are those of the seed's chain, and blocks leave no seam."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from making import RATE, error_db, music, tone

from vividcover.errors import ParameterError
from vividcover.song.effects import Chain, Compressor, Effect, Gain, HighPass, Reverb, main_vocals_chain


def through(effect: Effect, x: np.ndarray, block: int = 1 << 16) -> np.ndarray:
    return np.concatenate([effect.process(x[:, i : i + block]) for i in range(0, x.shape[1], block)], axis=1)


def level_db(x: np.ndarray) -> float:
    return 20 * math.log10(math.sqrt(float((x.astype(float) ** 2).mean())) + 1e-12)


@pytest.mark.parametrize(
    "make",
    [lambda: HighPass(RATE, 2), lambda: Compressor(RATE), lambda: Reverb(RATE, 2, room_size=0.5),
     lambda: main_vocals_chain(RATE, 2), lambda: Gain(3.0)],
)  # fmt: skip
def test_blocks_leave_no_seam(make: object) -> None:
    x = music(2.0)
    whole = through(make(), x, 10**6)  # type: ignore[operator]
    for block in (1, 9_999) if make().__class__ is Gain else (4_801, 30_000):  # type: ignore[operator]
        pieces = through(make(), x, block)  # type: ignore[operator]
        assert pieces.shape == x.shape
        assert error_db(whole, pieces) < -110


def test_the_high_pass_is_3_db_down_at_its_cutoff_and_6_db_an_octave_below() -> None:
    for frequency, wanted in ((50, -3.0), (12.5, -12.3), (1000, 0.0)):
        x = tone(frequency, 3.0)[:1]
        y = through(HighPass(RATE, 1, 50.0), x)
        assert level_db(y[:, RATE:]) - level_db(x[:, RATE:]) == pytest.approx(wanted, abs=0.15)


def test_the_compressor_gives_1_db_for_4_above_its_threshold_and_nothing_below() -> None:
    def steady(db: float) -> float:
        x = np.full((1, RATE), 10 ** (db / 20), np.float32)
        return 20 * math.log10(through(Compressor(RATE, threshold=-15.0, ratio=4.0), x)[0, -1])

    assert steady(-30) == pytest.approx(-30, abs=1e-3)
    assert steady(-15) == pytest.approx(-15, abs=1e-3)
    assert steady(-11) == pytest.approx(-14, abs=1e-2)
    assert steady(-3) == pytest.approx(-12, abs=1e-2)


def test_the_compressor_attacks_in_about_a_millisecond_and_lets_go_in_a_hundred() -> None:
    x = np.full((1, RATE), 0.01, np.float32)
    x[:, 10_000:20_000] = 1.0
    gain = through(Compressor(RATE), x)[0] / x[0]
    final = 10 ** (-15 * 0.75 / 20)
    assert gain[10_000 + 2 * 44] == pytest.approx(final, rel=0.02)  # 2 ms
    assert gain[20_100] < 0.5  # 2 ms after the end it still holds
    assert gain[20_000 + 4_410] == pytest.approx(1.0, abs=0.05)  # 100 ms


def test_the_compressor_does_not_move_the_stereo_picture() -> None:
    x = music(2.0) * 3
    y = through(Compressor(RATE), x)
    loud = np.abs(x).min(0) > 0.05
    assert np.allclose((y[0] / x[0])[loud], (y[1] / x[1])[loud], rtol=1e-5)


def test_the_reverb_is_freeverb() -> None:
    """Against the filters' own difference equations, sample by sample."""

    class Comb:
        def __init__(self, delay: int, feedback: float, damp: float) -> None:
            self.line, self.at, self.store, self.feedback, self.damp = [0.0] * delay, 0, 0.0, feedback, damp

        def step(self, x: float) -> float:
            out = self.line[self.at]
            self.store = out * (1 - self.damp) + self.store * self.damp
            self.line[self.at] = x + self.store * self.feedback
            self.at = (self.at + 1) % len(self.line)
            return out

    class Allpass:
        def __init__(self, delay: int) -> None:
            self.line, self.at = [0.0] * delay, 0

        def step(self, x: float) -> float:
            stored = self.line[self.at]
            self.line[self.at] = x + stored * 0.5
            self.at = (self.at + 1) % len(self.line)
            return stored - x

    x = music(0.2)
    wanted = []
    for spread in (0, 23):
        combs = [Comb(d + spread, 0.28 * 0.6 + 0.7, 0.4 * 0.3) for d in Reverb.COMBS]
        allpasses = [Allpass(d + spread) for d in Reverb.ALLPASSES]
        channel = []
        for left, right in x.T.tolist():
            wet = sum(comb.step((left + right) * 0.015) for comb in combs)
            for allpass in allpasses:
                wet = allpass.step(wet)
            channel.append(wet * 3 * 0.5)
        wanted.append(channel)
    y = through(Reverb(RATE, 2, room_size=0.6, damping=0.3, wet_level=0.5, dry_level=0.0), x)
    assert error_db(np.array(wanted), y) < -90


def test_a_larger_room_rings_longer_and_more_damping_is_duller() -> None:
    click = np.zeros((2, 2 * RATE), np.float32)
    click[:, 0] = 1.0

    def tail(**how: float) -> np.ndarray:
        return through(Reverb(RATE, 2, wet_level=1.0, dry_level=0.0, **how), click)

    assert level_db(tail(room_size=0.9)[:, RATE:]) > level_db(tail(room_size=0.2)[:, RATE:]) + 20
    bright, dull = (np.abs(np.fft.rfft(tail(room_size=0.5, damping=d)[0])) for d in (0.0, 1.0))
    assert dull[16_000:].sum() < 0.7 * bright[16_000:].sum()  # above 8 kHz
    assert dull[:1_000].sum() == pytest.approx(bright[:1_000].sum(), rel=0.2)


def test_dry_reverb_is_only_a_gain() -> None:
    x = music(1.0)
    assert np.array_equal(through(Reverb(RATE, 2, wet_level=0.0, dry_level=0.5), x), x)


def test_silence_stays_silent_before_and_long_after_the_sound() -> None:
    x = np.zeros((2, 6 * RATE), np.float32)
    x[:, RATE : 2 * RATE] = music(1.0)
    y = through(main_vocals_chain(RATE, 2), x)
    assert not y[:, :RATE].any()
    assert not y[:, 5 * RATE :].any()
    assert y[:, 2 * RATE : 2 * RATE + 4_000].any()  # but the room rings


def test_reverb_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"room_size is 1\.5"):
        Reverb(RATE, 2, room_size=1.5)


def test_the_chain_costs_little() -> None:
    x = music(4.0)
    chain = Chain([main_vocals_chain(RATE, 2)])
    best = math.inf
    for _ in range(2):  # the machine may be busy
        began = time.process_time()
        through(chain, x)
        best = min(best, time.process_time() - began)
    assert best / 4.0 < 0.04  # CPU-seconds per second of song; measured: 0.007
