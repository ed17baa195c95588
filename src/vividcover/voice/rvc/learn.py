"""The training loop.

    learnt = learn(lesson, samples, reporter)

An epoch is every clip once, in an order that follows from the seed. What is saved, and what stays:

    states/state_<step>.pt         the newest one: everything, to go on from; every ten minutes and at the end
    voices/<name>_e…_s….pth        every `save_every` epochs; the newest `keep`
    voices/<name>_best.pth         when the held-out clip came closest
    voices/<name>.pth              the end
    samples/*.wav, losses.jsonl    what it sounded like, and the losses, on the way

Several processes (torch's launcher, `together.py`): each takes every n-th clip of a batch that is n times as large, and
gradients are averaged; the epoch's order is filled up from its beginning so that all get equally many. So n processes
with a batch of b learn what one with a batch of n·b does, but for rounding and for the KL term's mean over frames where
clips differ in length.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vividcover.errors import Canceled, EngineError, ModelFileError
from vividcover.files import canonical, write_text
from vividcover.voice.rvc import checkpoint
from vividcover.voice.rvc.data import TrainingSet
from vividcover.voice.rvc.live import Ear, Live, Sample, hint
from vividcover.voice.rvc.state import State, states, sweep
from vividcover.voice.rvc.steps import train_step
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.voice.rvc.train import TrainOptions

HOLD_OUT_FROM = 20  # clips, from which on one is kept for listening
SAMPLES = 20  # times that a training is listened to, about
TOO_LITTLE = ("out of memory", "not enough memory", "can't allocate memory")
START_ANEW = "Remove the folder of the training to begin anew, or lower the learning rate, or choose precision fp32."


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt, from what, where. `pretrained`: files of generator and critics; `rank` of `world`."""

    name: str
    clips: TrainingSet
    folder: Path
    options: TrainOptions
    pretrained: tuple[Path, Path] | None
    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Learnt:
    """`voice` is the voice's file; `losses` the last epoch's; `best_epoch` when the held-out clip came closest."""

    voice: Path
    epochs: int
    steps: int
    batch_size: int
    losses: dict[str, float]
    best_epoch: int | None
    hint: str

    def to_json(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs, "steps": self.steps, "batch_size": self.batch_size, "losses": self.losses,
            "best_epoch": self.best_epoch, "hint": self.hint,
        }  # fmt: skip


def learn(lesson: Lesson, samples: Sequence[Sample], reporter: Reporter) -> Learnt:
    """Trains to the end, or goes on with what `lesson.folder` holds. Raises `Canceled`, after saving."""
    if lesson.options.processes > 1 and lesson.world == 1:
        from vividcover.voice.rvc import together

        return together.learn_together(lesson, samples, reporter)
    return _Loop(lesson, samples, reporter).run()


