"""LoRA files at FLUX.1's real size, and stock diffusers as the judge of what their keys mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from vividcover.image.flux.config import DEV, FluxConfig, block_targets, targets
from vividcover.image.flux.lorafile import Lora, Pair, read_lora, worst_difference, write_lora

State = dict[str, Tensor]
KNOWN = targets(DEV)
TINY = FluxConfig(
    double_blocks=2, single_blocks=3, heads=2, head_dim=16, text_width=32, pooled_width=32, axes=(4, 4, 8)
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """diffusers logs every key that it did not find, and what it did with each."""
    logging.disable(logging.WARNING)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


def real_lora(names: list[str] | None = None, rank: int = 2, alpha: float = 2.0) -> Lora:
    generator = torch.Generator().manual_seed(2)
    return Lora(
        {
            name: Pair(
                torch.randn(rank, KNOWN[name].inputs, generator=generator) * 0.02,
                torch.randn(KNOWN[name].outputs, rank, generator=generator) * 0.01,
                alpha,
            )
            for name in names or block_targets(DEV)
        }
    )


def as_diffusers_reads(source: Path | State) -> Lora:
    """The pairs that diffusers makes of a file, by its own conversion."""
    from diffusers import FluxPipeline

    state, scales = FluxPipeline.lora_state_dict(
        source if isinstance(source, dict) else str(source), return_alphas=True
    )
    pairs: dict[str, Pair] = {}
    for key in state:
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            a, b = state[key], state[f"{name}.lora_B.weight"]
            alpha = float((scales or {}).get(f"{name}.alpha", a.shape[0]))
            pairs[name.removeprefix("transformer.")] = Pair(a, b, alpha)
    return Lora(pairs)


def agreed(source: State | Path, most: float = 1e-6) -> tuple[Lora, Lora]:
    """Our reading and diffusers', which must be the same in every layer."""
    ours = read_lora(save(source) if isinstance(source, dict) else source)
    theirs = as_diffusers_reads(dict(source) if isinstance(source, dict) else source)
    assert worst_difference(theirs, ours)[0] < most
    return ours, theirs


def test_our_names_and_shapes_are_those_of_every_linear_layer_of_the_real_network() -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
    layers = {n: (m.out_features, m.in_features) for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    assert layers == {name: (target.outputs, target.inputs) for name, target in KNOWN.items()}
    assert len(block_targets(DEV)) == 494


@pytest.mark.parametrize(("format", "tensors"), [("diffusers", 988), ("kohya", 912), ("bfl", 912)])
def test_stock_diffusers_reads_each_of_our_exports_as_the_same_lora(tmp_path: Path, format: str, tensors: int) -> None:
    from safetensors import safe_open

    source = real_lora(alpha=0.5)  # the scale is a quarter
    path = write_lora(tmp_path / "x.safetensors", source, format, dtype="fp32")
    with safe_open(path, "pt") as file:
        assert len(list(file.keys())) == tensors
    ours, theirs = agreed(path)
    assert len(ours.pairs) == len(theirs.pairs) == 494
    assert worst_difference(source, theirs)[0] < 1e-6


def test_a_rank_16_lora_of_all_layers_has_the_published_size(tmp_path: Path) -> None:
    """ai-toolkit's rank 16 on all 494 layers has 85,917,696 numbers."""
    source = real_lora(rank=16, alpha=16.0)
    assert source.parameters == 85_917_696
    size = write_lora(tmp_path / "x.safetensors", source).stat().st_size
    assert 171_835_392 < size < 172_100_000


def bfl_fused(names: list[str], source: Lora, whole: bool) -> tuple[Tensor, Tensor]:
    pairs = [source.pairs[name] for name in names]
    if whole:
        return pairs[0].a, torch.cat([pair.b for pair in pairs])
    return torch.cat([pair.a for pair in pairs]), torch.block_diag(*(pair.b for pair in pairs))


def bfl_state(source: Lora, joint: str, down: str, up: str, whole: bool) -> State:
    """All blocks under BFL's names; `joint` stands between the words of a name."""
    found: State = {}

    def put(name: str, names: list[str]) -> None:
        a, b = bfl_fused(names, source, whole)
        found[f"{name.replace('.', joint)}.{down}.weight"] = a
        found[f"{name.replace('.', joint)}.{up}.weight"] = b

    for i in range(19):
        ours, theirs = f"double_blocks.{i}", f"transformer_blocks.{i}"
        put(f"{ours}.img_attn.qkv", [f"{theirs}.attn.to_{x}" for x in "qkv"])
        put(f"{ours}.txt_attn.qkv", [f"{theirs}.attn.add_{x}_proj" for x in "qkv"])
        for name, layer in {
            "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out", "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2", "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
            "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
        }.items():  # fmt: skip
            put(f"{ours}.{name}", [f"{theirs}.{layer}"])
    for i in range(38):
        ours, theirs = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        put(f"{ours}.linear1", [*(f"{theirs}.attn.to_{x}" for x in "qkv"), f"{theirs}.proj_mlp"])
        put(f"{ours}.linear2", [f"{theirs}.proj_out"])
        put(f"{ours}.modulation.lin", [f"{theirs}.norm.linear"])
    return found


EMBEDDERS = ["time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer"]
GUIDANCE = ["guidance_in.in_layer", "guidance_in.out_layer"]
ENDS = ["img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1"]
SHAPES = {
    "time_in.in_layer": (3072, 256), "vector_in.in_layer": (3072, 768), "guidance_in.in_layer": (3072, 256),
    "img_in": (3072, 64), "txt_in": (3072, 4096), "final_layer.linear": (64, 3072),
    "final_layer.adaLN_modulation.1": (6144, 3072),
}  # fmt: skip


def outer(names: list[str], joint: str, down: str, up: str) -> State:
    """Layers outside the blocks under BFL's names."""
    found = {}
    for name in names:
        rows, columns = SHAPES.get(name, (3072, 3072))
        found[f"{name.replace('.', joint)}.{down}.weight"] = torch.randn(2, columns)
        found[f"{name.replace('.', joint)}.{up}.weight"] = torch.randn(rows, 2)
    return found


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor.contiguous() for name, tensor in state.items()}


