"""What stands around training and drawing: LoRA files, merges, batches, several ways to train; on tiny networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_making import tiny_flux_folder, tiny_photos
from neural_making import use
from vividcover import image_calls, provenance, sdk
from vividcover.calls import Session
from vividcover.errors import NotFoundError, ParameterError
from vividcover.settings import settings

CONSENT = "Balls cannot object."
LEARNING = {"steps": 3, "resolution": "64", "lora_rank": 2, "learning_rate": 0.05, "text_length": 64}
DRAWING = {
    "aspect_ratio": "custom", "width": 256, "height": 256, "num_inference_steps": 2, "output_format": "png",
    "disable_safety_checker": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_THREADS", "1")
    use(monkeypatch, flux_dev=tiny_flux_folder())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two images on the shelf."""
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIVIDCOVER_THREADS", "1")
        use(patch, flux_dev=tiny_flux_folder())
        for name, seed in (("ball", 1), ("oils", 2)):
            sdk.train_image(
                tiny_photos(folder / "photos", 2), name=name, consent=CONSENT, trigger_word=f"{name.upper()}7",
                engine="neural", home=folder / "home", seed=seed, **LEARNING,
            )  # fmt: skip
    settings.cache_clear()
    return folder / "home"


@pytest.fixture
def session(home: Path) -> Any:
    with Session(settings().model_copy(update={"home": home})) as opened:
        yield opened


def drawn(home: Path, image: str | Path, **more: Any) -> Any:
    made = sdk.generate_image(image, "a ball", home=home, output=home, seed=3, **DRAWING | more)
    with Image.open(made.path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_lora_says_what_it_is(session: Session) -> None:
    told = image_calls.lora_about_in(session, "ball")
    assert told["ranks"] == [2] and told["trigger_word"] == "BALL7" and told["base"] == "dev"
    assert told["consent"] == CONSENT and told["commercial"] is False
    with pytest.raises(NotFoundError, match="no image named 'bal'"):
        image_calls.lora_about_in(session, "bal")


def test_two_loras_in_one_file_draw_what_they_draw_together(session: Session, home: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.safetensors"
    told = image_calls.merge_loras_in(session, ["ball@1.0", "oils@0.5"], both, dtype="fp32")
    assert told["layers"] > 20
    together = drawn(home, "ball", extra_lora="oils", extra_lora_scale=0.5)
    assert abs(drawn(home, both) - together).max() <= 1
    assert abs(drawn(home, "ball") - together).max() > 1, "and the second one counts"
    small = tmp_path / "small.safetensors"
    assert 0 < image_calls.merge_loras_in(session, ["ball,oils"], small, rank=2)["relative_error"] < 1
    with pytest.raises(ParameterError, match="alone is not merged"):
        image_calls.merge_loras_in(session, ["ball"], both)


def test_another_spelling_is_the_same_lora(session: Session, home: Path, tmp_path: Path) -> None:
    for format in ("kohya", "bfl", "diffusers"):
        file = tmp_path / f"{format}.safetensors"
        image_calls.convert_lora_in(session, "ball", file, format)
        assert abs(drawn(home, file) - drawn(home, "ball")).max() <= 1, format
    with pytest.raises(ParameterError, match=r"Name it ball\.safetensors"):
        image_calls.convert_lora_in(session, "ball", tmp_path / "ball.tar")


def test_a_batch_draws_every_line_with_its_record_and_goes_on_where_it_was(
    session: Session, home: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "prompts.csv"
    rows.write_text("prompt,seed,count\n{TOK} on a table,5,2\n{TOK} in the grass,,1\n")
    out = tmp_path / "out"
    done = image_calls.batch_in(session, "ball", rows, out, top=1, scores="sharpness", options=DRAWING)
    assert len(done.shots) == 3 and len(done.top) == 1 and not done.failed
    assert {shot.seed for shot in done.shots if shot.row == 2} == {5, 6}
    for shot in done.shots:
        story = json.loads(provenance.record_path(shot.file).read_text())
        assert story["seed"] == shot.seed and "BALL7" in story["parameters"]["prompt"]
        assert not story["licences"]["commercial_use"]
    before = {shot.file: shot.file.stat().st_mtime_ns for shot in done.shots}
    again = image_calls.batch_in(session, "ball", rows, out, top=1, scores="sharpness", options=DRAWING)
    assert {shot.file: shot.file.stat().st_mtime_ns for shot in again.shots} == before
    with (out / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    (tmp_path / "bad.csv").write_text("prompt,colour\nx,red\n")
    with pytest.raises(ParameterError, match="colour"):
        image_calls.batch_in(session, "ball", tmp_path / "bad.csv", out, scores="none")


def test_several_ways_to_train_are_compared_and_the_best_is_on_the_shelf(
    session: Session, home: Path, tmp_path: Path
) -> None:
    photos = tiny_photos(tmp_path / "photos", 2, side=256)
    variants = {"plain": {}, "style": {"timesteps": "style"}}
    outcome = image_calls.compare_in(
        session, photos, variants, "best", CONSENT, tmp_path / "compared", options=LEARNING | {"trigger_word": "BALL8"},
        scores="sharpness", prompts=["BALL8 in snow", "BALL8 in sand", "BALL8 on a road"],
        drawing={**DRAWING, "text_length": 64},
    )  # fmt: skip
    assert [v.error for v in outcome.ranking] == ["", ""] and outcome.promoted.name in variants
    assert image_calls.lora_about_in(session, "best")["trigger_word"] == "BALL8"
    with pytest.raises(ParameterError, match=r"wild: .*learning_rat"):
        image_calls.compare_in(session, photos, {"wild": {"learning_rat": 1}}, "x", CONSENT, tmp_path / "y")
