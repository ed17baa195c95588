"""Progress for people: bars with ETA in a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vividcover.workspace import Event

EVERY = 5.0  # seconds between two plain lines of the same stage

Listener = Callable[[Event], None]


@contextmanager
def listener(quiet: bool, plain: bool = False) -> Iterator[Listener | None]:
    """What to give a workspace as `on_event`: bars if stderr is a terminal, else lines, or nothing when quiet."""
    if quiet:
        yield None
    elif plain or not sys.stderr.isatty():
        yield Lines()
    else:
        with _bars() as bars:
            yield bars


class Lines:
    """One line when a stage starts and ends, and every few seconds between."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line:
            with self._lock, contextlib.suppress(OSError):  # nobody reads it any more: the work goes on
                sys.stderr.write(line + "\n")
                sys.stderr.flush()

    def _line(self, event: Event) -> str:
        whole = "" if event.overall is None else f"[{event.overall * 100:3.0f}%] "
        now = time.monotonic()
        if event.kind == "note":
            return f"{whole}note: {event.text}"
        if event.kind in ("start", "wait", "failed"):
            self._said[event.stage] = now
            return f"{whole}{event.stage}: {event.text or event.kind}"
        if event.kind == "hit":
            return f"{whole}{event.stage}: from cache"
        if event.kind == "done":
            return f"{whole}{event.stage}: done in {event.elapsed:.1f} s"
        if now - self._said.get(event.stage, 0.0) < EVERY:
            return ""
        self._said[event.stage] = now
        return f"{whole}{event.stage}: {event.fraction * 100:.0f}% {', '.join(filter(None, (event.text, _eta(event))))}"


def _eta(event: Event) -> str:
    """How long it still takes; "" where nobody knows, or where the stage says so itself."""
    return "" if event.eta is None or event.text.endswith(" left") else f"{event.eta:.0f} s left"


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[eta]}"), TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", style="dim", markup=False),  # a song may be called "… [live]"
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        tasks: dict[str, TaskID] = {}

        def hear(event: Event) -> None:
            if event.kind == "note":
                progress.console.print(Text.assemble(("note: ", "dim"), event.text))
                return
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=1.0, eta="", text="")
            done = event.kind in ("hit", "done")
            text = {"hit": "from cache", "done": "", "failed": "stopped"}.get(event.kind, event.text)
            eta = "" if done else _eta(event)
            progress.update(tasks[event.stage], completed=1.0 if done else event.fraction, eta=eta, text=text)

        yield hear
