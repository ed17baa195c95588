"""What the blocks of FLUX do between their matrix products, in as few passes over memory as torch allows.

The norms, the rotation and the gates cost little arithmetic and much memory traffic. Each function below says the plain
formula that it computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair number j of a head at position l is turned by an angle, given as cosine and sine."""

    cos: Tensor  # [L, head_dim] float32, each value twice
    sin: Tensor  # [L, head_dim] float32, each value twice, the first of a pair negative

    @classmethod
    def of(cls, ids: Tensor, axes: tuple[int, int, int], theta: float) -> Rope:
        """ids [L, 3]; each axis turns `axes[a] / 2` pairs."""
        wide = torch.float32 if ids.device.type == "mps" else torch.float64
        angles = []
        for axis, width in enumerate(axes):
            speeds = theta ** -(torch.arange(0, width, 2, dtype=wide, device=ids.device) / width)
            angles.append(torch.outer(ids[:, axis].float().to(wide), speeds))
        angle = torch.cat(angles, -1)  # [L, head_dim / 2]
        sin = angle.sin()
        return cls(angle.cos().repeat_interleave(2, -1).float(), torch.stack((-sin, sin), -1).flatten(-2).float())

    def part(self, start: int, stop: int | None) -> Rope:
        return Rope(self.cos[start:stop], self.sin[start:stop])


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) · (1 + scale) + shift, where the norm has no weights of its own; x [B, L, h], shift and scale [B, h]."""
    width = (x.shape[-1],)
    if len(x) == 1:
        return F.layer_norm(x, width, 1 + scale[0], shift[0], EPS)
    return torch.addcmul(shift[:, None], F.layer_norm(x, width, eps=EPS), 1 + scale[:, None])


def gated(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate · y; gate [B, h]"""
    return torch.addcmul(x, gate[:, None], y)


def join(met: Tensor, wide: Tensor) -> Tensor:
    """[met, gelu(wide)] side by side"""
    return torch.cat((met, F.gelu(wide, approximate="tanh")), -1)


def separate(qkv: Tensor, heads: int, q_norm: nn.RMSNorm, k_norm: nn.RMSNorm, rope: Rope) -> tuple[Tensor, ...]:
    """qkv [B, L, 3h] → q, k (of length one, times weights, then turned) and v, each [B, heads, L, head_dim]"""
    b, tokens, width = qkv.shape
    q, k, v = (p.view(b, tokens, heads, width // (3 * heads)).transpose(1, 2) for p in qkv.chunk(3, -1))
    return turned(q_norm(q), rope), turned(k_norm(k), rope), v


def turned(x: Tensor, rope: Rope) -> Tensor:
    """x · cos + swapped(x) · sin, in float32; x [B, heads, L, head_dim]"""
    swapped = x.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return (x.float() * rope.cos + swapped.float() * rope.sin).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, heads, L, head_dim] → [B, L, h]"""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
