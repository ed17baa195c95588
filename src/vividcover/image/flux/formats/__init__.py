"""The ways in which programs name the tensors of a LoRA for FLUX.1: one small file for each, all of them tables.

A file's key is a prefix, a module's name and a part: `lora_unet_` + `single_blocks_0_linear2` + `.lora_down.weight`.
A `Style` knows its prefixes and its modules' names; the parts (`formats/parts.py`) are the same for all.
"""

from __future__ import annotations

from vividcover.image.flux.formats import bfl, diffusers, kohya, lycoris, onetrainer, xlabs
from vividcover.image.flux.formats.names import Covers, Style

STYLES: tuple[Style, ...] = (
    diffusers.STYLE, kohya.STYLE, bfl.STYLE, onetrainer.STYLE, lycoris.STYLE, lycoris.STYLE_BFL, xlabs.STYLE,
    kohya.STYLE_DIFFUSERS, onetrainer.STYLE_OMI,
)  # fmt: skip
EXPORTS = ("diffusers", "kohya", "bfl")

__all__ = ["EXPORTS", "STYLES", "Covers", "Style"]
