"""From an understood prompt to a painted scene: colours, the scene itself, and the elements laid over it."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vividcover.image.classic import scenes_city as city
from vividcover.image.classic import scenes_music as music
from vividcover.image.classic import scenes_nature as nature
from vividcover.image.classic import scenes_rooms as rooms
from vividcover.image.classic.scene_tools import (
    F32,
    Canvas,
    Lighting,
    beam,
    bloom,
    discs,
    fbm,
    lens_blur,
    luma,
    new_canvas,
    rgb,
    smooth,
)
from vividcover.image.prompt import Understanding
from vividcover.image.words import COLOURS

Painter = Callable[[Canvas, list[F32]], None]
BACKGROUND_SCALE = 0.6  # of the still's size: the background is out of focus

SCENES: dict[str, tuple[Painter, tuple[tuple[str, ...], ...]]] = {  # painter, palettes to choose from
    "stage": (
        music.stage,
        (("blue", "magenta"), ("amber", "blue"), ("teal", "pink"), ("purple", "orange"), ("cyan", "violet")),
    ),
    "arena": (music.arena, (("blue", "violet"), ("cyan", "magenta"), ("amber", "blue"), ("red", "indigo"))),
    "club": (music.club, (("magenta", "blue"), ("cyan", "magenta"), ("purple", "pink"), ("red", "indigo"))),
    "festival": (music.festival, (("magenta", "orange"), ("pink", "amber"), ("cyan", "amber"))),
    "theatre": (rooms.theatre, (("crimson", "gold"),)),
    "jazz": (rooms.jazz, (("amber", "teal"), ("orange", "blue"), ("gold", "crimson"))),
    "studio": (rooms.studio, (("silver", "white"), ("lavender", "rose"), ("teal", "amber"), ("rose", "gold"))),
    "recording": (rooms.recording, (("amber", "blue"), ("orange", "teal"), ("gold", "violet"))),
    "street": (city.street, (("magenta", "cyan"), ("pink", "blue"), ("amber", "teal"), ("red", "cyan"))),
    "beach": (nature.beach, (("orange", "rose"),)),
    "neon": (city.neon, (("magenta", "cyan"), ("pink", "blue"), ("violet", "turquoise"), ("red", "blue"))),
    "rooftop": (city.rooftop, (("amber", "magenta"), ("gold", "cyan"))),
    "forest": (nature.forest, (("gold", "green"),)),
    "desert": (nature.desert, (("orange", "gold"),)),
    "space": (nature.space, (("violet", "cyan"), ("magenta", "blue"), ("teal", "purple"))),
    "winter": (nature.winter, (("amber", "blue"),)),
    "church": (rooms.church, (("gold", "blue"), ("crimson", "gold"))),
    "subway": (rooms.subway, (("amber", "teal"), ("red", "cyan"))),
}
OPEN_AIR = {"street", "beach", "rooftop", "forest", "desert", "winter", "festival", "space"}
SYMMETRIC = {"stage", "arena", "club", "festival", "street", "neon", "space"}  # either colour may come first
WITH_CROWD = {"arena", "festival"}


@dataclass(frozen=True, slots=True)
class Scene:
    """`back` float32 [H,W,3] linear; `front`: (light, alpha) layers at any size; `lighting`; the palette's names."""

    back: F32
    front: list[tuple[F32, F32]]
    lighting: Lighting
    haze: F32
    palette: tuple[str, ...]


def accents_of(names: tuple[str, ...], strength: float = 1.0) -> list[F32]:
    """Linear colours of equal weight for the palette's words; a single hue is joined by a neighbour."""
    found = [rgb(*c) for name in names for c in COLOURS[name]]
    colours = [np.asarray(c / (0.25 + 0.75 * luma(c) ** 0.5), np.float32) * strength for c in found]
    if len(colours) == 1:
        colours.append(_neighbour(colours[0]))
    return colours


def _neighbour(colour: F32) -> F32:
    """A colour 36 degrees further round the wheel and a little paler: one hue alone looks flat."""
    top = float(colour.max()) + 1e-6
    h, s, v = colorsys.rgb_to_hsv(*(float(x) / top for x in colour))
    turned = colorsys.hsv_to_rgb((h + 0.10) % 1.0, s * 0.85, v)
    return np.asarray(turned, np.float32) * top


