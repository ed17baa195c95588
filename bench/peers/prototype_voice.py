"""The prototype's voice conversion, rebuilt from its description, to be measured beside ours in the same run.

Recipe "M": the WORLD vocoder (Morise et al. 2016) and matched moments of the coded envelope. Recipe "WMd" adds a warp
of the vocal tract chosen by nearest neighbours, and a denoised difference to the neighbours. 32 kHz mono, frames of
5 ms, 40 coded dimensions. Learning keeps statistics and an index of the target's frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyworld
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Array = NDArray[Any]

RATE, FRAME_MS, DIMENSIONS = 32_000, 5.0, 40
F0_LOW, F0_HIGH = 65.0, 800.0  # Hz
WARPS = np.round(np.arange(0.80, 1.261, 0.02), 3)
WARP_NEIGHBOURS, NEIGHBOURS, SOURCE_NEIGHBOURS = 4, 8, 48
CONTEXT, CONTEXT_WEIGHT, VOICED_WEIGHT = (6, 12), 0.6, 1.5  # frames
STD_RATIO = (0.6, 1.6)
ROUNDS, INDEX_STEP, MAX_INDEX = 2, 2, 40_000  # the index and the differences hop 10 ms


@dataclass(frozen=True)
class Analysis:
    f0: Array  # [T] Hz, 0 = unvoiced
    envelope: Array  # [T, fft/2+1] power
    aperiodicity: Array | None  # [T, fft/2+1]


@dataclass(frozen=True)
class Target:
    coded: Array  # [N, 40] of the index frames
    features: Array  # [N, 61]
    mean: dict[bool, Array]  # per voicing, [40]
    std: dict[bool, Array]
    f0: float  # median, Hz


def analyse(signal: Array, aperiodicity: bool = True) -> Analysis:
    """WORLD analysis of a mono signal [n] at 32 kHz."""
    x = np.ascontiguousarray(signal, np.float64)
    f0, times = pyworld.harvest(x, RATE, f0_floor=F0_LOW, f0_ceil=F0_HIGH, frame_period=FRAME_MS)
    envelope = pyworld.cheaptrick(x, f0, times, RATE)
    return Analysis(f0, envelope, pyworld.d4c(x, f0, times, RATE) if aperiodicity else None)


def learn(clips: list[Array]) -> Target:
    """A target voice from mono clips [n] at 32 kHz."""
    seen = [analyse(clip, aperiodicity=False) for clip in clips]
    codes = [_code(one.envelope) for one in seen]
    everything = np.concatenate(codes)
    norm = everything.mean(0), everything.std(0)
    coded, features, voiced = [], [], []
    for one, code in zip(seen, codes):
        loud = code[:, 0] > np.percentile(code[:, 0], 95) - 8  # nepers of power: leaves out silence
        coded.append(code[loud][::INDEX_STEP])
        features.append(_features(code, one.f0 > 0, norm)[loud][::INDEX_STEP])
        voiced.append((one.f0 > 0)[loud][::INDEX_STEP])
    code, feature, on = (np.concatenate(x) for x in (coded, features, voiced))
    keep = slice(None, None, -(-len(code) // MAX_INDEX))
    moments = {state: (code[on == state].mean(0), code[on == state].std(0)) for state in (True, False)}
    return Target(
        code[keep].astype(np.float32), feature[keep].astype(np.float32),
        {k: m[0] for k, m in moments.items()}, {k: m[1] for k, m in moments.items()},
        float(np.median(np.concatenate([one.f0[one.f0 > 0] for one in seen]))),
    )  # fmt: skip


def convert(signal: Array, target: Target, recipe: str = "WMd", seen: Analysis | None = None) -> Array:
    """The same words and melody in the target's voice; mono [n] at 32 kHz in and out. `seen` saves the analysis."""
    seen = seen or analyse(signal)
    on = seen.f0 > 0
    envelope = seen.envelope
    if recipe == "WMd":
        envelope = _warp(envelope, _best_warp(envelope, on, target))
    code = _match_moments(_code(envelope), on, target)
    if recipe == "WMd":
        anchors = _nearest(_features(code, on)[::INDEX_STEP], _features(code, on)[::INDEX_STEP], SOURCE_NEIGHBOURS)[0]
        for _ in range(ROUNDS):
            code = code + _difference(code, on, target, anchors)
    fft = 2 * (seen.envelope.shape[1] - 1)
    made = pyworld.decode_spectral_envelope(np.ascontiguousarray(code, np.float64), RATE, fft)
    made *= (seen.envelope.sum(1) / np.maximum(made.sum(1), 1e-30))[:, None]
    octaves = round(float(np.log2(target.f0 / np.median(seen.f0[on])))) if on.any() else 0
    assert seen.aperiodicity is not None
    sound = pyworld.synthesize(seen.f0 * 2.0**octaves, made, seen.aperiodicity, RATE, FRAME_MS)
    return np.pad(sound, (0, max(0, len(signal) - len(sound))))[: len(signal)].astype(np.float32)


