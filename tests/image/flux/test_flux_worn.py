"""Finished LoRAs over a network: several, weighted, in regions, in the weights; and nothing of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from small_flux import TEXT, TINY, N, added, inputs, off_by, random_flux, random_lora, said
from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.image.flux.config import block_targets, targets
from vividcover.image.flux.lora import Wearing, attach, wear
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.image.flux.network import Flux
from vividcover.image.flux.quant import quantise

NAMES = block_targets(TINY)
ENDS = ["x_embedder", "context_embedder", "time_text_embed.timestep_embedder.linear_1", "norm_out.linear", "proj_out"]


@pytest.fixture
def flux() -> Any:
    """With a check afterwards that it is what it was, bit for bit and layer by layer."""
    net = random_flux().requires_grad_(False)
    weights, layers = {n: v.clone() for n, v in net.state_dict().items()}, dict(net.named_modules())
    yield net
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(net.get_submodule(name) is layer for name, layer in layers.items())


@pytest.mark.parametrize("merged", [False, True])
def test_several_with_weights_are_the_sum_of_their_matrices(flux: Flux, merged: bool) -> None:
    one, two = random_lora(names=NAMES + ENDS), random_lora(names=NAMES[::2], seed=2, rank=3, alpha=9.0)
    wanted = said(added(flux, (one, 1.3), (two, -0.4)), inputs())
    assert off_by(said(flux, inputs()), wanted) > 0.01
    with wear(flux, TINY, [Wearing(one, 1.3), Wearing(two, -0.4)], merged=merged):
        assert off_by(said(flux, inputs()), wanted) < 1e-5


def test_a_merged_bfloat16_base_is_given_back_bit_for_bit() -> None:
    flux = random_flux().bfloat16().requires_grad_(False)
    weights = {name: value.clone() for name, value in flux.state_dict().items()}
    lora, other = random_lora(), random_lora(seed=2)
    with wear(flux, TINY, [Wearing(lora, 0.5), Wearing(other, -1.0)], merged=True):
        target = targets(TINY)[NAMES[0]]
        was = weights[f"{target.module}.weight"][target.start : target.stop].float()
        exact = was + lora.pairs[NAMES[0]].delta() * 0.5 - other.pairs[NAMES[0]].delta()
        now = flux.get_submodule(target.module).weight[target.start : target.stop]
        assert ((now.float() - exact).abs() <= 2**-8 * exact.abs() * 1.001 + 1e-7).all()  # rounded once
    assert all(torch.equal(value, weights[name]) for name, value in flux.state_dict().items())


def test_a_weight_of_nothing_is_nothing(flux: Flux) -> None:
    plain = said(flux, inputs())
    with wear(flux, TINY, [Wearing(random_lora(), 0.0)]):
        assert torch.equal(said(flux, inputs()), plain)
    with wear(flux, TINY, []):
        assert torch.equal(said(flux, inputs()), plain)
    for room in (0, 8):
        masked = [Wearing(random_lora(), 0.0, torch.ones(N)), Wearing(random_lora(seed=2), 0.0)]
        with wear(flux, TINY, masked, room=room):
            assert torch.equal(said(flux, inputs()), plain)


# --- regions -------------------------------------------------------------------------------------------------------


def by_hand(flux: Flux, worn: list[tuple[Lora, Tensor]]) -> Callable[[], None]:
    """Masked LoRAs by hooks on every layer, the slow plain way; returns what takes them off."""
    known = targets(flux.config)

    def hook(module: str) -> Any:
        def change(_: Any, args: Any, y: Tensor) -> Tensor:
            y = y.clone()
            for lora, mask in worn:
                mean = mask.mean()
                text = torch.full((TEXT,), float(mean))
                if module.startswith("single") and "linear" in module:
                    by_token = torch.cat((text, mask))[:, None]
                elif ("img_" in module and "mod" not in module) or module == "final_out":
                    by_token = mask[:, None]
                else:
                    by_token = mean
                for name, pair in lora.pairs.items():
                    if (t := known[name]).module == module:
                        y[..., t.start : t.stop] += by_token * (args[0] @ pair.delta().t())
            return y

        return change

    modules = {target.module for target in known.values()}
    hooks = [flux.get_submodule(module).register_forward_hook(hook(module)) for module in modules]
    return lambda: [handle.remove() for handle in hooks] and None


def test_each_lora_is_in_its_region_only(flux: Flux) -> None:
    loras = [random_lora(names=NAMES + ENDS), random_lora(seed=2, rank=2)]
    left = (torch.arange(N) % 6 < 3).float()
    soft = torch.linspace(0, 1, N)
    off = by_hand(flux, [(loras[0], left), (loras[1], soft)])
    wanted = said(flux, inputs())
    off()
    with wear(flux, TINY, [Wearing(loras[0], 1.0, left), Wearing(loras[1], 1.0, soft)]):
        assert off_by(said(flux, inputs()), wanted) < 1e-5
        assert said(flux, inputs(count=1)).shape == (1, N, 64)  # another batch size is no fault


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_no_lora(flux: Flux) -> None:
    batch, lora = inputs(), random_lora(names=NAMES + ENDS)
    plain = said(flux, batch)
    with wear(flux, TINY, [Wearing(lora, 0.8)]):
        everywhere = said(flux, batch)
    with wear(flux, TINY, [Wearing(lora, 0.8, torch.ones(N))]):
        assert torch.equal(said(flux, batch), everywhere)
    with wear(flux, TINY, [Wearing(lora, 0.8, torch.zeros(N))]):
        assert torch.equal(said(flux, batch), plain)
    assert off_by(everywhere, plain) > 0.01


def test_a_mask_for_another_size_is_refused(flux: Flux) -> None:
    for tokens in (N - 1, N + 1, N + TEXT + 1, 1000):
        with (
            wear(flux, TINY, [Wearing(random_lora(), 1.0, torch.ones(tokens))]),
            pytest.raises(ParameterError, match="mask is for"),
        ):
            said(flux, inputs())
    masks = [torch.ones(N), torch.ones(N + 1)]
    with pytest.raises(ParameterError, match="masks have"):
        wear(flux, TINY, [Wearing(random_lora(), 1.0, mask) for mask in masks])


# --- what does not go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_what_does_not_fit_leaves_the_network_as_it_was(flux: Flux, merged: bool) -> None:
    good = random_lora()
    broken = good.pairs[NAMES[-1]]
    nan = replace(good, pairs={**good.pairs, NAMES[-1]: Pair(broken.a * float("nan"), broken.b, 1.0)})
    shape = replace(good, pairs={**good.pairs, NAMES[-1]: Pair(broken.a[:, 1:], broken.b, 1.0)})
    other = Lora({"transformer_blocks.9.attn.to_q": broken})
    extra = replace(good, extras={"transformer_blocks.9.attn.norm_q.weight": torch.ones(32)})
    for wrong in (nan, shape, other, extra):
        with pytest.raises(ModelFileError):
            wear(flux, TINY, [Wearing(good), Wearing(wrong)], merged=merged)
    with pytest.raises(ParameterError, match="weight is nan"):
        wear(flux, TINY, [Wearing(good, float("nan"))], merged=merged)


def test_an_error_while_painting_takes_them_off(flux: Flux) -> None:
    with pytest.raises(ZeroDivisionError), wear(flux, TINY, [Wearing(random_lora())]):
        raise ZeroDivisionError


def test_regions_and_quantised_bases_cannot_be_merged() -> None:
    flux = random_flux().requires_grad_(False)
    with pytest.raises(ParameterError, match="regions"):
        wear(flux, TINY, [Wearing(random_lora(), 1.0, torch.ones(N))], merged=True)
    quantise(flux, "int8")
    plain = said(flux, inputs())
    with pytest.raises(ParameterError, match="quantised"):
        wear(flux, TINY, [Wearing(random_lora())], merged=True)
    assert torch.equal(said(flux, inputs()), plain)
    with wear(flux, TINY, [Wearing(random_lora())]):
        assert off_by(said(flux, inputs()), plain) > 0.01


def test_what_was_put_on_first_comes_off_last(flux: Flux) -> None:
    under = wear(flux, TINY, [Wearing(random_lora())])
    one = said(flux, inputs())
    adapter = attach(flux, TINY, rank=2)
    assert off_by(said(flux, inputs()), one) < 1e-6
    said(flux, inputs()).sum().backward()
    assert all(weight.grad is not None for weight in adapter.parameters())
    with wear(flux, TINY, [Wearing(random_lora(seed=3))]), pytest.raises(EngineError, match="Another LoRA"):
        under.off()
    adapter.detach()
    under.off()


# --- other bases ---------------------------------------------------------------------------------------------------


def test_a_lora_of_dev_is_worn_by_schnell_without_its_guidance() -> None:
    config = replace(TINY, guidance=False)
    flux, names = random_flux(config), [*NAMES, "time_text_embed.guidance_embedder.linear_1"]
    dev = random_lora(TINY, names)
    wanted = said(added(flux, (random_lora(TINY, NAMES), 1.0)), inputs(config))
    with wear(flux, config, [Wearing(dev)]) as worn:
        assert "guidance" in worn.notes[0]
        assert off_by(said(flux, inputs(config)), wanted) < 1e-5


def test_a_lora_of_dev_changes_what_fill_sees_of_the_noise() -> None:
    config = replace(TINY, in_channels=384)
    flux, lora = random_flux(config), random_lora(TINY, ["x_embedder"])
    batch = inputs(config)
    plain = flux.img_in(batch.x)
    with wear(flux, config, [Wearing(lora)]):
        change = flux.img_in(batch.x) - plain
    assert off_by(change, batch.x[..., :64] @ lora.pairs["x_embedder"].delta().t()) < 1e-4


@pytest.mark.parametrize("merged", [False, True])
def test_norms_and_biases_of_a_control_lora_are_worn_and_given_back(flux: Flux, merged: bool) -> None:
    norm, bias = "transformer_blocks.1.attn.norm_added_q.weight", "single_transformer_blocks.0.attn.to_k.bias"
    lora = replace(random_lora(), extras={norm: torch.full((32,), 2.0), bias: torch.full((64,), 0.5)})
    other = added(flux, (random_lora(), 1.0))
    with torch.no_grad():
        other.double_blocks[1].txt_q_norm.weight.fill_(2.0)
        other.single_blocks[0].linear1.bias[64:128] += 0.5
    with wear(flux, TINY, [Wearing(lora)], merged=merged):
        assert off_by(said(flux, inputs()), said(other, inputs())) < 1e-5


# --- fast ----------------------------------------------------------------------------------------------------------


def test_others_take_their_place_in_the_same_memory(flux: Flux) -> None:
    first, second = random_lora(), random_lora(names=NAMES[5:], seed=2, rank=6, alpha=3.0)
    wanted = [said(added(flux, (lora, 0.9)), inputs()) for lora in (first, second)]
    with wear(flux, TINY, [Wearing(first, 0.9)], room=24) as worn:
        before = {name: layer.a.data_ptr() for name, layer in worn.layers.items()}
        assert off_by(said(flux, inputs()), wanted[0]) < 1e-5
        assert worn.swap([Wearing(second, 0.9)])
        assert off_by(said(flux, inputs()), wanted[1]) < 1e-5
        assert {name: layer.a.data_ptr() for name, layer in worn.layers.items()} == before

        assert not worn.swap([Wearing(random_lora(rank=60))])
        assert not worn.swap([Wearing(first, 1.0, torch.ones(N))])
        assert not worn.swap([Wearing(random_lora(names=["proj_out"]))])
        pair = first.pairs[NAMES[0]]
        for wrong in (Lora({"none": pair}), Lora({NAMES[0]: replace(pair, a=pair.a * float("inf"))}),
                      replace(first, extras={"none.bias": torch.ones(1)})):  # fmt: skip
            with pytest.raises(ModelFileError):
                worn.swap([Wearing(wrong)])
        assert off_by(said(flux, inputs()), wanted[1]) < 1e-5


def test_parts_of_a_fused_file_are_computed_once(flux: Flux) -> None:
    """A file with fused layers gives q, k and v the same A; beside a layer it then lies once."""
    lora = random_lora(rank=8)
    shared = lora.pairs["transformer_blocks.0.attn.to_q"].a
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    fused = replace(lora, pairs={n: replace(p, a=shared.clone()) if n in names else p for n, p in lora.pairs.items()})
    wanted = said(added(flux, (fused, 1.0)), inputs())
    with wear(flux, TINY, [Wearing(fused)]) as worn:
        assert worn.layers["double_blocks.0.img_qkv"].a.shape[0] == 8
        assert worn.layers["double_blocks.0.txt_qkv"].a.shape[0] == 24
        assert off_by(said(flux, inputs()), wanted) < 1e-5


def test_a_compiler_sees_one_graph_of_each_kind_of_block(flux: Flux) -> None:
    """Also with regions; and other weights need no second compilation."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()  # what other tests compiled counts against the same limit
    lora, batch, counter = random_lora(), inputs(), CompileCounter()
    for mask in (None, torch.linspace(0, 1, N)):
        with wear(flux, TINY, [Wearing(lora, 0.5, mask)], room=8) as worn, torch.no_grad():
            wanted = said(flux, batch)
            for block in (*flux.double_blocks, *flux.single_blocks):
                block.compile(backend=counter, fullgraph=True)
            assert off_by(said(flux, batch), wanted) < 1e-5
            frames = counter.frame_count
            if mask is None:
                assert worn.swap([Wearing(lora, -0.5)])
                assert off_by(said(flux, batch), wanted) > 0.01
            assert counter.frame_count == frames <= 4
        for block in (*flux.double_blocks, *flux.single_blocks):
            block._compiled_call_impl = None
    torch._dynamo.reset()
