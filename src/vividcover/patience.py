"""Long calls that can be canceled: a net works, or a file arrives, in a thread of its own while this one listens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from vividcover.threads import as_chosen
from vividcover.workspace import Reporter

POLL = 0.05  # seconds between two looks at the cancel flag
Result = TypeVar("Result")


class Patient:
    """One worker thread; `call` returns what the function returned, or raises `Canceled` while it still works.

    Nets let go of Python's lock while they compute, so the caller wakes up on time. A canceled call ends by itself in
    the background and its answer is thrown away; `stop`, where given, is called to make it end sooner. `meanwhile` is
    called at every look at the flag, in the caller's thread. One thread serves every call: libraries keep a pool of
    helpers for each thread that calls them.
    """

    def __init__(
        self, reporter: Reporter, stop: Callable[[], None] | None = None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        self._reporter, self._stop, self._meanwhile = reporter, stop, meanwhile
        self._wanted: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.Queue()
        self._given: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="patient", daemon=True)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        self._reporter.check()
        self._wanted.put((function, arguments))
        while True:
            try:
                answer, error = self._given.get(timeout=POLL)
                break
            except queue.Empty:
                self._look()
        if error is not None:
            raise error
        result: Result = answer
        return result

    def _look(self) -> None:
        try:
            self._reporter.check()
            if self._meanwhile:
                self._meanwhile()
        except BaseException:
            if self._stop:
                self._stop()
            raise

    def _work(self) -> None:
        while (item := self._wanted.get()) is not None:
            function, arguments = item
            as_chosen()
            try:
                self._given.put((function(*arguments), None))
            except BaseException as error:
                self._given.put((None, error))
            del item, function, arguments  # while it waits

    def __enter__(self) -> Patient:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wanted.put(None)
