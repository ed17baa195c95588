"""Sonic opens from its published files as they are: pickles are copied once, parts are loaded when they are used."""

from __future__ import annotations

import copy
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonic_making import (
    PARTS,
    RIFE_WIDTH,
    Laid,
    as_nets,
    bucket_shapes,
    rife_tensors,
    tensors,
    tiny_sonic_files,
    token_shapes,
    unet_shapes,
)
from vividcover.errors import EngineError, ModelFileError, ParameterError, VividCoverError
from vividcover.image.flux.folders import quietly
from vividcover.portrait.sonic import opening, published
from vividcover.portrait.sonic.clip import prepared
from vividcover.portrait.sonic.config import FULL, FULL_AUDIO, TINY, TINY_AUDIO
from vividcover.portrait.sonic.files import NETS, SonicFiles, sonic_files
from vividcover.portrait.sonic.network import SonicUNet
from vividcover.portrait.sonic.opening import Sonic, filled, in_8_bits, open_sonic, shapes_of
from vividcover.portrait.sonic.published import Published
from vividcover.portrait.sonic.rife import IFNet
from vividcover.portrait.sonic.speech import Audio2Bucket, Audio2Token
from vividcover.portrait.sonic.whisper import WhisperEncoder
from vividcover.tensors import read_tensors, write_tensors
from vividcover.weights import licence_of_portrait

SMALL = tuple(name for name in PARTS if name not in ("sonic-unet", "svd-xt", "whisper-tiny"))


def opened(places: dict[str, Path], **more: Any) -> Sonic:
    return open_sonic(sonic_files(Laid(places)), device="cpu", **more)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """The tiny files, of which the small ones may be changed."""
    places = dict(tiny_sonic_files())
    for name in SMALL:
        places[name] = Path(shutil.copy(places[name], tmp_path))
    return places


@pytest.fixture(scope="module")
def sonic() -> Sonic:
    return opened(dict(tiny_sonic_files()))


# --- sizes and names --------------------------------------------------------------------------------------------------


