"""Scenes of music. Each paints `canvas.light` and sets `canvas.lighting`; `accents` = linear colours [n][3]."""

from __future__ import annotations

import cv2
import numpy as np

from vividcover.image.classic.scene_tools import (
    F32,
    Canvas,
    Lighting,
    beam,
    crowd,
    discs,
    fbm,
    gradient,
    lamp,
    points,
    rgb,
    shade,
    smooth,
)


def truss(c: Canvas, y: float, thickness: float, colour: F32) -> None:
    """A lattice girder across the top."""
    for dy in (0.0, thickness):
        cv2.line(
            c.light,
            c.px(-0.1, y + dy),
            c.px(c.aspect + 0.1, y + dy),
            colour.tolist(),
            max(1, round(0.006 * c.h)),
            cv2.LINE_AA,
        )
    step = thickness * 1.1
    for i in range(int(c.aspect / step) + 2):
        a, b = (y, y + thickness) if i % 2 else (y + thickness, y)
        cv2.line(
            c.light,
            c.px(i * step, a),
            c.px((i + 1) * step, b),
            (colour * 0.8).tolist(),
            max(1, round(0.003 * c.h)),
            cv2.LINE_AA,
        )


def fan_of_beams(c: Canvas, accents: list[F32], count: int, y: float, strength: float, haze: F32) -> None:
    """Moving heads on a girder, fanned symmetrically, with lamps at their ends."""
    spread = c.rng.uniform(0.35, 0.75) * c.rng.choice([-1.0, 1.0])
    for i in range(count):
        t = (i + 0.5) / count * 2 - 1
        at = (c.aspect * (0.5 + 0.53 * t), y)
        colour = accents[(i if i < count / 2 else count - 1 - i) % len(accents)]
        angle = -spread * t + c.rng.normal(0, 0.03)
        beam(c, at, angle, colour * strength, spread=0.045, reach=0.9, width=0.011, hard=2.6, haze=haze)
        beam(c, at, angle, colour * strength * 0.35, spread=0.13, reach=0.5, width=0.02, haze=haze)
        lamp(c, at, 0.010, colour * 5, glow=5)


def led_wall(c: Canvas, accents: list[F32], top: float, bottom: float, strength: float) -> None:
    """A wall of light-emitting dots showing slow waves of the scene's colours."""
    flow = fbm((c.h, c.w), c.rng, cells=2.2, octaves=3, stretch=1.6)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (c.rng.uniform(0.6, 1.4) * c.x + 1.3 * flow + c.rng.uniform(0, 1)))
    colours = [accents[i % len(accents)] for i in range(3)]
    picture = gradient(
        wave, [(0.0, colours[0] * 0.08), (0.45, colours[1]), (0.8, colours[2]), (1.0, colours[0] + 0.15)]
    )
    pitch = 0.0125
    dots = (np.cos(2 * np.pi * c.x / pitch) * np.cos(2 * np.pi * c.y / pitch)) ** 2
    inside = smooth(top, top + 0.01, c.y) * smooth(bottom, bottom - 0.01, c.y)
    panels = 1 - 0.5 * (
        smooth(0.485, 0.5, np.abs((c.x / 0.2) % 1 - 0.5)) + smooth(0.485, 0.5, np.abs((c.y / 0.2) % 1 - 0.5))
    )
    falloff = np.exp(-(((c.x - c.aspect / 2) / (0.75 * c.aspect)) ** 2))
    c.light += (inside * panels * (0.25 + 0.75 * dots) * falloff * strength)[..., None] * picture


def back_glow(c: Canvas, colours: list[F32], strength: float, y: float = 0.55) -> None:
    """Coloured haze behind the person: two soft pools left and right."""
    for side, colour in zip((0.22, 0.78), colours):
        d = ((c.x / c.aspect - side - c.rng.normal(0, 0.04)) / 0.34) ** 2 + ((c.y - y) / 0.42) ** 2
        c.light += (np.exp(-d) * strength)[..., None] * colour


def audience(c: Canvas, accents: list[F32], rows: int) -> None:
    """The hall seen from the stage: rows of people behind the singer, with light on their upper edges, hands up."""
    for row in range(rows):
        size = 0.040 * 1.5**row
        top = 0.70 + 0.055 * row + 0.6 * size
        alpha, screens = crowd(c, top, size, hands=0.45, rng=c.rng, phones=0.35)
        alpha = cv2.GaussianBlur(alpha, (0, 0), 0.0012 * c.h)
        step = max(2, round(0.0045 * c.h))
        lifted = np.zeros_like(alpha)
        lifted[step:] = alpha[:-step]
        edge = cv2.GaussianBlur(np.clip(alpha - lifted, 0, 1), (0, 0), 0.0010 * c.h)  # what faces the lamps above
        side = smooth(0.1, 0.9, c.x / c.aspect)[..., None]
        tint = accents[0] * (1 - side) + accents[-1] * side
        depth = (rows - row) / rows
        fog = (0.010 + 0.045 * depth) * tint
        c.light = (c.light * (1 - alpha[..., None]) + alpha[..., None] * fog + edge[..., None] * tint * 0.55).astype(
            np.float32
        )
        c.light += (screens * 2.5)[..., None] * rgb(190, 215, 255)


