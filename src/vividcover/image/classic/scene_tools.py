"""Ingredients of a scene: colours, noise, beams, lamps, lens blur. All light is linear, RGB float32, 1.0 = white.

Coordinates run 0..1 from top to bottom and 0..aspect from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[Any]  # float32 unless a docstring says otherwise
RGB = tuple[float, float, float]


def to_linear(srgb: F32) -> F32:
    """sRGB 0..1 → linear (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(linear: F32) -> F32:
    """Linear 0..1 → sRGB."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.power(linear, 1 / 2.4) - 0.055).astype(np.float32)


def rgb(r: float, g: float, b: float) -> F32:
    """An sRGB 0..255 colour as linear float32 [3]."""
    return to_linear(np.array([r, g, b], np.float32) / 255.0)


def luma(colour: F32) -> F32:
    """Rec. 709 luminance of linear RGB, [..., 3] → [...]."""
    return np.asarray(colour @ np.array([0.2126, 0.7152, 0.0722], np.float32), np.float32)


@dataclass(slots=True)
class Lighting:
    """How the scene lights the person. Colours linear RGB [3] with the strength in them; y points down, z to us."""

    key: F32 = field(default_factory=lambda: np.ones(3, np.float32))
    key_from: RGB = (-0.4, -0.6, 0.7)
    ambient: F32 = field(default_factory=lambda: np.full(3, 0.3, np.float32))
    rim_left: F32 = field(default_factory=lambda: np.zeros(3, np.float32))
    rim_right: F32 = field(default_factory=lambda: np.zeros(3, np.float32))
    rim_top: F32 = field(default_factory=lambda: np.zeros(3, np.float32))
    face_level: float = 0.30  # linear luminance that the lit face is brought to
    contrast: float = 0.75  # 0: the photo's own light only; 1: only the scene's key shapes the face
    floor_fade: float = 0.5  # how much the light falls off from the face down to the frame's bottom


def lit_from_a_side(left: bool, key_from: RGB, near: F32, far: F32, **more: Any) -> Lighting:
    """Light from the right as given, or its mirror image: `near` is the rim on its side, `far` the other one."""
    x, y, z = key_from
    rims = (near, far) if left else (far, near)
    return Lighting(key_from=(-x if left else x, y, z), rim_left=rims[0], rim_right=rims[1], **more)


@dataclass(slots=True)
class Canvas:
    """The background being painted: linear light [h,w,3], at `scale` of the still's size."""

    light: F32
    rng: np.random.Generator
    scale: float
    x: F32
    y: F32
    front: list[tuple[F32, F32]] = field(default_factory=list)  # layers before the person: (light, alpha)
    lighting: Lighting = field(default_factory=Lighting)
    lens_blur: float = 0.006  # of the height
    haze: F32 = field(default_factory=lambda: np.zeros(3, np.float32))  # veil over everything, person included
    subject: tuple[float, float, float] = (0.5, 0.42, 0.3)  # face centre x (of the width), y, height

    @property
    def h(self) -> int:
        return int(self.light.shape[0])

    @property
    def w(self) -> int:
        return int(self.light.shape[1])

    @property
    def aspect(self) -> float:
        return self.w / self.h

    def px(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.h), round(y * self.h)


def new_canvas(width: int, height: int, rng: np.random.Generator, scale: float) -> Canvas:
    h, w = round(height * scale), round(width * scale)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32) / h
    return Canvas(np.zeros((h, w, 3), np.float32), rng, scale, x, y)


# --- noise and gradients ------------------------------------------------------------------------------------------


def fbm(
    shape: tuple[int, int], rng: np.random.Generator, *, cells: float = 4, octaves: int = 5, stretch: float = 1.0,
    gain: float = 0.55,
) -> F32:  # fmt: skip
    """Fractal noise 0..1, float32 [h,w]; `cells` blobs along the height; stretch > 1 makes it wide."""
    h, w = shape
    out = np.zeros(shape, np.float32)
    amplitude, total = 1.0, 0.0
    for _ in range(octaves):
        rows, cols = max(2, round(cells) + 1), max(2, round(cells * w / h / stretch) + 1)
        if rows > h or cols > w:
            break
        grid = rng.random((rows, cols), dtype=np.float32)
        out += amplitude * cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)
        total += amplitude
        amplitude *= gain
        cells *= 2
    out /= total
    low, high = np.percentile(out[::4, ::4], (1, 99))
    return np.asarray(np.clip((out - low) / (high - low + 1e-6), 0, 1))


