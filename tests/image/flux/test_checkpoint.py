"""The transformer is read from every published layout, whole or not at all, and written as diffusers reads it."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flux_making import tiny_flux_folder
from vividcover.errors import ModelFileError
from vividcover.image.flux.checkpoint import layout, published, read_config, read_flux, write_flux
from vividcover.image.flux.config import DEV, SCHNELL, FluxConfig
from vividcover.image.flux.network import Flux

WEIGHTS = "diffusion_pytorch_model.safetensors"
torch.set_num_threads(1)


def folder() -> Path:
    return tiny_flux_folder() / "transformer"


def same(one: Flux, other: Flux) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def bfl_state(net: Flux) -> dict[str, Tensor]:
    """As Black Forest Labs spell it: one tensor for each of ours, the last norm's shift before its scale."""
    mine = dict(net.named_parameters())
    return {
        name: (torch.cat(mine[place.name].chunk(2)[::-1]) if place.swapped else mine[place.name]).clone()
        for name, place in layout(net.config, bfl=True).items()
    }


def in_8_bits(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    """Matrices as 8-bit floats times a scale, as ComfyUI's files have them."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found[name] = tensor
        if name.endswith(".weight") and tensor.dim() == 2:
            scale = tensor.abs().max() / 448
            found[name] = (tensor / scale).to(torch.float8_e4m3fn)
            found[f"{name.removesuffix('weight')}{key}"] = scale.reshape(())
            found[f"{name.removesuffix('weight')}input_scale"] = torch.ones(())
    return found


# --- what is read -------------------------------------------------------------------------------------------------


def test_a_whole_folder_its_transformer_and_its_file_are_the_same_network() -> None:
    whole = read_flux(tiny_flux_folder())
    assert same(whole, read_flux(folder()))
    assert same(whole, read_flux(folder() / WEIGHTS))  # without its config.json
    assert read_config(folder() / WEIGHTS) == read_config(folder()) == whole.config
    assert not any(p.requires_grad for p in whole.parameters())
    assert not whole.training


def test_a_folder_in_several_files_is_read_by_its_index(tmp_path: Path) -> None:
    state = load_file(folder() / WEIGHTS)
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    shutil.copy(folder() / "config.json", tmp_path)
    assert same(read_flux(tmp_path), read_flux(folder()))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"no file .*b\.safetensors"):
        read_flux(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_black_forest_labs_file_is_read_also_with_the_prefix_of_other_programs(tmp_path: Path, prefix: str) -> None:
    net = read_flux(folder())
    state = {f"{prefix}{name}": tensor for name, tensor in bfl_state(net).items()}
    if prefix == "model.diffusion_model.":  # a whole checkpoint, with what ComfyUI lays beside it
        state |= {"vae.decoder.conv_in.weight": torch.zeros(2), "text_encoders.clip_l.x": torch.zeros(2)}
    save_file(state, tmp_path / "flux1-dev.safetensors")
    assert same(read_flux(tmp_path / "flux1-dev.safetensors"), net)


@pytest.mark.parametrize("key", ["weight_scale", "scale_weight"])
def test_8_bit_files_are_read_with_their_scales(tmp_path: Path, key: str) -> None:
    net = read_flux(folder())
    state = in_8_bits(bfl_state(net), key) | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    save_file(state, tmp_path / "fp8.safetensors")
    found = read_flux(tmp_path / "fp8.safetensors")
    for name, tensor in net.named_parameters():
        other = found.get_parameter(name)
        assert other.dtype == torch.float32
        assert (other - tensor).norm() <= 0.04 * tensor.norm()  # e4m3 has 3 bits after the point


def test_8_bit_files_without_scales_are_read_as_they_are(tmp_path: Path) -> None:
    state = {n: t.to(torch.float8_e4m3fn) if t.dim() == 2 else t for n, t in bfl_state(read_flux(folder())).items()}
    save_file(state, tmp_path / "fp8.safetensors")
    found = read_flux(tmp_path / "fp8.safetensors", dtype=torch.bfloat16)
    assert torch.equal(found.img_in.weight, state["img_in.weight"].bfloat16())


def test_the_number_format_is_the_one_asked_for() -> None:
    net = read_flux(folder(), dtype=torch.bfloat16)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}


def test_blocks_made_smaller_as_they_come_are_never_in_memory_as_they_were(tmp_path: Path) -> None:
    config = FluxConfig(64, 64, 6, 6, heads=4, head_dim=64, text_width=64, pooled_width=64, axes=(8, 28, 28))
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Flux(config).named_parameters()}
    state = {name: torch.zeros(shapes[place.name]) for name, place in layout(config, bfl=True).items()}
    save_file(state, tmp_path / "larger.safetensors")
    whole = sum(t.nbytes for t in state.values())
    assert whole > 60e6
    del state
    gc.collect()
    names, most, before = [], 0.0, own_memory()

    def each(name: str, block: torch.nn.Module) -> None:
        nonlocal most
        most = max(most, own_memory() - before)
        names.append(name)
        block.to(torch.bfloat16)

    net = read_flux(tmp_path / "larger.safetensors", each=each)
    assert names == [f"{kind}_blocks.{i}" for kind in ("double", "single") for i in range(6)]
    assert net.double_blocks[5].img_qkv.weight.dtype == net.single_blocks[0].linear1.weight.dtype == torch.bfloat16
    assert most < 0.75 * whole


def own_memory() -> float:
    """Bytes of this process that are no files."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    return 1024.0 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon"))


