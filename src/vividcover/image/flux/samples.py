"""Pictures on the way: what the network paints now, for the same prompts with the same noise each time.

    painter = Samples(base, network, lessons.store, options)
    with Patient(reporter) as patient: pictures = painter(patient)     # {"0: TOK on a stage": rgb, …}

Prompts were encoded with the captions, so no text encoder is needed; the autoencoder's decoder is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vividcover.image.flux.config import DOWN, PATCH
from vividcover.image.flux.data import Store
from vividcover.image.flux.latents import noise, pack, positions, unpack
from vividcover.image.flux.log import Rgb
from vividcover.image.flux.schedule import levels, step
from vividcover.patience import Patient

if TYPE_CHECKING:
    from vividcover.image.flux.opening import Base
    from vividcover.image.flux.options import TrainOptions


class Samples:
    """`base` decodes; `network` paints. Which prompts: those of the options, `prompt_00000…` in the store."""

    def __init__(self, base: Base, network: Any, store: Store, options: TrainOptions, dtype: torch.dtype) -> None:
        self.base, self.network, self.store, self.options, self.dtype = base, network, store, options, dtype

    def __call__(self, patient: Patient) -> Mapping[str, Rgb]:
        """uint8 [H, W, 3] by title. Raises `Canceled`."""
        found = {}
        for number, prompt in enumerate(self.options.sample_prompts):
            text = self.store.get(f"prompt_{number:05d}")
            latents = self._paint(patient, text, self.options.sample_seed + number)
            picture = patient.call(self.base.decode, latents)[0]  # [3, H, W] -1..1
            rgb = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
            found[f"{number}: {prompt[:80]}"] = rgb
        return found

    def _paint(self, patient: Patient, text: Mapping[str, Tensor], seed: int) -> Tensor:
        """[1, 16, h, w]"""
        network, options = self.network, self.options
        side = (options.sample_size or options.resolutions[-1]) // (DOWN * PATCH) * PATCH  # of the latent
        device = next(network.parameters()).device
        x = pack(noise(side * DOWN, side * DOWN, seed)).to(device)
        rope = network.rotary(positions(side, side, text["tokens"].shape[0], device))
        tokens, pooled = (text[name][None].to(device, self.dtype) for name in ("tokens", "pooled"))
        guidance = torch.full((1,), options.sample_guidance, device=device) if network.config.guidance else None

        @torch.no_grad()
        def velocity(x: Tensor, sigma: float) -> Tensor:
            level = torch.full((1,), sigma, device=device)
            said: Tensor = network(x.to(self.dtype), tokens, pooled, level, guidance, rope=rope)
            return said

        sigmas = levels(options.sample_steps, x.shape[1], shifted=network.config.guidance).tolist()
        for now, then in pairwise(sigmas):
            x = step(x, patient.call(velocity, x, now), now, then)
        return unpack(x, side, side)
