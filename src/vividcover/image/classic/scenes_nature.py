"""Scenes under the sky. Each paints `canvas.light` and sets `canvas.lighting`; `accents` = linear colours [n][3]."""

from __future__ import annotations

import cv2
import numpy as np

from vividcover.image.classic.scene_tools import (
    F32,
    Canvas,
    Lighting,
    beam,
    discs,
    fbm,
    gradient,
    lamp,
    lit_from_a_side,
    points,
    rgb,
    shade,
    smooth,
)


def ridge_line(c: Canvas, y: float, height: float, rough: float) -> F32:
    """A mountain or dune silhouette: the height of its edge at each x, float32 [w]."""
    line = np.zeros(c.w, np.float32)
    t = np.arange(c.w, dtype=np.float32) / c.h
    for k in range(1, 7):
        line += np.sin(2 * np.pi * (t * k * rough + c.rng.random())) / k**1.5
    return y - height * (0.5 + 0.35 * line)


def beach(c: Canvas, accents: list[F32]) -> None:
    horizon = 0.56
    sun = (
        c.aspect * (c.rng.uniform(0.12, 0.3) if c.rng.random() < 0.5 else c.rng.uniform(0.7, 0.88)),
        horizon - c.rng.uniform(0.05, 0.10),
    )
    t = np.clip(c.y / horizon, 0, 1)
    sky = gradient(
        t, [(0, rgb(62, 88, 150)), (0.4, rgb(176, 120, 150)), (0.72, rgb(255, 150, 90)), (1, rgb(255, 205, 120))]
    )
    d = np.hypot(c.x - sun[0], (c.y - sun[1]) * 1.15)
    sky = (
        sky
        + (np.exp(-d / 0.22) * 0.9)[..., None] * rgb(255, 175, 85)
        + (np.exp(-((d / 0.035) ** 4)) * 6)[..., None] * rgb(255, 236, 190)
    )
    high = fbm((c.h, c.w), c.rng, cells=5, stretch=4.5, octaves=6)
    cloud = smooth(0.48, 0.85, high) * smooth(horizon, 0.30, c.y)
    lit = np.exp(-d / 0.5)
    tint = gradient(lit, [(0, rgb(92, 82, 120)), (0.5, rgb(225, 125, 115)), (1, rgb(255, 200, 140))])
    sky = sky * (1 - 0.75 * cloud[..., None]) + 0.75 * cloud[..., None] * tint
    depth = np.clip((c.y - horizon) / (1 - horizon), 0, 1)
    waves = fbm((c.h, c.w), c.rng, cells=46, stretch=7, octaves=3)
    fine = fbm((c.h, c.w), c.rng, cells=120, stretch=6, octaves=2)
    row = round(horizon * c.h)
    mirror = np.zeros_like(sky)
    flipped = sky[max(0, 2 * row - c.h) : row][::-1]
    mirror[row : row + len(flipped)] = flipped
    mirror = cv2.GaussianBlur(mirror, (0, 0), sigmaX=0.01 * c.h, sigmaY=0.03 * c.h)
    mirror[row + len(flipped) :] = mirror[min(row + len(flipped), c.h - 1)]
    water = mirror * (0.34 + 0.5 * waves[..., None]) + rgb(30, 60, 90) * 0.4
    path = np.exp(-(((c.x - sun[0]) / (0.045 + 0.20 * depth)) ** 2))
    water += (path * smooth(0.52, 0.9, 0.6 * fine + 0.4 * waves) * 2.2)[..., None] * rgb(255, 205, 130)
    shore = 0.86 + 0.03 * np.sin(3.0 * c.x + c.rng.uniform(0, 6)) + 0.01 * np.sin(11 * c.x)
    foam = np.exp(-(((c.y - shore) / 0.008) ** 2)) * (0.5 + 0.5 * fine)
    sand = gradient(depth, [(0, rgb(120, 90, 80)), (1, rgb(150, 108, 82))]) * (0.7 + 0.3 * fine[..., None])
    below = smooth(0.0, 0.01, c.y - shore)[..., None]
    scene = (
        np.where((c.y < horizon)[..., None], sky, water) * (1 - below)
        + sand * 0.6 * below
        + (foam * 0.5)[..., None] * rgb(255, 225, 205)
    )
    c.light += (scene * 0.62).astype(np.float32)
    left = sun[0] < c.aspect / 2
    bright, dim = rgb(255, 178, 96) * 2.2, rgb(240, 150, 140) * 0.6
    c.lens_blur = 0.0065
    c.lighting = lit_from_a_side(
        left,
        (0.75, -0.25, 0.6),
        bright,
        dim,
        key=rgb(255, 214, 170),
        ambient=rgb(176, 150, 170) * 0.75,
        rim_top=rgb(255, 190, 120) * 0.5,
        face_level=0.32,
        contrast=0.6,
        floor_fade=0.15,
    )


