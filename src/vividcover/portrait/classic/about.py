"""The classic renderer in a list of renderers (`portrait/renderers.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vividcover.portrait.renderers import About, Means

if TYPE_CHECKING:
    from vividcover.portrait.render import Renderer

ABOUT = About(
    "classic",
    "The photo itself is warped: mouth, eyes, head, camera and light follow the vocals. No diffusion, any processor.",
    "classic",
    nets=("face_detection_short_range", "face_landmark", "selfie_segmentation"),
    licence="Apache-2.0",
    commercial=True,
    ignores={"paste_back": "it moves the whole still, or with keep_resolution off a piece of it"},
)


def open_renderer(means: Means) -> Renderer:
    from vividcover.portrait.classic.portrait import ClassicRenderer

    return ClassicRenderer(means.kit)