def paint(
    asked: Understanding,
    width: int,
    height: int,
    seed: int,
    subject: tuple[float, float, float],
    learned: list[F32] | None = None,
) -> Scene:
    """The scene of a prompt, `subject` = face centre x, y and height in fractions of the still.

    `learned`: accent colours of a style model, used where the prompt names none.
    """
    rng = np.random.default_rng([seed, 7])
    painter, palettes = SCENES[asked.scene]
    drawn = palettes[int(rng.integers(len(palettes)))]
    indoor_gold = asked.light == "golden" and asked.scene not in OPEN_AIR  # where no sun shines, the lamps are golden
    palette = asked.palette or (("gold", "orange") if indoor_gold else drawn)
    accents = learned if learned is not None and not asked.palette else accents_of(palette)
    if len(accents) == 2 and asked.scene in SYMMETRIC and rng.random() < 0.5:
        accents = accents[::-1]
    c = new_canvas(width, height, rng, BACKGROUND_SCALE)
    c.subject = subject
    painter(c, accents)
    if asked.palette and asked.scene in OPEN_AIR:
        _tint(c, accents)
    _light_words(c, asked, accents)
    _elements(c, asked, accents)
    light = lens_blur(np.minimum(c.light, 60), c.lens_blur * (1.5 if "bokeh" in asked.elements else 1.0) * c.h)
    light = bloom(light, 0.55)
    back = np.maximum(cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC), 0)
    return Scene(back, c.front, c.lighting, c.haze, palette)


def _tint(c: Canvas, accents: list[F32]) -> None:
    """Leans an open-air scene towards colours that the prompt asks for."""
    grey = luma(c.light)[..., None]
    side = smooth(0.1, 0.9, c.x / c.aspect)[..., None]
    colour = accents[0] * (1 - side) + accents[-1] * side
    colour = colour / (luma(colour)[..., None] + 1e-3)
    c.light = (0.55 * c.light + 0.45 * grey * colour * 0.9).astype(np.float32)
    light = c.lighting
    light.rim_left = 0.5 * light.rim_left + 0.8 * accents[0]
    light.rim_right = 0.5 * light.rim_right + 0.8 * accents[-1]
    light.ambient = 0.6 * light.ambient + 0.2 * (accents[0] + accents[-1]) / 2


def _light_words(c: Canvas, asked: Understanding, accents: list[F32]) -> None:
    light, (fx, fy, _) = c.lighting, c.subject
    fx *= c.aspect
    if asked.light == "spotlight":
        haze = fbm((c.h, c.w), c.rng, cells=3)
        c.light *= 0.55
        white = rgb(255, 244, 226)
        beam(c, (fx + c.rng.choice([-0.16, 0.16]), -0.10), 0.0, white * 0.0)
        beam(c, (fx, -0.15), 0.0, white * 1.1, spread=0.30, width=0.06, reach=1.6, hard=3.0, haze=haze)
        light.key, light.key_from, light.contrast = white * 1.1, (0.05, -0.85, 0.55), 0.85
        light.rim_top, light.face_level = white * 1.1, 0.36
        light.floor_fade = max(light.floor_fade, 0.7)
    elif asked.light == "backlit":
        warm = accents[0] * 0.5 + rgb(255, 225, 190) * 0.6
        d = ((c.x - fx) / 0.42) ** 2 + ((c.y - fy) / 0.46) ** 2
        c.light += (np.exp(-d) * 0.55)[..., None] * warm + (np.exp(-d * 7) * 0.8)[..., None] * warm
        light.rim_left, light.rim_right = light.rim_left + warm, light.rim_right + warm
        light.rim_top = light.rim_top + warm * 1.4
        light.face_level *= 0.62
    elif asked.light == "soft":
        light.contrast *= 0.45
        light.rim_left, light.rim_right = light.rim_left * 0.6, light.rim_right * 0.6
        light.key = 0.5 * light.key + 0.5 * luma(light.key)
    elif asked.light == "dramatic":
        c.light *= 0.6
        side = -1.0 if light.key_from[0] < 0 else 1.0
        light.key_from, light.contrast = (0.85 * side, -0.35, 0.35), 1.0
        light.ambient, light.face_level = light.ambient * 0.45, light.face_level * 0.85
        light.floor_fade = 0.8
    elif asked.light == "golden":
        gold = rgb(255, 190, 105)
        c.light *= 0.55 + 0.75 * gold / luma(gold) * 0.5
        light.key = 0.35 * light.key + 0.75 * rgb(255, 212, 150)
        light.rim_right = light.rim_right * 0.3 + gold * 1.9
        light.rim_top = gold * 0.5
        d = ((c.x - c.aspect * 0.9) / 0.5) ** 2 + ((c.y - 0.2) / 0.5) ** 2
        c.light += (np.exp(-d) * 0.5)[..., None] * gold
    elif asked.light == "bright":
        c.light *= 1.5
        light.ambient, light.face_level, light.contrast = (
            light.ambient * 1.3,
            light.face_level * 1.2,
            light.contrast * 0.6,
        )
        light.floor_fade *= 0.4


