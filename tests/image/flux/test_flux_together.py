"""Several processes share a training, and end where one would."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_making import tiny_flux_folder, tiny_photos
from vividcover.errors import Canceled, EngineError
from vividcover.image.flux.opening import BaseFiles
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.state import states
from vividcover.image.flux.train import train_lora
from vividcover.tensors import read_tensors
from vividcover.workspace import Silent

torch.set_num_threads(1)
OPTIONS: dict[str, Any] = {
    "trigger_word": "VIVI", "steps": 8, "resolution": "64", "text_length": 16, "rank": 4, "captioner": "template",
    "optimizer": "adamw", "caption_dropout": 0.3,
}  # fmt: skip


def trained(folder: Path, reporter: Silent | None = None, base: Path | None = None, **changes: Any) -> dict[str, Any]:
    where, source = base or tiny_flux_folder(), folder.parent / "photos"
    if not source.exists():
        tiny_photos(source, 4, side=64)
    return train_lora(
        source, folder / "vivi.tar", TrainOptions(**(OPTIONS | changes)), base=BaseFiles(where, where, where),
        work=folder / "work", consent="She does not exist.", name="vivi", device="cpu", threads=1, reporter=reporter,
    )  # fmt: skip


def end_of(folder: Path) -> dict[str, Any]:
    (training,) = (folder / "work").glob("training-*")
    return read_tensors(states(training / "states")[-1])


def test_two_processes_share_the_pictures_of_a_step(tmp_path: Path) -> None:
    """Eight pictures: two processes see four each, in four steps of two, which is what one with batches of two
    and the rate times √2 does."""
    two = trained(tmp_path / "two", processes=2, sample_prompts=("VIVI",), sample_size=64, sample_steps=2)
    one = trained(tmp_path / "one", batch_size=2, steps=4, learning_rate=4e-4 * 2**0.5)
    assert (two["steps"], one["steps"], two["processes"]) == (4, 4, 2)
    assert two["last_loss"] == pytest.approx(one["last_loss"], rel=1e-4)
    assert two["validation"]["after"] == pytest.approx(one["validation"]["after"], rel=1e-4)
    together, alone = (end_of(tmp_path / name)["weights"] for name in ("two", "one"))
    apart = torch.cat([(value - together[name]).abs().flatten() for name, value in alone.items()])
    assert float(apart.mean()) < 1e-5
    assert float(apart.max()) <= 8.1e-4 * 4  # where a gradient is zero, AdamW may step either way
    assert (tmp_path / "two" / "vivi.tar").exists()


class StopsWhen(Silent):
    """Cancels when there is a step."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = False

    def progress(self, fraction: float, text: str = "") -> None:
        self.stop |= text.startswith("step ")

    def check(self) -> None:
        if self.stop:
            raise Canceled


def test_several_processes_are_canceled_go_on_and_tell_their_errors(tmp_path: Path) -> None:
    with pytest.raises(Canceled):
        trained(tmp_path / "t", StopsWhen(), processes=2, steps=2000, save_every=1000)
    assert 0 < end_of(tmp_path / "t")["step"] < 1000  # where they stood, not where they last saved
    broken = shutil.copytree(tiny_flux_folder(), tmp_path / "broken")  # which only they find: they open it
    (weights,) = (broken / "transformer").glob("*.safetensors")
    weights.write_bytes(
        weights.read_bytes().replace(b"transformer_blocks.0.attn.to_q", b"transformer_blocks.0.attn.to_x")
    )
    with pytest.raises(EngineError, match=r"attn\.to_"):
        trained(tmp_path / "u", base=broken, processes=2)
    assert not list(tmp_path.glob("*/vivi.tar"))


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import test_flux_together as tests
from vividcover.workspace import Silent

class Dies(Silent):
    def progress(self, fraction, text=""):
        if text.startswith("step "):
            os.kill(os.getpid(), 9)

tests.trained(Path({folder!r}), Dies(), processes=2, steps=100_000, save_every=50_000)
"""


def test_processes_whose_parent_was_killed_keep_their_state_and_end(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = KILLED.format(paths=paths, folder=str(tmp_path / "t"))
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert dead.returncode == -9, dead.stderr
    (training,) = (tmp_path / "t" / "work").glob("training-*")
    deadline = time.monotonic() + 60
    while not states(training / "states") and time.monotonic() < deadline:
        time.sleep(0.1)
    step = end_of(tmp_path / "t")["step"]
    assert 0 < step < 50_000
    progress = (training / "progress.json").read_text()
    time.sleep(1.0)
    assert (training / "progress.json").read_text() == progress  # nobody goes on
