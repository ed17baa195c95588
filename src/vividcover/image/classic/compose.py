"""Where the person stands in the frame, and what becomes of edges at which the photo was cut.

The bottom cut goes to the frame's bottom border. A side or top cut is continued: the photo's texture is mirrored
outwards under a silhouette that closes like a shoulder or a lock of hair, so that no straight edge is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vividcover.image.classic.light import Person
from vividcover.image.classic.scene_tools import F32, to_linear

FACE = {"close-up": 0.46, "portrait": 0.34, "medium": 0.26, "wide": 0.20}  # face height / frame height, square frame
DEFAULT_FRAMING = "portrait"
MAX_UPSCALE = 1.7  # a photo is not enlarged further: skin would turn to wax
SMALLEST_FACE = 0.18  # of the frame's height: below this a singing portrait has too little to work with


@dataclass(frozen=True, slots=True)
class Placing:
    """Photo px → still px: still = photo * scale + (x, y)."""

    scale: float
    x: float
    y: float
    face: tuple[float, float, float]  # centre x, y and height, as fractions of width, height, height
    bottom_gap: float  # px between the photo's bottom and the frame's: 0 when the cut is at the border
    notes: tuple[str, ...] = ()


def place(
    size: tuple[int, int],
    landmarks: F32,
    head_top: float,
    width: int,
    height: int,
    framing: str | None,
    rng: np.random.Generator,
) -> Placing:
    """`size` = (width, height) of the photo px, `head_top` = y of the hair's top px."""
    notes = []
    fh = float(np.hypot(*(landmarks[10, :2] - landmarks[152, :2])))
    fx, fy = float(landmarks[:, 0].mean()), float(landmarks[[10, 152], 1].mean())
    aspect = width / height
    wanted = FACE[framing or DEFAULT_FRAMING]
    wanted *= float(np.clip(aspect, 0.62, 1.0)) ** 0.75 * (1.08 if aspect > 1.2 else 1.0)
    wanted = max(wanted * rng.uniform(0.97, 1.04), SMALLEST_FACE)
    scale = wanted * height / fh
    low, high = (0.40, 0.50) if framing != "close-up" else (0.44, 0.54)
    needed = height * (1 - high) / max(size[1] - fy, 1.0)  # the photo must reach the frame's bottom
    if needed > scale:
        scale = needed
        if framing not in ("close-up", None):
            notes.append("framing: the photo shows too little of the body for a wider view")
    if scale > MAX_UPSCALE:
        notes.append(
            f"framing: the photo's face is only {fh:.0f} px high; it was not enlarged beyond {MAX_UPSCALE} times"
        )
        scale = max(MAX_UPSCALE, SMALLEST_FACE * height / fh)
    top = height * (0.045 if framing != "close-up" else -0.02)
    y_face = max(height * low, top + (fy - head_top) * scale)  # headroom
    y_face = max(y_face, height - (size[1] - fy) * scale)  # the cut under the border
    y_face = min(y_face, height * 0.60)
    gap = max(0.0, height - (y_face + (size[1] - fy) * scale))
    off = rng.uniform(-0.03, 0.03) if aspect < 1.2 else rng.choice([-1, 1]) * rng.uniform(0.03, 0.10)
    x_face = width * (0.5 + off)
    return Placing(
        scale,
        x_face - fx * scale,
        y_face - fy * scale,
        (x_face / width, y_face / height, fh * scale / height),
        gap,
        tuple(notes),
    )


def runs_of(profile: F32, shortest: float) -> list[tuple[int, int]]:
    """Stretches [start, end) of a border along which the person was cut."""
    solid = np.concatenate([[0], (profile > 0.5).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(solid))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2]) if b - a > shortest]


def side_cut(alpha: F32, face: float) -> float:
    """Length of the cut at the photo's left, right and top borders, in face heights."""
    borders = (alpha[:, :3].mean(1), alpha[:, -3:].mean(1), alpha[:3].mean(0))
    return sum(b - a for border in borders for a, b in runs_of(border, 0.02 * face)) / face