@pytest.mark.parametrize("whole", [True, False])
def test_kohyas_files_mean_what_diffusers_says_whether_a_fused_layer_was_trained_whole_or_in_parts(whole: bool) -> None:
    state = bfl_state(real_lora(), "_", "lora_down", "lora_up", whole)
    state |= {f"{name.split('.')[0]}.alpha": torch.tensor(0.5) for name in list(state) if "lora_down" in name}
    state |= outer([*EMBEDDERS, *GUIDANCE, *ENDS], "_", "lora_down", "lora_up")
    state |= {f"{n.replace('.', '_')}.alpha": torch.tensor(2.0) for n in (*EMBEDDERS, *GUIDANCE, *ENDS)}
    ours, _ = agreed(prefixed("lora_unet_", state))
    assert (len(ours.pairs), ours.format) == (504, "kohya")


def test_comfyuis_generic_names_mean_what_diffusers_says() -> None:
    state = bfl_state(real_lora(), ".", "lora_down", "lora_up", whole=True)
    ours, _ = agreed(prefixed("diffusion_model.", state))
    assert (len(ours.pairs), ours.format) == (494, "bfl")


def test_fals_names_mean_what_diffusers_says() -> None:
    state = bfl_state(real_lora(), ".", "lora_A", "lora_B", whole=True)
    state |= outer(["final_layer.linear"], ".", "lora_A", "lora_B")
    ours, _ = agreed(prefixed("base_model.model.", state))
    assert (len(ours.pairs), ours.format) == (495, "bfl")


def test_black_forest_labs_control_loras_mean_what_diffusers_says() -> None:
    state = bfl_state(real_lora(), ".", "lora_A", "lora_B", whole=True)
    state |= outer([*EMBEDDERS, *GUIDANCE, *ENDS], ".", "lora_A", "lora_B")
    state |= {"img_in.lora_A.weight": torch.randn(2, 128)}
    state |= {f"{name}.bias": torch.randn(t.shape[0]) for name, t in
              [(n.removesuffix(".weight"), t) for n, t in state.items() if n.endswith("lora_B.weight")]}  # fmt: skip
    for i in range(19):
        for stream in ("img", "txt"):
            for norm in ("query", "key"):
                state[f"double_blocks.{i}.{stream}_attn.norm.{norm}_norm.scale"] = torch.randn(128)
    for i in range(38):
        for norm in ("query", "key"):
            state[f"single_blocks.{i}.norm.{norm}_norm.scale"] = torch.randn(128)
    ours = read_lora(save(prefixed("", state)), FluxConfig(in_channels=128))
    from diffusers import FluxPipeline

    theirs = FluxPipeline.lora_state_dict(dict(state))
    judged = as_diffusers_reads(state)
    last = judged.pairs[
        "norm_out.linear"
    ]  # diffusers swaps the halves of A's rows as well as B's, which is its mistake:
    a = torch.cat([last.a[1:], last.a[:1]])  # A's rows are ranks. Undone here, with rank 2.
    judged.pairs["norm_out.linear"] = Pair(a, last.b, last.alpha)
    assert worst_difference(judged, ours)[0] < 1e-6
    assert (len(ours.pairs), len(ours.extras)) == (504, 504 + 2 * (2 * 19 + 38))
    for name, tensor in ours.extras.items():
        layer, end = name.rsplit(".", 1)
        key = f"transformer.{layer}.lora_B.bias" if end == "bias" else f"transformer.{name}"
        assert torch.equal(theirs[key], tensor), name


