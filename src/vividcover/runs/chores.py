"""What is nobody's in particular: runs that nobody works on, workers that come and go, and who does a chore when.

Any number of workers may do any of it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import CompoundSelect, and_, delete, insert, or_, select, update

from vividcover.runs.leases import ATTEMPTS
from vividcover.runs.registry import insert_missing
from vividcover.runs.states import GOING, OPEN, close, idle, locked
from vividcover.store.database import Database, now
from vividcover.store.tables import facts, runs, workers

MANY = 100  # runs that one call of `tend` looks at


def tend(database: Database) -> list[str]:
    """Ends runs that nobody will end: past their deadline in the line, or left by dead workers. Returns their ids."""
    with database.read() as db:
        found = list(db.execute(_untended()).scalars())
    ended = []
    for run_id in found:
        with database.write() as db:
            row, clock = locked(db, run_id) or ({"status": "gone"}, 0.0)
            if row["status"] not in OPEN or not idle(row, clock):
                continue
            if row["deadline"] is not None and row["deadline"] < clock:
                close(db, row, clock, "aborted" if row["aborts"] and row["started_at"] is None else "canceled")
            elif row["cancel_requested_at"] is not None:
                close(db, row, clock, "canceled")
            elif row["attempts"] >= ATTEMPTS:
                close(db, row, clock, "failed", error=WORN)
            else:
                continue
            ended.append(run_id)
    return ended


@lru_cache
def _untended() -> CompoundSelect[Any]:
    """Each half has an index of its own, however long the line is."""
    late = select(runs.c.id).where(GOING, runs.c.deadline < now())
    over = or_(runs.c.cancel_requested_at.is_not(None), runs.c.attempts >= ATTEMPTS)
    return late.union(select(runs.c.id).where(runs.c.lease_until < now(), over)).limit(MANY)


WORN = (
    f"The run was begun {ATTEMPTS} times and its process died each time before another stage was finished. "
    "If memory ran out, give it less to do or use a larger machine; the run's logs tell what it did last."
)


def arrive(database: Database, worker: str, device: str) -> None:
    """Signs a worker on; workers that were silent for a day are forgotten."""
    with database.write() as db:
        db.execute(insert(workers).values(id=worker, device=device, started_at=now(), seen_at=now()))
        db.execute(delete(workers).where(workers.c.seen_at < now() - 86_400.0))


def bury(database: Database, dead: Callable[[str], bool]) -> int:
    """Ends the leases of workers that are surely dead, so that nobody waits for their end; how many there were."""
    held = and_(runs.c.lease_until > now(), runs.c.status.in_(OPEN))
    with database.read() as db:
        owners = set(db.execute(select(runs.c.lease_owner).where(held).distinct()).scalars())
    if not (gone := [owner for owner in owners if owner and dead(owner)]):
        return 0
    with database.write() as db:
        return db.execute(update(runs).where(held, runs.c.lease_owner.in_(gone)).values(lease_until=0.0)).rowcount


def leave(database: Database, worker: str) -> None:
    with database.write() as db:
        db.execute(delete(workers).where(workers.c.id == worker))


def waiting(database: Database, worker: str) -> None:
    with database.write() as db:
        db.execute(update(workers).where(workers.c.id == worker).values(seen_at=now(), run_id=None))


def my_turn(database: Database, chore: str, every: float) -> bool:
    """Whether a chore that one process does every `every` seconds is this one's now."""
    with database.write() as db:
        insert_missing(db, facts, {"name": chore, "value": "0"})
        last, at = db.execute(select(facts.c.value, now()).where(facts.c.name == chore)).one()
        if at - float(last) < every:
            return False
        mine = update(facts).where(facts.c.name == chore, facts.c.value == last).values(value=str(at))
        return db.execute(mine).rowcount > 0
