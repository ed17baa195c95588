"""The portrait bench's arithmetic, and its peer: what it says where the answer is known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "peers")]

import portrait_peer  # noqa: E402

import measure_portrait  # noqa: E402
import portrait as portrait_bench  # noqa: E402

FULL_STEP = {"peer": 100.0, "exact": 94.0, "guidance": 62.0, "features": 33.0, "both": 22.0}


def test_a_song_takes_the_steps_of_the_program_s_own_plans() -> None:
    assert portrait_bench.steps_of(2625, ()) == {"exact": 105 * 25}
    assert portrait_bench.steps_of(2625, ("schedule", "guidance")) == {"exact": 105 * 6, "guidance": 105 * 4}
    assert portrait_bench.steps_of(2625, ("schedule", "guidance", "features")) == {"exact": 105 * 6, "both": 105 * 4}
    rests = portrait_bench.steps_of(2625, ("schedule", "silence"), portrait_bench.PAUSES)
    assert 0.65 * 1050 < rests["exact"] < 0.8 * 1050  # 65 % is sung, and a loop of rest is made


def test_a_model_of_a_song_adds_what_is_drawn_and_what_is_shown() -> None:
    row = portrait_bench.modelled("x", 72.0, 8.0, {"exact": 10, "both": 4}, 0.5)
    assert (row["whole_steps"], row["from_kept_features"]) == (10, 4)
    assert row["modelled_s"] == pytest.approx((36.0 + 8.0) * 1e15 / 400e12)


def test_each_speed_up_of_the_song_leaves_less_to_do() -> None:
    figures, rows = portrait_bench.song(FULL_STEP)
    seconds = [row["modelled_s"] for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert figures["song_flop_ratio"] > 3


def test_the_ladder_s_figures_add_up_to_a_song() -> None:
    rows = [
        {"who": "peer", "ms_per_step": 300.0},
        {"who": "eager", "ms_per_step": 200.0, "ms_per_step_in_pairs": 120.0},
        {"who": "fp8", "ms_per_step": 100.0, "ms_per_step_in_pairs": 60.0},
    ]
    tails = [{"ms_per_frame": 20.0, "ms_between": None}, {"ms_per_frame": 10.0, "ms_between": 2.0}]
    figures, made = portrait_bench.whole_song(rows, tails, "fp8", True)
    assert [row["song_s"] for row in made] == [30.0] * 3 + [210.0] * 3
    peer, exact, fast = (row["seconds"] for row in made[3:])
    assert peer == pytest.approx(2625 * 0.3 + 2625 * 0.022, abs=0.1)
    assert exact == pytest.approx(2625 * 0.2 + 2625 * 0.012, abs=0.1)  # 8 bits are no part of exact
    assert fast == pytest.approx(105 * (2 * 0.1 + 8 * 0.06) + 2625 * 0.012, abs=0.1)
    assert figures["realtime_ratio"] == pytest.approx(210 / fast, abs=0.01)


def test_the_peer_has_the_published_tensors() -> None:
    net, _ = portrait_peer.made("tiny")
    names = net.state_dict().keys()
    assert (len(names), sum("_ip." in name for name in names)) == (1492, 64)
    assert set(names) == set(measure_portrait.SonicUNet(measure_portrait.config_of("tiny")).state_dict())


def test_flops_calls_and_memory_of_a_known_product_are_counted() -> None:
    with torch.device("meta"):
        a, b = torch.empty(1000, 500), torch.empty(500, 2000)
    found = measure_portrait.work_of(lambda: (a @ b).add_(1.0))
    assert found == {"tflop": 0.002, "calls": 1, "gb": 0.008}
