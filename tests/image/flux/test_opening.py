"""An opened FLUX reads, encodes, samples and decodes as diffusers does; each part is loaded when it is used."""

from __future__ import annotations

import functools
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flux_making import tiny_flux_folder
from vividcover.errors import EngineError, ModelFileError, ParameterError, WeightsError
from vividcover.image.flux import opening
from vividcover.image.flux.latents import noise, pack, positions, unpack
from vividcover.image.flux.opening import Base, BaseFiles, base_files, open_base
from vividcover.image.flux.quant import Frozen
from vividcover.image.flux.schedule import levels, step
from vividcover.image.flux.tiles import tiled

PROMPTS = ["a photo of TOK on stage", "", "vivi singing " * 40]
SHAPES = {"dev": (True, 64), "schnell": (False, 64), "fill": (True, 384), "depth": (True, 128)}
SAME = 1e-5
torch.set_num_threads(1)


def opened(kind: str = "dev", **options: Any) -> Base:
    folder = tiny_flux_folder(*SHAPES[kind])
    return open_base(BaseFiles(folder, folder, folder, kind), **options)


@functools.cache
def stock(kind: str = "dev") -> Any:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(str(tiny_flux_folder(*SHAPES[kind])))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pixels(height: int = 48, width: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- the same as diffusers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dev", "schnell"])
def test_a_whole_sampling_gives_the_picture_of_diffusers(kind: str) -> None:
    width, height, steps, length = 96, 64, 5, 48
    theirs = stock(kind)(
        PROMPTS[0], width=width, height=height, num_inference_steps=steps, guidance_scale=3.0, output_type="pt",
        max_sequence_length=length, generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    base = opened(kind)
    text = base.encode_text(PROMPTS[:1], length)
    h, w = height // 8, width // 8
    x = pack(noise(width, height, 3))
    rope = base.flux.rotary(positions(h, w, length))
    guidance = torch.tensor([3.0]) if base.config.guidance else None
    with torch.inference_mode():
        for now, then in pairwise(levels(steps, x.shape[1], shifted=kind == "dev")):
            x = step(x, base.flux(x, text.tokens, text.pooled, now[None], guidance, rope=rope), now, then)
    ours = (base.decode(unpack(x, h, w)) / 2 + 0.5).clamp(0, 1)
    assert theirs.std() > 0.05
    assert torch.allclose(ours, theirs, rtol=0, atol=SAME)


@pytest.mark.parametrize("length", [16, 512])
def test_prompts_are_read_as_diffusers_reads_them(length: int) -> None:
    tokens, pooled, _ = stock().encode_prompt(prompt=PROMPTS, prompt_2=None, max_sequence_length=length, device="cpu")
    text = opened().encode_text(PROMPTS, length)
    assert text.tokens.shape == (3, length, 32)
    assert torch.allclose(text.tokens, tokens, atol=SAME)
    assert torch.allclose(text.pooled, pooled, atol=SAME)


def test_many_prompts_are_read_in_turns_and_each_as_alone() -> None:
    base = opened()
    many = base.encode_text([f"a photo of TOK {i}" for i in range(19)], 16)
    alone = base.encode_text(["a photo of TOK 17"], 16)
    assert torch.allclose(many.tokens[17], alone.tokens[0], atol=SAME)
    assert torch.allclose(many.pooled[17], alone.pooled[0], atol=SAME)


def test_text_encoders_are_read_under_their_published_names_too(tmp_path: Path) -> None:
    """Files of 2022 have one more level in CLIP's names, and T5's embedding twice."""
    whole = tiny_flux_folder()
    older = Path(shutil.copytree(whole, tmp_path / "older"))
    clip, t5 = (older / part / "model.safetensors" for part in ("text_encoder", "text_encoder_2"))
    save_file({f"text_model.{name}": tensor for name, tensor in load_file(clip).items()}, clip, {"format": "pt"})
    state = load_file(t5)
    save_file(state | {"encoder.embed_tokens.weight": state["shared.weight"].clone()}, t5, {"format": "pt"})
    wanted, found = (
        opened().encode_text(PROMPTS, 16),
        open_base(BaseFiles(whole, older, whole)).encode_text(PROMPTS, 16),
    )
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.pooled, wanted.pooled)


def test_latents_are_those_of_diffusers_and_the_mean_where_no_chance_is_asked_for() -> None:
    vae, base = stock().vae, opened()
    with torch.no_grad():
        said = vae.encode(pixels()).latent_dist
        mean, drawn = said.mode(), said.sample(torch.Generator().manual_seed(4))
    for found, wanted in (
        (base.encode_pictures(pixels()), mean),
        (base.encode_pictures(pixels(), torch.Generator().manual_seed(4)), drawn),
    ):
        assert found.shape == (2, 16, 6, 8)
        assert torch.allclose(found, (wanted - 0.1159) * 0.3611, atol=SAME)


def test_decoding_is_that_of_diffusers() -> None:
    latents = torch.randn(2, 16, 6, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = stock().vae.decode(latents / 0.3611 + 0.1159, return_dict=False)[0]
    assert torch.allclose(opened().decode(latents), theirs, atol=SAME)


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 0.03), (torch.float16, 0.01)])
def test_half_the_bits_give_nearly_the_same_latents_and_texts(dtype: torch.dtype, within: float) -> None:
    whole, half = opened(), opened(dtype=dtype)
    assert half.encode_text(PROMPTS, 16).tokens.dtype == dtype
    for one, other in (
        (whole.encode_pictures(pixels()), half.encode_pictures(pixels())),
        (whole.decode(torch.ones(1, 16, 4, 4)), half.decode(torch.ones(1, 16, 4, 4))),
        (whole.encode_text(PROMPTS, 16).pooled, half.encode_text(PROMPTS, 16).pooled.float()),
    ):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() < within * one.norm()


