"""The bench's arithmetic: decibels of separation, ratios beside their aims, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUIET = 1e-20  # power that keeps logarithms finite


def si_sdr(truth: NDArray[Any], estimate: NDArray[Any]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), all channels as one vector."""
    t, e = (np.asarray(x, np.float64).ravel() for x in (truth, estimate))
    scaled = (t @ e) / max(t @ t, QUIET) * t
    return float(10 * np.log10((scaled @ scaled + QUIET) / (np.sum((e - scaled) ** 2) + QUIET)))


def sdr(truth: NDArray[Any], estimate: NDArray[Any]) -> float:
    """Signal-to-distortion ratio in dB, level errors included."""
    t, e = (np.asarray(x, np.float64).ravel() for x in (truth, estimate))
    return float(10 * np.log10((t @ t + QUIET) / (np.sum((e - t) ** 2) + QUIET)))


def level_db(signal: NDArray[Any], beside: NDArray[Any]) -> float:
    """Power of `signal` below that of `beside` in dB (negative = quieter)."""
    a, b = (np.sum(np.asarray(x, np.float64) ** 2) for x in (signal, beside))
    return float(10 * np.log10((a + QUIET) / (b + QUIET)))


def ratio(ours: float, theirs: float, digits: int = 3) -> float:
    """ours / theirs, bigger is better; a peer at or below zero is taken as a hundredth, so the sign stays right."""
    return round(ours / max(theirs, 0.01), digits)


def power_ratio(ours_db: float, theirs_db: float, digits: int = 3) -> float:
    """How much less distortion power: 10^((ours - theirs) / 10), at most 100; 1 = the same, 2 = 3 dB better."""
    return round(float(10 ** min((ours_db - theirs_db) / 10, 2)), digits)


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """The names of the ratios that miss their aim. Every `…_ratio` must stand beside its `…_ratio_aim`."""
    missed = []
    for name, value in figures.items():
        if not name.endswith("_ratio"):
            continue
        if f"{name}_aim" not in figures:
            raise KeyError(f"{name} stands without {name}_aim")
        if value is None or not value >= figures[f"{name}_aim"]:
            missed.append(name)
    return missed


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Markdown; the columns of the first row, in order."""
    if not rows:
        return "(nothing)\n"
    columns = list(columns or rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 10
        else (f"{value:.1f}" if isinstance(value, float) else str(value))
    )
