"""A training ends in the same weights however often it is stopped, killed or short of memory; and tells how it goes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vividcover.errors import Canceled, EngineError, ModelFileError
from vividcover.image.flux import loop
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.data import Item, Store, TrainingSet
from vividcover.image.flux.generate import compile_blocks
from vividcover.image.flux.loop import Course, learn
from vividcover.image.flux.lora import attach
from vividcover.image.flux.lorafile import Pair, read_lora
from vividcover.image.flux.network import Flux
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import fit
from vividcover.image.flux.state import states
from vividcover.image.flux.trainee import LoraTrainee, balanced
from vividcover.tensors import read_tensors
from vividcover.workspace import Silent

torch.set_num_threads(1)
CPU = torch.device("cpu")
NANO = FluxConfig(
    double_blocks=1, single_blocks=1, heads=2, head_dim=16, text_width=8, pooled_width=8, axes=(4, 6, 6)
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "steps": 6, "batch_size": 2, "rank": 4, "resolution": "64", "save_every": 3, "optimizer": "adamw", "text_length": 4,
}  # fmt: skip


def nano() -> Flux:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Flux(NANO).eval()


def lessons(count: int = 5) -> TrainingSet:
    store, items = Store(), []
    for number in range(count):
        random = torch.Generator().manual_seed(number)
        height = 64 if number % 2 else 32
        store.put(f"item_{number:05d}", {"latent": torch.randn(16, height // 8, 8, generator=random)})
        items.append(Item(f"photo{number}", 1, 64, height, 64))
    for number in range(2):
        store.put(f"text_{number:05d}", {"tokens": torch.full((4, 8), float(number)), "pooled": torch.ones(8)})
    return TrainingSet(items, ["", "a photo of TOK"], store)


def course(folder: Path, **changes: Any) -> Course:
    options = TrainOptions(**{**OPTIONS, **changes})
    network = nano()
    adapter = attach(network, NANO, rank=options.rank, seed=options.seed, dropout=options.dropout)
    found = lessons()
    everything = range(len(found.items))
    return Course(
        "vivi", LoraTrainee(network, adapter, NANO, "dev"), found, everything, everything, folder, options,
        fit(0, NANO, options), CPU, key="abc",
    )  # fmt: skip


def end_of(folder: Path) -> dict[str, Any]:
    found = read_tensors(states(folder / "states")[-1])
    found.pop("seconds")
    return found


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


class StopsAt(Silent):
    """Cancels when the progress names a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.stop = step, False

    def progress(self, fraction: float, text: str = "") -> None:
        self.stop |= text.startswith(f"step {self.step} ")

    def check(self) -> None:
        if self.stop:
            raise Canceled


@pytest.fixture(autouse=True)
def _told_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vividcover.image.flux.log.EVERY", 0.0)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "prodigy", "learning_rate": 1.0}, {"optimizer": "lion", "schedule": "cosine", "warmup": 2},
     {"optimizer": "adafactor", "ema": 0.0}, {"dropout": 0.3, "caption_dropout": 0.5},
     {"preserve_every": 2}],
    ids=["adamw", "prodigy", "lion", "adafactor", "dropout", "held still"],
)  # fmt: skip
def test_a_training_that_was_stopped_after_every_step_ends_in_the_same_bits(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    learn(course(tmp_path / "whole", **options), Silent())
    for step in range(1, 6):
        with pytest.raises(Canceled):
            learn(course(tmp_path / "stopped", **options), StopsAt(step))
        assert [path.name for path in states(tmp_path / "stopped" / "states")] == [f"state_{step:08d}.pt"]
    learn(course(tmp_path / "stopped", **options), Silent())
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "stopped"))
    one, other = (tmp_path / name / "loras" / "vivi.safetensors" for name in ("whole", "stopped"))
    assert one.read_bytes() == other.read_bytes()
    rows = [(tmp_path / name / "losses.jsonl").read_text() for name in ("whole", "stopped")]
    assert rows[0] == rows[1]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
