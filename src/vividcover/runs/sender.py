"""Sends what the outbox of `webhooks.py` holds. Several senders may work on one database.

A delivery is claimed by a short lease, which is made longer while the attempt goes on; whoever is killed meanwhile is
replaced when it ends. The body is made and stored at the first attempt, so that every attempt carries the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vividcover.errors import VividCoverError
from vividcover.runs import bell
from vividcover.runs.webhooks import EVENTS, FINAL, OVERTAKEN, encoded, note, pace
from vividcover.store import tables
from vividcover.store.database import Database, now

if TYPE_CHECKING:
    import httpx

    from vividcover.settings import Settings

LEASE = 6.0  # seconds after which a sender that fell silent is replaced; it gives a sign each third of them
FIRST = 5.0  # seconds before the second attempt; doubled from one to the next …
LAST = 1800.0  # … up to this
AT_ONCE = 32  # attempts that are under way at the same time …
AT_ONCE_HOST = 8  # … and of these to one host, so that one that hangs does not hold up the others
LOOK = 0.5  # seconds between two looks without a ring
PAUSE = 0.03  # seconds between two looks, however often it rings
LEAVE = 1.0  # seconds that attempts under way get when the server ends
CLEAN = 3600.0  # seconds between two removals of old deliveries
KEPT_LOGS = 4000  # characters of logs that are left when a receiver found the message too large
REDIRECTS = (301, 302, 303, 307, 308)
LATER = ("completed_at", "metrics")  # what a run has only when it is over

log = logging.getLogger(__name__)
Present = Callable[[Connection, RowMapping], dict[str, Any]]
d = tables.deliveries.c


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt. `status`: HTTP; None without an answer."""

    status: int | None
    error: str | None
    seconds: float
    retry_after: float = 0.0

    @property
    def good(self) -> bool:
        return self.error is None


