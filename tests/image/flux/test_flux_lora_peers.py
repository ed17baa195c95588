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
from small_flux import cosine, off_by, random_lora
from vividcover.image.flux.checkpoint import read_flux
from vividcover.image.flux.config import block_targets
from vividcover.image.flux.latents import positions
from vividcover.image.flux.lora import Adapter, Wearing, attach, wear
from vividcover.image.flux.lorafile import Lora

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


class Peer:
    """diffusers' transformer with peft's LoRA in it."""

    def __init__(self, folder: Path, lora: Lora, dtype: torch.dtype = torch.float32) -> None:
        from diffusers import FluxTransformer2DModel
        from peft import LoraConfig

        self.net = FluxTransformer2DModel.from_pretrained(str(folder), torch_dtype=dtype).eval()
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


def cast(batch: SimpleNamespace, dtype: torch.dtype) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(batch), **{n: getattr(batch, n).to(dtype) for n in ("x", "text", "pooled")}})


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    """By diffusers' names, as `Peer.weights`."""
    found = {}
    for _, side in adapter.sides():
        for name, a in zip(side.names, side.a.grad.split(side.rank), strict=True):
            found[f"{name}.a"] = a
        for name, b in zip(side.names, side.b.grad.split(side.rows), strict=True):
            found[f"{name}.b"] = b
    return found


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The cosine of all of them."""
    assert one.keys() == other.keys()
    return cosine(list(one.values()), [other[name] for name in one])


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
    assert off_by(mine, theirs) < 1e-5
    losses = [(out - batch.target).square().mean() for out in (theirs, mine)]
    assert float((losses[0] - losses[1]).abs() / losses[0]) < 1e-6
    for loss in losses:
        loss.backward()

    found = gradients(adapter)
    wanted = {name: weight.grad for name, weight in peer.weights.items()}
    assert alike(found, wanted) > 0.999999
    for name, gradient in found.items():
        assert alike({name: gradient}, {name: wanted[name]}) > 0.9999, name
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
    assert alike(steps, theirs) > 0.9999


def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_peer(folder: Path, batch: SimpleNamespace) -> None:
    """The base and its activations in bfloat16, the LoRA's weights in float32, as all trainers have it."""
    truth, lora = read_flux(folder), None
    found: list[dict[str, Tensor]] = []
    for dtype in (torch.float32, torch.bfloat16):
        flux = truth if dtype == torch.float32 else read_flux(folder, dtype=dtype)
        lora = random_lora(flux.config, block_targets(flux.config))
        adapter = attach(flux, flux.config, rank=RANK, alpha=ALPHA)
        adapter.load(lora)
        (ours(flux, cast(batch, dtype)).float() - batch.target).square().mean().backward()
        found.append(gradients(adapter))
    assert lora is not None
    peer = Peer(folder, lora, torch.bfloat16)
    (peer(cast(batch, torch.bfloat16)).float() - batch.target).square().mean().backward()
    theirs = alike(found[0], {name: weight.grad for name, weight in peer.weights.items()})
    assert alike(found[0], found[1]) > 0.999
    assert 1 - alike(found[0], found[1]) < 1.5 * (1 - theirs)


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
    assert alike(gradients(adapter), {name: weight.grad for name, weight in peer.weights.items()}) > 0.999999


def test_several_loras_with_weights_are_those_of_diffusers_set_adapters(folder: Path, batch: SimpleNamespace) -> None:
    from peft import LoraConfig

    flux = read_flux(folder)
    names = block_targets(flux.config)
    loras = [random_lora(flux.config, names), random_lora(flux.config, names[::3], seed=2, rank=2, alpha=8.0)]
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
            assert off_by(found, wanted) < 1e-5
