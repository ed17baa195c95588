"""The server's small writes, by one thread, many to a transaction.

SQLite lets one writer in at a time, and who finds it busy sleeps; Postgres waits for the disk at every commit. So the
requests hand their writes to one thread, which takes all that are waiting into one transaction. Each runs in its own
savepoint, so that one that fails does not undo the others; each is answered after the commit.

A write that is small for sure is done in the event loop, with all of them that came at the same time, unless another
writes to SQLite for longer than a moment: it takes less time than handing it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from vividcover.store.database import Database, apart

T = TypeVar("T")
Change = Callable[[Connection], Any]
Wanted = tuple[Change, "asyncio.AbstractEventLoop", "asyncio.Future[Any]"]
Result = tuple[Any, BaseException | None]
BATCH = 64  # changes in one transaction: some milliseconds, in which others cannot write


class Writer:
    """`await writer.do(change)` runs `change(connection)` in a transaction and gives back what it returned."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._small: dict[asyncio.AbstractEventLoop, list[Wanted]] = {}
        self._wanted: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    async def do(self, change: Callable[[Connection], T], *, small: bool = False) -> T:
        """Raises what `change` raises, and `StorageError` when the transaction could not be committed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not small:
            self._wanted.put((change, loop, future))
        elif same := self._small.get(loop):
            same.append((change, loop, future))
        else:
            self._small[loop] = [(change, loop, future)]
            loop.call_soon(self._now, loop)
        return await future

    def _now(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._small.pop(loop)
        results = _results(self._database.write_now(), batch) if len(batch) <= BATCH else None
        if results is None:
            for wanted in batch:
                self._wanted.put(wanted)
        else:
            _settle([(future, *result) for (_, _, future), result in zip(batch, results, strict=True)])

    def close(self) -> None:
        self._wanted.put(None)
        self._thread.join(10)

    def _work(self) -> None:
        while (first := self._wanted.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH and (more := self._wanted.get_nowait()) is not None:
                    batch.append(more)
                else:
                    if len(batch) < BATCH:  # the end was asked for: after this batch
                        self._wanted.put(None)
            self._commit(batch)

    def _commit(self, batch: list[Wanted]) -> None:
        results = _results(self._database.write(), batch) or []
        answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
        for (_, loop, future), result in zip(batch, results, strict=True):
            answers.setdefault(loop, []).append((future, *result))
        for loop, settled in answers.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, settled)


def _results(
    transaction: contextlib.AbstractContextManager[Connection | None], batch: list[Wanted]
) -> list[Result] | None:
    """What came of each change; None where there was no transaction to be had."""
    try:
        with transaction as db:
            if db is None:
                return None
            if len(batch) == 1:
                return [(batch[0][0](db), None)]
            return [_attempt(db, change) for change, _, _ in batch]
    except Exception as error:  # of a change that was alone, or of the transaction
        return [(None, error)] * len(batch)


def _attempt(db: Connection, change: Change) -> Result:
    try:
        with apart(db):
            return change(db), None
    except Exception as error:
        return None, error


def _settle(settled: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in settled:
        if future.done():  # its request was canceled
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
