"""The captioner that needs no model: says nothing of a photo but its trigger word."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from vividcover.image.captions.text import Wording


class Template:
    """Every caption is `a photo of TRIGGER`, `in the style of TRIGGER` (a style) or the trigger word (general)."""

    name = "template"

    def describe(self, rgb: NDArray[Any], wording: Wording) -> str:
        return ""  # what is held of it is the trigger word, which `compose` introduces
