"""Everything that a training is at one moment: weights, their average, the optimizer, and where it stands.

    state = State(trainee.named(), optimizer, ema=0.99)
    state.save(folder)                           # → folder/state_00000250.pt, then the older ones go
    state.restore(newest, key)

What is random in a step follows from the seed and the step's number (`data.py`), and so does which pictures it takes.
So there is no generator's state to keep: a training that was killed goes on from its last state as if nothing had been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vividcover.errors import ModelFileError
from vividcover.tensors import check_shapes, read_tensors, write_torch

FORMAT = 1


class State:
    """`weights` are what learns, by name; `average` their moving average, empty without one.

    `at_once` and `recompute` (`presets.Plan`) are how a step was made to fit into memory. `history` has a row for every
    window of steps and every look; `sums` and `summed` are of the window under way. `seconds` were spent on steps.
    """

    def __init__(self, weights: Mapping[str, Tensor], optimizer: Optimizer, ema: float = 0.0) -> None:
        self.weights, self.optimizer, self.ema = dict(weights), optimizer, ema
        self.average = {name: w.detach().clone() for name, w in self.weights.items()} if ema else {}
        self.step = self.summed = self.at_once = self.recompute = 0
        device = next(iter(self.weights.values())).device
        self.sums = torch.zeros(2, device=device, dtype=torch.float32)  # of losses, of gradients' norms
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0

    def count(self, loss: Tensor, norm: Tensor) -> None:
        """Counts a step, after the weights moved; float32 scalars on the device."""
        self.step, self.summed = self.step + 1, self.summed + 1
        self.sums += torch.stack((loss.detach(), norm.detach()))
        if self.ema:
            decay = min(self.ema, self.step / (self.step + 9))  # at first the average follows closely
            values = [w.detach() for w in self.weights.values()]
            torch._foreach_lerp_(list(self.average.values()), values, 1 - decay)

    def close_window(self) -> dict[str, float]:
        """Mean loss and norm since the last call; waits for the device."""
        loss, norm = (self.sums / max(self.summed, 1)).tolist()
        self.sums.zero_()
        self.summed = 0
        row = {"step": self.step, "loss": loss, "grad_norm": norm}
        self.history.append(row)
        return row

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the weights are their average."""
        kept = {name: w.detach().clone() for name, w in self.weights.items()} if self.average else {}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)

    # --- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, key: str, *, keep: int = 1) -> Path:
        """Writes the state, then removes all but the `keep` newest. Whole or not at all; raises `StorageError`."""
        out = write_torch(folder / f"state_{self.step:08d}.pt", self.to_dict() | {"key": key})
        for old in states(folder)[:-keep]:
            old.unlink(missing_ok=True)
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "weights": {n: w.detach() for n, w in self.weights.items()}, "average": self.average,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "sums": self.sums, "summed": self.summed,
            "history": self.history, "seconds": self.seconds, "at_once": self.at_once,
            "recompute": self.recompute,
        }  # fmt: skip

    def restore(self, path: Path, key: str) -> State:
        """Takes over what `save` wrote. Raises `ModelFileError` when the file is another training's, or damaged."""
        found = read_tensors(path)
        if found.get("format") != FORMAT or found.get("key") != key:
            raise ModelFileError(f"{path.name} is not a state of this training.", anew(path.parent.parent))
        wanted = {name: tuple(w.shape) for name, w in self.weights.items()}
        check_shapes(wanted, found["weights"], path.name)
        self._put(found["weights"])
        if self.average:
            check_shapes(wanted, found["average"], path.name)
            for name, value in found["average"].items():
                self.average[name].copy_(value)
        self.optimizer.load_state_dict(found["optimizer"])
        self.sums.copy_(found["sums"])
        for name in ("step", "summed", "history", "seconds", "at_once", "recompute"):
            setattr(self, name, found[name])
        return self


def anew(folder: Path) -> str:
    """What to do about a training in `folder` that cannot be gone on with."""
    return f"Remove {folder} to begin it anew."


def states(folder: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(folder.glob("state_*.pt")) if folder.is_dir() else []


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
