"""Which frames the network sees together: windows of 25, which move back by 7 frames at each turn.

    for window in windows(frames=2625, turn=3, straight=False):
        window.frames                              # 25 numbers of frames, in the order in which the network sees them

As 7 and 25 share no divisor, no frame stays at the edge of its window, and what moves in one goes over into the next.
Published: a circle, so the last window reaches over the end of the song to its beginning, and frames that are met twice
get the mean of both. `straight` is ours: windows stop at both ends of the song, and overlap their neighbours there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vividcover.portrait.sonic.config import SHIFT, WINDOW


@dataclass(frozen=True)
class Window:
    """One of a turn's windows. A short song has the same frame several times in its only window."""

    number: int
    frames: tuple[int, ...]


def windows(frames: int, turn: int, *, straight: bool = False) -> list[Window]:
    """The windows of one turn (0, 1, …): together they hold every frame of a song of `frames` frames."""
    shift = turn * SHIFT
    if not straight:
        starts: Sequence[int] = range(-shift, frames - shift, WINDOW)
        return [Window(k, tuple((first + i) % frames for i in range(WINDOW))) for k, first in enumerate(starts)]
    length = min(frames, WINDOW)
    first = -(shift % WINDOW)
    starts = sorted({min(max(at, 0), frames - length) for at in range(first, frames, WINDOW)})
    return [Window(k, tuple(range(at, at + length))) for k, at in enumerate(starts)]


def runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The numbers as spans (start, stop) that count up by one: what a file is read by."""
    start = last = frames[0]
    for frame in frames[1:]:
        if frame != last + 1:
            yield start, last + 1
            start = frame
        last = frame
    yield start, last + 1
