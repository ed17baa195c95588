"""The face as something that can be moved: shapes (jaw, lips, lids, brows) as smooth displacement fields.

Every shape is a 3D displacement of FaceMesh's points in the face's own axes, so that it stays right on a turned face;
projected to the picture and spread over it by thin-plate splines (Bookstein 1989, "Principal Warps"). The lips part
along a seam: two sheets, one that carries the upper lip and one that carries the lower lip and the jaw, agree
everywhere but around the mouth. Lengths are in face heights (hairline to chin, some 17 cm) unless marked px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.faces import CHIN, FOREHEAD, LEFT_CHEEK, LEFT_EYE, RIGHT_CHEEK, RIGHT_EYE, Face, Rgb
from vividcover.portrait.opencv import cv2

Array = NDArray[np.float64]
Field = NDArray[np.float32]  # [h, w, 2] displacement in px

# FaceMesh point numbers, right corner to left corner of the mouth
UPPER_INNER = (61, 78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 291)  # from outer corner to outer corner
LOWER_INNER = (61, 78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 291)
UPPER_OUTER = (185, 40, 39, 37, 0, 267, 269, 270, 409)
LOWER_OUTER = (146, 91, 181, 84, 17, 314, 405, 321, 375)
UPPER_RINGS = ((184, 74, 73, 72, 11, 302, 303, 304, 408), (183, 42, 41, 38, 12, 268, 271, 272, 407))
LOWER_RINGS = ((77, 90, 180, 85, 16, 315, 404, 320, 307), (96, 89, 179, 86, 15, 316, 403, 319, 325))
CORNERS = (76, 306, 62, 292)
HINGES = (132, 361)  # skin over the jaw's joints, below the ears

# how far things go
JAW_ANGLE = 0.215  # radians of jaw rotation at jaw = 1: about 0.11 face heights between the lips
CORNER_FOLLOW = 0.42  # how much of the jaw's movement the corners of the mouth follow
UPPER_RAISE = 0.020  # upper lip, at jaw = 1
PART_UP, PART_DOWN = 0.016, 0.022  # lips drawn off the teeth at part = 1
SPREAD_OUT, ROUND_IN = 0.024, 0.028  # corners, at spread = 1 and -1
PRESS_IN = 0.010  # lips rolled in
OPEN_PHOTO = 0.018  # lips further apart than this in the photo show a real opening
COVER_UP, COVER_DOWN = (0.001, 0.014), (0.005, 0.010)  # least and most, see MouthRig.covers
OPEN_TRIM = 0.004
GRID = 72  # cells a side of the displacement grids


@dataclass(frozen=True, slots=True)
class Frame3:
    """The face's own axes in the picture: unit vectors [3] across (to the picture's right), down, into the head."""

    across: Array
    down: Array
    into: Array
    origin: Array  # [3] px, between the corners of the mouth
    size: float  # px, hairline to chin

    def local(self, points: NDArray[np.floating]) -> Array:
        """[N, 3] px → [N, 3] face heights along (across, down, into), from the mouth."""
        axes = np.stack([self.across, self.down, self.into], 1)
        return np.asarray((points.astype(float) - self.origin) @ axes / self.size)

    def project(self, moves: Array) -> Array:
        """Displacements [..., 3] in face heights → [..., 2] px in the picture."""
        axes = np.stack([self.across[:2], self.down[:2], self.into[:2]])
        return np.asarray(moves @ axes * self.size)


def face_frame(face: Face) -> Frame3:
    p = face.landmarks.astype(float)
    across = (p[LEFT_CHEEK] - p[RIGHT_CHEEK]) + (p[LEFT_EYE[1]] - p[RIGHT_EYE[0]])
    across /= np.linalg.norm(across)
    down = p[CHIN] - p[FOREHEAD]
    size = float(np.linalg.norm(down))
    down -= across * (down @ across)
    down /= np.linalg.norm(down)
    return Frame3(across, down, np.cross(across, down), (p[61] + p[291]) / 2, size)


def thin_plate(points: Array, values: Array, at: Array, stiffness: float = 1e-4) -> Array:
    """Smooth interpolation of `values` [N, K] given at `points` [N, 2], evaluated at `at` [M, 2] → [M, K]."""
    scale = np.ptp(points, axis=0).max()
    p, q = points / scale, at / scale

    def kernel(a: Array, b: Array) -> Array:
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.asarray(square * np.log(square + 1e-12))

    count = len(p)
    plane = np.concatenate([np.ones((count, 1)), p], 1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel(p, p) + stiffness * np.eye(count)
    system[:count, count:], system[count:, :count] = plane, plane.T
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))
    return np.asarray(kernel(q, p) @ weights[:count] + np.concatenate([np.ones((len(q), 1)), q], 1) @ weights[count:])


def curve(points: Array, count: int) -> Array:
    """Points of a smooth curve through `points` [N, 2] (Catmull-Rom), [count, 2]."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, len(points) - 1 - 1e-9, count)
    k = t.astype(int)
    f = (t - k)[:, None]
    a, b, c, d = padded[k], padded[k + 1], padded[k + 2], padded[k + 3]
    return np.asarray(0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3))


