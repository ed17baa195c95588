"""What fits: a training's memory, and what to do so that it fits in a device's.

    plan = fit(memory=24e9, config=DEV, options=options)      # Plan(quantise="int8", recompute=57, at_once=1, …)

The base stays as it is where that fits at all; else it is kept in 8 bits, then in 4. Within that, the fastest way is
taken: as few blocks as needed compute their insides twice (all of them: 45 % more work), and as many of a batch's
pictures as possible go at once. Where nothing fits, the largest of several resolutions is left out, which is said. The
text encoders (9.8 GB) and the autoencoder are gone before the transformer comes, so they count only for themselves.

Figures: activations of one picture with 512 text tokens, bf16, rank 16 on all layers, measured with stock diffusers and
peft (17.1, 31.3 and 51.3 GiB at 512, 768 and 1024 px): 11.1 MiB a token. Our own network needs a little less, and a
plan that is too bold is mended when memory runs out (`loop.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import log2
from typing import TYPE_CHECKING, Any, Literal

from vividcover.errors import EngineError
from vividcover.image.flux.config import FluxConfig, targets

if TYPE_CHECKING:
    import torch

    from vividcover.image.flux.options import Kind, TrainOptions

BYTES = {"none": 2.0, "fp8": 2.0, "int8": 1.01, "nf4": 0.56}  # of one of the base's numbers; fp8 keeps W and Wᵀ
PER_TOKEN = 11.1 * 2**20 / (57 * 3072)  # bytes of activations, of a block's hidden channel
KEPT_PER_TOKEN = 2.0  # bytes of those that are kept of a block that is computed twice: what goes into it
LORA_BYTES = {True: 14.0, False: 20.0}  # of one of its numbers: itself, gradient, average, two moments (of 8 bits?)
TWICE, HALVED = 0.45, 0.05  # how much longer a step takes with all blocks twice, and with half as many at once
SPARE = 1.5e9  # for the context of the device and what an allocator wastes
USABLE = 0.95
TOO_LITTLE = ("out of memory", "not enough memory", "can't allocate memory")  # as libraries say it
SIZES = (12, 16, 24, 32, 48, 80, 96, 139)  # GB of the cards that are around

Quantised = Literal["none", "fp8", "int8", "nf4"]
KINDS: dict[Kind, dict[str, Any]] = {
    "subject": {},
    "style": {"caption_dropout": 0.1},  # so that the style is learnt for any prompt, not for its words
    "product": {},
    "general": {},
}


@dataclass(frozen=True)
class Plan:
    """`recompute`: blocks whose insides are computed twice; `at_once`: pictures that go through the network together,
    of a batch that is divided into such parts; `resolutions`: those that are learnt at."""

    quantise: Quantised
    recompute: int
    at_once: int
    resolutions: tuple[int, ...]
    needed: float  # bytes, about
    memory: float  # bytes of the device; 0: not known

    def describe(self) -> str:
        base = "the base as it is" if self.quantise == "none" else f"the base in {self.quantise}"
        extra = f", {self.recompute} blocks computed twice" if self.recompute else ""
        return f"{base}{extra}: about {self.needed / 1e9:.0f} GB of {self.memory / 1e9:.0f}"


def for_kind(kind: Kind) -> dict[str, Any]:
    """Options that suit what is trained, for whoever has not chosen them."""
    return dict(KINDS[kind])


def needed(
    config: FluxConfig, options: TrainOptions, *, quantise: str, recompute: int, at_once: int, side: int
) -> float:
    """Bytes on the device, about, for pictures of side² px."""
    numbers, sides = _counted(config)
    base, lora = numbers * BYTES[quantise], sides * options.rank
    blocks = config.double_blocks + config.single_blocks
    whole = blocks - recompute + (1 if recompute else 0)  # one at a time is there in the backward pass
    tokens = ((side // 16) ** 2 + options.text_length) * at_once
    activations = tokens * config.hidden * (whole * PER_TOKEN + recompute * KEPT_PER_TOKEN)
    return base + lora * LORA_BYTES[options.optimizer.endswith("8bit")] + activations + SPARE


@lru_cache
def _counted(config: FluxConfig) -> tuple[int, int]:
    """Numbers of the base, and of a LoRA of rank 1 on all layers of the blocks."""
    sizes = targets(config)
    sides = (t.inputs + t.outputs for name, t in sizes.items() if "transformer_blocks." in name)
    return sum(t.inputs * t.outputs for t in sizes.values()), sum(sides)


def fit(memory: float, config: FluxConfig, options: TrainOptions) -> Plan:
    """The fastest way that fits into `memory` bytes; 0: not known, nothing is spared.

    Where `options` choose, they count. Raises `EngineError` when nothing fits.
    """
    sides, least = options.resolutions, None
    while sides:
        plans = [
            Plan(quantise, recompute, at_once, sides, bytes_, memory)
            for quantise, recompute, at_once in _ways(config, options)
            for bytes_ in [
                needed(config, options, quantise=quantise, recompute=recompute, at_once=at_once, side=sides[-1])
            ]
        ]
        fitting = [plan for plan in plans if memory <= 0 or plan.needed <= USABLE * memory]
        if fitting:
            return min(fitting, key=lambda plan: (_KINDS.index(plan.quantise), _cost(plan, config, options)))
        least, sides = min(plans, key=lambda plan: plan.needed), sides[:-1]
    assert least is not None
    raise EngineError(
        f"A training at {least.resolutions[-1]} px needs about {least.needed / 1e9:.0f} GB, and the device has "
        f"{memory / 1e9:.0f}.",
        f"Choose quantise nf4 with checkpointing, a resolution of 512 or less, a rank below {options.rank}, "
        "or a larger device.",
    )


_KINDS: tuple[Quantised, ...] = ("none", "fp8", "int8", "nf4")


def _ways(config: FluxConfig, options: TrainOptions) -> Iterator[tuple[Quantised, int, int]]:
    blocks = config.double_blocks + config.single_blocks
    chosen = ("none", "int8", "nf4") if options.quantise == "auto" else (options.quantise,)
    kinds = [kind for kind in _KINDS if kind in chosen]
    again = {None: range(blocks + 1), False: range(1), True: range(blocks, blocks + 1)}[options.checkpointing]
    for quantise in kinds:
        for recompute in again:
            at_once = options.batch_size
            while at_once:
                yield quantise, recompute, at_once
                at_once //= 2


def _cost(plan: Plan, config: FluxConfig, options: TrainOptions) -> float:
    """How long a step takes, of the fastest."""
    twice = plan.recompute / (config.double_blocks + config.single_blocks)
    return (1 + TWICE * twice) * (1 + HALVED * log2(options.batch_size / plan.at_once))


def table(config: FluxConfig, options: TrainOptions) -> list[dict[str, Any]]:
    """What is done on cards of the usual sizes, for the docs and the curious."""
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        try:
            plan = fit(size * 1e9, config, options)
        except EngineError as error:
            rows.append({"gb": size, "error": error.message})
            continue
        rows.append(
            {"gb": size, "quantise": plan.quantise, "recompute": plan.recompute, "at_once": plan.at_once,
             "resolutions": list(plan.resolutions), "needed_gb": round(plan.needed / 1e9, 1)}
        )  # fmt: skip
    return rows


# --- when it was too bold ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Turns a lack of memory within into an `EngineError` that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not short_of_memory(error):
            raise
        raise too_small(device, error) from error


def short_of_memory(error: BaseException) -> bool:
    return any(words in str(error).lower() for words in TOO_LITTLE)


def too_small(device: torch.device, problem: object, kept: str = "") -> EngineError:
    first = str(problem).split("\n")[0][:200].rstrip(".")
    return EngineError(
        f"The memory of {device} is too small for this training: {first}.{kept}",
        "Choose quantise int8 or nf4, checkpointing, a smaller resolution or batch_size, or another device.",
    )
