"""Scenes of the city. Each paints `canvas.light` and sets `canvas.lighting`; `accents` = linear colours [n][3]."""

from __future__ import annotations

import cv2
import numpy as np

from vividcover.image.classic.scene_tools import F32, Canvas, Lighting, fbm, gradient, lamp, points, rgb, shade, smooth


def skyline(
    c: Canvas, horizon: float, tall: tuple[float, float], colour: F32, windows: float, lamps: list[F32]
) -> None:
    """Blocks with lit windows."""
    x = -0.05
    while x < c.aspect + 0.05:
        w, t = c.rng.uniform(0.05, 0.13), c.rng.uniform(*tall)
        shade(
            c,
            np.array([[x, horizon], [x, horizon - t], [x + w, horizon - t], [x + w, horizon]]),
            colour * c.rng.uniform(0.6, 1.4),
        )
        xs, ys = np.meshgrid(np.arange(x + 0.010, x + w - 0.006, 0.014), np.arange(horizon - t + 0.012, horizon, 0.020))
        lit = c.rng.random(xs.shape) < windows
        picks = (
            np.stack([lamps[int(k)] for k in c.rng.integers(len(lamps), size=int(lit.sum()))])
            if lit.any()
            else np.zeros((0, 3))
        )
        points(c, xs[lit], ys[lit], picks * c.rng.uniform(0.1, 1, (len(picks), 1)) ** 1.5, 1.5, 0.0022)
        x += w * c.rng.uniform(0.9, 1.25)


def street(c: Canvas, accents: list[F32]) -> None:
    warm, red, cool = rgb(255, 190, 110), rgb(255, 60, 45), rgb(190, 215, 255)
    horizon = 0.66
    c.light += gradient(
        c.y, [(0, rgb(9, 11, 24)), (0.5, rgb(22, 26, 48)), (horizon, rgb(52, 42, 58)), (1, rgb(10, 11, 18))]
    )
    mid = c.aspect * c.rng.uniform(0.42, 0.58)
    for depth in range(7, 0, -1):  # houses closing in on the vanishing point
        for side in (-1, 1):
            near = mid + side * (0.10 + 0.75 * (7 - depth) / 6) * c.aspect * 0.5
            far = mid + side * (0.06 + 0.6 * (6.4 - depth) / 6) * c.aspect * 0.5
            top, base = 0.50 - 0.62 * (7 - depth) / 6, horizon + 0.04 * (7 - depth)
            shade(
                c,
                np.array([[far, base], [far, top + 0.04], [near + side * 0.6, top], [near + side * 0.6, base]]),
                rgb(24, 24, 38) * (1.3 - 0.12 * (7 - depth)),
            )
            n = 16
            xs = c.rng.uniform(min(far, near + side * 0.25), max(far, near + side * 0.25), n)
            ys = c.rng.uniform(top + 0.05, base - 0.04, n)
            palette = np.stack([[warm, cool, *accents][int(k)] for k in c.rng.integers(2 + len(accents), size=n)])
            points(c, xs, ys, palette * c.rng.uniform(0.1, 1.0, (n, 1)).astype(np.float32), 6, 0.004)
    for side in (-1, 1):  # shop signs: strips of light
        for k in range(5):
            x, y = mid + side * c.aspect * (0.16 + 0.085 * k), 0.50 - 0.05 * k + c.rng.normal(0, 0.03)
            colour = accents[(k + (side > 0)) % len(accents)]
            size = 0.014 + 0.008 * k
            cv2.rectangle(
                c.light,
                c.px(x - size * 0.5, y - size * 2.2),
                c.px(x + size * 0.5, y + size * 2.2),
                (colour * 1.5).tolist(),
                -1,
            )
            lamp(c, (x, y), size, colour * 0.5, glow=5)
    n = 18
    for colour, dx in ((red, 0.05), (rgb(255, 245, 225), -0.05)):  # cars
        spread = c.rng.uniform(0.0, 1.0, n)
        points(
            c,
            mid + dx * c.aspect * (0.3 + 3 * spread),
            horizon - 0.015 + 0.05 * spread,
            np.repeat(colour[None], n, 0),
            9,
            0.0022,
        )
    row = round(horizon * c.h)
    mirror = c.light[max(0, 2 * row - c.h) : row][::-1]
    wet = np.zeros_like(c.light)
    wet[row : row + len(mirror)] = mirror
    wet = cv2.GaussianBlur(wet, (0, 0), sigmaX=0.004 * c.h, sigmaY=0.045 * c.h)
    ripple = 0.4 + 0.9 * fbm((c.h, c.w), c.rng, cells=26, stretch=5, octaves=3)
    c.light += wet * (ripple * smooth(horizon, horizon + 0.02, c.y))[..., None] * 0.9
    c.lens_blur = 0.013
    c.lighting = Lighting(
        key=rgb(255, 205, 150),
        key_from=(-0.6, -0.5, 0.65),
        ambient=rgb(70, 80, 120) * 0.8,
        rim_left=accents[0] * 1.1 + warm * 0.3,
        rim_right=accents[-1] * 1.3,
        rim_top=warm * 0.3,
        face_level=0.24,
        contrast=0.75,
        floor_fade=0.5,
    )