def smoothstep(x: NDArray[np.floating], low: float, high: float) -> Array:
    t = np.clip((np.asarray(x, float) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


SHAPES = ("jaw", "part", "spread", "round", "press")


@dataclass(frozen=True, slots=True)
class MouthRig:
    """Everything about one mouth that does not change from frame to frame. px coordinates are the still's."""

    frame: Frame3
    left: int  # px, the region that the mouth's movement touches
    top: int
    width: int
    height: int
    upper: NDArray[np.float32]  # [K, G, G, 2] px a unit of each shape, on a grid over the region
    lower: NDArray[np.float32]
    seam_upper: Array  # [13, 2] px in the region: lower edge of the upper lip, upper edge of the lower lip
    seam_lower: Array
    moves_upper: Array  # [K, 13, 2] px: what each shape does to the seams
    moves_lower: Array
    base_upper: NDArray[np.float32]  # [G, G, 2] px: closes lips that are apart in the photo
    base_lower: NDArray[np.float32]
    base_seams: tuple[Array, Array]  # [13, 2] px each
    covers: tuple[Array, Array]  # [13] face heights above and below the seam that are neither lip: the dark line, teeth
    gap: float  # opening of the lips in the photo, face heights
    open_photo: bool


def mouth_rig(face: Face, still: Rgb) -> MouthRig:
    """Builds the rig of a face in its picture."""
    height, width = still.shape[:2]
    frame = face_frame(face)
    points = face.landmarks[:, :2].astype(float)
    local = frame.local(face.landmarks)
    size = frame.size
    low = points[list(range(468))].min(0)
    high = points.max(0)
    middle = (points[61] + points[291]) / 2
    reach = np.maximum(high - middle, middle - low)
    left = int(max(0, np.floor(middle[0] - reach[0] - 0.06 * size)))
    right = int(min(width, np.ceil(middle[0] + reach[0] + 0.06 * size)))
    top = int(max(0, np.floor(middle[1] - 0.36 * size)))
    bottom = int(min(height, np.ceil(high[1] + 0.30 * size)))
    corner = np.array([left, top], float)

    upper_line, lower_line = points[list(UPPER_INNER)], points[list(LOWER_INNER)]
    down2 = frame.down[:2]
    gap = float(((lower_line - upper_line) @ down2).max() / size)
    open_photo = gap > OPEN_PHOTO
    centre_line = (upper_line + lower_line) / 2
    if not open_photo:
        centre_line = _dark_line(still, centre_line, frame)
    seam_u, seam_l = (upper_line, lower_line) if open_photo else (centre_line, centre_line)
    taper = np.minimum(1.0, np.minimum(np.arange(13), 12 - np.arange(13)) / 3)
    above, below = (centre_line - upper_line) @ down2 / size, (lower_line - centre_line) @ down2 / size
    covers = (np.clip(above, *COVER_UP) * taper, np.clip(below, *COVER_DOWN) * taper)
    if open_photo:
        covers = (0 * taper, COVER_DOWN[0] * taper)
        trim = (OPEN_TRIM * size * taper)[:, None] * down2  # off the dark rims, or closed lips would show them
        seam_u, seam_l = seam_u - trim, seam_l + trim
    shut_u = centre_line - seam_u
    shut_l = centre_line - seam_l
    sheets = [
        _sheet(frame, local, points, (left, top, right, bottom), seam, shut, upper)
        for seam, shut, upper in ((seam_u, shut_u, True), (seam_l, shut_l, False))
    ]
    return MouthRig(
        frame, left, top, right - left, bottom - top, sheets[0][0], sheets[1][0], seam_u - corner, seam_l - corner,
        sheets[0][1][:-1], sheets[1][1][:-1], sheets[0][2], sheets[1][2], (sheets[0][1][-1], sheets[1][1][-1]), covers,
        gap, open_photo,
    )  # fmt: skip


def _dark_line(still: Rgb, line: Array, frame: Frame3) -> Array:
    """The line between closed lips, moved onto the photo's own dark line, [13, 2] px."""
    reach = np.linspace(-0.022, 0.022, 23)  # face heights
    fine = curve(line, 49)
    at = fine[:, None] + reach[None, :, None] * frame.down[:2] * frame.size
    gray = cv2.GaussianBlur(cv2.cvtColor(still, cv2.COLOR_RGB2GRAY), (0, 0), max(0.6, 0.004 * frame.size))
    level = cv2.remap(gray, at.astype(np.float32), None, cv2.INTER_LINEAR).astype(float)
    level -= level.mean(1, keepdims=True)
    best = reach[np.argmin(level / (level.std() + 1e-6) + (reach / 0.016) ** 2, axis=1)]
    padded = np.pad(best, 4, mode="edge")
    middle = np.array([np.median(padded[k : k + 9]) for k in range(len(best))])
    move = np.convolve(np.pad(middle, 3, mode="edge"), np.ones(7) / 7, "valid")
    ends = np.minimum(1.0, np.minimum(np.arange(49), 48 - np.arange(49)) / 8)
    moved = fine + (move * ends)[:, None] * frame.down[:2] * frame.size
    return np.asarray(moved[::4])


def _sheet(
    frame: Frame3,
    local: Array,
    points: Array,
    box: tuple[int, int, int, int],
    seam: Array,
    shut: Array,
    upper: bool,
) -> tuple[NDArray[np.float32], Array, NDArray[np.float32]]:
    """One sheet: ([K, G, G, 2] px, what it does to the seam [K + 1, 13, 2] px, the closing field [G, G, 2] px)."""
    left, top, right, bottom = box
    size = frame.size
    upper_lip = [*UPPER_OUTER, *UPPER_RINGS[0], *UPPER_RINGS[1]]
    lower_lip = [*LOWER_OUTER, *LOWER_RINGS[0], *LOWER_RINGS[1]]
    lips = {*upper_lip, *lower_lip, *UPPER_INNER, *LOWER_INNER, *CORNERS}
    own = sorted(set(upper_lip if upper else lower_lip) | set(CORNERS))
    skin = [k for k in range(468) if k not in lips and local[k, 1] > -0.42]
    chosen = [*skin, *own]
    moves = np.stack([_moves(name, local, upper) for name in SHAPES])  # [K, 468, 3]
    line = list(UPPER_INNER if upper else LOWER_INNER)
    at_points = frame.project(moves[:, chosen])
    lip_share = np.array([0.75 if k in own else 0.0 for k in chosen])
    nearest = np.abs(points[chosen][:, None] - seam[None]).sum(-1).argmin(1)
    closing = shut[nearest] * lip_share[:, None]

    neck, neck_moves = _neck(frame, local, points, moves)
    rim = _rim(left, top, right, bottom)
    where = np.concatenate([points[chosen], seam, neck, rim])
    values = np.concatenate(
        [
            np.concatenate(
                [
                    at_points,
                    frame.project(moves[:, line]),
                    frame.project(neck_moves),
                    np.zeros((len(SHAPES), len(rim), 2)),
                ],
                1,
            ),
            np.concatenate([closing, shut, np.zeros((len(neck) + len(rim), 2))])[None],
        ]
    )  # [K + 1, N, 2]
    inside = (where[:, 0] > left - size) & (where[:, 0] < right + size) & (where[:, 1] < bottom + size)
    xs = left + (np.arange(GRID) + 0.5) * (right - left) / GRID - 0.5
    ys = top + (np.arange(GRID) + 0.5) * (bottom - top) / GRID - 0.5
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    flat = values[:, inside].transpose(1, 0, 2).reshape(int(inside.sum()), -1)
    spread = thin_plate(where[inside], flat, np.concatenate([grid, seam])).reshape(-1, len(SHAPES) + 1, 2)
    field = spread[: len(grid)].reshape(GRID, GRID, len(SHAPES) + 1, 2).transpose(2, 0, 1, 3)
    at_seam = spread[len(grid) :].transpose(1, 0, 2)  # what the sheet does there, not what it was asked to do
    fade = _fade(frame, grid.reshape(GRID, GRID, 2), box)
    faded = np.asarray(field * fade[None, ..., None], np.float32)
    return faded[:-1], at_seam, faded[-1]


def _rim(left: int, top: int, right: int, bottom: int) -> Array:
    """Points around the region, where nothing moves."""
    xs, ys = np.linspace(left, right, 9), np.linspace(top, bottom, 9)
    return np.array(
        [(x, y) for x in xs for y in (top, bottom)] + [(x, y) for x in (left, right) for y in ys[1:-1]], float
    )


def _fade(frame: Frame3, grid: Array, box: tuple[int, int, int, int]) -> Array:
    """1 inside, falling to exactly 0 at the region's border, so that no edge shows."""
    left, top, right, bottom = box
    x, y = grid[..., 0], grid[..., 1]
    edge = np.minimum(np.minimum(x - left, right - 1 - x), np.minimum(y - top, bottom - 1 - y))
    return smoothstep(edge, max(1.0, (right - left) / GRID), 0.07 * frame.size)  # the outermost cells are still


def _neck(frame: Frame3, local: Array, points: Array, moves: Array) -> tuple[Array, Array]:
    """Guide points below the jaw line, which follow it less and less: [N, 2] px, [K, N, 3]."""
    jawline = (136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365)
    places, amounts = [], []
    for distance, follow in ((0.07, 0.62), (0.14, 0.28), (0.21, 0.07)):
        for k in jawline:
            places.append(points[k] + frame.down[:2] * distance * frame.size)
            amounts.append(moves[:, k] * follow)
    return np.array(places), np.stack(amounts, 1)


def _moves(name: str, local: Array, upper: bool) -> Array:
    """What one unit of a shape does to each point [468, 3], in face heights along the face's axes."""
    out = np.zeros((468, 3))
    x, y = local[:, 0], local[:, 1]
    half = (local[291, 0] - local[61, 0]) / 2
    side = np.clip(x / half, -1.6, 1.6)
    lip = _lip_weight(upper, local, half)
    corner = np.exp(-(((np.abs(side) - 1.0) / 0.55) ** 2) - (y / 0.11) ** 2) * np.sign(side)
    if name == "jaw":
        weight = _jaw_weight(local, half, upper)
        hinge = local[list(HINGES)].mean(0)
        arm = local - hinge
        out[:, 1], out[:, 2] = -arm[:, 2] * JAW_ANGLE * weight, arm[:, 1] * JAW_ANGLE * weight
        if upper:
            out[:, 1] -= UPPER_RAISE * lip
        out[:, 0] -= 0.014 * corner
    elif name == "part":
        out[:, 1] += lip * (-PART_UP if upper else PART_DOWN)
        out[:, 0] += 0.008 * corner
    elif name == "spread":
        out[:, 0] += SPREAD_OUT * corner
        out[:, 1] -= 0.006 * np.abs(corner)
        out[:, 2] += 0.010 * np.abs(corner)
        out[:, 1] += lip * (0.003 if upper else -0.003)
    elif name == "round":
        out[:, 0] -= ROUND_IN * corner
        out[:, 2] -= 0.02 * np.exp(-(side**2) - (y / 0.08) ** 2)
        out[:, 1] += lip * (-0.006 if upper else 0.008)
    elif name == "press":
        out[:, 1] += lip * (PRESS_IN if upper else -PRESS_IN)
    return out


def _lip_weight(upper: bool, local: Array, half: float) -> Array:
    """How much a point belongs to the sheet's lip: 1 along the lip's middle, 0 at the corners and away from it."""
    x, y = local[:, 0] / half, local[:, 1]
    along = np.clip(1 - x**2, 0, 1) ** 0.7
    away = (local[13, 1] - y) if upper else (y - local[14, 1])
    return np.asarray(along * (1 - smoothstep(away, 0.035, 0.12)) * smoothstep(away, -0.06, -0.02))


def _jaw_weight(local: Array, half: float, upper: bool) -> Array:
    """How rigidly a point moves with the jaw: chin and lower lip fully, corners and cheeks partly, upper lip not.

    Smooth in place, and the same for both sheets beyond the corners of the mouth, where they meet.
    """
    x, y = local[:, 0], local[:, 1]
    across = np.abs(x) / half
    wide = float(np.abs(local[[172, 397], 0]).mean())  # corners of the jaw
    beyond = CORNER_FOLLOW * (1 - smoothstep(across, 0.85, 2.6))  # at the level of the lips' line
    lens = np.clip(1 - across**2, 0, 1)
    line = beyond + (0.0 if upper else 1.0) * (1 - CORNER_FOLLOW) * lens**0.58 - (beyond * lens**0.6 if upper else 0.0)
    rise = -0.10 * smoothstep(np.abs(x), half, wide)  # the border between still and moving rises towards the ears
    below = smoothstep(y - rise, 0.0, 0.17)
    above = 1 - smoothstep(-(y - rise), 0.0, 0.13)
    return np.asarray(np.where(y > rise, line + (1 - line) * below, line * above))


def expand(grid: NDArray[np.float32], width: int, height: int) -> Field:
    """A grid's field at every pixel of the region; the grid's points are the middles of its cells."""
    out: Field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def invert(field: NDArray[np.float32], cell: tuple[float, float], steps: int = 8) -> NDArray[np.float32]:
    """Where each grid point comes from: B with B(q) = D(q - B(q)). `field` [G, G, 2] px, `cell` = px a cell (x, y)."""
    height, width = field.shape[:2]
    base = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    scale = np.array([1 / cell[0], 1 / cell[1]], np.float32)
    back = field
    for _ in range(steps):
        back = cv2.remap(field, base - back * scale, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(back, np.float32)
