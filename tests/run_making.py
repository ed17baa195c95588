"""Runs, accounts and worker processes for tests. Whoever starts processes here leaves none behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from vividcover.runs import bell, states
from vividcover.store import migrate
from vividcover.store.accounts import Principal
from vividcover.store.database import Database, now
from vividcover.store.tables import accounts, events, runs, stages, tokens

T = TypeVar("T")
HELLO = "vividcover/hello"


@contextlib.contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database at the current schema, with account `alice` and her tokens `t1` and `t2`."""
    database = Database(url)
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(
            sa.insert(accounts).values(
                id="alice", username="alice", name="Alice", webhook_secret="whsec_", created_at=now()
            )
        )
        for token in ("t1", "t2"):
            db.execute(
                sa.insert(tokens).values(
                    id=token, account_id="alice", hash=token, hint="", scopes="read write", created_at=now()
                )
            )
    yield database
    database.close()


def who(**changes: Any) -> Principal:
    """Alice, with what her token may do."""
    values: dict[str, Any] = {
        "account_id": "alice", "username": "alice", "token_id": "t1", "token_name": "", "scopes": frozenset({"write"}),
        "admin": False, "priority": 0, "rate": None, "consent": "", "budgeted": True,
    }  # fmt: skip
    return Principal(**values | changes)


def new_run(**changes: Any) -> states.NewRun:
    fields: dict[str, Any] = {
        "kind": "prediction", "account_id": "alice", "token_id": "t1", "model": HELLO, "version": "0" * 64,
        "serves": HELLO, "input": {}, "output_shape": "stream",
    }  # fmt: skip
    return states.NewRun(**fields | changes)


def add(database: Database, **changes: Any) -> str:
    """Enqueues a run and rings for it; its id."""
    with database.write() as db:
        run_id = str(states.enqueue(db, new_run(**changes))["id"])
    bell.ring("work")
    return run_id


def row(database: Database, run_id: str) -> dict[str, Any]:
    with database.read() as db:
        found = states.get(db, run_id)
    assert found is not None
    return dict(found)


def finished(database: Database, run_id: str, timeout: float = 30.0) -> dict[str, Any]:
    """The run's row when it is over."""
    return until(lambda: found if (found := row(database, run_id))["status"] in states.TERMINAL else None, timeout)


def until(look: Callable[[], T | None], timeout: float = 10.0, every: float = 0.02) -> T:
    """What `look` gives as soon as that is something."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(every)
    raise AssertionError(f"nothing came in {timeout} s")


def stage_rows(database: Database, run_id: str) -> list[dict[str, Any]]:
    with database.read() as db:
        found = db.execute(sa.select(stages).where(stages.c.run_id == run_id).order_by(stages.c.position))
        return [dict(one) for one in found.mappings()]


def told(database: Database, run_id: str, kind: str = "log") -> list[str]:
    """What a run said, in order."""
    wanted = sa.select(events.c.data).where(events.c.run_id == run_id, events.c.kind == kind).order_by(events.c.id)
    with database.read() as db:
        return list(db.execute(wanted).scalars())


def count(database: Database, status: str) -> int:
    with database.read() as db:
        return int(db.execute(sa.select(sa.func.count()).where(runs.c.status == status)).scalar_one())


@contextlib.contextmanager
def worker(**env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker's process, as the supervisor starts it. It and all of its children end with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vividcover.runs.start_worker"], stdin=subprocess.PIPE, start_new_session=True,
        env=os.environ | env,
    )  # fmt: skip
    try:
        yield process
    finally:
        left = family(process.pid)
        kill(process.pid)
        process.wait()
        until(lambda: not any(alive(pid) for pid in left), 10)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """The living children of a process, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def family(pid: int) -> list[int]:
    """A process, its children, and theirs."""
    found = [pid]
    for one in found:
        found += children_of(one)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Up:
    """`vividcover up` as a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def pids(self, part: str) -> list[int]:
        """The processes of a part, `web`, `start_worker` or `runner`, that are alive."""
        return [pid for pid in family(self.process.pid) if f"vividcover.runs.{part}\0" in _command(pid)]

    def kill(self, part: str) -> None:
        """SIGKILL to every process of a part."""
        for pid in self.pids(part):
            kill(pid)


@contextlib.contextmanager
def up(*options: str, **env: str) -> Iterator[Up]:
    """A server and its workers, ready; all of its processes are gone at the end of the block, however it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from vividcover.cli import main; main()", "up", "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, env=os.environ | env,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while said[-1] and "vividcover serves " not in said[-1]:
            said.append(process.stderr.readline())
        assert said[-1], "".join(said)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
        yield Up(process, said[-1].split()[2])
    finally:
        left = family(process.pid)
        kill(process.pid)  # the others notice
        process.wait()
        until(lambda: not any(alive(pid) for pid in left), 10)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
