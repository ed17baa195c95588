"""The mouth of one frame: lips and jaw warped in two sheets, and what shows between the lips.

Teeth belong to the skull (upper) and the jaw (lower); they are drawn once, in the photo's own light, and shown through
the opening. Where the lips are apart in the photo its own teeth are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.classic.rig import MouthRig, curve, expand, invert, smoothstep
from vividcover.portrait.faces import Face, Rgb
from vividcover.portrait.opencv import cv2

Array = NDArray[np.float64]
Image = NDArray[np.float32]  # [h, w, 3] 0..255

# millimetres of an average head (Ash & Nelson, "Wheeler's Dental Anatomy", 2003), in face heights of 170 mm
MM = 1 / 170
UPPER_WIDTHS = np.array([8.5, 6.6, 7.6, 7.0, 6.8, 9.0]) * MM  # crowns from the middle outwards
LOWER_WIDTHS = np.array([5.3, 5.7, 6.8, 7.0, 7.1, 10.0]) * MM
UPPER_EDGE = 2.2 * MM  # biting edge below the closed lips' line
LOWER_EDGE = -0.9 * MM
CROWN = 9.5 * MM  # height of the front teeth
ARCH = 26.0 * MM  # radius of the dental arch
SKIN = np.array([0.78, 0.59, 0.49])  # sRGB of average skin in white light, to tell the light's colour
ENAMEL = np.array([0.95, 0.90, 0.81])
TONGUE = np.array([0.62, 0.30, 0.29])
CAVITY = np.array([0.115, 0.035, 0.035])
OWN_TEETH = 0.62  # brightness re the skin from which on the photo shows teeth between the lips
TURNED = 0.45  # how much less a mouth may open at 40° of yaw: its far side has few pixels to stretch
CHEEKS = (50, 205, 206, 18, 199), (280, 425, 426, 18, 199)  # skin that shows the light from either side
CURVE_POINTS = 49
SHIFT = 4  # fractional bits of polygon coordinates


class Mouth:
    """Draws the mouth's region (`rig.left/top/width/height`) of a cut-out still (RGB and coverage) for any pose."""

    def __init__(self, texture: NDArray[np.uint8], face: Face, rig: MouthRig) -> None:
        self.rig = rig
        region = texture[rig.top : rig.top + rig.height, rig.left : rig.left + rig.width]
        self.still = np.ascontiguousarray(region)  # [height, width, 4]
        self.cell = (rig.width / rig.upper.shape[1], rig.height / rig.upper.shape[1])
        y, x = np.mgrid[0 : rig.height, 0 : rig.width].astype(np.float32)
        self.base_map = np.stack([x, y], -1)
        self.reach = 1.0 - TURNED * float(smoothstep(np.array(abs(face.yaw)), 15.0, 40.0))
        at = np.linspace(0, 1, CURVE_POINTS)
        self.covers = [np.interp(at, np.linspace(0, 1, len(cover)), cover)[:, None] for cover in rig.covers]
        self._window()
        right, left = (_light(texture[..., :3], face, points) for points in CHEEKS)
        side = np.clip(self.u / self.half * 0.5 + 0.5, 0, 1)[..., None]
        self.light = right + (left - right) * side  # [h, w, 3] over the window
        self._paint()

    def _window(self) -> None:
        """The part of the region where the opening can be, and the mouth's coordinates in it (face heights)."""
        rig, size = self.rig, self.rig.frame.size
        centre = (rig.seam_upper[6] + rig.seam_lower[6]) / 2
        reach = np.abs(np.concatenate([rig.seam_upper, rig.seam_lower]) - centre).max(0) + 0.05 * size
        low = np.maximum(np.floor(centre - reach - [0, 0.08 * size]), 0).astype(int)
        high = np.minimum(np.ceil(centre + reach + [0, 0.22 * size]), [rig.width, rig.height]).astype(int)
        self.window = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(float)
        axes = np.stack([rig.frame.across[:2], rig.frame.down[:2]], 1) * size
        inverse = np.linalg.inv(axes)
        flat = np.stack([x - centre[0], y - centre[1]], -1) @ inverse.T
        seam = ((rig.seam_upper + rig.seam_lower) / 2 - centre) @ inverse.T
        bend = np.polyfit(seam[:, 0], seam[:, 1], 2)
        self.u = flat[..., 0]
        self.v = flat[..., 1] - 0.8 * np.polyval([bend[0], bend[1], 0], self.u)
        self.half = float(np.abs(seam[[0, -1], 0]).mean())

    def _paint(self) -> None:
        """Upper teeth, lower teeth with tongue, cavity: float32 0..255, with coverage 0..1, over the window."""
        u, v, light = self.u, self.v, self.light
        blur = 0.6 / self.rig.frame.size  # half a pixel
        across = np.clip(1.06 - 0.75 * (u / self.half) ** 2, 0.12, 1)  # darker towards the corners
        self.upper, self.upper_cover = _teeth(u, v, UPPER_WIDTHS, UPPER_EDGE, blur, light, across, True)
        lower, lower_cover = _teeth(u, v, LOWER_WIDTHS, LOWER_EDGE, blur, light, across * 0.82, False)
        tongue_shape = 1 - (u / (0.80 * self.half)) ** 2 - ((v - 0.012) / 0.062) ** 2
        groove = 1 - 0.20 * np.exp(-((u / 0.009) ** 2)) * smoothstep(v, -0.05, -0.02)
        shine = 0.20 + 0.55 * smoothstep(v, -0.055, -0.005)  # darker further back
        tongue = TONGUE * light * (shine * groove)[..., None] * 255
        cover = smoothstep(tongue_shape, 0.0, 0.30)
        mixed = tongue * (1 - lower_cover[..., None]) + lower * lower_cover[..., None]
        self.lower = np.dstack([mixed, 1 - (1 - cover) * (1 - lower_cover)]).astype(np.float32)
        depth = np.clip(1.25 - np.abs(v - 0.03) / 0.12, 0.35, 1)[..., None]
        self.cavity = (CAVITY * light * 255 / depth**0.5).astype(np.float32)
        if self.rig.open_photo:
            self._keep_own_teeth()

    def _keep_own_teeth(self) -> None:
        """What shows between the lips in the photo stays with the skull, in place of drawn teeth."""
        rig, (rows, columns) = self.rig, self.window
        hole = np.zeros(self.still.shape[:2], np.uint8)
        outline = np.concatenate([curve(rig.seam_upper, CURVE_POINTS), curve(rig.seam_lower, CURVE_POINTS)[::-1]])
        cv2.fillPoly(hole, [_fixed(outline)], 255, cv2.LINE_AA, SHIFT)
        size = max(3, int(0.012 * rig.frame.size)) | 1
        hole = cv2.erode(hole, np.ones((size, size), np.uint8))
        soft = cv2.GaussianBlur(hole, (0, 0), max(0.8, 0.006 * rig.frame.size))[rows, columns].astype(np.float32) / 255
        own = self.still[rows, columns, :3].astype(np.float32)
        seen = own.mean(2)[soft > 0.5]
        if not seen.size or np.percentile(seen, 80) < OWN_TEETH * 255 * float((SKIN * self.light).mean()):
            return  # the opening is dark: no teeth to keep
        self.upper = own * soft[..., None] + self.upper * (1 - soft[..., None])
        self.upper_cover = np.maximum(self.upper_cover * (1 - soft), soft)

    def draw(self, jaw: float, part: float, spread: float, press: float) -> NDArray[np.uint8]:
        """The region [height, width, 4] in this pose; with nothing moved, the photo itself (or its lips closed)."""
        rig = self.rig
        if not rig.open_photo and max(jaw, part, press, abs(spread)) < 1e-3:
            return self.still
        jaw, spread = jaw * self.reach, spread * self.reach
        open_ = min(1.0, max(jaw, part))
        weights = np.array(
            [jaw, part, max(spread, 0.0) * (0.4 + 0.6 * open_), max(-spread, 0.0) * (0.3 + 0.7 * open_), press],
            np.float32,
        )
        upper = invert(rig.base_upper + np.tensordot(weights, rig.upper, 1), self.cell)
        lower = invert(rig.base_lower + np.tensordot(weights, rig.lower, 1), self.cell)
        back = expand(upper, rig.width, rig.height)
        top, bottom = self._lines(weights)
        cv2.copyTo(expand(lower, rig.width, rig.height), self._below((top + bottom) / 2), back)
        source = cv2.subtract(self.base_map, back)
        out = cv2.remap(self.still, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._fill(out, top, bottom, jaw)
        return np.asarray(out, np.uint8)

    def _lines(self, weights: NDArray[np.float32]) -> tuple[Array, Array]:
        """Edges of the upper and the lower lip in this pose, [CURVE_POINTS, 2] px in the region."""
        rig = self.rig
        upper = rig.seam_upper + rig.base_seams[0] + np.tensordot(weights, rig.moves_upper, 1)
        lower = rig.seam_lower + rig.base_seams[1] + np.tensordot(weights, rig.moves_lower, 1)
        down = rig.frame.down[:2]
        crossed = np.minimum((lower - upper) @ down, 0)[:, None] * down / 2
        return curve(upper + crossed, CURVE_POINTS), curve(lower - crossed, CURVE_POINTS)

    def _below(self, line: Array) -> NDArray[np.uint8]:
        """255 where the lower sheet is seen: below the line, which runs on beyond the corners."""
        rig = self.rig
        along = rig.frame.across[:2] / np.linalg.norm(rig.frame.across[:2]) * 4 * rig.width
        sink = rig.frame.down[:2] / np.linalg.norm(rig.frame.down[:2]) * 4 * rig.height
        shape = np.concatenate(
            [line[:1] - along, line, line[-1:] + along, line[-1:] + along + sink, line[:1] - along + sink]
        )
        mask = np.zeros((rig.height, rig.width), np.uint8)
        cv2.fillPoly(mask, [_fixed(shape)], 255, cv2.LINE_8, SHIFT)
        return mask

    def _fill(self, out: NDArray[np.uint8], top: Array, bottom: Array, jaw: float) -> None:
        """Draws what is behind the lips into the opening of `out`."""
        rig, (rows, columns) = self.rig, self.window
        size, down = rig.frame.size, rig.frame.down[:2]
        gap = (bottom - top) @ down / size
        ramp = (np.clip(gap / 0.03, 0, 1) * size)[:, None] * down  # grows with the opening: nothing pops up
        top, bottom = top - ramp * self.covers[0], bottom + ramp * self.covers[1]
        outline = np.concatenate([top, bottom[::-1]])
        reach = max(3, int(0.035 * size))  # px around the opening
        low = np.maximum(np.floor(outline.min(0)).astype(int) - reach, [columns.start, rows.start])
        high = np.minimum(np.ceil(outline.max(0)).astype(int) + reach, [columns.stop, rows.stop])
        width, height = int(high[0] - low[0]), int(high[1] - low[1])
        if gap.max() * size < 0.15 or min(width, height) < 3:
            return
        hole = np.zeros((height, width), np.uint8)
        cv2.fillPoly(hole, [_fixed(outline - low)], 255, cv2.LINE_AA, SHIFT)
        x, y = int(low[0] - columns.start), int(low[1] - rows.start)
        part = (slice(y, y + height), slice(x, x + width))
        drop = rig.moves_lower[0, 6] * jaw
        move = np.array([[1, 0, drop[0] - x], [0, 1, drop[1] - y]])
        lower = cv2.warpAffine(self.lower, move, (width, height), borderMode=cv2.BORDER_REPLICATE)  # RGB and coverage
        inside = self.cavity[part]
        inside = inside + (lower[..., :3] - inside) * lower[..., 3:]
        inside = inside + (self.upper[part] - inside) * self.upper_cover[part][..., None]
        near = cv2.blur(hole, (reach | 1, reach | 1)).astype(np.float32) / 255.0
        near = np.roll(near, max(1, int(0.010 * size)), axis=0)  # the upper lip throws the shadow
        shadow = 0.30 + 0.70 * np.clip((near - 0.30) / 0.6, 0, 1)
        alpha = cv2.GaussianBlur(hole, (3, 3), 0.6).astype(np.float32)[..., None] / 255.0
        piece = out[low[1] : high[1], low[0] : high[0], :3]
        piece[:] = piece + (inside * shadow[..., None] - piece) * alpha + 0.5


def _fixed(points: Array) -> NDArray[np.int32]:
    return np.round(points * (1 << SHIFT)).astype(np.int32)


def _light(still: Rgb, face: Face, points: tuple[int, ...]) -> Array:
    """Colour and strength [3] of the light there, 1 = white light on average skin: from the skin around the mouth."""
    height, width = still.shape[:2]
    radius = max(1, int(0.02 * face.h))
    found = []
    for k in points:
        x, y = (round(float(c)) for c in face.landmarks[k, :2])
        patch = still[max(0, y - radius) : min(height, y + radius + 1), max(0, x - radius) : min(width, x + radius + 1)]
        if patch.size:
            found.append(np.median(patch.reshape(-1, 3), axis=0))
    skin = np.median(found, axis=0) / 255.0 if found else SKIN
    raw = np.clip(skin / SKIN, 0.05, 1.5)
    return np.asarray(0.55 * raw + 0.45 * raw.mean())  # skins differ in hue: only half of it is the light's


def _teeth(
    u: Array, v: Array, widths: Array, edge: float, blur: float, light: Array, across: Array, upper: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A row of teeth over mouth coordinates: (colour [h, w, 3] 0..255, coverage [h, w])."""
    arc = ARCH * np.arcsin(np.clip(np.abs(u) / ARCH, 0, 0.995))  # length along the arch
    borders = np.concatenate([[0.0], np.cumsum(widths)])
    tooth = np.clip(np.searchsorted(borders, arc, side="right") - 1, 0, len(widths) - 1)
    inside = np.clip((arc - borders[tooth]) / widths[tooth], 0, 1)  # 0..1 within a tooth
    gap = np.minimum(inside, 1 - inside) * widths[tooth]
    lengths = np.array([0.0, 0.9, 0.1, 0.7, 1.2, 1.6]) * MM if upper else np.array([0.0, 0.1, -0.2, 0.4, 0.8, 1.2]) * MM
    rounding = 0.9 * MM * np.exp(-gap / (0.7 * MM))
    sign = 1.0 if upper else -1.0
    limit = sign * edge - lengths[tooth] - rounding if upper else edge + lengths[tooth] + rounding
    distance = (limit - v) if upper else (v - limit)  # > 0 inside the crown
    cover = smoothstep(distance, -blur, blur)
    gum = smoothstep(distance, CROWN - 1.5 * MM, CROWN)
    line = 1 - 0.14 * np.exp(-((gap / (0.35 * MM)) ** 2))
    bulge = 0.93 + 0.07 * np.sin(np.pi * inside)
    edge_tone = 0.90 + 0.10 * smoothstep(distance, 0, 2.5 * MM)
    shade = (line * bulge * edge_tone * across)[..., None]
    strength = min(1.0, 1.02 / max(float((ENAMEL * light).max()), 1e-3))
    enamel = ENAMEL * light * strength * shade
    flesh = np.array([0.70, 0.38, 0.37]) * light * strength * shade
    colour = enamel * (1 - gum[..., None]) + flesh * gum[..., None]
    return (np.clip(colour, 0, 1) * 255).astype(np.float32), cover.astype(np.float32)
