"""Photos in, a tar out: the whole road on a tiny FLUX, stopped and gone on with, and all that it refuses."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_making import tiny_flux_folder, tiny_photos
from vividcover.errors import Canceled, ConsentError, EngineError, ImageError, ParameterError, VividCoverError
from vividcover.image.flux import loop, train
from vividcover.image.flux.opening import BaseFiles, open_base
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.package import read_package
from vividcover.image.flux.presets import Plan
from vividcover.image.flux.train import train_lora
from vividcover.workspace import Silent

torch.set_num_threads(1)
OPTIONS: dict[str, Any] = {
    "trigger_word": "VIVI", "steps": 6, "resolution": "64,96", "text_length": 16, "rank": 4, "captioner": "template",
    "save_every": 3, "optimizer": "adamw",
}  # fmt: skip


def files(kind: str = "dev") -> BaseFiles:
    folder = tiny_flux_folder(guidance=kind != "schnell")
    return BaseFiles(folder, folder, folder, kind)


def trained(folder: Path, reporter: Silent | None = None, photos: int = 3, **changes: Any) -> dict[str, Any]:
    """The report of a training in `folder`, on the same photos each time."""
    source = folder.parent / f"photos-{photos}"
    if not source.exists():
        tiny_photos(source, photos)
    given: dict[str, Any] = {"consent": "She does not exist.", "name": "vivi", "base": files(), "device": "cpu"}
    given |= {name: changes.pop(name) for name in list(changes) if name in {*given, "weights", "usd_per_second"}}
    options = TrainOptions(**(OPTIONS | changes))
    return train_lora(source, folder / "vivi.tar", options, work=folder / "work", reporter=reporter, **given)


class StopsAt(Silent):
    """Cancels when the progress says these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words, self.stop = words, False

    def progress(self, fraction: float, text: str = "") -> None:
        self.stop |= text.startswith(self.words)
        self.check()

    def check(self) -> None:
        if self.stop:
            raise Canceled


def test_photos_become_a_tar_that_says_all_of_itself(tmp_path: Path) -> None:
    reporter = Silent()
    card = trained(
        tmp_path, reporter, sample_prompts=("VIVI on stage",), sample_steps=2, sample_size=64, usd_per_second=2.0,
        tensorboard=True,
    )  # fmt: skip
    with tarfile.open(tmp_path / "vivi.tar") as archive:
        names = archive.getnames()
        assert json.load(archive.extractfile("model.json")) == json.loads(json.dumps(card))  # type: ignore[arg-type]
        settings = archive.extractfile("output/flux_train_replicate/config.yaml").read().decode()  # type: ignore[union-attr]
    assert [name for name in names if name.endswith(".safetensors")] == ["output/flux_train_replicate/lora.safetensors"]
    assert sum("captions/" in name for name in names) == 3
    assert any(name.endswith(".png") for name in names)
    assert 'trigger_word: "VIVI"' in settings
    assert "rank: 4" in settings

    base = open_base(files())
    lora, found = read_package(tmp_path / "vivi.tar", base.config)
    assert len(lora.pairs) == 2 * 14 + 3 * 6
    assert (found["trigger_word"], found["base"], found["rank"], found["steps"]) == ("VIVI", "dev", 4, 6)
    assert found["commercial"] is False
    assert "Non-Commercial" in found["licence"]
    assert any("Non-Commercial" in note for note in reporter.notes)
    assert found["validation"]["after"] < found["validation"]["before"]
    assert found["gpu_seconds"] > 0
    assert found["cost_usd"] == pytest.approx(2.0 * found["gpu_seconds"], abs=0.11)  # both are rounded
    assert found["steps_per_second"] > 0
    assert {row["resolution"]: row["photos"] for row in found["buckets"]} == {64: 3, 96: 3}
    assert found["findings"]
    assert found["photos"] == 3
    assert found["device"] == "cpu"
    (board,) = (tmp_path / "work").glob("training-*/tensorboard/*")
    assert b"0: VIVI on stage" in board.read_bytes()
    assert (painted(tmp_path, base, lora) == stock(tmp_path)).all()


PAINT: dict[str, Any] = {"prompt": "VIVI on stage", "width": 64, "height": 64}


