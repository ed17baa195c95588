"""Convolutions whose weight is kept as a length g and a direction v: w = g · v / ‖v‖.

Training moves g and v; a voice that only sings folds them into w once, and pays nothing for them afterwards.
The names are those of the published files: `weight_g`, `weight_v`. Salimans & Kingma, arXiv 1602.07868.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torch's newer spelling of the two → the published one
SPELLINGS = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}


class Normed(nn.Module):
    """What the three convolutions below share. ‖v‖ is taken over all dimensions but the first."""

    if TYPE_CHECKING:
        weight: Tensor
        weight_g: Tensor  # [first dimension of v, 1, …]
        weight_v: Tensor  # as the folded weight

    def split(self) -> None:
        """Replaces the weight by its g and v."""
        v = self._parameters.pop("weight")
        assert v is not None
        length = torch.linalg.vector_norm(v.detach(), dim=tuple(range(1, v.dim())), keepdim=True)
        self.register_parameter("weight_g", nn.Parameter(length))
        self.register_parameter("weight_v", v)

    def fold(self) -> None:
        """Replaces g and v by the weight."""
        if "weight_v" in self._parameters:
            weight = (self.weight_v if self.weight_v.is_meta else self.current()).detach()
            del self.weight_g, self.weight_v
            self.register_parameter("weight", nn.Parameter(weight))

    def current(self) -> Tensor:
        """The weight to convolve with."""
        if "weight_v" in self._parameters:
            weight: Tensor = torch._weight_norm(self.weight_v, self.weight_g, 0)
            return weight
        return self.weight


class NormedConv1d(Normed, nn.Conv1d):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, dilation: int = 1, groups: int = 1):
        same = dilation * (kernel - 1) // 2  # padding that keeps the length at stride 1
        nn.Conv1d.__init__(self, inputs, outputs, kernel, stride, same, dilation, groups)
        self.split()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.current(), self.bias)
        return y


class NormedConv2d(Normed, nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)):
        nn.Conv2d.__init__(self, inputs, outputs, kernel, stride, (kernel[0] // 2, kernel[1] // 2))
        self.split()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.current(), self.bias)
        return y

    def along_rows(self, x: Tensor) -> Tensor:
        """The same with height and width exchanged: a convolution along columns, of columns that lie as rows."""
        weight = self.current().mT.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.bias, self.stride[::-1], (int(self.padding[1]), int(self.padding[0])))


class NormedConvTranspose1d(Normed, nn.ConvTranspose1d):
    """Upsamples by `stride`. The kernel and the stride are both even or both odd, so that [T] becomes [T*stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        trim = (kernel - stride) // 2  # at both ends
        nn.ConvTranspose1d.__init__(self, inputs, outputs, kernel, stride, trim)
        self.trim = trim
        self.split()

    def forward(self, x: Tensor, output_size: object = None) -> Tensor:
        return F.conv_transpose1d(x, self.current(), self.bias, self.stride, self.trim)


def in_bfloat16_on_cpu(x: Tensor) -> bool:
    """Whether x is about to be convolved in bfloat16 by a CPU, whose matrix unit wants channels side by side."""
    automatic = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.device.type == "cpu" and (automatic or x.dtype == torch.bfloat16)


def channels_last(x: Tensor) -> Tensor:
    """[B, C, N] → [B, C, 1, N], channels side by side in memory."""
    return x[:, :, None].contiguous(memory_format=torch.channels_last)


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of one dimension on [B, C, N], or on `channels_last` of it."""
    if x.dim() == 3:
        y: Tensor = layer(x)
        return y
    assert isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
    weight = channels_last(layer.current() if isinstance(layer, Normed) else layer.weight)
    if isinstance(layer, NormedConvTranspose1d):
        return F.conv_transpose2d(x, weight, layer.bias, (1, layer.stride[0]), (0, layer.trim))
    return F.conv2d(x, weight, layer.bias, (1, layer.stride[0]), (0, int(layer.padding[0])), (1, layer.dilation[0]))


def fold(module: nn.Module) -> None:
    """Folds every convolution inside."""
    for part in module.modules():
        if isinstance(part, Normed):
            part.fold()


def published(name: str) -> str:
    """The name that published files use for a tensor."""
    for new, old in SPELLINGS.items():
        name = name.replace(new, old)
    return name


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network after `fold`, computed in float32 from a state in either spelling of weight norm."""
    state = {published(name): tensor.float() for name, tensor in state.items()}
    whole = {name: tensor for name, tensor in state.items() if not name.endswith((".weight_g", ".weight_v"))}
    for name in state:
        stem, _, last = name.rpartition(".")
        if last == "weight_v" and f"{stem}.weight_g" in state:
            whole[f"{stem}.weight"] = torch._weight_norm(state[name], state[f"{stem}.weight_g"], 0)
        elif last in ("weight_g", "weight_v") and not {f"{stem}.weight_g", f"{stem}.weight_v"} <= state.keys():
            whole[name] = state[name]  # half of a pair: left to be named as not known
    return whole
