"""A run's row: how it comes to be, how it is canceled, how it ends (contract 3 of docs/architecture).

    starting ──► processing ──► succeeded | failed | canceled
        └──► canceled | aborted

The row is the only truth. What workers do with it is in `leases.py`; both end a run through `close`, so that whoever
ends it, its webhook and its usage are written in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import ColumnElement, Double, Select, String, bindparam, case, func, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert

from vividcover.runs import bell
from vividcover.store.database import Database, now
from vividcover.store.ids import new_id
from vividcover.store.prepared import Prepared
from vividcover.store.tables import runs, tokens

TERMINAL = ("succeeded", "failed", "canceled", "aborted")
OPEN = ("starting", "processing")
SECRET = "[redacted]"
SECRETS = ("auth", "token", "password")  # inputs that are keys of other services, by their names
SECRET_ENDS = ("_token", "_api_key", "_secret", "_password")
GOING = runs.c.completed_at.is_(None)  # as the indexes of the open runs have it
BELLS: tuple[bell.Topic, ...] = ("cancel", "runs", "webhooks")  # who may have to act when a run is canceled
Row = Mapping[str, Any]


class LostLease(Exception):
    """The run is no longer this worker's: it was taken up by another, or is over. For workers; no user meets it."""


@dataclass(frozen=True)
class NewRun:
    """What `enqueue` needs. The fields are the columns of `tables.runs`, but for `deadline_in`."""

    kind: str  # prediction | training
    account_id: str
    token_id: str
    model: str  # owner/name as shown
    version: str
    serves: str  # the catalog model that does it
    input: Mapping[str, Any]
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # link in the input → {"sha256", "name"}
    weights: str | None = None
    engine: str = "auto"
    destination: str | None = None
    note: str | None = None
    deployment: str | None = None
    consent: str = ""
    output_shape: str = "file"
    source: str = "api"
    webhook: str | None = None
    webhook_secret: str | None = None
    webhook_events: str = ""
    stream_key: str | None = None
    aborts: bool = False
    device: str = "any"
    reserved_usd: float = 0.0
    priority: int = 0
    deadline_in: float | None = None  # seconds from now, by the database's clock
    id: str = field(default_factory=new_id)


def enqueue(db: Connection, new: NewRun) -> Row:
    """Puts a run in the line; its row. Afterwards, when it is committed: `bell.ring("work")`."""
    values = {name: getattr(new, name) for name in _GIVEN}
    values |= {"rank": -new.priority, "of_token": new.token_id, "seconds": new.deadline_in}
    return ENQUEUE.rows(db, values)[0]


def begun(db: Connection, values: Mapping[str, Any], worker: str, ago: float, lease: float) -> tuple[Row, float]:
    """The row, to be `put_in`, of a run that `worker` has begun already, and the database's clock.

    `values`: the fields of a `NewRun`; `ago`: seconds since the client asked for it; `lease`: seconds from now.
    """
    found = PLACE.one(db, {"of_token": values["token_id"]})
    assert found is not None
    clock, limit = found["clock"], values["deadline_in"]
    row = _UNSET | {name: values[name] for name in _GIVEN} | {
        "status": "processing", "rank": -values["priority"], "turn": found["turn"], "created_at": clock - ago,
        "started_at": clock, "deadline": None if limit is None else clock - ago + limit, "fence": 1, "attempts": 1,
        "lease_owner": worker, "lease_until": clock + lease,
    }  # fmt: skip
    return row, clock


def put_in(db: Connection, row: Row) -> None:
    """Writes a run that may be over before the transaction is: as if it were, so that it is in no index of open runs.

    To be followed by `open_up`, or `close`. Raises `LostLease` when it is there: somebody else has put it in.
    """
    try:
        PUT_IN.do(db, {**row, "completed_at": row["created_at"], "lease_until": None})
    except (sqlite3.IntegrityError, IntegrityError) as error:
        raise LostLease(f"Run {row['id']} cannot be put in: {error}.") from error


def open_up(db: Connection, row: Row) -> None:
    """What was `put_in` is not over yet."""
    change(db, row, completed_at=None, lease_until=row["lease_until"])


_UNSET = {column.name: None for column in runs.c} | {"metrics": {}, "data_removed": False}
_GIVEN = tuple(one.name for one in fields(NewRun) if one.name != "deadline_in")


def _enqueue() -> ReturningInsert[Any]:
    seconds: ColumnElement[float] = bindparam("seconds", type_=Double())
    return insert(runs).values(
        status="starting", metrics={}, turn=_turn(bindparam("of_token", type_=String())), created_at=now(),
        deadline=now() + seconds,
    ).returning(runs)  # fmt: skip


def _place() -> Select[float, float]:
    return select(now().label("clock"), _turn(bindparam("of_token", type_=String())).label("turn"))


