"""Latents as the transformer takes them: patches of 2 x 2 as tokens, and where each token stands.

    x = pack(latents)                         # [B, 16, h, w] → [B, N, 64], N = h/2 · w/2
    ids = positions(h, w, text=512)           # [512 + N, 3]
    latents = unpack(x, h, w)

A picture is divided by 8 to be a latent, and by 16 to be tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vividcover.image.flux.config import DOWN, LATENT_CHANNELS, PATCH
from vividcover.tensors import seeded


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] → [B, h/2 · w/2, 4C]: the four values of each channel beside each other, rows first."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """[B, N, 4C] → [B, C, h, w], where h and w are of the latent."""
    b, _, channels = tokens.shape
    return F.pixel_shuffle(tokens.transpose(1, 2).reshape(b, channels, h // PATCH, w // PATCH), PATCH)


def positions(h: int, w: int, text: int, device: torch.device | str = "cpu") -> Tensor:
    """[text + N, 3] float32: text stands at 0; a token of a latent of h x w at its row and column."""
    rows, columns = torch.meshgrid(torch.arange(h // PATCH), torch.arange(w // PATCH), indexing="ij")
    grid = torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1)
    return torch.cat((torch.zeros(text, 3, dtype=grid.dtype), grid)).float().to(device)


def noise(width: int, height: int, seed: int | torch.Generator, count: int = 1) -> Tensor:
    """[count, 16, h, w] float32 for pictures of width x height pixels, drawn on the CPU: the same on every device."""
    shape = (count, LATENT_CHANNELS, height // DOWN, width // DOWN)
    return torch.randn(shape, generator=seed if isinstance(seed, torch.Generator) else seeded(seed))


def pack_mask(mask: Tensor) -> Tensor:
    """A mask in pixels [B, H, W], 1 where FLUX Fill shall paint → [B, N, 256]: all 16 x 16 pixels of each token."""
    by_latent = F.pixel_unshuffle(mask[:, None], DOWN)  # [B, 64, h, w]
    return pack(by_latent)


def fill_channels(masked: Tensor, mask: Tensor) -> Tensor:
    """What FLUX Fill is given beside the noise: the masked picture's latents and the mask in pixels → [B, N, 320]."""
    return torch.cat((pack(masked), pack_mask(mask).to(masked)), -1)
