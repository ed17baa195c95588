"""The animated crop put back into the whole still: edges that fade, colours that match, and nothing else touched.

Networks drift in colour, and what they draw is never quite as light as the photo. Both are seen at the crop's edge, so
they are measured there: mean and spread in CIELAB (after Reinhard et al. 2001, "Color Transfer between Images"), of the
same pixels in still and frame, and only where both show the same thing: hair and shoulders that move do not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.faces import Plane, Rgb
from vividcover.portrait.framing import Framing
from vividcover.portrait.opencv import cv2
from vividcover.portrait.stills import even

Lab = NDArray[np.float32]  # [N, 3]: L 0..100, a, b

FEATHER = 0.09  # of the crop's side: how wide its edges fade
RING = 0.14  # of its side: how wide the border is in which colours are measured
LOOK = 96  # px, side at which they are
SETTLED = 25  # frames (1 s) whose measurements count alike; after that each counts as much as …
SLOW = 250  # … one in this many (10 s)
SAME = 12.0  # ΔE beyond the usual difference from which pixels show something else
MOST_SHIFT = 15.0  # of L, a and b; and …
MOST_GAIN = 1.3  # … of their spread: more is no drift, but another picture
STEADY = 2.0  # added to both spreads, so that a flat background tells nothing about contrast
SAMPLES = 24  # colours along a side of the first frame by which the correction becomes a matrix
ENLARGED = 1.5  # beyond this many times, it is said that the face will look softer than the rest


class Paste:
    """Puts frames of a `framing` back into its `still`. `put` is called with the frames in their order.

    `size` (width, height) is even, at most 3840 px; `notes` says what people should know.
    """

    def __init__(self, still: Rgb, framing: Framing) -> None:
        notes: list[str] = []
        self.picture = even(still, notes)
        height, width = self.picture.shape[:2]
        self.size = width, height
        self.box = _scaled(framing.box, still, self.picture)
        left, top, right, bottom = self.box
        whole = still.shape[1], still.shape[0]
        touches = (framing.box[0] <= 0, framing.box[1] <= 0, framing.box[2] >= whole[0], framing.box[3] >= whole[1])
        self._weight = _fading(right - left, bottom - top, touches)
        self._rest = 1.0 - self._weight
        self._under = np.ascontiguousarray(self.picture[top:bottom, left:right])
        small = cv2.resize(_piece(still, framing.box), (LOOK, LOOK), interpolation=cv2.INTER_AREA)
        self._ring = _ring(framing.mask)
        self._wanted = _lab(np.asarray(small, np.uint8))[self._ring]
        self._seen: NDArray[np.float64] | None = None  # [4, 3]: means and spreads, of the still and of frames so far
        self._count = 0
        self._colours: Rgb | None = None
        times = (right - left) / framing.size[0]
        if times > ENLARGED:
            notes.append(
                f"The face is drawn at {framing.size[0]} px and enlarged {times:.1f} times: it will be softer "
                "than the still around it. A larger min_resolution gives more detail."
            )
        self.notes = tuple(notes)

    def put(self, rgb: Rgb) -> Rgb:
        """A frame uint8 [h, w, 3] of the crop, of any size → the whole picture uint8 [H, W, 3]."""
        self._look(rgb)
        left, top, right, bottom = self.box
        matched = cv2.transform(rgb, self._matrix())
        shrinks = rgb.shape[0] > bottom - top
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        piece = cv2.resize(matched, (right - left, bottom - top), interpolation=how)
        picture = self.picture.copy()
        picture[top:bottom, left:right] = cv2.blendLinear(piece, self._under, self._weight, self._rest)
        return picture

    @property
    def shift(self) -> tuple[float, float, float]:
        """By how much the frames' L, a and b are moved at present."""
        if self._seen is None:
            return 0.0, 0.0, 0.0
        moved = np.clip(self._seen[0] - self._seen[2], -MOST_SHIFT, MOST_SHIFT)
        return float(moved[0]), float(moved[1]), float(moved[2])

    def _look(self, rgb: Rgb) -> None:
        """Takes the colours of one more frame into account."""
        small = np.asarray(cv2.resize(rgb, (LOOK, LOOK), interpolation=cv2.INTER_AREA), np.uint8)
        lab = _lab(small)[self._ring]
        away = lab - self._wanted
        distance = np.linalg.norm(away - np.median(away, axis=0), axis=1)
        same = distance < SAME
        if same.mean() < 0.2:  # hardly anything shows the same: those that are nearest
            same = distance <= np.quantile(distance, 0.2)
        wanted, found = self._wanted[same], lab[same]
        now = np.stack([wanted.mean(0), wanted.std(0), found.mean(0), found.std(0)]).astype(np.float64)
        self._count += 1
        share = 1.0 / self._count if self._count <= SETTLED else 1.0 / SLOW
        self._seen = now if self._seen is None else self._seen + share * (now - self._seen)
        if self._colours is None:
            self._colours = np.asarray(cv2.resize(small, (SAMPLES, SAMPLES), interpolation=cv2.INTER_AREA), np.uint8)

    def _matrix(self) -> NDArray[np.float64]:
        """[3, 4]: the correction in CIELAB as the affine map of RGB that comes nearest to it on the face's colours."""
        assert self._seen is not None and self._colours is not None
        mean, spread, mean_seen, spread_seen = self._seen
        gain = np.clip((spread + STEADY) / (spread_seen + STEADY), 1 / MOST_GAIN, MOST_GAIN)
        shift = np.clip(mean - mean_seen, -MOST_SHIFT, MOST_SHIFT)
        lab = _lab(self._colours).reshape(-1, 3)
        moved = ((lab - mean_seen) * gain + mean_seen + shift).astype(np.float32)
        wanted = cv2.cvtColor(moved[:, None], cv2.COLOR_Lab2RGB).reshape(-1, 3).astype(np.float64) * 255.0
        given = np.concatenate([self._colours.reshape(-1, 3), np.full((SAMPLES**2, 1), 255.0)], axis=1)
        away = wanted - given[:, :3]  # fitted as a change, held near none where few colours tell
        normal = given.T @ given + 1e-3 * len(given) * 255.0**2 * np.eye(4)
        change = np.linalg.solve(normal, given.T @ away).T  # [3, 4]
        change[:, 3] *= 255.0
        return np.asarray(np.eye(3, 4) + change)


