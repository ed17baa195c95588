"""Several processes at one portrait: the same latents, canceled together, and what is wrong in one is told."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonic_making import tiny_sonic_files
from sonic_stage import SIDE, Stops, tiny_look, whole
from vividcover.errors import Canceled, ParameterError
from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.features import listen
from vividcover.portrait.sonic.files import sonic_files
from vividcover.portrait.sonic.heard import Heard
from vividcover.portrait.sonic.opening import Sonic, open_sonic
from vividcover.portrait.sonic.sampler import Look
from vividcover.portrait.sonic.speed import sampled
from vividcover.portrait.sonic.together import sample_together
from vividcover.song.pcm import write_pcm
from vividcover.workspace import Silent

RATE, SECONDS, SUNG = 16_000, 8.0, 1.5  # 100 frames: four windows; six seconds of rest
OPTIONS = SonicOptions(steps=1, seed=6, windows_at_once=1, idle=True)


class Tiny:
    """A shelf of weights with the tiny Sonic on it."""

    def path(self, name: str) -> Path:
        return tiny_sonic_files()[name]


@pytest.fixture(scope="module")
def sonic() -> Sonic:
    return open_sonic(sonic_files(Tiny()), device="cpu")


@pytest.fixture(scope="module")
def look(sonic: Sonic) -> Look:
    small, random = tiny_look(), torch.Generator().manual_seed(1)
    clip = torch.randn(1, sonic.config.context, generator=random)
    return Look(torch.randn(4, SIDE // 8, SIDE // 8, generator=random), clip, small.mask)


@pytest.fixture(scope="module")
def heard(sonic: Sonic, look: Look, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    folder = tmp_path_factory.mktemp("heard")
    times = np.arange(int(RATE * SECONDS)) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * times) * (times < SUNG)
    vocals = write_pcm(folder / "voice.wav", tone.astype(np.float32), RATE)
    return listen(vocals, sonic, folder, clip=look.clip, options=OPTIONS, reporter=Silent())


def test_two_processes_find_the_latents_of_one_and_go_on_with_what_one_has_begun(
    sonic: Sonic, look: Look, heard: Heard, tmp_path: Path
) -> None:
    alone = whole(sampled(sonic, look, heard, OPTIONS, tmp_path / "alone", Silent()))
    assert len(alone) == 100
    with pytest.raises(Canceled):
        sampled(sonic, look, heard, OPTIONS, tmp_path / "both", Stops(0.3))
    reporter = Said()
    both = sampled(sonic, look, heard, replace(OPTIONS, processes=2), tmp_path / "both", reporter)
    assert torch.equal(whole(both), alone)
    assert "unet" not in sonic.loaded()  # the processes have theirs
    assert reporter.fractions == sorted(reporter.fractions)
    assert reporter.notes == ["Nobody sings in 5 of 8 s: there 4 s of quiet movement go round."]
    assert reporter.fractions[-1] > 0.9


class Said(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.fractions: list[float] = []

    def progress(self, fraction: float, text: str = "") -> None:
        self.fractions.append(fraction)


class StopsWhenBegun(Silent):
    """Cancels when there is a sampling in the folder, and notes when."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.at = folder, 0.0

    def check(self) -> None:
        if (self.folder / "windows.bin").exists():
            self.at = self.at or time.monotonic()
            raise Canceled


def test_a_cancel_is_answered_at_once_and_the_processes_end(
    sonic: Sonic, look: Look, heard: Heard, tmp_path: Path
) -> None:
    many: Any = SonicOptions(steps=60, seed=6, windows_at_once=1, processes=2)
    reporter = StopsWhenBegun(tmp_path)
    with pytest.raises(Canceled):
        sample_together(sonic, look, heard, many, tmp_path, reporter)
    assert time.monotonic() - reporter.at < 5  # a second, and a busy machine's patience
    deadline = time.monotonic() + 30
    while running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(tmp_path)
    assert not list(tmp_path.glob("failed_*"))  # nothing was wrong


def running(folder: Path) -> list[str]:
    """Processes that were started for this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if str(folder / "sampling.json").encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def test_more_processes_than_gpus_are_refused(sonic: Sonic, look: Look, heard: Heard, tmp_path: Path) -> None:
    class OnCuda:
        device, dtype, quantise, files = torch.device("cuda"), torch.float16, None, sonic.files

        def release(self, *parts: str) -> None: ...

    nets: Any = OnCuda()
    with pytest.raises(ParameterError, match="60 processes for"):
        sample_together(nets, look, heard, replace(OPTIONS, processes=60), tmp_path, Silent())