def stage(c: Canvas, accents: list[F32]) -> None:
    haze = fbm((c.h, c.w), c.rng, cells=3, stretch=1.8)
    c.light += gradient(c.y, [(0, accents[0] * 0.012), (0.55, accents[-1] * 0.045), (1, accents[0] * 0.02)])
    if c.rng.random() < 0.55:
        led_wall(c, accents, 0.16, 0.80, 0.16)
    back_glow(c, [accents[0], accents[-1]], 0.22)
    truss(c, 0.035, 0.05, rgb(30, 30, 36))
    fan_of_beams(c, accents, int(c.rng.integers(5, 9)), 0.085, 1.5, haze)
    for side in (0.04, 0.96):
        for k in range(4):
            colour = accents[k % len(accents)]
            lamp(c, (c.aspect * side, 0.30 + 0.12 * k), 0.012, colour * 2.0, glow=4)
    c.light += (haze * smooth(0.35, 1.0, c.y) * 0.05)[..., None] * accents[-1]
    c.lens_blur = 0.0055
    c.lighting = Lighting(
        key=rgb(255, 240, 224) * 1.0,
        key_from=(-0.35, -0.75, 0.65),
        ambient=0.10 + 0.30 * (accents[0] + accents[-1]) / 2,
        rim_left=accents[0] * 1.7,
        rim_right=accents[-1] * 1.7,
        rim_top=rgb(255, 235, 215) * 0.5,
        face_level=0.30,
        contrast=0.75,
        floor_fade=0.7,
    )


def arena(c: Canvas, accents: list[F32]) -> None:
    haze = fbm((c.h, c.w), c.rng, cells=3, stretch=2)
    c.light += gradient(
        c.y, [(0, rgb(6, 7, 14)), (0.5, accents[0] * 0.05), (0.75, accents[-1] * 0.07), (1, rgb(4, 4, 8))]
    )
    tiers = smooth(0.25, 0.42, c.y) * smooth(0.95, 0.72, c.y)
    n = 1500
    ys = 0.30 + 0.5 * c.rng.beta(1.5, 1.6, n)
    xs = c.rng.uniform(0, c.aspect, n)
    ys = ys + 0.05 * ((xs / c.aspect - 0.5) * 2) ** 2 * -1.6
    warm, cool = rgb(255, 225, 180), rgb(190, 215, 255)
    mix = c.rng.random((n, 1)).astype(np.float32)
    points(
        c,
        xs,
        ys,
        (warm * mix + cool * (1 - mix)) * c.rng.uniform(0.1, 1.0, (n, 1)).astype(np.float32) ** 2,
        2.6,
        0.0011,
    )
    c.light += (tiers * fbm((c.h, c.w), c.rng, cells=60, octaves=2) * 0.02)[..., None] * (accents[0] + accents[-1])
    fan_of_beams(c, accents, int(c.rng.integers(7, 11)), 0.03, 1.7, haze)
    for _ in range(4):
        at = (c.rng.uniform(0, c.aspect), c.rng.uniform(0.62, 0.75))
        beam(
            c,
            at,
            np.pi + c.rng.uniform(-0.6, 0.6),
            accents[int(c.rng.integers(len(accents)))] * 0.7,
            spread=0.05,
            reach=0.5,
            haze=haze,
        )
    back_glow(c, [accents[0], accents[-1]], 0.12, 0.65)
    c.lens_blur = 0.0065
    c.lighting = Lighting(
        key=rgb(250, 244, 240),
        key_from=(0.3, -0.75, 0.65),
        ambient=0.10 + 0.28 * (accents[0] + accents[-1]) / 2,
        rim_left=accents[0] * 1.8,
        rim_right=accents[-1] * 1.8,
        rim_top=rgb(255, 245, 235) * 0.6,
        face_level=0.31,
        contrast=0.75,
        floor_fade=0.65,
    )


