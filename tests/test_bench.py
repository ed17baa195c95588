"""The bench's own arithmetic: what it says of signals whose answer is known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

sys.path.insert(0, str(BENCH / "peers"))

import figures  # noqa: E402
import image as flux_bench  # noqa: E402
import judges  # noqa: E402


def noise(seed: int, n: int = 50_000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def test_si_sdr_does_not_care_about_level_and_sdr_does() -> None:
    truth, error = noise(1), 0.1 * noise(2)
    assert figures.si_sdr(truth, truth + error) == pytest.approx(20, abs=0.2)
    assert figures.si_sdr(truth, 5 * (truth + error)) == pytest.approx(figures.si_sdr(truth, truth + error))
    assert figures.sdr(truth, 0.5 * truth) == pytest.approx(6.02, abs=0.01)


def test_three_decibels_are_half_the_distortion() -> None:
    assert figures.power_ratio(13.0, 10.0) == pytest.approx(2.0, abs=0.01)
    assert figures.power_ratio(7.0, 10.0) == pytest.approx(0.5, abs=0.01)


def test_a_missed_aim_is_named_and_a_ratio_without_an_aim_is_refused() -> None:
    held = {"a_ratio": 1.0, "a_ratio_aim": 1.0, "b_ratio": 0.9, "b_ratio_aim": 1.0, "c_ratio": None, "c_ratio_aim": 1}
    assert figures.verdict(held) == ["b_ratio", "c_ratio"]
    with pytest.raises(KeyError, match="a_ratio"):
        figures.verdict({"a_ratio": 2.0})


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_lag_is_found_with_its_sign(late: int) -> None:
    level = np.convolve(noise(3, 300), np.ones(3) / 3, "same")
    lag, r = judges.best_lag(np.roll(level, late), level)
    assert lag == late
    assert max(r) > 0.99


def test_lost_faces_do_not_hide_the_lag() -> None:
    level = np.convolve(noise(4, 300), np.ones(3) / 3, "same")
    moved = np.roll(level, 2)
    moved[50:60] = np.nan
    assert judges.best_lag(moved, level)[0] == 2


def test_a_mouth_that_never_moves_has_no_correlation_and_no_lag() -> None:
    assert judges.best_lag(np.ones(100), noise(5, 100)) == (0, [0.0] * len(judges.LAGS))


def test_gaps_begin_after_the_mouth_had_time_to_shut() -> None:
    db = np.zeros(100)
    db[40:60] = -50.0  # 0.8 s of silence at 25 frames a second
    db[80:85] = -50.0  # too short to be a gap
    gaps = judges.gap_frames(db, 25.0)
    assert gaps.nonzero()[0].tolist() == list(range(46, 60))


def test_levels_are_those_of_each_video_frame() -> None:
    loud_then_quiet = np.concatenate([np.full(16_000, 0.5), np.full(16_000, 0.005)])
    rms, db = judges.levels(loud_then_quiet, 16_000, 25.0, 60)
    assert rms[10] == pytest.approx(0.5) and db[10] == pytest.approx(0.0)
    assert db[40] == pytest.approx(-40.0)
    assert db[55] == judges.FLOOR_DB  # past the end of the sound


def test_accuracy_counts_edits_against_what_was_said() -> None:
    said = ["all", "the", "roads", "that", "i", "walk", "alone"]
    assert judges.accuracy(said, said) == 1.0
    assert judges.accuracy(said, ["all", "the", "roads", "i", "walk", "alone"]) == pytest.approx(6 / 7, abs=1e-3)
    assert judges.accuracy(said, []) == 0.0
    assert judges.accuracy(["a"], ["b", "c", "d"]) < 0


def test_phones_may_be_a_little_late_but_not_in_other_places() -> None:
    clean = ["SIL"] * 5 + ["AA"] * 10 + ["T"] * 10
    assert judges.agreement(clean, ["SIL"] * 2 + clean) == 1.0
    assert judges.agreement(clean, ["SIL"] * 12 + clean[:13]) < 0.5


# bench/image.py ----------------------------------------------------------------------------------------------------


def steps(who: str, sides: str, seconds: float) -> dict[str, Any]:
    return {"who": who, "sides": sides, "s_per_1000": seconds}


def painting(*seconds: float) -> list[dict[str, Any]]:
    return [{"who": f"{number}", "seconds": value} for number, value in enumerate(seconds)]


def test_a_gpu_is_held_against_the_aims_with_its_best_rung_on_the_mix_of_all_sizes() -> None:
    rows = [
        steps("peer", "512", 200.0), steps("eager", "512", 90.0),
        steps("peer", "512+768+1024", 400.0), steps("eager", "512+768+1024", 250.0),
        steps("fp8", "512+768+1024", 125.0),
    ]  # fmt: skip
    found = flux_bench.aims(rows, painting(8.0, 4.0, 2.5), counts_here=True)
    assert found["best_rung"] == "fp8" and found["eager_ratio"] == pytest.approx(3.2)
    assert found["recipe_ratio"] == pytest.approx(1.2) and found["paint_ratio"] == pytest.approx(1.04)
    assert figures.verdict(found) == ["record_ratio"]


def test_off_a_gpu_the_ladder_has_no_aims_to_meet() -> None:
    rows = [steps("peer", "64+128", 200.0), steps("eager", "64+128", 160.0)]
    found = flux_bench.aims(rows, painting(2.0, 1.0), counts_here=False)
    assert found["ladder_speedup"] == pytest.approx(1.25) and not [name for name in found if name.endswith("_ratio")]


def test_both_sides_of_the_bench_change_the_same_layers_of_flux() -> None:
    import flux_peer

    from vividcover.image.flux.config import DEV, block_targets, from_published

    assert from_published({"in_channels": 64, "guidance_embeds": True, **flux_peer.SIZES["full"]}) == DEV
    assert sorted(flux_peer.names(flux_peer.SIZES["full"])) == sorted(block_targets(DEV))