@pytest.mark.parametrize("config", [DEV, SCHNELL])
def test_the_names_at_real_size_are_the_published_ones(config: Any) -> None:
    """780 tensors as Black Forest Labs publish [dev], 1160 as diffusers does; [schnell] takes no guidance: 4 fewer."""
    less = 0 if config.guidance else 4
    bfl, diffusers = layout(config, bfl=True), layout(config, bfl=False)
    assert (len(bfl), len(diffusers)) == (780 - less, 1160 - less)
    for name in (
        "img_in.weight", "time_in.in_layer.weight", "double_blocks.18.img_attn.norm.query_norm.scale",
        "double_blocks.0.txt_mlp.2.bias", "double_blocks.3.img_mod.lin.weight", "single_blocks.37.linear1.weight",
        "single_blocks.0.modulation.lin.bias", "single_blocks.0.norm.key_norm.scale",
        "final_layer.adaLN_modulation.1.weight", "final_layer.linear.bias",
    ):  # fmt: skip
        assert name in bfl


# --- what is refused ----------------------------------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], bfl: bool = False) -> Path:
    state = bfl_state(read_flux(folder())) if bfl else load_file(folder() / WEIGHTS)
    change(state)
    save_file(state, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "bfl", "said"),
    [
        (lambda s: s.pop("transformer_blocks.1.attn.to_k.weight"), False, r"missing: transformer_blocks\.1"),
        (lambda s: s.update(extra=torch.zeros(1)), False, "not known: extra"),
        (lambda s: s.update({"proj_out.bias": torch.zeros(3)}), False, r"proj_out.bias is \[3\], not \[64\]"),
        (lambda s: s.pop("single_blocks.2.linear1.bias"), True, "missing: single_blocks.2.linear1.bias"),
        (lambda s: s.pop("final_layer.linear.weight"), True, "not hold all of FLUX.1's transformer"),
        (lambda s: s.pop("img_in.weight"), True, "does not hold FLUX.1's transformer"),
    ],
)  # fmt: skip
def test_what_is_missing_or_too_much_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], bfl: bool, said: str
) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_flux(changed(tmp_path, change, bfl))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("transformer.transformer_blocks.0.attn.to_q.lora_A.weight",), "it is a LoRA"),
        (("model.diffusion_model.input_blocks.0.0.weight",), "Stable Diffusion 1, 2 or XL"),
        (("double_stream_modulation_img.lin.weight",), "FLUX.2"),
        (("joint_blocks.0.x_block.attn.qkv.weight",), "Stable Diffusion 3"),
        (("something.else",), "does not hold FLUX.1's transformer. Choose"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=said):
        read_flux(tmp_path / "other.safetensors")


def test_damaged_absent_and_doubtful_files_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder() / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        read_flux(cut)
    with pytest.raises(ModelFileError, match="There is no file"):
        read_flux(tmp_path / "nowhere.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelFileError, match=r"holds no \.safetensors file"):
        read_flux(empty)
    for name in ("a", "b"):
        shutil.copy(folder() / WEIGHTS, empty / f"{name}.safetensors")
    with pytest.raises(ModelFileError, match="several files of weights"):
        read_flux(empty)
    (empty / "b.safetensors").unlink()
    (empty / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="does not describe"):
        read_flux(empty)
    (empty / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match="cannot be read as JSON"):
        read_flux(empty)


def test_files_in_four_bits_of_others_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "q4.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelFileError, match="is a GGUF file"):
        read_flux(tmp_path / "q4.gguf")
    four = changed(tmp_path, lambda s: s.update({"img_in.weight.absmax": torch.zeros(2)}), bfl=True)
    with pytest.raises(ModelFileError, match="bitsandbytes' 4 bits"):
        read_flux(four)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    shutil.copy(folder() / "config.json", tmp_path)
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(ModelFileError, match="outside of its folder"):
        read_flux(tmp_path)


# --- what is written ----------------------------------------------------------------------------------------------


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    net = read_flux(folder())
    write_flux(tmp_path / "transformer", net)
    assert same(read_flux(tmp_path), net)
    before, after = load_file(folder() / WEIGHTS), load_file(tmp_path / "transformer" / WEIGHTS)
    assert before.keys() == after.keys() == published(net).keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
