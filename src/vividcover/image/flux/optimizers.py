"""The optimizers that trainings ask for by name, and how the learning rate goes.

    optimizer, note = make("adamw8bit", parameters, learning_rate=4e-4)
    for group in optimizer.param_groups: group["lr"] = group["base"] * pace("cosine", step, steps, warmup=50)

`…8bit` keeps its memory of past gradients in 8 bits where the package bitsandbytes is installed and the device is a
CUDA one. Elsewhere the same rule runs with 32 bits, which is more exact and costs 0.5 GB for a LoRA of rank 16; `note`
says so. prodigy finds its own rate: the one that is given scales it, so another optimizer's is taken as 1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vividcover.errors import EngineError, ParameterError
from vividcover.image.flux.options import OPTIMIZERS, SCHEDULES

PRODIGY, LION = 0.1, 2e-4  # learning rates below, and above, which another optimizer was meant


def make(
    name: str, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float = 0.01
) -> tuple[Optimizer, str]:
    """The optimizer, and what the user should know about it ("" if nothing). Every group has its rate as `base`.

    `weight_decay` counts for adamw, lion and prodigy; the others have none. Raises `ParameterError` for another name,
    `EngineError` for a package that is missing.
    """
    if name not in OPTIMIZERS:
        raise ParameterError(f"There is no optimizer {name!r}.", f"Choose one of {', '.join(OPTIMIZERS)}.")
    plain = name.removesuffix("8bit")
    notes, optimizer = [], None
    if plain == "prodigy" and learning_rate < PRODIGY:
        notes.append(f"prodigy finds its own learning rate: {learning_rate:g} is taken as 1, which is usual for it.")
        learning_rate = 1.0
    if plain == "lion" and learning_rate > LION:
        notes.append(f"A learning rate of {learning_rate:g} is high for lion: a third to a tenth of AdamW's is usual.")
    if plain != name:
        optimizer = _in_8_bits(plain, parameters, learning_rate, weight_decay)
        if optimizer is None:
            notes.append(
                f"{name} runs as {plain}, with 32-bit memory: 8 bits need a CUDA device and the package bitsandbytes."
            )
    if optimizer is None:
        optimizer = _MAKERS[plain](parameters, learning_rate, weight_decay)
    for group in optimizer.param_groups:
        group["base"] = learning_rate
    return optimizer, " ".join(notes)


def ready(name: str) -> None:
    """Raises `EngineError` for an optimizer whose package is not installed."""
    if name == "prodigy" and importlib.util.find_spec("prodigyopt") is None:
        raise EngineError(
            "The optimizer prodigy needs a package that is not installed.", "Install it: pip install prodigyopt."
        )


def pace(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """What the learning rate is multiplied with at `step` (0 is the first) of `steps`.

    It rises evenly over `warmup` steps; then it stays, or falls to 0 along half a cosine or a line.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    match schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        case "linear":
            return max(0.0, 1.0 - done)
    raise ParameterError(f"There is no schedule {schedule!r}.", f"Choose one of {', '.join(SCHEDULES)}.")


class Lion(Optimizer):
    """Moves every weight by the learning rate, in the direction that gradients have agreed on.

    Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), algorithm 2. Rates are 3 to 10 times smaller
    than AdamW's, decay as much larger.
    """

    def __init__(
        self, params: Sequence[Tensor], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, (fast, slow), decay = group["lr"], group["betas"], group["weight_decay"]
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            grads = [p.grad for p in weights]
            for p in weights:
                if not self.state[p]:
                    self.state[p]["mean"] = torch.zeros_like(p)
            means = [self.state[p]["mean"] for p in weights]
            directions = torch._foreach_sign(torch._foreach_lerp(means, grads, 1 - fast))
            torch._foreach_mul_(weights, 1 - rate * decay)
            torch._foreach_add_(weights, directions, alpha=-rate)
            torch._foreach_lerp_(means, grads, 1 - slow)


def _adamw(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _adam(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def _lion(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    return Lion(parameters, lr=rate, weight_decay=decay)


def _prodigy(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    ready("prodigy")
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it says there what it was just told
        found: Optimizer = Prodigy(
            parameters, lr=rate, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
        )
    return found


def _adafactor(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    return torch.optim.Adafactor(parameters, lr=rate)


def _adagrad(parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer:
    return torch.optim.Adagrad(parameters, lr=rate)


_MAKERS: dict[str, Callable[[Sequence[Tensor], float, float], Optimizer]] = {
    "adamw": _adamw, "adam": _adam, "lion": _lion, "prodigy": _prodigy, "adafactor": _adafactor, "adagrad": _adagrad,
}  # fmt: skip


def _in_8_bits(name: str, parameters: Sequence[Tensor], rate: float, decay: float) -> Optimizer | None:
    """bitsandbytes' optimizer, None where it cannot run."""
    if parameters[0].device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        return None
    import bitsandbytes as bnb

    more: dict[str, Any] = {} if name == "adam" else {"weight_decay": decay}
    kind = {"adamw": bnb.optim.AdamW8bit, "adam": bnb.optim.Adam8bit, "lion": bnb.optim.Lion8bit}[name]
    found: Optimizer = kind(parameters, lr=rate, **more)
    return found
