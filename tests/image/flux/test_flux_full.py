"""All weights learn, also in bfloat16; what comes out is a LoRA whose distance from them is told and has a bound."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_making import tiny_flux_folder, tiny_photos
from vividcover.errors import Canceled, EngineError, ParameterError, StorageError
from vividcover.image.flux import full
from vividcover.image.flux.config import DEV, FluxConfig, targets
from vividcover.image.flux.data import Item, Store, TrainingSet
from vividcover.image.flux.full import FULL, RoundedAdamW, rounded, train_full
from vividcover.image.flux.loop import Course, Learnt, learn
from vividcover.image.flux.lora import Wearing, wear
from vividcover.image.flux.network import Flux
from vividcover.image.flux.objective import Objective, points_of
from vividcover.image.flux.opening import BaseFiles
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.package import read_package
from vividcover.workspace import Silent

torch.set_num_threads(1)
CPU = torch.device("cpu")
NANO = FluxConfig(
    double_blocks=1, single_blocks=2, heads=4, head_dim=16, text_width=8, pooled_width=8, axes=(4, 6, 6)
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "steps": 40, "batch_size": 2, "rank": 16, "resolution": "64", "optimizer": "adamw", "text_length": 4, "ema": 0.0,
    "learning_rate": 1e-3, "caption_dropout": 0.0,
}  # fmt: skip


def nano(dtype: torch.dtype = torch.float32) -> Flux:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Flux(NANO).eval().requires_grad_(False).to(dtype)


def lessons() -> TrainingSet:
    store, items = Store(), []
    for number in range(4):
        random = torch.Generator().manual_seed(number % 2)
        store.put(f"item_{number:05d}", {"latent": torch.randn(16, 1, 1, generator=random).expand(16, 8, 8).clone()})
        items.append(Item(f"photo{number}", 1, 64, 64, 64))
    for number in range(2):
        store.put(f"text_{number:05d}", {"tokens": torch.full((4, 8), float(number)), "pooled": torch.ones(8)})
    return TrainingSet(items, ["", "a photo of TOK"], store)


def course(network: Flux, folder: Path, **changes: Any) -> Course:
    options = TrainOptions(**{**OPTIONS, **changes})
    trainee = FULL.begin(network, NANO, options, "dev")
    found, dtype = lessons(), network.img_in.weight.dtype
    everything = range(len(found.items))
    plan = FULL.fit(0, NANO, options)
    return Course("vivi", trainee, found, everything, everything, folder, options, plan, CPU, dtype, key="abc")


def trained(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Flux, Learnt]:
    network = nano(dtype)
    return network, learn(course(network, folder, **changes), Silent())


def loss(network: Flux) -> float:
    found, errors = lessons(), []
    objective = Objective(network, 1.0, CPU, network.img_in.weight.dtype)
    with torch.no_grad():
        for point in points_of(found, range(4), 9):
            batch = found.given([point.item], torch.tensor([point.sigma]), [point.noise], [1])
            errors.append(float(objective.losses(batch)))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_matrices_of_the_blocks_learn_and_nothing_else(tmp_path: Path, dtype: torch.dtype) -> None:
    before = nano(dtype).state_dict()
    network, learnt = trained(tmp_path, dtype)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    matrices = {f"{t.module}.weight" for name, t in targets(NANO).items() if "transformer_blocks." in name}
    assert moved == matrices
    assert learnt.validation["after"] < 0.8 * learnt.validation["before"]


def test_the_lora_of_full_rank_is_the_whole_fine_tune_and_that_of_a_quarter_nearly_as_good(tmp_path: Path) -> None:
    """The stated bounds: nothing is lost at rank 64; at 16, a quarter of the change and a fiftieth of the gain."""
    start = loss(nano())
    network, _ = trained(tmp_path / "whole", rank=64)
    after = loss(network)
    assert after < 0.8 * start
    for rank, error, kept in ((64, 1e-5, 0.9999), (16, 0.25, 0.98)):
        lora, told = FULL.end(trained(tmp_path / str(rank), rank=rank)[1].file, NANO, TrainOptions(rank=rank))
        worn = nano()
        wear(worn, NANO, [Wearing(lora, 1.0)])
        assert told["extraction_error"] < error and told["extraction_rank"] == rank
        assert start - loss(worn) > kept * (start - after)
        assert not lora.extras and told["layers"] == len(lora.pairs)


def test_a_pattern_keeps_all_other_rows_of_a_shared_matrix(tmp_path: Path) -> None:
    before = nano().state_dict()
    network, learnt = trained(tmp_path, pattern=r"single.*\.attn\.to_k$", steps=4)
    linear, old = network.single_blocks[1].linear1.weight, before["single_blocks.1.linear1.weight"]
    changed = (linear != old).any(1)
    h = NANO.hidden
    assert changed[h : 2 * h].all() and not changed[:h].any() and not changed[2 * h :].any()
    lora, _ = FULL.end(learnt.file, NANO, TrainOptions())
    assert set(lora.pairs) == {f"single_transformer_blocks.{i}.attn.to_k" for i in range(2)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_larger_steps_of_several_processes_have_their_higher_rate(dtype: torch.dtype) -> None:
    options = TrainOptions(optimizer="adamw", learning_rate=1e-5, processes=4)
    optimizer, _ = FULL.begin(nano(dtype), NANO, options, "dev").optimizer(options)
    assert [group["base"] for group in optimizer.param_groups] == [pytest.approx(2e-5)]


class Stops(Silent):
    """Cancels when it has been asked so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def check(self) -> None:
        self.times -= 1
        if self.times < 0:
            raise Canceled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_that_was_stopped_ends_in_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    whole, _ = trained(tmp_path / "whole", dtype, steps=8)
    with pytest.raises(Canceled):
        learn(course(nano(dtype), tmp_path / "cut", steps=8), Stops(25))
    assert len(list((tmp_path / "cut" / "states").iterdir())) == 1
    again = nano(dtype)
    learn(course(again, tmp_path / "cut", steps=8), Silent())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_rounding_at_random_is_right_in_the_mean_where_rounding_to_the_nearest_stands_still() -> None:
    values = torch.full((100_000,), 1.0 + 2.0**-10)  # an eighth of the way from 1 to the next number, 1 + 2⁻⁷
    drawn = rounded(values, torch.Generator().manual_seed(1))
    assert set(drawn.float().unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    assert float(drawn.double().mean()) == pytest.approx(1.0 + 2.0**-10, abs=5e-5)
    assert float(values.bfloat16().double().mean()) == 1.0
    exact = torch.tensor([0.0, -1.5, 2.0**-20])
    assert torch.equal(rounded(exact, torch.Generator()).float(), exact)
    assert float(rounded(-values, torch.Generator().manual_seed(1)).double().mean()) == pytest.approx(
        -1.0 - 2.0**-10, abs=5e-5
    )


def test_weights_in_bfloat16_follow_those_in_float32_at_rates_below_their_grain() -> None:
    start = torch.randn(4000, generator=torch.Generator().manual_seed(2)) * 0.5
    goal, ends = start + 0.02, []
    for dtype in (torch.float32, torch.bfloat16):
        weight = start.to(dtype, copy=True).requires_grad_(True)
        optimizer: Any = torch.optim.AdamW([weight], 1e-4, weight_decay=0.0)
        if dtype == torch.bfloat16:
            optimizer = RoundedAdamW([weight], 1e-4)
        for _ in range(150):
            (weight.float() - goal).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(float((weight.detach().float() - start).mean()))
    assert ends[1] == pytest.approx(ends[0], rel=0.05) and ends[0] > 0.01


def test_photos_become_an_image_model_of_which_the_card_says_how_it_was_made(tmp_path: Path) -> None:
    where = tiny_flux_folder()
    photos = tiny_photos(tmp_path / "photos", 3, side=64, captions=True)
    options = TrainOptions(
        steps=4, rank=16, resolution="64", text_length=16, optimizer="adamw", learning_rate=1e-3, save_every=100
    )
    reporter = Noted()
    card = train_full(
        photos, tmp_path / "vivi.tar", options, base=BaseFiles(where, where, where), work=tmp_path / "work",
        consent="It is a ball.", name="vivi", device="cpu", reporter=reporter,
    )  # fmt: skip
    assert card["finetune_type"] == "full" and card["commercial"] is False
    assert 0 < card["extraction_error"] < 0.6 and card["extraction_rank"] == 16 == card["rank"]
    assert any("is high where all weights learn" in note for note in reporter.notes)
    with tarfile.open(tmp_path / "vivi.tar") as tar:
        assert [name.endswith(".safetensors") for name in tar.getnames()].count(True) == 1
        told = json.loads(tar.extractfile("model.json").read())  # type: ignore[union-attr]
    assert told["extraction_error"] == card["extraction_error"]
    lora, _ = read_package(tmp_path / "vivi.tar", FluxConfig_of(where))
    assert lora.rank == 16


class Noted(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def FluxConfig_of(folder: Path) -> FluxConfig:
    from vividcover.image.flux.checkpoint import read_config

    return read_config(folder)


def test_a_device_that_is_too_small_is_refused_before_anything_is_read() -> None:
    options = TrainOptions(optimizer="adamw")
    assert FULL.fit(139e9, DEV, options).recompute > 0
    with pytest.raises(EngineError, match=r"needs about \d+ GB, and the device has 80"):
        FULL.fit(80e9, DEV, options)


def test_what_cannot_be_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tiny_flux_folder()
    around: dict[str, Any] = {
        "base": BaseFiles(where, where, where), "work": tmp_path, "consent": "It is a ball.", "name": "vivi",
    }  # fmt: skip
    with pytest.raises(ParameterError, match="cannot learn in nf4"):
        train_full(tmp_path, tmp_path / "out.tar", TrainOptions(quantise="nf4"), **around)
    trainee = FULL.begin(nano(torch.bfloat16), NANO, TrainOptions(), "dev")
    with pytest.raises(ParameterError, match="with lion in bfloat16"):
        trainee.optimizer(TrainOptions(optimizer="lion"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 50 * 10**9))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"states of \d+ GB in .* 50 GB are free"):
        full.room(tmp_path / "not" / "there", DEV)
