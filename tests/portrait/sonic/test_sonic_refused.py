"""What is none of Sonic's files is refused before any work begins, and called what it is."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sonic_making import Laid, bucket_shapes, rife_tensors, tensors, tiny_sonic_files, token_shapes
from vividcover.errors import ModelFileError, WeightsError
from vividcover.portrait.sonic.config import TINY, TINY_AUDIO
from vividcover.portrait.sonic.files import sonic_files
from vividcover.portrait.sonic.network import SonicUNet
from vividcover.portrait.sonic.opening import Sonic, open_sonic, shapes_of

SMALL = ("sonic-audio2token", "sonic-audio2bucket", "rife")
Change = Callable[[dict[str, Any]], Any]


def opened(places: dict[str, Path]) -> Sonic:
    return open_sonic(sonic_files(Laid(places)), device="cpu")


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """The tiny files, of which the small ones may be changed."""
    places = dict(tiny_sonic_files())
    for name in SMALL:
        places[name] = Path(shutil.copy(places[name], tmp_path))
    return places


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def test_a_pickle_that_asks_to_run_something_is_refused_and_nothing_ran(
    own: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol_file in (False, True):
        if protocol_file:
            torch.save({**tensors(bucket_shapes()), "more": Malice()}, own["sonic-audio2bucket"])
        else:
            own["sonic-audio2bucket"].write_bytes(pickle.dumps({"more": Malice()}))
        with pytest.raises(ModelFileError):
            opened(own)
    assert not (tmp_path / "it-ran").exists()


def without(name: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if key != name}


def put(name: str, value: torch.Tensor) -> Change:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("proj2.bias"), "missing: proj2.bias"),
        (put("proj4.bias", torch.ones(3)), "not known: proj4.bias"),
        (put("proj2.bias", torch.ones(3)), r"proj2.bias is \[3\], not \[24\]"),
        (put("proj2.bias", torch.full((24,), torch.nan)), "proj2.bias holds values that are not finite"),
        (put("proj2.bias", torch.ones(24, dtype=torch.int64)), "proj2.bias is not a plain tensor"),
        (lambda state: {**state, "proj2.bias": [0.0] * 24}, "no tensor: proj2.bias"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tensor_is_told_by_its_name(own: dict[str, Path], change: Change, told: str) -> None:
    torch.save(change(tensors(bucket_shapes())), own["sonic-audio2bucket"])
    with pytest.raises(ModelFileError, match=told) as caught:
        assert opened(own).buckets
    assert "audio2bucket.pth" in caught.value.message and caught.value.hint


def stable_diffusion() -> dict[str, torch.Tensor]:
    names = ("conv_in.weight", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
             "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight")  # fmt: skip
    return {name: torch.ones(4, 4) for name in names}


def plain() -> dict[str, torch.Tensor]:
    return tensors({name: shape for name, shape in shapes_of(SonicUNet, TINY).items() if "_ip." not in name})


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "plain SVD": (plain, "the UNet of Stable Video Diffusion without what hears"),
    "Stable Diffusion": (stable_diffusion, "the UNet of Stable Diffusion, which draws single pictures"),
    "svd_xt.safetensors": (
        lambda: {"model.diffusion_model.input_blocks.1.1.time_stack.0.x": torch.ones(2)},
        "Stable Video Diffusion in its makers' own layout",
    ),
    "a voice": (lambda: {"weight": {"enc_p.emb_phone.weight": torch.ones(2, 2)}, "config": [1]}, "an RVC voice"),
    "audio2token": (lambda: tensors(token_shapes()), "it is Sonic's audio2token"),
    "audio2bucket": (lambda: tensors(bucket_shapes()), "it is Sonic's audio2bucket"),
    "RIFE": (rife_tensors, "it is RIFE's flownet"),
    "a LoRA": (lambda: {"unet.down.lora_A.weight": torch.ones(2, 2)}, "it is a LoRA"),
    "FLUX.1": (lambda: {"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, "it is FLUX.1"),
    "a training": (lambda: {"state_dict": {}, "optimizer": {}, "step": 3}, "a checkpoint of a training"),
    "something": (lambda: {"a": torch.ones(1), "b": torch.ones(1)}, "it holds 'a', 'b'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_in_place_of_the_unet_is_called_by_its_name(
    own: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    make, told = OTHERS[kind]
    own["sonic-unet"] = tmp_path / "other.pth"
    torch.save(make(), own["sonic-unet"])
    if kind == "something":
        told = "which should be Sonic's UNet, does not hold the weights of this network. missing: "
    with pytest.raises(ModelFileError) as caught:
        opened(own)
    assert told in caught.value.message and "other.pth" in caught.value.message


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "empty"), (b"<!DOCTYPE html><html>", "a web page"), (b"version https://git-lfs.github.com", "LFS pointer"),
     (b"PK\x03\x04 cut short", "cannot be read")],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_called_what_it_is(own: dict[str, Path], content: bytes, told: str) -> None:
    own["rife"].write_bytes(content)
    with pytest.raises(ModelFileError, match=told):
        opened(own)


def test_parts_that_do_not_belong_together_are_told(own: dict[str, Path], tmp_path: Path) -> None:
    torch.save(tensors(token_shapes(replace(TINY_AUDIO, width=24))), own["sonic-audio2token"])
    with pytest.raises(ModelFileError, match="hears 1200 numbers a frame, and this whisper gives 800"):
        opened(own)
    wide = replace(TINY_AUDIO, context=64)
    torch.save(tensors(token_shapes(wide)), own["sonic-audio2token"])
    with pytest.raises(ModelFileError, match="tokens of 64 numbers, and the UNet takes 48"):
        opened(own)


def changed(source: Path, target: Path, file: str, **values: Any) -> Path:
    """A copy of a folder with other values in one of its configurations; None takes one out."""
    shutil.copytree(source, target)
    found = json.loads((target / file).read_text()) | values
    (target / file).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return target


@pytest.mark.parametrize(
    ("net", "file", "values", "told"),
    [
        ("svd-xt", "unet/config.json", {"_class_name": "UNet2DConditionModel"}, "no Stable Video Diffusion UNet"),
        ("svd-xt", "unet/config.json", {"num_attention_heads": None}, "without 'num_attention_heads'"),
        ("svd-xt", "vae/config.json", {"_class_name": "AutoencoderKL"}, "its autoencoder is a AutoencoderKL"),
        ("svd-xt", "image_encoder/config.json", {"projection_dim": 32}, "says 32 numbers, and its UNet takes 48"),
        ("whisper-tiny", "config.json", {"model_type": "bert"}, "is not whisper: it is bert"),
        ("whisper-tiny", "config.json", {"encoder_layers": 5}, "gives 960"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    own: dict[str, Path], tmp_path: Path, net: str, file: str, values: dict[str, Any], told: str
) -> None:
    own[net] = changed(own[net], tmp_path / "changed", file, **values)
    with pytest.raises(ModelFileError, match=told):
        opened(own)


def test_what_is_missing_in_a_folder_is_named_with_how_to_get_it(own: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="the folder of Stable Video Diffusion is needed"):
        opened({**own, "svd-xt": own["rife"]})
    with pytest.raises(WeightsError, match=r"vae/config\.json") as caught:
        opened({**own, "svd-xt": tmp_path})
    assert "vividcover weights pull svd-xt" in caught.value.hint
