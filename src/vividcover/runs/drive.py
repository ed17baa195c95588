"""One run on its way through a worker's child: what the child says is written down, and what it is to hear is said.

A lease is renewed, a cancel and a deadline are looked for, and a child that does not heed them is killed.
"""

from __future__ import annotations

import json
import logging
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import Connection

from vividcover.errors import StorageError
from vividcover.runs import bell, leases, usage
from vividcover.runs.child import Child
from vividcover.runs.leases import Claim, Outcome, Say
from vividcover.runs.states import Row

if TYPE_CHECKING:
    from vividcover.runs.worker import Worker

LOOK = 0.5  # seconds between two looks at the line when no bell rings, and before a database that failed is asked again
WATCH = 0.2  # seconds between two looks at whether a run is to stop
GATHER = 0.03  # seconds in which what a run says is gathered for one write
PROGRESS = ("stage", "fraction", "overall", "eta")  # of what a child tells of its progress, what is kept

log = logging.getLogger("vividcover.worker")
T = TypeVar("T")


class Drive:
    """One run on its way through the child."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self.worker, self.claim = worker, claim
        self.database, self.settings = worker.database, worker.settings
        self.id, self.kind = claim.id, str(claim.run["serves"])
        self.said: list[Say] = []  # not written yet
        self.pieces: list[str] = []  # of an output that comes in pieces
        earlier = claim.run["output"] or {}
        self.before: list[str] = list(earlier.get("items", []))  # told by an attempt that died
        self.outcome: Outcome | None = None
        self.ended: Row = {}  # its row, when it is over
        self.soon: Callable[[Row], None] | None = None  # hears of that row before it is committed
        self.empty: bool | None = None  # whether no run waits, where the transaction that ends it has looked
        self._sent = False  # the child has it
        self.stop: str | None = None  # why it is being stopped
        now = time.monotonic()
        self.began = now
        self.beat_at, self.watch_at = now + self.settings.lease_seconds / 3, now + WATCH
        self.write_at = self.kill_at = float("inf")

    def go(self) -> None:
        """From the claim to the end. Raises `LostLease`, `StorageError`."""
        if self.claim.again:
            self._say("log", "Taken up again; finished stages are kept.\n")
        child = self.send()
        if child.ready and self.claim.run["status"] != "processing":
            self._begins()
        self._follow(child)

    def send(self, *, sure: bool = False) -> Child:
        """Has its child begin, if that was not done. `sure`: the child was up a moment ago."""
        child = self.worker.children.take(self.kind, sure=sure or self._sent)
        if self._sent:
            return child
        self._sent = True
        run = {k: self.claim.run[k] for k in ("id", "kind", "serves", "input", "files", "weights", "engine", "consent")}
        child.send("run", **run, weights_file=self.claim.weights_file)
        return child

    def _follow(self, child: Child) -> None:
        """Until the child has done it."""
        waiting = not child.ready
        while self.outcome is None:
            self._wait(child)
            for message in child.heard():
                self._hear(message)
            if waiting and child.ready:
                waiting = False
                self._begins()
            if child.dead and self.outcome is None:
                self._died()
                return
            if self.worker.stopping and self.outcome is None:
                self.worker.children.drop(self.kind)
                self._write(lambda db: leases.release(db, self.claim, counts=False))
                return
            if self.outcome is None:
                self._timers(child)
        self._finish(self.outcome)

    def _wait(self, child: Child) -> None:
        due = min(self.beat_at, self.watch_at, self.write_at, self.kill_at)
        sources: list[Any] = [child, self.worker.cancels, *self.worker.hands.lines]
        ready, _, _ = select.select(sources, [], [], max(0.0, due - time.monotonic()))
        self.worker.hands.refuse(ready)
        if self.worker.cancels in ready and self.claim.id in self.worker.cancels.heard():
            self.watch_at = 0.0

    def _begins(self) -> None:
        if self.claim.run["status"] != "processing":
            self._write(lambda db: leases.started(db, self.claim))
            self.ring()

    def _write(self, change: Callable[[Connection], T]) -> T:
        """One transaction. While there is no database it is tried again: the work goes on, nothing of it is lost.

        Raises `LostLease`; `StorageError` when the worker is to end meanwhile.
        """
        while True:
            try:
                with self.database.write() as db:
                    return change(db)
            except StorageError as error:
                if self.worker.stopping:
                    raise
                log.warning("%s", error)
                time.sleep(LOOK)

    def _hear(self, message: dict[str, Any]) -> None:
        what = message["say"]
        if what == "log":
            self._say("log", message["text"])
        elif what == "output":
            self._piece(message["text"])
        elif what == "progress":
            self._say("progress", json.dumps({key: message.get(key) for key in PROGRESS}))
        elif what == "preview":
            self._say("preview", json.dumps({key: message[key] for key in ("fraction", "jpeg")}))
        elif what == "stage":
            self._write(lambda db: leases.record_stage(db, self.claim, message))
        elif what == "over":
            self.outcome = Outcome(**message["outcome"])

    def _say(self, kind: str, data: str) -> None:
        if not self.said:
            self.write_at = time.monotonic() + GATHER
        self.said.append((kind, data))

    def _piece(self, piece: str) -> None:
        """One that was told before the run was taken up again is not told twice."""
        at = len(self.pieces)
        self.pieces.append(piece)
        if self.before[at : at + 1] != [piece]:
            self._say("output", piece)

    def _timers(self, child: Child) -> None:
        now = time.monotonic()
        if now >= self.write_at:
            self._tell()
        if now >= self.beat_at:
            self.beat_at = now + self.settings.lease_seconds / 3
            self._write(lambda db: leases.beat(db, self.claim, self.settings.lease_seconds))
        if now >= self.watch_at:
            self.watch_at = now + WATCH
            self._watch(child, now)
        if now >= self.kill_at:
            self.worker.children.drop(self.kind)
            self.outcome = Outcome("canceled")

    def _watch(self, child: Child, now: float) -> None:
        if self.stop is not None:
            return
        limit = self.settings.run_limit_seconds
        try:
            self.worker.tend()
            self.stop = leases.look(self.database, self.claim)
        except StorageError:  # the next write tells
            return
        if self.stop is None and 0 < limit < now - self.began:
            self.stop = "limit"
        if self.stop is not None:
            child.cancel(self.id)
            self.kill_at = now + self.settings.cancel_grace

    def _tell(self) -> None:
        said, self.said, self.write_at = self.said, [], float("inf")
        output = {"items": list(self.pieces)} if any(kind == "output" for kind, _ in said) else None
        self._write(lambda db: leases.say(db, self.claim, said, output))
        self.ring()

    def _finish(self, outcome: Outcome) -> None:
        self._end(outcome)
        self.worker.go_on()
        self.ring()

    def _end(self, outcome: Outcome, now_is: float | None = None) -> None:
        """Writes down how it ended, and takes the next one. `now_is`: as in `leases.finish`."""
        if outcome.status == "canceled" and self.stop == "limit":
            limit = self.settings.run_limit_seconds
            outcome = Outcome("failed", f"It took longer than the {limit:g} seconds that a run may take here.")
        keep = self.settings.output_keep_seconds

        def change(db: Connection) -> Claim | None:
            self.ended = leases.finish(db, self.claim, outcome, self.said, keep, now_is, self.soon)
            return self.worker.take_next(db, self.empty)

        self.worker.next = self._write(change)

    def fail(self, error: str) -> None:
        """Ends the run as it is, because of a defect in what drives it."""
        self.said = []
        self._finish(Outcome("failed", error))

    def _died(self) -> None:
        """The child is gone in the middle of the run: crashed, out of memory, or killed."""
        status = self.worker.children.drop(self.kind)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        if self.stop is not None:
            self._finish(Outcome("canceled"))
            return
        self._write(lambda db: leases.release(db, self.claim, f"The run's process {how}."))
        self.ring()

    def _costs(self) -> bool:
        run = self.claim.run
        return any(usage.price(run["serves"], run["input"], where)[1] for where in (self.claim.device, "hosted"))

    def ring(self) -> None:
        bell.ring("runs", f"{self.claim.id}!" if self.outcome else self.claim.id, self.settings.home)
        self.ring_for_webhooks()

    def ring_for_webhooks(self) -> None:
        if self.claim.run["webhook"] or (self.outcome and self._costs()):  # which may pass a budget's threshold
            bell.ring("webhooks", self.claim.id, self.settings.home)
