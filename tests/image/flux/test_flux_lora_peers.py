"""Our LoRA beside stock diffusers + peft on the same tiny FLUX: the same output, loss, gradients and steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flux_making import tiny_flux_folder
from vividcover.image.flux.checkpoint import read_flux
from vividcover.image.flux.config import block_targets, targets
from vividcover.image.flux.latents import positions
from vividcover.image.flux.lora import Adapter, Wearing, attach, wear
from vividcover.image.flux.lorafile import Lora, Pair

RANK, ALPHA = 4, 2.0
HEIGHT, WIDTH, TEXT = 8, 12, 7  # of the latent; tokens of the text
N = HEIGHT * WIDTH // 4


@pytest.fixture(scope="module")
def folder() -> Path:
    torch.set_num_threads(1)
    return tiny_flux_folder() / "transformer"


@pytest.fixture(scope="module")
def batch() -> SimpleNamespace:
    random = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return SimpleNamespace(
        x=normal(2, N, 64), text=normal(2, TEXT, 32), pooled=normal(2, 32), sigma=torch.tensor([0.3, 0.8]),
        guidance=torch.ones(2), ids=positions(HEIGHT, WIDTH, TEXT), target=normal(2, N, 64),
    )  # fmt: skip


def random_lora(config: Any, names: list[str], seed: int = 1, rank: int = RANK, alpha: float = ALPHA) -> Lora:
    random = torch.Generator().manual_seed(seed)
    known = targets(config)
    return Lora({
        name: Pair(
            torch.randn(rank, known[name].inputs, generator=random) * 0.3,
            torch.randn(known[name].outputs, rank, generator=random) * 0.3, alpha,
        )
        for name in names
    })  # fmt: skip


class Peer:
    """diffusers' transformer with peft's LoRA in it."""

    def __init__(self, folder: Path, lora: Lora) -> None:
        from diffusers import FluxTransformer2DModel
        from peft import LoraConfig

        self.net = FluxTransformer2DModel.from_pretrained(str(folder)).eval()
        self.net.requires_grad_(False)
        pair = next(iter(lora.pairs.values()))
        self.net.add_adapter(LoraConfig(r=pair.rank, lora_alpha=pair.alpha, target_modules=list(lora.pairs)))
        self.weights = {
            f"{name}.{which}": self.net.get_submodule(f"{name}.lora_{which.upper()}.default").weight
            for name in lora.pairs
            for which in ("a", "b")
        }
        with torch.no_grad():
            for name, pair in lora.pairs.items():
                self.weights[f"{name}.a"].copy_(pair.a)
                self.weights[f"{name}.b"].copy_(pair.b)

    def __call__(self, batch: SimpleNamespace) -> Tensor:
        out: Tensor = self.net(
            hidden_states=batch.x, encoder_hidden_states=batch.text, pooled_projections=batch.pooled,
            timestep=batch.sigma, guidance=batch.guidance, txt_ids=batch.ids[:TEXT], img_ids=batch.ids[TEXT:],
            return_dict=False,
        )[0]  # fmt: skip
        return out


def ours(flux: Any, batch: SimpleNamespace) -> Tensor:
    out: Tensor = flux(batch.x, batch.text, batch.pooled, batch.sigma, batch.guidance, batch.ids)
    return out


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    """By diffusers' names, as `Peer.weights`."""
    found = {}
    for _, side in adapter.sides():
        for name, a in zip(side.names, side.a.grad.split(side.rank), strict=True):
            found[f"{name}.a"] = a
        for name, b in zip(side.names, side.b.grad.split(side.rows), strict=True):
            found[f"{name}.b"] = b
    return found


def cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    first, second = (torch.cat([side[name].flatten() for name in sorted(one)]).double() for side in (one, other))
    return float(first @ second / first.norm() / second.norm())


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[tuple[Peer, Any, Adapter]]:
    flux = read_flux(folder)
    lora = random_lora(flux.config, block_targets(flux.config))
    adapter = attach(flux, flux.config, rank=RANK, alpha=ALPHA)
    adapter.load(lora)
    yield Peer(folder, lora), flux, adapter


