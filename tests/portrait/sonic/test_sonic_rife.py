"""The picture between two pictures is RIFE's: its names, its numbers, its answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from make_sonic_rife import SIZES, pictures, weights
from seeded import shapes_of

from vividcover.portrait.sonic import rife
from vividcover.portrait.sonic.rife import IFNet, _grid

GOLD = np.load(Path(__file__).parents[2] / "oracles" / "golden_sonic_rife.npz")


@pytest.fixture(scope="module")
def net() -> IFNet:
    made = IFNet().eval()
    made.load_state_dict(weights(shapes_of(made)))
    return made


def test_the_network_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = shapes_of(IFNet())
    assert sorted(f"{name} {list(shape)}" for name, shape in shapes.items()) == GOLD["names"].tolist()
    assert len(shapes) == 160
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 3_038_015


def test_a_pair_costs_what_it_costs_in_the_published_code() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net, picture = IFNet(), torch.zeros(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        net(picture, picture)
    assert counted.get_total_flops() == pytest.approx(67.2e9, rel=0.01)  # 0.067 TFLOP


@pytest.mark.parametrize(("height", "width", "pairs"), SIZES)
def test_the_middle_is_the_one_that_the_published_code_draws(net: IFNet, height: int, width: int, pairs: int) -> None:
    a, b = pictures(height, width, pairs)
    size = f"{height}x{width}"
    with torch.no_grad():
        flow, mask, _ = net(a, b)
    assert np.abs(flow.numpy()[..., ::5, ::7] - GOLD[f"flow/{size}"]).max() < 1e-4
    assert np.abs(mask.numpy()[..., ::5, ::7] - GOLD[f"mask/{size}"]).max() < 1e-4
    middle = net.between(a, b).numpy()
    assert np.abs(middle[..., ::3, ::2] - GOLD[f"middle/{size}"]).max() < 1e-4
    assert float(flow.abs().mean()) > 2  # px: the pictures really moved
    assert 0 <= middle.min() < middle.max() <= 1


def test_pairs_are_independent_of_those_beside_them(net: IFNet, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pictures(64, 64, 2)
    together = net.between(a, b)
    monkeypatch.setattr(rife, "PIXELS_AT_ONCE", 64 * 64)
    one_by_one = net.between(a, b)
    assert torch.allclose(together, one_by_one, atol=1e-5)


def test_any_size_comes_back_as_it_was(net: IFNet) -> None:
    a, b = (x[..., :50, :37] for x in pictures(64, 64, 1))
    middle = net.between(a, b)
    assert middle.shape == a.shape
    edges_go_on = [torch.nn.functional.pad(x, (0, 64 - 37, 0, 64 - 50), mode="replicate") for x in (a, b)]
    assert torch.equal(middle, net.between(*edges_go_on)[..., :50, :37])


def test_two_equal_pictures_have_themselves_between_them() -> None:
    """With a last layer of zeros nothing moves and the mask is even: the middle is the mean."""
    net = IFNet().eval()
    for block in (net.block0, net.block1, net.block2):
        for head in (block.conv1, block.conv2):
            torch.nn.init.zeros_(head[2].weight)
            torch.nn.init.zeros_(head[2].bias)
    a, b = pictures(64, 64, 2)
    assert torch.allclose(net.between(a, a), a, atol=1e-5)
    assert torch.allclose(net.between(a, b), (a + b) / 2, atol=1e-5)


def test_pictures_of_many_sizes_leave_no_heap_of_grids_behind(net: IFNet) -> None:
    for width in range(32, 32 + 12):
        a, b = (x[..., :width] for x in pictures(32, 64, 1))
        net.between(a, b)
    assert _grid.cache_info().currsize <= rife.GRIDS