def gradient(t: F32, stops: list[tuple[float, F32]]) -> F32:
    """Colours along t 0..1 through (position, linear colour) stops, smooth; [...]→[...,3]."""
    places = np.array([s[0] for s in stops], np.float32)
    colours = np.stack([s[1] for s in stops])
    table = np.linspace(0, 1, 512, dtype=np.float32)
    lut = np.stack([np.interp(table, places, colours[:, c]) for c in range(3)], 1).astype(np.float32)
    soft: F32 = cv2.GaussianBlur(lut[:, None, :], (1, 31), 0, borderType=cv2.BORDER_REPLICATE)[:, 0]
    return np.asarray(soft[np.clip(t * 511, 0, 511).astype(np.int32)])


def smooth(low: float, high: float, t: F32) -> F32:
    """Smoothstep."""
    u = np.clip((t - low) / (high - low), 0, 1)
    return (u * u * (3 - 2 * u)).astype(np.float32)


# --- lamps and beams ----------------------------------------------------------------------------------------------


def beam(
    c: Canvas, at: tuple[float, float], angle: float, colour: F32, *, spread: float = 0.08, reach: float = 1.2,
    width: float = 0.008, hard: float = 2.0, haze: F32 | None = None,
) -> None:  # fmt: skip
    """A volumetric cone of light from `at`; angle in radians, 0 = straight down; haze [h,w] makes it visible."""
    dx, dy = c.x - at[0], c.y - at[1]
    along = dx * np.sin(angle) + dy * np.cos(angle)
    across = dx * np.cos(angle) - dy * np.sin(angle)
    radius = width + spread * np.maximum(along, 0)
    profile = np.exp(-np.power(np.abs(across) / radius, hard))
    falloff = (along > 0) * (width / radius) ** 0.6 * np.exp(-np.maximum(along, 0) / reach)
    strength = profile * falloff * smooth(-0.005, 0.01, along)
    if haze is not None:
        strength = strength * (0.35 + 0.95 * haze)
    c.light += strength[..., None] * colour


def lamp(c: Canvas, at: tuple[float, float], size: float, colour: F32, *, glow: float = 6.0) -> None:
    """A lamp that looks at us: a bright core and a soft glow. Sizes in heights."""
    distance = (c.x - at[0]) ** 2 + (c.y - at[1]) ** 2
    core = np.exp(-distance / (size * size))
    halo = 1.0 / (1.0 + distance / (size * glow) ** 2) ** 2
    c.light += (core * 3.0 + halo * 0.16)[..., None] * colour


def points(
    c: Canvas, xs: NDArray[np.float64], ys: NDArray[np.float64], colours: F32, strength: float, size: float = 0.0015
) -> None:
    """Small bright lamps [n] with linear colours [n,3]; the lens blur later turns them into bokeh discs."""
    radius = max(1, round(size * c.h))
    for x, y, colour in zip(xs, ys, colours):
        cv2.circle(c.light, c.px(float(x), float(y)), radius, (colour * strength).tolist(), -1, cv2.LINE_AA)


def discs(c: Canvas, count: int, palette: list[F32], size: tuple[float, float], strength: float,
          y: tuple[float, float] = (0.0, 1.0)) -> None:  # fmt: skip
    """Out-of-focus lamps: flat discs with a slightly brighter rim."""
    layer = np.zeros_like(c.light)
    for _ in range(count):
        radius = c.rng.uniform(*size) * c.h
        at = c.px(c.rng.uniform(0, c.aspect), c.rng.uniform(*y))
        colour = palette[int(c.rng.integers(len(palette)))] * strength * c.rng.uniform(0.15, 1.0) ** 1.5
        spot = np.zeros_like(c.light)
        lo = (max(0, at[0] - int(radius) - 3), max(0, at[1] - int(radius) - 3))
        hi = (min(c.w, at[0] + int(radius) + 3), min(c.h, at[1] + int(radius) + 3))
        if hi[0] <= lo[0] or hi[1] <= lo[1]:
            continue
        spot = spot[lo[1] : hi[1], lo[0] : hi[0]]
        centre = (at[0] - lo[0], at[1] - lo[1])
        cv2.circle(spot, centre, max(1, round(radius)), (colour * 0.8).tolist(), -1, cv2.LINE_AA)
        cv2.circle(
            spot, centre, max(1, round(radius * 0.94)), colour.tolist(), max(1, round(radius * 0.08)), cv2.LINE_AA
        )
        layer[lo[1] : hi[1], lo[0] : hi[0]] += spot
    c.light += cv2.GaussianBlur(layer, (0, 0), max(0.6, 0.0012 * c.h))


