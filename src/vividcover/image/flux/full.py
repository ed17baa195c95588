"""All matrices of FLUX's blocks learn, and a LoRA is taken of what changed in them.

    report = train_full(photos, Path("vivi.tar"), TrainOptions(rank=32, learning_rate=1e-5), base=…, …)

A training like a LoRA's (`train.py`, `loop.py`) with another trainee, at a rate that is a tenth or less. Its result
is a LoRA all the same, which every program reads: of each matrix' change the nearest of rank `rank` (`merge.extract`).
What that leaves out is in the card: `extraction_error`, relative to the whole change, 0 to 1. Biases and norms stay as
they are, for few programs read them from a LoRA's file.

Weights in bfloat16 would hardly move: at 1e-5 most steps are less than half of the distance between two numbers, and
rounding takes them back. `RoundedAdamW` computes in float32 and rounds up or down at random, in proportion to how near
either is, so that the mean is right (Gupta et al. 2015, arXiv:1502.02551; for AdamW Zamirai et al. 2020,
arXiv:2010.06192). With both moments in bfloat16 a weight takes eight bytes, gradient included: about 100 GB in all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vividcover.errors import EngineError, ParameterError, StorageError
from vividcover.image.flux import optimizers, presets
from vividcover.image.flux.checkpoint import read_config
from vividcover.image.flux.config import FluxConfig, targets
from vividcover.image.flux.lora import by_module, chosen
from vividcover.image.flux.lorafile import Lora, read_lora, write_lora
from vividcover.image.flux.merge import extract
from vividcover.image.flux.network import Flux
from vividcover.image.flux.opening import BaseFiles
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import Plan
from vividcover.image.flux.train import Surroundings, train
from vividcover.image.flux.trainee import Method
from vividcover.weights import Resolver
from vividcover.workspace import Reporter, Silent

__all__ = ["FULL", "FullTrainee", "RoundedAdamW", "train_full"]
USUAL = 1e-5  # learning rate
HIGH = 1e-4  # above this a full fine-tune mostly breaks what the base can do
STATE_SECONDS = 1800.0  # between two states: one is as large as the network three times over
CHUNK = 1 << 24  # numbers that the optimizer computes with in float32 at a time
BEYOND = 6.0  # bytes of a weight beside itself: gradient and two moments
ADAMS = ("adamw8bit", "adamw", "adam8bit", "adam")
FOUND = "vividcover.extraction"  # in the file's metadata


def train_full(
    source: Path, out: Path, options: TrainOptions, *, base: BaseFiles, work: Path, consent: str, name: str,
    reporter: Reporter | None = None, weights: Resolver | None = None, device: str = "auto", threads: int = 0,
    wandb_key: str | None = None, usd_per_second: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Like `train.train_lora`; `options.rank` is that of the LoRA in the end, `options.pattern` names what learns.

    Without an average (`ema`), which would be a second network. Raises `StorageError` too, where the states that a
    stopped training goes on from do not fit on the disk.
    """
    reporter = reporter or Silent()
    if options.quantise not in ("auto", "none"):
        raise ParameterError(
            f"All weights cannot learn in {options.quantise}.", "Leave `quantise` out, or train a LoRA instead."
        )
    if options.learning_rate > HIGH:
        reporter.note(
            f"A learning rate of {options.learning_rate:g} is high where all weights learn: {USUAL:g} is usual."
        )
    room(Path(work), read_config(base.transformer))
    options = options.with_(
        ema=0.0, quantise="none", dropout=0.0, alpha=None, state_seconds=max(options.state_seconds, STATE_SECONDS)
    )
    around = Surroundings(
        base, Path(work), consent, name, reporter, weights, device, threads, wandb_key or None, usd_per_second
    )
    return train(FULL, Path(source), Path(out), options, around)


def room(work: Path, config: FluxConfig) -> None:
    """Raises `StorageError` unless two states of a training fit: the newest is whole before the last one goes."""
    place = next(folder for folder in (work.absolute(), *work.absolute().parents) if folder.exists())
    needed, free = 2 * _numbers(config) * (2.0 + BEYOND), shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            f"A full fine-tune keeps states of {needed / 1e9:.0f} GB in {place}; {free / 1e9:.0f} GB are free.",
            "Free some space, move VIVIDCOVER_HOME to a larger disk, or train a LoRA, whose states are small.",
        )


def _numbers(config: FluxConfig) -> int:
    """Of all matrices in the blocks."""
    return sum(t.inputs * t.outputs for name, t in targets(config).items() if "transformer_blocks." in name)


# --- what learns -----------------------------------------------------------------------------------------------------


