"""The way of one picture through the network: where it begins, and one step after the other.

FLUX was trained by flow matching: between a picture z and noise ε lie z(σ) = (1 − σ) z + σ ε, and the network says the
velocity ε − z. A picture is had by going from σ = 1 to 0 in straight steps: z(σ') = z(σ) + (σ' − σ) · velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from vividcover.image.flux.cache import BlockCache, velocity
from vividcover.image.flux.control import as_mask, as_pixels, beside_control, beside_fill, token_mask
from vividcover.image.flux.latents import noise as drawn
from vividcover.image.flux.latents import pack, positions
from vividcover.image.flux.request import Request, Rgb, Settled
from vividcover.image.flux.schedule import levels, noised, step

if TYPE_CHECKING:
    from vividcover.image.flux.opening import Base, Text

Run = Callable[..., Any]  # run(function, *arguments): so that a long call can be canceled


@dataclass(frozen=True, eq=False)
class Start:
    """Where a picture begins: `latents` at the noise level `sigmas[0]`. All packed: N tokens of 64 numbers.

    `kept` is put back outside `mask` after each step, under as much of `noise` as the step's level has.
    """

    latents: Tensor  # [1,N,64] float32
    sigmas: Tensor  # [S+1] float32, falling to 0
    beside: Tensor | None = None  # [1,N,64] of canny and depth, [1,N,320] of fill
    mask: Tensor | None = None  # [1,N,64]
    kept: Tensor | None = None  # [1,N,64]
    noise: Tensor | None = None  # [1,N,64]


def begin(base: Base, request: Request, settled: Settled, control: Rgb | None, generator: Generator, run: Run) -> Start:
    """Noise, or the request's picture under noise. Draws its numbers in the order in which diffusers' pipelines do."""
    width, height, steps = request.width, request.height, settled.steps
    sigmas = levels(steps, request.tokens, shifted=base.kind != "schnell").to(base.device)
    beside = kept = pixels = None
    if control is not None:
        beside = run(beside_control, base, as_pixels(control, width, height).to(base.device), generator)
    if request.image is not None:
        pixels = as_pixels(request.image, width, height).to(base.device)
        kept = pack(run(base.encode_pictures, pixels, generator)).float()
    noise = pack(drawn(width, height, generator)).to(base.device)
    mask = None if request.mask is None else as_mask(request.mask, width, height).to(base.device)
    if base.kind == "fill":
        return Start(noise, sigmas, run(beside_fill, base, pixels, mask, generator))
    if kept is None:
        return Start(noise, sigmas, beside)
    first = int(max(steps - min(steps * settled.strength, steps), 0))
    sigmas = sigmas[min(first, steps - 1) :]
    return Start(noised(kept, noise, sigmas[0]), sigmas, None, None if mask is None else token_mask(mask), kept, noise)


class Stepper:
    """One step along the velocity, for one prompt and one size of latents, h x w."""

    def __init__(self, base: Base, text: Text, guidance: float | None, start: Start, h: int, w: int) -> None:
        self.flux, self.text, self.start = base.flux, text, start
        self.guidance = None if guidance is None else torch.full((1,), guidance, device=base.device)
        self.rope = base.flux.rotary(positions(h, w, text.tokens.shape[1], base.device))
        self.dtype = base.dtype
        self.cache: BlockCache | None = None

    def __call__(self, x: Tensor, i: int) -> Tensor:
        """x [1,N,64] at `sigmas[i]` → at `sigmas[i + 1]`."""
        start, sigma, after = self.start, self.start.sigmas[i], self.start.sigmas[i + 1]
        with torch.inference_mode():
            seen = x if start.beside is None else torch.cat([x, start.beside], dim=2)
            seen = seen.to(self.dtype)
            rest = (self.text.tokens, self.text.pooled, sigma[None], self.guidance)
            if self.cache is None:
                along = self.flux(seen, *rest, rope=self.rope)
            else:
                along = velocity(self.flux, self.cache, seen, *rest, self.rope)
            x = step(x, along, sigma, after)
            if start.mask is not None and start.kept is not None and start.noise is not None:
                x = torch.lerp(noised(start.kept, start.noise, after), x, start.mask)
        return x
