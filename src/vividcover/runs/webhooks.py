"""Webhooks that arrive: an outbox in the database, written with what they tell of, and one who sends from it.

    on_event(db, run, "completed")                  # in the transaction of the change
    Sender(database, settings, present).run(stop)   # in a thread of the server

Signed as Standard Webhooks says (webhook-id, webhook-timestamp, webhook-signature), as the official clients check it.
A sender that is killed loses nothing: its lease on the row ends, and the delivery is made again under the same
webhook-id. What fails is tried again for hours, later and later; an intermediate event only until a newer one tells
more. Every attempt is kept in the log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vividcover.errors import NotFoundError
from vividcover.store import tables
from vividcover.store.database import now
from vividcover.store.ids import new_id

EVENTS = ("start", "output", "logs", "completed")  # in the order of a run
DEFAULT_EVENTS = ("output", "completed")  # where the caller chose none
FINAL = ("completed", "alert")  # nothing newer follows them
PACED = ("output", "logs")
PACE = 0.5  # seconds between two events of these kinds, of one run
OVERTAKEN = "not sent again: a newer event of the run tells more"

Row = Mapping[str, Any]
d = tables.deliveries.c


def on_event(db: Connection, run: Row, event: str) -> None:
    """Puts an event of a run into the outbox, if its webhook wants it. `output` and `logs`: one in half a second.

    The body is made from the run when it is first sent, so an event that waits already tells of this change too.
    """
    wanted = (run["webhook_events"] or "").split() or DEFAULT_EVENTS
    if not run["webhook"] or event not in wanted:
        return
    if event == "completed":
        _overtake(db, run["id"])
    due: Any = now()
    if event in PACED:
        waits = (
            d.run_id == run["id"],
            d.event == event,
            d.state == "waiting",
            d.attempts == 0,
            d.lease_until.is_(None),
        )
        # an update, not a look: whoever sends it now is waited for, or waits until this change is committed
        if db.execute(sa.update(tables.deliveries).where(*waits).values(state="waiting")).rowcount:
            return
        sent = sa.func.max(sa.case((d.done_at > d.next_at, d.done_at), else_=d.next_at))
        last = db.execute(sa.select(sent).where(d.run_id == run["id"], d.event == event)).scalar()
        if last is not None:
            due = sa.case((now() > last + PACE, now()), else_=last + PACE)
    _insert(db, run["account_id"], event, run["webhook"], run_id=run["id"], secret=run["webhook_secret"], next_at=due)


def queue_alert(db: Connection, account_id: str, url: str, type: str, data: Mapping[str, Any]) -> str:
    """Puts a message that is not of a run into the outbox; its webhook-id."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(float(db.execute(sa.select(now())).scalar_one()), UTC)
    body = {"type": type, "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "data": dict(data)}
    return _insert(db, account_id, "alert", url, body=encoded(body))


def encoded(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _insert(
    db: Connection, account_id: str, event: str, url: str, *, run_id: str | None = None, body: str | None = None,
    secret: str | None = None, next_at: Any = None,
) -> str:  # fmt: skip
    id = f"msg_{time.time_ns():016x}{new_id()[:16]}"  # in their order, also within a tick of the database's clock
    db.execute(
        sa.insert(tables.deliveries).values(
            id=id, account_id=account_id, run_id=run_id, event=event, url=url, body=body, secret=secret,
            state="waiting", attempts=0, next_at=now() if next_at is None else next_at, created_at=now(),
        )
    )  # fmt: skip
    return id


def _overtake(db: Connection, run_id: str) -> None:
    """A run is over: what was not delivered, or was held back for the pace, is told by `completed`."""
    old = db.execute(
        sa.update(tables.deliveries)
        .where(d.run_id == run_id, d.event != "completed", d.state == "waiting", d.lease_until.is_(None))
        .where(sa.or_(d.attempts > 0, sa.and_(d.event.in_(PACED), d.next_at > now())))
        .values(state="failed", done_at=now())
        .returning(d.id)
    ).scalars()
    for id in old.all():
        note(db, id, None, OVERTAKEN, 0.0)


def pace(db: Connection, run_id: str, event: str) -> None:
    """An event of this kind was just sent: the next one waits, also where it was due because this one was late."""
    if event in PACED:
        soon = (d.run_id == run_id, d.event == event, d.state == "waiting", d.attempts == 0, d.next_at < now() + PACE)
        db.execute(sa.update(tables.deliveries).where(*soon).values(next_at=now() + PACE))


def note(db: Connection, delivery_id: str, status: int | None, error: str | None, seconds: float) -> None:
    """A line of the delivery log. `status`: the receiver's HTTP status, None for no answer."""
    db.execute(
        sa.insert(tables.attempts).values(
            delivery_id=delivery_id, at=now(), status=status, error=error, seconds=round(seconds, 4)
        )
    )


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def deliveries(
    db: Connection, *, account_id: str | None = None, run_id: str | None = None, state: str | None = None,
    limit: int = 100,
) -> Sequence[RowMapping]:  # fmt: skip
    """The newest first, each with the last attempt's `status` and `error`."""
    last = sa.select(sa.func.max(tables.attempts.c.id)).where(tables.attempts.c.delivery_id == d.id)
    a = tables.attempts.c
    query = sa.select(
        d.id, d.run_id, d.event, d.url, d.state, d.attempts, d.next_at, d.created_at, d.done_at, a.status, a.error
    ).outerjoin(tables.attempts, a.id == last.correlate(tables.deliveries).scalar_subquery())
    for column, value in ((d.account_id, account_id), (d.run_id, run_id), (d.state, state)):
        if value is not None:
            query = query.where(column == value)
    return db.execute(query.order_by(d.created_at.desc(), d.id.desc()).limit(limit)).mappings().all()


def attempts(db: Connection, delivery_id: str) -> Sequence[RowMapping]:
    """Every attempt of a delivery, in order."""
    a = tables.attempts.c
    query = sa.select(a.at, a.status, a.error, a.seconds).where(a.delivery_id == delivery_id).order_by(a.id)
    return db.execute(query).mappings().all()


def delivery(db: Connection, delivery_id: str, account_id: str | None = None) -> RowMapping:
    """Raises `NotFoundError`, also for another account's."""
    query = sa.select(tables.deliveries).where(d.id == delivery_id)
    if account_id is not None:
        query = query.where(d.account_id == account_id)
    row = db.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"There is no delivery {delivery_id[:60]!r}.", "`vividcover webhooks list` shows them.")
    return row


def redeliver(db: Connection, delivery_id: str, account_id: str | None = None) -> None:
    """Sends it once more, with all its tries, under its webhook-id. Then: `bell.ring("webhooks")`.

    Raises `NotFoundError`. One that is being sent at this moment is sent again afterwards.
    """
    row = delivery(db, delivery_id, account_id)
    db.execute(
        sa.update(tables.deliveries)
        .where(d.id == row["id"])
        .values(state="waiting", attempts=0, next_at=now(), lease_until=None, done_at=None)
    )
