"""LoRAs of random numbers for a tiny FLUX, and files of them as each program names its tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import FluxConfig, block_targets, targets
from vividcover.image.flux.lorafile import Lora, Pair, read_lora

TINY = FluxConfig(
    double_blocks=2, single_blocks=3, heads=2, head_dim=16, text_width=32, pooled_width=32, axes=(4, 4, 8)
)
H = TINY.hidden
LAYER = "transformer_blocks.0.ff.net.0.proj"  # [128, 32]
STEM = "lycoris_transformer_blocks_0_ff_net_0_proj"
State = dict[str, Tensor]


def lora(names: list[str] | None = None, rank: int = 4, alpha: float | None = None, config: FluxConfig = TINY) -> Lora:
    generator = torch.Generator().manual_seed(1)
    known = targets(config)
    pairs = {
        name: Pair(
            torch.randn(rank, known[name].inputs, generator=generator) * 0.1,
            torch.randn(known[name].outputs, rank, generator=generator) * 0.01,
            rank if alpha is None else alpha,
        )
        for name in names or block_targets(config)
    }
    return Lora(pairs)


def peft(
    source: Lora, prefix: str = "transformer.", down: str = "lora_A", up: str = "lora_B", end: str = "weight"
) -> State:
    """Diffusers' and PEFT's names."""
    found = {}
    for name, pair in source.pairs.items():
        found[f"{prefix}{name}.{down}.{end}"] = pair.a
        found[f"{prefix}{name}.{up}.{end}"] = pair.b
    return found


def alphas(source: Lora, prefix: str = "transformer.") -> State:
    return {f"{prefix}{name}.alpha": torch.tensor(pair.alpha) for name, pair in source.pairs.items()}


def underscored(source: Lora, prefix: str) -> State:
    """OneTrainer's and LyCORIS' names."""
    found = {}
    for name, pair in source.pairs.items():
        stem = prefix + name.replace(".", "_")
        found |= {f"{stem}.lora_down.weight": pair.a, f"{stem}.lora_up.weight": pair.b}
        found[f"{stem}.alpha"] = torch.tensor(pair.alpha)
    return found


def fused(source: Lora, names: list[str]) -> tuple[Tensor, Tensor]:
    """A and B of a layer that holds several: B on the diagonal."""
    pairs = [source.pairs[name] for name in names]
    return torch.cat([pair.a for pair in pairs]), torch.block_diag(*(pair.b for pair in pairs))


def bfl_names(source: Lora, config: FluxConfig = TINY) -> dict[str, tuple[Tensor, Tensor]]:
    """The blocks under Black Forest Labs' names, written out by hand as their checkpoint has them."""
    found = {}
    for i in range(config.double_blocks):
        ours, theirs = f"double_blocks.{i}", f"transformer_blocks.{i}"
        found[f"{ours}.img_attn.qkv"] = fused(source, [f"{theirs}.attn.to_{x}" for x in "qkv"])
        found[f"{ours}.txt_attn.qkv"] = fused(source, [f"{theirs}.attn.add_{x}_proj" for x in "qkv"])
        for name, layer in {
            "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out", "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2", "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
            "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
        }.items():  # fmt: skip
            found[f"{ours}.{name}"] = fused(source, [f"{theirs}.{layer}"])
    for i in range(config.single_blocks):
        ours, theirs = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        found[f"{ours}.linear1"] = fused(source, [*(f"{theirs}.attn.to_{x}" for x in "qkv"), f"{theirs}.proj_mlp"])
        found[f"{ours}.linear2"] = fused(source, [f"{theirs}.proj_out"])
        found[f"{ours}.modulation.lin"] = fused(source, [f"{theirs}.norm.linear"])
    return found


def kohya(source: Lora, alpha_per_rank: float = 1.0) -> State:
    found = {}
    for name, (a, b) in bfl_names(source).items():
        stem = "lora_unet_" + name.replace(".", "_")
        found |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
        found[f"{stem}.alpha"] = torch.tensor(alpha_per_rank * a.shape[0])
    return found


def bfl(source: Lora, prefix: str) -> State:
    return {
        f"{prefix}{name}.lora_{letter}.weight": tensor
        for name, pair in bfl_names(source).items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


def refused(state: State, *said: str) -> None:
    """The file is refused with a hint and a message that has all these words."""
    with pytest.raises(ModelFileError) as failure:
        read_lora(save({name: tensor.contiguous() for name, tensor in state.items()}), TINY, "vivi.safetensors")
    for words in ("vivi.safetensors", *said):
        assert words in failure.value.message
    assert failure.value.hint
