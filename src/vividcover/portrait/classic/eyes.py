"""Blinks and gaze: the upper lid's skin unfolds from under the brow and covers the eye; the iris turns a little."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.classic.rig import Frame3, smoothstep
from vividcover.portrait.faces import Face, Rgb
from vividcover.portrait.opencv import cv2

Array = NDArray[np.float64]

# FaceMesh: outer corner to inner corner
RIGHT = {
    "upper": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "lower": (33, 7, 163, 144, 145, 153, 154, 155, 133),
    "brow": (46, 53, 52, 65, 55),
}
LEFT = {
    "upper": (263, 466, 388, 387, 386, 385, 384, 398, 362),
    "lower": (263, 249, 390, 373, 374, 380, 381, 382, 362),
    "brow": (276, 283, 282, 295, 285),
}
CLOSED_AT = 0.90  # where the lids meet, from the upper to the lower margin
GAZE = 0.055  # eye widths that the iris moves at gaze = 1
LASHES = 0.30  # darkness of the lash line of a closed eye


class Eye:
    """One eye's region of a still (`rows`, `columns`) drawn with any lid and gaze."""

    def __init__(self, still: Rgb, face: Face, frame: Frame3, points: dict[str, tuple[int, ...]]) -> None:
        height, width = still.shape[:2]
        flat = face.landmarks[:, :2].astype(float)
        upper, lower, brow = (flat[list(points[name])] for name in ("upper", "lower", "brow"))
        along = upper[-1] - upper[0]
        if along[0] < 0:
            upper, lower, along = upper[::-1], lower[::-1], -along
        if brow[-1, 0] < brow[0, 0]:
            brow = brow[::-1]
        self.span = float(np.hypot(*along))
        ex = along / max(self.span, 1e-6)
        ey = np.array([-ex[1], ex[0]])
        middle = (upper[0] + upper[-1]) / 2
        every = np.concatenate([upper, lower, brow])
        margin = 0.12 * self.span + 2
        low, high = np.floor(every.min(0) - margin), np.ceil(every.max(0) + margin)
        self.columns = slice(int(np.clip(low[0], 0, width)), int(np.clip(high[0], 0, width)))
        self.rows = slice(int(np.clip(low[1], 0, height)), int(np.clip(high[1], 0, height)))
        self.still = np.ascontiguousarray(still[self.rows, self.columns])
        y, x = np.mgrid[self.rows, self.columns].astype(float)
        self.x = (x - middle[0]) * ex[0] + (y - middle[1]) * ex[1]
        self.y = (x - middle[0]) * ey[0] + (y - middle[1]) * ey[1]
        self.across, self.down = ex, ey

        def line(curve: Array) -> Array:
            local = np.stack([(curve - middle) @ ex, (curve - middle) @ ey], 1)
            order = np.argsort(local[:, 0])
            fit = np.polyfit(local[order, 0] / self.span, local[order, 1], min(4, len(curve) - 2))
            return np.asarray(np.polyval(fit, np.clip(self.x / self.span, -0.5, 0.5)))

        inside = smoothstep(0.5 - np.abs(self.x) / self.span, 0.0, 0.10)
        self.top, self.bottom = line(upper), line(lower)
        self.bottom = np.maximum(self.bottom, self.top)
        self.opening = (self.bottom - self.top) * inside
        brow_line = np.polyval(
            np.polyfit((brow - middle) @ ex / self.span, (brow - middle) @ ey, 2),
            np.clip(self.x / self.span, -0.7, 0.7),
        )
        self.brow = np.minimum(brow_line, self.top - 0.15 * self.span)
        self.base = np.stack([x - self.columns.start, y - self.rows.start], -1).astype(np.float32)
        falloff_x = np.clip(1 - (self.x / (0.46 * self.span)) ** 2, 0, 1)
        centre = (self.top + self.bottom) / 2
        falloff_y = np.clip(1 - ((self.y - centre) / np.maximum(0.62 * (self.bottom - self.top), 1)) ** 2, 0, 1)
        self.turn = (falloff_x * np.sqrt(falloff_y)).astype(np.float32)
        self.height = float((self.bottom - self.top).max())

    def draw(self, lid: float, gaze_x: float, gaze_y: float) -> Rgb | None:
        """The region uint8 [h, w, 3], or None where nothing differs from the still."""
        if self.still.size == 0 or (lid < 0.01 and abs(gaze_x) + abs(gaze_y) < 0.02):
            return None
        eye = self.still
        if abs(gaze_x) + abs(gaze_y) >= 0.02:
            move = (self.across * gaze_x + self.down * gaze_y * 0.6) * GAZE * self.span
            source = self.base - self.turn[..., None] * move.astype(np.float32)
            eye = cv2.remap(eye, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(eye if lid < 0.01 else self._shut(eye, lid), np.uint8)

    def _shut(self, eye: Rgb, lid: float) -> Rgb:
        fall = lid * CLOSED_AT * self.opening
        margin = self.top + fall  # where the lid's edge is now
        room = np.maximum(self.top - self.brow, 1.0)
        ratio = (margin - self.brow) / room
        t = np.clip((margin - self.y) / (margin - self.brow), 0, 1)
        above = (t + (np.minimum(ratio, 2.6) - 1) * t * (1 - t) * (1 - 2 * t)) * room  # px above the edge, in the still
        source_y = np.where(self.y > self.brow, self.top - above, self.y)
        beyond = np.clip((np.abs(self.x) / self.span - 0.5) / 0.08, 0, 1)
        shift = (self.y - source_y) * (self.y < margin) * (1 - beyond)
        lid_map = self.base - (shift[..., None] * self.down).astype(np.float32)
        skin = cv2.remap(self.still, lid_map, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(
            np.float32
        )
        near = np.exp(-(((margin - self.y) / max(1.0, 0.035 * self.span)) ** 2))
        skin *= 1 - (LASHES * lid * near * (fall > 0.3))[..., None].astype(np.float32)
        shade = 1 - 0.35 * lid * np.exp(-np.maximum(self.y - margin, 0) / max(1.0, 0.06 * self.span)) * (fall > 0.2)
        ball = eye.astype(np.float32) * shade[..., None].astype(np.float32)
        cover = np.clip(margin - self.y + 0.5, 0, 1).astype(np.float32)[..., None]
        changed = (self.y < self.bottom + 1) & (np.abs(self.x) < 0.58 * self.span)
        out = skin * cover + ball * (1 - cover)
        return np.where(changed[..., None], out + 0.5, eye).clip(0, 255).astype(np.uint8)