class FullTrainee:
    """The matrices of the blocks, all or those that a pattern finds; their values from before stay on the CPU."""

    def __init__(self, network: Flux, config: FluxConfig, options: TrainOptions, base: str) -> None:
        self.network, self.config, self.rank, self.base = network, config, options.rank, base
        self.weights: dict[str, Tensor] = {}
        for module, parts in by_module(config, chosen(config, options.pattern)).items():
            weight = network.get_submodule(module).weight
            assert isinstance(weight, Tensor)
            weight.requires_grad_(True)
            self.weights[f"{module}.weight"] = weight
            learning = sum(part.outputs for _, part in parts)
            if learning < len(weight):  # other rows of it are other layers
                rows = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
                for _, part in parts:
                    rows[part.start : part.stop] = 1
                weight.register_hook(lambda grad, rows=rows: grad * rows)  # type: ignore[no-untyped-call]
        self.before = {name: weight.detach().to("cpu", copy=True) for name, weight in self.weights.items()}

    def named(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def optimizer(self, options: TrainOptions) -> tuple[Optimizer, str]:
        """Nothing pulls the weights towards zero: `weight_decay` is for what begins there."""
        weights = list(self.weights.values())
        _check(options, weights[0].dtype)
        if weights[0].dtype == torch.float32:
            return optimizers.make(options.optimizer, weights, options.rate, 0.0)
        found = RoundedAdamW(weights, options.rate, seed=options.seed)
        return found, "All weights learn in bfloat16, which are rounded up or down at random so that the mean is right."

    def write(self, path: Path) -> Path:
        """The LoRA of what changed until now. Raises `ModelFileError` where nothing did."""
        now = {name: value.detach() for name, value in self.network.state_dict().items()}
        device = next(iter(self.weights.values())).device
        lora, report = extract(now | self.before, now, self.rank, self.config, device=device)
        changes = [layer["change"] for layer in report["layers"].values()]
        told = {
            "extraction_error": round(report["error"], 6), "extraction_rank": self.rank,
            "largest_change": max(changes), "changed_layers": len(changes),
        }  # fmt: skip
        metadata = {"vividcover.base": self.base, FOUND: json.dumps(told)}
        return write_lora(path, lora, metadata=metadata, dtype="fp32", config=self.config)


def _end(file: Path, config: FluxConfig, options: TrainOptions) -> tuple[Lora, dict[str, Any]]:
    lora = read_lora(file, config)
    told = json.loads(lora.metadata.get(FOUND, "{}"))
    return lora, {"finetune_type": "full", "layers": len(lora.pairs), "parameters": lora.parameters, **told}


def fit(memory: float, config: FluxConfig, options: TrainOptions) -> Plan:
    """The fastest way that fits into `memory` bytes; 0: not known. Raises `EngineError` when none does."""
    blocks, lean = config.double_blocks + config.single_blocks, options.with_(rank=1)
    side, plans = options.resolutions[-1], []
    again = {None: (0, blocks // 2, blocks), False: (0,), True: (blocks,)}[options.checkpointing]
    for recompute in again:
        at_once = options.batch_size
        while at_once:
            needed = _numbers(config) * BEYOND + presets.needed(
                config, lean, quantise="none", recompute=recompute, at_once=at_once, side=side
            )
            plans.append(Plan("none", recompute, at_once, options.resolutions, needed, memory))
            at_once //= 2
    fitting = [plan for plan in plans if memory <= 0 or plan.needed <= presets.USABLE * memory]
    if not fitting:
        least = min(plan.needed for plan in plans)
        raise EngineError(
            f"A full fine-tune at {side} px needs about {least / 1e9:.0f} GB, and the device has {memory / 1e9:.0f}.",
            "Train a LoRA instead, or choose a smaller resolution or a larger device.",
        )
    return fitting[0]


def _check(options: TrainOptions, dtype: torch.dtype) -> None:
    if dtype != torch.float32 and options.optimizer not in ADAMS:
        said = str(dtype).removeprefix("torch.")
        raise ParameterError(f"All weights cannot learn with {options.optimizer} in {said}.", "Choose adamw.")
    if options.preserve_every:
        raise ParameterError("Only a LoRA can hold the rest still.", "Leave `preserve_every` out.")


FULL = Method("full", FullTrainee, _end, fit, _check)


# --- what moves it ---------------------------------------------------------------------------------------------------


class RoundedAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, without decay) in float32, for weights and moments that are kept in bfloat16.

    What is random follows from the seed and the number of the step: a training that goes on rounds as it would have.
    """

    def __init__(
        self, params: Sequence[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "base": lr, "betas": betas, "eps": eps, "seed": seed, "moves": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["moves"] += 1
            weights = [p for p in group["params"] if p.grad is not None]
            random = torch.Generator(weights[0].device) if weights else torch.Generator()
            random.manual_seed(group["seed"] * 1_000_003 + group["moves"])
            for p in weights:
                if not self.state[p]:
                    self.state[p] |= {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                kept = (p, p.grad, self.state[p]["mean"], self.state[p]["square"])
                for weight, grad, mean, square in zip(*(t.view(-1).split(CHUNK) for t in kept), strict=True):
                    _move(weight, grad.float(), mean, square, group, random)


def _move(
    weight: Tensor, grad: Tensor, mean: Tensor, square: Tensor, group: dict[str, Any], random: torch.Generator
) -> None:
    (fast, slow), moves = group["betas"], group["moves"]
    first = mean.float().lerp_(grad, 1 - fast)
    second = square.float().mul_(slow).addcmul_(grad, grad, value=1 - slow)
    for place, values in ((mean, first), (square, second)):
        place.copy_(rounded(values, random))
    size = second.div_(1 - slow**moves).sqrt_().add_(group["eps"])
    weight.copy_(rounded(weight.float().addcdiv_(first, size, value=-group["lr"] / (1 - fast**moves)), random))


def rounded(values: Tensor, random: torch.Generator) -> Tensor:
    """float32 → bfloat16, up or down at random: bfloat16 is float32's upper half, and what carries over is chance."""
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=random)
    return (values.view(torch.int32) + noise).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
