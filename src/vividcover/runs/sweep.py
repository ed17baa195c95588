"""What has had its time: files and shared stages that expired, and artifacts that no row speaks of any more."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from vividcover.runs.states import GOING, OPEN
from vividcover.settings import settings
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database, now
from vividcover.store.tables import events, files, runs, shared_stages, stages, versions

GRACE = 3600.0  # seconds that an artifact without a row is kept: its row may be on the way


def sweep(database: Database, artifacts: Artifacts) -> tuple[int, int]:
    """(rows of files, artifacts) that were removed. Any number of processes may do it at once."""
    with database.write() as db:
        expired = list(db.execute(delete(files).where(files.c.expires_at < now()).returning(files.c.run_id)).scalars())
        if outputs := {run_id for run_id in expired if run_id}:
            db.execute(update(runs).where(runs.c.id.in_(outputs)).values(data_removed=True))
            looks = events.c.run_id.in_(outputs), events.c.kind == "preview"  # they show what has gone
            db.execute(delete(events).where(*looks))
        going = select(stages.c.key).join(runs, runs.c.id == stages.c.run_id).where(GOING, runs.c.status.in_(OPEN))
        old = shared_stages.c.used_at < now() - settings().stage_keep_seconds
        db.execute(delete(shared_stages).where(old, shared_stages.c.key.not_in(going)))
    return len(expired), artifacts.sweep(live(database), GRACE)


def live(database: Database) -> set[str]:
    """sha256 of every artifact that a file, a version, a shared stage or a run that is not over still needs."""
    with database.read() as db:
        wanted = set(db.execute(select(files.c.sha256)).scalars())
        wanted |= set(db.execute(select(versions.c.weights).where(versions.c.weights.is_not(None))).scalars())
        for named in db.execute(select(shared_stages.c.files)).scalars():
            wanted |= set(named.values())
        going = select(runs.c.files, runs.c.weights).where(GOING, runs.c.status.in_(OPEN))
        for linked, weights in db.execute(going):
            wanted |= {one["sha256"] for one in linked.values()} | ({weights} if weights else set())
    return wanted