import test_flux_loop as tests
from vividcover.image.flux.loop import learn
from vividcover.workspace import Silent

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
    def progress(self, fraction, text=""):
        if text.startswith("step {step} "):     # after a step, before it is saved
            os.kill(os.getpid(), 9)

tests.loop.Log.step.__globals__["EVERY"] = 0.0
learn(tests.course(Path({folder!r}), state_seconds=0.0), Dies())
"""


@pytest.mark.parametrize(("save", "step"), [(3, 0), (0, 3)], ids=["in the middle of saving", "between step and save"])
def test_a_training_that_was_killed_goes_on_from_its_last_state_to_the_same_bits(
    tmp_path: Path, save: int, step: int
) -> None:
    learn(course(tmp_path / "whole"), Silent())
    script = KILLED.format(here=str(Path(__file__).parent), save=save, step=step, folder=str(tmp_path / "killed"))
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert dead.returncode == -9, dead.stderr
    assert [path.name for path in states(tmp_path / "killed" / "states")] == ["state_00000002.pt"]
    reporter = Silent()
    learn(course(tmp_path / "killed"), reporter)
    assert "Going on at step 3." in reporter.notes
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "killed"))
    assert not list((tmp_path / "killed" / "states").glob(".*"))


def test_more_steps_go_on_where_fewer_ended(tmp_path: Path) -> None:
    learn(course(tmp_path / "whole", steps=9), Silent())
    learn(course(tmp_path / "longer", steps=6), Silent())
    assert learn(course(tmp_path / "longer", steps=9), Silent()).steps == 9
    one, other = (end_of(tmp_path / name) for name in ("whole", "longer"))
    for name in ("weights", "average", "optimizer", "step"):
        assert_same(one[name], other[name], name)


def test_a_state_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    learn(course(tmp_path / "t"), Silent())
    with pytest.raises(ModelFileError, match=r"state_00000006\.pt is not a state of this training.*begin it anew"):
        learn(replace(course(tmp_path / "t"), key="other"), Silent())


def test_a_cancel_does_not_wait_for_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, canceled_at = loop._Loop._backward, []

    class Stops(Silent):
        def check(self) -> None:
            if canceled_at and time.monotonic() > canceled_at[0]:
                raise Canceled

    def slow(self: Any, batch: Any) -> Any:
        if self.state.step == 2 and not canceled_at:
            canceled_at.append(time.monotonic() + 0.1)
            time.sleep(3.0)
        return really(self, batch)

    monkeypatch.setattr(loop._Loop, "_backward", slow)
    with pytest.raises(Canceled):
        learn(course(tmp_path / "t"), Stops())
    assert time.monotonic() - canceled_at[0] < 1.0
    assert [path.name for path in states(tmp_path / "t" / "states")] == ["state_00000002.pt"]
    monkeypatch.undo()
    learn(course(tmp_path / "t"), Silent())
    learn(course(tmp_path / "whole"), Silent())
    assert_same(end_of(tmp_path / "whole"), end_of(tmp_path / "t"))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_too_little_memory_makes_a_step_smaller_but_not_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """First activations are computed twice, then the batch is divided: the same loss and gradients."""
    whole = learn(course(tmp_path / "whole", batch_size=4), Silent())
    really = loop.Objective.losses

    def small_device(self: Any, batch: Any) -> Any:
        if torch.is_grad_enabled() and (self.network.recompute < 2 or len(batch) > 1):
            raise error
        return really(self, batch)

    monkeypatch.setattr(loop.Objective, "losses", small_device)
    reporter = Silent()
    learnt = learn(course(tmp_path / "small", batch_size=4), reporter)
    assert (learnt.recompute, learnt.at_once) == (2, 1)
    assert learnt.notes == reporter.notes == [
        "The memory of cpu was too small: activations are computed twice now, which is slower.",
        "The memory of cpu was too small: 2 of 4 pictures go at once now.",
        "The memory of cpu was too small: 1 of 4 pictures go at once now.",
    ]  # fmt: skip
    assert learnt.last_loss == pytest.approx(whole.last_loss, rel=1e-5)
    assert end_of(tmp_path / "small")["at_once"] == 1  # and goes on with that


def test_too_little_memory_for_one_picture_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = loop.Objective.losses

    def no_memory(self: Any, batch: Any) -> Any:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return really(self, batch)

    monkeypatch.setattr(loop.Objective, "losses", no_memory)
    with pytest.raises(EngineError, match=r"too small for this training: CUDA out of memory.*int8 or nf4"):
        learn(course(tmp_path / "t"), Silent())
    assert not (tmp_path / "t" / "loras" / "vivi.safetensors").exists()
    assert not (tmp_path / "t" / "learnt.json").exists()


def test_other_errors_are_not_taken_for_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, batch: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop._Loop, "_backward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        learn(course(tmp_path / "t"), Silent())


def test_losses_that_are_no_numbers_end_the_training_and_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = loop._Loop._backward

    def astray(self: Any, batch: Any) -> Any:
        loss = really(self, batch)
        return loss * math.nan if self.state.step == 4 else loss

    monkeypatch.setattr(loop._Loop, "_backward", astray)
    with pytest.raises(
        EngineError,
        match=r"around step 6 the loss is no number.*last that was good is .*vivi_000003\.safetensors.*learning_rate",
    ) as caught:
        learn(course(tmp_path / "t"), Silent())
    assert str(tmp_path / "t") in caught.value.hint and "VIVIDCOVER_PRECISION=fp32" in caught.value.hint
    assert not states(tmp_path / "t" / "states")
    assert [path.name for path in (tmp_path / "t" / "loras").iterdir()] == ["vivi_000003.safetensors"]


def test_weights_that_are_no_numbers_are_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight breaks in the very step after which a LoRA and a state would be written."""
    really = loop.State.count

    def breaks(self: Any, loss: Any, norm: Any) -> None:
        really(self, loss, norm)
        if self.step == 3:
            next(iter(self.weights.values())).data[0, 0] = math.inf

    monkeypatch.setattr(loop.State, "count", breaks)
    with pytest.raises(EngineError, match=r"around step 3 .* no number any more"):
        learn(course(tmp_path / "t"), Silent())
    assert not states(tmp_path / "t" / "states")
    assert not list((tmp_path / "t" / "loras").iterdir())


