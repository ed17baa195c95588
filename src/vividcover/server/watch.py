"""Who waits for which run. One look at the database for all that are told to have changed, and every half second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
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


class Watch:
    """Lives in the event loop that called `start`. `home` is the data folder, where the bells are."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database, self._home = database, home
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._told: set[str] = set()  # runs that changed and were not looked at yet
        self._changed = asyncio.Event()
        self._next = asyncio.Event()  # set and replaced at every change
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listener = Listener("runs", self._home)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._rung)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()

    def _rung(self) -> None:
        assert self._listener is not None
        heard = self._listener.heard()
        self._told |= set(self._waiting) if "" in heard else heard & self._waiting.keys()
        if self._told:
            self._changed.set()
        self._next.set()
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Set when any run changes from now on. Take it before looking, so that nothing is missed in between."""
        return self._next

    async def until(self, change: asyncio.Event, timeout: float = LOOK) -> bool:
        """Waits for it; False when the time was over first."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(change.wait(), timeout)
        return False

    async def finished(self, run_id: str, timeout: float) -> bool:
        """Whether the run came to its end in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        self._told.add(run_id)  # it may be over already
        self._changed.set()
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting.get(run_id, set())
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(run_id, None)
        return True

    async def _work(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK)
            except TimeoutError:
                self._told |= self._waiting.keys()
            self._changed.clear()
            told, self._told = list(self._told), set()
            for start in range(0, len(told), MANY):
                try:
                    over = await self._over(told[start : start + MANY])
                except StorageError as error:  # it will be asked again in half a second
                    log.error("%s", error)
                    continue
                for run_id in over:
                    for future in self._waiting.get(run_id, ()):
                        if not future.done():
                            future.set_result(None)

    async def _over(self, ids: list[str]) -> Collection[str]:
        def ask() -> Collection[str]:
            runs = tables.runs.c
            with self._database.read() as db:
                return db.execute(select(runs.id).where(runs.id.in_(ids), runs.status.in_(TERMINAL))).scalars().all()

        return ask() if self._database.is_sqlite else await asyncio.to_thread(ask)
