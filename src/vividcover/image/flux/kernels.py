"""What the blocks of FLUX do between their matrix products, in as few passes over memory as torch allows.

The norms, the rotation and the gates cost little arithmetic and much memory traffic. Where torch compiles the network
(`torch.compile`), the plain formulas below are left to it; else two of them have a backward pass written by hand, which
keeps less and writes gradients where they are wanted. `tests/image/flux/test_kernels.py` holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6
HALF = 65504.0  # the largest number of float16


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair number j of a head at position l is turned by an angle."""

    cos: Tensor  # [L, head_dim / 2] float32
    sin: Tensor
    turns: Tensor  # [L, 1, 1, head_dim / 2] complex64: both in one
    back: Tensor  # the same turns the other way round

    @classmethod
    def of(cls, ids: Tensor, axes: tuple[int, int, int], theta: float) -> Rope:
        """ids [L, 3]; each axis turns `axes[a] / 2` pairs."""
        wide = torch.float32 if ids.device.type == "mps" else torch.float64
        angles = []
        for axis, width in enumerate(axes):
            speeds = theta ** -(torch.arange(0, width, 2, dtype=wide, device=ids.device) / width)
            angles.append(torch.outer(ids[:, axis].to(wide), speeds))
        angle = torch.cat(angles, -1)
        cos, sin = angle.cos().float(), angle.sin().float()
        turns = torch.complex(cos, sin)[:, None, None]
        return cls(cos, sin, turns, turns.conj().resolve_conj())


# --- norms and gates ----------------------------------------------------------------------------------------------


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) · (1 + scale) + shift, where the norm has no weights of its own; x [B, L, h], shift and scale [B, h]."""
    width = (x.shape[-1],)
    if len(x) == 1:
        return F.layer_norm(x, width, 1 + scale.view(-1), shift.view(-1), EPS)
    return torch.addcmul(shift[:, None], F.layer_norm(x, width, eps=EPS), 1 + scale[:, None])


def gated(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate · y; gate [B, h]. In float16 it stays finite: FLUX goes beyond what that can hold."""
    y = torch.addcmul(x, gate[:, None], y)
    return y.clamp(-HALF, HALF) if y.dtype == torch.float16 else y


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, heads, L, head_dim] → [B, L, h]"""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


# --- queries, keys, values ----------------------------------------------------------------------------------------


def heads_of(x: Tensor, heads: int, weights: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [B, L, 3h + rest] → q, k, v, each [B, heads, L, head_dim], and the rest [B, L, rest].

    q and k: norm(x) · weights, of mean square 1 before the weights, then turned; weights [L or 1, 2, head_dim].
    """
    if torch.compiler.is_compiling():
        return heads_plainly(x, heads, weights, rope)
    if torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad):
        found: Any = _Heads.apply(x, heads, weights, rope.turns, rope.back)  # type: ignore[no-untyped-call]
        q, k, v, rest = found
        return q, k, v, rest
    return _turned(x, heads, weights, rope.turns)[0]


def heads_plainly(x: Tensor, heads: int, weights: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The formula of `heads_of`, step by step."""
    b, tokens, _ = x.shape
    d = weights.shape[-1]
    q, k, v, rest = torch.split(x, [*[heads * d] * 3, x.shape[-1] - 3 * heads * d], -1)
    cos, sin = rope.cos[:, None], rope.sin[:, None]
    both = []
    for part, weight in ((q, weights[:, 0]), (k, weights[:, 1])):
        wide = part.view(b, tokens, heads, d).float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * weight[:, None].float()
        even, odd = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
        both.append(turned.to(x.dtype).transpose(1, 2))
    return both[0], both[1], v.view(b, tokens, heads, d).transpose(1, 2), rest


def _turned(
    x: Tensor, heads: int, weights: Tensor, turns: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What `heads_of` gives, and 1 / the lengths of q and k, [B, L, 2, heads, 1]."""
    b, tokens, width = x.shape
    d = weights.shape[-1]
    h = heads * d
    both, v, rest = torch.split_with_sizes(x, (2 * h, h, width - 3 * h), -1)
    both = both.view(b, tokens, 2, heads, d)
    if both.dtype != torch.float32:
        both = both.float()
    short = torch.linalg.vector_norm(both, dim=-1, keepdim=True).square_().div_(d).add_(EPS).rsqrt_()
    y = (both * short).mul_(weights.unsqueeze(2))
    torch.view_as_complex(y.view(b, tokens, 2, heads, d // 2, 2)).mul_(turns)
    q, k = y.to(x.dtype).permute(2, 0, 3, 1, 4)
    return (q, k, v.view(b, tokens, heads, d).transpose(1, 2), rest), short


class _Heads(torch.autograd.Function):
    """`heads_of` that keeps nothing but its input and the lengths."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: int, weights: Tensor, turns: Tensor, back: Tensor
    ) -> tuple[Tensor, ...]:  # fmt: skip
        parts, short = _turned(x, heads, weights, turns)
        ctx.heads = heads
        ctx.save_for_backward(x, short, weights, back)
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, short, weights, turns = ctx.saved_tensors  # turns the other way round
        b, tokens, _ = x.shape
        heads, d = ctx.heads, weights.shape[-1]
        dq, dk, dv, rest = grads
        out = torch.cat((*(grad.transpose(1, 2).flatten(2) for grad in (dq, dk, dv)), rest), -1)
        both = out[..., : 2 * heads * d].view(b, tokens, 2, heads, d)
        seen = x[..., : 2 * heads * d].view(b, tokens, 2, heads, d)
        back = both
        if x.dtype != torch.float32:
            back, seen = both.float(), seen.float()
        torch.view_as_complex(back.view(b, tokens, 2, heads, d // 2, 2)).mul_(turns)
        for_weights = None
        if ctx.needs_input_grad[2]:
            for_weights = (back * seen).mul_(short).sum((0, 3)).sum_to_size(weights.shape)
        back.mul_(weights.unsqueeze(2))
        along = torch.linalg.vecdot(back, seen).unsqueeze_(-1).mul_(short).mul_(short)
        back.addcmul_(seen, along, value=-1 / d).mul_(short)
        if back is not both:
            both.copy_(back)
        return out if ctx.needs_input_grad[0] else None, None, for_weights, None, None


# --- the wide layer -----------------------------------------------------------------------------------------------


def join(met: Tensor, wide: Tensor) -> Tensor:
    """met [B, L, h] and gelu(wide) [B, L, w] side by side"""
    if torch.compiler.is_compiling():
        return torch.cat((met, F.gelu(wide, approximate="tanh")), -1)
    if torch.is_grad_enabled() and (met.requires_grad or wide.requires_grad):
        joined: Tensor = _Join.apply(met, wide)  # type: ignore[no-untyped-call]
        return joined
    return _joined(met, wide)


def _joined(met: Tensor, wide: Tensor) -> Tensor:
    h = met.shape[-1]
    out = met.new_empty(*met.shape[:-1], h + wide.shape[-1])
    out[..., :h].copy_(met)
    torch.ops.aten.gelu.out(wide, approximate="tanh", out=out[..., h:])
    return out


class _Join(torch.autograd.Function):
    """`join` without a copy of the wide part."""

    @staticmethod
    def forward(ctx: Any, met: Tensor, wide: Tensor) -> Tensor:
        ctx.save_for_backward(wide)
        return _joined(met, wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (wide,) = ctx.saved_tensors
        h = grad.shape[-1] - wide.shape[-1]
        return grad[..., :h], torch.ops.aten.gelu_backward(grad[..., h:], wide, approximate="tanh")
