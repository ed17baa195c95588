"""A large picture through the autoencoder in tiles that fade into each other: memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 128  # latent pixels on each side: 1024 of the picture, the size that the autoencoder was taught at
OVERLAP = 24  # latent pixels that neighbours share


def tiled(net: Callable[[Tensor], Tensor], x: Tensor, inner: int, outer: int, tile: int = TILE) -> Tensor:
    """`net(x)` by tiles. x [1, C, h·inner, w·inner] → [1, C', h·outer, w·outer]; `tile` of h and w at a time."""
    h, w = x.shape[2] // inner, x.shape[3] // inner
    total: Tensor | None = None
    weights = torch.zeros(1, 1, h * outer, w * outer, device=x.device)
    for top in _starts(h, tile):
        for left in _starts(w, tile):
            bottom, right = min(top + tile, h), min(left + tile, w)
            done = net(x[:, :, top * inner : bottom * inner, left * inner : right * inner]).float()
            fade = _fade(top, bottom, h, outer)[:, None] * _fade(left, right, w, outer)[None]
            fade = fade.to(x.device)
            if total is None:
                total = torch.zeros(1, done.shape[1], h * outer, w * outer, device=x.device)
            where = (..., slice(top * outer, bottom * outer), slice(left * outer, right * outer))
            total[where] += done * fade
            weights[where] += fade
    assert total is not None
    return total / weights


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin, evenly, so that neighbours share `OVERLAP` or more."""
    if length <= tile:
        return [0]
    overlap = min(OVERLAP, tile // 2)
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _fade(start: int, stop: int, length: int, outer: int) -> Tensor:
    """[(stop - start)·outer]: 1 in the middle of a tile, falling over the overlap towards its inner edges."""
    size, ramp = (stop - start) * outer, min(OVERLAP, (stop - start) // 2) * outer
    steps = torch.arange(size) + 0.5
    up = (steps / ramp).clamp(max=1.0) if start > 0 else torch.ones(size)
    down = ((size - steps) / ramp).clamp(max=1.0) if stop < length else torch.ones(size)
    return up * down
