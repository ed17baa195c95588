"""What a run says names no folder of the machine, and a seed that it draws is the same when it is taken up again."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from vividcover.catalog.contract import SEED_LIMIT
from vividcover.runs.runner import seed_of
from vividcover.runs.veil import Veil
from vividcover.settings import Settings

HOME = Path(tempfile.gettempdir()) / "some home"


@pytest.fixture
def plain() -> Veil:
    return Veil(Settings(home=HOME, weight_files={"rife": Path("/mnt/nets/RIFE/flownet.pkl")}))


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (f"There is no file {HOME}/weights/rife/flownet.pkl.", "There is no file flownet.pkl."),
        (f"What was drawn: {HOME}/cache/stages/ab/abc/still.png", "What was drawn: still.png"),
        (f"No room in {HOME}, nor in '{tempfile.gettempdir()}/x/'.", "No room in some home, nor in 'x'."),
        ("Wrong: /mnt/nets/RIFE/flownet.pkl, /mnt/nets/RIFE", "Wrong: flownet.pkl, RIFE"),
        (f'File "{sys.prefix}/lib/python3/site-packages/torch/x.py", line 3', 'File "x.py", line 3'),
    ],
)
def test_a_path_is_told_by_its_last_part(plain: Veil, said: str, heard: str) -> None:
    assert plain(said) == heard


@pytest.mark.parametrize(
    "said",
    [
        "POST it to /v1/files, or give https://example.com/tmp/still.png.",
        "Done: 3/4 of 12 s; see docs/guide/first.md", "/mnt/network/other.pkl is not one of ours",
    ],
)  # fmt: skip
def test_links_and_what_is_no_folder_of_ours_are_left_alone(plain: Veil, said: str) -> None:
    assert plain(said) == said


def test_a_drawn_seed_follows_from_the_run() -> None:
    seeds = {seed_of(f"run{number}") for number in range(100)}
    assert len(seeds) == 100 and all(0 <= seed < SEED_LIMIT for seed in seeds)
    assert seed_of("run7") == seed_of("run7")