def test_half_precision_holds_a_lora_that_has_hardly_begun() -> None:
    b = torch.randn(8, 2) * 1e-7
    pair = Pair(torch.randn(2, 8), b, 2.0)
    held = balanced(pair)
    assert torch.equal(held.delta(), pair.delta())
    half = Pair(held.a.half(), held.b.half(), 2.0)
    assert float((half.delta() - pair.delta()).norm() / pair.delta().norm()) < 1e-3
    learnt = Pair(torch.randn(2, 8), torch.randn(8, 2), 2.0)
    assert balanced(learnt) is learnt
    zero = Pair(torch.randn(2, 8), torch.zeros(8, 2), 2.0)
    assert balanced(zero) is zero


def test_loras_are_kept_by_rule_and_read_again(tmp_path: Path) -> None:
    learnt = learn(course(tmp_path / "t", steps=12, save_every=2, keep=2), Silent())
    kept = sorted(path.name for path in (tmp_path / "t" / "loras").iterdir())
    assert kept == ["vivi.safetensors", "vivi_000008.safetensors", "vivi_000010.safetensors"]
    lora = read_lora(learnt.file, NANO)
    assert lora.rank == 4
    average = end_of(tmp_path / "t")["average"]
    first = average["double_blocks.0.img_proj.a"]
    assert torch.allclose(lora.pairs["transformer_blocks.0.attn.to_out.0"].a.float(), first, atol=1e-6)