def forest(c: Canvas, accents: list[F32]) -> None:
    leaves = fbm((c.h, c.w), c.rng, cells=9, octaves=6)
    c.light += gradient(
        leaves, [(0, rgb(10, 22, 12)), (0.5, rgb(44, 84, 34)), (0.8, rgb(130, 165, 60)), (1, rgb(236, 232, 150))]
    )
    glow = np.exp(-(((c.x - c.aspect * 0.5) / 0.6) ** 2) - ((c.y - 0.25) / 0.4) ** 2)
    c.light = c.light * (0.3 + 0.75 * glow[..., None]) + (glow * 0.22)[..., None] * rgb(240, 235, 170)
    for depth in range(3):
        for _ in range(5):
            x, w = c.rng.uniform(-0.05, c.aspect + 0.05), 0.012 + 0.016 * depth * c.rng.uniform(0.7, 1.3)
            lean = c.rng.normal(0, 0.03)
            shade(
                c,
                np.array([[x - w, 1.1], [x - w * 0.7 + lean, -0.1], [x + w * 0.7 + lean, -0.1], [x + w, 1.1]]),
                rgb(58, 52, 34) * (0.9 - 0.25 * depth),
                0.9,
                0.003,
            )
    haze = fbm((c.h, c.w), c.rng, cells=4)
    origin = c.aspect * c.rng.uniform(0.1, 0.9)
    for k in range(8):
        beam(
            c,
            (origin + 0.10 * (k - 4), -0.12),
            0.35 * (0.5 - origin / c.aspect) * 2 + 0.06 * (k - 4),
            rgb(255, 235, 170) * 0.5,
            spread=0.035,
            width=0.03,
            reach=1.1,
            haze=haze,
        )
    discs(c, 34, [rgb(230, 240, 150), rgb(255, 235, 170), rgb(170, 210, 110)], (0.010, 0.035), 0.35, (0.0, 0.75))
    c.lens_blur = 0.009
    left = origin < c.aspect / 2
    sun, leaf = rgb(255, 232, 170) * 1.7, rgb(190, 220, 130) * 0.6
    c.lighting = lit_from_a_side(
        left,
        (0.5, -0.6, 0.6),
        sun,
        leaf,
        key=rgb(255, 240, 205),
        ambient=rgb(165, 190, 140) * 0.65,
        rim_top=rgb(255, 240, 190) * 0.6,
        face_level=0.31,
        contrast=0.5,
        floor_fade=0.25,
    )


def desert(c: Canvas, accents: list[F32]) -> None:
    t = np.clip(c.y / 0.66, 0, 1)
    sky = gradient(
        t, [(0, rgb(60, 98, 158)), (0.5, rgb(205, 165, 160)), (0.85, rgb(255, 190, 120)), (1, rgb(255, 215, 150))]
    )
    sky = sky * (0.85 + 0.3 * smooth(0.5, 0.9, fbm((c.h, c.w), c.rng, cells=5, stretch=6))[..., None])
    c.light += sky * 0.62
    grain = fbm((c.h, c.w), c.rng, cells=40, stretch=3, octaves=3)
    left = bool(c.rng.random() < 0.5)
    for k in range(4):
        line = ridge_line(c, 0.62 + 0.10 * k, 0.10 + 0.03 * k, 0.55 + 0.2 * c.rng.random())
        below = smooth(-0.002, 0.002, c.y - line[None])
        slope = np.gradient(cv2.GaussianBlur(line[None], (0, 0), 0.02 * c.h)[0]) * c.h / 100
        lit = 1 / (1 + np.exp((-1 if left else 1) * slope * 900 / c.h))
        fall = np.exp(-np.maximum(c.y - line[None], 0) / 0.16)
        tone = gradient(
            (0.15 + 0.85 * lit[None] * fall), [(0, rgb(96, 58, 52)), (0.5, rgb(196, 120, 74)), (1, rgb(250, 190, 120))]
        )
        c.light = (c.light * (1 - below[..., None]) + below[..., None] * tone * (0.5 + 0.16 * grain[..., None])).astype(
            np.float32
        )
    x = c.aspect * (0.16 if left else 0.84)
    lamp(c, (x, 0.47), 0.030, rgb(255, 225, 170) * 2.4, glow=5)
    c.lens_blur = 0.007
    sun, back = rgb(255, 190, 110) * 2.0, rgb(215, 160, 150) * 0.6
    c.lighting = lit_from_a_side(
        left,
        (0.7, -0.35, 0.6),
        sun,
        back,
        key=rgb(255, 222, 180),
        ambient=rgb(185, 160, 160) * 0.75,
        rim_top=rgb(255, 205, 140) * 0.4,
        face_level=0.33,
        contrast=0.6,
        floor_fade=0.1,
    )


