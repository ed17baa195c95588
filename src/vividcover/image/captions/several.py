"""The same question about many things, some side by side, given up within a moment when the user stops."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from vividcover.files import Closing
from vividcover.patience import POLL
from vividcover.workspace import Reporter

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


class Several(Closing, Generic[Thing, Answer]):
    """`ask` is called for every thing, in `threads` threads. What is still asked when it closes is left to itself."""

    def __init__(self, ask: Callable[[Thing], Answer], things: Sequence[Thing], threads: int) -> None:
        self._ask, self._count, self._closed = ask, len(things), threading.Event()
        self._todo: queue.SimpleQueue[Thing] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Thing, Answer | None, Exception | None]] = queue.SimpleQueue()
        for thing in things:
            self._todo.put(thing)
        for _ in range(min(threads, len(things))):
            threading.Thread(target=self._work, name="several", daemon=True).start()

    def each(self, reporter: Reporter) -> Iterator[tuple[Thing, Answer | None, Exception | None]]:
        """(thing, answer, error) as they come. Raises `Canceled`."""
        for _ in range(self._count):
            while True:
                reporter.check()
                with contextlib.suppress(queue.Empty):
                    yield self._done.get(timeout=POLL)
                    break

    def close(self) -> None:
        self._closed.set()

    def _work(self) -> None:
        with contextlib.suppress(queue.Empty):
            while not self._closed.is_set():
                thing = self._todo.get_nowait()
                try:
                    self._done.put((thing, self._ask(thing), None))
                except Exception as error:
                    self._done.put((thing, None, error))