def test_without_an_average_the_weights_themselves_come_out(tmp_path: Path) -> None:
    learnt = learn(course(tmp_path / "t", ema=0.0), Silent())
    end = end_of(tmp_path / "t")
    assert end["average"] == {}
    pair = read_lora(learnt.file, NANO).pairs["transformer_blocks.0.attn.to_out.0"]
    assert torch.allclose(pair.b.float(), end["weights"]["double_blocks.0.img_proj.b"], atol=1e-7)


def test_losses_and_looks_are_written_down(tmp_path: Path) -> None:
    learnt = learn(course(tmp_path / "t", steps=30, sample_every=10, save_every=15), Silent())
    rows = [json.loads(line) for line in (tmp_path / "t" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [10, 20, 30]
    assert [row["step"] for row in rows if "validation" in row] == [0, 10, 15, 20, 30]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert learnt.validation["after"] < learnt.validation["before"]
    told = learnt.to_json()
    assert told["steps_per_second"] > 0
    assert [step for step, _ in told["curve"]] == [10, 20, 30]
    assert [step for step, _ in told["looks"]] == [0, 10, 15, 20, 30]


@pytest.mark.parametrize("options", [{}, {"checkpointing": True, "dropout": 0.1}], ids=["plain", "computed twice"])
def test_compiled_blocks_learn_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    """One graph for each kind of block, LoRA included; what is made of the graph is up to the device."""
    plain = learn(course(tmp_path / "plain", steps=2, **options), Silent())
    compiled = course(tmp_path / "compiled", steps=2, **options)
    compile_blocks(compiled.trainee.network, "eager")
    learnt = learn(compiled, Silent())
    assert learnt.last_loss == pytest.approx(plain.last_loss, rel=1e-5)
    assert learnt.validation == pytest.approx(plain.validation, rel=1e-5)


def test_tensorboard_is_written_when_asked_for_and_missed_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vividcover.image.flux.log import TensorBoard, WandB

    board = TensorBoard(tmp_path / "board")
    painted = {"0: TOK": torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()}
    learn(replace(course(tmp_path / "t"), boards=[board], painter=lambda patient: painted), Silent())
    (events,) = (tmp_path / "board").iterdir()
    written = events.read_bytes()
    assert b"validation" in written
    assert b"0: TOK" in written
    assert sorted(p.name for p in (tmp_path / "t" / "samples").iterdir()) == ["000000_0.png", "000006_0.png"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EngineError, match="pip install tensorboard"):
        TensorBoard(tmp_path / "u")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EngineError, match="pip install wandb"):
        WandB(tmp_path / "u", "project")


def test_wandb_is_told_numbers_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offline stand-in: what our code calls of it, and that a refusal is an error of ours."""
    from vividcover.image.flux.log import WandB

    calls: list[Any] = []

    class Run:
        def log(self, values: Any, step: int) -> None:
            calls.append((step, sorted(values)))

        def finish(self) -> None:
            calls.append("finished")

    def init(**given: Any) -> Run:
        calls.append((given["project"], given["entity"], given["resume"]))
        return Run()

    module = type(sys)("wandb")
    module.init, module.Image = init, lambda rgb: rgb  # type: ignore[attr-defined]
    module.login = lambda key: calls.append(f"login {key}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    board = WandB(tmp_path / "w", "flux", entity="us", key="k")
    learn(replace(course(tmp_path / "t", steps=2), boards=[board]), Silent())
    assert calls[:2] == ["login k", ("flux", "us", "allow")]
    assert (2, ["grad_norm", "learning_rate", "loss"]) in calls
    assert calls[-1] == "finished"

    def refuse(**given: Any) -> Run:
        raise ValueError("API key must be 40 characters long\nmore")

    module.init = refuse  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="W&B does not take this training: API key must be 40 characters long"):
        WandB(tmp_path / "w", "flux")