def _elements(c: Canvas, asked: Understanding, accents: list[F32]) -> None:
    wants = set(asked.elements)
    if "screen" in wants:
        music.led_wall(c, accents, 0.10, 0.82, 0.45)
    if "lasers" in wants:
        haze = fbm((c.h, c.w), c.rng, cells=3)
        for i in range(16):
            beam(
                c,
                (c.aspect * (0.1 if i % 2 else 0.9), 0.05),
                (1 if i % 2 else -1) * (0.25 + 0.09 * i),
                accents[i % len(accents)] * 1.6,
                spread=0.0012,
                width=0.0020,
                reach=3,
                haze=haze,
            )
    if "fireworks" in wants:
        _fireworks(c, accents)
    if "bokeh" in wants:
        discs(c, 46, [*accents, rgb(255, 220, 170)], (0.014, 0.055), 0.55, (0.0, 0.95))
    if "smoke" in wants:
        _smoke(c, accents)
    if "flare" in wants:
        warm = rgb(255, 225, 185)
        at = (c.aspect * 0.12, 0.12)
        c.light += (np.exp(-(((c.y - at[1]) / 0.006) ** 2)) * np.exp(-np.abs(c.x - at[0]) / 0.5) * 0.9)[..., None] * (
            0.5 * warm + 0.5 * accents[0]
        )
        c.light += (np.exp(-((c.x - at[0]) ** 2 + (c.y - at[1]) ** 2) / 0.004) * 5)[..., None] * warm
    if "crowd" in wants or (asked.scene in WITH_CROWD and "crowd" not in asked.absent):
        music.audience(c, accents, 3 if "crowd" in wants else 2)
    if "rain" in wants:
        _streaks(c, 520, 0.055, 0.12, rgb(190, 205, 235), 0.16)
        c.light = c.light * 0.9 + 0.10 * cv2.GaussianBlur(c.light, (0, 0), 0.05 * c.h)
    if "snowfall" in wants:
        _flakes(c, 420, [rgb(245, 248, 255)], round_ones=True)
    if "confetti" in wants:
        _flakes(c, 170, [*accents, rgb(255, 215, 130), rgb(250, 245, 240)], round_ones=False)


def _fireworks(c: Canvas, accents: list[F32]) -> None:
    layer = np.zeros_like(c.light)
    for i in range(6):
        at = np.array([c.aspect * c.rng.uniform(0.05, 0.95), c.rng.uniform(0.05, 0.42)])
        colour, radius = accents[i % len(accents)] + 0.1, c.rng.uniform(0.08, 0.2)
        for angle in np.linspace(0, 2 * np.pi, 64, endpoint=False) + c.rng.normal(0, 0.05, 64):
            r = radius * c.rng.uniform(0.6, 1.0)
            a, b = (
                at + 0.25 * r * np.array([np.cos(angle), np.sin(angle)]),
                at + r * np.array([np.cos(angle), np.sin(angle) + 0.12]),
            )
            cv2.line(layer, c.px(*a), c.px(*b), (colour * 0.5).tolist(), 1, cv2.LINE_AA)
            cv2.circle(layer, c.px(*b), 1, (colour * 1.6 + 0.3).tolist(), -1, cv2.LINE_AA)
    c.light += layer


