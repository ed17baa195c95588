"""LoRA files of every key style: all of it is read, at the right scale, or nothing is and the reason is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from lora_making import LAYER, STEM, TINY, H, State, alphas, bfl, kohya, lora, peft, refused, underscored
from vividcover.errors import ModelFileError, ParameterError
from vividcover.image.flux.config import block_targets, targets
from vividcover.image.flux.lorafile import EXPORTS, Lora, Pair, bake, check, read_lora, worst_difference, write_lora
from vividcover.tensors import metadata_of


def off(one: Lora, other: Lora) -> float:
    return worst_difference(one, other)[0]


# --- what every program writes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "state"),
    [
        ("diffusers", peft(lora())),
        ("diffusers", peft(lora(), prefix="")),
        ("diffusers", peft(lora(), prefix="diffusion_model.")),
        ("diffusers", peft(lora(), prefix="base_model.model.")),
        ("diffusers", peft(lora(), down="lora_A.default", up="lora_B.default")),
        ("diffusers", peft(lora(), down="lora_down", up="lora_up") | alphas(lora())),
        ("old diffusers", peft(lora(), down="lora.down", up="lora.up")),
        ("onetrainer", underscored(lora(), "lora_transformer_")),
        ("lycoris", underscored(lora(), "lycoris_")),
        ("kohya, diffusers' names", underscored(lora(), "lora_unet_")),
        ("kohya, diffusers' names", {n.replace(".", "_.", 1): t for n, t in underscored(lora(), "lora_unet_").items()}),
    ],
)
def test_the_same_lora_is_read_from_every_way_of_naming_single_layers(style: str, state: State) -> None:
    found = read_lora(save(state), TINY)
    assert off(lora(), found) == 0
    assert found.format == style
    assert found.notes == []


def test_onetrainers_newer_files_number_the_parts_of_fused_layers() -> None:
    source, state = lora(list(targets(TINY)), alpha=1.0), {}
    parts = {"to_q": 0, "to_k": 1, "to_v": 2, "add_q_proj": 0, "add_k_proj": 1, "add_v_proj": 2}
    ends = {
        "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2", "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
        "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
    }  # fmt: skip
    single = {"attn.to_q": "linear1.0", "attn.to_k": "linear1.1", "attn.to_v": "linear1.2", "proj_mlp": "linear1.3",
              "proj_out": "linear2", "norm.linear": "modulation.lin"}  # fmt: skip
    for name, pair in source.pairs.items():
        kind, _, rest = name.partition(".")
        number, _, end = rest.partition(".")
        last = end.rsplit(".", 1)[-1]
        if kind == "single_transformer_blocks":
            stem = f"single_blocks.{number}.{single[end]}"
        elif kind == "transformer_blocks" and last in parts:
            stem = f"double_blocks.{number}.{'txt' if 'add' in last else 'img'}_attn.qkv.{parts[last]}"
        elif kind == "transformer_blocks":
            stem = f"double_blocks.{number}.{ends[end]}"
        elif name == "x_embedder":
            stem = "img_in.proj"
        else:
            continue
        state |= {f"transformer.{stem}.lora_down.weight": pair.a, f"transformer.{stem}.lora_up.weight": pair.b}
        state[f"transformer.{stem}.alpha"] = torch.tensor(pair.alpha)
    shift, scale = source.pairs["norm_out.linear"].b.chunk(2)
    stem = "transformer.final_layer.adaLN_modulation.1"
    state |= {f"{stem}.lora_up.weight": torch.cat([scale, shift]), f"{stem}.alpha": torch.tensor(1.0)}
    state[f"{stem}.lora_down.weight"] = source.pairs["norm_out.linear"].a
    state |= {"t5.layers.0.q.lora_down.weight": torch.ones(4, 4), "bundle_emb.VIVI.clip_l": torch.ones(4, 4)}
    found = read_lora(save(state), TINY)
    wanted = {name: pair for name, pair in source.pairs.items() if name in found.pairs}
    assert (found.format, off(Lora(wanted), found), len(wanted)) == ("omi", 0, len(block_targets(TINY)) + 2)
    assert "2 tensors for the text encoder" in found.notes[0]


def test_fused_layers_come_apart_exactly_with_the_rank_that_each_had() -> None:
    for style, state in [
        ("kohya", kohya(lora())),
        ("bfl", bfl(lora(), "diffusion_model.")),
        ("bfl", bfl(lora(), "base_model.model.")),
        ("bfl", bfl(lora(), "")),
    ]:
        found = read_lora(save(state), TINY)
        assert found.format == style
        assert found.pairs.keys() == lora().pairs.keys()
        assert all(torch.equal(pair.a, lora().pairs[name].a) for name, pair in found.pairs.items())
        assert all(torch.equal(pair.b, lora().pairs[name].b) for name, pair in found.pairs.items())
        assert {pair.scale for pair in found.pairs.values()} == {1.0}


def test_kohyas_alpha_is_the_scale_in_every_part_of_a_fused_layer() -> None:
    quarter = lora(alpha=1.0)
    assert off(quarter, read_lora(save(kohya(lora(), alpha_per_rank=0.25)), TINY)) < 1e-7


def test_a_fused_layer_that_was_trained_whole_shares_its_a() -> None:
    name, rows = "double_blocks.0.img_attn.qkv", 3 * H
    a, b = torch.randn(4, H), torch.randn(rows, 4)
    found = read_lora(save({f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}), TINY)
    whole = torch.cat([found.pairs[f"transformer_blocks.0.attn.to_{x}"].delta() for x in "qkv"])
    assert torch.allclose(whole, b @ a)
    assert found.rank == 4


def test_parts_of_a_fused_layer_may_have_different_ranks_or_none(tmp_path: Path) -> None:
    source = lora(["single_transformer_blocks.0.attn.to_q"], rank=2)
    source = Lora(source.pairs | lora(["single_transformer_blocks.0.proj_mlp"], rank=5).pairs)
    for format in ("kohya", "bfl"):
        found = read_lora(write_lora(tmp_path / "x.safetensors", source, format, config=TINY), TINY)
        assert {name: pair.rank for name, pair in found.pairs.items()} == {
            "single_transformer_blocks.0.attn.to_q": 2, "single_transformer_blocks.0.proj_mlp": 5,
        }  # fmt: skip


def test_the_last_layers_modulation_has_its_halves_in_the_other_order() -> None:
    a, b = torch.randn(4, H), torch.randn(2 * H, 4)
    stem = "lora_unet_final_layer_adaLN_modulation_1"
    found = read_lora(save({f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}), TINY)
    shift, scale = b.chunk(2)
    assert torch.equal(found.pairs["norm_out.linear"].b, torch.cat([scale, shift]))


def test_xlabs_files_change_attention_only() -> None:
    state, wanted = {}, {}
    for i in range(TINY.double_blocks):
        for stream, parts in ((1, ["to_q", "to_k", "to_v"]), (2, ["add_q_proj", "add_k_proj", "add_v_proj"])):
            a, b = torch.randn(4, H), torch.randn(3 * H, 4)
            state[f"double_blocks.{i}.processor.qkv_lora{stream}.down.weight"] = a
            state[f"double_blocks.{i}.processor.qkv_lora{stream}.up.weight"] = b
            wanted |= {
                f"transformer_blocks.{i}.attn.{x}": Pair(a, y, 4.0) for x, y in zip(parts, b.chunk(3), strict=True)
            }
    a, b = torch.randn(4, H), torch.randn(3 * H, 4)
    state |= {"single_blocks.1.processor.qkv_lora.down.weight": a, "single_blocks.1.processor.qkv_lora.up.weight": b}
    parts = [f"single_transformer_blocks.1.attn.to_{x}" for x in "qkv"]
    wanted |= {x: Pair(a, y, 4.0) for x, y in zip(parts, b.chunk(3), strict=True)}
    a, b = torch.randn(4, H + TINY.mlp), torch.randn(H, 4)
    state |= {"single_blocks.1.processor.proj_lora.down.weight": a, "single_blocks.1.processor.proj_lora.up.weight": b}
    wanted["single_transformer_blocks.1.proj_out"] = Pair(a, b, 4.0)
    found = read_lora(save({name: tensor.contiguous() for name, tensor in state.items()}), TINY)
    assert (found.format, off(Lora(wanted), found)) == ("xlabs", 0)


def test_a_lora_of_the_attention_rows_of_a_single_block_is_read() -> None:
    a, b = torch.randn(4, H), torch.randn(3 * H, 4)
    stem = "diffusion_model.single_blocks.0.linear1_qkv"
    found = read_lora(save({f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}), TINY)
    whole = torch.cat([found.pairs[f"single_transformer_blocks.0.attn.to_{x}"].delta() for x in "qkv"])
    assert torch.allclose(whole, b @ a)


# --- products --------------------------------------------------------------------------------------------------------


def test_a_lokr_of_two_low_rank_factors_is_an_exact_pair() -> None:
    w1a, w1b, w2a, w2b = torch.randn(4, 2), torch.randn(2, 4), torch.randn(32, 2), torch.randn(2, 8)
    parts = {"lokr_w1_a": w1a, "lokr_w1_b": w1b, "lokr_w2_a": w2a, "lokr_w2_b": w2b, "alpha": torch.tensor(1.0)}
    found = read_lora(save({f"{STEM}.{name}": tensor for name, tensor in parts.items()}), TINY)
    wanted = torch.kron(w1a @ w1b, w2a @ w2b) * (1 / 2)  # alpha / dim
    assert torch.allclose(found.pairs[LAYER].delta(), wanted, atol=1e-5)
    assert (found.format, found.rank, found.notes) == ("lycoris LoKr", 4, [])


def test_a_lokr_of_two_whole_factors_has_the_scale_1_whatever_its_alpha_says() -> None:
    w1, w2 = torch.randn(2, 2), torch.randn(64, 16)
    parts = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1e9), "lokr_rank": torch.tensor(4)}
    found = read_lora(save({f"{STEM}.{name}": tensor for name, tensor in parts.items()}), TINY)
    assert torch.allclose(found.pairs[LAYER].delta(), torch.kron(w1, w2), atol=1e-4)


def test_a_loha_is_an_exact_pair_of_the_product_of_its_ranks() -> None:
    w1a, w1b, w2a, w2b = torch.randn(128, 3), torch.randn(3, 32), torch.randn(128, 3), torch.randn(3, 32)
    parts = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b, "alpha": torch.tensor(1.5)}
    found = read_lora(save({f"{STEM}.{name}": tensor for name, tensor in parts.items()}), TINY)
    assert torch.allclose(found.pairs[LAYER].delta(), (w1a @ w1b) * (w2a @ w2b) * 0.5, atol=1e-4)
    assert (found.format, found.rank) == ("lycoris LoHa", 9)


def test_a_product_of_too_high_a_rank_becomes_the_best_pair_there_is_and_says_what_it_lost() -> None:
    from vividcover.image.flux.formats.products import combine

    generator = torch.Generator().manual_seed(3)
    falling = torch.diag(0.7 ** torch.arange(48.0))
    w1, w2 = torch.randn(4, 4, generator=generator), torch.randn(96, 48, generator=generator) @ falling
    pair, loss = combine({"w1": w1, "w2": w2}, None, most_rank=24)
    whole = torch.kron(w1, w2)
    u, s, vt = torch.linalg.svd(whole, full_matrices=False)
    best = (u[:, :24] * s[:24]) @ vt[:24]
    error = float((pair.delta() - whole).norm() / whole.norm())
    assert pair.rank == 24
    assert error == pytest.approx(float((best - whole).norm() / whole.norm()), rel=1e-3)
    assert error == pytest.approx(loss, rel=1e-2)


def test_a_product_that_no_pair_comes_near_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vividcover.image.flux.formats import pairing, products

    few: Callable[..., tuple[Pair, float]] = lambda parts, alpha: products.combine(parts, alpha, most_rank=2)  # noqa: E731
    monkeypatch.setattr(pairing, "combine", few)
    state = {f"{STEM}.lokr_w1": torch.eye(2), f"{STEM}.lokr_w2": torch.randn(64, 16)}
    with pytest.raises(ModelFileError, match="no pair of moderate rank"):
        read_lora(save(state), TINY)


# --- scale -----------------------------------------------------------------------------------------------------------

ADAPTER = {"transformer.r": 4, "transformer.lora_alpha": 8}


def with_metadata(tmp_path: Path, state: State, settings: dict[str, object]) -> Lora:
    save_file(state, str(tmp_path / "x.safetensors"), {"lora_adapter_metadata": json.dumps(settings)})
    return read_lora(tmp_path / "x.safetensors", TINY)


def test_alpha_stands_in_tensors_in_the_metadata_or_is_the_rank(tmp_path: Path) -> None:
    assert {pair.scale for pair in read_lora(save(peft(lora())), TINY).pairs.values()} == {1.0}
    doubled = lora(alpha=8.0)
    assert off(doubled, read_lora(save(peft(lora()) | alphas(doubled)), TINY)) == 0
    assert off(doubled, with_metadata(tmp_path, peft(lora()), ADAPTER)) == 0


def test_the_metadatas_patterns_and_rslora_count(tmp_path: Path) -> None:
    pattern = {"transformer.alpha_pattern": {"transformer_blocks.0.attn.to_q": 2, "proj_mlp": 4}}
    found = with_metadata(tmp_path, peft(lora()), ADAPTER | pattern).pairs
    assert found["transformer_blocks.0.attn.to_q"].alpha == 2
    assert found["single_transformer_blocks.0.attn.to_q"].alpha == 8
    assert found["single_transformer_blocks.2.proj_mlp"].alpha == 4
    rslora = with_metadata(tmp_path, peft(lora()), ADAPTER | {"transformer.use_rslora": True}).pairs
    assert {pair.scale for pair in rslora.values()} == {8 / 4**0.5}


def test_where_alphas_are_missing_the_scale_is_1_as_in_every_program_and_a_doubt_is_said(tmp_path: Path) -> None:
    bare = {name: tensor for name, tensor in kohya(lora()).items() if not name.endswith(".alpha")}
    found = read_lora(save(bare), TINY)
    assert (off(lora(), found), found.notes) == (0, [])
    save_file(bare, str(tmp_path / "x.safetensors"), {"ss_network_alpha": "1.0", "ss_network_dim": "16"})
    found = read_lora(tmp_path / "x.safetensors", TINY)
    assert off(lora(), found) == 0
    assert "alpha 1.0 for rank 16: used as it is, with scale 1" in found.notes[0]


def test_a_layer_that_is_written_as_a_convolution_of_one_pixel_is_a_layer() -> None:
    state = {name: tensor[..., None, None].contiguous() for name, tensor in peft(lora()).items()}
    assert off(lora(), read_lora(save(state), TINY)) == 0


def test_pefts_own_file_takes_its_scale_from_the_settings_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file(peft(lora(), prefix="base_model.model."), str(path))
    assert "used with scale 1" in read_lora(path, TINY).notes[0]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_q": 2}}))
    found = read_lora(path, TINY)
    assert {pair.alpha for name, pair in found.pairs.items() if not name.endswith("to_q")} == {8}
    assert found.pairs["transformer_blocks.0.attn.to_q"].alpha == 2
    assert found.notes == []
    save_file(bfl(lora(), "base_model.model."), str(path))  # fal's: fused layers with one alpha for all
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12, "lora_alpha": 6, "alpha_pattern": {"qkv": 3}}))
    found = read_lora(path, TINY)
    assert found.pairs["transformer_blocks.1.attn.to_out.0"].scale == 6 / 4
    assert found.pairs["transformer_blocks.1.attn.add_k_proj"].scale == 3 / 12


def test_a_scale_that_cannot_be_known_is_refused(tmp_path: Path) -> None:
    some = dict(list(alphas(lora()).items())[:3])
    with pytest.raises(ModelFileError, match="alpha for 3 layers and none for 43"):
        read_lora(save(peft(lora()) | some), TINY)
    with pytest.raises(ModelFileError, match=r"contradicts itself: .* 4 in its tensors and 8 in its metadata"):
        with_metadata(tmp_path, peft(lora()) | alphas(lora()), ADAPTER)
    for wrong in (float("nan"), 0.0, float("inf")):
        with pytest.raises(ModelFileError, match="is no scale"):
            read_lora(save(peft(lora()) | alphas(lora(alpha=wrong))), TINY)


def test_baking_the_scale_changes_nothing_and_gives_a_a_power_of_two() -> None:
    for alpha in (1.0, 4.0, 3.3, -2.0, 1000.0):
        pair = next(iter(lora(alpha=alpha).pairs.values()))
        baked = bake(pair)
        assert baked.scale == 1
        assert torch.allclose(baked.delta(), pair.delta(), rtol=1e-5)
        ratio = baked.a[0, 0] / pair.a[0, 0]
        assert float(torch.log2(ratio)) == int(torch.log2(ratio))


# --- left out, and said ----------------------------------------------------------------------------------------------


def test_a_text_encoders_part_is_left_out_with_a_notice() -> None:
    more = {
        f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{x}.weight": torch.ones(4, 4) for x in ("lora_down", "lora_up")
    }
    found = read_lora(save(kohya(lora()) | more), TINY)
    assert off(lora(), found) == 0
    assert found.notes == ["2 tensors for the text encoder were left out: only the transformer's part is used."]


def test_changes_that_are_all_zero_are_left_out_with_a_notice() -> None:
    zero = {"lora_unet_double_blocks_0_img_attn_norm_key_norm.diff": torch.zeros(16),
            "lora_unet_double_blocks_0_img_attn_qkv.diff_b": torch.zeros(3 * H)}  # fmt: skip
    found = read_lora(save(kohya(lora()) | zero), TINY)
    assert (off(lora(), found), found.extras) == (0, {})
    assert "all zero" in found.notes[0]
    zero["lora_unet_double_blocks_0_img_attn_norm_key_norm.diff"][0] = 1
    refused(kohya(lora()) | zero, "lora_unet_double_blocks_0_img_attn_norm_key_norm.diff")


def test_a_dev_lora_is_read_for_schnell_without_what_schnell_does_not_have() -> None:
    source = lora(list(targets(TINY)))
    found = read_lora(save(peft(source)), replace(TINY, guidance=False))
    assert source.pairs.keys() - found.pairs.keys() == {f"time_text_embed.guidance_embedder.linear_{i}" for i in (1, 2)}
    assert "guidance" in found.notes[0]


def test_a_control_lora_is_refused_by_the_plain_model_and_read_by_the_control_model() -> None:
    control = replace(TINY, in_channels=128)
    source = lora(list(targets(control)), config=control)
    state = {name.replace("x_embedder", "img_in"): tensor for name, tensor in bfl(source, "").items()}
    pair = source.pairs["x_embedder"]
    state |= {"img_in.lora_A.weight": pair.a, "img_in.lora_B.weight": pair.b, "img_in.lora_B.bias": torch.ones(H)}
    state |= {"double_blocks.0.txt_attn.norm.query_norm.scale": torch.ones(16)}
    state |= {"single_blocks.2.linear1.lora_B.bias": torch.arange(float(3 * H + TINY.mlp))}
    refused(state, "128 input channels", "control LoRA (depth or canny)")
    found = read_lora(save(state), control)
    assert found.extras.keys() == {
        "x_embedder.bias", "transformer_blocks.0.attn.norm_added_q.weight", "single_transformer_blocks.2.proj_mlp.bias",
        *(f"single_transformer_blocks.2.attn.to_{x}.bias" for x in "qkv"),
    }  # fmt: skip
    assert torch.equal(found.extras["single_transformer_blocks.2.attn.to_k.bias"], torch.arange(float(H), 2.0 * H))


# --- written ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", EXPORTS)
@pytest.mark.parametrize("alpha", [None, 1.0, 2.7])
def test_what_is_written_is_the_same_lora_in_every_format(tmp_path: Path, format: str, alpha: float | None) -> None:
    for names in (block_targets(TINY), list(targets(TINY)), [LAYER]):
        source = lora(names, alpha=alpha)
        path = write_lora(tmp_path / "x.safetensors", source, format, dtype="fp32", config=TINY)
        found = read_lora(path, TINY)
        assert (found.format, off(source, found) < 2e-7) == (format, True)
        assert {pair.scale for pair in found.pairs.values()} == {1.0}
        assert off(source, read_lora(write_lora(path, source, format, config=TINY), TINY)) < 1e-3


def test_the_file_says_what_it_is_to_other_programs(tmp_path: Path) -> None:
    source = replace(lora(alpha=1.0), base="schnell", metadata={"trained_by": "me"})
    said = metadata_of(
        write_lora(tmp_path / "x.safetensors", source, config=TINY, metadata={"modelspec.title": "vivi"})
    )
    settings = json.loads(said["lora_adapter_metadata"])
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 4)
    assert settings["transformer.target_modules"] == sorted(source.pairs)
    assert said["modelspec.architecture"] == "flux-1-schnell/lora"
    assert (said["modelspec.title"], said["trained_by"], said["ss_network_dim"]) == ("vivi", "me", "4")
    assert read_lora(tmp_path / "x.safetensors", TINY).base == "schnell"


def test_what_a_file_does_not_say_is_not_made_up_and_what_no_longer_holds_is_left_out(tmp_path: Path) -> None:
    source = replace(lora(), metadata={"sshs_model_hash": "ab", "modelspec.hash_sha256": "cd", "ss_tag": "VIVI"})
    write_lora(tmp_path / "x.safetensors", source, "kohya", config=TINY)
    said = metadata_of(tmp_path / "x.safetensors")
    assert not {"sshs_model_hash", "modelspec.hash_sha256", "modelspec.architecture", "lora_adapter_metadata"} & set(
        said
    )
    assert said["ss_tag"] == "VIVI"
    assert read_lora(tmp_path / "x.safetensors", TINY).base == ""


def test_a_control_loras_norms_and_biases_survive_in_diffusers_names_only(tmp_path: Path) -> None:
    extras = {"proj_out.bias": torch.randn(64), "transformer_blocks.0.attn.norm_q.weight": torch.randn(16)}
    source = replace(lora(), extras=extras)
    found = read_lora(write_lora(tmp_path / "x.safetensors", source, dtype="fp32", config=TINY), TINY)
    assert found.extras.keys() == extras.keys()
    assert all(torch.equal(found.extras[name], extras[name]) for name in extras)
    with pytest.raises(ModelFileError, match="norms or biases"):
        write_lora(tmp_path / "y.safetensors", source, "kohya", config=TINY)


def test_a_lora_that_does_not_fit_is_not_written_and_leaves_no_file(tmp_path: Path) -> None:
    large = Lora({LAYER: Pair(torch.full((4, H), 1e3), torch.full((128, 4), 1e5), 4.0)})
    tiny = Lora({LAYER: Pair(torch.randn(4, H) * 1e-9, torch.randn(128, 4), 4.0)})
    other = Lora({"transformer_blocks.0.attn.to_z": Pair(torch.randn(4, H), torch.randn(128, 4), 4.0)})
    for source, said in (
        (large, "too large for fp16"),
        (tiny, "its numbers do not fit the format"),
        (other, r"does not have: transformer_blocks\.0\.attn\.to_z"),
        (Lora({}), "nothing to write"),
    ):
        with pytest.raises(ModelFileError, match=said):
            write_lora(tmp_path / "x.safetensors", source, config=TINY)
    with pytest.raises(ParameterError, match="Unknown LoRA format"):
        write_lora(tmp_path / "x.safetensors", lora(), "onnx", config=TINY)
    with pytest.raises(ParameterError, match="Unknown number format"):
        write_lora(tmp_path / "x.safetensors", lora(), dtype="fp8", config=TINY)
    assert list(tmp_path.iterdir()) == []
    write_lora(tmp_path / "x.safetensors", large, dtype="bf16", config=TINY)


def test_check_names_a_near_layer_and_what_is_of_the_wrong_shape() -> None:
    with pytest.raises(ModelFileError) as failure:
        check(Lora({"transformer_blocks.0.attn.to_w": Pair(torch.zeros(4, H), torch.zeros(H, 4), 4.0)}), TINY)
    assert "transformer_blocks.0.attn.to_" in failure.value.hint
    pair = Pair(torch.zeros(4, H), torch.zeros(128, 4), 4.0)
    for name, size in (("transformer_blocks.0.attn.norm_q.weight", 15), ("proj_out.bias", 3), ("proj_out.weight", 64)):
        with pytest.raises(ModelFileError, match=f"{name} has {size} numbers"):
            check(Lora({LAYER: pair}, extras={name: torch.zeros(size)}), TINY)
    with pytest.raises(ModelFileError, match=r"is 32 x 31, not 128 x 32"):
        check(Lora({LAYER: Pair(torch.zeros(4, 31), torch.zeros(32, 4), 4.0)}), TINY)
