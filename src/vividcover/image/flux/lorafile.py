"""A LoRA in memory: for each changed layer of FLUX two thin matrices, under diffusers' name of the layer.

    lora = read_lora(Path("vivi.safetensors"))          # any published key style; its name is lora.format
    write_lora(Path("out.safetensors"), lora)           # diffusers' names; "kohya" and "bfl" for other programs

The parts: `formats/pairs.py` (what a LoRA is), `formats/reading.py`, `formats/writing.py`, a table for each key style.
"""

from __future__ import annotations

from vividcover.image.flux.formats import EXPORTS
from vividcover.image.flux.formats.checks import check
from vividcover.image.flux.formats.pairs import Lora, Pair
from vividcover.image.flux.formats.reading import base_of, read_lora
from vividcover.image.flux.formats.writing import bake, worst_difference, write_lora

__all__ = ["EXPORTS", "Lora", "Pair", "bake", "base_of", "check", "read_lora", "worst_difference", "write_lora"]