class _Loop:
    def __init__(self, lesson: Lesson, samples: Sequence[Sample], reporter: Reporter) -> None:
        self.lesson, self.options, self.reporter = lesson, lesson.options, reporter
        self.folder = lesson.folder
        for name in ("states", "voices", "samples"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        held = held_out(lesson.clips, self.options.config.hop)
        self.taught = [i for i in range(len(lesson.clips)) if i != held]
        own = [] if held is None else [sample_of(lesson.clips, held, self.options.config)]
        self.ear = Ear([*samples, *own], self.folder / "samples", self.options.seed)
        self.state = self._begin()
        self.live = Live(
            self.folder, self._steps_in_all(), reporter, tensorboard=self.options.tensorboard, quiet=lesson.rank > 0
        )
        self._saved = time.monotonic()

    def run(self) -> Learnt:
        state, options = self.state, self.options
        padded = max(self.lesson.clips.clips[i].usable(state.config.hop) for i in self.taught)
        said = self._hint()
        try:
            while state.epoch < options.epochs and not (said and options.stop_early):
                state.pace()
                order = order_of(self.taught, options.seed, state.epoch, self.lesson.world)
                while state.position < len(order):
                    losses, taken = self._step(order[state.position :], padded)
                    state.add(losses)
                    state.position += taken
                    self.live.step(state, losses)
                    self._save_state(options.state_seconds)
                said = self._end_epoch(said)
        except Canceled:
            self._save_state(0.0)
            raise
        finally:
            self.live.close()
        self._save_state(0.0)
        return self._done(said)

    # --- a step -----------------------------------------------------------------------------------------------------

    def _step(self, left: Sequence[int], padded: int) -> tuple[Tensor, int]:
        """Learns from the next clips, from half as many if memory is short; returns the losses [6] and how many."""
        state, world = self.state, self.lesson.world
        while True:
            ids = left[: state.batch_size * world]
            try:
                batch = self.lesson.clips.batch(
                    ids[self.lesson.rank :: world], state.config, seed=self.options.seed, epoch=state.epoch,
                    pitch=self.options.f0, padded=padded if state.device.type == "cuda" else 0, device=state.device,
                )  # fmt: skip
                return self._averaged(train_step(state, batch).stacked()), len(ids)
            except RuntimeError as error:
                if not any(words in str(error).lower() for words in TOO_LITTLE):
                    raise
                problem = str(error).split("\n")[0][:200]
            self._shrink(len(ids), problem)  # outside of `except`: its traceback would hold the tensors

    def _averaged(self, losses: Tensor) -> Tensor:
        """[6] over all processes."""
        if self.lesson.world > 1:
            torch.distributed.all_reduce(losses)
            losses /= self.lesson.world
        return losses

    def _shrink(self, size: int, problem: str) -> None:
        """(The critics may have learnt from the batch already; they will from its half again.)"""
        state = self.state
        if self.lesson.world > 1 or size <= 1:
            raise EngineError(
                f"The memory of {state.device} is too small for batches of {size}: {problem}.",
                "Choose a smaller batch_size, close other programs, or train at 40k, or on another device.",
            )
        for optimizer in (state.voice_optimizer, state.critics_optimizer):
            optimizer.zero_grad(set_to_none=True)
        self.lesson.clips.let_go()
        gc.collect()
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
        state.batch_size = max(1, size // 2)
        self.live.total = state.step + self._steps_in_all()
        self.reporter.note(f"The memory of {state.device} was too small: batches have {state.batch_size} clips now.")

    # --- an epoch's end ---------------------------------------------------------------------------------------------

    def _end_epoch(self, said: str) -> str:
        """Keeps what is to be kept; returns the hint, when it is time for one."""
        state, options = self.state, self.options
        means = state.close_epoch()
        if not all(math.isfinite(value) for value in means.values()):
            raise EngineError(
                f"Training has gone astray: the losses of epoch {state.epoch} are no numbers any more.", START_ANEW
            )
        row: dict[str, float] = {"epoch": state.epoch, **means}
        last = state.epoch == options.epochs
        if self.lesson.rank == 0:
            if self.ear.samples and (last or state.epoch % self._listen_every() == 0):
                heard = self.ear.listen(state, self.live)
                if heard is not None:
                    best = min((r["held_out"] for r in state.history if "held_out" in r), default=math.inf)
                    row["held_out"] = heard
                    if heard < best:
                        self._write_voice(f"{self.lesson.name}_best.pth")
            if state.epoch % options.save_every == 0:
                self._write_voice(f"{self.lesson.name}_e{state.epoch:05d}_s{state.step:08d}.pth")
                self._prune()
        state.history.append(row)
        self.live.epoch(state, row)
        if (hinted := self._hint()) and not said:
            self.reporter.note(hinted)
        return said or hinted

    def _hint(self) -> str:
        return hint(self.state.history, self.options.patience or max(10, self.options.epochs // 10))

    def _write_voice(self, name: str) -> Path:
        state = self.state
        extras = {"epoch": state.epoch, "step": state.step}
        return checkpoint.write_voice_file(
            self.folder / "voices" / name, state.generator, info=f"{state.epoch}epoch", extras=extras
        )

    def _prune(self) -> None:
        """All but the newest `keep` of the voices on the way."""
        for old in sorted((self.folder / "voices").glob(f"{self.lesson.name}_e*_s*.pth"))[: -self.options.keep]:
            old.unlink(missing_ok=True)

    def _listen_every(self) -> int:
        return self.options.listen_every or max(1, self.options.epochs // SAMPLES)

    def _done(self, said: str) -> Learnt:
        state = self.state
        heard = [(row["held_out"], int(row["epoch"])) for row in state.history if "held_out" in row]
        voice = self.folder / "voices" / f"{self.lesson.name}.pth"
        losses = {k: v for k, v in state.history[-1].items() if k != "epoch"} if state.history else {}
        learnt = Learnt(
            voice, state.epoch, state.step, state.batch_size, losses, min(heard)[1] if heard else None, said
        )
        if self.lesson.rank == 0:
            self._write_voice(voice.name)
            write_text(self.folder / "learnt.json", canonical(learnt.to_json()))
        return learnt

    # --- beginning and going on -------------------------------------------------------------------------------------

    def _begin(self) -> State:
        """The newest state that can be read, or a fresh one."""
        lesson, options = self.lesson, self.options
        pretrained = None
        newest = states(self.folder / "states")[::-1]
        if lesson.pretrained and not newest:
            g, d = lesson.pretrained
            pretrained = (checkpoint.read_pretrained(g), checkpoint.read_pretrained(d, critic=True))
        state = State.fresh(
            options.config, f0=options.f0, seed=options.seed, device=lesson.device, dtype=lesson.dtype,
            learning_rate=options.learning_rate, pretrained=pretrained,
        )  # fmt: skip
        state.batch_size = options.batch_size
        if lesson.rank == 0:
            sweep(self.folder / "states")
        for path in newest:
            try:
                state.restore(path)
            except ModelFileError as error:
                raise ModelFileError(error.message, START_ANEW) from error
            self.reporter.note(f"Going on at epoch {state.epoch + 1}, step {state.step}.")
            break
        if lesson.world > 1:
            state.share()
        return state

    def _save_state(self, after: float) -> None:
        """When `after` seconds have passed since the last time."""
        if self.lesson.rank == 0 and time.monotonic() - self._saved >= after:
            self.state.save(self.folder / "states")
            self._saved = time.monotonic()

    def _steps_in_all(self) -> int:
        state, a_step = self.state, self.state.batch_size * self.lesson.world
        per_epoch = math.ceil(len(self.taught) / a_step)
        left = per_epoch * (self.options.epochs - state.epoch) - state.position // a_step
        return state.step + max(left, 0)


def held_out(clips: TrainingSet, hop: int) -> int | None:
    """The clip that is kept for listening: the one with the most voiced frames; None where there are few clips."""
    own = [i for i, clip in enumerate(clips.clips) if not clip.mute]
    if len(own) < HOLD_OUT_FROM:
        return None
    voiced = [int((clips.f0[(c := clips.clips[i]).f0 : c.f0 + c.usable(hop)] > 0).sum()) for i in own]
    return own[int(np.argmax(voiced))]


def sample_of(clips: TrainingSet, number: int, config: Any) -> Sample:
    """A clip of the set, to be sung and compared with itself."""
    clip = clips.clips[number]
    batch = clips.batch([number], config, seed=0, epoch=0)
    assert batch.f0 is not None
    return Sample("held_out", batch.features, batch.f0, torch.tensor([clip.speaker]), batch.wave[:, 0])


def order_of(taught: Sequence[int], seed: int, epoch: int, world: int = 1) -> list[int]:
    """The clips of an epoch, every one once; filled up from the beginning to a multiple of `world`."""
    order = np.random.default_rng((seed, epoch)).permutation(taught).tolist()
    return list(islice(cycle(order), math.ceil(len(order) / world) * world))
