"""The still as pixels: any picture file → upright sRGB; and sizes that video encoders take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vividcover.errors import ImageError
from vividcover.image.decode import Limits, decode
from vividcover.portrait.faces import Rgb
from vividcover.portrait.opencv import cv2

LARGEST = 3840  # px, longer side of a video
LIMITS = Limits(smallest=8, longest=2 * LARGEST, backdrop=(40, 40, 44), backdrop_name="dark grey")


def read_still(path: Path, notes: list[str] | None = None) -> Rgb:
    """A picture file → uint8 [H, W, 3] sRGB, turned as its EXIF says; `notes` gets what was mended on the way.

    Transparent parts lie on dark grey; CMYK, 16 bits and other colour spaces are converted; of animations the first
    picture counts. Raises `ImageError`.
    """
    if not path.is_file():
        raise ImageError(f"There is no picture at {path}.", "Check the path.")
    try:
        decoded = decode(path, LIMITS)
    except ImageError as error:
        raise ImageError(
            f"{path.name} cannot be read as a picture: {error.message}.", "Use a JPEG, PNG or WebP file."
        ) from error
    if notes is not None:
        notes.extend(f"The still: {note}." for note in decoded.notes)
    return np.asarray(decoded.rgb, np.uint8)


def even(still: Rgb, notes: list[str]) -> Rgb:
    """The still with even sides (H.264 needs them), and no longer than `LARGEST`; a note where it was made smaller."""
    height, width = still.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    if scale < 1.0:
        notes.append(f"The still is {width}x{height} px; the video is made at {LARGEST} px.")
        size = (max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2))
        return np.asarray(cv2.resize(still, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(still[: height // 2 * 2, : width // 2 * 2])