def club(c: Canvas, accents: list[F32]) -> None:
    haze = fbm((c.h, c.w), c.rng, cells=3, stretch=1.4)
    c.light += gradient(c.y, [(0, accents[0] * 0.03), (0.6, accents[-1] * 0.09), (1, accents[0] * 0.03)])
    c.light *= (0.5 + haze)[..., None]
    ball = (
        c.aspect * c.rng.uniform(0.68, 0.85) if c.rng.random() < 0.5 else c.aspect * c.rng.uniform(0.15, 0.32),
        0.15,
    )
    for i in range(14):  # lasers from behind
        colour = accents[i % len(accents)]
        beam(
            c,
            (c.aspect * (0.25 if i % 2 else 0.75), 0.50),
            np.pi + (i - 6.5) * 0.19,
            colour * 0.9,
            spread=0.002,
            width=0.0022,
            reach=2.5,
            hard=2.0,
            haze=haze,
        )
    n = 260
    angle, radius = c.rng.uniform(0, 2 * np.pi, n), 0.12 + 1.1 * np.sqrt(c.rng.random(n))
    palette = np.stack([accents[int(k)] for k in c.rng.integers(len(accents), size=n)])
    points(c, ball[0] + radius * np.cos(angle), ball[1] + radius * np.sin(angle) * 0.8, palette, 3.0, 0.0022)
    r = 0.085
    inside = (c.x - ball[0]) ** 2 + (c.y - ball[1]) ** 2 < r * r
    tile = fbm((c.h, c.w), c.rng, cells=75, octaves=1)
    glint = np.where(tile > 0.72, 2.4, 0.12 + 0.3 * tile) * inside
    c.light = np.where(
        inside[..., None], glint[..., None] * (0.5 * accents[0] + 0.5 * rgb(220, 225, 240)), c.light
    ).astype(np.float32)
    cv2.line(c.light, c.px(ball[0], 0), c.px(ball[0], ball[1] - r), (0.02, 0.02, 0.02), max(1, round(0.003 * c.h)))
    discs(c, 16, accents, (0.012, 0.035), 0.5, (0.1, 0.8))
    back_glow(c, [accents[0], accents[-1]], 0.28)
    c.lens_blur = 0.005
    c.lighting = Lighting(
        key=0.5 * rgb(255, 225, 215) + 0.55 * accents[0],
        key_from=(-0.55, -0.45, 0.7),
        ambient=0.06 + 0.40 * accents[-1],
        rim_left=accents[0] * 1.8,
        rim_right=accents[-1] * 1.9,
        rim_top=accents[0] * 0.4,
        face_level=0.25,
        contrast=0.85,
        floor_fade=0.7,
    )


def festival(c: Canvas, accents: list[F32]) -> None:
    sky = gradient(
        c.y / 0.8, [(0, rgb(22, 26, 66)), (0.45, rgb(110, 70, 130)), (0.8, rgb(250, 140, 95)), (1, rgb(255, 190, 120))]
    )
    clouds = fbm((c.h, c.w), c.rng, cells=4, stretch=3.5)
    c.light += sky * (0.5 + 0.45 * clouds[..., None])
    haze = fbm((c.h, c.w), c.rng, cells=3)
    for side in (-1, 1):  # the stage's towers
        x0 = c.aspect / 2 + side * c.aspect * 0.46
        shade(c, np.array([[x0 - 0.05, -0.1], [x0 + 0.05, -0.1], [x0 + 0.05, 1.1], [x0 - 0.05, 1.1]]), rgb(18, 16, 24))
        for k in range(5):
            lamp(c, (x0 - side * 0.02, 0.14 + 0.13 * k), 0.010, accents[k % len(accents)] * 3.2, glow=5)
            beam(
                c,
                (x0, 0.14 + 0.13 * k),
                side * (-1.3 - 0.1 * k),
                accents[k % len(accents)] * 0.35,
                spread=0.06,
                reach=0.7,
                haze=haze,
            )
    shade(c, np.array([[-0.1, -0.1], [c.aspect + 0.1, -0.1], [c.aspect + 0.1, 0.055], [-0.1, 0.055]]), rgb(14, 13, 20))
    fan_of_beams(c, accents, 6, 0.06, 0.8, haze)
    alpha, screens = crowd(c, 0.80, 0.05, hands=0.6, rng=c.rng, phones=0.3)
    c.light = c.light * (1 - 0.93 * alpha[..., None]) + screens[..., None] * 2.0
    c.lens_blur = 0.006
    c.lighting = Lighting(
        key=rgb(255, 214, 176),
        key_from=(-0.6, -0.35, 0.7),
        ambient=rgb(150, 130, 170) * 0.6,
        rim_left=rgb(255, 165, 90) * 1.7,
        rim_right=accents[0] * 1.2 + rgb(255, 150, 100) * 0.4,
        rim_top=rgb(255, 190, 130) * 0.5,
        face_level=0.33,
        contrast=0.55,
        floor_fade=0.35,
    )
