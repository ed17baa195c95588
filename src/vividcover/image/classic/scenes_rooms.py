"""Indoor scenes. Each paints `canvas.light` and sets `canvas.lighting`; `accents` = linear colours [n][3]."""

from __future__ import annotations

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
    points,
    rgb,
    shade,
    smooth,
)


def theatre(c: Canvas, accents: list[F32]) -> None:
    cloth = accents[0]
    sway = fbm((c.h, c.w), c.rng, cells=2, octaves=2, stretch=1.0)
    phase = c.x * c.rng.uniform(11, 15) + 0.35 * sway + 0.12 * np.sin(3 * c.y + 5 * c.x)
    fold = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    fine = 0.5 + 0.5 * np.sin(2 * np.pi * (phase * 2.7 + 0.3 * np.sin(9 * c.x)))
    sheen = fold**2.2 * (0.75 + 0.25 * fine) + 0.05
    pool = np.exp(-(((c.x - c.aspect * 0.5) / 0.55) ** 2) - ((c.y - 0.38) / 0.6) ** 2)
    c.light += (sheen * (0.05 + 0.62 * pool))[..., None] * cloth
    c.light += (fold**9 * pool * 0.16)[..., None] * (0.6 * cloth + 0.4 * rgb(255, 190, 150))
    gold = rgb(255, 190, 90)
    swag = 0.06 + 0.07 * np.abs(np.sin(np.pi * c.x / 0.42)) ** 0.8
    valance = smooth(0.004, -0.004, c.y - swag)
    c.light *= (1 - 0.75 * valance)[..., None]
    c.light += (valance * (0.03 + 0.16 * fold))[..., None] * cloth
    c.light += (np.exp(-(((c.y - swag) / 0.006) ** 2)) * 0.35)[..., None] * gold
    for i in range(9):
        lamp(c, (c.aspect * (i + 0.5) / 9, 1.0), 0.018, rgb(255, 200, 130) * 0.7, glow=5)
    c.lens_blur = 0.004
    c.lighting = Lighting(
        key=rgb(255, 228, 196),
        key_from=(0.25, -0.8, 0.6),
        ambient=0.10 + cloth * 0.30,
        rim_left=rgb(255, 205, 150) * 1.2,
        rim_right=cloth * 1.3 + gold * 0.3,
        rim_top=rgb(255, 225, 190) * 0.8,
        face_level=0.34,
        contrast=0.8,
        floor_fade=0.6,
    )


def jazz(c: Canvas, accents: list[F32]) -> None:
    wall = fbm((c.h, c.w), c.rng, cells=5)
    c.light += gradient(c.y, [(0, rgb(34, 20, 14)), (0.5, rgb(70, 38, 22)), (1, rgb(20, 12, 10))]) * (
        0.35 + 0.5 * wall[..., None]
    )
    for shelf in (0.30, 0.47, 0.64):  # bottles with light behind them
        c.light += (np.exp(-(((c.y - shelf) / 0.035) ** 2)) * 0.30)[..., None] * rgb(255, 165, 70)
        x = c.rng.uniform(0, 0.05)
        while x < c.aspect:
            w, tall = c.rng.uniform(0.018, 0.034), c.rng.uniform(0.07, 0.12)
            glass = [rgb(120, 60, 15), rgb(30, 60, 35), rgb(160, 110, 50), rgb(60, 20, 20), accents[0] * 0.2][
                int(c.rng.integers(5))
            ]
            body = np.array(
                [
                    [x, shelf + 0.04],
                    [x, shelf + 0.04 - tall * 0.6],
                    [x + w * 0.35, shelf + 0.03 - tall * 0.75],
                    [x + w * 0.35, shelf + 0.04 - tall],
                    [x + w * 0.65, shelf + 0.04 - tall],
                    [x + w * 0.65, shelf + 0.03 - tall * 0.75],
                    [x + w, shelf + 0.04 - tall * 0.6],
                    [x + w, shelf + 0.04],
                ]
            )
            shade(c, body, glass * c.rng.uniform(0.3, 1.3), 0.85)
            points(
                c, np.array([x + w * 0.3]), np.array([shelf + 0.02 - tall * 0.4]), rgb(255, 220, 170)[None], 2.5, 0.001
            )
            x += w * c.rng.uniform(1.05, 2.4)
    for _ in range(int(c.rng.integers(4, 7))):
        lamp(
            c, (c.rng.uniform(0.03, c.aspect - 0.03), c.rng.uniform(0.05, 0.22)), 0.020, rgb(255, 175, 85) * 2.0, glow=5
        )
    discs(c, 14, [rgb(255, 170, 80), rgb(255, 120, 50), accents[0]], (0.014, 0.04), 0.35, (0.1, 0.75))
    smoke = fbm((c.h, c.w), c.rng, cells=2.5, stretch=1.6)
    c.light += (smoke**2 * 0.05)[..., None] * (0.6 * rgb(255, 190, 120) + 0.4 * accents[-1])
    c.lens_blur = 0.010
    c.lighting = Lighting(
        key=rgb(255, 206, 150),
        key_from=(-0.6, -0.55, 0.6),
        ambient=rgb(120, 75, 48) * 0.7,
        rim_left=rgb(255, 160, 70) * 1.3,
        rim_right=0.5 * rgb(255, 150, 80) + accents[-1] * 0.9,
        rim_top=rgb(255, 190, 120) * 0.5,
        face_level=0.27,
        contrast=0.85,
        floor_fade=0.6,
    )


