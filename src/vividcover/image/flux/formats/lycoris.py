"""LyCORIS: `lycoris_transformer_blocks_0_attn_to_q.lokr_w1`, as SimpleTuner writes it.

Diffusers' modules with underscores for dots; beside plain pairs, Kronecker and Hadamard products (`products.py`).
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats import bfl, diffusers
from vividcover.image.flux.formats.names import Covers, Style, underscored

PREFIX = "lycoris_"


def modules(config: FluxConfig) -> dict[str, Covers]:
    return underscored(diffusers.modules(config))


def modules_bfl(config: FluxConfig) -> dict[str, Covers]:
    return underscored(bfl.modules(config))


STYLE = Style("lycoris", (PREFIX,), modules)
STYLE_BFL = Style("lycoris, BFL's names", (PREFIX,), modules_bfl)
