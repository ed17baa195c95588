"""What is done with which window at which step. `Exact` is the published algorithm; `speed.py` has the faster ones.

A sampling goes in turns. In a turn every window does one or more steps alone; then its frames are merged with those of
the other windows, the windows move, and the next turn begins. Published: every step is a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.guidance import BRANCHES, Branch
from vividcover.portrait.sonic.schedule import levels
from vividcover.portrait.sonic.windows import Window

DEEP_COST = 0.37  # of a whole forward, when the deep features are there already: 12.35 of 33.3 TFLOP


@dataclass(frozen=True)
class Move:
    """What the network does for a window at a step.

    `branches` are computed, `voice` always among them and all of them at a turn's first step; of the others the
    difference found last is taken. `deep`: "keep"
    what is found below the top level for the window's next step in the same turn, or "use" what was kept; branches that
    a turn does not compute at each of its steps neither keep nor use it.
    """

    branches: tuple[Branch, ...] = BRANCHES
    deep: Literal["", "keep", "use"] = ""

    @property
    def cost(self) -> float:
        """Forwards of the network that this is worth."""
        return len(self.branches) * (DEEP_COST if self.deep == "use" else 1.0)


class Plan(Protocol):
    """The decisions of one sampling. All of them must follow from its `key` and what is sampled."""

    @property
    def key(self) -> dict[str, Any]:
        """What the latents depend on beside look, voice, seed and windows; plain JSON."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Levels of noise; step k goes from the k-th to the next. The last is 0."""

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """The steps of each turn, all steps in order."""

    def wanted(self, turn: int, window: Window) -> bool:
        """False: no frame of this window needs the network in this turn (then `settle` must know its frames)."""

    def move(self, step: int, window: Window) -> Move:
        """What is computed. Windows with the same moves in a turn work side by side."""

    def settle(self, turns: int, first: int, latents: Tensor) -> Tensor:
        """What is kept of frames [n, 4, h, w] from `first` on when `turns` turns are done (0: before the first).

        May be called again for the same frames, with the same latents, and must then say the same.
        """


@dataclass(frozen=True)
class Exact:
    """Every step a turn, all three branches, every window: as published."""

    sigmas: tuple[float, ...]

    @classmethod
    def of(cls, options: SonicOptions) -> Exact:
        return cls(tuple(levels(options.step_count).tolist()))

    @property
    def key(self) -> dict[str, Any]:
        return {"plan": "exact", "sigmas": list(self.sigmas)}

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        return tuple((step,) for step in range(len(self.sigmas) - 1))

    def wanted(self, turn: int, window: Window) -> bool:
        return True

    def move(self, step: int, window: Window) -> Move:
        return Move()

    def settle(self, turns: int, first: int, latents: Tensor) -> Tensor:
        return latents