def extend(rgb: F32, alpha: F32, landmarks: F32, rng: np.random.Generator) -> tuple[F32, F32, F32]:
    """Continues the person beyond cut sides and top: (rgb, alpha, landmarks) on a larger canvas."""
    fh = float(np.hypot(*(landmarks[10, :2] - landmarks[152, :2])))
    fx = float(landmarks[:, 0].mean())
    landmarks = landmarks.copy()
    for side in ("left", "right", "top"):
        border = {"left": alpha[:, :3].mean(1), "right": alpha[:, -3:].mean(1), "top": alpha[:3].mean(0)}[side]
        if not runs_of(border, 0.02 * fh):
            continue
        turned_rgb, turned_alpha = _turn(rgb, side), _turn(alpha, side)
        room = {"left": fx, "right": alpha.shape[1] - fx, "top": 0.0}[side]
        longest = max(b - a for a, b in runs_of(border, 0.02 * fh))
        depth = float(np.clip(0.3 * longest, 6, 0.16 * fh)) if side == "top" else max(0.22 * fh, 1.25 * fh - room)
        grown_rgb, grown_alpha = _grow_left(turned_rgb, turned_alpha, round(depth), side != "top", rng)
        rgb, alpha = _turn_back(grown_rgb, side), _turn_back(grown_alpha, side)
        if side == "left":
            landmarks[:, 0] += round(depth)
            fx += round(depth)
        elif side == "top":
            landmarks[:, 1] += round(depth)
    return np.ascontiguousarray(rgb), np.ascontiguousarray(alpha), landmarks


def _turn(image: F32, side: str) -> F32:
    """Brings a border to the left."""
    if side == "right":
        return image[:, ::-1]
    return image.swapaxes(0, 1) if side == "top" else image


_turn_back = _turn  # both are their own inverse


