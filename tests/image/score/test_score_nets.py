"""CLIP and DINO scores: equal to what the libraries' own models say, and only from whole folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from flux_making import tiny_flux_folder
from vividcover.errors import EngineError, ParameterError, WeightsError
from vividcover.image.score import nets
from vividcover.image.score.panel import Panel, Rgb, open_panel
from vividcover.workspace import Silent

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Folders:
    """A `Resolver` over folders with the names of nets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def path(self, name: str) -> Path:
        if not self.has(name):
            raise WeightsError(f"{name} is not here.", f"vividcover weights pull {name}")
        return self.folder / name


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(str(tiny_flux_folder() / "tokenizer"))
    shape = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id}
    seen = shape | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=seen, projection_dim=24)
    where = folder / "clip-vit-b32"
    CLIPModel(config).save_pretrained(where)
    words.save_pretrained(where)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(where)
    where = folder / "dino-vits16"
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(where)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(where)
    return Folders(folder)


@pytest.fixture(scope="module")
def pictures() -> list[Rgb]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (40 + 9 * i, 60, 3), dtype=np.uint8) for i in range(4)]


def test_clip_scores_are_those_of_the_library(shelf: Folders, pictures: list[Rgb]) -> None:
    folder = shelf.path("clip-vit-b32")
    prompts = ["a photo of a dog", "vivi singing", "a cat at night", "a man"]
    theirs = CLIPModel.from_pretrained(str(folder)).eval()
    read = CLIPTokenizer.from_pretrained(str(folder))(prompts, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(str(folder))(
        images=[Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    with torch.no_grad():
        out = theirs(**read, **pixels)
    ours = nets.PromptFit(nets.clip(folder, "cpu")).scores(pictures, prompts)
    np.testing.assert_allclose(ours, (out.text_embeds @ out.image_embeds.T).diag().numpy(), atol=1e-5)
    likeness = nets.ClipLikeness(nets.clip(folder, "cpu"), pictures[:2]).scores(pictures, prompts)
    np.testing.assert_allclose(
        likeness, (out.image_embeds @ out.image_embeds[:2].T).mean(1).numpy(), atol=1e-5
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("portrait of VIVI at night", "portrait of a person at night"),
        ("VIVI, a woman in her 40s, on stage", "a woman in her 40s, on stage"),
        ("VIVI on stage, VIVIAN behind", "a person on stage, VIVIAN behind"),
        ("a cake in the style of VIVI, on a table", "a cake, on a table"), ("VIVI", "a person"), ("a dog", "a dog"),
    ],
)  # fmt: skip
def test_clip_is_not_asked_about_a_word_that_it_cannot_know(
    shelf: Folders, pictures: list[Rgb], prompt: str, read: str
) -> None:
    assert nets.plain(prompt, "VIVI", "a person") == read
    clip = nets.clip(shelf.path("clip-vit-b32"), "cpu")
    scorer = nets.PromptFit(clip, "VIVI", "a person")
    assert scorer.scores(pictures[:1], [prompt]) == nets.PromptFit(clip).scores(pictures[:1], [read])


def test_a_long_prompt_is_read_as_far_as_clip_reads(shelf: Folders, pictures: list[Rgb]) -> None:
    clip = nets.clip(shelf.path("clip-vit-b32"), "cpu")
    assert clip.texts(["a photo of a dog on stage at night " * 40]).shape == (1, 24)


def test_dino_is_the_class_token(shelf: Folders, pictures: list[Rgb]) -> None:
    folder = shelf.path("dino-vits16")
    theirs = ViTModel.from_pretrained(str(folder), add_pooling_layer=False).eval()
    pixels = ViTImageProcessor.from_pretrained(str(folder))(images=pictures, return_tensors="pt")
    with torch.no_grad():
        token = torch.nn.functional.normalize(theirs(**pixels).last_hidden_state[:, 0], dim=1)
    scorer = nets.DinoLikeness(nets.dino(folder, "cpu"), pictures[:1])
    np.testing.assert_allclose(scorer.scores(pictures, [""] * 4), (token @ token[0]).numpy(), atol=1e-5)
    assert scorer.scores(pictures[:1], [""])[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("net", "file"),
    [
        ("clip-vit-b32", "model.safetensors"), ("clip-vit-b32", "preprocessor_config.json"), ("clip-vit-b32", "vocab"),
        ("dino-vits16", "config.json"),
    ],
)  # fmt: skip
def test_a_folder_that_lacks_a_part_is_refused(shelf: Folders, tmp_path: Path, net: str, file: str) -> None:
    copy = shutil.copytree(shelf.path(net), tmp_path / net)
    for part in copy.glob(f"{file}*") if file != "vocab" else [*copy.glob("vocab*"), *copy.glob("token*")]:
        part.unlink()
    with pytest.raises(WeightsError, match=net):
        (nets.Clip if net.startswith("clip") else nets.Dino)(copy, CPU)


def test_a_net_without_some_weights_is_not_filled_up(shelf: Folders, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(shelf.path("dino-vits16"), tmp_path / "dino-vits16")
    tensors = load_file(copy / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"layernorm\.weight"):
        nets.Dino(copy, CPU)


def test_all_scores_whose_nets_are_here_are_used_and_the_others_are_named(
    shelf: Folders, pictures: list[Rgb], tmp_path: Path
) -> None:
    told = Silent()
    panel = open_panel(weights=shelf, references=pictures[:2], device="cpu", reporter=told)
    assert list(panel.weights) == ["clip-t", "clip-i", "dino", "sharpness"]
    assert len(told.notes) == 1 and "face" in told.notes[0]
    judged = panel.judge(pictures, ["a photo"] * 4)
    assert all(0 <= j.total <= 1 and set(j.values) == set(panel.weights) for j in judged)
    assert judged[0].values["dino"] > judged[3].values["dino"]  # it is one of the references

    told = Silent()
    panel = open_panel(weights=Folders(tmp_path), references=pictures, reporter=told)
    assert list(panel.weights) == ["sharpness"] and "weights pull clip-vit-b32" in told.notes[0]


def test_a_score_that_is_named_and_cannot_be_used_is_an_error(
    shelf: Folders, pictures: list[Rgb], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="clip-vit-b32"):
        open_panel("clip-t", weights=Folders(tmp_path))
    with pytest.raises(ParameterError, match="photographs"):
        open_panel("dino", weights=shelf)
    with pytest.raises(ParameterError, match="FaceKit"):
        open_panel(["face"], weights=shelf, references=pictures)
    with pytest.raises(ParameterError, match="beauty"):
        open_panel("clip-t, beauty", weights=shelf)
    with pytest.raises(ParameterError, match="nothing to score"):
        open_panel("", weights=shelf)


class Broken:
    name, meaning, low, high = "broken", "", 0.0, 1.0

    def scores(self, pictures: list[Rgb], prompts: list[str]) -> list[float]:
        return [float("nan")] * len(pictures)


def test_a_score_that_is_no_number_is_an_error(pictures: list[Rgb]) -> None:
    with pytest.raises(EngineError, match="broken"):
        Panel([Broken()]).judge(pictures, ["a"] * 4)  # type: ignore[list-item]
