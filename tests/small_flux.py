"""A tiny FLUX of ours, LoRAs for it and something for it to see: for tests that need no file and no other library."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vividcover.image.flux.config import FluxConfig, block_targets, targets
from vividcover.image.flux.latents import positions
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.image.flux.network import Flux

TINY = FluxConfig(
    double_blocks=2, single_blocks=2, heads=2, head_dim=32, text_width=32, pooled_width=32, axes=(8, 12, 12)
)  # fmt: skip
HEIGHT, WIDTH, TEXT = 8, 12, 7  # of the latent; tokens of the text
N = HEIGHT * WIDTH // 4  # tokens of the picture


def random_flux(config: FluxConfig = TINY, seed: int = 0) -> Flux:
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Flux(config).eval()


def random_lora(
    config: FluxConfig = TINY, names: list[str] | None = None, *, seed: int = 1, rank: int = 4, alpha: float = 2.0
) -> Lora:
    random, known = torch.Generator().manual_seed(seed), targets(config)
    return Lora({
        name: Pair(
            torch.randn(rank, known[name].inputs, generator=random) * 0.2,
            torch.randn(known[name].outputs, rank, generator=random) * 0.2, alpha,
        )
        for name in names or block_targets(config)
    })  # fmt: skip


def inputs(config: FluxConfig = TINY, count: int = 2) -> SimpleNamespace:
    random = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return SimpleNamespace(
        x=normal(count, N, config.in_channels), text=normal(count, TEXT, config.text_width),
        pooled=normal(count, config.pooled_width), sigma=torch.linspace(0.3, 0.8, count),
        guidance=torch.ones(count) if config.guidance else None, ids=positions(HEIGHT, WIDTH, TEXT),
        target=normal(count, N, 64),
    )  # fmt: skip


def said(flux: Any, batch: SimpleNamespace) -> Tensor:
    """The velocity, in the network's number format."""
    dtype = flux.double_blocks[0].img_q_norm.weight.dtype
    x, text, pooled = (values.to(dtype) for values in (batch.x, batch.text, batch.pooled))
    out: Tensor = flux(x, text, pooled, batch.sigma, batch.guidance, batch.ids)
    return out


def added(flux: Flux, *worn: tuple[Lora, float]) -> Flux:
    """Another network: the same with the LoRAs' whole matrices in its weights."""
    other = Flux(flux.config).eval()
    other.load_state_dict(flux.state_dict())
    known = targets(flux.config)
    with torch.no_grad():
        for lora, weight in worn:
            for name, pair in lora.pairs.items():
                target = known[name]
                rows = other.get_submodule(target.module).weight[target.start : target.stop]
                rows.add_(pair.delta().to(rows), alpha=weight)
    return other


def scaled(lora: Lora, factor: float) -> Lora:
    return replace(lora, pairs={n: Pair(p.a, p.b * factor, p.alpha) for n, p in lora.pairs.items()})


def off_by(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    first, second = (torch.cat([values.detach().flatten().double() for values in side]) for side in (one, other))
    return float(first @ second / first.norm() / second.norm())
