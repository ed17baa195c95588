"""Relighting: shape is estimated from mesh and matte, the photo's own light is taken off, the scene's put on.

Shading follows Lambert with a wrapped key light; normals come from the FaceMesh depth on the face and from inflating
the matte elsewhere. Rims sit on the matte's edge, a few thousandths of the frame wide, and follow the hair's texture.
All colours are linear RGB float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.image.classic.cutout import OVAL
from vividcover.image.classic.scene_tools import F32, Lighting, luma, smooth

SKIN = (50, 101, 118, 280, 330, 347, 205, 425, 187, 411, 151, 9, 108, 337, 36, 266)  # cheeks and forehead


FACE_LEVEL = 0.84  # of what a scene asks for: leaves the film curve room for the face's modelling


@dataclass(frozen=True, slots=True)
class Person:
    """The cut-out in the still's pixels: linear colours [H,W,3], alpha [H,W], landmarks [468,3], face height px."""

    rgb: F32
    alpha: F32
    landmarks: F32
    face_height: float


def face_mask(landmarks: F32, shape: tuple[int, int], grow: float = 1.0, soft: float = 0.12) -> F32:
    """Soft oval of the face, float32 [H,W]; `soft` in face heights."""
    points = landmarks[list(OVAL), :2]
    centre = points.mean(0)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [((points - centre) * grow + centre).astype(np.int32)], 255)
    sigma = max(0.8, soft * float(np.ptp(points[:, 1])) / 4)
    step = max(1, int(sigma / 3))
    small = (
        cv2.resize(mask, (shape[1] // step, shape[0] // step), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    )
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (shape[1], shape[0]))


def normals(person: Person) -> F32:
    """Unit normals [H,W,3] (x right, y down, z to the camera), from mesh depth and inflated matte."""
    h, w = person.alpha.shape
    step = max(1, round(max(h, w) / 320))
    size = (w // step, h // step)
    alpha = cv2.resize(person.alpha, size, interpolation=cv2.INTER_AREA)
    fh = person.face_height / step
    padded = cv2.copyMakeBorder(alpha, 0, round(fh), 0, 0, cv2.BORDER_REPLICATE)
    height = np.zeros_like(padded)
    for sigma in (0.06, 0.14, 0.30):
        height += sigma * fh * 1.5 * cv2.GaussianBlur(padded, (0, 0), sigma * fh)
    body = _from_height(height[: size[1]])
    points = person.landmarks / step
    weight = np.zeros(alpha.shape, np.float32)
    depth = np.zeros(alpha.shape, np.float32)
    inside = (points[:, 0] >= 0) & (points[:, 0] < size[0]) & (points[:, 1] >= 0) & (points[:, 1] < size[1])
    cols, rows = points[inside, 0].astype(int), points[inside, 1].astype(int)
    np.add.at(weight, (rows, cols), 1.0)
    np.add.at(depth, (rows, cols), -points[inside, 2])
    sigma = max(1.0, 0.06 * fh)
    total = np.zeros_like(depth)
    norm = np.zeros_like(weight)
    for factor, share in ((1.0, 1.0), (3.0, 0.02)):
        total += share * cv2.GaussianBlur(depth, (0, 0), sigma * factor)
        norm += share * cv2.GaussianBlur(weight, (0, 0), sigma * factor)
    face = _from_height(cv2.GaussianBlur(total / (norm + 1e-5), (0, 0), sigma * 0.6))
    mix = face_mask(points, alpha.shape, 0.93, 0.25)[..., None]
    n = body * (1 - mix) + face * mix
    n = cv2.resize(n, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(n / (np.linalg.norm(n, axis=2, keepdims=True) + 1e-6))


def _from_height(height: F32) -> F32:
    dy, dx = np.gradient(height)
    n = np.stack([-dx, -dy, np.ones_like(dx)], 2).astype(np.float32)
    return np.asarray(n / np.linalg.norm(n, axis=2, keepdims=True))


def own_light(person: Person, n: F32) -> tuple[F32, F32, float]:
    """The photo's own light on the face: (least-squares weights [4] of luminance on (1, n), skin colour [3], level)."""
    mask = face_mask(person.landmarks, person.alpha.shape, 0.85, 0.02) > 0.9
    light = luma(person.rgb)
    if mask.sum() < 50:
        return np.array([1, 0, 0, 0], np.float32), np.ones(3, np.float32), float(np.median(light))
    values = light[mask]
    low, high = np.percentile(values, (25, 97))
    keep = (values > low) & (values < high)  # leaves out eyes, brows, lips, shine
    rows = np.concatenate([np.ones((int(mask.sum()), 1), np.float32), n[mask]], 1)[keep]
    level = float(np.median(values[keep])) if keep.any() else float(np.median(values))
    gram = np.einsum("ni,nj->ij", rows, rows) + np.diag([0, 1, 1, 1]).astype(np.float32) * 0.02 * len(rows)
    weights = np.linalg.solve(gram, np.einsum("ni,n->i", rows, values[keep])) / max(level, 1e-4)
    skin = np.median(person.rgb[mask][keep], axis=0) if keep.any() else np.median(person.rgb[mask], axis=0)
    return weights.astype(np.float32), (skin / max(float(luma(skin)), 1e-4)).astype(np.float32), level


def relight(person: Person, light: Lighting, skin: F32 | None, reach: float) -> F32:
    """The person's colours [H,W,3] under the scene's light.

    `skin`: the person's usual skin colour over all photos (luminance 1), towards which this photo is balanced.
    `reach`: y in px where the fall-off down the body ends (the frame's bottom).
    """
    n = normals(person)
    weights, here, level = own_light(person, n)
    base = person.rgb / max(level, 0.02)
    if skin is not None:
        base = base * np.clip((skin / here) ** 0.6, 0.75, 1.35)
    own = np.clip(weights[0] + n @ weights[1:], 0.45, 1.8)
    flat = base / (own ** (0.35 * light.contrast))[..., None]
    knee = 1.6  # the photo's highlights are compressed: the scene brings its own
    above = np.maximum(flat - knee, 0)
    flat = np.minimum(flat, knee) + above / (1 + 0.8 * above)
    direction = np.asarray(light.key_from, np.float32)
    direction = direction / np.linalg.norm(direction)
    lambert = np.clip((n @ direction + 0.25) / 1.25, 0, 1)
    facing = (1 - light.contrast) + light.contrast * lambert**1.2
    sky = 0.75 + 0.25 * np.clip(-n[..., 1], -1, 1)
    key = 0.65 * light.key + 0.35 * luma(light.key)  # skin stays skin
    illumination = facing[..., None] * key + sky[..., None] * light.ambient * 0.55
    broad = cv2.resize(cv2.GaussianBlur(cv2.resize(n, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (0, 0),
                                        max(1.0, 0.02 * person.face_height)), (n.shape[1], n.shape[0]))  # fmt: skip
    for side, rim in ((-1.0, light.rim_left), (1.0, light.rim_right)):
        wash = np.clip((broad @ np.array([side, -0.15, -0.1], np.float32) - 0.12) / 0.88, 0, 1) ** 1.5
        illumination = illumination + 0.7 * wash[..., None] * rim
    mask = face_mask(person.landmarks, person.alpha.shape, 0.85, 0.02) > 0.9
    lit = flat * illumination
    mean = float(np.mean(luma(lit[mask]))) if mask.any() else float(np.mean(luma(lit)))
    lit *= FACE_LEVEL * light.face_level / max(mean, 1e-3)
    return np.asarray(lit * _falloff(person, light, reach)[..., None] + rims(person, light, flat, n))


def _falloff(person: Person, light: Lighting, reach: float) -> F32:
    """1 on the face, less towards the frame's bottom."""
    ys = np.arange(person.alpha.shape[0], dtype=np.float32)[:, None]
    chin = float(person.landmarks[152, 1])
    fall = 1 - light.floor_fade * smooth(chin + 0.15 * person.face_height, max(reach, chin + person.face_height), ys)
    return np.broadcast_to(fall, person.alpha.shape)


def rims(person: Person, light: Lighting, flat: F32, n: F32) -> F32:
    """Thin coloured light on the edges that face the lamps behind; broken up by hair and cloth. float32 [H,W,3]."""
    alpha, fh = person.alpha, person.face_height
    h = alpha.shape[0]
    pad = 8  # the frame's border is no edge
    solid = cv2.copyMakeBorder((alpha > 0.45).astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 5)[pad:-pad, pad:-pad]
    sigma = max(1.5, 0.022 * fh)
    soft = cv2.GaussianBlur(cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_REPLICATE), (0, 0), sigma)[
        pad:-pad, pad:-pad
    ]
    gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    norm = np.sqrt(gx * gx + gy * gy) + 1e-4
    out_x, out_y = -gx / norm, -gy / norm  # outwards from the person
    width = max(1.6, 0.016 * fh)
    band = np.exp(-depth / width) * smooth(0.002, 0.03, norm)
    detail = luma(flat)
    texture = np.clip(detail / (cv2.GaussianBlur(detail, (0, 0), max(1.0, 0.012 * fh)) + 0.02), 0.55, 2.2) ** 1.5
    albedo = 0.22 + 0.55 * np.sqrt(np.clip(flat, 0, 1.2))
    result = np.zeros_like(flat)
    chin = float(person.landmarks[152, 1])
    below = 1 - 0.55 * smooth(chin, h + 1.0, np.arange(h, dtype=np.float32)[:, None])
    for direction, colour in (
        ((-0.92, -0.38), light.rim_left),
        ((0.92, -0.38), light.rim_right),
        ((0.0, -1.0), light.rim_top),
    ):
        facing = np.clip(out_x * direction[0] + out_y * direction[1] - 0.15, 0, 1)
        result += (facing * band * texture * below * 0.95)[..., None] * colour * albedo
    return result


def balanced(colours: NDArray[np.float32]) -> F32:
    """The usual skin colour of a person: median of the photos' skin colours [n,3], each of luminance 1."""
    return np.median(colours, axis=0).astype(np.float32)
