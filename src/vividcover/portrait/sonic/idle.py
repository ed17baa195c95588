"""Rest: quiet movement where nobody sings, sampled once for the whole song and going round.

    rest = rest_in(heard)                                   # which frames, None where there are none
    idle = loop_of(nets, look, heard, options, plan, rest, folder, reporter)
    idle.settle(turns, first, latents)                      # the same latents, the loop's in the frames that rest

Windows lie in a circle (`windows.py`), so a song of 25, 50 or 75 frames sampled by itself ends where it begins. It is
sampled with what is heard in the song's own longest pause. Its latents after every turn are kept: they take the place
of the song's in the frames that rest, before the song's first turn and after each. So a window that holds such frames
and sung ones sees them with as much noise as its own, and finds its way from one to the other; a window in which all
frames rest has nothing to find and is left out.

Frame i of the song shows frame i modulo the loop's length, in every rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vividcover.portrait.sonic.activity import idle_spans
from vividcover.portrait.sonic.config import FPS, WINDOW, SonicOptions
from vividcover.portrait.sonic.plan import Move, Plan
from vividcover.portrait.sonic.rows import Rows
from vividcover.portrait.sonic.windows import Window
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.portrait.sonic.opening import Sonic
    from vividcover.portrait.sonic.sampler import Crew, Listened, Look

SEAM = 12  # frames, 1 s: between what is sung and rest, where the network finds its way from one to the other
LONGEST = 3  # windows in the loop: 6 s
FOLDER = "rest"


@dataclass(frozen=True)
class Rest:
    """Frames of the song that rest, and what is heard meanwhile."""

    spans: tuple[tuple[int, int], ...]  # (first frame, frame after the last)
    length: int  # frames in the loop
    heard: tuple[int, ...]  # for each frame of the loop, the frame of the song whose sound it gets

    @property
    def key(self) -> list[Any]:
        return [[list(span) for span in self.spans], self.length, list(self.heard), SEAM]

    @cached_property
    def frames(self) -> frozenset[int]:
        return frozenset(frame for start, stop in self.spans for frame in range(start, stop))

    def covers(self, frames: Sequence[int]) -> bool:
        """Whether all of them rest."""
        return self.frames.issuperset(frames)

    def describe(self, frames: int) -> str:
        return (
            f"Nobody sings in {len(self.frames) / FPS:.0f} of {frames / FPS:.0f} s: there {self.length / FPS:.0f} s of "
            "quiet movement go round."
        )


def rest_in(heard: Listened, longest: int = LONGEST) -> Rest | None:
    """What of a song rests: its pauses but for a second at both ends of each, if that leaves two seconds.

    `longest` is how many windows the loop has at most.
    """
    spans = []
    for start, stop in idle_spans(heard.activity, WINDOW):
        inner = start + SEAM * (start > 0), stop - SEAM * (stop < heard.frames)
        if inner[1] - inner[0] >= WINDOW:
            spans.append(inner)
    if not spans:
        return None
    start, stop = max(spans, key=lambda span: span[1] - span[0])
    length = WINDOW * min((stop - start) // WINDOW, longest)
    first = start + (stop - start - length) // 2
    return Rest(tuple(spans), length, tuple(range(first, first + length)))


@dataclass(frozen=True)
class Idle:
    """A loop as a plan needs it; its latents lie in `folder`."""

    rest: Rest
    folder: Path

    def settle(self, turns: int, first: int, latents: Tensor) -> Tensor:
        """Latents [n, 4, h, w] of frames from `first` on, after so many turns, with the loop's where they rest."""
        places = [place for place in range(len(latents)) if first + place in self.rest.frames]
        if not places:
            return latents
        out, shape = latents.clone(), tuple(latents.shape[1:])
        with Rows(self.folder / _after(turns), shape, self.rest.length) as rows:
            loop = torch.from_numpy(rows.read(0, self.rest.length))
        out[places] = loop[[(first + place) % self.rest.length for place in places]]
        return out


def loop_of(
    nets: Sonic, look: Look, heard: Listened, options: SonicOptions, plan: Plan, rest: Rest, folder: Path,
    reporter: Reporter, crew: Crew | None = None,
) -> Idle:  # fmt: skip
    """Samples the loop into a folder in `folder`, or goes on with it, or finds it done. Raises what `sample` raises."""
    from vividcover.portrait.sonic.sampler import sample

    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    quiet = replace(options, idle=False, straight=False, preview_every=0)
    sample(
        nets, look, Pause(heard, rest), quiet, place, reporter, plan=Recorded(plan, place, rest.length), crew=crew
    ).close()
    return Idle(rest, place)


class Pause:
    """What is heard in the loop: a pause of the song, as `sample` listens."""

    def __init__(self, heard: Listened, rest: Rest) -> None:
        self._heard, self._frames, self.frames = heard, rest.heard, rest.length
        self.silent_tokens: Tensor = heard.silent_tokens
        self.activity: NDArray[np.bool_] = np.zeros(rest.length, bool)
        self.key = hashlib.sha256(f"{heard.key} {rest.heard}".encode()).hexdigest()

    def tokens_of(self, indices: Sequence[int], /) -> Tensor:
        return self._heard.tokens_of([self._frames[i] for i in indices])

    def buckets_of(self, indices: Sequence[int], /) -> Tensor:
        return self._heard.buckets_of([self._frames[i] for i in indices])


@dataclass(frozen=True)
class Recorded:
    """A plan that keeps the latents after every turn in files."""

    plan: Plan
    folder: Path
    length: int

    @property
    def key(self) -> dict[str, Any]:
        return {**self.plan.key, "recorded": True}

    @property
    def sigmas(self) -> tuple[float, ...]:
        return self.plan.sigmas

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        return self.plan.turns

    def wanted(self, turn: int, window: Window) -> bool:
        return self.plan.wanted(turn, window)

    def move(self, step: int, window: Window) -> Move:
        return self.plan.move(step, window)

    def settle(self, turns: int, first: int, latents: Tensor) -> Tensor:
        settled = self.plan.settle(turns, first, latents)
        with Rows(self.folder / _after(turns), tuple(settled.shape[1:]), self.length) as rows:
            rows.write(first, settled.numpy())
            rows.flush()
        return settled


def _after(turns: int) -> str:
    return f"turn{turns}.f32"
