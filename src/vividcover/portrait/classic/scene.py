"""The still taken apart and put together again for each frame: background, person with depth, camera and light.

The person moves over a background that was filled in behind them (pull-push), so that no hole and no tear shows.
Depth comes from FaceMesh and the outline; the head turns about the neck; the shoulders only breathe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.classic.eyes import LEFT, RIGHT, Eye
from vividcover.portrait.classic.mouth import Mouth
from vividcover.portrait.classic.rig import Frame3, face_frame, mouth_rig, smoothstep
from vividcover.portrait.faces import Face, Plane, Rgb
from vividcover.portrait.opencv import cv2

Array = NDArray[np.float64]

STEP = 8  # px between the points of the coarse movement grid
PIVOT = 0.62  # face heights below the mouth: the head turns about the neck
BORDER = 0.30  # face heights from a border that cuts the person over which movement fades in
BREATH_RISE = 0.012  # face heights that the shoulders rise
BROW_RAISE = 0.020  # face heights
DARK = 125.0  # mean level of a background below which its lights may pulse, 0..255


def fill_behind(rgb: Rgb, matte: Plane) -> Rgb:
    """The picture without the person: their pixels filled from around, coarse to fine (pull-push)."""
    reach = max(9, max(matte.shape) // 48) | 1  # px: the wisps that the matte missed
    hidden = cv2.dilate(matte, np.ones((reach, reach), np.uint8)) > 0.02
    known = (1.0 - hidden).astype(np.float32)[..., None]
    levels = [(rgb.astype(np.float32) * known, known)]
    while min(levels[-1][0].shape[:2]) > 2:
        colour, weight = (cv2.pyrDown(plane) for plane in levels[-1])
        weight = weight.reshape(*weight.shape[:2], 1)
        levels.append((colour, weight))
    colour, weight = levels[-1]
    filled = colour / np.maximum(weight, 1e-6) if weight.max() > 1e-6 else np.full_like(colour, 40.0)
    for colour, weight in levels[-2::-1]:
        grown = cv2.pyrUp(filled, dstsize=(colour.shape[1], colour.shape[0]))
        trust = np.clip(weight * 4, 0, 1)
        filled = grown * (1 - trust) + colour / np.maximum(weight, 1e-6) * trust
    out = np.where(hidden[..., None], filled, rgb)
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


@dataclass(frozen=True, slots=True)
class Fields:
    """Movement per unit on a coarse grid: its points are the middles of cells of `STEP` px, and one cell beyond.

    `layers` [h, w, 4]: 1 = moves with the head; depth towards the camera in px; breath and brow, px along `down`.
    """

    grid: NDArray[np.float32]  # [h, w, 2] px: where the grid's points are
    layers: NDArray[np.float32]
    pivot: NDArray[np.float32]  # [2] px
    down: NDArray[np.float32]  # [2] the face's own direction


def movement(face: Face, frame: Frame3, matte: Plane) -> Fields:
    height, width = matte.shape
    xs = (np.arange(-1, -(-width // STEP) + 1) + 0.5) * STEP - 0.5
    ys = (np.arange(-1, -(-height // STEP) + 1) + 0.5) * STEP - 0.5
    grid = np.stack(np.meshgrid(xs, ys), -1)
    size, across, down = frame.size, frame.across[:2], frame.down[:2]
    flat = (grid - frame.origin[:2]) / size
    u, v = flat @ across / (across @ across), flat @ down / (down @ down)
    head = 1 - smoothstep(v, 0.22, 0.85)  # chin at about 0.27, shoulders at about 0.8
    head *= 1 - 0.35 * smoothstep(np.abs(u), 0.55, 1.1) * smoothstep(v, -0.2, 0.6)  # long hair hangs
    small = cv2.resize(matte, (len(xs), len(ys)), interpolation=cv2.INTER_AREA)
    head *= _held(small, frame.size)
    edge = smoothstep((height - grid[..., 1]) / size, 0.0, 0.5)  # the picture's border stays where it is
    breath = -smoothstep(v, 0.35, 1.0) * edge * BREATH_RISE * size
    layers = np.stack([head, _depth(face, frame, grid, small), breath, _brow(face, frame, grid)], -1)
    pivot = frame.origin[:2] + down * PIVOT * size
    return Fields(*(np.asarray(f, np.float32) for f in (grid, layers, pivot, down)))


def _held(matte: Plane, size: float) -> Array:
    """1, falling to 0 at the sides and the top of the picture where they cut the person: nothing is known beyond."""
    height, width = matte.shape
    reach = BORDER * size / STEP  # cells
    free = np.ones((height, width))
    for cut, distance in (
        (matte[:, :2].max(1)[:, None], np.arange(width)[None]),
        (matte[:, -2:].max(1)[:, None], np.arange(width)[None, ::-1]),
        (matte[:2].max(0)[None], np.arange(height)[:, None]),
    ):
        soft = cv2.GaussianBlur(cut.astype(np.float32), (0, 0), max(1.0, reach / 3))
        free = np.minimum(free, 1 - soft * (1 - smoothstep(distance - 1.5, 0.0, reach)))
    return free


def _depth(face: Face, frame: Frame3, grid: Array, matte: Plane) -> Array:
    """px towards the camera from the head's axis: FaceMesh inside the face, falling to 0 at the outline of the head."""
    points = face.landmarks[:, :2].astype(float)
    towards = -(face.landmarks[:, 2].astype(float) - float(face.landmarks[[234, 454], 2].mean()))
    height, width = grid.shape[:2]
    total, weight = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    at = np.clip(np.floor(points / STEP).astype(int) + 1, 0, [width - 1, height - 1])
    np.add.at(total, (at[:, 1], at[:, 0]), towards)
    np.add.at(weight, (at[:, 1], at[:, 0]), 1.0)
    outline = matte < 0.3
    weight[outline] += 0.5
    sigma = max(1.0, 0.10 * frame.size / STEP)
    out = np.zeros_like(total)
    for k in (4.0, 2.0, 1.0):  # coarse first, then what the points say
        blurred = cv2.GaussianBlur(weight, (0, 0), sigma * k)
        value = cv2.GaussianBlur(total, (0, 0), sigma * k) / np.maximum(blurred, 1e-6)
        trust = np.clip(blurred * 8, 0, 1)
        out = out * (1 - trust) + value * trust
    return np.asarray(cv2.GaussianBlur(out, (0, 0), sigma * 0.7), float)


