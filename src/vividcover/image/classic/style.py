"""Styles: the palette, tone statistics and brushwork of some pictures, learnt and laid over a still.

Palette: k-means in CIE Lab. Tone: mean and deviation of Lab (Reinhard et al. 2001). Brushwork: the grain size and
strength of the pictures' mid-frequency detail, the strength of their edges, and a tile of their texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vividcover.image.classic import modelfile
from vividcover.image.classic.scene_tools import F32, to_linear
from vividcover.workspace import Reporter

COLOURS = 6
SIDE = 512  # px at which a style is looked at
TILE = 192  # px of the sample of texture
SAMPLES = 4000  # pixels a picture


@dataclass(frozen=True, slots=True)
class Style:
    """`palette` Lab [6,3] with shares [6]; `mean`, `deviation` of Lab [3]; `brush` px at 512; `detail` 0..;
    `tile` [192,192]: a sample of the texture."""

    palette: F32
    shares: F32
    mean: F32
    deviation: F32
    brush: float
    detail: float
    tile: F32

    def info(self) -> dict[str, Any]:
        def rounded(a: F32) -> Any:
            return np.round(a.astype(float), 4).tolist()

        return {
            "palette_lab": rounded(self.palette),
            "shares": rounded(self.shares),
            "mean_lab": rounded(self.mean),
            "deviation_lab": rounded(self.deviation),
            "brush_px": round(self.brush, 3),
            "detail": round(self.detail, 4),
        }

    def files(self) -> dict[str, bytes]:
        return {"style/tile.npy": modelfile.npy_bytes(self.tile)}

    def accents(self) -> list[F32]:
        """Three lively colours of the palette as linear light."""
        chroma = np.hypot(self.palette[:, 1], self.palette[:, 2]) * np.sqrt(self.shares + 0.02)
        best = np.argsort(-chroma, kind="stable")[:3]
        lab = self.palette[best].copy()
        lab[:, 0] = np.clip(lab[:, 0], 55, 80)
        rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
        return [np.asarray(c * 1.3 + 0.02, np.float32) for c in to_linear(np.clip(rgb, 0, 1))]


def lab_of(rgb8: NDArray[Any]) -> F32:
    return np.asarray(cv2.cvtColor(rgb8.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB), np.float32)


def learn(files: list[Path], reporter: Reporter) -> Style:
    """From prepared pictures (RGB PNG)."""
    pixels, brushes, details, tiles = [], [], [], []
    rng = np.random.default_rng(0)
    for i, file in enumerate(files):
        reporter.progress(0.25 + 0.6 * i / len(files), f"learning from picture {i + 1} of {len(files)}")
        with Image.open(file) as image:
            rgb = np.asarray(image.convert("RGB"))
        scale = SIDE / max(rgb.shape[:2])
        lab = lab_of(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        flat = lab.reshape(-1, 3)
        pixels.append(flat[rng.choice(len(flat), min(SAMPLES, len(flat)), replace=False)])
        bands = [lab[..., 0], *(cv2.GaussianBlur(lab[..., 0], (0, 0), sigma) for sigma in (1.0, 2.0, 4.0, 8.0))]
        energy = np.array([float(np.std(a - b)) for a, b in pairwise(bands)])
        brushes.append(float((energy * [1, 2, 4, 8]).sum() / (energy.sum() + 1e-6)))
        details.append(float(np.std(bands[0] - bands[3])) / 10.0)
        tiles.append(_tile(bands[0] - bands[4]))
    data = np.concatenate(pixels).astype(np.float32)
    cv2.setRNGSeed(1)
    count = min(COLOURS, len(data))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 0.2)
    _, labels, centres = cv2.kmeans(data, count, None, criteria, 3, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    shares = np.bincount(labels.ravel(), minlength=count).astype(np.float32) / len(data)
    order = np.argsort(-shares, kind="stable")
    best = int(np.argsort([float(np.std(t)) for t in tiles])[len(tiles) // 2])
    return Style(
        centres[order].astype(np.float32),
        shares[order],
        data.mean(0),
        data.std(0),
        float(np.median(brushes)),
        float(np.median(details)),
        tiles[best],
    )


def _tile(detail: F32) -> F32:
    """The most textured square of the detail band, faded to its borders, zero mean: a sample of the brushwork."""
    detail = cv2.copyMakeBorder(
        detail, 0, max(0, TILE - detail.shape[0]), 0, max(0, TILE - detail.shape[1]), cv2.BORDER_REFLECT
    )
    h, w = detail.shape
    energy = cv2.blur(detail * detail, (TILE, TILE))
    half = TILE // 2
    inner = energy[half : h - half + 1, half : w - half + 1]
    y, x = np.unravel_index(int(np.argmax(inner)), inner.shape)
    patch = detail[y : y + TILE, x : x + TILE]
    window = np.hanning(TILE).astype(np.float32)
    patch = (patch - patch.mean()) * window[:, None] * window[None]
    return np.asarray(patch - patch.mean(), np.float32)


def brushwork(sample: F32, height: int, width: int) -> F32:
    """Texture [height, width] of unit deviation with the sample's spectrum and no repeats (texton noise,
    Galerne, Leclaire, Moisan 2014: white noise convolved with the sample)."""
    rows, cols = min(SIDE, height), min(SIDE, width)
    noise = np.random.default_rng(0).standard_normal((rows, cols))
    padded = np.zeros((rows, cols))
    h, w = min(rows, sample.shape[0]), min(cols, sample.shape[1])
    padded[:h, :w] = sample[:h, :w]
    texture = np.fft.irfft2(np.fft.rfft2(noise) * np.fft.rfft2(padded), (rows, cols))
    sized: F32 = cv2.resize(texture.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((sized - sized.mean()) / (sized.std() + 1e-6), np.float32)


def load(model: modelfile.Model) -> Style:
    s = model.info["style"]
    return Style(
        np.array(s["palette_lab"], np.float32),
        np.array(s["shares"], np.float32),
        np.array(s["mean_lab"], np.float32),
        np.array(s["deviation_lab"], np.float32),
        float(s["brush_px"]),
        float(s["detail"]),
        model.array("style/tile.npy"),
    )


def apply(rgb8: NDArray[Any], style: Style, strength: float) -> NDArray[Any]:
    """The picture uint8 [H,W,3] in the style; `strength` 0..1.5."""
    h, w = rgb8.shape[:2]
    strength = float(np.clip(strength, 0, 1.5))
    picture = rgb8
    size = style.brush * max(h, w) / SIDE
    if style.detail > 0.25 and strength > 0:  # painterly pictures: gather pixels into strokes
        painted = cv2.pyrMeanShiftFiltering(
            cv2.resize(picture, (w // 2, h // 2), interpolation=cv2.INTER_AREA),
            max(3.0, min(12.0, size * 1.2)),
            16 + 10 * strength,
            maxLevel=1,
        )
        painted = cv2.resize(painted, (w, h), interpolation=cv2.INTER_CUBIC)
        mix = min(1.0, 0.75 * strength)
        picture = np.asarray(np.clip(painted * mix + picture * (1 - mix), 0, 255), np.uint8)
    lab = lab_of(picture)
    mean, deviation = lab.mean((0, 1)), lab.std((0, 1)) + 1e-3
    ratio = np.clip(style.deviation / deviation, 0.5, 1.8)
    moved = (lab - mean) * ratio + style.mean
    nearest = np.argmin(((moved[::8, ::8, None] - style.palette) ** 2).sum(-1), axis=-1)
    pull = cv2.resize(style.palette[nearest], (w, h), interpolation=cv2.INTER_LINEAR)
    moved[..., 1:] = 0.65 * moved[..., 1:] + 0.35 * pull[..., 1:]
    out = lab + (moved - lab) * min(1.0, strength) * np.array([0.75, 0.9, 0.9], np.float32)
    texture = brushwork(style.tile, h, w)
    out[..., 0] += texture * min(6.0, style.detail * 4.5) * strength
    rgb = cv2.cvtColor(out.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(rgb * 255 + 0.5, 0, 255), np.uint8)
