"""Pictures of what was measured: spectrograms above one another, the mouth beside the voice. PNG, by OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.song.pcm import read_pcm

Picture = NDArray[np.uint8]
WIDTH, ROW, LABEL = 1100, 190, 22  # px
RATE, FRAME = 16_000, 640  # Hz, samples
RANGE_DB = 70.0
INK, PAPER, OPEN, LEVEL = (30, 30, 30), (255, 255, 255), (60, 60, 220), (190, 140, 60)  # BGR


def spectrogram(path: Path, seconds: float | None = None) -> Picture:
    """0 … 8 kHz from bottom to top, `RANGE_DB` below the loudest, [ROW, WIDTH, 3] BGR."""
    signal, rate = read_pcm(path)
    mono = soxr.resample(signal.mean(axis=0), rate, RATE)
    mono = mono[: int(seconds * RATE)] if seconds else mono
    hop = max(1, (len(mono) - FRAME) // WIDTH)
    starts = np.arange(0, max(len(mono) - FRAME, 1), hop)
    frames = np.stack([np.pad(mono[s : s + FRAME], (0, max(0, s + FRAME - len(mono)))) for s in starts])
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2
    db = 10 * np.log10(power.T[::-1] / max(power.max(), 1e-12) + 1e-12)
    grey = np.clip((db + RANGE_DB) / RANGE_DB * 255, 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(cv2.resize(grey, (WIDTH, ROW), interpolation=cv2.INTER_AREA), cv2.COLORMAP_MAGMA)
    return np.asarray(coloured, np.uint8)


def sheet(rows: list[tuple[str, Path]], out: Path, seconds: float | None = None) -> None:
    """Labelled spectrograms, one below the other."""
    pictures = []
    for label, path in rows:
        pictures += [_label(label), spectrogram(path, seconds)]
    out.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(out), np.concatenate(pictures))


def lips_sheet(curves: list[tuple[str, Path]], out: Path) -> None:
    """The mouth's openness (red) over the voice's level in dB (blue), per portrait."""
    pictures = []
    for label, path in curves:
        with np.load(path) as data:
            opened, db = data["openness"], data["db"]
        panel: Picture = np.full((ROW, WIDTH, 3), 255, np.uint8)
        _curve(panel, (db + 50) / 50, LEVEL)
        _curve(panel, opened / max(np.nanpercentile(opened, 99.5), 1e-6), OPEN)
        pictures += [_label(f"{label}: mouth (red) over level in dB (blue), {len(db)} frames"), panel]
    out.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(out), np.concatenate(pictures))


def _curve(panel: Picture, values: NDArray[Any], colour: tuple[int, int, int]) -> None:
    """`values` in 0..1; nan leaves a hole."""
    x = np.linspace(0, WIDTH - 1, len(values))
    y = ROW - 6 - np.clip(values, 0, 1.05) * (ROW - 16)
    for part in np.ma.clump_unmasked(np.ma.masked_invalid(y)):
        points = np.stack([x[part], y[part]], axis=1).astype(np.int32)
        cv2.polylines(panel, [points], False, colour, 1, cv2.LINE_AA)


def _label(text: str) -> Picture:
    strip: Picture = np.full((LABEL, WIDTH, 3), 255, np.uint8)
    plain = text.replace("→", "to").encode("ascii", "replace").decode()
    cv2.putText(strip, plain, (6, LABEL - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return strip