def _brow(face: Face, frame: Frame3, grid: Array) -> Array:
    points = face.landmarks[:, :2].astype(float)
    total = np.zeros(grid.shape[:2])
    for chosen in ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55), (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)):
        away = np.min([np.hypot(*(grid - points[k]).transpose(2, 0, 1)) for k in chosen], axis=0) / frame.size
        total = np.maximum(total, np.exp(-((away / 0.055) ** 2)))
    return np.asarray(-total * BROW_RAISE * frame.size)


class Scene:
    """Makes frames [H, W, 3] uint8 of one still from the values of one frame of an `Act`."""

    def __init__(self, still: Rgb, face: Face, matte: Plane) -> None:
        self.height, self.width = still.shape[:2]
        self.frame = face_frame(face)
        self.plate = fill_behind(still, matte)
        self.texture = np.dstack([still, np.round(_with_face(matte, face) * 255).astype(np.uint8)])
        self.fields = movement(face, self.frame, matte)
        self.mouth = Mouth(self.texture, face, mouth_rig(face, still))
        self.eyes = [Eye(still, face, self.frame, points) for points in (RIGHT, LEFT)]
        self.glow, self.pulse = _lights(self.plate, matte)
        rows = np.flatnonzero(self.texture[..., 3].any(1))
        columns = np.flatnonzero(self.texture[..., 3].any(0))
        margin = int(0.20 * self.frame.size) + STEP
        self.box = (
            max(0, int(columns[0]) - margin) // STEP * STEP, max(0, int(rows[0]) - margin) // STEP * STEP,
            min(self.width, int(columns[-1]) + margin), min(self.height, int(rows[-1]) + margin),
        )  # fmt: skip

    def draw(self, pose: dict[str, float]) -> Rgb:
        self._expression(pose)
        out = self._background(pose)
        self._person(out, pose)
        return out

    def _expression(self, pose: dict[str, float]) -> None:
        """Mouth and eyes, drawn into the person's texture in place."""
        rig = self.mouth.rig
        region = self.texture[rig.top : rig.top + rig.height, rig.left : rig.left + rig.width]
        region[:] = self.mouth.draw(pose["jaw"], pose["part"], pose["spread"], pose["press"])
        for eye in self.eyes:
            drawn = eye.draw(pose["lid"], pose["gaze_x"], pose["gaze_y"])
            self.texture[eye.rows, eye.columns, :3] = eye.still if drawn is None else drawn

    def _camera(self, pose: dict[str, float], share: float) -> tuple[float, float, float]:
        """(scale, x, y) with source = scale * output + (x, y); `share` < 1 for what is far away."""
        scale = 1 / (1 + (pose["zoom"] - 1) * share + 0.012)
        limit_x, limit_y = (1 - scale) * self.width, (1 - scale) * self.height
        x = np.clip(limit_x / 2 + pose["pan_x"] * share * self.width, 0, limit_x)
        y = np.clip(limit_y / 2 + pose["pan_y"] * share * self.height, 0, limit_y)
        return scale, float(x), float(y)

    def _background(self, pose: dict[str, float]) -> Rgb:
        scale, x, y = self._camera(pose, 0.8)
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (self.width, self.height)
        out = cv2.warpAffine(self.plate, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        strength = self.pulse * pose["pulse"]
        if strength > 0.004:
            out = cv2.addWeighted(out, 1.0, self.glow, strength, 0.0)
        return np.asarray(out, np.uint8)

    def _person(self, out: Rgb, pose: dict[str, float]) -> None:
        """Warps the person by head, breath and brows, and lays them over `out`."""
        scale, x, y = self._camera(pose, 1.0)
        left, top, right, bottom = self.box
        a, b, c, d = left // STEP, top // STEP, -(-right // STEP) + 2, -(-bottom // STEP) + 2
        at = self.fields.grid[b:d, a:c] * np.float32(scale) + np.array([x, y], np.float32)
        back = self._moves(at, pose)
        coarse = at - self._moves(at - back, pose)
        size = ((c - a) * STEP, (d - b) * STEP)
        maps = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        maps = maps[STEP : STEP + bottom - top, STEP : STEP + right - left]
        whole, fraction = cv2.convertMaps(maps, None, cv2.CV_16SC2)
        person = cv2.remap(self.texture, whole, fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cover = cv2.cvtColor(person[..., 3], cv2.COLOR_GRAY2RGB)
        colour = cv2.cvtColor(person, cv2.COLOR_RGBA2RGB)
        region = out[top:bottom, left:right]
        far = cv2.multiply(region, cv2.bitwise_not(cover), scale=1 / 255)
        cv2.add(cv2.multiply(colour, cover, scale=1 / 255), far, region)

    def _moves(self, at: NDArray[np.float32], pose: dict[str, float]) -> NDArray[np.float32]:
        """Displacement [h, w, 2] px of the still's points `at`."""
        fields, size = self.fields, np.float32(self.frame.size)
        index = at / np.float32(STEP) + np.float32(0.5 + 0.5 / STEP)
        layers = cv2.remap(fields.layers, index, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        head, depth, breath, brow = layers[..., 0], layers[..., 1], layers[..., 2], layers[..., 3]
        yaw, pitch, roll = (np.float32(np.radians(pose[k])) for k in ("yaw", "pitch", "roll"))
        arm = at - fields.pivot
        own = breath * np.float32(pose["breath"]) + brow * np.float32(pose["brow"])
        dx = head * (yaw * depth - roll * arm[..., 1] + np.float32(pose["x"]) * size) + own * fields.down[0]
        dy = head * (pitch * depth + roll * arm[..., 0] + np.float32(pose["y"]) * size) + own * fields.down[1]
        return np.stack([dx, dy], -1)


def _with_face(matte: Plane, face: Face) -> Plane:
    """The matte with the whole face inside it, whatever the segmentation said."""
    oval = cv2.convexHull(np.round(face.landmarks[:, :2]).astype(np.int32))
    inside = np.zeros(matte.shape, np.uint8)
    cv2.fillConvexPoly(inside, oval, 255)
    sigma = max(1.0, 0.02 * face.h)
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8), iterations=max(1, round(sigma)))
    soft = cv2.GaussianBlur(inside, (0, 0), sigma).astype(np.float32) / 255.0
    return np.asarray(np.maximum(matte, soft), np.float32)


def _lights(plate: Rgb, matte: Plane) -> tuple[Rgb, float]:
    """(what a pulse adds: the background's own bright parts and a soft glow of them, its strength 0..1)."""
    level = plate.astype(np.float32).mean(2)
    seen = matte < 0.3
    mean = float(level[seen].mean()) if seen.any() else 255.0
    bright = np.clip((level - np.percentile(level, 80)) / 80.0, 0, 1)[..., None] * plate
    small = cv2.resize(bright.astype(np.float32), (max(1, plate.shape[1] // 8), max(1, plate.shape[0] // 8)))
    halo = cv2.resize(cv2.GaussianBlur(small, (0, 0), 5), (plate.shape[1], plate.shape[0]))
    strength = 0.32 * float(np.clip((DARK - mean) / 45.0, 0, 1))
    return np.clip(0.6 * bright + 0.8 * halo, 0, 255).astype(np.uint8), strength
