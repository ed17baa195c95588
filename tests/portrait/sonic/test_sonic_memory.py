"""What fits: the figures that a batch is chosen by, held against the network itself, and batches for real devices."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vividcover.errors import EngineError
from vividcover.portrait.sonic.config import FULL, TINY, TOKENS, WINDOW, UNetConfig
from vividcover.portrait.sonic.memory import SPARE, fit, fit_on, needed
from vividcover.portrait.sonic.network import Deep, MaskPyramid, SonicUNet

HALF = 2  # bytes


class Alive(TorchDispatchMode):
    """The most bytes that were alive at a time, of what is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.held: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_iter(args) if isinstance(x, Tensor)}
        for value in tree_iter(found):
            if isinstance(value, Tensor) and (store := value.untyped_storage())._cdata not in given | set(self.held):
                self.held[store._cdata] = store.nbytes()
                self.now += store.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(store, self.gone, store._cdata)
        return found

    def gone(self, key: int) -> None:
        self.now -= self.held.pop(key)


def alive(config: UNetConfig, side: int, rows: int, again: bool = False) -> int:
    h = side // 8
    with torch.device("meta"), torch.inference_mode():
        net = SonicUNet(config).half()
        x = torch.empty(rows, WINDOW, 8, h, h).half()
        clip = torch.empty(rows, WINDOW, 1, config.context).half()
        audio = torch.empty(rows, WINDOW, TOKENS, config.context).half()
        mask = MaskPyramid.of(torch.empty(side, side), torch.float16, "meta")
        context, deep = net.hear(clip, audio), Deep()
        with Alive() as watched:
            net(x, torch.empty(rows), torch.empty(rows, 3), context, mask, keep=deep)
            if again:
                net(x, torch.empty(rows), torch.empty(rows, 3), context, mask, deep=deep)
    return watched.most


@pytest.mark.parametrize(("config", "side", "rows"), [(FULL, 512, 3), (FULL, 1024, 1), (TINY, 512, 2)])
@pytest.mark.parametrize("again", [False, True])
def test_a_pass_needs_what_the_batch_is_chosen_by(config: UNetConfig, side: int, rows: int, again: bool) -> None:
    counted, told = alive(config, side, rows, again), needed(config, (side // 8,) * 2, HALF, rows, keeps=again) - SPARE
    assert 0.85 * told < counted < told


def test_a_large_device_takes_two_windows_with_all_branches_and_a_small_one_branch_after_branch() -> None:
    ways = {gb: fit(FULL, (64, 64), HALF, gb * 1e9) for gb in (139, 24, 12, 8, 4)}
    assert [(ways[gb].windows, ways[gb].branches) for gb in ways] == [(2, 3), (2, 3), (1, 3), (1, 3), (1, 1)]
    assert "2 windows x 3 branches at once" in ways[139].describe()


def test_small_pictures_go_many_at_once_and_large_ones_alone() -> None:
    assert fit(FULL, (32, 32), HALF, 139e9).windows == 9
    assert fit(FULL, (128, 128), HALF, 139e9).windows == 1


def test_a_cpu_takes_one_window_and_a_wish_is_followed_while_it_fits() -> None:
    assert fit(FULL, (64, 64), HALF, 139e9, gains=False).windows == 1
    assert fit(FULL, (64, 64), HALF, 139e9, wanted=4).windows == 4
    assert fit(FULL, (64, 64), HALF, 16e9, wanted=4).windows == 2
    assert fit(FULL, (64, 64), HALF, 0.0, wanted=4).windows == 4  # nobody says how much there is


def test_too_little_memory_is_said_with_what_to_do() -> None:
    with pytest.raises(EngineError, match=r"1024 x 1024 px needs [89].* GB .* 5.0 are free") as caught:
        fit(FULL, (128, 128), HALF, 5e9)
    assert "min_resolution" in caught.value.hint


def test_a_network_is_asked_where_it_lies() -> None:
    net = SonicUNet(TINY)
    found = fit_on(net, (8, 8))
    assert (found.windows, found.branches) == (1, 3)
