"""Runs a net over a song of any length: pieces in, pieces out, joined by weighted overlap-add.

    for block in overlap_add(net, PcmReader(song), Chunks(size=352_800), reporter):
        writer.write(block[0])                       # [stems, 2, samples], one after the other, covering the song

A net sees a fixed number of samples. Its answers overlap, are weighted by a window and divided by the sum of the
windows, so memory is that of a few chunks whatever the song's length. Every separator of this folder goes through here;
`Chunks` also spells the published programs' own ways of cutting, so that parity with them is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vividcover.memory import give_back
from vividcover.patience import Patient
from vividcover.song.pcm import PcmReader, Signal
from vividcover.workspace import Reporter, Silent

Batch = NDArray[np.float32]
Chunked = Callable[[Batch], Batch]  # mixtures [B, 2, size] -> stems [B, S, 2, size]
EPSILON = 1e-8  # added to a standard deviation before dividing by it, as demucs does
SURVEY = 1 << 18  # samples read at a time by `levels`


class Source(Protocol):
    """Something with `frames` samples that can be read anywhere: outside there is silence, or what the source says."""

    @property
    def frames(self) -> int: ...

    def read(self, start: int, count: int) -> Signal:
        """[2, count] from `start`, which may lie before the beginning; `count` may reach past the end."""


@dataclass(frozen=True)
class Chunks:
    """How a song is cut for a net. All lengths are samples.

    A chunk starts every `step` samples, the first one `lead` before the song's. Of a net's answer `margin` samples are
    thrown away on either side, and the rest is weighted by `window`.
    """

    size: int  # what the net sees
    step: int  # from one chunk's start to the next one's; at most size - 2 * margin
    window: Literal["hann", "triangle", "linear", "flat"] = "hann"
    fade: int = 0  # of the window "linear": samples from 0 to 1
    margin: int = 0
    lead: int = 0
    trail: int = 0  # samples past the song's end that chunks must also cover (with `every`)
    batch: int = 1  # chunks handed to the net at once
    every: bool = False  # also chunks that start inside the song but cover nothing new, as the published programs do
    flat_ends: bool = False  # the first chunk is not faded in, nor the last one out
    last: Literal["zeros", "centred", "reflect"] = "zeros"  # what fills the last chunk; "zeros" = what the source reads
    # centred: context on both sides (demucs); reflect: mirrored at its end, if more than half of it is there

    def __post_init__(self) -> None:
        if not 0 < self.step <= self.size - 2 * self.margin:
            raise ValueError(
                f"chunks of {self.size} with margins of {self.margin} every {self.step} samples leave gaps"
            )

    def weights(self, first: bool = False, last: bool = False) -> NDArray[np.float32]:
        """The weight of each kept sample of a chunk, [size - 2 * margin], all above 0."""
        kept = self.size - 2 * self.margin
        if self.window == "hann":
            values = np.sin(np.pi * (np.arange(kept) + 0.5) / kept) ** 2
        elif self.window == "triangle":
            values = np.minimum(np.arange(1, kept + 1), np.arange(kept, 0, -1)) / (kept - kept // 2)
        else:
            values = np.ones(kept)
        if self.window == "linear" and self.fade:
            ramp = np.linspace(0.0, 1.0, self.fade)
            values[: self.fade], values[-self.fade :] = ramp, ramp[::-1]
        if self.flat_ends and first:
            values[: kept // 2] = 1
        if self.flat_ends and last:
            values[kept - kept // 2 :] = 1
        window: NDArray[np.float32] = np.maximum(values, 1e-10).astype(np.float32)
        return window

    def starts(self, frames: int) -> list[int]:
        """Where the chunks of a song of `frames` samples start, counted from the song's first sample."""
        found = []
        start = -self.lead
        while start + self.margin < frames + (self.trail if self.every else 0):
            found.append(start)
            if not self.every and start + self.size - self.margin >= frames:
                break
            start += self.step
        return found