def _code(envelope: Array) -> Array:
    return np.asarray(pyworld.code_spectral_envelope(np.ascontiguousarray(envelope), RATE, DIMENSIONS))  # [T, 40]


def _features(code: Array, voiced: Array, norm: tuple[Array, Array] | None = None) -> Array:
    """What neighbours are found by: 12 coefficients normalised over the voice, context, and voicing [T, 61]."""
    mean, std = norm or (code.mean(0), code.std(0))
    c = gaussian_filter1d((code - mean)[:, 1:13] / (std[1:13] + 1e-9), 1.0, axis=0)
    around = [c]
    for step in CONTEXT:
        around += [CONTEXT_WEIGHT * _shifted(c, step), CONTEXT_WEIGHT * _shifted(c, -step)]
    return np.concatenate([*around, VOICED_WEIGHT * voiced[:, None]], axis=1).astype(np.float32)


def _shifted(c: Array, step: int) -> Array:
    return c[np.clip(np.arange(len(c)) + step, 0, len(c) - 1)]


def _nearest(queries: Array, index: Array, count: int) -> tuple[Array, Array]:
    """Positions and distances [Q, count] of the nearest rows of `index`."""
    count = min(count, len(index))
    places, distances = [], []
    norms = (index**2).sum(1)
    for block in np.array_split(queries, max(1, len(queries) // 500)):
        apart = (block**2).sum(1)[:, None] + norms - 2 * block @ index.T
        near = np.argpartition(apart, count - 1, axis=1)[:, :count]
        places.append(near)
        distances.append(np.sqrt(np.maximum(np.take_along_axis(apart, near, 1), 0)))
    return np.concatenate(places), np.concatenate(distances)


def _warp(envelope: Array, alpha: float) -> Array:
    """Formants moved up by `alpha`, in the log domain."""
    bins = np.arange(envelope.shape[1])
    at = np.clip(bins / alpha, 0, bins[-1] - 1e-6)
    low = at.astype(int)
    part = at - low
    log = np.log(envelope)
    return np.asarray(np.exp(log[:, low] * (1 - part) + log[:, low + 1] * part))


def _best_warp(envelope: Array, voiced: Array, target: Target) -> float:
    some = slice(None, None, 4)  # every 20 ms is enough to choose
    costs = []
    for alpha in WARPS:
        features = _features(_code(_warp(envelope, float(alpha))), voiced)
        costs.append(_nearest(features[some][voiced[some]], target.features, WARP_NEIGHBOURS)[1].mean())
    k = int(np.argmin(costs))
    if 0 < k < len(WARPS) - 1:
        a, b, c = costs[k - 1 : k + 2]
        return float(WARPS[k] + 0.02 * 0.5 * (a - c) / max(a - 2 * b + c, 1e-9))
    return float(WARPS[k])


def _match_moments(code: Array, voiced: Array, target: Target) -> Array:
    out = code.copy()
    for state in (True, False):
        rows = voiced == state
        if rows.sum() < 10:
            continue
        part = code[rows]
        ratio = np.clip(target.std[state] / (part.std(0) + 1e-9), *STD_RATIO)
        moved = (part - part.mean(0)) * ratio + target.mean[state]
        moved[:, 0] = part[:, 0]
        out[rows] = moved
    return out


def _difference(code: Array, voiced: Array, target: Target, anchors: Array) -> Array:
    """What separates these envelopes from the target's nearest, averaged over alike source frames [T, 40]."""
    near = _nearest(_features(code, voiced)[::INDEX_STEP], target.features, NEIGHBOURS)[0]
    apart = target.coded[near].mean(1) - code[::INDEX_STEP]
    apart[:, 0] = 0
    smooth = gaussian_filter1d(apart[anchors].mean(1), 2.0, axis=0)
    places = np.arange(len(code)) / INDEX_STEP
    return np.stack([np.interp(places, np.arange(len(smooth)), column) for column in smooth.T], axis=1)