def test_at_full_size_every_name_and_shape_is_the_published_one() -> None:
    def count(shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(int(np.prod(shape)) for shape in shapes.values())

    unet = shapes_of(SonicUNet, FULL)
    assert unet == unet_shapes(FULL)  # stock diffusers' names and shapes, and the voice's 64
    assert (len(unet), count(unet)) == (1492, 1_575_741_162)
    assert len([name for name in unet if "_ip.0.weight" in name]) == 64
    assert count(shapes_of(Audio2Token, FULL_AUDIO)) == 54_300_672
    assert count(shapes_of(Audio2Bucket, FULL_AUDIO)) == 21_762_050
    assert count(shapes_of(WhisperEncoder, FULL_AUDIO)) == 8_208_384
    rife = shapes_of(IFNet, 90)
    assert (len(rife), count(rife)) == (160, 3_038_015)


def test_sizes_are_told_from_the_files(sonic: Sonic) -> None:
    assert sonic.config == TINY and sonic.audio_config == TINY_AUDIO
    assert sonic.rife.block0.conv0[1][0].out_channels == RIFE_WIDTH


# --- parts ------------------------------------------------------------------------------------------------------------


def test_every_part_holds_what_its_file_does(sonic: Sonic) -> None:
    wanted = {
        "unet": tensors(unet_shapes()), "tokens": tensors(token_shapes()), "buckets": tensors(bucket_shapes()),
        "rife": rife_tensors(),
    }  # fmt: skip
    for name, values in wanted.items():
        net = getattr(sonic, name)
        found = net.state_dict()
        assert found.keys() == values.keys()
        assert all(torch.equal(found[key], value) for key, value in values.items())
        assert not net.training and not any(p.requires_grad or p.is_meta for p in net.parameters())


def test_parts_are_loaded_when_they_are_first_used_and_again_after_they_were_released() -> None:
    sonic = opened(dict(tiny_sonic_files()))
    assert sonic.loaded() == []
    first = sonic.unet
    assert sonic.unet is first and sonic.loaded() == ["unet"]
    sonic.release("unet", "vae")
    assert sonic.loaded() == [] and sonic.unet is not first
    assert torch.equal(sonic.unet.conv_in.weight, first.conv_in.weight)


def test_parts_of_other_libraries_are_theirs_in_single_precision_on_a_cpu(sonic: Sonic) -> None:
    stock = as_nets(tiny_sonic_files())["vae"]
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (vae.decode(latents, num_frames=3).sample for vae in (sonic.vae, stock))
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


def test_clip_sees_the_still_as_its_own_preparation_shows_it(sonic: Sonic) -> None:
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    rgb = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    small = Image.fromarray(rgb).resize((224, 224), Image.Resampling.LANCZOS)
    with quietly():
        theirs = CLIPImageProcessorPil()(images=small, return_tensors="pt").pixel_values
    assert (prepared(rgb) - theirs).abs().max() < 1e-6
    with torch.no_grad():
        wanted = as_nets(tiny_sonic_files())["clip"](theirs).image_embeds
    found = sonic.clip(rgb)
    assert found.shape == (1, TINY.context) and (found - wanted).abs().max() < 1e-5
    assert (sonic.clip(np.ascontiguousarray(rgb[:, ::-1])) - found).abs().max() > 1e-3


def test_number_formats_are_the_published_ones() -> None:
    assert opening.dtype_on(torch.device("cuda")) == torch.float16
    assert opening.dtype_on(torch.device("cpu")) == torch.float32
    assert opening.dtype_on(torch.device("cuda"), "fp32") == torch.float32
    assert opening.dtype_on(torch.device("cpu"), torch.bfloat16) == torch.bfloat16
    sonic = opened(dict(tiny_sonic_files()), dtype="bf16")
    assert sonic.unet.conv_in.weight.dtype == torch.bfloat16
    assert sonic.whisper.model.encoder.conv1.weight.dtype == sonic.rife.dtype == torch.float32
    with pytest.raises(ParameterError, match="fp16 is not for a CPU"):
        opened(dict(tiny_sonic_files()), dtype="fp16")


def test_weights_have_a_key_that_follows_their_numbers_and_not_their_place(own: dict[str, Path], sonic: Sonic) -> None:
    assert opened(own).key == sonic.key
    values = tensors(bucket_shapes())
    values["proj2.weight"] = values["proj2.weight"] * 1.001
    torch.save(values, own["sonic-audio2bucket"])
    assert opened(own).key != sonic.key


def test_large_layers_compute_in_8_bits_and_those_that_see_few_rows_do_not(sonic: Sonic) -> None:
    from vividcover.image.flux.fp8 import Fp8Linear

    unet = copy.deepcopy(sonic.unet)
    said = in_8_bits(unet, torch.device("cpu"))
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, Fp8Linear)}
    assert said == f"fp8: {len(layers)} layers of the UNet compute in 8 bits"
    for part in ("attn1.to_q", "attn2.to_q", "attn2.to_out.0", "proj_in", "ff.net.2", "ff_in.net.0.proj"):
        assert any(name.endswith(part) for name in layers), part
    assert not any("_ip" in name or name.endswith(("attn2.to_k", "attn2.to_v")) for name in layers)
    name = next(name for name in layers if name.endswith("ff.net.2"))
    x = torch.randn(40, layers[name].in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact, rounded = sonic.unet.get_submodule(name)(x), layers[name](x)
    assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.06


def test_where_8_bits_win_nothing_they_are_not_used_and_that_is_said() -> None:
    from vividcover.image.flux.fp8 import Fp8Linear

    sonic = opened(dict(tiny_sonic_files()), quantise="fp8")
    assert sonic.quantise is None and sonic.notes == ["fp8 is not used: on cpu it would take longer"]
    assert not any(isinstance(layer, Fp8Linear) for layer in sonic.unet.modules())
    with pytest.raises(ParameterError, match="quantise is 'int4'"):
        opened(dict(tiny_sonic_files()), quantise="int4")


# --- pickles are copied once ------------------------------------------------------------------------------------------


def test_a_pickle_is_copied_once_and_then_left_alone(own: dict[str, Path]) -> None:
    file = own["sonic-audio2token"]
    first = opened(own).tokens.state_dict()
    beside = file.with_name("audio2token.pth.safetensors")
    made = beside.stat().st_mtime_ns
    assert Published(file, "tokens").kept
    again = opened(own).tokens.state_dict()
    assert beside.stat().st_mtime_ns == made and all(torch.equal(again[name], first[name]) for name in first)
    # and the copy is what is read: the pickle's own numbers are gone
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"\0" * file.stat().st_size)
    os.utime(file, ns=times)
    assert torch.equal(opened(own).tokens.proj1.weight, first["proj1.weight"])


def test_a_copy_of_another_file_or_a_damaged_one_is_made_anew(own: dict[str, Path]) -> None:
    file = own["sonic-audio2token"]
    assert torch.equal(opened(own).tokens.norm.bias, tensors(token_shapes())["norm.bias"])
    other = tensors(token_shapes(), seed=5)
    torch.save(other, file)
    assert torch.equal(opened(own).tokens.norm.bias, other["norm.bias"])
    beside = file.with_name("audio2token.pth.safetensors")
    beside.write_bytes(beside.read_bytes()[:-1000])
    assert torch.equal(opened(own).tokens.norm.bias, other["norm.bias"])
    assert Published(file, "tokens").kept


