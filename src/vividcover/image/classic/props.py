"""Things in the singer's hand's reach: a microphone on a stand, drawn with light on it, never before the mouth."""

from __future__ import annotations

import cv2
import numpy as np

from vividcover.image.classic.scene_tools import F32, Lighting, luma, rgb


def microphone(
    shape: tuple[int, int], chin: tuple[float, float], face_height: float, side: float, light: Lighting
) -> tuple[F32, F32]:
    """(light premultiplied [H,W,3], alpha [H,W]) of a stage microphone on its stand, below and beside the chin (px)."""
    h, w = shape
    fh = face_height
    radius = 0.125 * fh
    head = np.array([chin[0] + side * 0.50 * fh, chin[1] + 0.40 * fh])
    axis = np.array([side * 0.42, 0.91])
    axis /= np.linalg.norm(axis)
    across = np.array([axis[1], -axis[0]])
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    colour = np.zeros((h, w, 3), np.float32)
    alpha: F32 = np.zeros((h, w), np.float32)
    left, right = np.clip(light.rim_left, 0, 2), np.clip(light.rim_right, 0, 2)
    key = light.key / max(float(luma(light.key)), 0.1) * light.face_level

    def lay(mask: F32, paint: F32) -> None:
        nonlocal colour, alpha
        colour = colour * (1 - mask[..., None]) + paint * mask[..., None]
        alpha = alpha + mask * (1 - alpha)

    def rod(start: np.ndarray, direction: np.ndarray, length: float, r0: float, r1: float, shade: F32) -> None:
        side_of = np.array([direction[1], -direction[0]])
        t = (x - start[0]) * direction[0] + (y - start[1]) * direction[1]
        d = (x - start[0]) * side_of[0] + (y - start[1]) * side_of[1]
        r = r0 + (r1 - r0) * np.clip(t / length, 0, 1)
        mask = np.clip(r - np.abs(d) + 0.5, 0, 1) * np.clip(t + 0.5, 0, 1) * np.clip(length - t + 0.5, 0, 1)
        u = d / np.maximum(r, 1e-3)
        body = shade * (0.25 + 0.75 * np.sqrt(np.clip(1 - u * u, 0, 1)))[..., None]
        gleam = np.exp(-(((u + 0.45) / 0.16) ** 2))[..., None] * key * 0.55
        rim = (np.clip(u * np.sign(side_of[0]) - 0.62, 0, 1) * 2.2)[..., None] * right * 0.35
        rim = rim + (np.clip(-u * np.sign(side_of[0]) - 0.62, 0, 1) * 2.2)[..., None] * left * 0.35
        lay(mask.astype(np.float32), (body + gleam + rim).astype(np.float32))

    dark = rgb(34, 34, 38) * (0.5 + 1.2 * light.face_level)
    clip_at = head + axis * radius * 3.4
    rod(clip_at, np.array([side * 0.06, 0.998]), h * 1.2, radius * 0.20, radius * 0.22, dark)
    rod(head + axis * radius * 0.7, axis, radius * 4.2, radius * 0.62, radius * 0.40, dark * 1.4)
    rod(clip_at - axis * radius * 0.25, axis, radius * 0.9, radius * 0.62, radius * 0.62, dark * 0.9)
    rod(
        head + axis * radius * 0.62,
        axis,
        radius * 0.42,
        radius * 0.80,
        radius * 0.74,
        rgb(150, 150, 155) * light.face_level,
    )
    dx, dy = (x - head[0]) / radius, (y - head[1]) / radius
    r2 = dx * dx + dy * dy
    mask = np.clip((1 - np.sqrt(r2)) * radius + 0.5, 0, 1).astype(np.float32)
    nz = np.sqrt(np.clip(1 - r2, 0, 1))
    a, b = dx * across[0] + dy * across[1], dx * axis[0] + dy * axis[1]
    u, v = np.arctan2(a, nz + 0.25), np.arctan2(b, nz + 0.25)
    pitch = 0.13
    wires = np.maximum(np.abs(np.sin(np.pi * (u + v) / pitch)), np.abs(np.sin(np.pi * (u - v) / pitch))) ** 4
    wires = cv2.GaussianBlur(wires.astype(np.float32), (0, 0), max(0.4, 0.012 * radius))
    k = np.asarray(light.key_from, np.float32)
    k /= np.linalg.norm(k)
    diffuse = np.clip(dx * k[0] + dy * k[1] + nz * k[2], 0, 1)
    gleam = diffuse**14 * 1.6 + diffuse * 0.5 + 0.12
    steel = (0.20 + 0.55 * wires)[..., None] * (gleam[..., None] * key)
    steel += (
        (np.clip(-dx, 0, 1) ** 3 * (1 - nz))[..., None] * left + (np.clip(dx, 0, 1) ** 3 * (1 - nz))[..., None] * right
    ) * 0.5
    steel *= (1 - 0.55 * np.exp(-(((b - 0.15) / 0.07) ** 2)))[..., None]  # the ring round the grille
    lay(mask, steel.astype(np.float32))
    sigma = max(0.5, 0.004 * fh)
    return cv2.GaussianBlur(colour * alpha[..., None], (0, 0), sigma), cv2.GaussianBlur(alpha, (0, 0), sigma)
