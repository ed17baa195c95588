"""XLabs' x-flux: `double_blocks.0.processor.qkv_lora1.down.weight`; 1 is the picture's stream, 2 the text's. No alpha.

In single blocks only queries, keys and values of `linear1` are changed.
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats.names import Covers, Style


def modules(config: FluxConfig) -> dict[str, Covers]:
    found: dict[str, Covers] = {}
    for i in range(config.double_blocks):
        ours, theirs = f"double_blocks.{i}.processor", f"transformer_blocks.{i}.attn"
        found |= {
            f"{ours}.qkv_lora1": Covers(tuple(f"{theirs}.to_{part}" for part in "qkv")),
            f"{ours}.qkv_lora2": Covers(tuple(f"{theirs}.add_{part}_proj" for part in "qkv")),
            f"{ours}.proj_lora1": Covers((f"{theirs}.to_out.0",)),
            f"{ours}.proj_lora2": Covers((f"{theirs}.to_add_out",)),
        }
    for i in range(config.single_blocks):
        ours, theirs = f"single_blocks.{i}.processor", f"single_transformer_blocks.{i}"
        found |= {
            f"{ours}.qkv_lora": Covers(tuple(f"{theirs}.attn.to_{part}" for part in "qkv")),
            f"{ours}.proj_lora": Covers((f"{theirs}.proj_out",)),
        }
    return found


STYLE = Style("xlabs", ("", "diffusion_model."), modules)
