"""The levels of noise are those of diffusers' scheduler, and its steps end at the picture."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vividcover.image.flux.schedule import levels, noised, shift_of, step

# FlowMatchEulerDiscreteScheduler of diffusers 0.42.1, with the settings of FLUX.1 [dev] and [schnell]
DEV_4_AT_1024 = (1.0, 0.904531, 0.759511, 0.512844, 0.0)
DEV_3_AT_256 = (1.0, 0.767303, 0.451863, 0.0)
SCHNELL_4 = (1.0, 0.75, 0.5, 0.25, 0.0)


def test_the_levels_are_those_of_diffusers() -> None:
    assert levels(4, 4096).tolist() == pytest.approx(DEV_4_AT_1024, abs=1e-6)
    assert levels(3, 256).tolist() == pytest.approx(DEV_3_AT_256, abs=1e-6)
    assert levels(4, 4096, shifted=False).tolist() == pytest.approx(SCHNELL_4, abs=1e-7)


def test_larger_pictures_spend_more_steps_at_high_noise() -> None:
    assert shift_of(256) == pytest.approx(0.5)
    assert shift_of(4096) == pytest.approx(1.15)
    assert levels(20, 4096)[10] > levels(20, 1024)[10] > levels(20, 1024, shifted=False)[10]


@pytest.mark.parametrize("steps", [1, 2, 28, 50])
def test_levels_fall_from_noise_to_the_picture(steps: int) -> None:
    found = levels(steps, 1024)
    assert found.shape == (steps + 1,)
    assert found[0] == 1
    assert found[-1] == 0
    assert (found.diff() < 0).all()


def test_steps_along_the_true_velocity_end_at_the_picture() -> None:
    picture, noise = torch.randn(1, 6, 64), torch.randn(1, 6, 64)
    sigmas = levels(5, 1024)
    x = noised(picture, noise, sigmas[0])
    for now, then in pairwise(sigmas):
        x = step(x, noise - picture, now, then)
    assert torch.allclose(x, picture, atol=1e-6)


def test_a_step_keeps_the_number_format() -> None:
    assert step(torch.zeros(1, 2, dtype=torch.bfloat16), torch.ones(1, 2), 1.0, 0.5).dtype == torch.bfloat16
