"""The levels of noise that a picture goes through, from 1 (noise) to 0 (picture), and the step between two of them.

    sigmas = levels(28, tokens=4096)                   # [29], the last one 0
    for now, then in zip(sigmas, sigmas[1:]):
        x = step(x, velocity(x, now), now, then)

FLUX.1 [dev] was taught to spend more steps at high noise the larger the picture; [schnell] spaces its steps evenly.
Esser et al. 2024, arXiv:2403.03206; the numbers: diffusers' FlowMatchEulerDiscreteScheduler for FLUX.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL, LARGE = 256, 4096  # tokens of a picture at which the shift is
SMALL_SHIFT, LARGE_SHIFT = 0.5, 1.15


def shift_of(tokens: int) -> float:
    """How far levels are pushed towards noise for a picture of so many tokens: the exponent mu."""
    return SMALL_SHIFT + (tokens - SMALL) * (LARGE_SHIFT - SMALL_SHIFT) / (LARGE - SMALL)


def levels(steps: int, tokens: int, *, shifted: bool = True) -> Tensor:
    """[steps + 1] float32 from 1 down to 0. `shifted` is for dev and its kin, not for schnell."""
    even = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64)
    if shifted:
        push = math.exp(shift_of(tokens))
        even = push / (push + (1.0 / even - 1.0))
    return torch.cat((even, torch.zeros(1, dtype=torch.float64))).float()


def step(x: Tensor, velocity: Tensor, now: float | Tensor, then: float | Tensor) -> Tensor:
    """One Euler step along the velocity (noise - picture), in float32, then in x's format again."""
    return (x.float() + (then - now) * velocity.float()).to(x.dtype)


def noised(latents: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """The picture at a level of noise; sigma a number or [B, 1, …]."""
    return (1.0 - sigma) * latents + sigma * noise
