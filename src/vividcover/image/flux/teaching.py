"""What a training consists of, and what comes of it: the names that `loop.py` knows.

course = Course("vivi", trainee, lessons, taught, tested, folder, options, plan, device)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from vividcover.image.flux.data import TrainingSet
from vividcover.image.flux.log import Board, Rgb
from vividcover.image.flux.presets import Plan
from vividcover.patience import Patient

if TYPE_CHECKING:
    from vividcover.image.flux.options import TrainOptions

CURVE = 100  # points of a report's curve
Painter = Callable[[Patient], Mapping[str, Rgb]]  # pictures by their titles, of the network as it is now


class Trainee(Protocol):
    """What learns, and in which network, whose `recompute` is the number of blocks that compute their insides twice."""

    network: Any

    def named(self) -> dict[str, Tensor]:
        """The weights that learn, by name; always the same tensors."""

    def optimizer(self, options: TrainOptions) -> tuple[Optimizer, str]:
        """What moves them (every group has its rate as `base`), and what the user should know about it."""

    def write(self, path: Path) -> Path:
        """Writes what was learnt, whole or not at all."""


@runtime_checkable
class Still(Protocol):
    """A trainee whose network can be asked what it said before the training."""

    def still(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Course:
    """What is to be learnt, by whom, where. `taught` and `tested`: numbers of the set's items; `rank` of `world`.

    `key` names what decides the outcome: a state of another key is not gone on with.
    """

    name: str
    trainee: Trainee
    lessons: TrainingSet
    taught: Sequence[int]
    tested: Sequence[int]
    folder: Path
    options: TrainOptions
    plan: Plan
    device: torch.device
    dtype: torch.dtype = torch.float32  # of the network's inputs
    key: str = ""
    painter: Painter | None = None
    boards: Sequence[Board] = ()
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Learnt:
    """`file` is what the trainee wrote at the end. Losses are means; `validation` is of fixed noise."""

    file: Path
    steps: int
    seconds: float
    seconds_here: float = 0.0  # of these, in this process: less where a training was gone on with
    first_loss: float = math.nan
    last_loss: float = math.nan
    validation: dict[str, float] = field(default_factory=dict)  # before, after
    history: list[dict[str, float]] = field(default_factory=list)
    at_once: int = 1
    recompute: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, job_folder: Path, name: str, values: Mapping[str, Any]) -> Learnt:
        known = {key: value for key, value in values.items() if key not in ("steps_per_second", "curve", "looks")}
        return cls(job_folder / "loras" / f"{name}.safetensors", **known)

    def to_json(self) -> dict[str, Any]:
        """Without the file; of the history so many points as a curve needs."""
        found = {key: value for key, value in asdict(self).items() if key not in ("file", "history")}
        rows = [row for row in self.history if "loss" in row]
        looks = [[int(row["step"]), round(row["validation"], 5)] for row in self.history if "validation" in row]
        curve = [[int(row["step"]), round(row["loss"], 5)] for row in rows[:: -(-len(rows) // CURVE) or 1]]
        found |= {"curve": curve, "looks": looks}
        return found | {"steps_per_second": round(self.steps / self.seconds, 4) if self.seconds else 0.0}