# --- tiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 56), (16, 100), (61, 16)])
def test_a_net_that_sees_only_one_place_gives_the_same_in_tiles(shape: tuple[int, int]) -> None:
    x = torch.randn(1, 4, *shape)

    def enlarged(part: Tensor) -> Tensor:
        return part.repeat_interleave(8, -1).repeat_interleave(8, -2) * 2 + 1

    assert torch.allclose(tiled(enlarged, x, 1, 8, tile=16), enlarged(x), atol=1e-5)
    wide = enlarged(x)
    assert torch.allclose(tiled(lambda part: part[..., ::8, ::8], wide, 8, 1, tile=16), wide[..., ::8, ::8], atol=1e-5)


def test_large_pictures_go_through_the_autoencoder_in_tiles_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened()
    random = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(1))
    latents = torch.nn.functional.interpolate(random, (40, 64), mode="bicubic")
    whole = base.decode(latents)
    again = base.encode_pictures(whole)
    monkeypatch.setattr(opening, "PIXELS_AT_ONCE", 256 * 256)
    monkeypatch.setattr(opening, "tiled", functools.partial(tiled, tile=32))
    parts = base.decode(latents)
    assert parts.shape == whole.shape == (1, 3, 320, 512)
    assert not torch.equal(parts, whole)
    assert alike(parts, whole) > 0.85  # not the same: the random net's norms see a tile, not the picture
    assert parts.diff(dim=-1).abs().mean((0, 1, 2)).max() < 1.3 * whole.diff(dim=-1).abs().mean((0, 1, 2)).max()
    assert alike(base.encode_pictures(whole), again) > 0.85


def alike(one: Tensor, other: Tensor) -> float:
    """Correlation."""
    return float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1])


# --- parts, files and kinds ---------------------------------------------------------------------------------------


