"""The levels of noise that latents go through, from 700 down to 0, and the step between two of them.

    sigmas = levels(25)                            # [26], the last one 0
    for now, then in pairwise(sigmas):
        x = step(x, velocity(c_in(now) * x, c_noise(now)), now, then)

Karras et al. 2022 (arXiv:2206.00364), eq. 5 for the levels and table 1 for the scaling of v-prediction; the numbers are
those of SVD-xt's `scheduler_config.json`. Nothing random is added between steps. With sigma the level:

    x0 = x / (sigma² + 1) - v sigma / sqrt(sigma² + 1)          x' = x0 + (x - x0) sigma' / sigma

which is Euler's x + (sigma' - sigma) (x - x0) / sigma without the difference of two large numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vividcover.portrait.sonic.config import FAST_SIGMAS, LATENT_SCALE, RHO, SIGMA_MAX, SIGMA_MIN


def levels(steps: int, *, fast: bool = False) -> Tensor:
    """[steps + 1] float64, from 700 down, the last one 0. `fast`: Align Your Steps (Sabour et al. 2024, for SVD).

    The published ten levels are made into any other number of them by interpolation, linear in log(sigma).
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if fast:
        known = torch.tensor(FAST_SIGMAS, dtype=torch.float64).log()
        place = ramp * (len(known) - 1)
        low = place.long().clamp(max=len(known) - 2)
        found = torch.lerp(known[low], known[low + 1], place - low).exp()
    else:
        high, last = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
        found = (high + ramp * (last - high)) ** RHO
    return torch.cat((found, torch.zeros(1, dtype=torch.float64)))


def c_in(sigma: float) -> float:
    """What the latents are multiplied with before the network sees them, so that they have unit variance."""
    return 1 / math.sqrt(sigma**2 + 1)


def c_noise(sigma: float) -> float:
    """What the network is told of the level."""
    return 0.25 * math.log(sigma)


def clean(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """The latents without noise, as the velocity `v` would have them."""
    return x / (sigma**2 + 1) - v * (sigma / math.sqrt(sigma**2 + 1))


def step(x: Tensor, v: Tensor, now: float, then: float) -> Tensor:
    """One Euler step, in the number format of `x`: float32, since fp16 holds a latent of 2800 to 2 only."""
    x0 = clean(x, v.to(x.dtype), now)
    return x0 + (x - x0) * (then / now)


def noised(latents: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Where sampling starts: the still's latents (as the autoencoder gives them) under noise."""
    return LATENT_SCALE * latents + sigma * noise