def space(c: Canvas, accents: list[F32]) -> None:
    a, b = fbm((c.h, c.w), c.rng, cells=2.5, octaves=7), fbm((c.h, c.w), c.rng, cells=2.0, octaves=7)
    ridged = 1 - np.abs(2 * fbm((c.h, c.w), c.rng, cells=3, octaves=7, gain=0.6) - 1)
    c.light += rgb(7, 8, 20)
    c.light += (smooth(0.35, 1.0, a) * ridged**2 * 0.55)[..., None] * accents[0]
    c.light += (smooth(0.40, 1.0, b) * ridged**1.5 * 0.45)[..., None] * accents[-1]
    c.light += (smooth(0.6, 1.0, a * b * 1.8) * ridged**4 * 0.5)[..., None] * rgb(255, 230, 215)
    n = 900
    tints = np.stack(
        [[rgb(255, 255, 255), rgb(190, 210, 255), rgb(255, 220, 190)][int(k)] for k in c.rng.integers(3, size=n)]
    )
    points(
        c,
        c.rng.uniform(0, c.aspect, n),
        c.rng.random(n),
        tints * (c.rng.pareto(2.2, (n, 1)).clip(0, 6) * 0.5).astype(np.float32),
        1.0,
        0.0009,
    )
    left = bool(c.rng.random() < 0.5)
    p, r = (c.aspect * (0.84 if left else 0.16), 0.24), 0.17
    dx, dy = (c.x - p[0]) / r, (c.y - p[1]) / r
    inside = np.clip((1 - np.hypot(dx, dy)) * r * c.h, 0, 1)
    nz = np.sqrt(np.clip(1 - dx * dx - dy * dy, 0, 1))
    lit = np.clip((-0.75 if left else 0.75) * dx - 0.35 * dy + 0.35 * nz, 0, 1)
    bands = 0.6 + 0.4 * np.sin(9 * dy + 3 * fbm((c.h, c.w), c.rng, cells=8, stretch=4))
    ball = (lit * bands)[..., None] * (0.5 * accents[-1] + 0.4 * rgb(230, 200, 170)) * 0.8
    c.light = (c.light * (1 - inside[..., None]) + inside[..., None] * ball).astype(np.float32)
    c.lens_blur = 0.0016
    c.lighting = Lighting(
        key=rgb(232, 236, 255),
        key_from=(-0.65 if left else 0.65, -0.4, 0.6),
        ambient=0.04 + 0.22 * (accents[0] + accents[-1]),
        rim_left=accents[0] * 1.6 + 0.15,
        rim_right=accents[-1] * 1.6 + 0.15,
        rim_top=rgb(230, 236, 255) * 0.4,
        face_level=0.27,
        contrast=0.75,
        floor_fade=0.55,
    )


def winter(c: Canvas, accents: list[F32]) -> None:
    t = np.clip(c.y / 0.7, 0, 1)
    c.light += gradient(t, [(0, rgb(70, 92, 140)), (0.6, rgb(150, 160, 195)), (1, rgb(232, 205, 205))]) * 0.62
    for k, (y, colour) in enumerate(((0.62, rgb(150, 162, 195)), (0.70, rgb(112, 126, 165)))):
        line = ridge_line(c, y, 0.26 - 0.08 * k, 0.9)
        c.light += smooth(-0.002, 0.002, c.y - line[None])[..., None] * (colour * 0.55 - c.light)
    for depth in range(3):
        for _ in range(12):
            x, tall = c.rng.uniform(-0.1, c.aspect + 0.1), (0.22 + 0.10 * depth) * c.rng.uniform(0.7, 1.25)
            base = 0.86 + 0.05 * depth
            for layer in range(6):
                y0 = base - tall + tall * layer / 6.5
                w = 0.02 + 0.10 * tall * (layer + 1) / 3
                tree = np.array([[x, y0 - 0.02], [x + w, y0 + tall / 4.6], [x - w, y0 + tall / 4.6]])
                shade(c, tree, rgb(48, 66, 78) * (0.8 - 0.2 * depth), 0.9)
                shade(c, tree * [1, 1] - [w * 0.12, 0.010], rgb(205, 215, 235) * 0.5, 0.25)
    c.light += smooth(0.84, 0.92, c.y)[..., None] * (rgb(205, 212, 235) * 0.5 - c.light)
    for _ in range(8):
        lamp(
            c,
            (c.rng.uniform(0, c.aspect), c.rng.uniform(0.5, 0.8)),
            0.008,
            (rgb(255, 190, 110) if len(accents) < 2 else 0.5 * rgb(255, 190, 110) + 0.5 * accents[0]) * 1.6,
        )
    c.lens_blur = 0.010
    c.lighting = Lighting(
        key=rgb(240, 240, 250),
        key_from=(-0.4, -0.6, 0.7),
        ambient=rgb(175, 190, 225) * 0.85,
        rim_left=rgb(225, 232, 255) * 0.9,
        rim_right=rgb(255, 215, 190) * 0.8,
        rim_top=rgb(235, 240, 255) * 0.4,
        face_level=0.34,
        contrast=0.45,
        floor_fade=0.1,
    )