def overlap_add(
    net: Chunked,
    source: Source,
    chunks: Chunks,
    reporter: Reporter | None = None,
    *,
    text: str = "separating",
    span: tuple[float, float] = (0.0, 1.0),
    stop: Callable[[], None] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yields consecutive blocks [S, 2, n] of the stems; together they are exactly `source.frames` long.

    Progress goes from `span[0]` to `span[1]` with `text`. Between two answers, and while the net works (in a thread),
    the reporter is asked whether to stop: `Canceled` comes within a second however long one chunk takes. Then `stop`
    is called, to end the net's work sooner.
    """
    reporter = reporter or Silent()
    starts, end = chunks.starts(source.frames), source.frames + (chunks.trail if chunks.every else 0)
    total: NDArray[np.float32] | None = None  # [S, 2, size]: sums from sample `at` on
    weight = np.zeros(chunks.size, np.float32)
    at = -chunks.lead
    with Patient(reporter, stop) as worker:
        for number in range(0, len(starts), chunks.batch):
            group = starts[number : number + chunks.batch]
            places = [_place(chunks, start, end) for start in group]
            batch = np.stack([_fill(source, chunks, start, place, end) for start, place in zip(group, places)])
            answers = worker.call(net, batch)
            for turn, (start, (shift, count)) in enumerate(zip(group, places)):
                if total is None:
                    total = np.zeros((*answers.shape[1:3], chunks.size), np.float32)
                if start > at:
                    yield from _ready(total, weight, at, start, source.frames)
                    at = start
                window = chunks.weights(number + turn == 0, number + turn == len(starts) - 1)
                keep = slice(chunks.margin, max(chunks.margin, min(count, chunks.size - chunks.margin)))
                window = window[: keep.stop - keep.start]
                total[..., keep] += answers[turn, :, :, shift + keep.start : shift + keep.stop] * window
                weight[keep] += window
            give_back()
            reporter.progress(span[0] + (span[1] - span[0]) * min(1.0, (number + len(group)) / len(starts)), text)
    if total is not None:
        yield from _ready(total, weight, at, source.frames, source.frames)


def _place(chunks: Chunks, start: int, end: int) -> tuple[int, int]:
    """(by how many samples the chunk is moved within what the net sees, how many samples of its answer count)."""
    count = chunks.size if chunks.last == "zeros" else min(chunks.size, end - start)
    return ((chunks.size - count) // 2 if chunks.last == "centred" else 0), count


def _fill(source: Source, chunks: Chunks, start: int, place: tuple[int, int], end: int) -> Signal:
    """What the net sees of one chunk, [2, size]."""
    shift, count = place
    if chunks.last == "reflect" and chunks.size // 2 + 1 < count < chunks.size:
        part = source.read(start, count)
        return np.pad(part, ((0, 0), (0, chunks.size - count)), mode="reflect")
    part = source.read(start - shift, chunks.size)
    if chunks.last == "reflect" and count < chunks.size:
        part[:, count:] = 0
    return part


def _ready(
    total: NDArray[np.float32], weight: NDArray[np.float32], at: int, upto: int, frames: int
) -> Iterator[NDArray[np.float32]]:
    """Yields what is finished, samples `at`..`upto` of the song, and moves the sums on."""
    count = max(0, min(upto - at, total.shape[-1]))
    low, high = max(0, -at), min(count, frames - at)
    if high > low:
        yield np.divide(total[..., low:high], np.maximum(weight[low:high], 1e-20), dtype=np.float32)
    total[..., : total.shape[-1] - count] = total[..., count:].copy()
    total[..., total.shape[-1] - count :] = 0
    weight[: len(weight) - count] = weight[count:].copy()
    weight[len(weight) - count :] = 0


# sources -----------------------------------------------------------------------------------------------------------


class Stereo:
    """A working file as a `Source` of two channels: one channel is heard on both sides."""

    def __init__(self, reader: PcmReader) -> None:
        self._reader = reader

    @property
    def frames(self) -> int:
        return self._reader.frames

    def read(self, start: int, count: int) -> Signal:
        block = self._reader.read(start, count)
        return block if block.shape[0] == 2 else np.repeat(block[:1], 2, axis=0)


@dataclass(frozen=True)
class Part:
    """Samples `start`..`stop` of another source; outside there is silence, also where the other one has sound."""

    source: Source
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start

    def read(self, start: int, count: int) -> Signal:
        low, high = min(max(start, 0), self.frames), max(0, min(start + count, self.frames))
        out = np.zeros((2, count), np.float32)
        if high > low:
            out[:, low - start : high - start] = self.source.read(self.start + low, high - low)
        return out


@dataclass(frozen=True)
class Scaled:
    """(source - offset) / scale; silence outside stays silence."""

    source: Source
    offset: float
    scale: float

    @property
    def frames(self) -> int:
        return self.source.frames

    def read(self, start: int, count: int) -> Signal:
        block = self.source.read(start, count)
        low, high = min(max(-start, 0), count), max(0, min(self.frames - start, count))
        block[:, low:high] = (block[:, low:high] - np.float32(self.offset)) / np.float32(self.scale)
        return block


@dataclass(frozen=True)
class Mirrored:
    """A source whose first and last `border` samples are mirrored outwards (numpy's "reflect"); silence beyond."""

    source: Source
    border: int

    @property
    def frames(self) -> int:
        return self.source.frames

    def read(self, start: int, count: int) -> Signal:
        block, frames = self.source.read(start, count), self.frames
        low, high = max(start, -self.border), min(start + count, 0)
        if high > low:  # sample -k is sample k
            block[:, low - start : high - start] = self.source.read(1 - high, high - low)[:, ::-1]
        low, high = max(start, frames), min(start + count, frames + self.border)
        if high > low:  # sample frames - 1 + k is sample frames - 1 - k
            block[:, low - start : high - start] = self.source.read(2 * frames - 1 - high, high - low)[:, ::-1]
        return block


@dataclass(frozen=True)
class Levels:
    """Of a whole song: the largest magnitude, and mean and standard deviation of the middle (mean of both channels)."""

    peak: float
    mean: float
    deviation: float


def levels(source: Source, reporter: Reporter | None = None) -> Levels:
    """One pass over the song. The deviation is the sample's (n - 1), as torch's `std`."""
    reporter = reporter or Silent()
    peak, first, second = 0.0, 0.0, 0.0
    for start in range(0, source.frames, SURVEY):
        reporter.check()
        block = source.read(start, min(SURVEY, source.frames - start))
        middle = block.mean(axis=0, dtype=np.float64)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        first, second = first + float(middle.sum()), second + float(np.square(middle).sum())
    count = max(1, source.frames)
    mean = first / count
    return Levels(peak, mean, float(np.sqrt(max(0.0, second - count * mean * mean) / max(1, count - 1))))