def test_what_a_killed_run_left_half_copied_is_cleared_away_but_not_what_another_is_writing(
    own: dict[str, Path],
) -> None:
    old, new = (own["sonic-audio2token"].with_name(f".audio2token.pth.safetensors.{n}.part") for n in "ab")
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert opened(own).tokens
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("why", ["no room", "no leave"])
def test_where_no_copy_can_be_written_it_goes_on_and_says_so(
    own: dict[str, Path], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no room":
        monkeypatch.setattr(published, "SPARE", 1 << 60)
    else:
        own["sonic-audio2token"].with_name("audio2token.pth.safetensors").mkdir()
    sonic = opened(own)
    assert torch.equal(sonic.tokens.norm.bias, tensors(token_shapes())["norm.bias"])
    assert "audio2token.pth is not copied" in sonic.notes[0] and "every start checks it anew" in sonic.notes[0]


def test_what_was_checked_when_it_was_copied_is_not_even_read_again_until_it_is_used(own: dict[str, Path]) -> None:
    held = opened(own)._published["tokens"]
    held.keep()
    net = filled(Audio2Token, TINY_AUDIO, held.tensors, torch.device("cpu"), torch.float32, "x", checked=True)
    assert net.proj1.weight.data_ptr() == held.tensors["proj1.weight"].data_ptr()


def test_safetensors_are_taken_as_they_are(own: dict[str, Path], tmp_path: Path) -> None:
    own["sonic-audio2token"] = write_tensors(tmp_path / "mine.safetensors", tensors(token_shapes()))
    own["rife"] = write_tensors(tmp_path / "rife.safetensors", rife_tensors())  # and without "module."
    sonic = opened(own)
    assert torch.equal(sonic.tokens.norm.bias, tensors(token_shapes())["norm.bias"])
    assert torch.equal(sonic.rife.block2.conv1[2].bias, rife_tensors()["block2.conv1.2.bias"])
    assert not list(tmp_path.glob("*.safetensors.safetensors"))


def test_whisper_is_also_read_from_the_older_of_its_two_files(
    own: dict[str, Path], tmp_path: Path, sonic: Sonic
) -> None:
    folder = Path(shutil.copytree(own["whisper-tiny"], tmp_path / "whisper"))
    torch.save(read_tensors(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = opened({**own, "whisper-tiny": folder}).whisper.state_dict()
    assert all(torch.equal(found[name], value) for name, value in sonic.whisper.state_dict().items())


def test_several_that_copy_at_once_leave_one_whole_copy(own: dict[str, Path]) -> None:
    files = [Published(own["sonic-audio2token"], "tokens") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(Published.keep, files)) == [""] * 4
    names = sorted(path.name for path in own["sonic-audio2token"].parent.glob("*audio2token*"))
    assert names == ["audio2token.pth", "audio2token.pth.safetensors"]
    assert torch.equal(opened(own).tokens.norm.bias, tensors(token_shapes())["norm.bias"])


def test_a_copy_holds_any_number_format_bit_by_bit(tmp_path: Path) -> None:
    formats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    values = {f"x{i}": torch.randn(3, i, generator=torch.Generator().manual_seed(i)).to(dtype)
              for i, dtype in enumerate(formats, 1)}  # fmt: skip
    values |= {"turned": values["x2"].t(), "one": torch.tensor(0.25)}
    torch.save(values, tmp_path / "net.pth")
    file = Published(tmp_path / "net.pth", "tokens")
    file.keep()
    assert file.kept and file.tensors.keys() == values.keys()
    for name, value in values.items():
        assert file.tensors[name].dtype == value.dtype and torch.equal(file.tensors[name], value)


def test_numbers_that_half_precision_cannot_hold_are_told() -> None:
    values = tensors(bucket_shapes())
    values["proj1.weight"][0, 0] = 1e6
    with pytest.raises(ModelFileError, match="half precision") as caught:
        filled(Audio2Bucket, TINY_AUDIO, values, torch.device("cpu"), torch.float16, "audio2bucket.pth")
    assert "bf16" in caught.value.hint


def test_a_device_that_is_too_small_is_told_before_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    sonic = opened(dict(tiny_sonic_files()))
    monkeypatch.setattr(opening, "room_on", lambda device: 1e6)
    with pytest.raises(EngineError, match="GB of cpu's memory are free"):
        assert sonic.unet
    assert sonic.loaded() == []


def test_an_autoencoder_that_was_cut_short_is_told(own: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own["svd-xt"], tmp_path / "svd"))
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"cut")
    sonic = opened({**own, "svd-xt": folder})
    with pytest.raises(VividCoverError, match="vae does not hold the autoencoder of Stable Video Diffusion"):
        assert sonic.vae


# --- licences ---------------------------------------------------------------------------------------------------------


def test_the_licence_says_that_it_is_not_for_commercial_use_and_what_else_there_is(sonic: Sonic) -> None:
    note = sonic.licence
    assert note == licence_of_portrait() and note.commercial is False
    for said in ("BY-NC-SA 4.0", "not for commercial purposes", "Stability AI Community License", "classic renderer"):
        assert said in f"{note.name} {note.text}"


def test_all_that_sonic_needs_has_a_place_in_the_registry() -> None:
    from vividcover.weights import REGISTRY, select

    assert set(select(group="portrait")) == set(NETS.values()) == set(PARTS)
    assert SonicFiles(*(Path(name) for name in NETS.values())).svd == Path("svd-xt")
    own = [REGISTRY[name].commercial for name in NETS.values() if name.startswith("sonic")]
    assert own == [False] * 3 and REGISTRY["svd-xt"].gated and REGISTRY["rife"].commercial