def test_parts_are_loaded_when_they_are_used_and_freed_when_they_are_released() -> None:
    base = opened()
    assert base.loaded() == []
    base.encode_text([""], 16)
    assert base.loaded() == ["text"]
    base.release("text")
    base.decode(torch.zeros(1, 16, 4, 4))
    assert base.loaded() == ["vae"]
    flux = base.flux
    assert base.flux is flux
    assert base.loaded() == ["flux", "vae"]
    base.release("flux")
    assert base.flux is not flux
    base.release("text")  # which is not there: nothing to do


@pytest.mark.parametrize("quantise", ["int8", "nf4", "fp8"])
def test_a_quantised_base_holds_smaller_blocks(quantise: Any) -> None:
    flux = opened(quantise=quantise).flux
    assert isinstance(flux.double_blocks[0].img_qkv, Frozen)
    assert isinstance(flux.single_blocks[2].linear2, Frozen)
    assert type(flux.final_out) is torch.nn.Linear
    assert not any(p.is_meta for p in flux.parameters())


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    room = opening.room_on(torch.device("cpu"))
    assert room is None or room > 1e8
    assert opened().bytes_of_flux() > 500_000 > 100_000 > opened(quantise="nf4").bytes_of_flux()
    monkeypatch.setattr(opening, "room_on", lambda device: 100_000.0)
    assert opened(quantise="nf4").flux is not None
    with pytest.raises(EngineError, match=r"takes .* GB, and .* GB of cpu's memory are free"):
        _ = opened().flux
    monkeypatch.setattr(opening, "room_on", lambda device: None)
    monkeypatch.setattr(opening, "read_flux", out_of_memory)
    with pytest.raises(EngineError, match="does not suffice to load"):
        _ = opened().flux


def out_of_memory(*args: Any, **more: Any) -> None:
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("kind", SHAPES)
def test_a_transformer_of_another_kind_is_refused_for_what_it_is(kind: str) -> None:
    folder = tiny_flux_folder(*SHAPES[kind])
    assert open_base(BaseFiles(folder, folder, folder, kind)).kind == kind
    for other in set(SHAPES) - {kind}:
        with pytest.raises(ModelFileError, match=rf"not the transformer of FLUX.1 \[{other}\]: it is one of .*{kind}"):
            open_base(BaseFiles(folder, folder, folder, other))


class Weights:
    """A resolver over a dict."""

    def __init__(self, **files: Path) -> None:
        self.files = {name.replace("_", "-"): path for name, path in files.items()}

    def path(self, name: str) -> Path:
        if name not in self.files:
            raise WeightsError(f"The weights {name!r} are not there.")
        return self.files[name]

    def has(self, name: str) -> bool:
        return name in self.files


def test_a_whole_diffusers_folder_serves_for_all_and_single_files_take_what_is_shared(tmp_path: Path) -> None:
    whole = tiny_flux_folder()
    assert base_files("dev", Weights(flux_dev=whole)) == BaseFiles(whole, whole, whole, "dev")
    file = whole / "transformer" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(WeightsError, match="flux-text"):
        base_files("dev", Weights(flux_dev=file))
    files = base_files("dev", Weights(flux_dev=file, flux_text=whole, flux_vae=whole / "vae"))
    assert files == BaseFiles(file, whole, whole / "vae", "dev")
    assert open_base(files).decode(torch.zeros(1, 16, 4, 4)).shape == (1, 3, 32, 32)
    with pytest.raises(ParameterError, match="called 'pro'"):
        base_files("pro", Weights())


def test_folders_that_lack_something_are_named(tmp_path: Path) -> None:
    whole = tiny_flux_folder()
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    shutil.rmtree(broken / "tokenizer_2")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    base = open_base(BaseFiles(whole, broken, broken))
    with pytest.raises(WeightsError, match="tokenizer"):
        base.encode_text([""])
    with pytest.raises(WeightsError, match="autoencoder"):
        base.decode(torch.zeros(1, 16, 4, 4))
    with pytest.raises(ParameterError, match="quantise is 'int4'"):
        opened(quantise="int4")