def studio(c: Canvas, accents: list[F32]) -> None:
    cx, cy = c.aspect * c.rng.uniform(0.42, 0.58), 0.42
    d = np.sqrt(((c.x - cx) / 0.75) ** 2 + ((c.y - cy) / 0.8) ** 2)
    base = accents[0]
    c.light += gradient(np.clip(d / 1.2, 0, 1), [(0, base * 0.50 + 0.03), (0.45, base * 0.24 + 0.01), (1, base * 0.05)])
    paper = fbm((c.h, c.w), c.rng, cells=3, octaves=4)
    c.light *= (0.86 + 0.28 * paper)[..., None]
    side = c.rng.choice([-1.0, 1.0])
    c.light += (smooth(0.35, 1.1, side * (c.x / c.aspect - 0.5) * 2) * 0.22)[..., None] * accents[-1]
    c.lens_blur = 0.004
    c.lighting = Lighting(
        key=rgb(255, 246, 236),
        key_from=(-0.5 * side, -0.45, 0.75),
        ambient=0.30 + base * 0.15,
        rim_left=(accents[-1] if side < 0 else rgb(255, 250, 245)) * 0.8,
        rim_right=(accents[-1] if side > 0 else rgb(255, 250, 245)) * 0.8,
        rim_top=rgb(255, 250, 245) * 0.3,
        face_level=0.36,
        contrast=0.55,
        floor_fade=0.25,
    )


def recording(c: Canvas, accents: list[F32]) -> None:
    size = 0.15
    u, v = (c.x / size) % 1, (c.y / size) % 1
    flip = ((np.floor(c.x / size) + np.floor(c.y / size)) % 2) > 0.5
    ridge = np.where(flip, np.abs((u * 4) % 1 - 0.5), np.abs((v * 4) % 1 - 0.5)) * 2
    seam = smooth(0.0, 0.03, np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)))
    pool = np.exp(-(((c.x - c.aspect * 0.3) / 0.6) ** 2) - ((c.y - 0.3) / 0.6) ** 2)
    c.light += ((0.02 + 0.16 * pool) * (0.25 + 0.75 * ridge) * seam)[..., None] * (
        0.6 * rgb(200, 150, 110) + 0.4 * accents[0]
    )
    other = np.exp(-(((c.x - c.aspect * 0.95) / 0.4) ** 2) - ((c.y - 0.5) / 0.5) ** 2)
    c.light += (other * (0.3 + 0.7 * ridge) * seam * 0.22)[..., None] * accents[-1]
    for x in (0.12, 0.88):
        lamp(c, (c.aspect * x, 0.18), 0.028, rgb(255, 180, 100) * 1.6, glow=5)
    for y in np.linspace(0.72, 0.9, 5):  # a desk's little lamps
        n = 26
        points(
            c,
            c.rng.uniform(0, c.aspect, n),
            np.full(n, y),
            np.stack([accents[int(k)] for k in c.rng.integers(len(accents), size=n)]),
            2.0,
            0.0012,
        )
    c.lens_blur = 0.009
    c.lighting = Lighting(
        key=rgb(255, 222, 186),
        key_from=(-0.55, -0.45, 0.7),
        ambient=rgb(150, 120, 100) * 0.5,
        rim_left=rgb(255, 190, 120) * 0.9,
        rim_right=accents[-1] * 1.2,
        rim_top=rgb(255, 210, 160) * 0.3,
        face_level=0.29,
        contrast=0.7,
        floor_fade=0.5,
    )


