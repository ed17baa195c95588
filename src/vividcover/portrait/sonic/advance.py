"""One turn of a few windows through the network: what runs on the device, without files and without waiting for it.

Shapes: W windows of n frames, B = branches x windows in one call of the network, branch by branch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vividcover.errors import EngineError
from vividcover.portrait.sonic.config import FPS
from vividcover.portrait.sonic.guidance import BRANCHES, Branch, Condition, Pushes, guided
from vividcover.portrait.sonic.network import Deep, MaskPyramid
from vividcover.portrait.sonic.plan import Move
from vividcover.portrait.sonic.schedule import c_in, c_noise, clean, step
from vividcover.portrait.sonic.windows import Window

if TYPE_CHECKING:
    from vividcover.portrait.sonic.opening import Sonic

FULL = ("out of memory", "not enough memory", "can't allocate memory")
MEMORY = "Use a smaller min_resolution or dtype=fp16, or free memory on the device."


@dataclass(frozen=True)
class Batch:
    """Windows that go through a turn side by side: the same steps, with the same moves."""

    steps: tuple[int, ...]
    moves: tuple[Move, ...]  # one for each step
    windows: tuple[Window, ...]

    @property
    def cost(self) -> float:
        """Forwards of the network for one window that this is worth."""
        return len(self.windows) * sum(move.cost for move in self.moves)


@dataclass(frozen=True, eq=False)
class Sung:
    """What is sung in a batch. On the CPU."""

    tokens: Tensor  # [W, n, T, C]
    silence: Tensor  # [T, C]
    buckets: Tensor  # [W, 2], times `dynamic_scale`: the windows' means


class Advance:
    """Takes windows through a turn, so many `branches` of them in one call of the network."""

    def __init__(
        self, nets: Sonic, still: Tensor, clip: Tensor, mask: Tensor, sigmas: Sequence[float], branches: int
    ) -> None:
        """`still` [4, h, w], `clip` [1, C], `mask` [H, W] in px."""
        self.nets, self.sigmas, self.branches, self.limit = nets, tuple(sigmas), branches, 0
        self.notes: list[str] = []  # on memory, for who may tell them
        self._still, self._clip, self._mask = still, clip.reshape(1, -1), mask
        self._there: tuple[Tensor, Tensor, MaskPyramid] | None = None  # the three on the device

    def __call__(self, batch: Batch, x: Tensor, sung: Sung) -> tuple[Tensor, Tensor]:
        """Latents x [W, n, 4, h, w] → the same after the turn, and how they would be without noise; on the CPU."""
        made, start = [], 0
        while start < len(batch.windows):
            part = slice(start, start + (self.limit or len(batch.windows)))
            some = Batch(batch.steps, batch.moves, batch.windows[part])
            made.append(self._fitting(some, x[part], Sung(sung.tokens[part], sung.silence, sung.buckets[part])))
            start = part.stop
        return torch.cat([then for then, _ in made]), torch.cat([clean for _, clean in made])

    def _fitting(self, batch: Batch, x: Tensor, sung: Sung) -> tuple[Tensor, Tensor]:
        """Where memory does not suffice, fewer windows at once, then one branch after the other."""
        try:
            with _on(self.nets.device):
                return self._advance(batch, x, sung)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            lost = str(error)
        if self.nets.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch.windows) > 1:
            self.limit = len(batch.windows) // 2
            self.notes.append(f"memory does not suffice for {len(batch.windows)} windows at once: now {self.limit}")
        elif self.branches > 1:
            self.branches = 1
            self.notes.append("memory does not suffice for all branches of a window at once: now one after the other")
        else:
            _, height, width = self._still.shape
            raise EngineError(
                f"The memory does not suffice for a window of {x.shape[1]} frames of {8 * width}x{8 * height} px "
                f"({lost.splitlines()[0][:200]}).",
                MEMORY,
            )
        return self(batch, x, sung)

    @torch.inference_mode()
    def _advance(self, batch: Batch, x: Tensor, sung: Sung) -> tuple[Tensor, Tensor]:
        device, dtype, unet = self.nets.device, self.nets.dtype, self.nets.unet
        still, clip, mask = self._placed()
        condition = Condition(still, clip, sung.tokens.to(device, dtype), sung.silence.to(device, dtype))
        added = torch.cat((torch.full_like(sung.buckets[:, :1], FPS), sung.buckets), 1).to(device)
        x = x.to(device)
        x0, pushes = x, Pushes()
        groups = [
            Group(branches, unet, condition, added, mask, always) for branches, always in self._groups(batch.moves)
        ]
        for number, move in zip(batch.steps, batch.moves, strict=True):
            now, then = self.sigmas[number], self.sigmas[number + 1]
            found: dict[Branch, Tensor] = {}
            for group in groups:
                if group.branches[0] in move.branches:
                    found |= group.velocities(x, now, move)
            v, pushes = guided(found, pushes)
            x0, x = clean(x, v, now), step(x, v, now, then)
        if not bool(x.isfinite().all()):
            raise EngineError(
                f"The network's answer at step {batch.steps[-1] + 1}, frames from {batch.windows[0].frames[0]} on, "
                "is not numbers.",
                "With dtype=fp16 some networks overflow: choose bf16 or fp32.",
            )
        return x.cpu(), x0.cpu()

    def _groups(self, moves: Sequence[Move]) -> Iterator[tuple[tuple[Branch, ...], bool]]:
        """Branches that are computed at the same steps, which may go side by side; and whether at all of them."""
        steps = {branch: tuple(branch in move.branches for move in moves) for branch in BRANCHES}
        for when in dict.fromkeys(steps.values()):
            alike = tuple(branch for branch in BRANCHES if steps[branch] == when)
            if any(when):
                for start in range(0, len(alike), self.branches):
                    yield alike[start : start + self.branches], all(when)

    def _placed(self) -> tuple[Tensor, Tensor, MaskPyramid]:
        if self._there is None:
            device, dtype = self.nets.device, self.nets.dtype
            mask = MaskPyramid.of(self._mask, dtype, device)
            self._there = self._still.to(device, dtype), self._clip.to(device, dtype), mask
        return self._there


class Group:
    """Branches of a batch's windows that go through the network in one call, for the steps of a turn."""

    def __init__(
        self, branches: tuple[Branch, ...], unet: Any, condition: Condition, added: Tensor, mask: MaskPyramid,
        always: bool,
    ) -> None:  # fmt: skip
        self.branches, self.unet, self.mask, self.always = branches, unet, mask, always
        # `still` and `voice` differ in the voice alone: the network is given one x for both
        self.given = branches[:-1] if branches[-2:] == ("still", "voice") else branches
        self.added = added.repeat(len(self.given), 1)  # [b, 3], b = given branches x windows
        self.stills = condition.stills(self.given)  # [b, n, 4, h, w]
        self.twins = len(added) * (len(branches) - len(self.given))
        self.context = unet.hear(condition.clips(branches), condition.voices(branches))
        self.deep = Deep()

    def velocities(self, x: Tensor, sigma: float, move: Move) -> dict[Branch, Tensor]:
        """Each branch's answer [W, n, 4, h, w] float32 at a level of noise."""
        noisy = (x * c_in(sigma)).to(self.stills.dtype).repeat(len(self.given), 1, 1, 1, 1)
        told = torch.full((len(noisy),), c_noise(sigma), device=x.device)
        more: dict[str, Any] = {"twins": self.twins}
        if self.always and move.deep:
            more["keep" if move.deep == "keep" else "deep"] = self.deep
        v = self.unet(torch.cat((noisy, self.stills), 2), told, self.added, self.context, self.mask, **more)
        return dict(zip(self.branches, v.float().chunk(len(self.branches)), strict=True))


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _is_memory(error: BaseException) -> bool:
    """Also what torch says where a CPU's memory ends, for which it has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in FULL)
