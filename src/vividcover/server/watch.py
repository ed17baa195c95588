"""Who waits for which run. One look at the database for all of them, whenever the bell rings, and every half second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sqlalchemy import select

from vividcover.runs import bell
from vividcover.store import tables
from vividcover.store.database import Database

TERMINAL = ("succeeded", "failed", "canceled", "aborted")
LOOK = 0.5  # seconds; a ring may be lost
MANY = 500  # ids in one query


class Watch:
    """Lives in the event loop that called `start`."""

    def __init__(self, database: Database, listen: Callable[[str], bell.Listener]) -> None:
        self._database = database
        self._listen = listen
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._changed: asyncio.Event | None = None
        self._next = asyncio.Event()  # set and replaced at every ring
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._changed = asyncio.Event()
        self._listener = self._listen("runs")
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._rung)
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()

    def _rung(self) -> None:
        self._listener.drain()
        self.look()

    def look(self) -> None:
        """Something changed: look now."""
        if self._changed:
            self._changed.set()
        self._next.set()
        self._next = asyncio.Event()

    async def change(self, timeout: float) -> None:
        """Until any run changed, or the time is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), timeout)

    async def finished(self, run_id: str, timeout: float) -> bool:
        """Whether the run came to its end in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        if self._changed:
            self._changed.set()  # it may be over already
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
        assert self._changed is not None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK if self._waiting else None)
            self._changed.clear()
            ids = list(self._waiting)
            for start in range(0, len(ids), MANY):
                for run_id in await self._over(ids[start : start + MANY]):
                    for future in self._waiting.get(run_id, ()):
                        if not future.done():
                            future.set_result(None)

    async def _over(self, ids: list[str]) -> list[str]:
        def ask() -> list[str]:
            runs = tables.runs.c
            with self._database.read() as db:
                return list(db.execute(select(runs.id).where(runs.id.in_(ids), runs.status.in_(TERMINAL))).scalars())

        return ask() if self._database.is_sqlite else await asyncio.to_thread(ask)
