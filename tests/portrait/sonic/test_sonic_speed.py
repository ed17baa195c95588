"""The faster ways: what they leave out is what they say, all else is as it was, and they go on where they stopped."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from sonic_stage import Song, Stops, tiny_look, tiny_nets, tiny_unet, whole
from vividcover.errors import Canceled, ParameterError
from vividcover.portrait.sonic.config import FAST_STEPS, SPEEDUPS, SonicOptions
from vividcover.portrait.sonic.network import Deep, MaskPyramid
from vividcover.portrait.sonic.opening import in_8_bits
from vividcover.portrait.sonic.plan import DEEP_COST, Exact
from vividcover.portrait.sonic.sampler import sample
from vividcover.portrait.sonic.schedule import levels
from vividcover.portrait.sonic.speed import check_on, compile_parts, cost_of, pairs, plan_of, sampled
from vividcover.workspace import Silent

FEW = {"steps": 4, "seed": 5}


def latents(folder: Path, song: Song, *speedups: str, nets: Any = None, **options: Any) -> torch.Tensor:
    chosen = SonicOptions(speedups=speedups, **{**FEW, **options})
    return whole(sampled(nets or tiny_nets(), tiny_look(), song, chosen, folder, Silent()))


# --- plans ------------------------------------------------------------------------------------------------------------


def test_two_steps_make_a_turn_where_their_noise_is_alike() -> None:
    fast = levels(FAST_STEPS, fast=True).tolist()
    assert pairs(fast) == ((0,), (1, 2), (3, 4), (5, 6), (7, 8), (9,))
    assert len(pairs(levels(25).tolist())) == 13


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50])
@pytest.mark.parametrize("fast", [False, True])
def test_every_step_is_in_one_turn_in_its_order(steps: int, fast: bool) -> None:
    assert list(chain.from_iterable(pairs(levels(steps, fast=fast).tolist()))) == list(range(steps))


def test_without_speed_ups_the_plan_is_the_published_one() -> None:
    assert isinstance(plan_of(SonicOptions()), Exact)


@pytest.mark.parametrize(
    ("speedups", "left"),
    [
        (("schedule",), 0.40), (("guidance",), 0.84), (("features",), 0.69), (("schedule", "guidance"), 0.4 * 0.867),
        (("schedule", "features"), 0.4 * 0.744), (("schedule", "guidance", "features"), 0.4 * 0.7),
    ],
)  # fmt: skip
def test_a_speed_up_leaves_as_much_of_the_work_as_its_documentation_says(speedups: Any, left: float) -> None:
    full = cost_of(plan_of(SonicOptions()), 2625)
    assert full == 105 * 25 * 3
    assert cost_of(plan_of(SonicOptions(speedups=speedups)), 2625) / full == pytest.approx(left, abs=0.012)


def test_plans_that_give_other_latents_have_other_keys() -> None:
    plans = [plan_of(SonicOptions(speedups=(name,)), eight_bits=name == "fp8") for name in SPEEDUPS]
    keys = [repr(plan.key) for plan in (plan_of(SonicOptions()), *plans)]
    assert len(set(keys)) == len(keys)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_exact_is_exact(tmp_path: Path) -> None:
    song, options = Song(40), SonicOptions(**FEW)
    plain = whole(sample(tiny_nets(), tiny_look(), song, options, tmp_path / "plain", Silent()))
    assert torch.equal(latents(tmp_path / "sampled", song), plain)


def test_what_is_left_out_is_not_computed_and_the_rest_is(tmp_path: Path) -> None:
    """Branches of windows that go through the whole network, and through its top level only."""
    nets, seen = tiny_nets(), Counter()  # type: ignore[var-annotated]
    for name in ("whole", "again"):
        setattr(nets.unet, name, _counting(seen, name, getattr(nets.unet, name)))
    latents(tmp_path, Song(50), "guidance", "features", nets=nets, steps=5)
    assert pairs(levels(5).tolist()) == ((0,), (1,), (2,), (3,), (4,))  # five steps are far apart
    assert seen == {"whole": 2 * 5 * 3}
    seen.clear()
    latents(tmp_path / "more", Song(50), "guidance", "features", nets=nets, steps=9)
    turns = pairs(levels(9).tolist())
    twos = sum(len(turn) == 2 for turn in turns)
    assert twos >= 2
    assert seen["again"] / seen["whole"] == 2 * twos / (3 * len(turns))  # in a turn of two steps: n s v, s v


def _counting(seen: Counter[str], name: str, call: Any) -> Any:
    def counted(*given: Any) -> Any:
        found = call(*given)
        seen[name] += len(found[0] if name == "whole" else found)
        return found

    return counted


def test_guidance_and_features_change_the_result_and_stay_finite(tmp_path: Path) -> None:
    song, every = Song(25), {}
    for name in ("", "guidance", "features"):
        every[name] = latents(tmp_path / f"way {name}", song, *([name] if name else []), steps=9)
        assert bool(every[name].isfinite().all())
    plain = every.pop("")
    assert all(not torch.equal(found, plain) for found in every.values())


def test_stopped_anywhere_it_goes_on_with_the_same_latents(tmp_path: Path) -> None:
    song, options = Song(100, (30, 95)), SonicOptions(speedups=SPEEDUPS[:4], steps=6, seed=2)
    once = whole(sampled(tiny_nets(), tiny_look(), song, options, tmp_path / "once", Silent()))
    for share in (0.1, 0.3, 0.6, 0.9):  # the first two while the loop is sampled
        with pytest.raises(Canceled):
            sampled(tiny_nets(), tiny_look(), song, options, tmp_path / "often", Stops(share))
    assert torch.equal(whole(sampled(tiny_nets(), tiny_look(), song, options, tmp_path / "often", Silent())), once)


# --- 8 bits and compiling ---------------------------------------------------------------------------------------------


def test_eight_bits_give_nearly_the_same_latents_under_another_key(tmp_path: Path) -> None:
    nets, song = tiny_nets("fp8"), Song(25)
    assert "layers of the UNet compute in 8 bits" in in_8_bits(nets.unet, nets.device)
    plain, small = (latents(tmp_path, song, *s, nets=n, steps=1) for s, n in (((), None), (("fp8",), nets)))
    away = float((small - plain).norm() / plain.norm())
    assert 1e-6 < away < 0.5  # guidance by (-1, -5.5, 7.5) multiplies what rounding does to a branch by 9


def test_eight_bits_that_are_not_used_are_told(tmp_path: Path) -> None:
    reporter = Silent()
    sampled(tiny_nets(), tiny_look(), Song(5), SonicOptions(steps=1, speedups=("fp8",)), tmp_path, reporter).close()
    assert reporter.notes == ["The speed-up fp8 is left out: cpu gains nothing by it."]


def test_what_a_device_is_not_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Compiling is for CUDA devices, not for cpu"):
        sampled(tiny_nets(), tiny_look(), Song(5), SonicOptions(steps=1, compile=True), tmp_path, Silent())
    with pytest.raises(ParameterError, match="do not share one mps device"):
        check_on(SonicOptions(processes=2), torch.device("mps"))
    check_on(SonicOptions(processes=2, compile=True), torch.device("cuda"))


def test_compiled_parts_do_the_same_and_alike_ones_are_compiled_once() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net = tiny_unet()
    x, told, added = torch.randn(2, 25, 8, 8, 8), torch.tensor([1.0, 1.0]), torch.tensor([[12.5, 20.0, 20.0]] * 2)
    context = net.hear(torch.randn(2, 25, 1, 8), torch.randn(2, 25, 3, 8))
    mask, deep = MaskPyramid.of(torch.ones(64, 64)), Deep()
    before = net(x, told, added, context, mask, keep=deep), net(x, told, added, context, mask, deep=deep)
    assert compile_parts(net, backend) == 10 + 14
    for _ in range(2):
        after = net(x, told, added, context, mask, keep=deep), net(x, told, added, context, mask, deep=deep)
    torch.testing.assert_close(after, before)
    first = len(graphs)
    assert first <= 18  # of 24 parts
    compile_parts(net, backend)  # they are already
    net(x, told, added, context, mask)
    assert len(graphs) == first
    torch._dynamo.reset()


def test_the_cost_of_features_is_what_the_network_counts() -> None:
    assert pytest.approx(11.41 / 31.77, abs=0.02) == DEEP_COST
