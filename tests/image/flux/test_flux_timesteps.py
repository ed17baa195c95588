"""Levels of noise come as often as their names promise."""

from __future__ import annotations

import math

import pytest
import torch

from vividcover.errors import ParameterError
from vividcover.image.flux.options import TIMESTEPS
from vividcover.image.flux.timesteps import fixed_levels, levels

EVENLY = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)


@pytest.mark.parametrize("way", TIMESTEPS)
def test_every_way_gives_levels_between_picture_and_noise(way: str) -> None:
    found = levels(way, torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64))
    assert found.dtype == torch.float32
    assert ((found > 0) & (found < 1)).all()


def test_balanced_is_logit_normal() -> None:
    odds = torch.logit(levels("balanced", EVENLY).double())
    assert abs(float(odds.mean())) < 1e-3
    assert float(odds.std()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(levels("balanced", EVENLY), levels("sigmoid", EVENLY))
    assert torch.allclose(levels("uniform", EVENLY).double(), EVENLY, atol=1e-6)


def test_content_prefers_noise_and_style_prefers_pictures() -> None:
    content, style = levels("content", EVENLY), levels("style", EVENLY)
    assert float(content.median()) > 0.7
    assert float(style.median()) < 0.3
    assert torch.allclose(content, 1 - style, atol=1e-4)  # they are each other's mirror


def test_larger_pictures_are_shifted_further() -> None:
    """FLUX's own numbers: 0.5 for 256 tokens, 1.15 for 4096."""
    middle = torch.tensor([0.5], dtype=torch.float64)
    for tokens, mu in ((256, 0.5), (4096, 1.15)):
        sigma = 0.5
        said = math.exp(mu) / (math.exp(mu) + (1 / sigma - 1))  # as its sampler writes it
        assert float(levels("shift", middle, tokens)) == pytest.approx(said, abs=1e-6)


def test_fixed_levels_rise_evenly_among_the_balanced_ones() -> None:
    found = fixed_levels(4)
    assert found == sorted(found)
    assert found[0] == pytest.approx(1 - found[3])
    assert 0.2 < found[0] < 0.3


def test_another_way_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match=r"'linear'.*balanced"):
        levels("linear", EVENLY)