def painted(folder: Path, base: Any, lora: Any) -> Any:
    """A picture of ours with the LoRA of the tar."""
    from vividcover.image.flux.generate import Painter
    from vividcover.image.flux.request import Request
    from vividcover.image.flux.worn import Wearing

    request = Request(
        **PAINT, seed=3, steps=3, guidance=3.5, text_length=32, loras=(Wearing(lora, 1.0),), checked=False
    )  # fmt: skip
    return Painter(base).paint(request)[0].rgb


def stock(folder: Path) -> Any:
    """The same picture of stock diffusers, which loads the tar's one LoRA by its own."""
    import numpy as np
    from diffusers import FluxPipeline

    with tarfile.open(folder / "vivi.tar") as archive:
        archive.extract("output/flux_train_replicate/lora.safetensors", folder, filter="data")
    pipeline = FluxPipeline.from_pretrained(str(tiny_flux_folder()))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(folder / "output" / "flux_train_replicate"), weight_name="lora.safetensors")
    made = pipeline(
        **PAINT, num_inference_steps=3, guidance_scale=3.5, max_sequence_length=32,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    return np.asarray(made.images[0])


def test_sample_pictures_are_those_that_painting_gives() -> None:
    from vividcover.image.flux.data import Store
    from vividcover.image.flux.generate import Painter
    from vividcover.image.flux.request import Request
    from vividcover.image.flux.samples import Samples
    from vividcover.patience import Patient

    base, prompt = open_base(files()), "a photo of VIVI"
    options = TrainOptions(sample_prompts=(prompt,), sample_size=64, sample_steps=3, sample_guidance=4.0)
    text, store = base.encode_text([prompt], 16), Store()
    store.put("prompt_00000", {"tokens": text.tokens[0], "pooled": text.pooled[0]})
    with Patient(Silent()) as patient:
        (on_the_way,) = Samples(base, base.flux, store, options, torch.float32)(patient).values()
    request = Request(prompt, 64, 64, seed=42, steps=3, guidance=4.0, text_length=16, checked=False)
    assert (on_the_way == Painter(base).paint(request)[0].rgb).all()


def test_a_training_that_was_stopped_anywhere_gives_the_same_lora(tmp_path: Path) -> None:
    trained(tmp_path / "whole")
    for words in ("opening the captioner", "text 2", "picture 3", "step 1 ", "packing"):
        with pytest.raises(Canceled):
            trained(tmp_path / "stopped", StopsAt(words))
        assert not (tmp_path / "stopped" / "vivi.tar").exists()
    trained(tmp_path / "stopped")
    one, other = (read_package(tmp_path / n / "vivi.tar", open_base(files()).config)[0] for n in ("whole", "stopped"))
    for name, pair in one.pairs.items():
        assert torch.equal(pair.a, other.pairs[name].a), name
        assert torch.equal(pair.b, other.pairs[name].b), name


def test_a_set_on_the_disk_teaches_the_same(tmp_path: Path) -> None:
    here, there = trained(tmp_path / "here"), trained(tmp_path / "there", cache_to_disk=True)
    assert here["last_loss"] == there["last_loss"]
    (kept,) = (tmp_path / "there" / "work").glob("set-*")
    assert len(list(kept.glob("item_*.safetensors"))) == 6
    reporter = StopsAt("picture ")  # a second training finds them
    trained(tmp_path / "there", reporter, steps=7, cache_to_disk=True)


def test_other_options_begin_anew_and_more_steps_go_on(tmp_path: Path) -> None:
    trained(tmp_path)
    reporter = Silent()
    trained(tmp_path, reporter, steps=8)
    assert "Going on at step 7." in reporter.notes
    reporter = Silent()
    trained(tmp_path, reporter, learning_rate=1e-3)
    assert not any(note.startswith("Going on") for note in reporter.notes)


def test_photos_that_are_held_back_are_said(tmp_path: Path) -> None:
    assert trained(tmp_path / "a", validation=0.34)["validation_on"] == "2 held-out pictures"
    with pytest.raises(ImageError, match="would be held back"):
        trained(tmp_path / "b", photos=1, validation=0.5)


def test_masks_weigh_the_loss(tmp_path: Path) -> None:
    """Own masks, beside the photos, as fal's trainer takes them."""
    import numpy as np
    from PIL import Image

    photos = tiny_photos(tmp_path / "photos-3", 3)
    for path in sorted(photos.glob("*.png")):
        mask = np.zeros((128, 128), np.uint8)
        mask[32:96, 32:96] = 255
        Image.fromarray(mask).save(photos / f"{path.stem}_mask.png")
    plain, masked = trained(tmp_path / "plain"), trained(tmp_path / "masked", background=0.1)
    assert plain["first_loss"] != masked["first_loss"]
    assert plain["validation"]["before"] == masked["validation"]["before"]  # the measure stays the same


@pytest.mark.parametrize("quantise", ["fp8", "int8", "nf4"])
def test_a_base_in_fewer_bits_is_learnt_on(tmp_path: Path, quantise: str) -> None:
    card = trained(tmp_path, quantise=quantise, steps=20, learning_rate=2e-3)
    assert card["quantise"] == quantise
    assert card["validation"]["after"] < card["validation"]["before"]


def test_a_small_device_leaves_out_what_does_not_fit_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Plan("none", 2, 1, (64,), 10e9, 12e9)
    method = train.LORA.__class__("lora", train.LORA.begin, train.LORA.end, lambda memory, config, options: small)
    monkeypatch.setattr(train, "LORA", method)
    reporter = Silent()
    card = trained(tmp_path, reporter)
    assert "The device's 12 GB are enough for pictures of 64 px, not for larger." in reporter.notes
    assert [row["resolution"] for row in card["buckets"]] == [64]
    assert card["recompute"] == 2


def test_bfloat16_learns_as_well(tmp_path: Path) -> None:
    card = trained(tmp_path, precision="bf16", steps=20, learning_rate=2e-3)
    assert card["precision"] == "bf16"
    assert card["validation"]["after"] < card["validation"]["before"]


def test_schnell_is_learnt_on_with_its_shorter_texts(tmp_path: Path) -> None:
    reporter = Silent()
    card = trained(tmp_path, reporter, base=files("schnell"), text_length=512, steps=2)
    assert (card["base"], card["commercial"]) == ("schnell", True)
    assert card["options"]["text_length"] == 256
    assert "FLUX.1 [schnell] knows texts of up to 256 tokens: so many are used." in reporter.notes
    lora, _ = read_package(tmp_path / "vivi.tar", open_base(files("schnell")).config)
    assert not any("guidance" in name for name in lora.pairs)


def test_nothing_is_trained_without_consent_nor_on_what_is_for_painting(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="'vivi' cannot be trained without consent"):
        trained(tmp_path, consent=" ")
    with pytest.raises(ParameterError, match="cannot be trained on 'fill'"):
        trained(tmp_path, base=files("fill"))
    with pytest.raises(ParameterError, match="overflow in fp16"):
        trained(tmp_path, precision="fp16")
    assert not list(tmp_path.glob("*.tar"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"compile": True}, "Compiling is for CUDA"),
        ({"pattern": "attn.to_x"}, r"finds no layer.*Names are like"),
        ({"captioner": "openai"}, "openai needs an address"),
        ({"captioner": "florence-2"}, "florence-2-large"),
        ({"captioner": "nobody"}, "Unknown captioner"),
        ({"wandb_project": "flux"}, "W&B was asked for.*pip install wandb"),
        ({"tensorboard": True}, "TensorBoard was asked for.*pip install tensorboard"),
        ({"optimizer": "prodigy"}, "pip install prodigyopt"),
    ],
)
def test_what_can_be_checked_is_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], said: str
) -> None:
    for package in ("wandb", "tensorboard", "prodigyopt"):
        monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(VividCoverError, match=said):
        trained(tmp_path, **wrong)
    assert not (tmp_path / "work").exists()


def test_after_a_failure_nothing_is_said_to_have_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []

    class Listens(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            said.append(fraction)

    def no_memory(self: Any, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop._Loop, "_backward", no_memory)
    with pytest.raises(EngineError, match="too small for this training"):
        trained(tmp_path, Listens())
    assert max(said) < 0.98
    assert not (tmp_path / "vivi.tar").exists()
