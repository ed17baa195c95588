"""From noise to latents: every window of every turn through the network, piece by piece, in files.

    store = sample(nets, Look(latents, clip, mask), heard, options, folder, reporter)
    store.read(0, 8)                             # latents [8, 4, h, w] of the first frames

The windows of a turn do not depend on each other: they go through the network several at once (`Load`), and several
processes may share them (`Crew`). Each result goes to a place of its own; when all are there they are merged. So a
sampling that was killed goes on with the first batch whose results are not there, and its latents are the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vividcover.files import canonical
from vividcover.image.flux.log import clock
from vividcover.patience import Patient
from vividcover.portrait.sonic.advance import Advance, Batch, Sung
from vividcover.portrait.sonic.config import WINDOW, SonicOptions
from vividcover.portrait.sonic.guidance import BRANCHES
from vividcover.portrait.sonic.memory import fit_on
from vividcover.portrait.sonic.plan import Exact, Move, Plan
from vividcover.portrait.sonic.schedule import noised
from vividcover.portrait.sonic.store import Layout, Store
from vividcover.portrait.sonic.windows import Window, windows
from vividcover.tensors import seeded
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.portrait.sonic.opening import Sonic

__all__ = ["Crew", "Exact", "Load", "Look", "Move", "Plan", "sample"]

FORMAT = 1  # of what is sampled: raise it when the same inputs give other latents
PIECE = 32  # frames of noise drawn at once
OnLatents = Callable[[float, Tensor], None]  # how far, 0..1; one frame's latents [4, h, w] as they will be, about


@dataclass(frozen=True, eq=False)
class Look:
    """The still, as the network gets it. On any device."""

    latents: Tensor  # [4, h, w], as the autoencoder gives them
    clip: Tensor  # [1, C]
    mask: Tensor  # [H, W] 0..1, in px


class Listened(Protocol):
    """What is sung: `features.Heard`."""

    @property
    def key(self) -> str: ...
    @property
    def frames(self) -> int: ...
    @property
    def silent_tokens(self) -> Tensor: ...
    @property
    def activity(self) -> Any: ...
    def tokens_of(self, indices: Sequence[int], /) -> Tensor: ...
    def buckets_of(self, indices: Sequence[int], /) -> Tensor: ...


@dataclass(frozen=True)
class Load:
    """What goes through the network at once: windows, and of each so many branches of guidance."""

    windows: int = 1
    branches: int = len(BRANCHES)


@dataclass(frozen=True)
class Crew:
    """Several processes that sample one portrait in one folder: number `rank` of `world`. The first one merges.

    `meet()` comes back when all of them have called it.
    """

    rank: int = 0
    world: int = 1
    meet: Callable[[], None] = lambda: None


def sample(
    nets: Sonic, look: Look, heard: Listened, options: SonicOptions, folder: Path, reporter: Reporter, *,
    plan: Plan | None = None, load: Load | None = None, crew: Crew | None = None, noise: Tensor | None = None,
    on_preview: OnLatents | None = None,
) -> Store:  # fmt: skip
    """The latents of every frame, in `folder`; goes on with what is there.

    `noise` [F, 4, h, w] takes the place of what the seed draws. Raises `Canceled` within a second, `EngineError` where
    memory does not suffice or the network fails, `StorageError`.
    """
    sampling = Sampling(nets, look, heard, options, plan or Exact.of(options), load, crew or Crew(), reporter)
    return sampling.run(folder, noise, on_preview)


class Sampling:
    """One call of `sample`."""

    def __init__(
        self, nets: Sonic, look: Look, heard: Listened, options: SonicOptions, plan: Plan, load: Load | None,
        crew: Crew, reporter: Reporter,
    ) -> None:  # fmt: skip
        self.nets, self.heard, self.options, self.plan, self.crew = nets, heard, options, plan, crew
        self.look = replace(look, latents=look.latents.detach().float().cpu().reshape(look.latents.shape[-3:]))
        self.load, self.reporter = load, reporter

    def run(self, folder: Path, noise: Tensor | None, on_preview: OnLatents | None) -> Store:
        with Patient(self.reporter) as patient:
            store = self._opened(folder, noise, patient)
            try:
                if not store.journal.finished:
                    self._sample(store, patient, on_preview)
            except BaseException:
                store.close()
                raise
            return store

    # --- what is sampled --------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """What the latents follow from."""
        look = hashlib.sha256()
        for part in (self.look.latents, self.look.clip, self.look.mask):
            look.update(part.detach().float().cpu().contiguous().numpy().tobytes())
        story = {
            "format": FORMAT, "look": look.hexdigest(), "heard": self.heard.key, "seed": self.options.seed,
            "dynamic_scale": self.options.dynamic_scale, "straight": self.options.straight, "plan": self.plan.key,
            "dtype": str(self.nets.dtype), "device": self.nets.device.type,
        }  # fmt: skip
        return hashlib.sha256(canonical(story).encode()).hexdigest()

    def _opened(self, folder: Path, noise: Tensor | None, patient: Patient) -> Store:
        """The store, begun. The first process begins it, the others wait."""
        _, height, width = self.look.latents.shape
        layout = Layout(self.heard.frames, (4, height, width))
        if self.crew.rank:
            self.crew.meet()
            return patient.call(Store.open, folder, self.key, layout)
        store = patient.call(Store.open, folder, self.key, layout)
        if store.begun_anew:
            self.reporter.note(store.begun_anew)
        if store.turns < 0:
            load = self.load or self._fitting(patient)
            store.journal.memory["load"] = asdict(load)  # who goes on makes the same batches: they give the same bits
            store.begin(self._start(noise), self.plan.settle, patient.call)
        self.crew.meet()
        return store

    def _fitting(self, patient: Patient) -> Load:
        """As much at once as the device holds."""
        keeps = any(move.deep for turn in range(len(self.plan.turns)) for moves in self._alike(turn) for move in moves)
        unet = patient.call(lambda: self.nets.unet)
        height, width = self.look.latents.shape[1:]
        fit = fit_on(unet, (height, width), wanted=self.options.windows_at_once, keeps=keeps)
        if self.nets.device.type != "cpu":
            self.reporter.note(fit.describe())
        return Load(fit.windows, fit.branches)

    def _start(self, noise: Tensor | None) -> Iterator[Tensor]:
        """The still under noise, drawn on the CPU, so that a seed means the same on every device."""
        generator, shape = seeded(self.options.seed), self.look.latents.shape
        for start in range(0, self.heard.frames, PIECE):
            self.reporter.check()
            count = min(PIECE, self.heard.frames - start)
            drawn = torch.randn(count, *shape, generator=generator) if noise is None else noise[start : start + count]
            yield noised(self.look.latents, drawn, self.plan.sigmas[0])

    # --- the turns --------------------------------------------------------------------------------------------------

    def _sample(self, store: Store, patient: Patient, on_preview: OnLatents | None) -> None:
        load, look, resumed = Load(**store.journal.memory["load"]), self.look, store.turns
        so_far = _SoFar(self.reporter, [self._cost(turn) for turn in range(len(self.plan.turns))], store.turns)
        so_far.begin(f"step {sum(map(len, self.plan.turns[:resumed])) + 1} of {len(self.plan.sigmas) - 1}")
        advance = Advance(self.nets, look.latents, look.clip, look.mask, self.plan.sigmas, load.branches)
        for turn in range(store.turns, len(self.plan.turns)):
            watched = self._watched(turn) if on_preview else -1
            for number, batch in enumerate(self._batches(turn, load.windows)):
                mine = number % self.crew.world == self.crew.rank
                there = turn == resumed and all(map(store.has, batch.windows))
                if mine and not there:
                    found, clean = patient.call(advance, batch, *self._given(store, batch))
                    for window, latents in zip(batch.windows, found, strict=True):
                        store.put(window, latents)
                    while advance.notes:
                        self.reporter.note(advance.notes.pop(0))
                    for window, latents in zip(batch.windows, clean, strict=True):
                        if on_preview and watched in window.frames:
                            on_preview(so_far.fraction, latents[window.frames.index(watched)])
                            watched = -1
                so_far.did(batch.cost, there, f"step {batch.steps[-1] + 1} of {len(self.plan.sigmas) - 1}")
            self._merge(store, turn, patient)
        if self.crew.rank == 0:
            store.finish()
        self.crew.meet()
        store.reload()

    def _alike(self, turn: int) -> dict[tuple[Move, ...], list[Window]]:
        """The turn's windows, by their moves."""
        alike: dict[tuple[Move, ...], list[Window]] = {}
        for window in self._wanted(turn):
            moves = tuple(self.plan.move(step, window) for step in self.plan.turns[turn])
            alike.setdefault(moves, []).append(window)
        return alike

    def _wanted(self, turn: int) -> list[Window]:
        every = windows(self.heard.frames, turn, straight=self.options.straight)
        return [window for window in every if self.plan.wanted(turn, window)]

    def _batches(self, turn: int, size: int) -> list[Batch]:
        """Windows with the same moves together, `size` at once."""
        return [
            Batch(self.plan.turns[turn], moves, tuple(found[i : i + size]))
            for moves, found in self._alike(turn).items()
            for i in range(0, len(found), size)
        ]

    def _cost(self, turn: int) -> float:
        return sum(batch.cost for batch in self._batches(turn, WINDOW))

    def _given(self, store: Store, batch: Batch) -> tuple[Tensor, Sung]:
        """What the windows are by now, [W, n, 4, h, w], and what is sung in them."""
        heard, latents = self.heard, torch.stack([store.gather(window.frames) for window in batch.windows])
        tokens = torch.stack([heard.tokens_of(window.frames) for window in batch.windows])
        buckets = torch.stack([heard.buckets_of(window.frames).float().mean(0) for window in batch.windows])
        return latents, Sung(tokens, heard.silent_tokens, self.options.dynamic_scale * buckets)

    def _merge(self, store: Store, turn: int, patient: Patient) -> None:
        def settle(turns: int, first: int, latents: Tensor) -> Tensor:
            self.reporter.check()
            return self.plan.settle(turns, first, latents)

        self.crew.meet()
        if self.crew.rank == 0:
            store.merge(self._wanted(turn), settle, patient.call)
        self.crew.meet()
        store.reload()

    def _watched(self, turn: int) -> int:
        """The frame that a preview shows after this turn, in the middle of what is sung; -1: none is due."""
        every = self.options.preview_every
        if not every or not any((step + 1) % every == 0 for step in self.plan.turns[turn]):
            return -1
        sung = [i for i, active in enumerate(self.heard.activity) if active]
        return sung[len(sung) // 2] if sung else self.heard.frames // 2


class _SoFar:
    """How far the sampling is, in forwards of the network, and how long the rest will take."""

    def __init__(self, reporter: Reporter, turns: Sequence[float], done: int) -> None:
        self.reporter, self.whole = reporter, sum(turns) or 1.0
        self.done = self.before = sum(turns[: max(done, 0)])  # before: by an earlier run
        self.began = time.monotonic()

    @property
    def fraction(self) -> float:
        return min(self.done / self.whole, 1.0)

    def begin(self, text: str) -> None:
        self.reporter.progress(self.fraction, text)

    def did(self, cost: float, there: bool, text: str) -> None:
        """`there`: an earlier run did it."""
        self.done += cost
        self.before += cost if there else 0.0
        left = (time.monotonic() - self.began) * (self.whole - self.done) / max(self.done - self.before, 1e-9)
        self.reporter.progress(self.fraction, text if there else f"{text}, {clock(left)} left")
