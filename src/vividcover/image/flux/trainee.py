"""What learns, and what comes of it: a LoRA here, all weights in `full.py`; `train.py` and `loop.py` take either.

    trainee = LORA.begin(network, config, options, "dev")      # a LoRA in the network
    learnt = learn(Course(…, trainee=trainee, …), reporter)     # moves trainee.named(), writes learnt.file
    lora, report = LORA.end(learnt.file, config, options)      # what goes into the tar, and what its card says of it

A method is named in a training's job, so that other processes find it (`method_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vividcover.errors import ParameterError
from vividcover.image.flux import optimizers, presets
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.lora import Adapter, attach
from vividcover.image.flux.lorafile import Lora, Pair, read_lora, write_lora

if TYPE_CHECKING:
    from vividcover.image.flux.network import Flux
    from vividcover.image.flux.options import TrainOptions
    from vividcover.image.flux.teaching import Trainee

SMALL = 2.0**-8  # the largest number of a B below which it is brought near to A's


@dataclass(frozen=True)
class Method:
    """`begin` makes ready the network that was just opened (nothing of it learns yet); `end` reads what the trainee
    wrote; `fit` says how it fits into so many bytes of memory; `check` what cannot be, before any work. Each raises
    errors of `vividcover.errors`."""

    name: str
    begin: Callable[[Flux, FluxConfig, TrainOptions, str], Trainee]
    end: Callable[[Path, FluxConfig, TrainOptions], tuple[Lora, dict[str, Any]]]
    fit: Callable[[float, FluxConfig, TrainOptions], presets.Plan] = presets.fit
    check: Callable[[TrainOptions, torch.dtype], None] = lambda options, dtype: None


class LoraTrainee:
    """A LoRA in a network that stays as it is."""

    def __init__(self, network: Flux, adapter: Adapter, config: FluxConfig, base: str) -> None:
        self.network, self.adapter, self.config, self.base = network, adapter, config, base

    def named(self) -> dict[str, Tensor]:
        return dict(self.adapter.named())

    def still(self) -> AbstractContextManager[None]:
        """Within, the network answers as before the training."""
        return self.adapter.off()

    def optimizer(self, options: TrainOptions) -> tuple[Optimizer, str]:
        weights = list(self.named().values())
        return optimizers.make(options.optimizer, weights, options.rate, options.weight_decay)

    def write(self, path: Path) -> Path:
        """A `.safetensors` with diffusers' names, as exact as what learnt it."""
        metadata = {"vividcover.base": self.base}
        return write_lora(path, self.adapter.to_lora(self.base), metadata=metadata, dtype="fp32", config=self.config)


def _begin(network: Flux, config: FluxConfig, options: TrainOptions, base: str) -> LoraTrainee:
    """Raises `ParameterError` for a pattern that no layer has."""
    adapter = attach(
        network, config, rank=options.rank, alpha=options.alpha, pattern=options.pattern, seed=options.seed,
        dropout=options.dropout,
    )  # fmt: skip
    return LoraTrainee(network, adapter, config, base)


def _end(file: Path, config: FluxConfig, options: TrainOptions) -> tuple[Lora, dict[str, Any]]:
    lora = read_lora(file, config)
    return lora, {"layers": len(lora.pairs), "parameters": lora.parameters}


LORA = Method("lora", _begin, _end)


def method_of(name: str) -> Method:
    """A method by its name: lora or full."""
    match name:
        case "lora":
            return LORA
        case "full":
            from vividcover.image.flux.full import FULL

            return FULL
    raise ParameterError(f"There is no way of training called {name!r}.", "Choose lora or full.")


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
