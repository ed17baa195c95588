"""A run that a server has handed over (`handover.py`): it is begun before its row is written.

The child begins at once. While it works, the worker puts the row in, claimed by itself, and waits a moment with the
commit: a run that is over by then is one transaction, from its beginning to its end. One that takes longer is committed
as begun, and from there on is like any other. The server hears of either only after the commit.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import Connection

from vividcover.errors import StorageError
from vividcover.lines import decode
from vividcover.runs import leases, states
from vividcover.runs.child import Child
from vividcover.runs.drive import Drive, log
from vividcover.runs.handover import Given
from vividcover.runs.leases import Claim
from vividcover.runs.states import LostLease, Row

if TYPE_CHECKING:
    from vividcover.runs.worker import Worker

MOMENT = 0.003  # seconds with the commit, in which nobody else can write to SQLite
TOLD = ("status", "error", "output", "metrics", "created_at", "started_at", "completed_at", "deadline", "engine")

T = TypeVar("T")


class Handed(Drive):
    def __init__(self, worker: Worker, given: Given) -> None:
        self.given = given
        self._open: Connection | None = None  # the transaction that puts it in
        self._is_open = False  # its row is, by what the transaction has written so far
        self._is_in = False  # it was committed
        self.child = worker.children.take(given.serves, sure=True)
        self.child.pass_on(given.line)
        self.values: dict[str, Any] = decode(given.line)
        begun = {**self.values, "status": "processing", "output": None}
        super().__init__(worker, Claim(begun, worker.id, worker.device, 1))
        self.soon = self._say_soon
        self.said += [("log", line) for line in self.values["said"]]

    def go(self) -> None:
        try:
            with self.database.write() as db:
                self._open = db
                self._begin(db)
        except BaseException as error:
            self.given.answer(no=True)
            self.worker.children.drop(self.kind)
            if not isinstance(error, StorageError | LostLease):
                raise
            log.warning("%s", error)
            return
        finally:
            self._open = None
        self._is_in, self.soon = True, None
        if not self.ended:
            self.given.answer(kept={key: self.claim.run[key] for key in TOLD})
            self._follow(self.child)
            return
        self.given.answer(over=True, **self.worker.free())
        self.ring_for_webhooks()

    def _say_soon(self, row: Row) -> None:
        """The server prepares its answer while this is committed, and sends it afterwards."""
        logs = "".join(data for kind, data in self.said if kind == "log")
        self.given.answer(soon={key: row[key] for key in TOLD}, logs=logs)

    def _begin(self, db: Connection) -> None:
        ago, lease = time.monotonic() - self.values["asked"], self.settings.lease_seconds
        self.claim, clock = leases.begin(db, self.values, self.worker.id, self.worker.device, ago, lease)
        began = time.monotonic()
        self.empty = self.worker.look(db)
        self._wait_a_moment(self.child, began + MOMENT)
        if self.outcome is not None:
            self._end(self.outcome, None if self._is_open else clock + time.monotonic() - began)
        elif not self._is_open:
            self._open_up(db)

    def _open_up(self, db: Connection) -> None:
        self._is_open = True
        states.open_up(db, self.claim.run)

    def _wait_a_moment(self, child: Child, until: float) -> None:
        while self.outcome is None and not child.dead and (left := until - time.monotonic()) > 0:
            if select.select([child], [], [], left)[0]:
                for message in child.heard():
                    self._hear(message)

    def _write(self, change: Callable[[Connection], T]) -> T:
        if self._open is None:
            return super()._write(change)
        if self.outcome is None and not self._is_open:
            self._open_up(self._open)
        return change(self._open)

    def fail(self, error: str) -> None:
        """Where it was not put in, the server does it, or tells its client."""
        if self._is_in:
            super().fail(error)