def neon(c: Canvas, accents: list[F32]) -> None:
    bw, bh = 0.085, 0.034
    rows = np.floor(c.y / bh)
    u, v = (c.x / bw + 0.5 * (rows % 2)) % 1, (c.y / bh) % 1
    joint = smooth(0.0, 0.10, np.minimum(v, 1 - v)) * smooth(0.0, 0.045, np.minimum(u, 1 - u))
    brick = fbm((c.h, c.w), c.rng, cells=30, octaves=3) * 0.5 + 0.5 * fbm((c.h, c.w), c.rng, cells=9, octaves=2)
    tubes = np.zeros_like(c.light)
    thick = max(2, round(0.009 * c.h))
    count = int(c.rng.integers(4, 6))
    for i in range(count):
        colour = accents[i % len(accents)]
        side = -1 if i % 2 == 0 else 1
        at = np.array([c.aspect / 2 + side * c.aspect * c.rng.uniform(0.24, 0.42), 0.12 + 0.62 * (i + 0.5) / count])
        size = c.rng.uniform(0.11, 0.17)
        kind = int(c.rng.integers(5))
        a = np.linspace(0, 2 * np.pi, 80)
        if kind == 0:
            shape = np.stack([np.cos(a), np.sin(a)], 1)
        elif kind == 1:  # a heart
            shape = (
                np.stack(
                    [16 * np.sin(a) ** 3, -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a))], 1
                )
                / 16
            )
        elif kind == 2:  # a bolt
            shape = np.array([[0.2, -1], [-0.5, 0.15], [0, 0.15], [-0.25, 1], [0.55, -0.25], [0.05, -0.25], [0.2, -1]])
        elif kind == 3:  # a note
            shape = np.concatenate(
                [
                    np.array([[0.15, 0.75], [0.15, -0.9], [0.7, -0.55], [0.7, -0.2]]),
                    np.array([[0.15, -0.5], [0.15, 0.75]]),
                    np.stack([-0.2 + 0.35 * np.cos(a), 0.75 + 0.25 * np.sin(a)], 1),
                ]
            )
        else:
            shape = np.array([[-1, 0.8], [0, -0.9], [1, 0.8], [-1, 0.8]])
        path = np.round((at + shape * size) * c.h * 8).astype(np.int32)
        cv2.polylines(tubes, [path], False, colour.tolist(), thick, cv2.LINE_AA, 3)
    for k, y in enumerate((0.06, 0.93)):
        cv2.line(tubes, c.px(0, y), c.px(c.aspect, y + 0.0), accents[k % len(accents)].tolist(), thick, cv2.LINE_AA)
    wash = sum(w * cv2.GaussianBlur(tubes, (0, 0), s * c.h) for s, w in ((0.03, 1.2), (0.09, 2.6), (0.22, 3.5)))
    c.light += ((0.20 + 0.8 * joint) * (0.35 + 0.65 * brick))[..., None] * wash * 0.55 + 0.004
    c.light += tubes * 2.2 + (cv2.GaussianBlur(tubes, (0, 0), 0.0016 * c.h).max(2) ** 2 * 0.9)[..., None]
    c.lens_blur = 0.0045
    c.lighting = Lighting(
        key=accents[0] * 0.8 + 0.35,
        key_from=(-0.7, -0.15, 0.6),
        ambient=0.05 + accents[-1] * 0.45,
        rim_left=accents[0] * 1.9,
        rim_right=accents[-1] * 1.9,
        rim_top=accents[-1] * 0.3,
        face_level=0.25,
        contrast=0.85,
        floor_fade=0.45,
    )


def rooftop(c: Canvas, accents: list[F32]) -> None:
    t = np.clip(c.y / 0.72, 0, 1)
    c.light += (
        gradient(
            t, [(0, rgb(20, 30, 72)), (0.45, rgb(70, 66, 120)), (0.8, rgb(210, 110, 110)), (1, rgb(255, 170, 110))]
        )
        * 0.6
    )
    c.light *= (0.8 + 0.4 * fbm((c.h, c.w), c.rng, cells=4, stretch=4))[..., None]
    lamps = [rgb(255, 205, 130), rgb(255, 235, 200), rgb(190, 215, 255), *accents]
    skyline(c, 0.86, (0.20, 0.48), rgb(42, 42, 74), 0.30, lamps)
    skyline(c, 0.98, (0.14, 0.34), rgb(20, 22, 40), 0.38, lamps)
    for row in range(3):  # strings of bulbs
        xs = np.linspace(-0.05, c.aspect + 0.05, 16)
        sag = 0.06 + 0.10 * row + 0.09 * np.cos((xs / c.aspect - 0.5) * np.pi * (1.2 + 0.3 * row)) ** 2
        for x, y in zip(xs, sag):
            lamp(c, (float(x), float(y)), 0.006, rgb(255, 195, 110) * 2.0, glow=5)
    c.lens_blur = 0.011
    c.lighting = Lighting(
        key=rgb(255, 210, 165),
        key_from=(0.55, -0.45, 0.7),
        ambient=rgb(120, 115, 165) * 0.7,
        rim_left=rgb(255, 150, 110) * 1.0,
        rim_right=rgb(255, 185, 120) * 1.3,
        rim_top=rgb(255, 195, 120) * 0.5,
        face_level=0.29,
        contrast=0.6,
        floor_fade=0.35,
    )
