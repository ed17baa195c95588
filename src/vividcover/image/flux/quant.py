"""Frozen linear layers in fewer bits: the base of a training, or of a picture, that needs less memory or less time.

    saved = quantise(flux, "int8")             # {"layers": 304, "bytes": …, "bytes_before": …, "error": …}

    fp8   8 bit floats, each row with its scale; activations too, on the GPU's fp8 units: the fast one (`fp8.py`)
    int8  8 bit integers, each row with its scale; computes in the activations' format
    nf4   4 bit, 64 numbers share a scale: the small one (Dettmers et al., "QLoRA", 2023)

Weights are quantised once and never learn. A layer has two products: forward x Wᵀ, and backward dy W; a gradient for
W does not exist. LoRAs lie beside such a layer in full precision (`lora.py`), never in it: their change of a weight is
smaller than its rounding.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.errors import ParameterError

KINDS = ("none", "fp8", "int8", "nf4")
INSIDE = re.compile(r"^(double|single)_blocks\.")  # outside the blocks there are 0.5 % of the weights, and the ends
STEERS = re.compile(
    r"mod$"
)  # these get one row, of which nothing learns: their backward product is hardly ever asked for
NF4_BLOCK = 64  # numbers that share a scale
# Quantiles of a normal distribution, scaled to -1..1, with a zero: QLoRA, appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class Frozen(nn.Module):
    """A linear layer whose weight does not learn. `product` and `back` are its two products, without autograd."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out], in the format of x."""
        flat = x.reshape(-1, x.shape[-1])
        learning = torch.is_grad_enabled() and x.requires_grad
        y: Tensor = _Through.apply(flat, self) if learning else self.product(flat)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """[M, in] → [M, out]: x Wᵀ + bias."""

    @abstractmethod
    def back(self, dy: Tensor) -> Tensor:
        """[M, out] → [M, in]: dy W."""

    @abstractmethod
    def dequantised(self) -> Tensor:
        """The weight [out, in] that the layer computes with, float32."""

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        """`to(device)` moves the layer; another number format for the network is none for what is quantised."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def _take(self, linear: nn.Linear) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())


class _Through(torch.autograd.Function):
    """The forward product, and the backward one for the gradient. Nothing of x [M, in] is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Frozen) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.back(dy), None


class Int8Linear(Frozen):
    """W ≈ diag(scale) q with whole numbers q. Those are exact in bfloat16, so that the scale goes onto the result."""

    q: Tensor  # int8 [out, in]
    scale: Tensor  # float32 [out]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._take(linear)
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("q", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def product(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.q.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y.add_(self.bias.to(x.dtype))

    def back(self, dy: Tensor) -> Tensor:
        return (dy * self.scale.to(dy.dtype)) @ self.q.to(dy.dtype)

    def dequantised(self) -> Tensor:
        return self.q.float() * self.scale[:, None]


class Nf4Linear(Frozen):
    """Two numbers in a byte, each a place in `NF4`; 64 neighbours of a row share their largest size as scale."""

    q: Tensor  # uint8 [out, in / 2]
    scale: Tensor  # bfloat16 [out, in / 64]
    table: Tensor  # float32 [256, 2]: both numbers of a byte

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._take(linear)
        weight = linear.weight.detach().float()
        self.block = NF4_BLOCK if linear.in_features % NF4_BLOCK == 0 else linear.in_features
        if linear.in_features % 2:
            raise ParameterError(f"A layer of {linear.in_features} inputs cannot be nf4.", "Choose int8.")
        code = torch.tensor(NF4, device=weight.device)
        blocks = weight.view(weight.shape[0], -1, self.block)
        scale = blocks.abs().amax(-1).clamp(min=1e-12).bfloat16()
        between = (code[1:] + code[:-1]) / 2
        place = torch.bucketize(blocks / scale.float()[..., None], between, out_int32=True).flatten(1).to(torch.uint8)
        byte = torch.arange(256, device=weight.device)
        self.register_buffer("q", place[:, 0::2] * 16 + place[:, 1::2])
        self.register_buffer("scale", scale)
        self.register_buffer("table", torch.stack((code[byte // 16], code[byte % 16]), 1), persistent=False)

    def _weight(self, dtype: torch.dtype) -> Tensor:
        numbers = self.table.to(dtype)[self.q.int()]  # [out, in / 2, 2]
        return (numbers.view(self.out_features, -1, self.block) * self.scale.to(dtype)[..., None]).flatten(1)

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def back(self, dy: Tensor) -> Tensor:
        return dy @ self._weight(dy.dtype)

    def dequantised(self) -> Tensor:
        return self._weight(torch.float32)


def quantise(
    flux: nn.Module, kind: str, *, skip: str | None = None, training: bool = True,
    device: torch.device | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Replaces every linear layer inside the blocks by a frozen one of `kind`; layers that `skip` finds stay.

    `training` False leaves out what only the backward product needs. With `device`, a layer goes there before it is
    quantised, and the rest of the network after: the unquantised whole never has to fit. Answers with the number of
    `layers`, `bytes`, `bytes_before`, and `error`, the largest relative error (Frobenius) of a weight. Raises
    `ParameterError`.
    """
    if kind not in KINDS:
        raise ParameterError(f"quantise is {kind!r}.", f"Choose one of {', '.join(KINDS)}.")
    leave = re.compile(skip) if skip else None
    report: dict[str, Any] = {"layers": 0, "bytes": 0, "bytes_before": 0, "error": 0.0}
    chosen = [
        (name, module)
        for name, module in flux.named_modules()
        if type(module) is nn.Linear and INSIDE.match(name) and not (leave and leave.search(name))
    ]
    for name, linear in chosen if kind != "none" else []:
        small = _maker(kind, training and not STEERS.search(name))(linear.to(device) if device is not None else linear)
        weight = linear.weight.detach().float()
        error = float((small.dequantised() - weight).norm() / weight.norm().clamp(min=1e-12))
        put(flux, name, small)
        report["layers"] += 1
        report["bytes"] += small.nbytes
        report["bytes_before"] += sum(p.nbytes for p in linear.parameters())
        report["error"] = max(report["error"], error)
    if device is not None:
        flux.to(device)
    return report


def put(flux: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces a layer by its name."""
    parent, _, leaf = name.rpartition(".")
    setattr(flux.get_submodule(parent), leaf, module)


def _maker(kind: str, training: bool) -> Callable[[nn.Linear], Frozen]:
    if kind == "fp8":
        from vividcover.image.flux.fp8 import Fp8Linear

        return lambda linear: Fp8Linear(linear, training=training)
    return Int8Linear if kind == "int8" else Nf4Linear
