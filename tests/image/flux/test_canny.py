"""Edges as FLUX Canny was trained on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vividcover.image.flux.canny import edges


def slow_canny(rgb: np.ndarray, low: int, high: int) -> np.ndarray:
    """The algorithm as its paper and OpenCV's manual tell it: Sobel, L1 norm, thinning, two thresholds."""
    wide = cv2.copyMakeBorder(rgb, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.int32)
    a, b, c = wide[:-2], wide[1:-1], wide[2:]
    dx = (a + 2 * b + c)[:, 2:] - (a + 2 * b + c)[:, :-2]
    dy = (c - a)[:, :-2] + 2 * (c - a)[:, 1:-1] + (c - a)[:, 2:]
    size = abs(dx) + abs(dy)
    strongest = size.argmax(axis=2)[..., None]
    dx, dy, size = (np.take_along_axis(v, strongest, axis=2)[..., 0] for v in (dx, dy, size))
    height, width = size.shape
    around = np.pad(size, 1)
    weak = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            m, gx, gy = size[y, x], abs(int(dx[y, x])), abs(int(dy[y, x])) << 15
            if m <= low:
                continue
            flat = gx * 13573  # tan 22.5° with 15 binary places
            if gy < flat:
                before, after, first = around[y + 1, x], around[y + 1, x + 2], True
            elif gy > flat + (gx << 16):
                before, after, first = around[y, x + 1], around[y + 2, x + 1], True
            else:
                s = -1 if (dx[y, x] < 0) != (dy[y, x] < 0) else 1
                before, after, first = around[y, x + 1 - s], around[y + 2, x + 1 + s], False
            weak[y, x] = m > before and (m >= after if first else m > after)
    _, labels = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
    strong = np.unique(labels[weak & (size > high)])
    return np.where(np.isin(labels, strong[strong > 0]), 255, 0).astype(np.uint8)


@pytest.mark.parametrize(("low", "high"), [(50, 200), (100, 300), (0, 500), (200, 200)])
def test_edges_are_those_of_the_algorithm_pixel_for_pixel(low: int, high: int) -> None:
    noise = np.random.default_rng(low).integers(0, 256, (48, 56, 3)).astype(np.uint8)
    rgb = cv2.GaussianBlur(noise, (0, 0), 2) * 3 // 2
    assert (edges(rgb, low, high)[..., 0] == slow_canny(rgb, low, high)).all()


def test_a_step_is_one_white_line() -> None:
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, 16:] = (0, 255, 0)
    found = edges(rgb)
    assert found.shape == (32, 32, 3)
    assert set(np.unique(found)) == {0, 255}
    assert (found[..., 0].sum(axis=1) == 255).all()


def test_a_faint_line_counts_only_where_it_touches_a_strong_one() -> None:
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:20, 20:] = 30  # under the high threshold
    assert not edges(rgb, 50, 200).any()
    rgb[20:, 20:] = 200
    assert edges(rgb, 50, 200)[:18].any()
