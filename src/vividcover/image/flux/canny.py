"""Edges for FLUX Canny: white lines of one pixel on black, found by OpenCV at the size of the picture to paint.

FLUX.1 Canny was trained on OpenCV's detector over the three colour channels with thresholds 50 and 200 (Black Forest
Labs' flux repository, Apache-2.0, `CannyImageEncoder`), so nothing else will do.
"""

from __future__ import annotations

import cv2
import numpy as np

from vividcover.image.flux.request import Rgb


def edges(rgb: Rgb, low: int = 50, high: int = 200) -> Rgb:
    """The edges of a picture [H,W,3]: 255 on a line, else 0.

    A pixel whose gradient (L1, of the strongest channel) is over `high` is a line, and so is one over `low` that
    touches a line.
    """
    found = cv2.Canny(np.ascontiguousarray(rgb), low, high)
    return np.repeat(found[..., None], 3, axis=2).astype(np.uint8)
