"""Second pass: the vocals of one block, by a soft mask on the mid and side spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from vividcover.song.pcm import RATE, Signal
from vividcover.song.separation import stft
from vividcover.song.separation.stft import BINS, SIZE, Real
from vividcover.song.separation.workers import Check


@dataclass(frozen=True)
class Block:
    """What a worker gets: samples and what the song-level pass says about their frames."""

    signal: Signal  # [2, stft.span(T)]
    f0: Real  # [T] Hz
    voicing: Real  # [T] 0..1
    mono: bool


def harmonic_mask(f0: Real, voicing: Real) -> Real:
    """[T, BINS]: near 1 on the harmonics of f0 in voiced frames."""
    bins = np.arange(BINS, dtype=np.float32)
    step = f0[:, None] * np.float32(SIZE / RATE)
    distance = np.abs(bins - np.maximum(np.round(bins / step), 1) * step)
    width = np.maximum(1.6, 0.035 * step)
    result = np.exp(-np.square(distance / width)) * voicing[:, None]
    high = int(4500 * SIZE / RATE)
    result[:, high:] = np.maximum(result[:, high:], 0.6 * voicing[:, None])
    return np.asarray(result, np.float32)


def separate_block(block: Block, check: Check) -> Signal:
    """Vocals [2, n] of a block's samples [2, n]."""
    left, right = stft.analyse(block.signal)
    check()
    mid, side = (left + right) / 2, (left - right) / 2
    pm, ps = (uniform_filter(np.square(np.abs(z)), 3) for z in (mid, side))
    centre = np.ones_like(pm) * 0.6 if block.mono else np.maximum(pm - 2 * ps, 0) / (pm + 4 * ps + 1e-20)
    mask = centre * (0.25 + 0.75 * harmonic_mask(block.f0, block.voicing))
    mask[:, : int(110 * SIZE / RATE)] = 0
    check()
    vocals = stft.synthesise((mask * mid)[None])
    return np.repeat(vocals, 2, axis=0)
