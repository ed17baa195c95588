"""Several LoRAs as one, one with fewer ranks, and the LoRA in a network that was trained as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from small_flux import TINY, added, inputs, off_by, random_flux, random_lora, said
from vividcover.errors import ModelFileError, ParameterError
from vividcover.image.flux.checkpoint import published
from vividcover.image.flux.config import block_targets
from vividcover.image.flux.lora import Wearing, wear
from vividcover.image.flux.lorafile import Lora, Pair, read_lora, write_lora
from vividcover.image.flux.merge import _largest, extract, merge, reduce

NAMES = block_targets(TINY)
NORM, BIAS = "transformer_blocks.0.attn.norm_k.weight", "transformer_blocks.1.attn.to_out.0.bias"


def test_one_lora_is_exactly_the_others_with_their_weights(tmp_path: Path) -> None:
    flux = random_flux().requires_grad_(False)
    loras = [random_lora(), random_lora(names=NAMES[::2], seed=2, rank=2, alpha=7.0), random_lora(seed=3, rank=8)]
    weights = [1.0, -0.6, 0.25]
    with wear(flux, TINY, [Wearing(lora, weight) for lora, weight in zip(loras, weights, strict=True)]):
        wanted = said(flux, inputs())
    one = merge(list(zip(loras, weights, strict=True)))
    assert {pair.rank for pair in one.pairs.values()} == {14, 12}
    assert {pair.scale for pair in one.pairs.values()} == {1.0}
    for name, pair in one.pairs.items():
        sums = sum(lora.pairs[name].delta() * w for lora, w in zip(loras, weights, strict=True) if name in lora.pairs)
        assert isinstance(sums, torch.Tensor)
        assert off_by(pair.delta(), sums) < 1e-5
    file = write_lora(tmp_path / "one.safetensors", one, dtype="fp32", config=TINY)
    with wear(flux, TINY, [Wearing(read_lora(file, TINY))]):
        assert off_by(said(flux, inputs()), wanted) < 1e-5


def test_what_lies_beside_the_matrices_is_merged_where_that_is_exact() -> None:
    lora = replace(random_lora(), extras={NORM: torch.ones(32), BIAS: torch.ones(64)}, base="dev", notes=["of old"])
    one = merge([(lora, 1.0), (replace(random_lora(), extras={BIAS: torch.ones(64)}, base="schnell"), 0.5)])
    assert torch.equal(one.extras[NORM], torch.ones(32))
    assert torch.equal(one.extras[BIAS], torch.full((64,), 1.5))
    assert one.notes[0] == "of old"
    assert "dev, schnell" in one.notes[1]
    for wrong in ([(lora, 0.5)], [(lora, 1.0), (lora, 1.0)]):
        with pytest.raises(ModelFileError, match="norm_k"):
            merge(wrong)


def test_what_makes_no_lora_is_refused() -> None:
    wide = random_lora(names=["x_embedder"])
    pair = wide.pairs["x_embedder"]
    control = Lora({"x_embedder": Pair(torch.ones(4, 128), pair.b, 4.0)})
    with pytest.raises(ModelFileError, match="64 x 64 and 64 x 128"):
        merge([(wide, 1.0), (control, 1.0)])
    with pytest.raises(ParameterError, match="no LoRA"):
        merge([])
    with pytest.raises(ParameterError, match="weight is inf"):
        merge([(wide, float("inf"))])
    with pytest.raises(ParameterError, match="rank is 0"):
        reduce(wide, 0)


def test_fewer_ranks_are_the_nearest_there_are() -> None:
    lora = random_lora(rank=12)
    small, error = reduce(lora, 5)
    lost = whole = 0.0
    for name, pair in lora.pairs.items():
        found = small.pairs[name]
        assert (found.rank, found.scale) == (5, 1.0)
        values = torch.linalg.svdvals(pair.delta().double())
        off = float((found.delta().double() - pair.delta().double()).square().sum())
        assert off == pytest.approx(float(values[5:].square().sum()), rel=1e-4)
        lost, whole = lost + off, whole + float(values.square().sum())
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)


def test_ranks_that_hold_nothing_go_without_loss() -> None:
    lora = random_lora()
    twice = merge([(lora, 0.5), (lora, 0.5)])
    again, error = reduce(twice, 4)
    assert error < 1e-6
    assert all(off_by(again.pairs[name].delta(), pair.delta()) < 1e-5 for name, pair in lora.pairs.items())
    assert (twice.rank, again.rank) == (8, 4)
    same, error = reduce(lora, 32)
    assert error == 0.0
    assert same.rank == lora.rank == 4  # so a caller can tell that nothing was reduced
    assert all(pair is lora.pairs[name] for name, pair in same.pairs.items())
    zero = Lora({name: Pair(pair.a, pair.b * 0, 1.0) for name, pair in lora.pairs.items()})
    nothing, error = reduce(zero, 2)
    assert error == 0.0
    assert not any(pair.delta().any() for pair in nothing.pairs.values())


def test_a_change_of_low_rank_is_found_again() -> None:
    """By our names of the weights and by diffusers'."""
    base, lora = random_flux(), random_lora(names=NAMES[::2], rank=4)
    tuned = added(base, (lora, 1.0))
    for before, after in ((base.state_dict(), tuned.state_dict()), (published(base), published(tuned))):
        found, report = extract(before, after, 4, TINY)
        assert set(found.pairs) == set(NAMES[::2]) == set(report["layers"])
        assert report["error"] < 1e-4
        assert all(off_by(found.pairs[name].delta(), pair.delta()) < 1e-4 for name, pair in lora.pairs.items())
    with wear(base, TINY, [Wearing(found)]):
        assert off_by(said(base, inputs()), said(tuned, inputs())) < 1e-4