class Sender:
    """`present(db, run)` is the run as GET shows it. `run` returns soon after `stop` is set."""

    def __init__(
        self, database: Database, settings: Settings, present: Present, *, first: float = FIRST, lease: float = LEASE
    ) -> None:
        self._database, self._settings, self._present, self._first = database, settings, present, first
        self._attempt, self._lease = settings.webhook_seconds, lease
        self._tries = tries(settings.webhook_hours * 3600, first)
        self._busy: Counter[str] = Counter()  # attempts under way, by host
        self._cleaned = 0.0

    def run(self, stop: threading.Event) -> None:
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        from vividcover import outbound

        rung = asyncio.Event()
        under_way: set[asyncio.Task[None]] = set()
        async with contextlib.AsyncExitStack() as open:
            listener = open.enter_context(bell.Listener("webhooks", self._settings.home))
            asyncio.get_running_loop().add_reader(listener.fileno(), _hear, listener, rung)
            open.callback(asyncio.get_running_loop().remove_reader, listener.fileno())
            http = None
            while not stop.is_set():
                rung.clear()
                for row in await self._claimed(AT_ONCE - len(under_way)):
                    if http is None:
                        http = outbound.client(self._settings.private_endpoints, self._attempt)
                        await open.enter_async_context(http)
                    task = asyncio.create_task(self._deliver(http, row, rung))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(PAUSE)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(rung.wait(), LOOK - PAUSE)
            if under_way:
                await asyncio.wait(under_way, timeout=LEAVE)
            for task in under_way:  # their leases end, and they are made again
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    # ── claiming ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claimed(self, room: int) -> list[dict[str, Any]]:
        """Deliveries that are due, now under this sender's lease, with body and secret."""
        if room <= 0:
            return []
        try:
            if time.monotonic() - self._cleaned > CLEAN:
                self._cleaned = time.monotonic()
                await asyncio.to_thread(self._clean)
            return await asyncio.to_thread(self._claim, room)
        except Exception as error:  # the database is away, or worse: it is asked again at the next look
            log.error("Webhooks cannot be looked up: %s", error)
            await asyncio.sleep(LOOK)
            return []

    def _claim(self, room: int) -> list[dict[str, Any]]:
        with self._database.read() as db:
            chosen = self._chosen(db.execute(DUE).mappings().all(), room)
        if not chosen:
            return []
        with self._database.write() as db:
            claimed = db.execute(
                sa.update(tables.deliveries)
                .where(d.id.in_(chosen), d.state == "waiting", _free())
                .values(lease_until=now() + self._lease)
                .returning(tables.deliveries)
            )
            rows = [dict(row) for row in claimed.mappings().all()]
            return [row for row in rows if self._prepare(db, row)]

    def _chosen(self, due: Sequence[RowMapping], room: int) -> list[str]:
        chosen: list[str] = []
        busy = self._busy.copy()
        for row in due:
            host = urlsplit(row["url"]).netloc
            if len(chosen) < room and busy[host] < AT_ONCE_HOST:
                busy[host] += 1
                chosen.append(row["id"])
        return chosen

    def _prepare(self, db: Connection, row: dict[str, Any]) -> bool:
        """Gives a claimed delivery its body and its key; False for one that ends here."""
        run = None
        if row["run_id"]:
            run = db.execute(sa.select(tables.runs).where(tables.runs.c.id == row["run_id"])).mappings().first()
        try:
            if row["body"] is None:
                if run is None:
                    raise ValueError("the run was deleted before it could be told of")
                with db.begin_nested():  # whatever it asks the database, this transaction goes on
                    shown = self._present(db, run)
                row["body"] = encoded(as_at(row["event"], dict(run), shown))
                db.execute(sa.update(tables.deliveries).where(d.id == row["id"]).values(body=row["body"]))
        except Exception as error:  # whatever `present` meets, the others are sent
            self._settle(db, row, Answer(None, f"the message could not be made: {error}", 0.0), gone=run is None)
            return False
        secret = tables.accounts.c.webhook_secret
        row["key"] = db.execute(sa.select(secret).where(tables.accounts.c.id == row["account_id"])).scalar_one()
        return True

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, http: httpx.AsyncClient, row: dict[str, Any], rung: asyncio.Event) -> None:
        host = urlsplit(row["url"]).netloc
        self._busy[host] += 1
        try:
            answer = await self._held(self._post(http, row), row)
            await asyncio.to_thread(self._finished, row, answer)
        except Exception as error:  # the database is away: the lease ends, and it is sent again
            log.error("The webhook %s was sent, but that could not be written down: %s", row["id"], error)
        finally:
            self._busy[host] -= 1
            self._busy = +self._busy  # without the hosts that are done
            rung.set()

    async def _held(self, attempt: Coroutine[Any, Any, Answer], row: dict[str, Any]) -> Answer:
        """What comes of an attempt. While it lasts, the delivery stays this sender's."""
        post = asyncio.ensure_future(attempt)
        try:
            while not (await asyncio.wait({post}, timeout=self._lease / 3))[0]:
                try:
                    await asyncio.to_thread(self._renew, row)
                except VividCoverError as error:  # the database is away: the attempt goes on
                    log.error("The webhook %s is being sent, but that could not be written down: %s", row["id"], error)
            return post.result()
        finally:
            post.cancel()

    def _renew(self, row: dict[str, Any]) -> None:
        """The lease anew, unless another has it by now, or it is to be sent once more."""
        mine = sa.update(tables.deliveries).where(d.id == row["id"], d.lease_until == row["lease_until"])
        with self._database.write() as db:
            until = db.execute(mine.values(lease_until=now() + self._lease).returning(d.lease_until)).scalar()
        if until is not None:
            row["lease_until"] = until

    async def _post(self, http: httpx.AsyncClient, row: Mapping[str, Any]) -> Answer:
        import httpx

        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(self._attempt),
                http.stream("POST", row["url"], content=row["body"].encode(), headers=signed(row)) as response,
            ):
                said = explained(response.status_code, response.headers)
                return Answer(response.status_code, said, time.monotonic() - began, _retry_after(response.headers))
        except (TimeoutError, httpx.TimeoutException):
            error = f"no answer within {self._attempt:g} s"
        except VividCoverError as refused:
            error = str(refused)
        except Exception as failed:  # whatever it was, it is in the log and the delivery is tried again
            error = f"{type(failed).__name__}: {failed}".rstrip(": ")
        return Answer(None, error, time.monotonic() - began)

    def _finished(self, row: Mapping[str, Any], answer: Answer) -> None:
        with self._database.write() as db:
            self._settle(db, row, answer)

    def _settle(self, db: Connection, row: Mapping[str, Any], answer: Answer, *, gone: bool = False) -> None:
        """Writes down an attempt and what follows from it, unless the delivery was taken over meanwhile."""
        note(db, row["id"], answer.status, answer.error, answer.seconds)
        mine = sa.update(tables.deliveries).where(d.id == row["id"], d.lease_until == row["lease_until"])
        count = row["attempts"] + 1
        if answer.good:
            db.execute(mine.values(state="sent", attempts=count, done_at=now(), lease_until=None))
            pace(db, row["run_id"], row["event"])
            return
        ends = gone or answer.status == 410 or count >= self._tries
        if row["event"] not in FINAL and _newer(db, row):
            note(db, row["id"], None, OVERTAKEN, 0.0)
            ends = True
        if ends:
            db.execute(mine.values(state="failed", attempts=count, done_at=now(), lease_until=None))
            return
        wait = max(delay(count, self._first) * random.uniform(0.9, 1.2), min(answer.retry_after, LAST))
        again = mine.where(d.state == "waiting").values(attempts=count, next_at=now() + wait, lease_until=None)
        if answer.status == 413 and row["body"]:
            again = again.values(body=shortened(row["body"]))
        db.execute(again)

    def _clean(self) -> None:
        """Removes deliveries that are over for long, with their log, and what others say of data that was removed."""
        until = now() - self._settings.delivery_keep_days * 86400
        with self._database.write() as db:
            old = sa.select(d.id).where(d.state != "waiting", d.created_at < until)
            db.execute(sa.delete(tables.attempts).where(tables.attempts.c.delivery_id.in_(old)))
            db.execute(sa.delete(tables.deliveries).where(d.state != "waiting", d.created_at < until))
            removed = sa.select(tables.runs.c.id).where(tables.runs.c.data_removed)
            forgotten = sa.update(tables.deliveries).where(d.run_id.in_(removed), d.state != "waiting")
            db.execute(forgotten.values(body=None))


