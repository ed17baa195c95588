"""Pictures that a model is given: opened as people have them, and the size to draw one like them at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST, LARGEST, GRID = 256, 1440, 32  # px, as the published models have them


def opened(path: Path) -> Image:
    """The picture, turned as its camera says. Raises `ImageError`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path.name} is not a picture: {error}.", "Give a JPEG, PNG or WebP.") from None


def fitting(width: int, height: int) -> tuple[int, int]:
    """The size nearest to a picture's that can be drawn: its shape, sides of 256 to 1440 px, a multiple of 32."""
    scale = min(1.0, LARGEST / max(width, height))
    scale = max(scale, SMALLEST / min(width, height))
    sides = (min(max(round(side * scale / GRID) * GRID, SMALLEST), LARGEST) for side in (width, height))
    return next(sides), next(sides)


def where(source: Image, mask: Path | None) -> Image:
    """Which part of a picture is to be made anew, white on black at its size: `mask`, or what is transparent in it.

    Raises `ImageError` when there is neither, or nothing white.
    """
    from PIL import Image as pillow

    if mask is not None:
        found = opened(mask).convert("L").resize(source.size, pillow.Resampling.BILINEAR)
    elif "A" in source.getbands():
        found = source.getchannel("A").point([255 - value for value in range(256)])
    else:
        raise ImageError("The picture has no transparency, and there is no mask.", "Give a mask: white is made anew.")
    if found.getextrema() == (0, 0):
        raise ImageError("The mask is black: nothing is to be made anew.", "Paint the part to change in white.")
    return found


def filled(picture: Path, mask: Path | None, scene: Path) -> Any:
    """`picture` with `scene` where the mask is white, or where the picture is transparent: uint8 [H,W,3].

    Raises `ImageError` as `where` does.
    """
    import numpy as np
    from PIL import Image as pillow

    source = opened(picture)
    share = np.asarray(where(source, mask), np.float32)[..., None] / 255
    with pillow.open(scene) as drawn:
        fresh = np.asarray(drawn.convert("RGB").resize(source.size, pillow.Resampling.LANCZOS), np.float32)
    base = np.asarray(source.convert("RGB"), np.float32)
    return np.rint(base + (fresh - base) * share).astype(np.uint8)
