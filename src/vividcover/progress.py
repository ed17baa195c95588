"""A part of some work reports to the whole."""

from __future__ import annotations

from vividcover.workspace import Reporter


class Part:
    """A `Reporter` whose 0..1 is `low`..`high` of the outer one's; `title` stands before what it says."""

    def __init__(self, outer: Reporter, low: float, high: float, title: str = "") -> None:
        self._outer, self._low, self._high, self._title = outer, low, high, title

    def progress(self, fraction: float, text: str = "") -> None:
        text = f"{self._title}: {text}" if self._title else text
        self._outer.progress(self._low + (self._high - self._low) * min(max(fraction, 0.0), 1.0), text)

    def check(self) -> None:
        self._outer.check()

    def note(self, message: str) -> None:
        self._outer.note(message)

    def part(self, low: float, high: float) -> Part:
        return Part(self, low, high)
