"""kohya's sd-scripts, read natively by ComfyUI: `lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`.

Black Forest Labs' modules with underscores for dots. Each has an `.alpha`, and the change is alpha / rank times the
product; sd-scripts' own default is alpha 1, so a reader that forgets it is wrong by the rank.
"""

from __future__ import annotations

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats import bfl, diffusers
from vividcover.image.flux.formats.names import Covers, Style, underscored

PREFIX = "lora_unet_"


def modules(config: FluxConfig) -> dict[str, Covers]:
    return underscored(bfl.modules(config))


def modules_diffusers(config: FluxConfig) -> dict[str, Covers]:
    """Diffusers' modules under the same prefix, as some trainers write them; one of them ends each with a `_`."""
    found = underscored(diffusers.modules(config))
    return found | {f"{name}_": covers for name, covers in found.items()}


STYLE = Style("kohya", (PREFIX,), modules)
STYLE_DIFFUSERS = Style("kohya, diffusers' names", (PREFIX,), modules_diffusers)
