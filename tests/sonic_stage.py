"""A very small UNet and a song in memory: what `sample` needs, without files of weights and without diffusers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent / "oracles"))
from seeded import fill, noise, shapes_of

from vividcover.errors import Canceled
from vividcover.portrait.sonic.config import UNetConfig
from vividcover.portrait.sonic.network import SonicUNet
from vividcover.portrait.sonic.opening import Sonic
from vividcover.portrait.sonic.sampler import Look
from vividcover.workspace import Silent

SIDE = 64  # px
SMALL = UNetConfig(channels=(8, 8, 16, 16), heads=(1, 1, 2, 2), layers=1, context=8, added=4, groups=4)
TOKENS = 3


class Nets:
    """What of an opened Sonic the sampler uses."""

    def __init__(self, unet: SonicUNet, quantise: str | None = None) -> None:
        self.unet, self.device, self.dtype, self.quantise = unet, torch.device("cpu"), torch.float32, quantise
        self.notes: list[str] = []
        self.key = "tiny"


@functools.cache
def _state() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in fill(shapes_of(SonicUNet(SMALL))).items()}


def tiny_unet() -> SonicUNet:
    torch.set_num_threads(1)
    net = SonicUNet(SMALL)
    net.load_state_dict(_state())
    return net.eval().requires_grad_(False)


def tiny_nets(quantise: str | None = None) -> Sonic:
    return cast(Sonic, Nets(tiny_unet(), quantise))


def tiny_look() -> Look:
    mask = torch.zeros(SIDE, SIDE)
    mask[16:48, 16:48] = 1.0
    still, clip = (torch.from_numpy(noise(name, *shape)) for name, shape in _LOOK.items())
    return Look(still, clip, mask)


_LOOK: dict[str, tuple[int, ...]] = {"still": (4, SIDE // 8, SIDE // 8), "clip": (1, SMALL.context)}


class Song:
    """Heard: `frames` frames with a voice but in `pauses`, (first frame, frame after the last)."""

    def __init__(self, frames: int, *pauses: tuple[int, int]) -> None:
        self.frames, self.key = frames, f"song {frames} {pauses}"
        self.activity: NDArray[np.bool_] = np.ones(frames, bool)
        for start, stop in pauses:
            self.activity[start:stop] = False
        tokens = noise("voice", frames, TOKENS, SMALL.context)
        tokens[~self.activity] *= 0.1
        self._tokens, self._buckets = torch.from_numpy(tokens), torch.from_numpy(20 + noise("buckets", frames, 2))
        self.silent_tokens = torch.from_numpy(0.1 * noise("silence", TOKENS, SMALL.context))

    def tokens_of(self, indices: Sequence[int], /) -> Tensor:
        return self._tokens[list(indices)]

    def buckets_of(self, indices: Sequence[int], /) -> Tensor:
        return self._buckets[list(indices)]


class Stops(Silent):
    """A reporter that cancels when `share` of the work is done."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def progress(self, fraction: float, text: str = "") -> None:
        if fraction >= self.share:
            raise Canceled


def whole(store: Any) -> Tensor:
    """All latents [F, 4, h, w] of a sampling, which is closed."""
    with store:
        found: Tensor = store.read(0, store.frames)
        return found
