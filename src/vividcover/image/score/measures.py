"""What can be measured on pictures without a net: sharpness, and how much several differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vividcover.image.score.panel import Rgb
from vividcover.portrait.opencv import cv2

SIDE = 1024  # px: long side at which sharpness is measured, so that size does not count
SMALL = 16  # cells a side of the thumbnail by which pictures are compared
SAME = 1.0  # Lab units: differences below are those of one picture saved twice
Cells = NDArray[np.float32]  # [256, 3] Lab


class Sharpness:
    """log10 of the variance of the Laplacian of a slightly smoothed picture: edges count, grain hardly."""

    name, meaning = "sharpness", "edges (log10 of the Laplacian's variance)"
    low, high = 0.1, 0.9  # a photograph blurred over 4 px; a crisp portrait

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str] = ()) -> list[float]:
        return [_edges(rgb) for rgb in pictures]


def _edges(rgb: Rgb) -> float:
    scale = SIDE / max(rgb.shape[:2])
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    size = (max(3, round(rgb.shape[1] * scale)), max(3, round(rgb.shape[0] * scale)))
    if scale != 1.0:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    return float(np.log10(cv2.Laplacian(smooth, cv2.CV_32F).var() + 1.0))


def thumbnail(rgb: Rgb) -> Cells:
    """Light and colour of 16 x 16 cells: what is where, as seen from far away."""
    small = cv2.resize(rgb, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.float32).reshape(-1, 3)


def diversity(pictures: Sequence[Rgb]) -> float:
    """How much pictures differ: 0 the same one again and again, 1 nothing in common; of fewer than two, 0.

    The mean over pairs of how far apart their cells are in colour, measured by how much colours vary within them.
    """
    if len(pictures) < 2:
        return 0.0
    seen = [thumbnail(rgb) for rgb in pictures]
    return float(np.mean([_apart(a, b) for a, b in combinations(seen, 2)]))


def _apart(a: Cells, b: Cells) -> float:
    away = float(np.linalg.norm(a - b, axis=1).mean())
    if away < SAME:
        return 0.0
    within = [float(np.linalg.norm(cells - cells.mean(0), axis=1).mean()) for cells in (a, b)]
    between = float(np.linalg.norm(a.mean(0) - b.mean(0)))
    return min(away / (sum(within) + between), 1.0)
