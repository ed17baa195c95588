"""What a training makes small: the error of the velocity that the network says for a noisy picture.

    x_σ = (1 - σ) · latents + σ · noise          velocity = d x_σ / d σ = noise - latents
    loss = mean (network(x_σ, text, σ, guidance) - velocity)²

Source: rectified flow (Liu et al. 2022; Esser et al. 2024, equation 2), which FLUX.1 was trained by. No weighting by
level: which levels come how often (`timesteps.py`) weighs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vividcover.image.flux.data import Batch, TrainingSet
from vividcover.image.flux.latents import pack, positions
from vividcover.image.flux.schedule import noised
from vividcover.image.flux.timesteps import fixed_levels

PHOTOS, LEVELS = 8, 4  # that the loss on fixed noise is measured with: 32 looks at most


@dataclass(frozen=True)
class Point:
    """A picture, a level of noise and the seed of the noise."""

    item: int
    sigma: float
    noise: int


class Objective:
    """`network` is called as `network.Flux` is. `guidance` is what it is told, where it takes any."""

    def __init__(self, network: Any, guidance: float, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.guidance, self.device, self.dtype = network, guidance, device, dtype
        self._rotary = lru_cache(maxsize=32)(self._rotary_of)

    def losses(self, batch: Batch) -> Tensor:
        """[B] float32: mean squared error of each picture."""
        error = (self.velocity(batch).float() - pack(batch.noise - batch.latents)).square()
        if batch.weight is not None:
            error = error * pack(batch.weight[:, None].expand_as(batch.latents))
        return error.mean(dim=(1, 2))

    def drift(self, batch: Batch, still: Callable[[], AbstractContextManager[None]]) -> Tensor:
        """[B] float32: how far the velocities are from those of before the training, which the network gives in
        `still`. Made small for pictures without their words, it keeps what is learnt to the words: on a small FLUX
        other things moved half as far when every third step did so, and the subject was learnt as well.
        """
        with torch.no_grad(), still():
            before = self.velocity(batch)
        return (self.velocity(batch).float() - before.float()).square().mean(dim=(1, 2))

    def velocity(self, batch: Batch) -> Tensor:
        """[B, N, 64] as the network says it, in its number format."""
        network = self.network
        sigma = batch.sigma[:, None, None, None]
        noisy = pack(noised(batch.latents, batch.noise, sigma))
        guidance = torch.full_like(batch.sigma, self.guidance) if network.config.guidance else None
        inputs = (value.to(self.dtype) for value in (noisy, batch.tokens, batch.pooled))
        said: Tensor = network(*inputs, batch.sigma, guidance, rope=self._rotary(*_sizes(batch)))
        return said

    def _rotary_of(self, text: int, height: int, width: int) -> Any:
        return self.network.rotary(positions(height, width, text, self.device))


def _sizes(batch: Batch) -> tuple[int, int, int]:
    return batch.tokens.shape[1], batch.latents.shape[2], batch.latents.shape[3]


def points_of(lessons: TrainingSet, items: Sequence[int], seed: int) -> list[Point]:
    """Fixed levels and fixed noise for some of the items: of each photo the smallest size, evenly over the photos."""
    smallest: dict[str, int] = {}
    for number in items:
        item = lessons.items[number]
        if item.name not in smallest or item.tokens < lessons.items[smallest[item.name]].tokens:
            smallest[item.name] = number
    photos = list(smallest.values())
    chosen = photos[:: -(-len(photos) // PHOTOS)]
    return [
        Point(number, sigma, seed * 1_000_003 + number * LEVELS + i)
        for number in chosen
        for i, sigma in enumerate(fixed_levels(LEVELS))
    ]
