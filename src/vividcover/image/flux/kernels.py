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
    turns: Tensor  # complex64: both in one
    back: Tensor  # complex64: the same turns the other way round

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
        return cls(cos, sin, torch.complex(cos, sin), torch.complex(cos, -sin))


# --- norms and gates ----------------------------------------------------------------------------------------------


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) · (1 + scale) + shift, where the norm has no weights of its own; x [B, L, h], shift and scale [B, h]."""
    width = (x.shape[-1],)
    if len(x) == 1:
        return F.layer_norm(x, width, 1 + scale[0], shift[0], EPS)
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
    y, _ = _normed(x, heads, weights)
    torch.view_as_complex(y).mul_(rope.turns[:, None, None])
    return _parts(x, y, heads)


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


def _normed(x: Tensor, heads: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """q and k before they are turned, [B, L, 2, heads, head_dim / 2, 2], and 1 / their length [B, L, 2, heads, 1]."""
    b, tokens, _ = x.shape
    d = weights.shape[-1]
    both = x[..., : 2 * heads * d].view(b, tokens, 2, heads, d)
    if both.dtype != torch.float32:
        both = both.float()
    short = torch.linalg.vector_norm(both, dim=-1, keepdim=True).square_().div_(d).add_(EPS).rsqrt_()
    y = (both * short).mul_(weights[:, :, None])
    return y.view(b, tokens, 2, heads, d // 2, 2), short


def _parts(x: Tensor, y: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, tokens = y.shape[:2]
    q, k = y.flatten(-2).to(x.dtype).permute(2, 0, 3, 1, 4)
    h = heads * q.shape[-1]
    v = x[..., 2 * h : 3 * h].view(b, tokens, heads, -1).transpose(1, 2)
    return q, k, v, x[..., 3 * h :]


class _Heads(torch.autograd.Function):
    """`heads_of` that keeps nothing but its input and the lengths."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: int, weights: Tensor, turns: Tensor, back: Tensor
    ) -> tuple[Tensor, ...]:  # fmt: skip
        y, short = _normed(x, heads, weights)
        torch.view_as_complex(y).mul_(turns[:, None, None])
        ctx.heads = heads
        ctx.save_for_backward(x, short, weights, back)
        ctx.set_materialize_grads(False)
        return _parts(x, y, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, short, weights, turns = ctx.saved_tensors  # turns the other way round
        b, tokens, _ = x.shape
        heads, d = ctx.heads, weights.shape[-1]
        h = heads * d
        out = torch.empty_like(x)
        both = out[..., : 2 * h].view(b, tokens, 2, heads, d)
        back = both if x.dtype == torch.float32 else torch.empty(both.shape, device=x.device)
        for part, grad in enumerate(grads[:2]):
            _put(back[:, :, part], grad, transposed=True)
        _put(out[..., 2 * h : 3 * h].view(b, tokens, heads, d), grads[2], transposed=True)
        _put(out[..., 3 * h :], grads[3])

        torch.view_as_complex(back.view(*back.shape[:-1], d // 2, 2)).mul_(turns[:, None, None])
        seen = x[..., : 2 * h].view(b, tokens, 2, heads, d)
        seen = seen if x.dtype == torch.float32 else seen.float()
        for_weights = None
        if ctx.needs_input_grad[2]:
            for_weights = (back * seen).mul_(short).sum((0, 3)).sum_to_size(weights.shape)
        back.mul_(weights[:, :, None])
        along = torch.linalg.vecdot(back, seen).unsqueeze(-1).mul_(short * short).div_(-d)
        back.addcmul_(seen, along).mul_(short)
        if back is not both:
            both.copy_(back)
        return out if ctx.needs_input_grad[0] else None, None, for_weights, None, None


def _put(where: Tensor, grad: Tensor | None, transposed: bool = False) -> None:
    if grad is None:
        where.zero_()
    else:
        where.copy_(grad.transpose(1, 2) if transposed else grad)


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
