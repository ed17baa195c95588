"""Frozen layers in 8 and 4 bits: how exact their two products are, and the gradients of a LoRA beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from small_flux import TINY, cosine, inputs, off_by, random_flux, random_lora, said
from vividcover.errors import ParameterError
from vividcover.image.flux import fp8
from vividcover.image.flux.fp8 import Fp8Linear
from vividcover.image.flux.lora import attach
from vividcover.image.flux.network import Flux
from vividcover.image.flux.quant import NF4, Frozen, Int8Linear, Nf4Linear, quantise

OUT, IN, ROWS = 192, 256, 40
# kind → relative error (Frobenius) of a product with random numbers, and of a gradient's direction through the network
BOUNDS = {"fp8": (0.045, 0.99), "int8": (0.012, 0.999), "nf4": (0.14, 0.97)}
MAKERS = {"fp8": Fp8Linear, "int8": Int8Linear, "nf4": Nf4Linear}


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    torch.set_num_threads(1)
    return str(request.param)


def layer(seed: int = 0) -> nn.Linear:
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(IN, OUT)
    rows = torch.logspace(-3, 1, OUT)[:, None]  # rows of very different sizes, as FLUX has them
    linear.weight.data = torch.randn(OUT, IN, generator=random) * rows
    linear.bias.data = torch.randn(OUT, generator=random) * rows[:, 0]
    return linear.requires_grad_(False)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_products_are_within_their_bound(kind: str, dtype: torch.dtype) -> None:
    linear, random = layer(), torch.Generator().manual_seed(1)
    small = MAKERS[kind](linear)
    x = torch.randn(3, ROWS, IN, generator=random) * torch.logspace(-4, 3, ROWS)[:, None]  # and so its activations
    dy = torch.randn(3, ROWS, OUT, generator=random)
    bound, limit = BOUNDS[kind][0], 0.004 if dtype == torch.bfloat16 else 0.0
    for rows in range(ROWS):  # each row of the result by itself: a large one does not hide a small one
        wanted = linear(x[:, rows]) - linear.bias
        found = small(x[:, rows].to(dtype)).float() - linear.bias
        if rows > ROWS // 2:  # below, the bias is larger than what it is added to
            assert error(found, wanted) < bound + limit * 4, rows
    asked = x.to(dtype).requires_grad_(True)
    small(asked).backward(dy.to(dtype))
    assert asked.grad is not None
    assert asked.grad.dtype == dtype
    assert error(asked.grad, dy @ linear.weight) < bound + limit


def test_the_bias_is_added_as_it_is(kind: str) -> None:
    linear = layer()
    assert off_by(MAKERS[kind](linear)(torch.zeros(2, IN)), linear.bias.expand(2, -1)) < 1e-6
    linear.bias = None  # type: ignore[assignment]
    assert not MAKERS[kind](linear)(torch.zeros(2, IN)).any()


def test_int8_rounds_to_half_a_step_and_nf4_to_its_sixteen_values() -> None:
    linear = layer()
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((Int8Linear(linear).dequantised() - linear.weight).abs() <= step / 2 * 1.001).all()

    random = torch.Generator().manual_seed(2)
    places = torch.randint(16, (OUT, IN), generator=random)
    places[:, ::64] = 15  # every block holds its largest
    linear.weight.data = torch.tensor(NF4)[places] * 0.5
    assert torch.equal(Nf4Linear(linear).dequantised(), linear.weight)


def test_infinite_activations_are_not_hidden() -> None:
    """An overflow has to come out as one, or a training would go on with nonsense."""
    x = torch.ones(2, IN)
    x[1, 3] = float("inf")
    for maker in MAKERS.values():
        y = maker(layer())(x)
        assert torch.isfinite(y[0]).all()
        assert not torch.isfinite(y[1]).any()


def test_a_lora_beside_the_quantised_base_learns_nearly_as_beside_the_whole(kind: str) -> None:
    batch, found, outputs = inputs(), [], []
    for chosen in ("none", kind):
        flux = random_flux()
        report = quantise(flux, chosen)
        assert report["layers"] == (0 if chosen == "none" else 26)
        adapter = attach(flux, TINY, rank=4, alpha=2.0)
        adapter.load(random_lora())
        velocity = said(flux, batch)
        (velocity - batch.target).square().mean().backward()
        outputs.append(velocity)
        found.append([weight.grad for weight in adapter.parameters() if weight.grad is not None])
    assert cosine(*found) > BOUNDS[kind][1]
    assert cosine(outputs[:1], outputs[1:]) > BOUNDS[kind][1]
    adapter.detach()
    assert isinstance(flux.double_blocks[0].img_qkv, Frozen)


def test_the_joint_products_are_those_of_the_base_and_the_lora_one_after_the_other(kind: str) -> None:
    flux = random_flux()
    quantise(flux, kind)
    adapter = attach(flux, TINY, rank=4, alpha=2.0)
    adapter.load(random_lora())
    changed = adapter.layers["single_blocks.0.linear1"]
    runs = []
    for run in (changed, changed._apart):
        x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        y = run(x)
        y.square().sum().backward()
        runs.append((y, x.grad, changed.sides[0].a.grad, changed.sides[0].b.grad))
        changed.zero_grad()
    assert all(off_by(one, other) < 1e-5 for one, other in zip(*runs, strict=True))


def test_it_says_what_was_saved(kind: str) -> None:
    flux = random_flux().bfloat16()
    learning = quantise(flux, kind)
    assert 0 < learning["error"] < BOUNDS[kind][0]
    painting = quantise(random_flux().bfloat16(), kind, training=False)
    assert painting["bytes"] < {"fp8": 0.6, "int8": 0.6, "nf4": 0.4}[kind] * painting["bytes_before"]
    assert (painting["bytes"] < learning["bytes"]) == (kind == "fp8")


def test_ends_and_layers_to_skip_stay_as_they_are(kind: str) -> None:
    flux = random_flux()
    quantise(flux, kind, skip=r"mod$|^single_blocks\.1\.")
    kept = {name for name, module in flux.named_modules() if type(module) is nn.Linear}
    assert {"img_in", "txt_in", "final_out", "time_in.first", "double_blocks.0.img_mod"} <= kept
    assert {"single_blocks.1.linear1", "single_blocks.1.linear2", "single_blocks.0.mod"} <= kept
    assert {"single_blocks.0.linear1", "double_blocks.1.txt_qkv"} & kept == set()


def test_another_number_format_for_the_network_leaves_what_is_quantised(kind: str) -> None:
    flux = random_flux()
    quantise(flux, kind)
    layer = flux.single_blocks[0].linear2
    before = {name: (value.dtype, value.clone()) for name, value in layer.named_buffers()}
    flux.to(torch.bfloat16)
    for name, (dtype, value) in before.items():
        assert layer.get_buffer(name).dtype == dtype
        assert torch.equal(layer.get_buffer(name).float(), value.float())
    assert said(flux, inputs()).dtype == torch.bfloat16


def test_where_fp8_has_no_products_the_weight_alone_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = layer(), torch.randn(8, IN, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(fp8, "runs_on", lambda device: False)
    small = Fp8Linear(linear)
    assert not small.native
    assert off_by(small(x), x @ small.dequantised().t() + linear.bias) < 1e-5
    asked = x.clone().requires_grad_(True)
    small(asked).sum().backward()
    assert asked.grad is not None
    assert error(asked.grad, torch.ones(8, OUT) @ linear.weight) < BOUNDS["fp8"][0]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ParameterError, match="fp4"):
        quantise(random_flux(), "fp4")


def test_a_compiler_sees_one_graph_of_each_kind_of_block() -> None:
    """No break in it, whose cost would be what compiling saves; with the same gradients."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()  # what other tests compiled counts against the same limit
    flux, batch, counter = random_flux(), inputs(), CompileCounter()
    adapter = attach(flux, TINY, rank=4, alpha=2.0)
    adapter.load(random_lora())
    runs = []
    for compiled in (False, True):
        if compiled:
            for block in (*flux.double_blocks, *flux.single_blocks):
                block.compile(backend=counter, fullgraph=True)
        (said(flux, batch) - batch.target).square().mean().backward()
        runs.append([weight.grad for weight in adapter.parameters() if weight.grad is not None])
        adapter.flux.zero_grad()
    torch._dynamo.reset()
    assert counter.frame_count == 2  # also the first block, before which nothing learns, is as the others
    assert cosine(*runs) > 0.99999


def test_a_compiler_sees_a_quantised_layer_whole(kind: str) -> None:
    flux = random_flux()
    quantise(flux, kind)
    adapter = attach(flux, TINY, rank=4, alpha=2.0)
    adapter.load(random_lora())
    layer = adapter.layers["single_blocks.0.linear1"]
    runs = []
    for run in (layer, torch.compile(layer, backend="eager", fullgraph=True)):
        x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        run(x).square().sum().backward()
        assert x.grad is not None
        runs.append(x.grad)
    torch._dynamo.reset()
    assert off_by(*runs) < 1e-5


def uses(flux: Flux) -> int:
    return sum(isinstance(module, Frozen) for module in flux.modules())


def test_layers_are_made_smaller_only_once() -> None:
    flux = random_flux()
    assert quantise(flux, "int8")["layers"] == uses(flux) == 26
    assert quantise(flux, "nf4")["layers"] == 0
