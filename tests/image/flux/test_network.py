"""FLUX's transformer is the published one: the same velocities, the same gradients, the same layers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flux_making import tiny_flux_folder
from vividcover.image.flux.checkpoint import read_flux
from vividcover.image.flux.config import CONTROL, DEV, FILL, SCHNELL, FluxConfig, block_targets, targets
from vividcover.image.flux.latents import positions
from vividcover.image.flux.lora import attach
from vividcover.image.flux.network import Flux

KINDS = {"dev": (True, 64), "schnell": (False, 64), "fill": (True, 384), "control": (True, 128)}
H, W, TEXT = 8, 12, 10  # of the latent; tokens
SAME = 1e-5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stock(kind: str) -> Any:
    from diffusers import FluxTransformer2DModel

    folder = tiny_flux_folder(*KINDS[kind]) / "transformer"
    return FluxTransformer2DModel.from_pretrained(str(folder)).eval().requires_grad_(False)


def ours(kind: str = "dev") -> Flux:
    return read_flux(tiny_flux_folder(*KINDS[kind]))


def inputs(config: FluxConfig, batch: int = 1) -> dict[str, Tensor | None]:
    random = torch.Generator().manual_seed(5)
    return {
        "x": torch.randn(batch, H * W // 4, config.in_channels, generator=random),
        "text": torch.randn(batch, TEXT, config.text_width, generator=random),
        "pooled": torch.randn(batch, config.pooled_width, generator=random),
        "sigma": torch.linspace(0.3, 0.9, batch),
        "guidance": torch.linspace(3.5, 1.0, batch) if config.guidance else None,
        "ids": positions(H, W, TEXT),
    }


def as_stock(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_states": given["x"], "encoder_hidden_states": given["text"], "pooled_projections": given["pooled"],
        "timestep": given["sigma"], "guidance": given["guidance"], "txt_ids": given["ids"][:TEXT],
        "img_ids": given["ids"][TEXT:],
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_velocities_are_those_of_diffusers(kind: str, batch: int) -> None:
    net = ours(kind)
    given = inputs(net.config, batch)
    with torch.no_grad():
        theirs = stock(kind)(**as_stock(given)).sample
        mine = net(**given)
    assert theirs.std() > 0.1
    assert torch.allclose(mine, theirs, rtol=0, atol=SAME)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_those_of_diffusers(batch: int) -> None:
    """Of what goes in, and of every weight and bias, the norms' too."""
    net, peer = ours().requires_grad_(True), stock("dev").requires_grad_(True)
    given = inputs(net.config, batch)
    seen = {}
    for name, model, arguments in (("ours", net, given), ("stock", peer, as_stock(given))):
        begin = arguments["x" if name == "ours" else "hidden_states"].clone().requires_grad_()
        arguments = {**arguments, "x" if name == "ours" else "hidden_states": begin}
        out = model(**arguments)
        (out if name == "ours" else out.sample).square().mean().backward()
        seen[name] = begin.grad
    assert torch.allclose(seen["ours"], seen["stock"], rtol=1e-4, atol=1e-8)
    from vividcover.image.flux.checkpoint import layout

    mine, theirs = dict(net.named_parameters()), dict(peer.named_parameters())
    for name, place in layout(net.config, bfl=False).items():
        assert torch.allclose(mine[place.name].grad[place.rows], theirs[name].grad, rtol=1e-3, atol=1e-7), name


def test_every_layer_that_a_lora_may_change_is_where_the_config_says() -> None:
    for config, parameters in ((DEV, 11_901_408_320), (SCHNELL, 11_891_178_560), (FILL, None), (CONTROL, None)):
        with torch.device("meta"):
            net = Flux(config)
        assert parameters in (None, sum(p.numel() for p in net.parameters()))
        covered: dict[str, int] = {}
        for name, target in targets(config).items():
            layer = net.get_submodule(target.module)
            assert type(layer) is nn.Linear, name
            assert layer.in_features == target.inputs
            assert 0 <= target.start < target.stop <= layer.out_features
            covered[target.module] = covered.get(target.module, 0) + target.outputs
        linears = {name: m.out_features for name, m in net.named_modules() if type(m) is nn.Linear}
        assert covered == linears  # every row of every layer, once
        assert len(block_targets(config)) == 494


def test_blocks_computed_again_in_the_backward_pass_change_nothing() -> None:
    net = ours().requires_grad_(True)
    given = inputs(net.config)
    grads = []
    for recompute in (0, 3, 5):
        net.recompute = recompute
        net.zero_grad()
        net(**given).square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_a_loop_may_compute_positions_once_and_stop_between_the_blocks() -> None:
    net = ours()
    given = inputs(net.config)
    with torch.no_grad():
        whole = net(**given)
        rope = net.rotary(given.pop("ids"))
        assert torch.equal(net(**given, rope=rope), whole)
        img, txt, vec = net.embed(*(given[n] for n in ("x", "text", "pooled", "sigma", "guidance")))
        img, txt = net.double_blocks[0](img, txt, vec, rope)
        assert torch.equal(net.final(net.blocks(img, txt, vec, rope, first=1), vec), whole)


def test_half_the_bits_give_nearly_the_same_velocities() -> None:
    net = ours()
    given = inputs(net.config)
    small = {n: v if v is None or n in ("sigma", "guidance", "ids") else v.bfloat16() for n, v in given.items()}
    with torch.no_grad():
        whole = net(**given)
        half = net.to(torch.bfloat16)(**small)
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).norm() / whole.norm() < 0.02


def test_pictures_of_a_batch_know_nothing_of_each_other() -> None:
    net = ours()
    given = inputs(net.config, 3)
    with torch.no_grad():
        together = net(**given)
        for i in range(3):
            alone = net(**{n: v if n == "ids" else v[i : i + 1] for n, v in given.items()})
            assert torch.allclose(alone[0], together[i], rtol=0, atol=SAME)


def test_blocks_are_compiled_once_for_any_size_where_that_is_asked_for() -> None:
    from torch._dynamo.testing import CompileCounter

    from vividcover.image.flux.generate import compile_blocks

    torch._dynamo.reset()
    net, plain, counter = ours(), ours(), CompileCounter()
    attach(net, net.config, rank=4, alpha=4)
    compile_blocks(net, counter, any_size=True)  # type: ignore[arg-type]
    for width in (4, 6, 10):
        given = inputs(net.config) | {"x": torch.randn(1, width, 64), "ids": positions(4, width, TEXT)}
        out = net(**given)
        out.square().mean().backward()
        assert torch.allclose(out, plain(**given), rtol=0, atol=SAME)
    assert counter.frame_count == 2
    torch._dynamo.reset()


def test_blocks_are_compiled_for_more_sizes_than_torch_would_by_itself() -> None:
    """Also in another thread than that in which they were made ready."""
    from vividcover.image.flux.generate import compile_blocks

    torch._dynamo.reset()
    net, plain = ours(), ours()
    compile_blocks(net, backend="eager")

    def paint(width: int) -> bool:
        given = inputs(net.config) | {"x": torch.randn(1, width, 64), "ids": positions(4, width, TEXT)}
        with torch.no_grad():
            return torch.allclose(net(**given), plain(**given), rtol=0, atol=SAME)

    with ThreadPoolExecutor(1) as thread:
        assert all(thread.map(paint, range(4, 4 + 2 * 9, 2)))  # torch's own limit is 8
    torch._dynamo.reset()