def lens_blur(light: F32, radius: float) -> F32:
    """Defocus: convolution with the aperture's disc (radius px), in linear light."""
    if radius < 0.7:
        return light
    size = int(np.ceil(radius)) * 2 + 1
    y, x = np.mgrid[0:size, 0:size] - size // 2
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(light, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)


def bloom(light: F32, strength: float, threshold: float = 0.6) -> F32:
    """Light scattered in lens and air: blurred highlights on three scales, added."""
    h, w = light.shape[:2]
    small = cv2.resize(np.minimum(np.maximum(light - threshold, 0), 12), (w // 4, h // 4), interpolation=cv2.INTER_AREA)
    total = np.zeros_like(small)
    for sigma, share in ((0.006, 0.5), (0.022, 0.32), (0.08, 0.18)):
        total = total + share * cv2.GaussianBlur(small, (0, 0), max(0.5, sigma * h / 4))
    return np.asarray(light + strength * cv2.resize(total, (w, h), interpolation=cv2.INTER_LINEAR))


def shade(c: Canvas, polygon: NDArray[np.float64], colour: F32, alpha: float = 1.0, soft: float = 0.0) -> None:
    """A filled shape [n,2] over what was painted so far."""
    mask: F32 = np.zeros((c.h, c.w), np.float32)
    cv2.fillPoly(mask, [np.round(polygon * c.h * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    if soft:
        mask = cv2.GaussianBlur(mask, (0, 0), soft * c.h)
    mask = (mask * alpha)[..., None]
    c.light *= 1 - mask
    c.light += mask * colour


def crowd(
    c: Canvas, top: float, size: float, *, hands: float, rng: np.random.Generator, phones: float = 0.0
) -> tuple[F32, F32]:
    """Backs of people: (alpha [h,w], phone screens [h,w]) with heads near `top`, heads `size` high."""
    factor = 2
    mask = np.zeros((c.h * factor, c.w * factor), np.uint8)
    screens = np.zeros((c.h, c.w), np.float32)
    scale = c.h * factor
    x = -size
    while x < c.aspect + size:
        s = size * rng.uniform(0.82, 1.18)
        y = top + rng.normal(0, 0.22) * size
        head = (int(x * scale), int(y * scale))
        cv2.ellipse(mask, head, (int(0.36 * s * scale), int(0.48 * s * scale)), rng.uniform(-12, 12), 0, 360, 255, -1)
        body = np.array([[x - 0.16 * s, y + 0.3 * s], [x + 0.16 * s, y + 0.3 * s], [x + 0.3 * s, y + 0.62 * s],
                         [x + 0.95 * s, y + 0.95 * s], [x + 1.1 * s, 1.3], [x - 1.1 * s, 1.3],
                         [x - 0.95 * s, y + 0.95 * s], [x - 0.3 * s, y + 0.62 * s]])  # fmt: skip
        cv2.fillPoly(mask, [(body * scale).astype(np.int32)], 255)
        if rng.random() < hands:
            side = rng.choice([-1.0, 1.0])
            shoulder = np.array([x + side * 0.75 * s, y + 0.95 * s])
            elbow = shoulder + np.array([side * rng.uniform(0.05, 0.4), -rng.uniform(0.55, 0.9)]) * s
            hand = elbow + np.array([-side * rng.uniform(-0.25, 0.3), -rng.uniform(0.7, 1.05)]) * s
            arm = (np.array([shoulder, elbow, hand]) * scale).astype(np.int32)
            cv2.polylines(mask, [arm[:2]], False, 255, max(2, int(0.30 * s * scale)), cv2.LINE_AA)
            cv2.polylines(mask, [arm[1:]], False, 255, max(2, int(0.22 * s * scale)), cv2.LINE_AA)
            cv2.circle(mask, tuple(arm[2].tolist()), max(2, int(0.16 * s * scale)), 255, -1, cv2.LINE_AA)
            if rng.random() < phones:
                px, py = c.px(float(hand[0]), float(hand[1] - 0.25 * s))
                cv2.rectangle(
                    screens,
                    (px - 1 - int(0.08 * s * c.h), py),
                    (px + 1 + int(0.08 * s * c.h), py + int(0.26 * s * c.h)),
                    1.0,
                    -1,
                )
            else:
                for spread in (-0.5, -0.17, 0.17, 0.5):
                    tip = hand + np.array([np.sin(spread), -np.cos(spread)]) * 0.34 * s
                    cv2.line(mask, tuple(arm[2].tolist()), tuple((tip * scale).astype(int).tolist()), 255,
                             max(1, int(0.07 * s * scale)), cv2.LINE_AA)  # fmt: skip
        x += size * rng.uniform(0.85, 1.45)
    alpha = cv2.resize(mask, (c.w, c.h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return alpha, screens