def _hear(listener: bell.Listener, rung: asyncio.Event) -> None:
    listener.heard()
    rung.set()


def _free() -> sa.ColumnElement[bool]:
    return sa.or_(d.lease_until.is_(None), d.lease_until < now())


def _due() -> sa.Select[Any]:
    """What may be sent now. The events of a run go out in order, but one that fails does not hold up the next."""
    o = tables.deliveries.alias("o")
    order = {event: number for number, event in enumerate(EVENTS)}
    before = sa.or_(
        o.c.created_at < d.created_at,
        sa.and_(
            o.c.created_at == d.created_at,
            sa.case(order, value=o.c.event, else_=9) < sa.case(order, value=d.event, else_=9),
        ),
    )
    holds_up = sa.or_(o.c.lease_until >= now(), sa.and_(o.c.attempts == 0, o.c.next_at <= now()))
    earlier = sa.exists().where(o.c.run_id == d.run_id, o.c.state == "waiting", before, holds_up)
    query = sa.select(d.id, d.url).where(d.state == "waiting", d.next_at <= now(), _free(), ~earlier)
    return query.order_by(d.next_at, d.created_at).limit(AT_ONCE * 8)


DUE = _due()


def _newer(db: Connection, row: Mapping[str, Any]) -> bool:
    later = (d.run_id == row["run_id"], d.id != row["id"], d.created_at >= row["created_at"])
    return bool(db.execute(sa.select(sa.exists().where(*later))).scalar())


# ── the message ───────────────────────────────────────────────────────────────────────────────────────────────────────


def as_at(event: str, run: Mapping[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """The run's JSON for an event that is sent late: only `completed` says that it is over."""
    if event in FINAL or run["completed_at"] is None or run["source"] == "bfl":
        return body
    body = {key: value for key, value in body.items() if key not in LATER} | {"status": "processing", "error": None}
    if event == "start":
        body["logs"] = ""
        if "output" in body:
            body["output"] = None
    if run["kind"] == "training":
        body.pop("output", None)
    return body


def signed(row: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an attempt, made at its moment: a receiver turns away what is older than minutes."""
    from standardwebhooks import Webhook

    from vividcover import __version__

    at, body = datetime.now(UTC), row["body"]
    own = row["secret"]  # one that the caller brought is any text; the account's is whsec_ and base64
    headers = {
        "content-type": "application/json",
        "user-agent": f"vividcover/{__version__}",
        "webhook-id": row["id"],
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(own.encode() if own else row["key"]).sign(row["id"], at, body),
    }
    if own:  # as BFL signs
        headers["x-bfl-signature"] = "sha256=" + hmac.new(own.encode(), body.encode(), hashlib.sha256).hexdigest()
    return headers


def explained(status: int, headers: Mapping[str, str]) -> str | None:
    """What is wrong with an answer, for the log; None for one that is good."""
    if 200 <= status < 300:
        return None
    if status in REDIRECTS:
        to = headers.get("location", "nowhere")[:300]
        return f"HTTP {status}: redirects to {to}. Redirects are not followed: give the final address as the webhook."
    if status == 410:
        return "HTTP 410: the receiver wants no more; it is not sent again."
    if status == 413:
        return "HTTP 413: too large for the receiver; sent again with only the end of the logs."
    return f"HTTP {status}"


def shortened(body: str) -> str:
    """The message with only the end of its logs."""
    content = json.loads(body)
    logs = content.get("logs")
    if not isinstance(logs, str) or len(logs) <= KEPT_LOGS:
        return body
    return encoded(content | {"logs": f"[{len(logs) - KEPT_LOGS} characters left out]\n{logs[-KEPT_LOGS:]}"})


def delay(attempts: int, first: float = FIRST) -> float:
    """Seconds between an attempt, the first is 1, and the next."""
    return min(LAST, first * 2.0 ** min(attempts - 1, 40))


def tries(seconds: float, first: float = FIRST) -> int:
    """How many attempts fill this time."""
    count, until = 1, 0.0
    while (until := until + delay(count, first)) <= seconds:
        count += 1
    return count


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


__all__ = ["Answer", "Present", "Sender"]
