"""Captions: own ones win, and whatever a model says, trigger word, prefix and suffix are there and the rest is fit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vividcover.errors import NotFoundError, ParameterError
from vividcover.image.captions import caption, read_captions, refresh, replace, write_caption
from vividcover.image.captions.text import Wording, compose, instruction, keep
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.workspace import Silent


class Says:
    """A captioner that says the same of every photo."""

    name = "says"

    def __init__(self, words: str) -> None:
        self.words, self.seen = words, 0

    def describe(self, rgb: Any, wording: Wording) -> str:
        self.seen += 1
        return self.words


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three photos, the first with a caption of its own."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((300, 320)).save(source / f"{i}.png")
    (source / "0.txt").write_text("on stage in red")
    return prepare(source, tmp_path / "photos", DatasetOptions("VIVI"))


def test_own_captions_win_and_get_the_trigger_word(dataset: Dataset) -> None:
    says, silent = Says("A woman in a garden."), Silent()
    done = caption(dataset, says, reporter=silent)
    assert says.seen == 2
    assert [p.caption for p in done.photos] == ["VIVI, on stage in red", *["VIVI, a woman in a garden."] * 2]
    assert any("1 own captions" in note for note in silent.notes)
    assert {p.name: p.read_text().strip() for p in dataset.folder.glob("*.txt")} == done.captions
    assert done.report["captioner"] == {
        "name": "says", "own": 1, "made": 2, "refused": [], "mode": "subject", "prefix": "", "suffix": "",
    }  # fmt: skip
    assert done.report["hash"] != dataset.report["hash"]


def test_the_template_needs_no_model(dataset: Dataset) -> None:
    assert caption(dataset, "template").photos[1].caption == "a photo of VIVI"
    assert caption(dataset, "template", mode="style").photos[1].caption == "in the style of VIVI"
    assert caption(dataset, "template", mode="general", trigger="ZIKI").photos[1].caption == "ZIKI"


@pytest.mark.parametrize("said", ["A photo of VIVI, on stage, high quality", "on stage", "", "High quality"])
def test_prefix_and_suffix_stand_once_at_the_ends(said: str) -> None:
    made = compose(said, Wording("VIVI", prefix="A photo of VIVI,", suffix="high quality"))
    assert made.startswith("A photo of VIVI,")
    assert made.endswith("high quality")
    assert made.casefold().count("high quality") == 1
    assert made.count("VIVI") == 1


@pytest.mark.parametrize(
    ("said", "gone", "stays"),
    [
        (
            "The image shows a young woman with long blonde hair and blue eyes singing on a dark stage."
            " Her hair is brown.",
            ("young", "blonde", "blue", "hair", "image"),
            "VIVI, a woman singing on a dark stage.",
        ),
        (
            "A 35-year-old man with short brown hair, wearing a navy blazer, in window light",
            ("35", "hair", "brown"),
            "VIVI, a man, wearing a navy blazer, in window light",
        ),
        (
            "She has brown eyes and is smiling in a black jacket.",
            ("brown", "eyes"),
            "VIVI, she is smiling in a black jacket.",
        ),
    ],
)
def test_a_person_s_captions_leave_out_what_makes_the_person(said: str, gone: tuple[str, ...], stays: str) -> None:
    made = compose(said, Wording("VIVI", "subject"))
    assert made == stays
    assert not any(word in made for word in gone)


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ("A digital painting of a castle on a hill, in the style of Van Gogh.", "A castle on a hill"),
        ("The image is a black and white illustration of two foxes. The style is whimsical.", "Two foxes"),
        ("A lighthouse by the sea, painted in a loose impressionist style", "A lighthouse by the sea"),
        (
            "The image is an abstract painting of a city. It is painted with bold lines. The colors used are blue.",
            "A city",
        ),
        ("A vibrant, colorful digital illustration of a fox, with bold brush strokes", "A fox"),
        ("This vintage-style poster depicts a train crossing a bridge", "A train crossing a bridge"),
    ],
)
def test_a_style_s_captions_leave_out_the_style(said: str, made: str) -> None:
    assert compose(said, Wording("ZIKI", "style")) == f"{made}, in the style of ZIKI"


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ("A woman with brown hair and a red scarf walks on a beach", "a woman with a red scarf walks on a beach"),
        ("A man with a beard and glasses wearing a suit", "a man with glasses wearing a suit"),
        ("A woman with her long hair blowing in the wind stands on a pier", "a woman stands on a pier"),
        ("They have brown hair and are sitting at a table", "they are sitting at a table"),
        ("A white woman in a black dress beside a white car", "a woman in a black dress beside a white car"),
        ("She has a white towel around her hair", "she has a white towel around her hair"),
    ],
)
def test_what_is_said_beside_the_person_s_looks_stays(said: str, made: str) -> None:
    assert compose(said, Wording("VIVI")) == f"VIVI, {made}"


def test_no_description_takes_long_to_clean() -> None:
    began = time.process_time()
    for words in ("long, black and ", "with hair and ", "she has long hair, ", "digital ", "in a vivid ", "young "):
        for kind in ("subject", "style"):
            compose(words * 300, Wording("VIVI", kind))
    assert time.process_time() - began < 5


def test_a_product_s_and_a_general_caption_say_what_was_said() -> None:
    said = "A red bottle with white lettering in a digital painting of a kitchen"
    assert compose(said, Wording("ZIKI", "product")) == f"ZIKI, a{said[1:]}"
    assert compose(said, Wording("ZIKI", "general")) == f"ZIKI, a{said[1:]}"


def test_models_are_told_what_to_leave_out() -> None:
    asked = {kind: instruction(Wording("ZIKI", kind)) for kind in ("subject", "style", "product", "general")}
    assert "hair" in asked["subject"] and "ZIKI" in asked["subject"]
    assert "medium" in asked["style"] and "ZIKI" not in asked["style"]
    assert "brand" in asked["product"]
    assert len(set(asked.values())) == 4


def test_the_trigger_word_is_put_where_a_caption_left_a_place() -> None:
    assert keep("[trigger] sings", Wording("VIVI")) == "VIVI sings"
    assert keep("vivi sings", Wording("VIVI")) == "VIVI sings"
    assert keep("vivid light", Wording("VIVI")) == "VIVI, vivid light"


def test_a_description_without_end_is_cut_at_a_sentence() -> None:
    made = compose("She sings on a stage. " * 400, Wording("VIVI"))
    assert len(made) < 1600
    assert made.endswith("stage.")


def test_captions_are_read_written_and_replaced_in_their_folder(dataset: Dataset) -> None:
    caption(dataset, "template")
    assert read_captions(dataset.folder)["1.png"] == "a photo of VIVI"
    assert write_caption(dataset.folder, "1.png", "VIVI\n in a  garden") == "VIVI in a garden"
    changed = replace(dataset.folder, "a photo of", "a portrait of")
    assert changed == {"2.png": "a portrait of VIVI"}
    assert replace(dataset.folder, r"(\w+) in a garden", r"in a garden, \1", regex=True)["1.png"] == "in a garden, VIVI"
    assert replace(dataset.folder, "VIV", "X", whole_words=True) == {}
    now = refresh(dataset)
    assert [p.caption for p in now.photos] == ["VIVI, on stage in red", "in a garden, VIVI", "a portrait of VIVI"]
    assert write_caption(dataset.folder, "2.png", "") == ""
    assert not (dataset.folder / "2.txt").exists()


def test_what_cannot_be_edited_is_said(dataset: Dataset) -> None:
    with pytest.raises(NotFoundError):
        write_caption(dataset.folder, "../0.png", "words")
    with pytest.raises(ParameterError):
        write_caption(dataset.folder, "1.png", "x" * 5000)
    with pytest.raises(ParameterError, match="regular expression"):
        replace(dataset.folder, "(", "x", regex=True)
    with pytest.raises(ParameterError):
        replace(dataset.folder, "", "x")
    with pytest.raises(ParameterError, match="captioner"):
        caption(dataset, "blip")


def test_a_photo_is_not_described_a_second_time(tmp_path: Path, dataset: Dataset) -> None:
    """Else a training that goes on would learn from other words than before, for services never answer the same."""
    first, second = Says("A woman in a garden."), Says("A lady outdoors.")
    before = caption(dataset, first)
    again = prepare(tmp_path / "in", dataset.folder, dataset.options)
    assert [p.caption for p in again.photos][1:] == ["", ""]
    after = caption(again, second)
    assert after.report["hash"] == before.report["hash"]
    assert second.seen == 0
    assert caption(prepare(tmp_path / "in", dataset.folder, dataset.options), second, mode="style").photos[1].caption
    assert second.seen == 2  # another mode asks for something else
