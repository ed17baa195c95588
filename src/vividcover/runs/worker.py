"""A worker: one a device. Takes a run, has its warm child carry it out, writes down what comes of it, takes the next.

    Worker(settings).work()         # until SIGTERM or SIGINT; then it gives back what it holds

One thread does it all, woken by the child's words, by the bell and by the clock. Whatever dies, the run is taken up
again: the child (by this worker), the worker (by another one, when the lease is over), the database (when it is back).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from typing import Any

from sqlalchemy.engine import Connection

from vividcover.errors import StorageError
from vividcover.memory import steady
from vividcover.runs import bell, chores, handover, leases
from vividcover.runs.child import Children
from vividcover.runs.drive import LOOK, Drive
from vividcover.runs.handed import Handed
from vividcover.runs.handover import Hands
from vividcover.runs.leases import Claim
from vividcover.runs.states import LostLease
from vividcover.settings import Settings
from vividcover.store import migrate
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database
from vividcover.store.ids import new_id

TEND = 1.0  # seconds between two looks at the runs that nobody works on
CHORES = 5.0  # seconds between two signs of a worker that has nothing to do
SWEEP = 300.0  # seconds between two sweeps of files that expired, by all workers together

log = logging.getLogger("vividcover.worker")


class Worker:
    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.id = f"{_machine()}:{os.getpid()}:{new_id()[:8]}"
        self.database = Database(settings.database_url)
        self.children = Children(settings)
        self.hands = Hands(settings.home)
        self.stopping = False
        self.next: Claim | None = None  # taken as the last one was finished
        self._begun: Drive | None = None  # of that one
        self._none = False  # there was none when it was finished
        self._looked_at = 0.0  # when an empty line was last seen
        self._chores_at = self.tend_at = 0.0

    def work(self) -> None:
        """The worker's life. Raises `StorageError` when there is no database to begin with."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        migrate.upgrade(self.database)
        chores.arrive(self.database, self.id, self.device)
        self.children.prepare()
        home = self.settings.home
        with bell.Listener("work", home) as self.bell, bell.Listener("cancel", home) as self.cancels:
            self.hands.look()
            steady()
            try:
                while self.next or not self.stopping:  # what was taken is given back
                    self._turn()
            finally:
                self.hands.close()
                self.children.close()
        chores.leave(self.database, self.id)
        self.database.close()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _turn(self) -> None:
        """One run, or a while of waiting for one."""
        claim, self.next = self.next, None
        none, self._none = self._none, False
        if claim is None and none:  # whoever came since then has rung
            self._rest()
            return
        if claim is None:
            try:
                self._chores()
                with self.database.write() as db:
                    claim = self._take(db)
            except StorageError as error:
                log.warning("%s", error)
                time.sleep(LOOK)
                return
            if claim is None:
                self._rest()
                return
        self.hands.withdraw()
        drive, self._begun = self._begun or Drive(self, claim), None
        if claim.run["status"] == "processing" and claim.run["webhook"]:
            drive.ring()
        self._carry_out(drive)

    def _rest(self) -> None:
        """Waits for a bell, or for a run that a server hands over."""
        self.hands.hold_out(self.children.warm)
        given, look = self.hands.wait(self.bell, LOOK)
        if given is None:
            self._none = not look
        elif self.stopping:
            given.answer(no=True)
        else:
            self._carry_out(Handed(self, given))

    def go_on(self) -> None:
        """Has the child begin with the next run, where there is one and the child is up, before anything else."""
        if self.next is not None and self.next.run["status"] == "processing" and not self.next.again:
            self._begun = Drive(self, self.next)
            self._begun.send(sure=True)

    def free(self) -> dict[str, Any]:
        """What a server is told with a run's end: whether another would be begun at once."""
        if not self._none or self.stopping:
            return {}
        warm = self.children.warm()
        return {"idle": None if warm is None else sorted(warm)}

    def _carry_out(self, drive: Drive) -> None:
        run_id, kind = drive.id, drive.kind
        try:
            drive.go()
        except LostLease as error:  # somebody else has it: the child must not go on
            log.warning("%s", error)
            self.children.drop(kind)
        except StorageError as error:  # it is to end, and cannot even say so: the run is taken up when the lease ends
            log.warning("%s", error)
        except Exception as error:  # a defect of ours: it ends this run, not the worker
            log.exception("run %s", run_id)
            self.children.drop(kind)
            drive.fail(f"Something unforeseen happened: {type(error).__name__}: {error}")

    def _take(self, db: Connection) -> Claim | None:
        self._looked_at = time.monotonic()
        return leases.take(db, self.id, self.device, self.children.warm(), self.settings.lease_seconds)

    def look(self, db: Connection) -> bool | None:
        """Whether no run waits, of a worker that was idle; None where it may not say, or something else is due."""
        if not self._may_look():
            return None
        if time.monotonic() < self._looked_at + LOOK:  # it was empty then, and whoever came since has rung
            return True
        self._looked_at = time.monotonic()
        return leases.is_empty(db, self.device)

    def _may_look(self) -> bool:
        """Whether the transaction that ends a run may take the next one.

        On SQLite, where a transaction is alone. On Postgres two workers could come to wait for each other's rows.
        """
        return self.database.is_sqlite and not self.stopping and time.monotonic() < min(self._chores_at, self.tend_at)

    def take_next(self, db: Connection, empty: bool | None = None) -> Claim | None:
        """Takes the next run in the transaction that ends the last one. `empty`: what `look` said in it before."""
        if not self._may_look():
            return None
        if not empty:  # whoever has rung by now is seen
            self.hands.opened |= handover.OPENED in self.bell.heard()
        claim = None if empty else self._take(db)
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
