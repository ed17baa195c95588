"""The numbers of FLUX.1's transformer, and the names of the linear layers that a LoRA may change.

Names are those of the diffusers library's `FluxTransformer2DModel`, which most LoRA files use. Our network computes
some of them as one: `to_q`, `to_k`, `to_v` are rows of one matrix. `targets` says which rows of which layer a name is.

Numbers: the model's published `config.json`. The division into layers: Black Forest Labs' flux repository (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATCH = 2  # latent pixels on each side of a token
LATENT_CHANNELS = 16
DOWN = 8  # pixels on each side of a latent pixel


@dataclass(frozen=True)
class FluxConfig:
    """The shape of the transformer. `heads * head_dim` is the hidden width."""

    in_channels: int = 64  # latent channels x PATCH²; more where a picture is given beside the noise
    out_channels: int = 64
    double_blocks: int = 19
    single_blocks: int = 38
    heads: int = 24
    head_dim: int = 128
    text_width: int = 4096  # T5
    pooled_width: int = 768  # CLIP
    guidance: bool = True  # dev takes the guidance scale as an input; schnell does not
    axes: tuple[int, int, int] = (16, 56, 56)  # of a head, for the rotary embedding: none, row, column
    theta: float = 10_000.0
    mlp_ratio: int = 4

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim

    @property
    def mlp(self) -> int:
        return self.hidden * self.mlp_ratio


DEV = FluxConfig()
SCHNELL = FluxConfig(guidance=False)
FILL = FluxConfig(in_channels=384)  # noise 64 + masked picture 64 + mask 256
CONTROL = FluxConfig(in_channels=128)  # noise 64 + depth or edges 64


@dataclass(frozen=True)
class Target:
    """A linear layer by diffusers' name: rows `start` to `stop` of the layer `module` of our network."""

    module: str
    start: int
    stop: int
    inputs: int  # width of what goes in

    @property
    def outputs(self) -> int:
        return self.stop - self.start


def targets(config: FluxConfig = DEV) -> dict[str, Target]:
    """Every linear layer of the network by its name in diffusers, in the network's order."""
    h, mlp = config.hidden, config.mlp
    found: dict[str, Target] = {
        "x_embedder": Target("img_in", 0, h, config.in_channels),
        "context_embedder": Target("txt_in", 0, h, config.text_width),
        **_embedder("timestep_embedder", "time_in", 256, h),
        **_embedder("text_embedder", "vector_in", config.pooled_width, h),
        **(_embedder("guidance_embedder", "guidance_in", 256, h) if config.guidance else {}),
    }
    for i in range(config.double_blocks):
        theirs, ours = f"transformer_blocks.{i}", f"double_blocks.{i}"
        for stream, qkv, out, ff, norm in (
            ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context"),
        ):
            for part, name in enumerate(qkv):
                found[f"{theirs}.attn.{name}"] = Target(f"{ours}.{stream}_qkv", part * h, (part + 1) * h, h)
            found[f"{theirs}.attn.{out}"] = Target(f"{ours}.{stream}_proj", 0, h, h)
            found[f"{theirs}.{ff}.net.0.proj"] = Target(f"{ours}.{stream}_mlp_in", 0, mlp, h)
            found[f"{theirs}.{ff}.net.2"] = Target(f"{ours}.{stream}_mlp_out", 0, h, mlp)
            found[f"{theirs}.{norm}.linear"] = Target(f"{ours}.{stream}_mod", 0, 6 * h, h)
    for i in range(config.single_blocks):
        theirs, ours = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        for part, name in enumerate(("to_q", "to_k", "to_v")):
            found[f"{theirs}.attn.{name}"] = Target(f"{ours}.linear1", part * h, (part + 1) * h, h)
        found[f"{theirs}.proj_mlp"] = Target(f"{ours}.linear1", 3 * h, 3 * h + mlp, h)
        found[f"{theirs}.proj_out"] = Target(f"{ours}.linear2", 0, h, h + mlp)
        found[f"{theirs}.norm.linear"] = Target(f"{ours}.mod", 0, 3 * h, h)
    found["norm_out.linear"] = Target("final_mod", 0, 2 * h, h)  # diffusers' order: scale, shift
    found["proj_out"] = Target("final_out", 0, config.out_channels, h)
    return found


def _embedder(theirs: str, ours: str, width: int, hidden: int) -> dict[str, Target]:
    return {
        f"time_text_embed.{theirs}.linear_1": Target(f"{ours}.first", 0, hidden, width),
        f"time_text_embed.{theirs}.linear_2": Target(f"{ours}.second", 0, hidden, hidden),
    }


def block_targets(config: FluxConfig = DEV) -> list[str]:
    """What a trainer changes unless told otherwise: all layers inside the blocks (494 of FLUX.1's)."""
    return [name for name in targets(config) if "transformer_blocks." in name]


def from_published(values: Mapping[str, Any]) -> FluxConfig:
    """The config of a diffusers folder's `transformer/config.json`."""
    axes = values.get("axes_dims_rope", DEV.axes)
    channels = int(values.get("in_channels", DEV.in_channels))
    return FluxConfig(
        in_channels=channels, out_channels=int(values.get("out_channels") or channels),
        double_blocks=int(values["num_layers"]), single_blocks=int(values["num_single_layers"]),
        heads=int(values["num_attention_heads"]), head_dim=int(values["attention_head_dim"]),
        text_width=int(values["joint_attention_dim"]), pooled_width=int(values["pooled_projection_dim"]),
        guidance=bool(values.get("guidance_embeds", False)), axes=(int(axes[0]), int(axes[1]), int(axes[2])),
    )  # fmt: skip
