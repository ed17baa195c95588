"""OneTrainer, in both of its styles.

The older: `lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight`, diffusers' modules with underscores for
dots. The newer, of the Open Model Initiative: `transformer.double_blocks.0.img_attn.qkv.0.lora_down.weight`, Black
Forest Labs' modules, where the parts of a fused layer are numbered instead of fused. Both with `.alpha`.
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats import bfl, diffusers
from vividcover.image.flux.formats.names import Covers, Style, underscored


def modules(config: FluxConfig) -> dict[str, Covers]:
    return underscored(diffusers.modules(config))


def modules_omi(config: FluxConfig) -> dict[str, Covers]:
    """Layers that are not fused have the same names as in `bfl`."""
    found = {"img_in.proj": Covers(("x_embedder",))}
    for name, covers in bfl.modules(config).items():
        if len(covers.names) > 1:
            found |= {f"{name}.{i}": Covers((layer,)) for i, layer in enumerate(covers.names)}
        else:
            found[name] = covers
    return found


STYLE = Style("onetrainer", ("lora_transformer_",), modules)
STYLE_OMI = Style("omi", ("transformer.", "diffusion_model.", "lora_transformer_", ""), modules_omi)
