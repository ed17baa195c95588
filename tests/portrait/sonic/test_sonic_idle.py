"""Rest where nobody sings: a loop that closes, seams that are found in sampling, and windows that cost nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from sonic_stage import Song, tiny_look, tiny_nets, whole
from vividcover.portrait.sonic.config import WINDOW, SonicOptions
from vividcover.portrait.sonic.idle import FOLDER, SEAM, Idle, Rest, rest_in
from vividcover.portrait.sonic.rows import Rows
from vividcover.portrait.sonic.speed import Fast, cost_of, plan_of, resting, sampled
from vividcover.portrait.sonic.windows import windows
from vividcover.workspace import Silent

SILENCE = SonicOptions(speedups=("silence",), steps=2, seed=4)
RESTS = SonicOptions(idle=True, steps=2, seed=4)
PAUSE = (30, 150)


@pytest.fixture(scope="module")
def sung(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, list[str]]:
    """A song of 180 frames with a pause: its folder, its latents, what was noted."""
    folder, reporter = tmp_path_factory.mktemp("sung"), Silent()
    store = sampled(tiny_nets(), tiny_look(), Song(180, PAUSE), RESTS, folder, reporter)
    return folder, whole(store), reporter.notes


# --- which frames rest ------------------------------------------------------------------------------------------------


def test_a_pause_rests_but_for_a_second_at_its_ends() -> None:
    rest = rest_in(Song(180, PAUSE))
    assert rest is not None
    assert rest.spans == ((30 + SEAM, 150 - SEAM),)
    assert rest.length == 3 * WINDOW
    assert set(rest.heard) <= rest.frames  # what is heard in the loop is the middle of the pause
    assert rest.describe(180) == "Nobody sings in 8 of 14 s: there 6 s of quiet movement go round."


def test_at_the_ends_of_a_song_there_is_nothing_to_find_the_way_to() -> None:
    rest = rest_in(Song(200, (0, 60), (150, 200)))
    assert rest is not None
    assert rest.spans == ((0, 60 - SEAM), (150 + SEAM, 200))


def test_short_pauses_do_not_rest() -> None:
    assert rest_in(Song(200, (50, 50 + WINDOW + 2 * SEAM - 1))) is None
    assert rest_in(Song(200)) is None


def test_a_short_rest_gets_a_short_loop() -> None:
    rest = rest_in(Song(200, (50, 50 + 40 + 2 * SEAM)))
    assert rest is not None
    assert (rest.length, len(rest.heard)) == (WINDOW, WINDOW)


def test_as_a_speed_up_it_has_to_save_something_as_an_option_not() -> None:
    song, short = Song(2625, (500, 1500)), Song(200, (50, 120))
    plan = plan_of(SILENCE)
    assert resting(song, SILENCE, plan) is not None
    assert resting(short, SILENCE, plan) is None  # the loop would cost more than it saves
    longer = resting(Song(300, (50, 150)), SILENCE, plan)
    assert longer is not None
    assert longer.length == WINDOW  # so short a loop saves something, a longer one would not
    idle = SonicOptions(idle=True, steps=2)
    assert resting(short, idle, plan_of(idle)) is not None
    assert resting(song, SonicOptions(), plan_of(SonicOptions())) is None


def test_what_is_left_of_the_work_is_about_what_is_sung() -> None:
    """A song of 210 s, of which 65 % are sung, with five pauses."""
    song = Song(2625, (0, 180), (600, 760), (1200, 1400), (1900, 2060), (2400, 2625))
    plan = plan_of(SILENCE)
    rest = resting(song, SILENCE, plan)
    assert rest is not None
    assert isinstance(plan, Fast)
    cost = cost_of(Fast(plan.sigmas, plan.speedups, Idle(rest, Path())), song.frames) + cost_of(plan, rest.length)
    assert song.activity.mean() == pytest.approx(0.65, abs=0.01)
    assert 0.65 < cost / cost_of(plan, song.frames) < 0.80


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_frames_that_rest_are_the_loop_going_round(sung: tuple[Path, torch.Tensor, list[str]]) -> None:
    _, latents, notes = sung
    start, stop = PAUSE[0] + SEAM, PAUSE[1] - SEAM
    loop = 3 * WINDOW
    assert torch.equal(latents[start : stop - loop], latents[start + loop : stop])
    assert not torch.equal(latents[start - loop // 2 : start], latents[start + loop // 2 : start + loop])
    assert latents[start : start + loop].diff(dim=0).abs().mean((1, 2, 3)).min() > 1e-3  # it moves
    assert notes == ["Nobody sings in 8 of 14 s: there 6 s of quiet movement go round."]


def test_the_loop_closes(sung: tuple[Path, torch.Tensor, list[str]]) -> None:
    """From its last frame to its first it goes as from any frame to the next."""
    folder, _, _ = sung
    with Rows(folder / FOLDER / "turn2.f32", (4, 8, 8), 3 * WINDOW) as rows:
        loop = torch.from_numpy(rows.read(0, 3 * WINDOW))
    steps = (loop - loop.roll(1, 0)).flatten(1).norm(dim=1)
    assert steps[0] < 1.5 * steps[1:].max()


def test_sung_frames_are_the_network_s_own_and_meet_the_loop(sung: tuple[Path, torch.Tensor, list[str]]) -> None:
    """At the seam they are drawn with the loop in sight: without it they come out otherwise."""
    _, latents, _ = sung
    with TemporaryDirectory() as folder:
        options = replace(RESTS, idle=False)
        plain = whole(sampled(tiny_nets(), tiny_look(), Song(180, PAUSE), options, Path(folder), Silent()))
    seam = slice(PAUSE[0], PAUSE[0] + SEAM)
    assert not torch.equal(latents[seam], plain[seam])
    assert torch.isfinite(latents).all()


def rest() -> Rest:
    found = rest_in(Song(180, PAUSE))
    assert found is not None
    return found


def test_a_window_in_which_all_rest_never_reaches_the_network(tmp_path: Path) -> None:
    nets, rows = tiny_nets(), []
    plain = nets.unet.whole

    def whole(*given: Any) -> Any:
        velocity, features = plain(*given)
        rows.append(len(velocity))
        return velocity, features

    nets.unet.whole = whole  # type: ignore[method-assign]
    sampled(nets, tiny_look(), Song(180, PAUSE), RESTS, tmp_path, Silent()).close()
    skipped = sum(rest().covers(w.frames) for turn in (0, 1) for w in windows(180, turn))
    assert skipped >= 5
    loop, song = 2 * 3, sum(len(windows(180, turn)) for turn in (0, 1)) - skipped
    assert sum(rows) == 3 * (loop + song)


def test_a_song_without_any_voice_is_the_loop_alone(tmp_path: Path) -> None:
    latents = whole(sampled(tiny_nets(), tiny_look(), Song(180, (0, 180)), RESTS, tmp_path, Silent()))
    assert torch.equal(latents[:105], latents[75:])


def test_a_straight_song_may_rest_too(tmp_path: Path) -> None:
    options = SonicOptions(idle=True, straight=True, steps=1)
    latents = whole(sampled(tiny_nets(), tiny_look(), Song(120, (40, 120)), options, tmp_path, Silent()))
    assert torch.equal(latents[60:70], latents[110:120])  # a loop of 50 frames