def test_xlabs_files_mean_what_diffusers_says() -> None:
    state: State = {}
    for i in range(19):
        for part in ("qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2"):
            state[f"double_blocks.{i}.processor.{part}.down.weight"] = torch.randn(2, 3072)
            state[f"double_blocks.{i}.processor.{part}.up.weight"] = torch.randn(9216 if "qkv" in part else 3072, 2)
    ours, _ = agreed(state)
    assert (len(ours.pairs), ours.format) == (19 * 8, "xlabs")


def test_onetrainers_files_mean_what_diffusers_says() -> None:
    source = real_lora([name for name in block_targets(DEV) if ".attn." in name], alpha=0.5)
    state: State = {}
    for name, pair in source.pairs.items():
        stem = "lora_transformer_" + name.replace(".", "_")
        state |= {f"{stem}.lora_down.weight": pair.a, f"{stem}.lora_up.weight": pair.b}
        state[f"{stem}.alpha"] = torch.tensor(pair.alpha)
    ours, _ = agreed(state)
    assert (len(ours.pairs), ours.format) == (19 * 8 + 38 * 3, "onetrainer")


# --- a whole pipeline, tiny -------------------------------------------------------------------------------------------


def tiny_pipeline() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=32, in_channels=64, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    nothing = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(**nothing, transformer=network)


def changes(pipeline: Any, before: State) -> dict[str, Tensor]:
    """What loading and fusing a LoRA does to each weight."""
    pipeline.fuse_lora()
    names = {name.replace(".base_layer", ""): tensor for name, tensor in pipeline.transformer.named_parameters()}
    return {
        name: names[f"{name}.weight"].detach() - before[f"{name}.weight"]
        for name in targets(TINY)
        if f"{name}.weight" in before
    }


@pytest.mark.parametrize("alpha", [4.0, 1.0])
def test_a_file_of_ours_changes_every_weight_of_a_stock_pipeline_as_it_should(tmp_path: Path, alpha: float) -> None:
    known = targets(TINY)
    generator = torch.Generator().manual_seed(5)
    ranks = {name: 2 if "norm" in name else 4 for name in block_targets(TINY)}
    source = Lora(
        {
            name: Pair(
                torch.randn(rank, known[name].inputs, generator=generator),
                torch.randn(known[name].outputs, rank, generator=generator), alpha,
            )
            for name, rank in ranks.items()
        }
    )  # fmt: skip
    pipeline = tiny_pipeline()
    before = {name: tensor.detach().clone() for name, tensor in pipeline.transformer.named_parameters()}
    pipeline.load_lora_weights(str(write_lora(tmp_path / "x.safetensors", source, dtype="fp32", config=TINY)))
    changed = changes(pipeline, before)
    for name in known:
        wanted = source.pairs[name].delta() if name in source.pairs else torch.zeros_like(changed[name])
        assert torch.allclose(changed[name], wanted, atol=1e-5), name


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
@pytest.mark.parametrize(
    "names", [["proj_out"], ["proj_out", "single_transformer_blocks.1.proj_out"], list(targets(TINY))]
)
def test_a_layer_whose_name_ends_others_names_is_meant_alone(tmp_path: Path, names: list[str]) -> None:
    known = targets(TINY)
    ranks = {name: 3 if name == "proj_out" else 4 for name in names}
    source = Lora(
        {n: Pair(torch.randn(r, known[n].inputs), torch.randn(known[n].outputs, r), 1.0) for n, r in ranks.items()}
    )
    pipeline = tiny_pipeline()
    before = {name: tensor.detach().clone() for name, tensor in pipeline.transformer.named_parameters()}
    pipeline.load_lora_weights(str(write_lora(tmp_path / "x.safetensors", source, dtype="fp32", config=TINY)))
    changed = changes(pipeline, before)
    for name in known:
        wanted = source.pairs[name].delta() if name in source.pairs else torch.zeros_like(changed[name])
        assert torch.allclose(changed[name], wanted, atol=1e-5), name


def test_what_stock_diffusers_saves_is_read_back_at_its_scale(tmp_path: Path) -> None:
    from diffusers import FluxPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = tiny_pipeline()
    before = {name: tensor.detach().clone() for name, tensor in pipeline.transformer.named_parameters()}
    config = LoraConfig(r=4, lora_alpha=10, target_modules=["to_q", "proj_mlp", "ff.net.2"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config)
    state = get_peft_model_state_dict(pipeline.transformer)
    metadata = {name: sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
    FluxPipeline.save_lora_weights(str(tmp_path), state, transformer_lora_adapter_metadata=metadata)
    found = read_lora(tmp_path / "pytorch_lora_weights.safetensors", TINY)
    assert {pair.scale for pair in found.pairs.values()} == {2.5}
    changed = changes(pipeline, before)
    for name, pair in found.pairs.items():
        assert torch.allclose(changed[name], pair.delta(), atol=1e-5), name
    bare = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(bare, str(tmp_path / "bare.safetensors"))  # PEFT's names, without `transformer.`
    assert read_lora(tmp_path / "bare.safetensors", TINY).pairs.keys() == found.pairs.keys()