def _turn(token_id: ColumnElement[str]) -> ColumnElement[float]:
    """A place in the line that is fair between tokens, however many runs each of them sends (start-time fair queueing).

    Behind the token's own last run, and not before what was begun last for anybody: who comes anew is served in turn
    with the others, and cannot save up places by having been silent.
    """
    begun = func.coalesce(select(func.max(tokens.c.turn)).scalar_subquery(), 0.0)
    own = func.coalesce(select(tokens.c.turn).where(tokens.c.id == token_id).scalar_subquery(), 0.0)
    waiting = func.coalesce(
        select(func.max(runs.c.turn))
        .where(runs.c.token_id == token_id, runs.c.status == "starting", GOING)
        .scalar_subquery(),
        0.0,
    )
    return _greatest(begun, _greatest(own, waiting) + 1.0)


def _greatest(one: ColumnElement[float], other: ColumnElement[float]) -> ColumnElement[float]:
    return case((one > other, one), else_=other)


def get(db: Connection, run_id: str) -> Row | None:
    return GET.one(db, {"run": run_id})


def locked(db: Connection, run_id: str) -> tuple[Row, float] | None:
    """A run's row, which nobody else changes until the end of the transaction, and the database's clock."""
    row = LOCKED.one(db, {"run": run_id})
    return None if row is None else (row, row.pop("clock"))


def change(db: Connection, row: Row, **values: Any) -> Row:
    """Writes to a run that is `locked`; its row afterwards."""
    CHANGE.do(db, {"run": row["id"], **values})
    return {**row, **values}


_one = runs.c.id == bindparam("run")
ENQUEUE, PLACE, PUT_IN = Prepared(_enqueue), Prepared(_place), Prepared(lambda: insert(runs))
GET = Prepared(lambda: select(runs).where(_one))
LOCKED = Prepared(lambda: select(runs, now().label("clock")).where(_one).with_for_update())
CHANGE = Prepared(lambda: update(runs).where(_one))


def idle(row: Row, clock: float) -> bool:
    """Whether nobody works on it: it waits, or its worker fell silent."""
    return row["lease_until"] is None or row["lease_until"] < clock


def cancel(db: Connection, run_id: str) -> Row | None:
    """Asks a run to stop; its row afterwards, None for an unknown one. One that is over stays as it is.

    One that nobody works on is canceled here and now; for the others the worker is told, by the row and by the bell
    that the caller rings when this is committed: `bell.ring(topic, run_id)` for each of `BELLS`.
    """
    if (found := locked(db, run_id)) is None:
        return None
    row, clock = found
    if row["status"] in TERMINAL:
        return row
    if idle(row, clock):
        return close(db, row, clock, "canceled")
    return row if row["cancel_requested_at"] else change(db, row, cancel_requested_at=clock)


def request_cancel(database: Database, run_id: str) -> Row | None:
    """`cancel` in a transaction of its own, and the bells."""
    with database.write() as db:
        row = cancel(db, run_id)
    for topic in BELLS:
        bell.ring(topic, run_id)
    return row


def close(
    db: Connection, row: Row, clock: float, status: str, *, error: str | None = None,
    output: Mapping[str, Any] | None = None, device: str = "cpu", engine: str | None = None, size: int = 0,
    soon: Callable[[Row], None] | None = None,
) -> Row:  # fmt: skip
    """Ends an open run that is `locked`, with all that belongs to it; its row. `size`: bytes of the output.

    The fence grows, so that whoever still works on it can write nothing more. `soon` hears of the row that it will have
    when the transaction is committed. Keys of other services, which its input has had, are not kept beyond it.
    """
    metrics = {**row["metrics"], "total_time": _seconds(row["created_at"], clock)}
    if row["started_at"] is not None:
        metrics["predict_time"] = _seconds(row["started_at"], clock)
    ended = {
        "status": status, "error": error, "output": None if output is None else dict(output), "completed_at": clock,
        "lease_owner": None, "lease_until": None, "fence": row["fence"] + 1, "engine": engine or row["engine"],
        "metrics": metrics,
    }  # fmt: skip
    if (shown := redacted(row["input"])) != row["input"]:
        ended["input"] = shown
    if soon:
        soon({**row, **ended})
    row = change(db, row, **ended)
    _tell(db, row, device, size)
    return row


def _tell(db: Connection, row: Row, device: str, size: int) -> None:
    from vividcover.runs import usage

    seconds = row["metrics"].get("predict_time", 0.0)
    usage.record(db, row, device, row["engine"], seconds, size)
    happened(db, row, "completed")


def redacted(input: Mapping[str, Any]) -> dict[str, Any]:
    """An input without what is secret in it."""
    return {k: SECRET if v and (k in SECRETS or k.endswith(SECRET_ENDS)) else v for k, v in input.items()}


def happened(db: Connection, row: Row, event: str) -> None:
    """start, output, logs or completed: for the run's webhook, if it has one."""
    if row["webhook"]:
        from vividcover.runs import webhooks

        webhooks.on_event(db, row, event)


def _seconds(since: float, until: float) -> float:
    return round(max(0.0, until - since), 6)