def _grow_left(rgb: F32, alpha: F32, depth: int, gravity: bool, rng: np.random.Generator) -> tuple[F32, F32]:
    """Adds `depth` columns at the left: mirrored texture under a closing silhouette."""
    h = alpha.shape[0]
    inside = min(depth, alpha.shape[1] - 1)
    d = np.arange(1, depth + 1, dtype=np.float32)
    mirror = np.minimum(d, inside).astype(int)
    new_alpha = np.zeros((h, depth), np.float32)
    new_rgb = rgb[:, mirror].copy()
    rows = np.arange(h, dtype=np.float32)[:, None]
    u = d / depth
    closing = 1 - np.sqrt(np.clip(1 - u * u, 0, 1))
    for a, b in runs_of(alpha[:, :3].mean(1), 0.02 * depth):
        open_end = gravity and b >= h - 3
        slope_top = _slope(alpha, a, +1) if a > 2 else 0.0
        long = (h - a) * 1.1 if open_end else (b - a) * 0.5
        upper = a + slope_top * d * (1 - 0.5 * u) + long * closing
        lower = np.full(depth, h + 10.0, np.float32) if open_end or b >= h - 3 else b - long * closing
        if not open_end:  # hair: strands of different length
            strands = cv2.GaussianBlur(
                rng.random((h, 1)).astype(np.float32), (1, 9), 2.5, borderType=cv2.BORDER_REFLECT
            )
            reach = np.clip(0.55 + 4.0 * (strands - 0.5), 0.15, 1.0)
            fade = np.clip((reach - u[None]) / 0.35, 0, 1)
        else:
            fade = np.ones((1, depth), np.float32)
        shape = np.clip(rows - upper[None] + 0.5, 0, 1) * np.clip(lower[None] - rows + 0.5, 0, 1) * fade
        softness = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 2.4)  # steep parts are stepped by columns
        new_alpha = np.maximum(new_alpha, softness)
        shift = np.minimum(upper - a, (0.4 + slope_top) * d)  # the texture follows the outline, but never tears
        source = np.clip(rows - shift[None] * float(open_end), a + 2, min(b, h) - 1).astype(np.float32)
        xs = np.broadcast_to(mirror.astype(np.float32)[None], source.shape)
        moved = cv2.remap(
            np.ascontiguousarray(rgb),
            np.ascontiguousarray(xs),
            source,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        new_rgb = np.where(shape[..., None] > 0.001, moved, new_rgb)
    blurred = cv2.GaussianBlur(new_rgb, (0, 0), max(1.0, 0.05 * depth))
    away = u[None, :, None]
    new_rgb = (new_rgb * (1 - away) + blurred * away) * (1 - 0.5 * away**1.2)
    return np.concatenate([new_rgb[:, ::-1], rgb], 1), np.concatenate([new_alpha[:, ::-1], alpha], 1)


def _slope(alpha: F32, row: int, step: int) -> float:
    """How steeply the outline falls towards the border at a cut's end (rows per column), 0..1.5."""
    look = max(4, alpha.shape[1] // 40)
    column = alpha[max(0, row - 3 * look) : row + 1, min(look, alpha.shape[1] - 1)]
    solid = np.flatnonzero(column > 0.5)
    rise = len(column) - solid[0] - 1 if solid.size else 0
    return float(np.clip(step * rise / look, 0.0, 1.5))


def put(
    rgb: F32, alpha: F32, landmarks: F32, placing: Placing, origin: tuple[float, float], width: int, height: int
) -> Person:
    """Samples a cut-out (sRGB float 0..1 on a canvas whose photo begins at `origin`) into the still's pixels."""
    s = placing.scale
    shift = np.array([placing.x - origin[0] * s, placing.y - origin[1] * s])
    if s < 0.75:  # average first: sampling alone would alias
        factor = s * 1.0
        size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
        real = np.array([size[0] / rgb.shape[1], size[1] / rgb.shape[0]])
        weight = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(rgb * alpha[..., None], size, interpolation=cv2.INTER_AREA) + 0.0
        plain = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        rgb = np.where(weight[..., None] > 0.02, colour / np.maximum(weight, 0.02)[..., None], plain)
        alpha, sx, sy = weight, s / float(real[0]), s / float(real[1])
    else:
        sx = sy = s
    matrix = np.array([[sx, 0, shift[0]], [0, sy, shift[1]]], np.float64)
    flags = cv2.INTER_LANCZOS4 if s > 1.05 else cv2.INTER_CUBIC
    colours = cv2.warpAffine(
        to_linear(np.clip(rgb, 0, 1)), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    matte = cv2.warpAffine(alpha, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    if placing.bottom_gap < 1.0:  # rows that sampling left half empty at the very bottom
        matte[-2:] = np.maximum(matte[-2:], matte[-4:-2].max(0))
    points = landmarks * s + np.array([shift[0], shift[1], 0], np.float32)
    fh = float(np.hypot(*(points[10, :2] - points[152, :2])))
    return Person(np.clip(colours, 0, 1), np.clip(matte, 0, 1), points.astype(np.float32), fh)


def melt_bottom(person: Person, placing: Placing, rng_field: F32) -> Person:
    """Where the photo ends above the frame's bottom: the body fades out in drifting haze instead of ending."""
    if placing.bottom_gap < 1.0:
        return person
    h = person.alpha.shape[0]
    end = h - placing.bottom_gap
    start = end - 0.75 * person.face_height
    ys = np.arange(h, dtype=np.float32)[:, None]
    t = np.clip((ys - start) / (end - 0.06 * person.face_height - start) + 0.5 * (rng_field - 0.5), 0, 1)
    keep = 1 - t * t * (3 - 2 * t)
    return Person(
        person.rgb, (person.alpha * keep * (ys < end - 1)).astype(np.float32), person.landmarks, person.face_height
    )
