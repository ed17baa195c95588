"""Where a recording is cut into clips: at its silences, after at least five seconds.

The rules of the seed's data set tool: RMS every 10 ms, silence is what stays below −40 dB for at least 500 ms, clips of
at least 5 s, at most 500 ms of silence kept at either end. Two things are ours: the −40 dB count from a recording that
is brought to a speech level of −20 dBFS first, so that quiet recordings are not thrown away; and a clip that finds no
silence for 30 s is cut at its quietest moment.

Only the power per 10 ms is held (360 kB an hour), so recordings may be hours long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter

HOP = 0.010  # s
WINDOW = 4  # hops that one RMS value covers
LEVEL = -20.0  # dBFS, to which the loud parts of a recording are brought
THRESHOLD = -40.0  # dBFS at that level: below is silence
GATE = 20.0  # dB below the loudest moments, where the loud parts end
MIN_LENGTH = 500  # hops of a clip before it may be cut
MIN_INTERVAL = 50  # hops of silence at which may be cut
MAX_KEPT = 50  # hops of silence kept at either end of a clip
MAX_LENGTH = 3000  # hops of a clip
MAX_GAIN = 40.0  # dB
CEILING = 0.89  # full scale (−1 dBFS), above which no sample may be lifted
FLOOR = 1e-12  # power of digital silence (−120 dBFS)
BLOCK = 1000  # hops read at a time
LEVELS = 40  # heights between zero and a clip's peak, for finding clipping
ENOUGH = 5e-4  # share of samples that a level must have to count

Power = NDArray[np.float32]  # [T] mean square per 10 ms


@dataclass(frozen=True, slots=True)
class Track:
    """What is known of a whole recording: power [T] smoothed over 40 ms, the highest sample, seconds.

    `voice` [T]: where there is a voice, as `vad.py` heard it; None: not listened for.
    """

    power: Power
    peak: float
    seconds: float
    voice: NDArray[np.bool_] | None = None

    @property
    def level(self) -> float:
        """dBFS of the loud parts: mean power of what is less than 20 dB below the 95th percentile."""
        if not len(self.power):
            return 10 * float(np.log10(FLOOR))
        loud = float(np.percentile(self.power, 95))
        loud = loud if loud > FLOOR else float(self.power.max())
        gated = self.power[self.power >= loud * 10 ** (-GATE / 10)]
        return decibels(float(gated.mean(dtype=np.float64)) if len(gated) else 0.0)

    @property
    def gain(self) -> float:
        """The factor that brings the loud parts to −20 dBFS without clipping."""
        wanted = 10 ** (min(LEVEL - self.level, MAX_GAIN) / 20)
        return float(min(wanted, CEILING / self.peak)) if self.peak > 0 else 1.0

    @property
    def quiet(self) -> NDArray[np.bool_]:
        """[T] what is silence."""
        return self.power < 10 ** ((self.level + THRESHOLD - LEVEL) / 10)

    @property
    def idle(self) -> NDArray[np.bool_]:
        """[T] what is silence, or sound without a voice."""
        return self.quiet if self.voice is None else self.quiet | ~self.voice

    @property
    def snr(self) -> float:
        """dB from the background (quietest 5 % that are not digital silence) to the loud parts, 0 … 80."""
        heard = self.power[self.power > 10 * FLOOR]
        if not len(heard):
            return 0.0
        return float(np.clip(self.level - decibels(float(np.percentile(heard, 5))), 0.0, 80.0))


@dataclass(frozen=True, slots=True)
class Span:
    """A clip in hops: from `start` to before `end`; `voiced` of them are not inside a silence of half a second."""

    start: int
    end: int
    voiced: int


def decibels(power: float) -> float:
    return float(10 * np.log10(max(power, FLOOR)))


def hop_samples(rate: int) -> int:
    return round(rate * HOP)


def measure(pcm: Path, reporter: Reporter) -> Track:
    """Power per 10 ms and peak of a working file (all channels together), in blocks."""
    powers: list[Power] = []
    peak = 0.0
    with PcmReader(pcm) as reader:
        hop = hop_samples(reader.rate)
        for block in reader.blocks(BLOCK * hop):
            reporter.check()
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            whole = np.pad(block, ((0, 0), (0, -block.shape[1] % hop)))
            powers.append(np.mean(np.square(whole).reshape(len(block), -1, hop), axis=(0, 2), dtype=np.float32))
        seconds = reader.seconds
    power = np.concatenate(powers) if powers else np.zeros(0, np.float32)
    if len(power) >= WINDOW:
        power = np.convolve(power, np.full(WINDOW, 1 / WINDOW, np.float32), mode="same")
    return Track(power.astype(np.float32), peak, seconds)


def silences(quiet: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) in hops of every stretch of at least `MIN_INTERVAL` quiet hops."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2]) if b - a >= MIN_INTERVAL]


def cut(track: Track) -> list[Span]:
    """The clips of a recording, in order. A recording without a voice gives none."""
    quiet = track.idle
    total, pauses = len(quiet), silences(quiet)
    paused = np.zeros(total + 1, np.int64)
    for start, end in pauses:
        paused[start + 1 : end + 1] = 1
    paused = np.cumsum(paused)  # paused[t]: hops before t that lie in a pause
    begin = max(0, pauses[0][1] - MAX_KEPT) if pauses and pauses[0][0] == 0 else 0
    clips: list[tuple[int, int]] = []
    for start, end in pauses:
        if start == 0:
            continue
        if end == total:
            clips.append((begin, min(total, start + MAX_KEPT)))
            begin = total
        elif end - begin >= MIN_LENGTH:
            kept = min(MAX_KEPT, (end - start) // 2)
            clips.append((begin, start + kept))
            begin = end - kept
    if begin < total:
        clips.append((begin, total))
    short = [piece for clip in clips for piece in _shorten(track.power, *clip)]
    spans = [Span(a, b, int(b - a - (paused[b] - paused[a]))) for a, b in short]
    return [span for span in spans if span.voiced > 0]


def unheard(track: Track) -> tuple[float, float]:
    """(seconds of silence, seconds of sound without a voice) that no clip holds, in stretches of half a second."""
    idle, quiet = np.zeros(len(track.power), np.bool_), track.quiet
    for start, end in silences(track.idle):
        idle[start:end] = True
    return float((idle & quiet).sum() * HOP), float((idle & ~quiet).sum() * HOP)


def _shorten(power: Power, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A clip in pieces of at most `MAX_LENGTH` hops, cut where it is quietest."""
    while end - start > MAX_LENGTH:
        low, high = start + MIN_LENGTH, min(start + MAX_LENGTH, end - MIN_LENGTH)
        middle = low + int(np.argmin(power[low:high]))
        yield start, middle
        start = middle
    yield start, end


def crowding(samples: NDArray[np.float32]) -> float:
    """How crowded the highest levels of a clip [N] are: above 1, higher levels are commoner than lower ones.

    A voice has ever fewer samples towards its peaks: 0 … 0.9, median 0.25. Clipping piles them up at one level, and
    neither resampling nor mp3 spreads that pile far: median 1.8 at 6 dB too loud (0.6 … 3.6), 4 at 12 dB (1.9 … 14).
    """
    height = np.abs(samples)
    peak = float(height.max(initial=0.0))
    if peak == 0:
        return 0.0
    counts = np.histogram(height, bins=LEVELS, range=(0, peak))[0]
    four = np.convolve(counts, np.ones(4, np.int64), mode="valid")  # four[i]: levels i … i + 3
    here, below = four[LEVELS // 2 :], four[LEVELS // 2 - 8 : -8]
    enough = here >= ENOUGH * len(samples)
    return float(np.max(np.where(enough, here / (below + 1.0), 0.0), initial=0.0))
