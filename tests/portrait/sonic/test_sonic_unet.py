"""Sonic's UNet against what its authors' code and stock diffusers say (oracles/make_sonic_unet.py), and its trims."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vividcover.errors import ParameterError
from vividcover.portrait.sonic import attention
from vividcover.portrait.sonic.attention import Transformer
from vividcover.portrait.sonic.config import FULL, TINY, TOKENS, WINDOW
from vividcover.portrait.sonic.network import Deep, MaskPyramid, Resnet, SonicUNet, TimeConvs, joined

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from make_sonic_unet import CASES, MASKS, inputs, soft_mask  # noqa: E402
from seeded import fill, noise, shapes_of  # noqa: E402


@pytest.fixture(scope="module")
def gold() -> dict[str, Any]:
    with np.load(ORACLES / "golden_sonic_unet.npz") as file:
        return dict(file)


def filled(seed: int = 0) -> SonicUNet:
    net = SonicUNet(TINY)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(net), seed).items()})
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet() -> SonicUNet:
    return filled()


def given(net: SonicUNet, case: str, batch: slice = slice(None)) -> tuple[Any, ...]:
    x = inputs(case)
    context = net.hear(x.clip[batch], x.audio[batch])
    return x.x[batch], x.c_noise[batch], x.added[batch], context, MaskPyramid.of(x.mask, x.x.dtype)


def apart(one: Any, other: Any) -> float:
    return float((torch.as_tensor(one).float() - torch.as_tensor(other).float()).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_the_network_draws_what_the_published_one_draws(case: str, unet: SonicUNet, gold: dict[str, Any]) -> None:
    drawn = unet(*given(unet, case))
    assert gold[f"sonic/{case}"].std() > 0.3
    assert apart(drawn, gold[f"sonic/{case}"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_without_a_voice_it_is_stable_video_diffusion(case: str, gold: dict[str, Any]) -> None:
    net = filled()
    for name, value in net.named_parameters():
        if "to_v_ip" in name:
            value.zero_()
    assert apart(net(*given(net, case)), gold[f"svd/{case}"]) < 1e-5


def test_at_full_size_names_and_shapes_are_the_published_ones(gold: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = SonicUNet(FULL)
    published = json.loads(gold["full"].tobytes())
    assert shapes_of(net) == {name: tuple(shape) for name, shape in published.items()}
    assert len(published) == 1492
    assert sum(tensor.numel() for tensor in net.state_dict().values()) == 1_575_741_162


@pytest.mark.parametrize(("height", "width"), MASKS)
def test_the_mask_is_made_smaller_as_published(height: int, width: int, gold: dict[str, Any]) -> None:
    pyramid = MaskPyramid.of(torch.from_numpy(soft_mask(height, width)))
    for level, mask in enumerate(pyramid.levels):
        assert mask.shape == (1, (height // 8 >> level) * (width // 8 >> level), 1)
        assert apart(mask[0, ::7, 0], gold[f"mask/{height}x{width}/{level}"]) < 1e-6


@pytest.mark.parametrize("shape", [(500, 512), (512, 520), (0, 64)])
def test_a_picture_of_another_size_is_told(shape: tuple[int, int]) -> None:
    with pytest.raises(ParameterError, match=f"{shape[1]}x{shape[0]} px") as told:
        MaskPyramid.of(torch.zeros(shape))
    assert "framing" in told.value.hint


@pytest.mark.parametrize("part", ["audio", "clip", "mask", "added", "c_noise"])
def test_everything_that_it_is_given_moves_the_picture(part: str, unet: SonicUNet) -> None:
    x, c_noise, added, _, mask = given(unet, "branches")
    more = inputs("branches")
    if part in ("audio", "clip"):
        setattr(more, part, torch.zeros_like(getattr(more, part)))
    changed = {
        "mask": MaskPyramid.of(torch.zeros(64, 64)), "added": added + 10, "c_noise": c_noise + 2,
    }  # fmt: skip
    before = unet(*given(unet, "branches"))
    after = unet(
        x, changed["c_noise"] if part == "c_noise" else c_noise, changed["added"] if part == "added" else added,
        unet.hear(more.clip, more.audio), changed["mask"] if part == "mask" else mask,
    )  # fmt: skip
    assert apart(before, after) > 0.05


def test_a_batch_draws_what_each_window_alone_does(unet: SonicUNet) -> None:
    whole = unet(*given(unet, "branches"))
    alone = [given(unet, "branches", slice(i, i + 1)) for i in range(3)]
    for drawn, one in zip(whole, alone, strict=True):
        assert apart(drawn, unet(*one)[0]) < 1e-5
    x, c_noise, added, _, mask = given(unet, "branches")
    assert apart(whole, unet(x, c_noise, added, joined([one[3] for one in alone]), mask)) < 1e-5


def test_where_weights_lie_in_memory_changes_nothing(unet: SonicUNet) -> None:
    assert apart(unet(*given(unet, "wide")), filled().lay_out()(*given(unet, "wide"))) < 1e-5


def test_many_places_are_asked_in_pieces(unet: SonicUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = unet(*given(unet, "branches"))
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 7)
    assert apart(before, unet(*given(unet, "branches"))) < 1e-5


def test_frames_lie_channels_last_from_end_to_end() -> None:
    """Else each convolution or attention would rearrange them first."""
    net, other = filled().lay_out(), []

    def look(part: Any, _: Any, out: Any) -> None:
        if not out.is_contiguous(memory_format=torch.channels_last):
            other.append(type(part).__name__)

    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.GroupNorm | Transformer | Resnet | TimeConvs):
            part.register_forward_hook(look)
    net(*given(net, "wide"))
    assert not other


@pytest.mark.parametrize("deep", [False, True])
def test_branches_that_differ_in_the_voice_alone_share_what_comes_before_it(unet: SonicUNet, deep: bool) -> None:
    x, c_noise, added, _, mask = given(unet, "branches")
    clip, voices = inputs("branches").clip[:2], inputs("branches").audio
    context = unet.hear(torch.cat((clip, clip[1:])), voices)  # nothing, still, voice: the last two have the same x
    kept = [Deep(), Deep()]
    alone = unet(torch.cat((x[:2], x[1:2])), c_noise, torch.cat((added[:2], added[1:2])), context, mask, keep=kept[0])
    shared = unet(x[:2], c_noise[:2], added[:2], context, mask, keep=kept[1], twins=1)
    if deep:
        shared = unet(x[:2], c_noise[:2], added[:2], context, mask, deep=kept[1], twins=1)
    assert shared.shape == alone.shape
    assert apart(shared, alone) < 1e-5
    assert apart(alone[1], alone[2]) > 0.1


def test_half_precision_stays_half_and_close(unet: SonicUNet) -> None:
    exact = unet(*given(unet, "branches"))
    net = filled().to(torch.bfloat16)
    x = inputs("branches")
    context = net.hear(x.clip.bfloat16(), x.audio.bfloat16())
    drawn = net(x.x.bfloat16(), x.c_noise, x.added, context, MaskPyramid.of(x.mask, torch.bfloat16))
    assert drawn.dtype == torch.bfloat16
    assert apart(drawn, exact) < 0.1


def test_deep_features_of_the_same_step_draw_the_same(unet: SonicUNet) -> None:
    deep = Deep()
    whole = unet(*given(unet, "branches"), keep=deep)
    assert torch.equal(whole, unet(*given(unet, "branches"), deep=deep))


def test_deep_features_of_a_close_step_draw_nearly_the_same(unet: SonicUNet) -> None:
    deep = Deep()
    x, c_noise, added, context, mask = given(unet, "branches")
    first = unet(x, c_noise, added, context, mask, keep=deep)
    later = x + 0.1 * torch.from_numpy(noise("later", *x.shape))
    whole = unet(later, c_noise - 0.05, added, context, mask)
    again = unet(later, c_noise - 0.05, added, context, mask, deep=deep)
    assert 0 < apart(again, whole) < apart(first, whole)


def test_parts_compile_without_a_break_and_alike_ones_once() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net = filled().lay_out()
    before = net(*given(net, "branches"))
    for transformer in net.transformers:
        transformer.compile(backend=backend, fullgraph=True, dynamic=False)
    assert torch.equal(net(*given(net, "branches")), before)
    assert len(graphs) == 4  # one for each level, not for each of the sixteen


def counted(work: Any) -> tuple[float, Any]:
    """TFLOP, two for each product and sum."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops() / 1e12, result


