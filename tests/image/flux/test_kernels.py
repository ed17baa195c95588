"""The quick forms of norms, rotation and gates are the plain formulas, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vividcover.image.flux.kernels import EPS, Rope, gated, heads_of, heads_plainly, join, modulated
from vividcover.image.flux.latents import positions

B, L, HEADS, D, REST = 2, 9, 3, 16, 40
torch.set_num_threads(1)


def drawn(*shape: int, grad: bool = True, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).requires_grad_(grad)


def rope() -> Rope:
    return Rope.of(positions(4, 6, L - 6), (4, 6, 6), 10_000.0)


@pytest.mark.parametrize("rows", [1, L])
@pytest.mark.parametrize("rest", [0, REST])
def test_queries_keys_and_values_and_their_gradients_are_the_formulas(rows: int, rest: int) -> None:
    grads, values = [], []
    for way in (heads_of, heads_plainly):
        x, weights = drawn(B, L, 3 * HEADS * D + rest), drawn(rows, 2, D, seed=1)
        parts = way(x, HEADS, weights, rope())
        values.append([part.detach() for part in parts])
        sum((part * drawn(*part.shape, grad=False, seed=2 + i)).sum() for i, part in enumerate(parts)).backward()
        grads.append((x.grad, weights.grad))
    for quick, plain in zip(*values, strict=True):
        assert torch.allclose(quick, plain, atol=1e-5)
    for quick, plain in zip(*grads, strict=True):
        assert torch.allclose(quick, plain, rtol=1e-4, atol=1e-5)


def test_without_gradients_the_result_is_the_same() -> None:
    x, weights = drawn(B, L, 3 * HEADS * D + REST), drawn(1, 2, D, seed=1)
    learning = heads_of(x, HEADS, weights, rope())
    with torch.no_grad():
        resting = heads_of(x, HEADS, weights, rope())
    assert all(torch.equal(a, b) for a, b in zip(learning, resting, strict=True))


def test_a_query_whose_gradient_nobody_asks_for_costs_nothing_and_is_zero() -> None:
    x, weights = drawn(1, L, 3 * HEADS * D), drawn(1, 2, D, seed=1, grad=False)
    _, _, v, _ = heads_of(x, HEADS, weights, rope())
    v.sum().backward()
    assert torch.equal(x.grad[..., : 2 * HEADS * D], torch.zeros(1, L, 2 * HEADS * D))
    assert torch.equal(x.grad[..., 2 * HEADS * D :], torch.ones(1, L, HEADS * D))


def test_in_half_the_bits_the_result_is_nearer_to_the_exact_one_than_a_step_of_them() -> None:
    x, weights = drawn(B, L, 3 * HEADS * D), drawn(1, 2, D, seed=1)
    exact = heads_plainly(x, HEADS, weights, rope())
    half = heads_of(x.bfloat16(), HEADS, weights.bfloat16(), rope())
    for a, b in zip(half[:2], exact[:2], strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() / b.norm() < 2**-7
    x16, weights16 = (values.detach().bfloat16().requires_grad_() for values in (x, weights))
    pull = drawn(2, B, HEADS, L, D, grad=False, seed=4)
    (torch.stack(heads_of(x16, HEADS, weights16, rope())[:2]) * pull).sum().backward()
    (torch.stack(exact[:2]) * pull).sum().backward()
    for small, whole in ((x16, x), (weights16, weights)):
        assert small.grad.dtype == torch.bfloat16
        assert F.cosine_similarity(small.grad.float().flatten(), whole.grad.flatten(), 0) > 0.999


def test_turning_keeps_lengths_and_depends_on_distance_only() -> None:
    ids = torch.tensor([[0, 0, 0], [0, 1, 2], [0, 5, 3], [0, 6, 5]]).float()
    one = drawn(1, 1, 3 * D, grad=False).expand(1, 4, 3 * D)
    q, k, _, _ = heads_of(one, 1, torch.ones(1, 2, D), Rope.of(ids, (4, 6, 6), 10_000.0))
    assert torch.allclose(q.norm(dim=-1), torch.full((1, 1, 4), D**0.5), atol=1e-4)
    meets = (q @ k.transpose(-1, -2))[0, 0]
    assert torch.isclose(meets[0, 1], meets[2, 3], atol=1e-4)  # both are one row and two columns apart
    assert not torch.isclose(meets[0, 1], meets[0, 2], atol=1e-2)


@pytest.mark.parametrize("batch", [1, 3])
def test_modulation_and_gates_are_the_formulas(batch: int) -> None:
    x, shift, scale, y = drawn(batch, L, 32), drawn(batch, 32, seed=1), drawn(batch, 32, seed=2), drawn(batch, L, 32)
    plain = F.layer_norm(x, (32,), eps=EPS) * (1 + scale[:, None]) + shift[:, None]
    assert torch.allclose(modulated(x, shift, scale), plain, atol=1e-5)
    wanted = torch.autograd.grad(plain.square().sum(), (x, shift, scale))
    given = torch.autograd.grad(modulated(x, shift, scale).square().sum(), (x, shift, scale))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(given, wanted, strict=True))
    assert torch.allclose(gated(x, scale, y), x + scale[:, None] * y, atol=1e-6)


def test_the_wide_layer_is_joined_as_written() -> None:
    met, wide = drawn(B, L, 16), drawn(B, L, 64, seed=1)
    plain = torch.cat((met, F.gelu(wide, approximate="tanh")), -1)
    assert torch.allclose(join(met, wide), plain, atol=1e-6)
    weight = drawn(B, L, 80, grad=False, seed=3)
    wanted = torch.autograd.grad((plain * weight).sum(), (met, wide))
    given = torch.autograd.grad((join(met, wide) * weight).sum(), (met, wide))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(given, wanted, strict=True))


def test_float16_stays_finite_where_the_sum_is_not() -> None:
    x = torch.full((1, 2, 4), 60000.0, dtype=torch.float16)
    out = gated(x, torch.ones(1, 4, dtype=torch.float16), x)
    assert torch.isfinite(out).all()
    assert out.max() == 65504
