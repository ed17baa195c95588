"""Blocks worked on by threads, in order: numpy releases the interpreter lock, so two threads keep two cores busy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TypeVar

from vividcover.errors import Canceled
from vividcover.workspace import Reporter

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[], None]  # raises Canceled when the work is not wanted any more
POLL = 0.1  # seconds between two looks at the cancel flag


def in_order(
    function: Callable[[Item, Check], Result], items: Iterable[Item], *, threads: int, reporter: Reporter
) -> Iterator[Result]:
    """Yields `function(item, check)` for each item, in order; at most `threads` items are in memory at a time.

    When the caller is canceled or closes the generator, `check` raises in the threads, which end at once.
    """
    unwanted = threading.Event()

    def check() -> None:
        if unwanted.is_set():
            raise Canceled()

    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="separate")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item, check))
            del item  # the thread alone holds it
            if len(waiting) >= max(1, threads):
                yield _result(waiting.popleft(), reporter)
        while waiting:
            yield _result(waiting.popleft(), reporter)
    finally:
        unwanted.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Result], reporter: Reporter) -> Result:
    while True:
        reporter.check()
        try:
            return future.result(timeout=POLL)
        except NotYet:
            if future.done():  # the work itself raised it
                raise