def test_at_full_size_the_lossless_trims_save_what_they_should() -> None:
    """The published code needs 33.34 TFLOP for one branch of a window at 512x512, so 100.02 for three."""
    with torch.device("meta"), torch.no_grad():
        net, deep = SonicUNet(FULL), Deep()
        x, added, c_noise = torch.empty(3, WINDOW, 8, 64, 64), torch.empty(3, 3), torch.empty(3)
        clip, audio = torch.empty(3, WINDOW, 1, FULL.context), torch.empty(3, WINDOW, TOKENS, FULL.context)
        mask = MaskPyramid.of(torch.empty(512, 512), device="meta")
        hearing, context = counted(lambda: net.hear(clip, audio))
        whole, _ = counted(lambda: net(x, c_noise, added, context, mask, keep=deep))
        again, _ = counted(lambda: net(x, c_noise, added, context, mask, deep=deep))
        x, c_noise, added = x[:2], c_noise[:2], added[:2]
        shared, _ = counted(lambda: net(x, c_noise, added, context, mask, twins=1))
        shared_again, _ = counted(lambda: net(x, c_noise, added, context, mask, deep=deep, twins=1))
    assert hearing < 0.15
    assert whole + hearing == pytest.approx(95.31, abs=0.01)  # nothing from outside is made for each place
    assert shared == pytest.approx(whole - 1.15, abs=0.01)  # two branches are one until the voice comes in
    assert again == pytest.approx(34.23, abs=0.01)  # not lossless: the speed-up `features`
    assert shared_again == pytest.approx(again - 1.15, abs=0.01)
