"""Optimizers do what their papers say, and say when they do it in another way."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vividcover.errors import EngineError, ParameterError
from vividcover.image.flux.optimizers import Lion, make, pace
from vividcover.image.flux.options import OPTIMIZERS

torch.set_num_threads(1)


def bowl(name: str, rate: float, steps: int = 60) -> float:
    """How far an optimizer comes down x² + 10 y² from (1, 1)."""
    weights = [torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)]
    optimizer, _ = make(name, weights, rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = weights[0] ** 2 + 10 * weights[1] ** 2
        loss.sum().backward()
        optimizer.step()
    x, y = (float(weight.detach()) for weight in weights)
    return x**2 + 10 * y**2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str) -> None:
    rate = {"prodigy": 1.0, "adagrad": 0.3, "adafactor": 0.05}.get(name, 0.03)
    steps = 400 if name == "prodigy" else 60
    assert bowl(name, rate, steps) < 2.0  # from 11


def test_eight_bits_without_a_cuda_device_are_said_to_be_thirty_two() -> None:
    optimizer, note = make("adamw8bit", [torch.zeros(2, requires_grad=True)], 1e-4)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert note.startswith("adamw8bit runs as adamw, with 32-bit memory")
    assert make("adamw", [torch.zeros(2, requires_grad=True)], 1e-4)[1] == ""


def test_bitsandbytes_is_used_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which class of it, with what: no CUDA device is needed to see that."""
    asked: list[Any] = []

    class Eight:
        def __init__(self, parameters: Any, **given: Any) -> None:
            asked.append(given)
            self.param_groups: list[dict[str, Any]] = [{"params": parameters}]

    module: Any = type(sys)("bitsandbytes")
    module.optim = SimpleNamespace(AdamW8bit=Eight, Adam8bit=Eight, Lion8bit=Eight)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
    weights: Any = [SimpleNamespace(device=torch.device("cuda"))]
    for name in ("adamw8bit", "adam8bit", "lion8bit"):
        optimizer, note = make(name, weights, 1e-4, 0.02)
        assert isinstance(optimizer, Eight)
        assert note == ""
        assert optimizer.param_groups[0]["base"] == 1e-4
    assert asked == [{"lr": 1e-4, "weight_decay": 0.02}, {"lr": 1e-4}, {"lr": 1e-4, "weight_decay": 0.02}]


def test_rates_that_were_meant_for_another_optimizer_are_said() -> None:
    weights = [torch.zeros(2, requires_grad=True)]
    optimizer, note = make("prodigy", weights, 4e-4)
    assert optimizer.param_groups[0]["base"] == 1.0
    assert "0.0004 is taken as 1" in note
    assert "high for lion: a third" in make("lion", weights, 4e-4)[1]
    assert make("lion", weights, 1e-4)[1] == ""


def test_lion_moves_by_its_rate_in_the_direction_of_the_blend() -> None:
    """Algorithm 2 of Chen et al. 2023, by hand."""
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    weight.grad = torch.tensor([0.3, -0.2])
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]))
    weight.grad = torch.tensor([-0.03, -0.2])  # the memory 0.003 outweighs: 0.9·0.003 - 0.1·0.03 < 0
    optimizer.step()
    assert torch.allclose(optimizer.state[weight]["mean"], torch.tensor([0.99 * 0.003 - 0.0003, -0.00398]))
    assert torch.allclose(weight[0], torch.tensor(0.85 * 0.95 + 0.1))


def test_lion_goes_on_from_its_saved_state() -> None:
    weights = [torch.randn(3, requires_grad=True) for _ in range(2)]
    twins = [w.detach().clone().requires_grad_() for w in weights]
    one, other = Lion(weights, lr=0.1), Lion(twins, lr=0.1)
    for _ in range(2):
        for w, t in zip(weights, twins):
            w.grad, t.grad = w.detach() ** 3, w.detach() ** 3
        one.step()
        other.step()
        fresh = Lion(twins, lr=0.1)
        fresh.load_state_dict(other.state_dict())
        other = fresh
    assert all(torch.equal(w, t) for w, t in zip(weights, twins))


def test_schedules_warm_up_and_fall() -> None:
    assert [pace("constant", step, 10, warmup=3) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert pace("cosine", 5, 10) == pytest.approx(0.5)
    assert pace("linear", 9, 10) == pytest.approx(0.1)
    assert pace("cosine", 10, 10) == pytest.approx(0.0)


def test_what_there_is_not_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"no optimizer 'sgd'.*adamw8bit"):
        make("sgd", [torch.zeros(1)], 1e-4)
    with pytest.raises(ParameterError, match="no schedule 'step'"):
        pace("step", 1, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install prodigyopt"):
        make("prodigy", [torch.zeros(1, requires_grad=True)], 1.0)
    assert "bitsandbytes" not in sys.modules
