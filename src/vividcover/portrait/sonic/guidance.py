"""Three answers of the network, and the one direction that they come to.

    nothing  n   no picture, no CLIP, silence
    still    s   the picture and its CLIP vector, silence
    voice    v   the picture, its CLIP vector, what is sung

    n + 2.0 (s - n) + 7.5 (v - s)

Both differences change little from step to step: a plan may leave out a branch at a step and take the difference that
was found last ("fast", `speed.py`). What is left out is then put back by it: n = s - (s - n), s = v - (v - s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vividcover.portrait.sonic.config import APPEARANCE_GUIDANCE, AUDIO_GUIDANCE

Branch = Literal["nothing", "still", "voice"]
BRANCHES: tuple[Branch, ...] = ("nothing", "still", "voice")


@dataclass(frozen=True, eq=False)
class Pushes:
    """The differences found last, each like a velocity; None before they were ever found."""

    still: Tensor | None = None  # s - n
    voice: Tensor | None = None  # v - s


def guided(found: Mapping[Branch, Tensor], last: Pushes) -> tuple[Tensor, Pushes]:
    """The direction to go, and the differences for the steps to come. `found` has at least `voice`."""
    voice = found["voice"]
    push = voice - found["still"] if "still" in found else _known(last.voice, "still")
    still = found["still"] if "still" in found else voice - push
    look = still - found["nothing"] if "nothing" in found else _known(last.still, "nothing")
    nothing = found["nothing"] if "nothing" in found else still - look
    return nothing + APPEARANCE_GUIDANCE * look + AUDIO_GUIDANCE * push, Pushes(look, push)


def _known(push: Tensor | None, branch: str) -> Tensor:
    if push is None:
        raise ValueError(f"the branch {branch!r} was left out before it was ever computed")
    return push


@dataclass(frozen=True, eq=False)
class Condition:
    """What the windows of a batch show and sing. W windows of n frames; all on the network's device."""

    still: Tensor  # [4, h, w], the still's latents
    clip: Tensor  # [1, C]
    tokens: Tensor  # [W, n, T, C], of what is sung
    silence: Tensor  # [T, C], the tokens of silence

    def stills(self, branches: Sequence[Branch]) -> Tensor:
        """[B, n, 4, h, w] that goes beside the noisy latents, B = branches x windows, branch by branch."""
        windows, frames = self.tokens.shape[:2]
        shown = torch.stack([torch.zeros_like(self.still) if b == "nothing" else self.still for b in branches])
        return shown.repeat_interleave(windows, 0)[:, None].expand(-1, frames, -1, -1, -1)

    def clips(self, branches: Sequence[Branch]) -> Tensor:
        """[B, n, 1, C]"""
        windows, frames = self.tokens.shape[:2]
        shown = torch.stack([torch.zeros_like(self.clip) if b == "nothing" else self.clip for b in branches])
        return shown.repeat_interleave(windows, 0)[:, None].expand(-1, frames, -1, -1)

    def voices(self, branches: Sequence[Branch]) -> Tensor:
        """[B, n, T, C]"""
        silent = self.silence.expand_as(self.tokens)
        return torch.cat([self.tokens if b == "voice" else silent for b in branches])
