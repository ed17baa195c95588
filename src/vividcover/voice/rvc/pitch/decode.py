"""From what a pitch net says to hertz, and what is done to a pitch curve afterwards.

The nets give a salience for each of 360 pitches, 20 cents apart (RMVPE and CREPE: from 31.7 Hz; FCPE has its own
table). Everything here is over whole arrays; only the path search goes frame by frame.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]

BINS = 360
STEP = 20.0  # cents between two bins
FIRST = 1997.3794084376191  # cents above 10 Hz of the first bin, as CREPE was trained
NEAR = 4  # bins to either side of the centre that a frame's pitch is averaged over
REACH = 12  # bins at which CREPE's path may no longer go in one frame; its cost grows towards it
UNTHINKABLE = float(np.log(np.finfo(np.float32).tiny))  # log-probability of what has probability 0, as librosa has it


def cents() -> NDArray[np.float64]:
    """Cents above 10 Hz of each bin, [360]."""
    return np.asarray(FIRST + STEP * np.arange(BINS), dtype=np.float64)


def hertz(cents_above: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(10 * 2 ** (cents_above / 1200))


def near_average(
    salience: Array, centre: NDArray[np.int64], table: NDArray[np.float64], *, repeat_ends: bool = False
) -> NDArray[np.float64]:
    """Cents of each frame: the mean of the nine bins around `centre` [T], weighted by salience [T, 360].

    At the ends of the table the missing bins count nothing, or (`repeat_ends`, as FCPE does) the last one again.
    """
    index = centre[:, None] + np.arange(-NEAR, NEAR + 1)  # [T, 9]
    inside = np.clip(index, 0, len(table) - 1)
    weight = np.take_along_axis(salience, inside, axis=1).astype(np.float64)
    if not repeat_ends:
        weight[index != inside] = 0
    return np.asarray((weight * table[inside]).sum(1) / np.maximum(weight.sum(1), 1e-30))


def peak_pitch(salience: Array, threshold: float, table: NDArray[np.float64], *, repeat_ends: bool = False) -> Array:
    """Hz of the strongest bin's neighbourhood in each frame; 0 where no salience is above `threshold`."""
    centre = salience.argmax(1)
    pitch = hertz(near_average(salience, centre, table, repeat_ends=repeat_ends))
    return np.where(salience.max(1) > threshold, pitch, 0.0).astype(np.float32)


def _log(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.log(probabilities.astype(np.float64) + np.finfo(np.float32).tiny))


def smooth_path(probabilities: Array) -> NDArray[np.int64]:
    """The likeliest path through probabilities [T, 360] that sum to 1 in each frame, as CREPE's authors search it.

    A step of d bins has the weight 12 - |d|. (torchcrepe through librosa: logarithms; what has probability 0 costs
    87.3, so that a jump is possible where nothing else is.)
    """
    offsets = np.arange(-REACH + 1, REACH)  # [23]
    every = np.arange(BINS)
    ways = np.maximum(REACH - np.abs(every[:, None] - every), 0).astype(np.float64)  # [from, to]
    ways = _log(ways / ways.sum(1, keepdims=True))
    source = every[:, None] + offsets  # [to, 23] where a step may come from
    inside = np.clip(source, 0, BINS - 1)
    cost = np.where(source == inside, ways[inside, every[:, None]], -np.inf)

    value = _log(probabilities[0]) - np.log(BINS)
    came_from = np.empty((len(probabilities), BINS), np.int16)
    padded = np.full(BINS + 2 * REACH - 2, -np.inf)
    for frame in range(1, len(probabilities)):
        padded[REACH - 1 : -REACH + 1] = value
        steps = sliding_window_view(padded, len(offsets)) + cost  # [to, 23]
        best = steps.argmax(1)
        reached, origin = steps[every, best], every + offsets[best]
        top = int(value.argmax())
        far = reached < value[top] + UNTHINKABLE  # only a jump leads there
        came_from[frame] = np.where(far, top, origin)
        value = np.where(far, value[top] + UNTHINKABLE, reached) + _log(probabilities[frame])
    path = np.empty(len(probabilities), np.int64)
    path[-1] = value.argmax()
    for frame in range(len(probabilities) - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


def fill_unvoiced(f0: Array) -> Array:
    """Straight lines through the unvoiced frames, the nearest pitch before the first and after the last voiced one."""
    voiced = f0 > 0
    if not voiced.any():
        return f0
    where = np.arange(len(f0))
    return np.interp(where, where[voiced], f0[voiced]).astype(np.float32)


def median_voiced(f0: Array, width: int) -> Array:
    """Each voiced frame becomes the median of the voiced ones within `width` frames around it. Rests stay rests."""
    half = width // 2
    padded = np.pad(np.where(f0 > 0, f0, np.nan).astype(np.float64), half, constant_values=np.nan)
    windows = np.sort(sliding_window_view(padded, 2 * half + 1), axis=1)  # NaN goes last
    count = (~np.isnan(windows)).sum(1)
    rows, middle = np.arange(len(f0)), np.maximum(count - 1, 0)
    median = (windows[rows, middle // 2] + windows[rows, (middle + 1) // 2]) / 2
    return np.where(f0 > 0, median, 0).astype(np.float32)
