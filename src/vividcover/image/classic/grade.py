"""The last steps that make one picture of person and scene: light wrap, veil, lens, film curve, moods, grain."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.image.classic.scene_tools import F32, bloom, luma, rgb, to_srgb


def over(back: F32, person: F32, alpha: F32) -> F32:
    """The person before the background, with a little of the background's light wrapped round the edge. Linear."""
    h, w = alpha.shape
    size = (w // 4, h // 4)
    sigma = 0.010 * h / 4
    around = cv2.GaussianBlur(cv2.resize(np.minimum(back, 3), size, interpolation=cv2.INTER_AREA), (0, 0), sigma)
    around = cv2.resize(around, (w, h), interpolation=cv2.INTER_LINEAR)
    near = cv2.resize(
        cv2.GaussianBlur(cv2.resize(1 - alpha, size, interpolation=cv2.INTER_AREA), (0, 0), sigma), (w, h)
    )
    wrap = (np.clip(near, 0, 1) ** 1.6 * 0.30)[..., None] * around
    a = alpha[..., None]
    return np.asarray(back * (1 - a) + (person * (1 - 0.2 * near[..., None]) + wrap) * a)


def lay(picture: F32, layers: list[tuple[F32, F32]], keep: F32 | None = None) -> F32:
    """Layers (premultiplied light, alpha) before the picture; `keep` [H,W] 1 where they must stay away (the face)."""
    h, w = picture.shape[:2]
    for light, alpha in layers:
        light = cv2.resize(light, (w, h), interpolation=cv2.INTER_LINEAR)
        alpha = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_LINEAR)
        if keep is not None:
            light, alpha = light * (1 - keep[..., None]), alpha * (1 - keep)
        picture = picture * (1 - alpha[..., None]) + light
    return picture


def film(light: F32) -> F32:
    """Filmic curve (Narkowicz 2015, fit of ACES), on a mix of channels and luminance so that hues stay."""

    def curve(x: F32) -> F32:
        return x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)

    light = np.maximum(light, 0) * 0.9
    grey = luma(light)[..., None]
    by_luminance = light * (curve(grey) / np.maximum(grey, 1e-5))
    return np.clip(0.72 * curve(light) + 0.28 * np.clip(by_luminance, 0, 1), 0, 1)


def finish(light: F32, moods: Collection[str], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear picture [H,W,3] → uint8 sRGB."""
    h, w = light.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    radius2 = ((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2) / 0.5
    dreamy = "dreamy" in moods
    light = bloom(light, 0.75 if dreamy else 0.22, 0.35 if dreamy else 0.8)
    if dreamy:
        small = cv2.resize(light, (w // 4, h // 4), interpolation=cv2.INTER_AREA)
        light = 0.78 * light + 0.30 * cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.018 * h / 4), (w, h))
    exposure = 1.0 - 0.22 * ("moody" in moods)
    light = light * (exposure * (1 - (0.42 + 0.2 * ("moody" in moods)) * radius2**1.3))[..., None]
    picture = to_srgb(film(light))
    picture = _moods(picture, moods)
    for channel, factor in ((0, 1.0007), (2, 0.9993)):  # lateral colour of a real lens
        matrix = np.array([[factor, 0, (1 - factor) * w / 2], [0, factor, (1 - factor) * h / 2]])
        picture[..., channel] = cv2.warpAffine(
            np.ascontiguousarray(picture[..., channel]),
            matrix,
            (w, h),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    strength = 0.011 + 0.015 * ("grain" in moods) + 0.007 * ("vintage" in moods)
    noise = cv2.GaussianBlur(rng.standard_normal((h, w), dtype=np.float32), (0, 0), 0.7) * 1.9
    grey = luma(picture)
    picture += (noise * strength * (0.35 + 1.3 * np.sqrt(np.clip(grey * (1 - grey), 0, 1))))[..., None]
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


def _moods(picture: F32, moods: Collection[str]) -> F32:
    grey = luma(picture)[..., None]

    def saturate(image: F32, by: float) -> F32:
        return grey + (image - grey) * by

    if "vibrant" in moods:
        picture = saturate(picture, 1.22)
    if "moody" in moods:
        picture = saturate(picture, 0.86) + (1 - grey) ** 3 * (rgb(0, 12, 34) * 0.9)
    if "cinematic" in moods:
        picture = picture + (1 - grey) ** 2 * np.array([-0.022, 0.006, 0.026], np.float32)
        picture = picture + grey**1.5 * np.array([0.030, 0.008, -0.028], np.float32)
    if "vintage" in moods:
        picture = saturate(picture, 0.72) * np.array([0.97, 0.91, 0.78], np.float32)
        picture = picture * 0.88 + np.array([0.085, 0.065, 0.070], np.float32)
    if "black and white" in moods:
        mono = np.clip(picture @ np.array([0.40, 0.42, 0.18], np.float32), 0, 1)
        mono = 0.5 + (mono - 0.5) * 1.14 + 0.02
        picture = np.repeat(mono[..., None], 3, 2)
    return np.clip(picture, 0, 1).astype(np.float32)
