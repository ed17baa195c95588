"""The image models under the names that published code calls: inputs as published, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vividcover.catalog.contract import Context, Made, is_secret, validated
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer
from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer, FluxDevLoraTraining
from vividcover.catalog.flux_pro_finetuned import FluxProFinetuned, FluxProFinetunedInput
from vividcover.catalog.flux_pro_trainer import TRAINED, FluxProTrainer
from vividcover.catalog.pictures import filled, fitting
from vividcover.catalog.pins import PINS
from vividcover.cover import get, models
from vividcover.errors import ConsentError, ImageError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Workspace

CONSENT = "Vivi does not exist."
# name → (default, low, high), as the models' pages and sources have them
OSTRIS = {
    "steps": (1000, 3, 6000), "lora_rank": (16, 1, 128), "caption_dropout_rate": (0.05, 0, 1),
    "trigger_word": ("TOK", None, None), "learning_rate": (4e-4, None, None), "batch_size": (1, None, None),
    "resolution": ("512,768,1024", None, None), "autocaption": (True, None, None),
    "optimizer": ("adamw8bit", None, None),
    "wandb_project": ("flux_train_replicate", None, None), "wandb_sample_interval": (100, 1, None),
}  # fmt: skip
FINETUNED = {
    "finetune_strength": (1, 0, 2), "aspect_ratio": ("1:1", None, None), "width": (None, 256, 1440),
    "height": (None, 256, 1440), "prompt_upsampling": (False, None, None), "steps": (40, 1, 50), "guidance": (3, 2, 5),
    "safety_tolerance": (2, 0, 6), "output_format": ("jpg", None, None),
}  # fmt: skip


@pytest.fixture
def context(home: Path) -> Context:
    settings = Settings(home=home)
    return Context(Workspace(home / "cache"), settings, "classic", CONSENT)


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch, home: Path) -> list[tuple[Any, str]]:
    """The wishes that reach the classic trainer, which gives back the model that is trained already."""
    wishes: list[tuple[Any, str]] = []

    def from_photos(self: FastFluxTrainer, photos: Path, input: Any, name: str, context: Context) -> Made:
        wishes.append((input, name))
        return Made(home / "images" / "vivi.tar")

    monkeypatch.setattr(FastFluxTrainer, "from_photos", from_photos)
    return wishes


@pytest.mark.parametrize(("schema", "published"), [(FluxDevLoraTraining, OSTRIS), (FluxProFinetunedInput, FINETUNED)])
def test_defaults_and_ranges_are_the_published_ones(schema: type, published: dict[str, tuple[Any, Any, Any]]) -> None:
    properties = schema.model_json_schema()["properties"]
    for name, (default, low, high) in published.items():
        flat = properties[name] | next((one for one in properties[name].get("anyOf", ()) if "minimum" in one), {})
        assert (flat.get("default"), flat.get("minimum"), flat.get("maximum")) == (default, low, high), name


def test_the_training_that_the_guide_prints_is_taken_as_it_stands() -> None:
    input = validated("ostris", FluxDevLoraTraining, {
        "input_images": "photos.zip", "steps": 1000, "trigger_word": "VINTG70S", "lora_type": "style",
        "learning_rate": 0.0001, "autocaptioning": True, "hf_token": "hf_x", "hf_repo_id": "me/flux-vintage-70s",
    })  # fmt: skip
    assert input.lora_type == "style"


def test_the_prediction_that_the_page_shows_is_taken_as_it_stands() -> None:
    validated("finetuned", FluxProFinetunedInput, {
        "steps": 40, "prompt": "A formula one CYBERCAB car", "guidance": 3, "aspect_ratio": "3:2",
        "finetune_id": "fc14d7bf-95bd-4dde-92c1-2dd7317721f6", "output_format": "jpg", "safety_tolerance": 2,
        "finetune_strength": 1, "prompt_upsampling": False,
    })  # fmt: skip


def test_what_an_engine_ignores_are_inputs_and_pinned_ids_are_ids() -> None:
    for model in models().values():
        fields = set(model.Input.model_fields) | set(model.TrainingInput.model_fields if model.TrainingInput else ())
        for ignored in model.ignores.values():
            assert set(ignored) <= fields, model.name
        assert model.trains in ("", *models())
        assert not model.pinned or model.pinned in PINS.get(model.name, (model.pinned,))
    assert set(PINS) <= set(models())
    assert all(len(version) == 64 and int(version, 16) for pinned in PINS.values() for version in pinned)


def test_ostris_trainer_does_what_the_fast_one_does_and_names_what_it_leaves_out(
    context: Context, trains: list[tuple[Any, str]], tmp_path: Path
) -> None:
    values = {"input_images": str(tmp_path), "trigger_word": "ALX", "steps": 2000, "hf_token": "hf_secret"}
    result = FluxDevLoraTrainer().train(values, context)
    ((wish, _),) = trains
    assert (wish.trigger_word, wish.lora_type) == ("ALX", "subject")
    assert {one.parameter for one in result.not_honoured} == {"steps", "hf_token"}
    assert "hf_secret" not in f"{result.not_honoured} {result.input} {result.notes}", "a secret is shown nowhere"
    with pytest.raises(ConsentError):
        FluxDevLoraTrainer().train(values, Context(context.workspace, context.settings))


def test_secrets_are_marked() -> None:
    marked = {name for name, info in FluxDevLoraTraining.model_fields.items() if is_secret(info)}
    assert marked == {"hf_token", "wandb_api_key"}


@pytest.mark.parametrize(("mode", "kind"), [("style", "style"), ("character", "subject"), ("general", "subject")])
def test_the_pro_trainer_gives_an_id_that_the_finetuned_model_takes(
    context: Context, trains: list[tuple[Any, str]], tmp_path: Path, mode: str, kind: str
) -> None:
    result = FluxProTrainer().run({"input_images": str(tmp_path), "mode": mode}, context)
    assert trains[0][0].lora_type == kind
    assert result.parts[TRAINED].is_file()
    assert (context.settings.images / f"{result.text}.tar").is_file()
    assert FluxProTrainer().run({"input_images": str(tmp_path), "mode": mode}, context).text == result.text


def test_on_a_server_the_trainer_puts_nothing_on_the_shelf(
    context: Context, trains: list[tuple[Any, str]], tmp_path: Path
) -> None:
    context.resolve = lambda value: tmp_path
    before = set(context.settings.images.iterdir())
    assert FluxProTrainer().run({"input_images": "http://x/p.zip"}, context).parts[TRAINED]
    assert set(context.settings.images.iterdir()) == before


def test_a_finetuned_picture_has_the_size_and_format_that_were_asked_for(context: Context) -> None:
    asked = {"prompt": "VIVI on stage", "finetune_id": "vivi", "aspect_ratio": "custom", "width": 270, "height": 350}
    result = FluxProFinetuned().run(asked | {"seed": 3, "steps": 20, "image_prompt": "x.jpg"}, context)
    with Image.open(result.path) as picture:
        assert picture.format == "JPEG" and picture.size == (256, 352), "multiples of 32"
    assert {one.parameter for one in result.not_honoured} == {"steps", "image_prompt"}
    again = FluxProFinetuned().run(asked | {"seed": 3}, context)
    assert again.path.read_bytes() == result.path.read_bytes()
    with pytest.raises(NotFoundError):
        FluxProFinetuned().run({"prompt": "x", "finetune_id": "nobody"}, context)
    with pytest.raises(ParameterError):
        FluxProFinetuned().run({"prompt": "x", "finetune_id": "vivi", "finetune_strength": 3}, context)


def picture(path: Path, pixels: np.ndarray, mode: str = "RGB") -> Path:
    Image.fromarray(pixels, mode).save(path)
    return path


def test_a_control_picture_gives_the_size(context: Context, tmp_path: Path) -> None:
    control = picture(tmp_path / "room.png", np.zeros((300, 420, 3), np.uint8))
    model = get("black-forest-labs/flux-pro-1.0-depth-finetuned")
    result = model.run({"prompt": "VIVI", "finetune_id": "vivi", "control_image": str(control), "seed": 1}, context)
    with Image.open(result.path) as made:
        assert made.size == fitting(420, 300)
    assert [one.parameter for one in result.not_honoured] == ["control_image"]


@pytest.mark.parametrize("size", [(64, 64), (4000, 3000), (3000, 700), (1024, 768), (300, 9000), (257, 1439)])
def test_any_size_has_one_near_it_that_can_be_drawn(size: tuple[int, int]) -> None:
    width, height = fitting(*size)
    assert all(256 <= side <= 1440 and side % 32 == 0 for side in (width, height))
    if max(size) / min(size) < 5:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.13)


def test_filling_leaves_what_the_mask_leaves_alone_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    whole = picture(tmp_path / "whole.png", noise)
    scene = picture(tmp_path / "scene.png", np.full((20, 30, 3), 200, np.uint8))
    paint = np.zeros((40, 60), np.uint8)
    paint[:, 30:] = 255
    made = filled(whole, picture(tmp_path / "mask.png", paint, "L"), scene)
    assert (made[:, :30] == noise[:, :30]).all() and (made[:, 30:] == 200).all()
    seen = np.dstack([noise, 255 - paint])
    assert (filled(picture(tmp_path / "holes.png", seen, "RGBA"), None, scene) == made).all(), "transparent is the mask"
    with pytest.raises(ImageError, match="no transparency"):
        filled(whole, None, scene)
    with pytest.raises(ImageError, match="black"):
        filled(whole, picture(tmp_path / "black.png", paint * 0, "L"), scene)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="not a picture"):
        filled(tmp_path / "text.png", None, scene)