def _smoke(c: Canvas, accents: list[F32]) -> None:
    behind = fbm((c.h, c.w), c.rng, cells=2.5, stretch=1.7, octaves=6)
    tint = 0.45 * (accents[0] + accents[-1]) / 2 + 0.10
    c.light = c.light * (1 - 0.35 * behind[..., None]) + (behind**1.6 * 0.30)[..., None] * tint
    low = fbm((c.h, c.w), c.rng, cells=3, stretch=2.2, octaves=6)
    alpha = np.clip(low * smooth(0.74, 1.1, c.y + 0.10 * low), 0, 0.7).astype(np.float32)
    c.front.append(((alpha * 0.42)[..., None] * tint, alpha))


def _streaks(c: Canvas, count: int, shortest: float, longest: float, colour: F32, strength: float) -> None:
    """Rain: motion-blurred drops, thin behind the person, fewer and softer before."""
    for front in (False, True):
        layer = np.zeros((c.h, c.w), np.float32)
        for _ in range(count // (4 if front else 1)):
            x, y = c.rng.uniform(-0.1, c.aspect), c.rng.uniform(-0.1, 1)
            length = c.rng.uniform(shortest, longest) * (1.6 if front else 1)
            cv2.line(
                layer,
                c.px(x, y),
                c.px(x + 0.12 * length, y + length),
                float(c.rng.uniform(0.2, 1)),
                2 if front else 1,
                cv2.LINE_AA,
            )
        if front:
            soft: F32 = cv2.GaussianBlur(layer, (0, 0), 0.0022 * c.h)
            c.front.append(((soft * strength * 0.9)[..., None] * colour, np.zeros_like(soft)))
        else:
            c.light += (cv2.GaussianBlur(layer, (0, 0), 0.6) * strength)[..., None] * colour


def _flakes(c: Canvas, count: int, palette: list[F32], *, round_ones: bool) -> None:
    """Snowflakes or confetti: many behind, a few large soft ones before the person but never over the face."""
    fx, fy, fh = c.subject[0] * c.aspect, c.subject[1], c.subject[2]
    for size, n, blur, front in (
        (0.0035, count, 0.0008, False),
        (0.008, count // 5, 0.0022, True),
        (0.014, count // 14, 0.006, True),
    ):
        colour_layer, alpha = np.zeros_like(c.light), np.zeros((c.h, c.w), np.float32)
        for _ in range(n):
            x, y, s = c.rng.uniform(0, c.aspect), c.rng.uniform(0, 1), size * c.rng.uniform(0.6, 1.3)
            tint = palette[int(c.rng.integers(len(palette)))] * c.rng.uniform(0.35, 1.0)
            if front and np.hypot((x - fx) / (0.55 * fh), (y - fy) / (0.7 * fh)) < 1.0:
                continue
            if round_ones:
                for target, value in ((colour_layer, tint.tolist()), (alpha, 1.0)):
                    cv2.circle(target, c.px(x, y), max(1, round(s * 0.55 * c.h)), value, -1, cv2.LINE_AA)
            else:
                turn, fold = c.rng.uniform(0, np.pi), c.rng.uniform(0.25, 1.0)
                ax = np.array([np.cos(turn), np.sin(turn)]) * s
                ay = np.array([-np.sin(turn), np.cos(turn)]) * s * 0.6 * fold
                corners = np.array([[x, y] + a * ax + b * ay for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
                path = np.round(corners * c.h * 8).astype(np.int32)
                for target, value in ((colour_layer, tint.tolist()), (alpha, 1.0)):
                    cv2.fillPoly(target, [path], value, cv2.LINE_AA, 3)
        sigma = max(0.5, blur * c.h)
        colours: F32 = cv2.GaussianBlur(colour_layer, (0, 0), sigma)
        cover: F32 = np.clip(cv2.GaussianBlur(alpha, (0, 0), sigma), 0, 1)
        if front:
            c.front.append((colours * 0.7, cover * 0.9))
        else:
            c.light = c.light * (1 - cover[..., None] * 0.9) + colours * 0.5