def test_a_full_change_loses_what_the_report_says_and_less_with_more_ranks() -> None:
    base, tuned = random_flux(), random_flux()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in tuned.parameters():  # steep, as what a training changes is
            noise = torch.randn(value.shape, generator=random) * value.std()
            if value.dim() == 2:
                u, s, vh = torch.linalg.svd(noise, full_matrices=False)
                noise = u @ torch.diag(s[0] * torch.arange(1, len(s) + 1) ** -1.0) @ vh
            value.add_(0.01 * noise)
    errors = []
    for rank in (4, 16, 32):
        lora, report = extract(base.state_dict(), tuned.state_dict(), rank, TINY)
        off = [(lora.pairs[name].delta() - whole).norm() for name, whole in _changes(base, tuned).items()]
        size = [whole.norm() for whole in _changes(base, tuned).values()]
        measured = torch.stack(off).norm() / torch.stack(size).norm()
        assert report["error"] == pytest.approx(float(measured), rel=1e-2)
        assert report["extras"] == len(lora.extras) > 0
        errors.append(report["error"])
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.12
    with wear(base, TINY, [Wearing(extract(base.state_dict(), tuned.state_dict(), 64, TINY)[0])]):
        assert off_by(said(base, inputs()), said(tuned, inputs())) < 1e-4  # biases and norms too


def _changes(base: torch.nn.Module, tuned: torch.nn.Module) -> dict[str, torch.Tensor]:
    before, after = published(base), published(tuned)  # type: ignore[arg-type]
    names = [name for name, value in before.items() if value.dim() == 2]
    return {name.removesuffix(".weight"): after[name] - before[name] for name in names}


def test_large_matrices_are_taken_apart_nearly_as_well_as_can_be_and_always_alike() -> None:
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(600, 300, generator=random) @ torch.diag(torch.arange(1, 301) ** -0.7)
    u, s, vh = _largest(matrix, 16)
    best = torch.linalg.svdvals(matrix)
    off = float((matrix - (u * s) @ vh).norm())
    assert off < 1.002 * float(best[16:].norm())
    state = torch.get_rng_state()
    again = _largest(matrix, 16)
    assert all(torch.equal(one, other) for one, other in zip((u, s, vh), again, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_two_states_that_make_no_lora_are_refused() -> None:
    base = random_flux()
    with pytest.raises(ModelFileError, match="the same"):
        extract(base.state_dict(), base.state_dict(), 4, TINY)
    broken = {name: value * float("nan") for name, value in base.state_dict().items()}
    with pytest.raises(ModelFileError, match="not finite"):
        extract(base.state_dict(), broken, 4, TINY)
    part = {name: value for name, value in base.state_dict().items() if "linear2" not in name}
    with pytest.raises(ModelFileError, match=r"proj_out\.weight is missing"):
        extract(base.state_dict(), part, 4, TINY)
    with pytest.raises(ParameterError, match="rank"):
        extract(base.state_dict(), base.state_dict(), 0, TINY)