def test_loss_and_every_gradient_are_those_of_diffusers_and_peft(both: Any, batch: SimpleNamespace) -> None:
    peer, flux, adapter = both
    theirs, mine = peer(batch), ours(flux, batch)
    assert float((theirs - mine).detach().abs().max() / theirs.abs().max()) < 1e-5
    losses = [(out - batch.target).square().mean() for out in (theirs, mine)]
    assert float((losses[0] - losses[1]).abs() / losses[0]) < 1e-6
    for loss in losses:
        loss.backward()

    found = gradients(adapter)
    wanted = {name: weight.grad for name, weight in peer.weights.items()}
    assert found.keys() == wanted.keys()
    assert cosine(found, wanted) > 0.999999
    for name, gradient in found.items():
        assert cosine({name: gradient}, {name: wanted[name]}) > 0.9999, name
        assert float(gradient.norm() / wanted[name].norm()) == pytest.approx(1, abs=1e-4), name


def test_three_steps_of_adamw_end_at_the_same_weights(both: Any, batch: SimpleNamespace) -> None:
    peer, flux, adapter = both
    rate = 1e-2
    optimizers = [torch.optim.AdamW(weights, lr=rate) for weights in (peer.weights.values(), adapter.parameters())]
    before = adapter.to_lora()
    for _ in range(3):
        for optimizer, run in zip(optimizers, (peer, lambda batch: ours(flux, batch)), strict=True):
            optimizer.zero_grad()
            (run(batch) - batch.target).square().mean().backward()
            optimizer.step()
    after = adapter.to_lora()
    steps, theirs = {}, {}
    for name, pair in after.pairs.items():
        for which in ("a", "b"):
            was = getattr(before.pairs[name], which)
            steps[f"{name}.{which}"] = getattr(pair, which) - was
            theirs[f"{name}.{which}"] = peer.weights[f"{name}.{which}"].detach() - was
    assert cosine(steps, theirs) > 0.9999


def test_a_part_of_the_layers_learns_as_with_peft(folder: Path, batch: SimpleNamespace) -> None:
    flux = read_flux(folder)
    pattern = r"attn\.to_(q|v)$|proj_mlp$"  # neighbours of a fused layer are left out between them
    adapter = attach(flux, flux.config, rank=RANK, alpha=ALPHA, pattern=pattern)
    names = [name for _, side in adapter.sides() for name in side.names]
    lora = random_lora(flux.config, names)
    adapter.load(lora)
    peer = Peer(folder, lora)
    for out in (peer(batch), ours(flux, batch)):
        (out - batch.target).square().mean().backward()
    assert cosine(gradients(adapter), {name: weight.grad for name, weight in peer.weights.items()}) > 0.999999


def test_several_loras_with_weights_are_those_of_diffusers_set_adapters(folder: Path, batch: SimpleNamespace) -> None:
    from peft import LoraConfig

    flux = read_flux(folder)
    names = block_targets(flux.config)
    loras = [random_lora(flux.config, names, 1, 4, 2.0), random_lora(flux.config, names[::3], 2, 2, 8.0)]
    peer = Peer(folder, loras[0])
    peer.net.add_adapter(LoraConfig(r=2, lora_alpha=8.0, target_modules=list(loras[1].pairs)), adapter_name="second")
    with torch.no_grad():
        for name, pair in loras[1].pairs.items():
            module = peer.net.get_submodule(name)
            module.lora_A["second"].weight.copy_(pair.a)
            module.lora_B["second"].weight.copy_(pair.b)
        peer.net.set_adapters(["default", "second"], [0.7, 0.4])
        wanted = peer(batch)
        for merged in (False, True):
            with wear(flux, flux.config, [Wearing(loras[0], 0.7), Wearing(loras[1], 0.4)], merged=merged):
                found = ours(flux, batch)
            assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
