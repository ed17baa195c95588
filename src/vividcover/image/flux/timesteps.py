"""How noisy the pictures are that a training learns from: a level of noise between 0 (the picture) and 1 (noise alone).

    sigma = levels("balanced", torch.rand(4, generator=random), tokens=1024)       # [4]

Each way is a quantile function of a uniform number, so that one number decides one level. Most trainings use
`balanced`, the logit-normal distribution (Esser et al., "Scaling Rectified Flow Transformers", 2024, section 3.1) with
location 0 and scale 1. `content` prefers much noise, where a picture's layout is decided; `style` prefers little,
where its surface is: the uniform number's cube takes its place (Mou et al., "T2I-Adapter", 2023, section 3.4).
`shift` moves levels up by what FLUX's sampler moves its own, more for larger pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vividcover.errors import ParameterError
from vividcover.image.flux.options import TIMESTEPS
from vividcover.image.flux.schedule import shift_of

EDGE = 1e-5  # levels stay this far from 0 and 1, where a picture or noise alone would be left


def levels(way: str, uniform: Tensor, tokens: int = 4096) -> Tensor:
    """uniform, numbers in 0..1, any shape → levels of noise of the same shape, float32.

    `tokens`: of the picture, for `shift`. Raises `ParameterError` for another way.
    """
    u = uniform.double().clamp(EDGE, 1 - EDGE)
    match way:
        case "balanced" | "sigmoid":
            odds = _normal(u)
        case "content":
            odds = _normal(1 - u**3)
        case "style":
            odds = _normal(u**3)
        case "uniform":
            odds = torch.logit(u)
        case "shift":
            odds = _normal(u) + shift_of(tokens)
        case _:
            raise ParameterError(f"Timesteps are {way!r}.", f"Choose one of {', '.join(TIMESTEPS)}.")
    return torch.sigmoid(odds).clamp(EDGE, 1 - EDGE).float()


def fixed_levels(count: int) -> Sequence[float]:
    """Levels to measure a loss at, from little noise to much: evenly among those that `balanced` draws."""
    middle = torch.tensor([(i + 0.5) / count for i in range(count)], dtype=torch.float64)
    values: list[float] = torch.sigmoid(_normal(middle)).tolist()
    return values


def _normal(u: Tensor) -> Tensor:
    """Quantiles of the standard normal distribution."""
    return math.sqrt(2.0) * torch.erfinv(2 * u - 1)
