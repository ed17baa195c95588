"""Black Forest Labs' own names, as in the published checkpoint: `double_blocks.0.img_attn.qkv.lora_A.weight`.

ComfyUI's trainers write them with `diffusion_model.` in front, fal's with `base_model.model.`, and Black Forest Labs'
depth and canny LoRAs with nothing. Queries, keys, values (and the MLP of a single block) are rows of one matrix. The
last layer's modulation has its two halves, shift and scale, in the other order than diffusers.
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats.names import Covers, Style


def modules(config: FluxConfig) -> dict[str, Covers]:
    found = {
        "img_in": Covers(("x_embedder",)),
        "txt_in": Covers(("context_embedder",)),
        "final_layer.linear": Covers(("proj_out",)),
        "final_layer.adaLN_modulation.1": Covers(("norm_out.linear",), swapped=True),
    }
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    if config.guidance:
        embedders["guidance_in"] = "guidance_embedder"
    for ours, theirs in embedders.items():
        found[f"{ours}.in_layer"] = Covers((f"time_text_embed.{theirs}.linear_1",))
        found[f"{ours}.out_layer"] = Covers((f"time_text_embed.{theirs}.linear_2",))
    for i in range(config.double_blocks):
        found |= _double(f"double_blocks.{i}", f"transformer_blocks.{i}")
    for i in range(config.single_blocks):
        found |= _single(f"single_blocks.{i}", f"single_transformer_blocks.{i}")
    return found


def _double(ours: str, theirs: str) -> dict[str, Covers]:
    found: dict[str, Covers] = {}
    for stream, qkv, out, ff, norm in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context"),
    ):
        found |= {
            f"{ours}.{stream}_attn.qkv": Covers(tuple(f"{theirs}.attn.{part}" for part in qkv)),
            f"{ours}.{stream}_attn.proj": Covers((f"{theirs}.attn.{out}",)),
            f"{ours}.{stream}_mlp.0": Covers((f"{theirs}.{ff}.net.0.proj",)),
            f"{ours}.{stream}_mlp.2": Covers((f"{theirs}.{ff}.net.2",)),
            f"{ours}.{stream}_mod.lin": Covers((f"{theirs}.{norm}.linear",)),
        }
    return found


def _single(ours: str, theirs: str) -> dict[str, Covers]:
    return {
        f"{ours}.linear1": Covers((*(f"{theirs}.attn.to_{part}" for part in "qkv"), f"{theirs}.proj_mlp")),
        f"{ours}.linear2": Covers((f"{theirs}.proj_out",)),
        f"{ours}.modulation.lin": Covers((f"{theirs}.norm.linear",)),
    }


def modules_read(config: FluxConfig) -> dict[str, Covers]:
    """With one more that converters of XLabs' files write: the first rows of `linear1`."""
    attention = {
        f"single_blocks.{i}.linear1_qkv": Covers(
            tuple(f"single_transformer_blocks.{i}.attn.to_{part}" for part in "qkv")
        )
        for i in range(config.single_blocks)
    }
    return modules(config) | attention


def norms(config: FluxConfig) -> dict[str, str]:
    """The norms of queries and keys: this style's parameter → diffusers'."""
    found = {}
    for i in range(config.double_blocks):
        for stream, theirs in (("img", "norm"), ("txt", "norm_added")):
            for name, short in (("query", "q"), ("key", "k")):
                ours = f"double_blocks.{i}.{stream}_attn.norm.{name}_norm.scale"
                found[ours] = f"transformer_blocks.{i}.attn.{theirs}_{short}.weight"
    for i in range(config.single_blocks):
        for name, short in (("query", "q"), ("key", "k")):
            found[f"single_blocks.{i}.norm.{name}_norm.scale"] = (
                f"single_transformer_blocks.{i}.attn.norm_{short}.weight"
            )
    return found


PREFIX = "diffusion_model."  # with this and .lora_down, ComfyUI and diffusers read it too
STYLE = Style("bfl", (PREFIX, "", "model.diffusion_model.", "base_model.model.", "transformer."), modules_read, norms)
