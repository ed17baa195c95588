"""Levels of noise, windows and guidance: the small sums that sampling consists of."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vividcover.portrait.sonic.config import FAST_SIGMAS, WINDOW
from vividcover.portrait.sonic.guidance import Condition, Pushes, guided
from vividcover.portrait.sonic.schedule import c_in, c_noise, clean, levels, noised, step
from vividcover.portrait.sonic.windows import Window, runs, windows


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# --- levels and steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25, 50])
def test_levels_fall_from_700_to_0(steps: int, fast: bool) -> None:
    sigmas = levels(steps, fast=fast)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(700)
    assert sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())


def test_ten_fast_steps_are_the_published_ones_and_others_lie_between_them() -> None:
    assert levels(10, fast=True)[:-1].tolist() == pytest.approx(FAST_SIGMAS)
    twice = levels(19, fast=True)  # every second one is published, the others are their neighbours' geometric means
    assert twice[0:-1:2].tolist() == pytest.approx(FAST_SIGMAS)
    assert float(twice[1]) == pytest.approx((700.0 * 54.5) ** 0.5)


def test_a_step_follows_the_line_to_the_clean_latents() -> None:
    """A network that knows the clean latents leads there, in one step or in many."""
    clean_ones, noise = random(2, 4, 8, 8).double(), random(4, 2, 8, 8).double().reshape(2, 4, 8, 8)
    for count in (1, 2, 25):
        sigmas = levels(count).tolist()
        x = clean_ones + sigmas[0] * noise
        for now, then in pairwise(sigmas):
            root = (now**2 + 1) ** 0.5
            v = (x / (now**2 + 1) - clean_ones) * root / now  # the velocity that says so
            assert torch.allclose(clean(x, v, now), clean_ones)
            x = step(x, v, now, then)
        assert torch.allclose(x, clean_ones, atol=1e-9)


def test_the_start_is_the_still_under_noise_of_unit_variance_for_the_network() -> None:
    still, noise = random(4, 8, 8), random(16, 4, 8, 8)
    x = noised(still, noise, 700.0)
    assert torch.allclose(x - 700 * noise, (0.18215 * still).expand_as(x), atol=1e-3)
    assert float((c_in(700.0) * x).std()) == pytest.approx(float(noise.std()), rel=1e-3)
    assert c_noise(700.0) == pytest.approx(1.6377, abs=1e-4)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_published_windows_move_back_by_seven_frames_in_a_circle() -> None:
    first, second, third = windows(60, 0), windows(60, 1), windows(60, 2)
    assert [w.frames[0] for w in first] == [0, 25, 50]
    assert [w.frames[0] for w in second] == [53, 18, 43]
    assert [w.frames[0] for w in third] == [46, 11, 36]
    assert first[2].frames == (*range(50, 60), *range(15))  # beyond the end comes the beginning


def test_a_short_song_fills_its_window_several_times() -> None:
    assert windows(7, 1) == [Window(0, tuple(i % 7 for i in range(-7, 18)))]
    assert windows(1, 24) == [Window(0, (0,) * WINDOW)]


@given(frames=st.integers(1, 300), turn=st.integers(0, 60), straight=st.booleans())
def test_every_frame_is_in_a_window(frames: int, turn: int, straight: bool) -> None:
    found = windows(frames, turn, straight=straight)
    assert {frame for window in found for frame in window.frames} == set(range(frames))
    assert [window.number for window in found] == list(range(len(found)))
    assert {len(window.frames) for window in found} == {min(frames, WINDOW) if straight else WINDOW}


@given(frames=st.integers(1, 300), turn=st.integers(0, 60))
def test_straight_windows_never_join_the_end_to_the_beginning(frames: int, turn: int) -> None:
    found = windows(frames, turn, straight=True)
    for window in found:
        assert list(window.frames) == list(range(window.frames[0], window.frames[0] + len(window.frames)))
    assert len(found) <= -(-frames // WINDOW) + 1  # at most one more than in a circle


def test_no_border_of_windows_stays_at_its_place() -> None:
    for straight in (False, True):
        borders = [{w.frames[0] for w in windows(250, turn, straight=straight)} for turn in range(25)]
        inner = [{b for b in border if 0 < b < 225} for border in borders]
        assert not set.intersection(*inner[:4])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40))
def test_runs_are_the_frames_in_their_order(frames: list[int]) -> None:
    assert [frame for start, stop in runs(frames) for frame in range(start, stop)] == frames


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_the_three_branches_are_weighted_as_published() -> None:
    nothing, still, voice = random(3, 2, 5).unbind(0)
    v, pushes = guided({"nothing": nothing, "still": still, "voice": voice}, Pushes())
    assert torch.allclose(v, -1.0 * nothing - 5.5 * still + 7.5 * voice, atol=1e-5)
    assert pushes.still is not None and pushes.voice is not None
    assert torch.equal(pushes.still, still - nothing)
    assert torch.equal(pushes.voice, voice - still)


def test_a_branch_left_out_is_put_back_by_the_last_difference() -> None:
    nothing, still, voice = random(3, 2, 5).unbind(0)
    whole, pushes = guided({"nothing": nothing, "still": still, "voice": voice}, Pushes())
    moved = 0.3  # all branches by the same: the differences stay true
    without, again = guided({"still": still + moved, "voice": voice + moved}, pushes)
    assert torch.allclose(without, whole + moved, atol=1e-5)
    alone, _ = guided({"voice": voice + moved}, again)
    assert torch.allclose(alone, whole + moved, atol=1e-5)


def test_a_branch_cannot_be_left_out_before_it_was_found() -> None:
    with pytest.raises(ValueError, match="nothing"):
        guided({"still": torch.zeros(1), "voice": torch.zeros(1)}, Pushes())


def test_branches_differ_in_picture_clip_and_voice_alone() -> None:
    condition = Condition(random(4, 8, 8), random(1, 48), random(2, 25, 6, 48), random(6, 48))
    branches = ("nothing", "still", "voice")
    stills, clips, voices = condition.stills(branches), condition.clips(branches), condition.voices(branches)
    assert (stills.shape, clips.shape, voices.shape) == ((6, 25, 4, 8, 8), (6, 25, 1, 48), (6, 25, 6, 48))
    assert not stills[:2].any() and not clips[:2].any()  # branch by branch, two windows each
    assert torch.equal(stills[2], stills[5]) and torch.equal(clips[2], clips[5])
    assert torch.equal(voices[0], voices[3]) and not torch.equal(voices[3], voices[5])
    assert torch.equal(voices[4:], condition.tokens)
