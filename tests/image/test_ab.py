"""Ways to train, compared: pair by pair, by more than chance, gone on with after a stop, the best one handed over."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vividcover.errors import Canceled, EngineError, ParameterError, StorageError
from vividcover.image.ab import Outcome, compare, held_out, lead
from vividcover.image.batch import Painted
from vividcover.image.prompts.layers import names
from vividcover.image.score.panel import Judged, Rgb
from vividcover.workspace import Reporter, Silent

PROMPTS = [f"VIVI in place {i}" for i in range(8)]


class Shop:
    """A training is a file with a level; its pictures are as bright, with noise from prompt and seed."""

    def __init__(self, folder: Path, noise: float = 4.0) -> None:
        self.folder, self.noise = folder, noise
        self.trained: list[dict[str, Any]] = []
        self.painted = 0
        folder.mkdir()

    def train(self, changes: Mapping[str, Any], out: Path, reporter: Reporter) -> dict[str, Any]:
        reporter.progress(0.5, "training")
        self.trained.append(dict(changes))
        if changes.get("fail"):
            raise Canceled if changes["fail"] == "stop" else EngineError("Out of memory.")
        out.write_text(json.dumps({"level": changes.get("level", 100)}))
        return {"loss": 0.1}

    def paint(self, model: Path, prompt: str, seeds: Sequence[int], reporter: Reporter) -> list[Painted]:
        level = json.loads(model.read_text())["level"]
        made = []
        for seed in seeds:
            random = np.random.default_rng(zlib.crc32(f"{prompt} {seed} {level}".encode()))
            value = np.clip(level + random.normal(0, self.noise), 0, 255)
            self.painted += 1
            file = self.folder / f"{self.painted}.png"
            Image.fromarray(np.full((16, 16, 3), round(value), np.uint8)).save(file)
            made.append(Painted(seed, file))
        return made


def brightness(pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[Judged]:
    return [Judged({"light": float(p.mean())}, float(p.mean()) / 255) for p in pictures]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def run(shop: Shop, variants: Mapping[str, Mapping[str, Any]], **more: Any) -> Outcome:
    given = {"prompts": PROMPTS, "folder": shop.folder / "ab", "trigger": "VIVI"} | more
    return compare(variants, shop.train, shop.paint, brightness, **given)


def test_the_one_that_is_better_by_more_than_chance_is_promoted(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "best.tar"
    done = run(shop, {"default": {}, "bright": {"level": 140}, "dark": {"level": 60}}, out=out)
    assert [v.name for v in done.ranking] == ["bright", "default", "dark"]
    assert done.promoted.name == "bright" and done.clear and "more than chance" in done.why
    assert json.loads(out.read_text()) == {"level": 140}
    assert len(done.promoted.totals) == 16 and done.promoted.values and done.promoted.values["light"] > 130


def test_what_cannot_be_told_apart_is_said_and_the_first_is_taken(shop: Shop) -> None:
    shop.noise = 30
    done = run(shop, {"default": {"level": 100}, "hair": {"level": 102}, "dark": {"level": 10}})
    assert done.promoted.name == "default" and not done.clear
    assert "default, hair cannot be told apart by 16 pictures" in done.why
    assert done.ranking[-1].name == "dark"


def test_chance_alone_seldom_promotes(shop: Shop) -> None:
    """Forty comparisons of two that are equally good, 16 pictures each: about two may seem clear."""
    clear = 0
    for number in range(40):
        prompts = [f"VIVI {number} {i}" for i in range(8)]
        ways = {"a": {"level": 100.0 + number}, "b": {"level": 100.001 + number}}
        clear += run(shop, ways, prompts=prompts, folder=shop.folder / f"ab{number}").clear
    assert clear <= 6


def test_leads_are_measured_pair_by_pair() -> None:
    ahead, error = lead([0.9, 0.5, 0.7], [0.8, 0.4, 0.6])
    assert ahead == pytest.approx(0.1) and error == pytest.approx(0, abs=1e-12)
    assert lead([1.0], [0.0]) == (1.0, float("inf"))


def test_report_and_table_say_what_was_tried(shop: Shop) -> None:
    done = run(shop, {"default": {}, "gone": {"fail": True}, "bright": {"level": 140, "rank": 32}})
    table = (shop.folder / "ab" / "report.md").read_text()
    assert table == done.text() and "**bright**" in table and "level=140, rank=32" in table
    assert "failed: Out of memory." in table and "| light |" in table
    report = json.loads((shop.folder / "ab" / "report.json").read_text())
    assert report["promoted"] == "bright" and report["variants"][-1]["error"] == "Out of memory."
    assert report["variants"][-1]["mean"] is None and report["prompts"] == PROMPTS


def test_one_that_fails_is_noted_and_all_that_fail_are_an_error(shop: Shop) -> None:
    told = Silent()
    done = run(shop, {"default": {}, "gone": {"fail": True}}, reporter=told)
    assert done.promoted.name == "default" and "the others failed" in done.why
    assert any("gone failed: Out of memory." in note for note in told.notes)
    with pytest.raises(EngineError, match="All 2 ways"):
        run(shop, {"a": {"fail": True}, "b": {"fail": True, "rank": 4}})


def test_what_was_finished_is_not_done_again(shop: Shop) -> None:
    variants: dict[str, dict[str, Any]] = {"default": {}, "bright": {"level": 140}}
    first = run(shop, variants)
    trained, painted = len(shop.trained), shop.painted
    again = run(shop, variants)
    assert (len(shop.trained), shop.painted) == (trained, painted)
    assert again.promoted.totals == first.promoted.totals
    run(shop, variants | {"new": {"level": 90}})
    assert shop.trained[trained:] == [{"level": 90}]
    run(shop, variants, prompts=[*PROMPTS, "VIVI elsewhere"])
    assert len(shop.trained) == trained + 1 and shop.painted == painted + 16 + 4
    run(shop, variants, about={"photos": "others"})
    assert len(shop.trained) == 2 * trained + 1


def test_a_stop_in_the_middle_keeps_what_was_trained(shop: Shop) -> None:
    variants: dict[str, dict[str, Any]] = {"default": {}, "late": {"fail": "stop"}}
    with pytest.raises(Canceled):
        run(shop, variants)
    run(shop, {"default": {}, "late": {"level": 3}})
    assert shop.trained == [{}, variants["late"], {"level": 3}]


def test_a_training_that_leaves_nothing_or_pictures_that_lack_count_as_failures(shop: Shop) -> None:
    def nothing(changes: Mapping[str, Any], out: Path, reporter: Reporter) -> None:
        if changes:
            shop.train(changes, out, reporter)

    done = compare(
        {"none": {}, "some": {"level": 9}}, nothing, shop.paint, brightness, prompts=PROMPTS, folder=shop.folder / "n"
    )
    assert done.promoted.name == "some" and "left no model" in done.ranking[-1].error
    with pytest.raises(EngineError, match="1 pictures came"):
        compare(
            {"a": {}, "b": {"level": 3}}, shop.train, lambda *a: shop.paint(*a)[:1], brightness, prompts=PROMPTS,
            folder=shop.folder / "m",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"variants": {"one": {}}}, "1 ways"), ({"variants": {"a": {"x": 1}, "b": {"x": 1}}}, "alike"),
        ({"variants": {"a/b": {}, "c": {"x": 1}}}, "cannot name"), ({"prompts": []}, "empty"),
        ({"prompts": ["VIVI", "VIVI"]}, "repeat"), ({"seeds": [1, 1]}, "repeat"), ({"prompts": ["a dog"]}, "VIVI"),
        ({"captions": ["vivi  in place 3"]}, "caption of the photos"),
    ],
)  # fmt: skip
def test_comparisons_that_mean_nothing_are_refused_before_any_training(
    shop: Shop, more: dict[str, Any], part: str
) -> None:
    variants = more.pop("variants", {"default": {}, "bright": {"level": 140}})
    with pytest.raises(ParameterError, match=part):
        run(shop, variants, **more)
    assert not shop.trained


def test_changes_are_checked_before_the_first_training(shop: Shop) -> None:
    from vividcover.image.flux.options import TrainOptions

    with pytest.raises(ParameterError, match="learning_rat"):
        run(
            shop, {"default": {}, "gentle": {"learning_rat": 1e-4}},
            check=lambda changes: TrainOptions().with_(**changes),
        )  # fmt: skip
    assert not shop.trained


def test_few_pictures_are_said_to_be_few(shop: Shop) -> None:
    told = Silent()
    done = run(shop, {"a": {}, "b": {"level": 140}}, prompts=PROMPTS[:1], seeds=[0], reporter=told)
    assert "few" in told.notes[0] and not done.clear and done.promoted.name == "a"


def test_two_in_one_folder_are_refused(shop: Shop) -> None:
    def inside(changes: Mapping[str, Any], out: Path, reporter: Reporter) -> dict[str, Any]:
        with pytest.raises(StorageError, match="Another comparison"):
            run(shop, {"x": {}, "y": {"level": 1}})
        return shop.train(changes, out, reporter)

    compare({"a": {}, "b": {"level": 9}}, inside, shop.paint, brightness, prompts=PROMPTS, folder=shop.folder / "ab")


def test_held_out_prompts_are_varied_and_stay_the_same() -> None:
    found = held_out("VIVI", who="a man in his 50s")
    assert len(set(found)) == 8 and all(names(p, "VIVI") and "a man in his 50s" in p for p in found)
    assert found == held_out("VIVI", who="a man in his 50s") != held_out("VIVI", seed=1)
    assert all("in the style of VIVI" in p for p in held_out("VIVI", "style", 12))
    with pytest.raises(ParameterError, match="13 prompts"):
        held_out("VIVI", "style", 13)
