"""The critics judge as RVC's do."""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.voice.rvc.discriminators import PERIODS, Discriminators

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from seeded import fill, shapes_of, signal  # noqa: E402

GOLD = np.load(ORACLES / "golden_rvc_full.npz")


@pytest.fixture(scope="module")
def heard():
    return torch.from_numpy(np.stack([signal(0.1, 32000, 1), signal(0.1, 32000, 2)]))[:, None]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_critics_judge_as_rvcs_do(version, heard):
    critics = Discriminators(version)
    assert sum(p.numel() for p in critics.parameters()) == {"v1": 54_968_286, "v2": 71_410_594}[version]
    critics.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(critics)).items()})
    with torch.inference_mode():
        logits, maps = critics(heard)
    gold = {name: GOLD[f"critics_{version}/{name}"] for name in ("logits", "maps", "means")}
    np.testing.assert_allclose(torch.cat(logits, 1).numpy(), gold["logits"], atol=1e-4)
    kept = [m.numpy().ravel()[::997] for critic in maps for m in critic]
    np.testing.assert_allclose(np.concatenate(kept), gold["maps"], atol=1e-4)
    means = [[float(m.abs().mean()) for m in critic] for critic in maps][1:]
    np.testing.assert_allclose(means, gold["means"], atol=1e-4)
    assert np.abs(gold["logits"]).max() > 0.05


def test_in_bfloat16_they_judge_alike_whatever_the_layout(heard):
    critics = Discriminators("v2", width=64)
    critics.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(critics)).items()})
    with torch.inference_mode():
        logits, maps = critics(heard)
        with torch.autocast("cpu", torch.bfloat16):
            near, near_maps = critics(heard)
    for exact, other in zip(logits, near, strict=True):
        assert other.shape[0] == 2
        assert abs(other.float().mean(1) - exact.mean(1)).max() < 0.02
    for exact, other in zip(chain(*maps), chain(*near_maps), strict=True):
        first, second = other.float().chunk(2)  # the items of the batch, in whatever layout
        assert abs(first.abs().mean() - exact[0].abs().mean()) < 0.02
        assert abs(second.abs().mean() - exact[1].abs().mean()) < 0.02


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("samples", [3072, 3111])
def test_a_small_twin_has_the_same_parts_and_hears_audio_of_any_length(version, samples):
    critics = Discriminators(version, width=32)
    logits, maps = critics(torch.randn(3, 1, samples, requires_grad=True))
    assert len(logits) == len(maps) == len(PERIODS[version]) + 1
    assert [len(critic) for critic in maps] == [7] + [6] * len(PERIODS[version])
    sum(x.mean() for x in logits).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critics.parameters())
