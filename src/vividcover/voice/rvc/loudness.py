"""The song's loudness on the converted voice: rms_mix_rate, as audio streams by.

Loudness is the root mean square over one second, every half second, as RVC measures it. `Leveller` works in a stream,
with a second of delay; `levelled` is the whole signal at once with RVC's own way of reading between the half seconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-6  # rms of the converted voice below which it counts as that, as in RVC
MOST = 10 ** (30 / 20)  # gain that no moment gets more of: 30 dB
FRAMES = 50  # of 10 ms, in half a second

Array = NDArray[np.float32]


def half_seconds(power: Array) -> Array:
    """Mean square of every half second [ceil(T/50)], from that of every frame of 10 ms [T]."""
    padded = np.pad(power, (0, -len(power) % FRAMES))
    return np.asarray(padded.reshape(-1, FRAMES).mean(1), np.float32)


class Leveller:
    """Gives a stream the loudness that `song` says (mean squares of its half seconds); see the module.

    `mix` 0 = the song's loudness, 1 = untouched. `push` takes and gives mono samples at `rate`, `finish` the rest.
    """

    def __init__(self, song: Array, rate: int, mix: float) -> None:
        self.hop, self.mix = rate // 2, mix
        self.wanted = np.concatenate([[0.0], song.astype(np.float64), [0.0, 0.0]])  # cell k at k+1
        self.cells: list[float] = [0.0, 0.0]  # mean squares of cells k-1, k of what came in
        self.waiting = np.zeros(0, np.float32)  # samples from the start of cell k on
        self.done = 0  # k

    def push(self, samples: Array) -> Array:
        if self.mix == 1:
            return samples
        self.waiting = np.concatenate([self.waiting, samples])
        out = [np.zeros(0, np.float32)]
        while len(self.waiting) >= 2 * self.hop:
            out.append(self._next(self.waiting[: self.hop], self.waiting[self.hop : 2 * self.hop]))
            self.waiting = self.waiting[self.hop :]
        return np.concatenate(out)

    def finish(self) -> Array:
        out = [np.zeros(0, np.float32)]
        while self.mix != 1 and len(self.waiting):
            out.append(self._next(self.waiting[: self.hop], self.waiting[self.hop : 2 * self.hop]))
            self.waiting = self.waiting[self.hop :]
        return np.concatenate(out)

    def _next(self, cell: Array, after: Array) -> Array:
        """One cell with its gain; the cell after it is needed for the loudness at its end."""
        before = self.cells[0] if self.done else 0.0
        now, later = self._mean_square(cell), self._mean_square(after)
        own = np.sqrt([(before + now) / 2, (now + later) / 2])
        k = min(self.done, len(self.wanted) - 3)
        song = np.sqrt((self.wanted[k : k + 2] + self.wanted[k + 1 : k + 3]) / 2)
        part = np.arange(len(cell)) / self.hop
        there = song[0] + (song[1] - song[0]) * part
        here = np.maximum(own[0] + (own[1] - own[0]) * part, FLOOR)
        self.cells[0] = now
        self.done += 1
        return np.asarray(cell * np.minimum((there / here) ** (1 - self.mix), MOST), np.float32)

    def _mean_square(self, cell: Array) -> float:
        """Over a whole half second: what the last one lacks is silence."""
        return float(np.sum(cell.astype(np.float64) ** 2)) / self.hop


def levelled(song: NDArray[np.floating], song_rate: int, sung: Array, rate: int, mix: float) -> Array:
    """`sung` with the loudness of `song`, both whole. As RVC: no limit, half seconds stretched over the length."""
    if mix == 1 or not len(sung):
        return sung
    there = _between(_rms(song, song_rate), len(sung))
    here = np.maximum(_between(_rms(sung, rate), len(sung)), FLOOR)
    return np.asarray(sung * there ** (1 - mix) * here ** (mix - 1), np.float32)


def _rms(samples: NDArray[np.floating], rate: int) -> NDArray[np.float64]:
    """Over one second, centred on every half second, silence before and after."""
    hop = rate // 2
    squares = np.pad(np.asarray(samples, np.float64) ** 2, hop)
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    starts = np.arange(len(samples) // hop + 1) * hop
    return np.asarray(np.sqrt(np.maximum(sums[starts + 2 * hop] - sums[starts], 0) / (2 * hop)))


def _between(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`values` spread evenly over `count` samples, with lines between."""
    places = (np.arange(count) + 0.5) * (len(values) / count) - 0.5
    return np.asarray(np.interp(places, np.arange(len(values)), values))
