"""What learns in a LoRA's training; the loop takes whatever has the same names (`loop.Trainee`)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from vividcover.image.flux import optimizers
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.lora import Adapter
from vividcover.image.flux.lorafile import Lora, Pair, write_lora

if TYPE_CHECKING:
    from vividcover.image.flux.network import Flux
    from vividcover.image.flux.options import TrainOptions

SMALL = 2.0**-8  # the largest number of a B below which it is brought near to A's


class LoraTrainee:
    """A LoRA in a network that stays as it is."""

    def __init__(self, network: Flux, adapter: Adapter, config: FluxConfig, base: str) -> None:
        self.network, self.adapter, self.config, self.base = network, adapter, config, base

    def named(self) -> dict[str, Tensor]:
        return dict(self.adapter.named())

    def optimizer(self, options: TrainOptions) -> tuple[Optimizer, str]:
        return optimizers.make(
            options.optimizer, list(self.named().values()), options.learning_rate, options.weight_decay
        )

    def write(self, path: Path) -> Path:
        """A `.safetensors` with diffusers' names, as exact as what learnt it."""
        metadata = {"vividcover.base": self.base}
        return write_lora(path, self.adapter.to_lora(self.base), metadata=metadata, dtype="fp32", config=self.config)


def halved(lora: Lora) -> Lora:
    """The same LoRA, exactly, in numbers that half precision holds well."""
    return replace(lora, pairs={name: balanced(pair) for name, pair in lora.pairs.items()})


def balanced(pair: Pair) -> Pair:
    """The same change of the layer, exactly, in numbers that 16 bits can hold.

    After few or careful steps B is so small that half precision would round it away, while A is not.
    """
    a, b = float(pair.a.abs().max()), float(pair.b.abs().max())
    if not 0 < b < SMALL or b >= a:
        return pair
    factor = 2.0 ** round(math.log2(a / b) / 2)
    return Pair(pair.a / factor, pair.b * factor, pair.alpha)
