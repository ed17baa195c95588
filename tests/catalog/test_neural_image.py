"""The neural image in the catalog: photos become a LoRA, which draws, alone and in a cover; what is missing is said."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyes_making import eyes_folder
from flux_making import tiny_flux_folder, tiny_photos
from neural_making import use
from vividcover import sdk
from vividcover.catalog import loras
from vividcover.catalog.contract import Context
from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer
from vividcover.catalog.flux_lora import FluxLora, FluxLoraInput
from vividcover.errors import EngineError, ImageError, ModelFileError, ParameterError, VividCoverError
from vividcover.settings import settings
from vividcover.workspace import Workspace

CONSENT = "A ball cannot object."
DRAWING = {
    "aspect_ratio": "custom", "width": 256, "height": 256, "num_inference_steps": 2, "seed": 3, "output_format": "png",
    "disable_safety_checker": True, "text_length": 64,
}  # fmt: skip
LEARNING = {"steps": 3, "resolution": "64", "lora_rank": 2, "learning_rate": 0.05, "text_length": 64}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_THREADS", "1")
    use(monkeypatch, flux_dev=tiny_flux_folder(), flux_schnell=tiny_flux_folder(guidance=False),
        flux_fill=tiny_flux_folder(in_channels=384), flux_canny=tiny_flux_folder(in_channels=128))  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one image on the shelf, learnt from three pictures of a ball."""
    folder = tmp_path_factory.mktemp("ball")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIVIDCOVER_THREADS", "1")
        use(patch, flux_dev=tiny_flux_folder())
        made = sdk.train_image(
            tiny_photos(folder / "photos", 3), name="ball", consent=CONSENT, trigger_word="BALL", engine="neural",
            home=folder / "home", **LEARNING,
        )  # fmt: skip
        assert made.record["engine"] == "neural"
    settings.cache_clear()
    return folder / "home"


@pytest.fixture
def lora(shelf: Path, tmp_path: Path) -> Path:
    """The LoRA alone, as people pass them on."""
    with tarfile.open(shelf / "images" / "ball.tar") as tar:
        tar.extract("output/flux_train_replicate/lora.safetensors", tmp_path, filter="data")
    return tmp_path / "output/flux_train_replicate/lora.safetensors"


def draw(home: Path, prompt: str = "BALL on a table", trained: str | Path = "ball", **more: Any) -> sdk.Made:
    return sdk.generate_image(trained, prompt, home=home, output=home.parent, **DRAWING | more)


