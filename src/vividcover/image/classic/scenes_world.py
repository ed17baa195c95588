"""Scenes of the wide world. Each paints `canvas.light`, sets `canvas.lighting`; colours come from `accents` [n][3]."""

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
            shade(c, np.array([[far, base], [far, top + 0.04], [near + side * 0.6, top], [near + side * 0.6, base]]),
                  rgb(24, 24, 38) * (1.3 - 0.12 * (7 - depth)))  # fmt: skip
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
        key=rgb(255, 205, 150), key_from=(-0.6, -0.5, 0.65), ambient=rgb(70, 80, 120) * 0.8, rim_left=accents[0] * 1.1 + warm * 0.3,
        rim_right=accents[-1] * 1.3, rim_top=warm * 0.3, face_level=0.24, contrast=0.75, floor_fade=0.5,
    )  # fmt: skip


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
    c.lighting = Lighting(
        key=rgb(255, 214, 170), key_from=((-0.75 if left else 0.75), -0.25, 0.6), ambient=rgb(176, 150, 170) * 0.75,
        rim_left=bright if left else dim, rim_right=dim if left else bright, rim_top=rgb(255, 190, 120) * 0.5,
        face_level=0.32, contrast=0.6, floor_fade=0.15,
    )  # fmt: skip


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
            shape = np.concatenate([np.array([[0.15, 0.75], [0.15, -0.9], [0.7, -0.55], [0.7, -0.2]]),
                                    np.array([[0.15, -0.5], [0.15, 0.75]]), np.stack([-0.2 + 0.35 * np.cos(a), 0.75 + 0.25 * np.sin(a)], 1)])  # fmt: skip
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
        key=accents[0] * 0.8 + 0.35, key_from=(-0.7, -0.15, 0.6), ambient=0.05 + accents[-1] * 0.45, rim_left=accents[0] * 1.9,
        rim_right=accents[-1] * 1.9, rim_top=accents[-1] * 0.3, face_level=0.25, contrast=0.85, floor_fade=0.45,
    )  # fmt: skip


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
        key=rgb(255, 210, 165), key_from=(0.55, -0.45, 0.7), ambient=rgb(120, 115, 165) * 0.7, rim_left=rgb(255, 150, 110) * 1.0,
        rim_right=rgb(255, 185, 120) * 1.3, rim_top=rgb(255, 195, 120) * 0.5, face_level=0.29, contrast=0.6, floor_fade=0.35,
    )  # fmt: skip


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
            shade(c, np.array([[x - w, 1.1], [x - w * 0.7 + lean, -0.1], [x + w * 0.7 + lean, -0.1], [x + w, 1.1]]),
                  rgb(58, 52, 34) * (0.9 - 0.25 * depth), 0.9, 0.003)  # fmt: skip
    haze = fbm((c.h, c.w), c.rng, cells=4)
    origin = c.aspect * c.rng.uniform(0.1, 0.9)
    for k in range(8):
        beam(c, (origin + 0.10 * (k - 4), -0.12), 0.35 * (0.5 - origin / c.aspect) * 2 + 0.06 * (k - 4), rgb(255, 235, 170) * 0.5,
             spread=0.035, width=0.03, reach=1.1, haze=haze)  # fmt: skip
    discs(c, 34, [rgb(230, 240, 150), rgb(255, 235, 170), rgb(170, 210, 110)], (0.010, 0.035), 0.35, (0.0, 0.75))
    c.lens_blur = 0.009
    left = origin < c.aspect / 2
    sun, leaf = rgb(255, 232, 170) * 1.7, rgb(190, 220, 130) * 0.6
    c.lighting = Lighting(
        key=rgb(255, 240, 205), key_from=(-0.5 if left else 0.5, -0.6, 0.6), ambient=rgb(165, 190, 140) * 0.65,
        rim_left=sun if left else leaf, rim_right=leaf if left else sun, rim_top=rgb(255, 240, 190) * 0.6, face_level=0.31,
        contrast=0.5, floor_fade=0.25,
    )  # fmt: skip


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
    c.lighting = Lighting(
        key=rgb(255, 222, 180), key_from=(-0.7 if left else 0.7, -0.35, 0.6), ambient=rgb(185, 160, 160) * 0.75,
        rim_left=sun if left else back, rim_right=back if left else sun, rim_top=rgb(255, 205, 140) * 0.4, face_level=0.33,
        contrast=0.6, floor_fade=0.1,
    )  # fmt: skip


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
        key=rgb(232, 236, 255), key_from=(-0.65 if left else 0.65, -0.4, 0.6), ambient=0.04 + 0.22 * (accents[0] + accents[-1]),
        rim_left=accents[0] * 1.6 + 0.15, rim_right=accents[-1] * 1.6 + 0.15, rim_top=rgb(230, 236, 255) * 0.4, face_level=0.27,
        contrast=0.75, floor_fade=0.55,
    )  # fmt: skip


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
        key=rgb(240, 240, 250), key_from=(-0.4, -0.6, 0.7), ambient=rgb(175, 190, 225) * 0.85, rim_left=rgb(225, 232, 255) * 0.9,
        rim_right=rgb(255, 215, 190) * 0.8, rim_top=rgb(235, 240, 255) * 0.4, face_level=0.34, contrast=0.45, floor_fade=0.1,
    )  # fmt: skip


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
        key=rgb(255, 222, 180), key_from=(0.5, -0.65, 0.6), ambient=rgb(120, 100, 90) * 0.7, rim_left=accents[0] * 0.6 + rgb(255, 200, 140) * 0.5,
        rim_right=rgb(255, 225, 185) * 1.0, rim_top=rgb(255, 225, 185) * 0.7, face_level=0.28, contrast=0.75, floor_fade=0.5,
    )  # fmt: skip


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
        key=rgb(232, 242, 240), key_from=(-0.2, -0.85, 0.5), ambient=rgb(130, 150, 150) * 0.6, rim_left=rgb(215, 235, 240) * 0.7,
        rim_right=colour * 0.9 + rgb(255, 230, 195) * 0.5, rim_top=rgb(230, 242, 245) * 0.7, face_level=0.27, contrast=0.7, floor_fade=0.4,
    )  # fmt: skip
