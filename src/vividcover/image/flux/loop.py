"""The training loop.

    learnt = learn(course, reporter)

A step: pictures of one size, each with its own level of noise; the error of the velocity that the network says; the
gradients' length cut; the optimizer; the average. What is saved, and what stays:

    states/state_<step>.pt          the newest one: everything, to go on from; every five minutes and at the end
    loras/<name>_<step>.safetensors every `save_every` steps, of the average; the newest `keep`
    loras/<name>.safetensors        the end
    samples/, losses.jsonl          pictures at fixed seeds, and the losses, on the way

What learns is a `Trainee`: a LoRA (`trainee.LoraTrainee`), or whatever has its four names. The full fine-tune is one
whose `named` gives the network's own weights, whose `optimizer` is to its liking and whose `write` writes the whole;
with `TrainOptions(ema=0)` nothing is kept twice. The loop moves only what `named` gives and calls `network` as
`network.Flux` is called; weights are in `state.weights`, gradients beside them as usual.

Several processes (torch's launcher, `together.py`): each takes every n-th picture of a step's, and gradients are
averaged, so n processes with a batch of b learn what one with a batch of n·b does, but for rounding.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vividcover.errors import Canceled, EngineError, ModelFileError, ParameterError
from vividcover.files import canonical, write_text
from vividcover.image.flux.data import Batch, Order, draws
from vividcover.image.flux.log import Log, Rgb
from vividcover.image.flux.objective import Objective, Point, points_of
from vividcover.image.flux.optimizers import pace
from vividcover.image.flux.presets import short_of_memory, too_small
from vividcover.image.flux.state import State, anew, states, sweep
from vividcover.image.flux.teaching import Course, Learnt, Still, Trainee
from vividcover.patience import Patient
from vividcover.workspace import Reporter

__all__ = ["Course", "Learnt", "Still", "Trainee", "learn"]
WINDOW = 10  # steps whose mean loss is a row of the log; the device is waited for between them
GATHERED = 64 << 20  # numbers of gradients that processes average in one go


def learn(course: Course, reporter: Reporter) -> Learnt:
    """Trains to the end, or goes on with what `course.folder` holds. Raises `Canceled`, after saving; `EngineError`
    when memory is too small or losses are no numbers any more."""
    return _Loop(course, reporter).run()


class _Loop:
    def __init__(self, course: Course, reporter: Reporter) -> None:
        self.course, self.options, self.reporter = course, course.options, reporter
        self.trainee, self.folder, self.steps = course.trainee, course.folder, course.options.optimizer_steps
        for name in ("states", "loras", "samples"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if self.options.preserve_every and not isinstance(self.trainee, Still):
            raise ParameterError("Only a LoRA can hold the rest still.", "Leave `preserve_every` out.")
        self.notes: list[str] = []
        course.lessons.keep_on(course.device)
        self.objective = Objective(course.trainee.network, course.options.guidance, course.device, course.dtype)
        shapes = {i: course.lessons.items[i].shape for i in course.taught}
        self.order = Order(shapes, self.options.batch_size * course.world, self.options.seed)
        self.log = Log(self.folder, self.steps, reporter, boards=course.boards, quiet=course.rank > 0)
        self.state = self._begin()
        self.tests = points_of(course.lessons, course.tested, self.options.seed)
        self._saved = time.monotonic()

    def run(self) -> Learnt:
        started = self.state.seconds
        try:
            with Patient(self.reporter) as patient:  # a cancel does not wait for a step; the state is as before it
                self._keep(patient)
                while self.state.step < self.steps:
                    self._step(patient)
                    self._keep(patient)
        except Canceled:
            self._save_state(0.0)
            raise
        finally:
            self.log.close()
        return self._done(started)

    # --- a step -----------------------------------------------------------------------------------------------------

    def _step(self, patient: Patient) -> None:
        state, options, began = self.state, self.options, time.perf_counter()
        for group in state.optimizer.param_groups:
            group["lr"] = group["base"] * pace(options.schedule, state.step, self.steps, options.warmup)
        try:
            loss = patient.call(self._gradients, self._ids())
        except RuntimeError:
            if self.course.world > 1:  # another has ended, often of the same cancel; the state is as before the step
                self._save_state(0.0)
            raise
        norm = torch.nn.utils.clip_grad_norm_(self._weights(), options.max_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.count(loss, norm)
        if state.step % WINDOW == 0 or state.step == self.steps:
            self._close_window()
        state.seconds += time.perf_counter() - began
        self.log.step(state.step)

    def _ids(self) -> list[int]:
        """The step's pictures, of all processes."""
        return self.order.ids(self.state.step)

    def _gradients(self, ids: Sequence[int]) -> Tensor:
        """Puts the step's gradients beside the weights and returns its loss. Does not touch the state otherwise."""
        rank, world, options = self.course.rank, self.course.world, self.options
        drawn = draws(options.seed, self.state.step, len(ids))
        if self.course.device.index is not None and self.course.device.type == "cuda":
            torch.cuda.set_device(self.course.device)  # threads do not take it over from each other
        batch = self.course.lessons.batch(
            ids[rank::world], drawn[rank::world], way=options.timesteps, caption_dropout=options.caption_dropout,
            background=options.background,
        )  # fmt: skip
        if options.dropout:
            torch.manual_seed(drawn[rank].noise)
        every = options.preserve_every
        plain = batch.without_words(self.course.lessons) if every and self.state.step % every == 0 else None
        while True:
            try:
                loss = self._backward(batch)
                if plain is not None:
                    self._hold_still(plain)
                break
            except RuntimeError as error:
                if not short_of_memory(error):
                    raise
                problem = str(error)
            self._shrink(len(batch), problem)  # out here, where the error's traceback holds no tensors any more
        return self._averaged(loss)

    def _backward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch; gradients are its."""
        total = torch.zeros((), device=self.course.device)
        for part in self._parts(batch):
            loss = self.objective.losses(part).sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _hold_still(self, plain: Batch) -> None:
        """Adds the gradients of how far pictures without words have drifted."""
        assert isinstance(self.trainee, Still)
        for part in self._parts(plain):
            loss = self.objective.drift(part, self.trainee.still).sum() / len(plain)
            loss.backward()  # type: ignore[no-untyped-call]

    def _parts(self, batch: Batch) -> list[Batch]:
        """What goes through the network at once, as memory asks."""
        size = self.state.at_once or len(batch)
        return [batch] if size >= len(batch) else [batch.part(i, i + size) for i in range(0, len(batch), size)]

    def _averaged(self, loss: Tensor) -> Tensor:
        """Loss and gradients, over all processes."""
        if (world := self.course.world) == 1:
            return loss
        from torch import distributed

        grads = [w.grad for w in self._weights() if w.grad is not None]
        while grads:
            taken, count = [grads.pop()], 0
            while grads and (count := count + taken[-1].numel()) < GATHERED:
                taken.append(grads.pop())
            flat = torch.cat([g.flatten() for g in taken])
            distributed.all_reduce(flat)
            flat /= world
            for g, part in zip(taken, torch.split(flat, [g.numel() for g in taken])):
                g.copy_(part.view_as(g))
        distributed.all_reduce(loss)
        return loss / world

    def _weights(self) -> list[Tensor]:
        return list(self.state.weights.values())

    def _shrink(self, size: int, problem: str) -> None:
        """Makes the step smaller: activations twice, then fewer pictures at once. The loss stays the same."""
        state, device = self.state, self.course.device
        for weight in self._weights():
            weight.grad = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        alone, blocks = self.course.world == 1, self._blocks()
        if alone and state.recompute < blocks and self.options.checkpointing is None:
            state.recompute = self.trainee.network.recompute = blocks
            self._say(f"The memory of {device} was too small: activations are computed twice now, which is slower.")
        elif alone and (now := state.at_once or size) > 1:
            state.at_once = now // 2
            self._say(f"The memory of {device} was too small: {state.at_once} of {size} pictures go at once now.")
        else:
            done = f" The state of step {state.step} is kept." if self._save_state(0.0) else ""
            raise too_small(device, problem, done)

    def _blocks(self) -> int:
        config = self.trainee.network.config
        return int(config.double_blocks + config.single_blocks)

    def _say(self, note: str) -> None:
        self.notes.append(note)
        self.reporter.note(note)

    # --- between steps ----------------------------------------------------------------------------------------------

    def _close_window(self) -> None:
        """Waits for the device and looks at the losses. Raises `EngineError` when they are no numbers any more."""
        row = self.state.close_window()
        if not all(math.isfinite(value) for value in row.values()):
            raise self._astray("the loss is")
        self.log.row(row | {"learning_rate": float(self.state.optimizer.param_groups[0]["lr"])})

    def _look_for_faults(self) -> None:
        """So that nothing is kept that is no number."""
        found = torch.stack([*torch._foreach_norm(self._weights()), *self.state.sums])
        if not bool(torch.isfinite(found).all()):
            raise self._astray("a weight or the loss is")

    def _astray(self, what: str) -> EngineError:
        kept = [*states(self.folder / "states"), *self._on_the_way()]
        last = f" The last that was good is {max(kept, key=lambda file: file.stem[-6:])}." if kept else ""
        return EngineError(
            f"The training has gone astray: around step {self.state.step} {what} no number any more.{last}",
            "Choose a lower learning_rate, a warmup, or another optimizer; what mostly helps too is quantise none, or "
            "fp32 as the number format (VIVIDCOVER_PRECISION=fp32). With any of these it begins anew by itself; with "
            f"the same options it goes on from its last state. {anew(self.folder)}",
        )

    def _keep(self, patient: Patient) -> None:
        """What is due at this step and was not done before it was stopped here: a look, a LoRA, a state."""
        state, options, step = self.state, self.options, self.state.step
        last = step == self.steps
        samples = step == 0 or last or (options.sample_every > 0 and step % options.sample_every == 0)
        due = last or (step > 0 and step % options.save_every == 0)
        if (samples or due) and not any(row["step"] == step and "validation" in row for row in state.history):
            self._look(patient, samples)
        if due:
            self._look_for_faults()
            file = self.folder / "loras" / f"{self.course.name}_{step:06d}.safetensors"
            if self.course.rank == 0 and not last and not file.exists():
                self._write(file.name)
                self._prune()
        if step:
            self._save_state(0.0 if last else options.state_seconds)

    def _look(self, patient: Patient, samples: bool) -> None:
        """The loss on fixed noise, and the sample pictures if they are due, of the average."""
        state, network = self.state, self.trainee.network
        pictures: Mapping[str, Rgb] = {}
        try:
            with state.averaged():  # a cancel leaves it at once; what is still computed then is thrown away
                network.eval()
                losses = [patient.call(self._loss_at, point) for point in self.tests]
                if samples and self.course.painter and self.course.rank == 0:
                    pictures = self.course.painter(patient)
        finally:
            network.train(self.options.dropout > 0)
        row = {"step": state.step, "validation": sum(losses) / len(losses)}
        state.history.append(row)
        self.log.row(row)
        self.log.pictures(state.step, pictures)
        for number, rgb in enumerate(pictures.values()):
            write_png(self.folder / "samples" / f"{state.step:06d}_{number}.png", rgb)

    @torch.no_grad()
    def _loss_at(self, point: Point) -> float:
        lessons = self.course.lessons
        captions = [lessons.items[point.item].caption]
        batch = lessons.given([point.item], torch.tensor([point.sigma]), [point.noise], captions)
        return float(self.objective.losses(batch))

    def _write(self, name: str) -> Path:
        with self.state.averaged():
            return self.trainee.write(self.folder / "loras" / name)

    def _prune(self) -> None:
        """All but the newest `keep` of the LoRAs on the way."""
        for old in self._on_the_way()[: -self.options.keep]:
            old.unlink(missing_ok=True)

    def _on_the_way(self) -> list[Path]:
        return sorted((self.folder / "loras").glob(f"{self.course.name}_{'[0-9]' * 6}.safetensors"))

    def _done(self, started: float) -> Learnt:
        state = self.state
        file = self.folder / "loras" / f"{self.course.name}.safetensors"
        losses = [row["loss"] for row in state.history if "loss" in row]
        looks = [row["validation"] for row in state.history if "validation" in row]
        some = max(1, len(losses) // 10)
        learnt = Learnt(
            file, state.step, round(state.seconds, 3), round(state.seconds - started, 3),
            sum(losses[:some]) / some if losses else math.nan, sum(losses[-some:]) / some if losses else math.nan,
            {"before": looks[0], "after": looks[-1]} if looks else {}, list(state.history), state.at_once,
            state.recompute, self.notes,
        )  # fmt: skip
        if self.course.rank == 0:
            self._write(file.name)
            write_text(self.folder / "learnt.json", canonical(learnt.to_json() | {"history": learnt.history}))
        return learnt

    # --- beginning and going on -------------------------------------------------------------------------------------

    def _begin(self) -> State:
        """The newest state, or a fresh one."""
        course, options = self.course, self.options
        optimizer, note = self.trainee.optimizer(options)
        if note:
            self._say(note)
        state = State(self.trainee.named(), optimizer, options.ema)
        state.at_once, state.recompute = course.plan.at_once, course.plan.recompute
        if course.rank == 0:
            sweep(self.folder / "states")
        for path in states(self.folder / "states")[-1:]:
            try:
                state.restore(path, course.key)
            except ModelFileError as error:
                raise ModelFileError(error.message, anew(self.folder)) from error
            self.reporter.note(f"Going on at step {state.step + 1}.")
        self.log.rewind(state.step)
        self.trainee.network.recompute = state.recompute
        return state

    def _save_state(self, after: float) -> bool:
        """When `after` seconds have passed since the last time; True if there is a state of this step now."""
        if self.course.rank > 0 or time.monotonic() - self._saved < after:
            return False
        self._look_for_faults()
        self.state.save(self.folder / "states", self.course.key)
        self._saved = time.monotonic()
        return True


def write_png(path: Path, rgb: Rgb) -> Path:
    """rgb uint8 [H, W, 3]."""
    from PIL import Image

    from vividcover.files import aside

    with aside(path) as part:
        Image.fromarray(rgb).save(part, format="PNG")
    return path