def pixels(made: sdk.Made) -> Any:
    with Image.open(made.path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_photos_become_a_lora_that_draws_and_the_record_tells_all(shelf: Path) -> None:
    made = draw(shelf, num_outputs=2)
    assert [p.suffix for p in made.files] == [".png", ".png"]
    with Image.open(made.path) as picture:
        assert picture.size == (256, 256) and "AI-generated" in str(picture.info)
    assert made.record["engine"] == "neural", "auto takes the engine that can read the image"
    still = made.record["details"]["stills"][0]
    assert still["seeds"] == [3, 4] and still["loras"] == [{"name": "ball", "scale": 1.0, "region": False}]
    assert not made.record["licences"]["commercial_use"], "FLUX.1 [dev] is for non-commercial use"
    with tarfile.open(shelf / "images" / "ball.tar") as tar:
        names = tar.getnames()
    assert "output/flux_train_replicate/lora.safetensors" in names and "model.json" in names
    assert sum(name.endswith(".safetensors") for name in names) == 1


def test_the_same_seed_gives_the_same_picture_and_scale_mask_and_second_lora_count(
    shelf: Path, lora: Path, tmp_path: Path
) -> None:
    plain = pixels(draw(shelf, lora_scale=0))
    full = pixels(draw(shelf))
    assert (full == pixels(draw(shelf, trained=lora))).all(), "the bare file is the same LoRA"
    assert (full != plain).any()
    half = tmp_path / "left.png"
    Image.fromarray(np.repeat(np.uint8([[255] * 128 + [0] * 128]), 256, axis=0)).save(half)
    masked = pixels(draw(shelf, lora_mask=str(half)))
    assert (masked != full).any() and (masked != plain).any()
    twice = pixels(draw(shelf, extra_lora=str(lora), extra_lora_scale=0.5))
    assert (twice != full).any()
    listed = pixels(draw(shelf, more_loras=f"{lora}@0.5"))
    assert (listed == twice).all(), "a further LoRA is worn as a second one is"
    with pytest.raises(ParameterError, match="more_loras: the scale 9"):
        draw(shelf, more_loras=f"{lora}@9")


def test_a_picture_can_be_changed_and_schnell_draws_with_a_lora_of_dev(shelf: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.fromarray(np.full((300, 420, 3), 200, np.uint8)).save(start)
    made = draw(shelf, image=str(start), prompt_strength=0.5)
    with Image.open(made.path) as picture:
        assert picture.size == (416, 288), "the shape is the picture's"
    assert [n["parameter"] for n in made.record["not_honoured"]] == ["aspect_ratio"]
    quick = draw(shelf, model="schnell")
    assert any("[schnell]" in note for note in quick.record["notes"])
    assert "image ball" in quick.record["licences"]["because"], "schnell's licence does not free a LoRA of dev"


def test_the_text_is_as_long_as_the_lora_has_learnt_it_unless_it_is_said(shelf: Path) -> None:
    lengths = [draw(shelf, text_length=n).record["details"]["stills"][0]["text_length"] for n in (None, 128)]
    assert lengths == [LEARNING["text_length"], 128]


def test_tok_stands_for_the_trigger_word_and_a_prompt_without_it_is_warned_of(shelf: Path) -> None:
    said = draw(shelf, prompt="TOK on stage").record
    assert said["details"]["stills"][0]["prompt"] == "BALL on stage" and any("BALL" in n for n in said["notes"])
    assert any("does not have the trigger word BALL" in n for n in draw(shelf, prompt="a table").record["notes"])


def test_a_prompt_is_written_out_and_keeps_its_trigger_word(shelf: Path) -> None:
    still = draw(shelf, prompt_upsampling=True).record["details"]["stills"][0]
    assert still["written_by"] == "layers" and "BALL" in still["prompt"] and len(still["prompt"]) > 60


def test_without_the_safety_nets_nothing_is_drawn_unless_the_check_is_switched_off(shelf: Path) -> None:
    with pytest.raises(EngineError, match="safety-checker"):
        draw(shelf, disable_safety_checker=False)


def test_a_picture_of_the_fine_tuned_models_has_the_size_and_keeps_what_its_mask_keeps(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe(monkeypatch)
    asked = {"prompt": "BALL", "finetune_id": "ball", "seed": 2, "output_format": "png"}
    made = sdk.run(
        "black-forest-labs/flux-pro-finetuned",
        {**asked, "steps": 2, "aspect_ratio": "custom", "width": 256, "height": 288}, home=shelf, output=tmp_path,
    )  # fmt: skip
    with Image.open(made.path) as picture:
        assert picture.size == (256, 288)
    ground = np.random.default_rng(1).integers(0, 255, (270, 330, 3), dtype=np.uint8)
    mask = np.zeros((270, 330), np.uint8)
    mask[:, :100] = 255
    Image.fromarray(ground).save(tmp_path / "ground.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    fill = sdk.run(
        "black-forest-labs/flux-pro-1.0-fill-finetuned",
        {**asked, "steps": 15, "image": str(tmp_path / "ground.png"), "mask": str(tmp_path / "mask.png")},
        home=shelf, output=tmp_path,
    )  # fmt: skip
    filled = pixels(fill)
    assert (filled[:, 101:] == ground[:, 101:]).all() and (filled[:, :99] != ground[:, :99]).any()
    edges = sdk.run(
        "black-forest-labs/flux-pro-1.0-canny-finetuned",
        {**asked, "steps": 15, "control_image": str(tmp_path / "mask.png")}, home=shelf, output=tmp_path,
    )  # fmt: skip
    assert edges.record["engine"] == "neural"


def test_a_lora_of_others_is_taken_instead_of_training(shelf: Path, lora: Path, tmp_path: Path) -> None:
    place = settings().model_copy(update={"home": tmp_path / "home"})
    context = Context(Workspace(tmp_path / "cache"), place, "neural", CONSENT)
    values = {"skip_training_and_use_pretrained_hf_lora_url": str(lora), "trigger_word": "BALL"}
    made = FluxDevLoraTrainer().train(values, context)
    assert (pixels(draw(shelf, trained=made.path)) == pixels(draw(shelf))).all()
    with pytest.raises(ParameterError, match="input_images is required"):
        FluxDevLoraTrainer().train({"trigger_word": "BALL"}, context)


@pytest.mark.parametrize("form", ["{0}", "./{1}", "../{2}/{1}", "huggingface.co/../{1}", "urn:{0}"])
def test_on_a_server_no_reference_leads_to_a_file_of_the_machine(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(lora.parent)
    (lora.parent / "huggingface.co").mkdir()
    context = Context(Workspace(tmp_path / "cache"), settings(), resolve=lambda value: None)
    with pytest.raises(VividCoverError):
        loras.lora(form.format(lora, lora.name, lora.parent.name), context)


@pytest.mark.parametrize(
    "name", ["huggingface.co/a/b", "civitai.com/models/12", "urn:air:flux1:lora:civitai:1@2", "a/b"]
)
def test_a_lora_of_another_site_is_for_the_neural_engine(home: Path, tmp_path: Path, name: str) -> None:
    context = Context(Workspace(tmp_path / "cache"), settings())
    input = FluxLoraInput(prompt="x", replicate_weights=name)
    reader = FluxLora().reader(input, context)
    assert reader and reader[0] == "neural"


def test_what_does_not_fit_together_is_said_before_anything_is_drawn(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no image that it belongs to"):
        draw(shelf, mask=str(tmp_path / "mask.png"))
    with pytest.raises(ParameterError, match="'x' of 'vivi' is no number"):
        draw(shelf, more_loras="vivi@x")
    with pytest.raises(ParameterError, match="needs width and height"):
        draw(shelf, width=None)


def test_what_is_no_lora_for_flux_is_refused_before_anything_is_drawn(shelf: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    other = tmp_path / "sd15.safetensors"
    down = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 320)}
    save_file(down | {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.zeros(320, 4)}, other)
    with pytest.raises(ModelFileError, match="Stable Diffusion"):
        draw(shelf, trained=other)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ModelFileError):
        draw(shelf, trained=tmp_path / "empty.safetensors")


def safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets that find every picture harmless, in the place of the published ones."""
    from vividcover.catalog import drawing
    from vividcover.image.flux import safety

    class Harmless:
        name, limits = "harmless", (0.0,) * 7

        def ready(self) -> None: ...

        def scores(self, pictures: Any) -> list[float]:
            return [-1.0] * len(pictures)

    monkeypatch.setattr(drawing, "GUARDS", ())
    monkeypatch.setattr(safety.Guard, "from_weights", classmethod(lambda cls, weights, device: cls([Harmless()])))


def test_a_cover_draws_its_still_with_flux_and_names_one_that_cannot_sing(
    shelf: Path, home: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FLUX of random numbers shows no face: the cover gets as far as the portrait."""
    own = {name.replace("-", "_"): folder for name, folder in eyes_folder().items()}
    use(monkeypatch, flux_dev=tiny_flux_folder(), **own)
    with pytest.raises(ImageError, match="The still that was drawn cannot sing") as told:
        sdk.make_cover(
            clip, voice="vivi", image=shelf / "images" / "ball.tar", output=tmp_path / "cover.mp4", home=home, seed=1,
            width=256, height=256, aspect_ratio="custom",
        )  # fmt: skip
    still = Path(told.value.hint.rpartition(" ")[2])
    with Image.open(still) as picture:
        assert picture.size == (256, 256)
    assert not (tmp_path / "cover.mp4").exists()
