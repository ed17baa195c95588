"""A training ends in the same voice however often it is stopped, killed or short of memory; and tells how it goes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training import a_set, nano

from vividcover.errors import Canceled, ConsentError, EngineError, ParameterError
from vividcover.tensors import read_tensors
from vividcover.voice.rvc import learn as loop
from vividcover.voice.rvc import train
from vividcover.voice.rvc.checkpoint import read_voice_file
from vividcover.voice.rvc.config import tiny
from vividcover.voice.rvc.learn import Lesson, held_out, learn, order_of
from vividcover.voice.rvc.live import hint
from vividcover.voice.rvc.state import states
from vividcover.voice.rvc.train import TrainOptions
from vividcover.workspace import Silent

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"sample_rate": "32k", "epochs": 2, "batch_size": 2, "small": True, "precision": "fp32"}


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "tiny", nano)


def lesson(folder: Path, clips: int = 4, **options: Any) -> Lesson:
    made = a_set(folder.parent / f"set-{clips}", clips)
    return Lesson("ana", made, folder, TrainOptions(**{**OPTIONS, **options}), None, CPU, torch.float32)


def end_of(folder: Path) -> dict[str, Any]:
    return read_tensors(states(folder / "states")[-1])


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f"{where}/{number}")
    else:
        assert one == other, where


class StopsAfter(Silent):
    """Cancels at the n-th look."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def check(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Canceled


def test_a_training_that_was_stopped_after_every_step_ends_in_the_same_bits(tmp_path: Path) -> None:
    learn(lesson(tmp_path / "whole", clips=5), [], Silent())
    for _ in range(6):  # 5 clips are 3 steps an epoch
        with pytest.raises(Canceled):
            learn(lesson(tmp_path / "stopped", clips=5), [], StopsAfter(1))
    learn(lesson(tmp_path / "stopped", clips=5), [], Silent())
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "stopped"))


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
import test_rvc_train as tests
from vividcover.voice.rvc import train
from vividcover.voice.rvc.learn import learn
from vividcover.workspace import Silent

train.tiny = tests.nano
saves, really = [0], torch.save
def save(content, file):
    saves[0] += 1
    if saves[0] == {save}:                      # the state of this step: half of it, then the power goes
        file.write(b"half of a state " * 1000)
        file.flush()
        os.kill(os.getpid(), 9)
    really(content, file)
torch.save = save

class Dies(Silent):
    steps = 0
    def check(self):
        self.steps += 1
        if self.steps == {step}:                # after a step, before it is saved
            os.kill(os.getpid(), 9)