def _lab(rgb: Rgb) -> Lab:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab), np.float32)


def _piece(still: Rgb, box: tuple[int, int, int, int]) -> Rgb:
    return np.ascontiguousarray(still[box[1] : box[3], box[0] : box[2]])


def _scaled(box: tuple[int, int, int, int], still: Rgb, picture: Rgb) -> tuple[int, int, int, int]:
    """`box` of the still in px of the picture, which may be smaller by a factor, or cut to even sides."""
    wide, high = picture.shape[1], picture.shape[0]
    shrunk = still.shape[1] - wide > 1 or still.shape[0] - high > 1
    x, y = (wide / still.shape[1], high / still.shape[0]) if shrunk else (1.0, 1.0)
    return (
        min(round(box[0] * x), wide), min(round(box[1] * y), high),
        min(round(box[2] * x), wide), min(round(box[3] * y), high),
    )  # fmt: skip


def _fading(width: int, height: int, touches: tuple[bool, bool, bool, bool]) -> Plane:
    """[height, width], 1 inside, falling to 0 at the edges; not at those that are the still's own (left, top, …)."""
    band = max(1.0, FEATHER * min(width, height))

    def ramp(length: int, first: bool, last: bool) -> NDArray[Any]:
        place = np.arange(length) + 0.5
        whole = np.full(length, np.inf)
        near = np.minimum(whole if first else place, whole if last else length - place)
        x: NDArray[Any] = np.clip(near / band, 0.0, 1.0)
        return np.asarray(x * x * (3.0 - 2.0 * x))

    across, down = ramp(width, touches[0], touches[2]), ramp(height, touches[1], touches[3])
    return np.asarray(down[:, None] * across[None, :], np.float32)


def _ring(mask: Plane) -> NDArray[np.bool_]:
    """[LOOK, LOOK]: the border of the crop, without the face."""
    face = cv2.resize(mask, (LOOK, LOOK), interpolation=cv2.INTER_AREA) > 0.05
    band = round(RING * LOOK)
    ring = np.ones((LOOK, LOOK), bool)
    ring[band:-band, band:-band] = False
    clear = ring & ~face
    return np.asarray(clear if clear.sum() > 100 else ring, bool)
