"""OneTrainer: `lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight`, with `.alpha`.

Diffusers' modules with underscores for dots.
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats import diffusers
from vividcover.image.flux.formats.names import Covers, Style, underscored


def modules(config: FluxConfig) -> dict[str, Covers]:
    return underscored(diffusers.modules(config))


STYLE = Style("onetrainer", ("lora_transformer_",), modules)