learn(tests.lesson(Path({folder!r}), state_seconds=0.0), [], Dies())
"""


@pytest.mark.parametrize(("save", "step"), [(3, 0), (0, 3)], ids=["in the middle of saving", "between step and save"])
def test_a_training_that_was_killed_goes_on_from_its_last_state_to_the_same_bits(
    tmp_path: Path, save: int, step: int
) -> None:
    learn(lesson(tmp_path / "whole"), [], Silent())
    script = KILLED.format(here=str(Path(__file__).parent), save=save, step=step, folder=str(tmp_path / "killed"))
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert dead.returncode == -9, dead.stderr
    assert [path.name for path in states(tmp_path / "killed" / "states")] == ["state_00000002.pt"]
    reporter = Silent()
    learn(lesson(tmp_path / "killed"), [], reporter)
    assert "Going on at epoch 1, step 2." in reporter.notes
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "killed"))
    assert not list((tmp_path / "killed" / "states").glob(".*"))


def test_more_epochs_go_on_where_fewer_ended(tmp_path: Path) -> None:
    learn(lesson(tmp_path / "whole", epochs=3), [], Silent())
    learn(lesson(tmp_path / "longer", epochs=1), [], Silent())
    assert learn(lesson(tmp_path / "longer", epochs=3), [], Silent()).steps == 6
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "longer"))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
     RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 12 bytes")],
)  # fmt: skip
def test_too_little_memory_halves_the_batch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    really = loop.train_step

    def small_device(state: Any, batch: Any) -> Any:
        if len(batch) > 2:
            raise error
        return really(state, batch)

    monkeypatch.setattr(loop, "train_step", small_device)
    reporter = Silent()
    learnt = learn(lesson(tmp_path / "t", clips=8, batch_size=8, epochs=1), [], reporter)
    assert (learnt.batch_size, learnt.steps) == (2, 4)
    assert reporter.notes[-1] == "The memory of cpu was too small: batches have 2 clips now."
    assert end_of(tmp_path / "t")["batch_size"] == 2  # and goes on with that


def test_too_little_memory_for_one_clip_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(state: Any, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop, "train_step", no_memory)
    with pytest.raises(EngineError, match=r"batches of 1: CUDA out of memory.*smaller batch_size"):
        learn(lesson(tmp_path / "t"), [], Silent())


def test_other_errors_are_not_taken_for_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: Any, batch: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        learn(lesson(tmp_path / "t"), [], Silent())


def test_losses_that_are_no_numbers_end_the_training_and_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = loop.train_step

    def astray(state: Any, batch: Any) -> Any:
        losses = really(state, batch)
        losses.mel.fill_(math.nan)
        return losses

    monkeypatch.setattr(loop, "train_step", astray)
    with pytest.raises(EngineError, match=r"epoch 1 are no numbers.*lower the learning rate"):
        learn(lesson(tmp_path / "t"), [], Silent())
    assert not states(tmp_path / "t" / "states")


def test_voices_are_kept_by_rule_and_clips_held_back_are_sung(tmp_path: Path) -> None:
    learnt = learn(lesson(tmp_path / "t", clips=20, batch_size=10, epochs=4, save_every=1, keep=2), [], Silent())
    voices = sorted(path.name for path in (tmp_path / "t" / "voices").iterdir())
    assert voices == [
        "ana.pth", "ana_best.pth", "ana_e00003_s00000006.pth", "ana_e00004_s00000008.pth",
    ]  # fmt: skip
    assert len(states(tmp_path / "t" / "states")) == 1
    samples = sorted((tmp_path / "t" / "samples").glob("held_out_e*.wav"))
    assert len(samples) == 4
    with wave.open(str(samples[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (32_000, 70 * 320)
    rows = [json.loads(line) for line in (tmp_path / "t" / "losses.jsonl").read_text().splitlines()]
    assert [row["epoch_done"] for row in rows if "epoch_done" in row] == [1, 2, 3, 4]
    assert all(math.isfinite(row["held_out"]) for row in rows if "epoch_done" in row)
    assert learnt.best_epoch in (1, 2, 3, 4)
    file = read_voice_file(learnt.voice)
    assert (file.config.rate, file.version, file.f0, file.info) == (32_000, "v2", True, "4epoch")


def test_the_clip_that_is_held_back_is_never_learnt_from(tmp_path: Path) -> None:
    clips = a_set(tmp_path / "set", 20)
    held = held_out(clips, 320)
    assert held is not None
    assert held_out(a_set(tmp_path / "few", 19), 320) is None
    taught = [i for i in range(20) if i != held]
    assert sorted(order_of(taught, 1, 0)) == taught
    assert order_of(taught, 1, 0) != order_of(taught, 1, 1)
    assert len(order_of(taught, 1, 0, world=4)) == 20
    assert len(order_of([5], 1, 0, world=4)) == 4


def test_a_hint_comes_when_the_held_out_clip_has_not_come_closer_for_long() -> None:
    history = [{"epoch": float(e), "held_out": 1.0 if e == 7 else 2.0} for e in range(1, 17)]
    assert hint(history, 10) == ""
    assert "since epoch 7" in hint([*history, {"epoch": 17.0, "held_out": 2.0}], 10)
    assert hint([{"epoch": 1.0}], 1) == ""


def test_training_stops_early_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.Ear, "listen", lambda self, state, live: 1.0 + state.epoch)
    given: dict[str, Any] = {"clips": 20, "batch_size": 20, "epochs": 9, "patience": 2}
    reporter = Silent()
    assert learn(lesson(tmp_path / "t", stop_early=True, **given), [], reporter).epochs == 3
    assert "since epoch 1" in reporter.notes[-1]


def test_tensorboard_is_written_when_asked_for_and_missed_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(lesson(tmp_path / "t", epochs=1, tensorboard=True), [], Silent())
    (events,) = (tmp_path / "t" / "tensorboard").iterdir()
    assert b"loss/mel" in events.read_bytes()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EngineError, match="pip install tensorboard"):
        learn(lesson(tmp_path / "u", epochs=1, tensorboard=True), [], Silent())


def test_two_processes_learn_what_one_with_twice_the_batch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule of `learn.py`; up to rounding, for clips of one length."""
    monkeypatch.setattr(train, "tiny", tiny)  # the other processes have no smaller one
    given: dict[str, Any] = {"clips": 4, "epochs": 1, "threads": 1}
    one = learn(lesson(tmp_path / "one", batch_size=2, **given), [], Silent())
    two = learn(lesson(tmp_path / "two", batch_size=1, processes=2, **given), [], Silent())
    assert (two.steps, two.epochs, two.batch_size) == (one.steps, one.epochs, 1)
    assert two.losses == pytest.approx(one.losses, rel=1e-3)
    assert read_voice_file(two.voice).info == "1epoch"
    alone, together = (end_of(tmp_path / name)["generator"] for name in ("one", "two"))
    apart = torch.cat([(value - together[name]).abs().flatten() for name, value in alone.items()])
    assert float(apart.max()) <= 2.1e-4 * one.steps  # where a gradient is zero, AdamW may step either way
    assert float(apart.mean()) < 1e-5


def test_an_error_in_one_of_several_processes_is_told(tmp_path: Path) -> None:
    broken = lesson(tmp_path / "t", processes=2, threads=1)
    broken = replace(broken, pretrained=(tmp_path / "G.pth", tmp_path / "D.pth"))
    with pytest.raises(EngineError, match=r"There is no file .*G\.pth"):
        learn(broken, [], Silent())


# --- from recordings to a zip ---------------------------------------------------------------------------------------


def test_options_that_make_no_sense_are_said() -> None:
    with pytest.raises(ParameterError, match="epochs is 0"):
        TrainOptions(epochs=0)
    with pytest.raises(ParameterError, match="learning rate is 1"):
        TrainOptions(learning_rate=1)
    with pytest.raises(ParameterError, match="no RVC voice of version 'v2' at 44k"):
        _ = TrainOptions(sample_rate="44k").config


def test_no_voice_is_trained_without_consent(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="without consent"):
        train.train_voice(
            tmp_path, tmp_path / "v.zip", TrainOptions(), weights=None, work=tmp_path, consent=" ", name="ana"
        )  # type: ignore[arg-type]