def church(c: Canvas, accents: list[F32]) -> None:
    stone = fbm((c.h, c.w), c.rng, cells=8, octaves=5)
    c.light += (
        (0.25 + 0.75 * stone)[..., None]
        * gradient(c.y, [(0, rgb(28, 25, 30)), (0.5, rgb(58, 48, 46)), (1, rgb(24, 18, 18))])
        * 0.8
    )
    jewels = [rgb(200, 30, 45), rgb(30, 70, 210), rgb(240, 170, 40), rgb(40, 150, 90), rgb(130, 50, 180), *accents]
    for cx in (0.14, 0.5, 0.86):  # lancet windows
        x, w, top, base = c.aspect * cx, 0.095, 0.10, 0.62
        pointed = np.sqrt(np.clip(((c.y - top) / 0.16), 0, 1)) * w
        inside = (np.abs(c.x - x) < np.where(c.y < top + 0.16, pointed, w)) & (c.y > top) & (c.y < base)
        cell = (np.floor((c.x - x) / 0.026) * 7 + np.floor((c.y + 0.2 * np.abs(c.x - x)) / 0.034) * 13).astype(int)
        table = np.stack(jewels)[c.rng.integers(len(jewels), size=97)]
        lead = smooth(0.0, 0.10, np.minimum(((c.x - x) / 0.026) % 1, ((c.y + 0.2 * np.abs(c.x - x)) / 0.034) % 1))
        glass = table[cell % 97] * (0.4 + 1.0 * lead[..., None]) * 1.1
        c.light = np.where(inside[..., None], glass, c.light).astype(np.float32)
    for cx in (0.32, 0.68):  # columns
        d = (c.x - c.aspect * cx) / 0.055
        c.light += ((np.abs(d) < 1) * (0.06 + 0.10 * np.clip(1 - (d + 0.5) ** 2, 0, 1)))[..., None] * rgb(210, 185, 160)
    haze = fbm((c.h, c.w), c.rng, cells=3)
    for k, cx in enumerate((0.14, 0.5, 0.86)):
        beam(
            c,
            (c.aspect * cx, 0.2),
            0.45,
            (0.5 * rgb(255, 225, 180) + 0.5 * accents[k % len(accents)]) * 0.35,
            spread=0.06,
            width=0.08,
            reach=0.9,
            haze=haze,
        )
    n = 60
    points(
        c,
        c.rng.uniform(0, c.aspect, n),
        c.rng.uniform(0.70, 0.97, n),
        np.repeat(rgb(255, 175, 80)[None], n, 0),
        8,
        0.003,
    )
    c.lens_blur = 0.008
    c.lighting = Lighting(
        key=rgb(255, 222, 180),
        key_from=(0.5, -0.65, 0.6),
        ambient=rgb(120, 100, 90) * 0.7,
        rim_left=accents[0] * 0.6 + rgb(255, 200, 140) * 0.5,
        rim_right=rgb(255, 225, 185) * 1.0,
        rim_top=rgb(255, 225, 185) * 0.7,
        face_level=0.28,
        contrast=0.75,
        floor_fade=0.5,
    )


def subway(c: Canvas, accents: list[F32]) -> None:
    vx, vy = c.aspect * c.rng.uniform(0.36, 0.64), 0.46
    dx, dy = c.x - vx, c.y - vy
    wall = np.maximum(np.abs(dx) / 0.55, np.abs(dy) / 0.42) + 1e-4
    depth = 1 / wall
    side = np.abs(dx) / 0.55 > np.abs(dy) / 0.42
    u, v = depth * 4.0, np.where(side, dy, dx) / wall * 6
    joint = smooth(0, 0.10, np.minimum(u % 1, 1 - u % 1)) * smooth(0, 0.10, np.minimum((v * 2) % 1, 1 - (v * 2) % 1))
    light = np.exp(-depth / 7) * (0.35 + 0.65 * joint)
    c.light += light[..., None] * rgb(150, 165, 160) * 0.30
    ceiling = (~side) & (dy < 0)
    tube = (np.abs(np.abs(dx / wall) - 0.20) < 0.035) & ceiling & ((u * 0.7) % 1 < 0.72)
    c.light += (tube * np.exp(-depth / 9) * 2.4)[..., None] * rgb(225, 240, 245)
    floor = (~side) & (dy > 0)
    c.light += (floor * np.exp(-depth / 5) * np.exp(-((dx / wall / 0.25) ** 2)) * 0.18)[..., None] * rgb(225, 240, 245)
    train = side & (dx > 0) & (np.abs(dy) < 0.30 * wall)
    streaks = fbm((c.h, c.w), c.rng, cells=24, stretch=30, octaves=3)
    rows = np.clip(1 - np.abs(dy / wall + 0.06) / 0.10, 0, 1)
    colour = accents[0]
    c.light = np.where(
        train[..., None],
        c.light * 0.35
        + (0.12 + 0.9 * rows * streaks)[..., None]
        * (0.4 * colour + 0.5 * rgb(255, 235, 200))
        * np.exp(-depth / 8)[..., None],
        c.light,
    ).astype(np.float32)
    lamp(c, (vx, vy), 0.02, rgb(255, 240, 210), glow=6)
    c.lens_blur = 0.010
    c.lighting = Lighting(
        key=rgb(232, 242, 240),
        key_from=(-0.2, -0.85, 0.5),
        ambient=rgb(130, 150, 150) * 0.6,
        rim_left=rgb(215, 235, 240) * 0.7,
        rim_right=colour * 0.9 + rgb(255, 230, 195) * 0.5,
        rim_top=rgb(230, 242, 245) * 0.7,
        face_level=0.27,
        contrast=0.7,
        floor_fade=0.4,
    )
