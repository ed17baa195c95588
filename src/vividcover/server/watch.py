"""Who waits for which run.

Whoever changes a run rings the bell with its id, with a "!" behind it when the run is over, and those who wait for that
look at once. A ring may be lost, so every half second one query looks after all that are waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from sqlalchemy import select

from vividcover.errors import StorageError
from vividcover.runs.bell import Listener
from vividcover.store import tables
from vividcover.store.database import Database

log = logging.getLogger(__name__)
TERMINAL = ("succeeded", "failed", "canceled", "aborted")
LOOK = 0.5  # seconds; a ring may be lost
MANY = 500  # ids in one query
OVER = "!"


class Watch:
    """Lives in the event loop that called `start`. `home` is the data folder, where the bells are."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database, self._home = database, home
        self._waiting: dict[str, set[Attention]] = {}
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listener = Listener("runs", self._home)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._rung)
        self._task = asyncio.get_running_loop().create_task(self._tend())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()

    @contextlib.contextmanager
    def on(self, run_id: str, *, end: bool = False) -> Iterator[Attention]:
        """Attention to one run. Taken before the run is committed, it misses nothing of it. `end`: to its end only."""
        attention = Attention(self, run_id, end)
        try:
            yield attention
        finally:
            attention.end()

    def _rung(self) -> None:
        assert self._listener is not None
        heard = self._listener.heard()
        over = {about[:-1] for about in heard if about.endswith(OVER)}
        self._wake(over if "" not in heard else self._waiting)
        self._wake(heard - over, end=False)

    def _wake(self, ids: Collection[str], *, end: bool = True) -> None:
        for run_id in ids:
            for attention in self._waiting.get(run_id, ()):
                attention.wake(end)

    async def _tend(self) -> None:
        """Wakes those whose run came to its end although they heard nothing."""
        while True:
            await asyncio.sleep(LOOK)
            ids = list(self._waiting)
            for start in range(0, len(ids), MANY):
                try:
                    self._wake(await self._over(ids[start : start + MANY]))
                except StorageError as error:  # it will be asked again in half a second
                    log.error("%s", error)

    async def _over(self, ids: list[str]) -> Collection[str]:
        def ask() -> Collection[str]:
            runs = tables.runs.c
            with self._database.read() as db:
                return db.execute(select(runs.id).where(runs.id.in_(ids), runs.status.in_(TERMINAL))).scalars().all()

        return ask() if self._database.is_sqlite else await asyncio.to_thread(ask)


class Attention:
    """To one run: `await change(seconds)` until something may have happened to it since the last call."""

    def __init__(self, watch: Watch, run_id: str, end: bool) -> None:
        self._watch, self._run_id, self._end = watch, run_id, end
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        watch._waiting.setdefault(run_id, set()).add(self)

    def wake(self, end: bool) -> None:
        if (end or not self._end) and not self._future.done():
            self._future.set_result(True)

    async def change(self, timeout: float) -> bool:
        """False when the time was over first."""
        loop, future = asyncio.get_running_loop(), self._future
        clock = loop.call_later(max(0.0, timeout), _late, future)
        try:
            return await future
        finally:
            clock.cancel()
            self._future = loop.create_future()

    def end(self) -> None:
        """Nobody waits any more."""
        waiting = self._watch._waiting.get(self._run_id, set())
        waiting.discard(self)
        if not waiting:
            self._watch._waiting.pop(self._run_id, None)


def _late(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
