"""Everything that a training is at one moment: networks, optimizers, and where it stands. Saved and read back whole.

    state = State.fresh(config, seed=1234, device=device, pretrained=(generator, critics))
    state.save(folder)                           # → folder/state_00000320.pt, then the older ones go
    state.restore(newest)

What is random in a step follows from the seed, the epoch and the clip (`steps.draw`), so there is no generator's state
to keep: a training that was killed goes on from its last state as if nothing had been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vividcover.errors import ModelFileError
from vividcover.tensors import check_keys, read_tensors, write_torch
from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.discriminators import Discriminators
from vividcover.voice.rvc.network import Synthesizer
from vividcover.voice.rvc.steps import NAMES

FORMAT = 1
LEARNING_RATE, DECAY = 1e-4, 0.999875  # of the weights; of the rate, per epoch
BETAS, EPSILON, WEIGHT_DECAY = (0.8, 0.99), 1e-9, 0.01  # of AdamW


class State:
    """`generator` and `bare_critics` are the networks; `voice` and `critics` the same, shared between processes or not.

    `epoch` counts finished passes, `position` the clips seen in the one under way, `step` all steps.
    """

    def __init__(
        self, config: RvcConfig, generator: Synthesizer, critics: Discriminators, *, device: torch.device,
        dtype: torch.dtype = torch.float32, learning_rate: float = LEARNING_RATE,
    ) -> None:  # fmt: skip
        self.config, self.device, self.dtype, self.learning_rate = config, device, dtype, learning_rate
        self.generator, self.bare_critics = generator.to(device).train(), critics.to(device).train()
        self.voice: nn.Module = self.generator
        self.critics: nn.Module = self.bare_critics
        self.voice_optimizer = _optimizer(generator, learning_rate)
        self.critics_optimizer = _optimizer(critics, learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.epoch = self.step = self.position = 0
        self.batch_size = 0
        self.sums, self.summed = torch.zeros(len(NAMES), device=device), 0  # of the losses of the epoch under way
        self.history: list[dict[str, float]] = []  # of each finished epoch: its mean losses

    @classmethod
    def fresh(
        cls, config: RvcConfig, *, f0: bool = True, seed: int = 1234, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32, learning_rate: float = LEARNING_RATE,
        pretrained: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    ) -> State:  # fmt: skip
        """At the start: random weights that follow from the seed, or pretrained ones (of generator and critics)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator, critics = Synthesizer(config, f0), Discriminators(config.version, config.critic)
        if pretrained is not None:
            check_keys(generator, pretrained[0], "The pretrained generator")
            check_keys(critics, pretrained[1], "The pretrained critics")
        return cls(config, generator, critics, device=torch.device(device), dtype=dtype, learning_rate=learning_rate)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Where networks run: in the state's number format."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def share(self) -> None:
        """Averages gradients with the other processes of a torch.distributed group from now on."""
        from torch.nn.parallel import DistributedDataParallel

        where = [self.device] if self.device.type == "cuda" else None
        self.voice = DistributedDataParallel(self.generator, where, broadcast_buffers=False)
        self.critics = DistributedDataParallel(self.bare_critics, where, broadcast_buffers=False)

    def pace(self) -> float:
        """Sets and returns the learning rate of the epoch under way."""
        rate = self.learning_rate * DECAY**self.epoch
        for optimizer in (self.voice_optimizer, self.critics_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def add(self, losses: Tensor) -> None:
        """Counts a step and its losses [6]."""
        self.step, self.sums, self.summed = self.step + 1, self.sums + losses, self.summed + 1

    def close_epoch(self) -> dict[str, float]:
        """Counts an epoch; its mean losses by name."""
        means = (self.sums / max(self.summed, 1)).tolist()
        self.epoch, self.position, self.sums, self.summed = self.epoch + 1, 0, torch.zeros_like(self.sums), 0
        return {name: round(value, 5) for name, value in zip(NAMES, means)}

    # --- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, *, keep: int = 1) -> Path:
        """Writes the state, then removes all but the `keep` newest. Whole or not at all; raises `StorageError`."""
        out = write_torch(folder / f"state_{self.step:08d}.pt", self.to_dict())
        for old in states(folder)[:-keep]:
            old.unlink(missing_ok=True)
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "config": self.config.to_list(), "version": self.config.version,
            "generator": self.generator.state_dict(), "critics": self.bare_critics.state_dict(),
            "voice_optimizer": self.voice_optimizer.state_dict(),
            "critics_optimizer": self.critics_optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "epoch": self.epoch, "step": self.step, "position": self.position, "batch_size": self.batch_size,
            "history": self.history, "sums": self.sums, "summed": self.summed,
        }  # fmt: skip

    def restore(self, path: Path) -> State:
        """Takes over what `save` wrote. Raises `ModelFileError` when the file is another training's, or damaged."""
        found = read_tensors(path)
        if found.get("format") != FORMAT or found.get("config") != self.config.to_list():
            raise ModelFileError(f"{path.name} is not a state of this training.", "Remove it to begin anew.")
        check_keys(self.generator, found["generator"], path.name)
        check_keys(self.bare_critics, found["critics"], path.name)
        self.voice_optimizer.load_state_dict(found["voice_optimizer"])
        self.critics_optimizer.load_state_dict(found["critics_optimizer"])
        self.scaler.load_state_dict(found["scaler"])
        self.epoch, self.step, self.position = found["epoch"], found["step"], found["position"]
        self.batch_size, self.history = found["batch_size"], found["history"]
        self.sums, self.summed = found["sums"].to(self.device), found["summed"]
        return self


def states(folder: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(folder.glob("state_*.pt")) if folder.is_dir() else []


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    for part in folder.glob(".state_*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def _optimizer(network: nn.Module, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        network.parameters(), lr=rate, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True
    )
