"""Frozen linear layers in 8 bit floats, for GPUs that multiply those twice as fast as 16 bit ones.

A product of rows and columns needs a scale for each row of its left side and each column of its right. The weight is
quantised once in both ways it is used: W by its rows for x Wᵀ, and Wᵀ by its rows for dy W. Activations and gradients
are quantised by rows as they come. So nothing of the base is ever quantised twice, which is what makes 8 bits slow in
trainings that keep a 16 bit weight.

Micikevicius et al., "FP8 formats for deep learning", 2022. Gradients are in e4m3 too: with a scale for every row the
three more bits of range of e5m2 are not needed, and its missing bit of precision is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.image.flux.quant import Frozen

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
MULTIPLE = 16  # both sides of a weight have to be whole multiples for the GPU's fp8 products


def rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] → fp8 [M, K] and float32 scales [M, 1], whose product is x."""
    scale = torch.linalg.vector_norm(x, math.inf, 1, keepdim=True, dtype=torch.float32).clamp(min=1e-12) / LARGEST
    return (x / scale).to(E4M3), scale  # the largest becomes 448: none is beyond


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Whether the device multiplies rows and columns of fp8 by itself: CUDA from compute capability 8.9, and CPUs."""
    a = torch.ones(MULTIPLE, MULTIPLE, device=device).to(E4M3)
    ones = torch.ones(MULTIPLE, 1, device=device)
    try:
        torch._scaled_mm(a, a.t(), ones, ones.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True


def product_of(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None, *, native: bool) -> Tensor:
    """x [M, K] times the transpose of a quantised weight [N, K] with `scale` [N, 1]: [M, N] in the format of x.

    Where the device is not `native` in fp8, only the weight is rounded.
    """
    if native:
        small, own = rowwise(x)
        y = torch._scaled_mm(small, weight.t(), own, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)
        y = y.to(x.dtype)
    else:
        y = F.linear(x, weight.to(x.dtype)) * scale.t().to(x.dtype)
    return y if bias is None else y.add_(bias.to(y.dtype))


class Fp8Linear(Frozen):
    """The weight by rows, and, for trainings, its transpose by rows."""

    weight8: Tensor  # e4m3 [out, in]
    scale: Tensor  # float32 [out, 1]
    back8: Tensor | None  # e4m3 [in, out]
    back_scale: Tensor | None  # float32 [in, 1]

    def __init__(self, linear: nn.Linear, *, training: bool = True) -> None:
        super().__init__()
        self._take(linear)
        weight = linear.weight.detach()
        for name, values in zip(("weight8", "scale"), rowwise(weight), strict=True):
            self.register_buffer(name, values)
        turned = rowwise(weight.t().contiguous()) if training else (None, None)
        for name, kept in zip(("back8", "back_scale"), turned, strict=True):
            self.register_buffer(name, kept)
        self.native = self._native()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp8Linear:
        super()._apply(fn, recurse)
        self.native = self._native()
        return self

    def _native(self) -> bool:
        whole = self.in_features % MULTIPLE == 0 == self.out_features % MULTIPLE
        return whole and runs_on(self.weight8.device)

    def product(self, x: Tensor) -> Tensor:
        return product_of(x, self.weight8, self.scale, self.bias, native=self.native)

    def back(self, dy: Tensor) -> Tensor:
        if self.back8 is None or self.back_scale is None:
            return dy @ self.dequantised().to(dy.dtype)
        return product_of(dy, self.back8, self.back_scale, native=self.native)

    def dequantised(self) -> Tensor:
        return self.weight8.float() * self.scale
