"""A LoRA that learns beside the frozen layers, and leaves them as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from small_flux import TINY, cosine, inputs, off_by, random_flux, random_lora, said
from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.image.flux import lora as module
from vividcover.image.flux.config import DEV, Target, block_targets
from vividcover.image.flux.lora import Adapted, Adapter, Side, attach, chosen
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.image.flux.network import Flux


def learned(flux: Flux, adapter: Adapter, batch: Any) -> list[torch.Tensor]:
    """Gradients of one step."""
    for weight in adapter.parameters():
        weight.grad = None
    (said(flux, batch).float() - batch.target).square().mean().backward()
    return [weight.grad for weight in adapter.parameters() if weight.grad is not None]


def loaded(flux: Flux, **more: Any) -> Adapter:
    adapter = attach(flux, flux.config, rank=4, alpha=2.0, **more)
    adapter.load(random_lora(flux.config, [name for _, side in adapter.sides() for name in side.names]))
    return adapter


def test_a_new_lora_changes_nothing_yet() -> None:
    flux, batch = random_flux(), inputs()
    before = said(flux, batch)
    adapter = attach(flux, TINY, rank=4)
    assert torch.equal(said(flux, batch), before)
    assert adapter.scale == 1.0


def test_it_takes_all_494_layers_of_flux_in_304_of_ours() -> None:
    with torch.device("meta"):
        flux = Flux(DEV)
    adapter = attach(flux, DEV, rank=16)
    assert sum(weight.numel() for weight in adapter.parameters()) == 85_917_696
    assert len(adapter.layers) == 304
    assert [name for _, side in adapter.sides() for name in side.names] != []
    assert sorted(name for _, side in adapter.sides() for name in side.names) == sorted(block_targets(DEV))


def test_a_is_drawn_as_peft_draws_it_and_again_from_the_same_seed() -> None:
    first, again, other = (attach(random_flux(), TINY, rank=8, seed=seed).to_lora() for seed in (5, 5, 6))
    pair = first.pairs["transformer_blocks.0.ff.net.2"]
    bound = pair.a.shape[1] ** -0.5
    assert float(pair.a.abs().max()) <= bound
    assert float(pair.a.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not pair.b.any()
    for name, made in first.pairs.items():
        assert torch.equal(made.a, again.pairs[name].a)
        assert not torch.equal(made.a, other.pairs[name].a)


def test_only_the_lora_learns_and_the_base_is_what_it_was_when_it_is_out() -> None:
    flux, batch = random_flux(), inputs()
    weights = {name: value.clone() for name, value in flux.state_dict().items()}
    layers = dict(flux.named_modules())
    adapter = loaded(flux)
    gradients = learned(flux, adapter, batch)
    assert len(gradients) == len(adapter.parameters())
    assert [name for name, value in flux.named_parameters() if value.requires_grad and value.grad is None] == []
    torch.optim.SGD(adapter.parameters(), 0.1).step()

    adapter.detach()
    assert flux.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in flux.state_dict().items())
    assert all(flux.get_submodule(name) is layer for name, layer in layers.items())
    assert all(value.requires_grad for value in flux.parameters())


def test_the_joint_products_have_the_gradients_of_the_plain_formula() -> None:
    """Checked against differences, in float64; for one part and several, with B built and not."""
    random = torch.Generator().manual_seed(0)
    for rows in ([6], [4, 4, 8]):
        base = nn.Linear(5, sum(rows)).double().requires_grad_(False)
        parts = [Target("m", sum(rows[:i]), sum(rows[: i + 1]), 5) for i in range(len(rows))]
        side = Side([str(i) for i in range(len(rows))], parts, 3, base.weight.device, torch.float64, torch.float64)
        layer = Adapted(base, [side], 0.7, 0.0)
        x, a, b = (torch.randn(t.shape, generator=random, dtype=torch.float64, requires_grad=True)
                   for t in (torch.empty(2, 4, 5), side.a, side.b))  # fmt: skip
        for limit in (0, 1 << 30):
            before, module.WORTH_A_CALL = module.WORTH_A_CALL, limit
            try:
                joint = lambda x, a, b: module._Joint.apply(x, a, b, side.places, side.rows, 0.7, base)  # noqa: E731, B023
                assert torch.autograd.gradcheck(joint, (x, a, b))
                side.a.data, side.b.data = a.detach(), b.detach()
                assert off_by(joint(x, a, b), layer._apart(x)) < 1e-12
            finally:
                module.WORTH_A_CALL = before


def test_computing_activations_twice_gives_the_same_gradients() -> None:
    flux, batch = random_flux(), inputs()
    adapter = loaded(flux)
    once = learned(flux, adapter, batch)
    flux.recompute = 3
    assert all(torch.equal(a, b) for a, b in zip(once, learned(flux, adapter, batch), strict=True))


def test_weights_stay_in_float32_over_a_bfloat16_base() -> None:
    batch = inputs()
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        flux = random_flux().to(dtype)
        adapter = loaded(flux)
        assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}
        found.append(learned(flux, adapter, batch))
        assert {gradient.dtype for gradient in found[-1]} == {torch.float32}
    assert cosine(found[0], found[1]) > 0.999


def test_switched_off_it_is_the_base() -> None:
    flux, batch = random_flux(), inputs()
    before = said(flux, batch)
    adapter = loaded(flux)
    changed = said(flux, batch)
    with adapter.off():
        assert torch.equal(said(flux, batch), before)
    assert adapter.scale == 0.5
    assert torch.equal(said(flux, batch), changed)
    assert off_by(changed, before) > 0.01


def test_dropout_is_of_training_only_and_follows_the_seed() -> None:
    flux, batch = random_flux(), inputs()
    adapter = loaded(flux, dropout=0.5)
    with torch.no_grad():
        whole = said(flux, batch)
        assert torch.equal(said(flux, batch), whole)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(said(flux, batch))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert off_by(runs[0], whole) > 1e-3
    adapter.detach()


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (r"attn\.to_(q|k|v)$", 171),
        (r"transformer\.single_transformer_blocks\.(7|12|16|20)\.proj_out", 4),  # as Replicate's users write it
        (r"^single_transformer_blocks\.\d+\.proj_mlp$", 38),
        (None, 494),
        ("", 494),
    ],
)
def test_a_pattern_picks_layers_by_diffusers_names(pattern: str | None, count: int) -> None:
    assert len(chosen(DEV, pattern)) == count


def test_a_pattern_without_a_match_names_what_is_near() -> None:
    with pytest.raises(ParameterError) as error:
        chosen(DEV, "transformer_blocks.0.attn.to_querry$")
    assert "to_q" in error.value.hint
    with pytest.raises(ParameterError, match="no regular expression"):
        chosen(DEV, "attn.(to_q")


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 4, "dropout": 1.0}])
def test_numbers_that_make_no_lora_are_refused(wrong: dict[str, Any]) -> None:
    flux = random_flux()
    with pytest.raises(ParameterError):
        attach(flux, TINY, **wrong)
    assert all(value.requires_grad for value in flux.parameters())


def test_it_goes_on_from_a_lora_of_another_alpha_with_the_same_output() -> None:
    flux, batch = random_flux(), inputs()
    adapter = loaded(flux)
    wanted, lora = said(flux, batch), adapter.to_lora("dev")
    assert lora.base == "dev"
    adapter.detach()
    other = attach(flux, TINY, rank=4, alpha=16.0, seed=9)
    other.load(lora)
    assert off_by(said(flux, batch), wanted) < 1e-5


def test_a_lora_of_other_layers_or_rank_is_not_gone_on_with() -> None:
    flux = random_flux()
    adapter = attach(flux, TINY, rank=4)
    before = adapter.to_lora()
    with pytest.raises(ModelFileError, match="is missing in the file"):
        adapter.load(random_lora(names=block_targets(TINY)[:-1]))
    with pytest.raises(ModelFileError, match="rank 2"):
        adapter.load(random_lora(rank=2))
    broken = random_lora()
    name = block_targets(TINY)[-1]
    pairs = broken.pairs | {name: Pair(broken.pairs[name].a[:, 1:], broken.pairs[name].b, 1.0)}
    with pytest.raises(ModelFileError, match="single_transformer_blocks"):
        adapter.load(Lora(pairs))
    after = adapter.to_lora()
    assert all(torch.equal(pair.b, after.pairs[name].b) for name, pair in before.pairs.items())
    assert all(torch.equal(pair.a, after.pairs[name].a) for name, pair in before.pairs.items())


def test_two_loras_come_out_in_the_order_opposite_to_that_they_went_in() -> None:
    flux, batch = random_flux(), inputs()
    before = said(flux, batch)
    first = loaded(flux)
    one = said(flux, batch)
    second = attach(flux, TINY, rank=2)
    assert off_by(said(flux, batch), one) < 1e-6
    assert all(g is not None for g in learned(flux, second, batch))
    with pytest.raises(EngineError, match="Another LoRA"):
        first.detach()
    second.detach()
    first.detach()
    assert torch.equal(said(flux, batch), before)
