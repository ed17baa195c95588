"""A LoRA in memory: for each changed layer of FLUX two thin matrices, under diffusers' name of the layer.

A layer's weight W [out, in] becomes W + weight · alpha / r · B A, with A [r, in] and B [out, r].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """The change of one layer, in the number format of the file: `scale` · `b` @ `a`."""

    a: Tensor  # [r, in]
    b: Tensor  # [out, r]
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """The whole matrix [out, in], float32. For tests and small layers: a layer of FLUX has 38 million numbers."""
        return (self.b.float() @ self.a.float()) * self.scale


@dataclass(frozen=True)
class Lora:
    """`pairs` by canonical name (`config.targets`), in any order.

    `extras`: whole tensors that some files bring beside the pairs, by diffusers' parameter name: what is added to a
    layer's bias (`proj_out.bias`) and norms that take the place of the base's (`….norm_q.weight`). Control LoRAs have
    them.
    """

    pairs: dict[str, Pair]
    metadata: dict[str, str] = field(default_factory=dict)
    base: str = ""  # what it was trained on, where the file says so
    format: str = ""  # the key style it was read from
    notes: list[str] = field(default_factory=list)  # what the user should be told about the file
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest of all pairs."""
        return max((pair.rank for pair in self.pairs.values()), default=0)

    @property
    def parameters(self) -> int:
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs.values())
