"""A worker: one a device. Takes a run, has its warm child carry it out, writes down what comes of it, takes the next.

    Worker(settings).work()         # until SIGTERM or SIGINT; then it gives back what it holds

One thread does it all, woken by the child's words, by the bell and by the clock. Whatever dies, the run is taken up
again: the child (by this worker), the worker (by another one, when the lease is over), the database (when it is back).
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from vividcover.errors import StorageError
from vividcover.runs import bell, chores, leases, usage
from vividcover.runs.child import Child, Children
from vividcover.runs.leases import Claim, LostLease, Outcome, Say
from vividcover.settings import Settings
from vividcover.store import migrate
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database
from vividcover.store.ids import new_id

LOOK = 0.5  # seconds between two looks at the line when no bell rings
WATCH = 0.2  # seconds between two looks at whether a run is to stop
GATHER = 0.03  # seconds in which what a run says is gathered for one write
TEND = 1.0  # seconds between two looks at the runs that nobody works on
CHORES = 5.0  # seconds between two signs of a worker that has nothing to do
SWEEP = 300.0  # seconds between two sweeps of files that expired, by all workers together
PROGRESS = ("stage", "fraction", "overall", "eta")  # of what a child tells of its progress, what is kept

log = logging.getLogger("vividcover.worker")
T = TypeVar("T")


class Worker:
    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.id = f"{_machine()}:{os.getpid()}:{new_id()[:8]}"
        self.database = Database(settings.database_url)
        self.children = Children(settings)
        self.stopping = False
        self.next: Claim | None = None  # taken as the last one was finished
        self._none = False  # there was none when it was finished
        self._chores_at = self.tend_at = 0.0

    def work(self) -> None:
        """The worker's life. Raises `StorageError` when there is no database to begin with."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        migrate.upgrade(self.database)
        chores.arrive(self.database, self.id, self.device)
        self.children.prepare()
        with bell.Listener("work", self.settings.home) as self.bell:
            try:
                while self.next or not self.stopping:  # what was taken is given back
                    self._turn()
            finally:
                self.children.close()
        chores.leave(self.database, self.id)
        self.database.close()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _turn(self) -> None:
        """One run, or a while of waiting for one."""
        claim, self.next = self.next, None
        none, self._none = self._none, False
        if claim is None:
            if none:  # whoever came since then has rung
                self.bell.wait(LOOK)
                return
            try:
                self._chores()
                with self.database.write() as db:
                    claim = self._take(db)
            except StorageError as error:
                log.warning("%s", error)
                time.sleep(LOOK)
                return
            if claim is None:
                self.bell.wait(LOOK)
                return
        drive = Drive(self, claim)
        if claim.run["status"] == "processing" and claim.run["webhook"]:
            drive.ring()
        try:
            drive.go()
        except LostLease as error:  # somebody else has it: the child must not go on
            log.warning("%s", error)
            self.children.drop(claim.run["serves"])
        except StorageError as error:  # it is to end, and cannot even say so: the run is taken up when the lease ends
            log.warning("%s", error)
        except Exception as error:  # a defect of ours: it ends this run, not the worker
            log.exception("run %s", claim.id)
            self.children.drop(claim.run["serves"])
            drive.fail(f"Something unforeseen happened: {type(error).__name__}: {error}")

    def _take(self, db: Connection) -> Claim | None:
        return leases.take(db, self.id, self.device, self.children.warm(), self.settings.lease_seconds)

    def take_next(self, db: Connection) -> Claim | None:
        """Takes the next run in the transaction that ends the last one, unless something else is due.

        On SQLite, where a transaction is alone. On Postgres two workers could come to wait for each other's rows.
        """
        if self.stopping or not self.database.is_sqlite or time.monotonic() >= min(self._chores_at, self.tend_at):
            return None
        claim = self._take(db)
        self._none = claim is None
        return claim

    def _chores(self) -> None:
        """What a worker does beside its runs."""
        self.tend()
        if time.monotonic() < self._chores_at:
            return
        self._chores_at = time.monotonic() + CHORES
        chores.waiting(self.database, self.id)
        if chores.my_turn(self.database, "sweep", SWEEP):
            from vividcover.runs.sweep import sweep

            sweep(self.database, Artifacts.of(self.settings))

    def tend(self) -> None:
        """Looks after the runs that nobody works on, once in a while; also in the midst of a long run of its own."""
        if time.monotonic() < self.tend_at:
            return
        self.tend_at = time.monotonic() + TEND
        chores.bury(self.database, _dead)
        for run_id in chores.tend(self.database):
            bell.ring("runs", run_id, self.settings.home)
            bell.ring("webhooks", run_id, self.settings.home)


def _machine() -> str:
    """Names what process ids belong to: the host, and on Linux the namespace (containers have their own)."""
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115 (it is no path)
    except OSError:
        space = "0"
    return f"{socket.gethostname()[:40].replace(':', '-')}-{space}"


def _dead(worker: str) -> bool:
    """Whether a worker of this machine is surely gone. One of another machine never is: its lease tells."""
    machine, _, rest = worker.partition(":")
    pid = rest.partition(":")[0]
    if machine != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Drive:
    """One run on its way through the child."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self.worker, self.claim = worker, claim
        self.database, self.settings = worker.database, worker.settings
        self.kind = str(claim.run["serves"])
        self.said: list[Say] = []  # not written yet
        self.pieces: list[str] = []  # of an output that comes in pieces
        earlier = claim.run["output"] or {}
        self.before: list[str] = list(earlier.get("items", []))  # told by an attempt that died
        self.outcome: Outcome | None = None
        self.stop: str | None = None  # why it is being stopped
        now = time.monotonic()
        self.began = now
        self.beat_at, self.watch_at = now + self.settings.lease_seconds / 3, now + WATCH
        self.write_at = self.kill_at = float("inf")

    def go(self) -> None:
        """From the claim to the end. Raises `LostLease`, `StorageError`."""
        if self.claim.again:
            self.said.append(("log", "Taken up again; finished stages are kept.\n"))
        child = self.worker.children.take(self.kind)
        run = {k: self.claim.run[k] for k in ("id", "kind", "serves", "input", "files", "weights", "engine", "consent")}
        child.send("run", **run, weights_file=self.claim.weights_file)
        if child.ready and self.claim.run["status"] != "processing":
            self._begins()
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
        sources: list[Child | bell.Listener] = [child, self.worker.bell]
        ready, _, _ = select.select(sources, [], [], max(0.0, due - time.monotonic()))
        if self.worker.bell in ready and self.claim.id in self.worker.bell.heard():
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
            child.send("cancel")
            self.kill_at = now + self.settings.cancel_grace

    def _tell(self) -> None:
        said, self.said, self.write_at = self.said, [], float("inf")
        output = {"items": list(self.pieces)} if any(kind == "output" for kind, _ in said) else None
        self._write(lambda db: leases.say(db, self.claim, said, output))
        self.ring()

    def _finish(self, outcome: Outcome) -> None:
        if outcome.status == "canceled" and self.stop == "limit":
            limit = self.settings.run_limit_seconds
            outcome = Outcome("failed", f"It took longer than the {limit:g} seconds that a run may take here.")
        keep = self.settings.output_keep_seconds

        def change(db: Connection) -> Claim | None:
            leases.finish(db, self.claim, outcome, self.said, keep)
            return self.worker.take_next(db)

        self.worker.next = self._write(change)
        self.ring()

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
        if self.claim.run["webhook"] or (self.outcome and self._costs()):  # which may pass a budget's threshold
            bell.ring("webhooks", self.claim.id, self.settings.home)
