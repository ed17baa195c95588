"""Webhooks over HTTP: the secret that they are signed with, what was sent and what came of it, and once more."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Query
from sqlalchemy.engine import Connection, RowMapping

from vividcover.runs import bell
from vividcover.runs import webhooks as outbox
from vividcover.runs.sender import Sender
from vividcover.server import bfl, shapes
from vividcover.server.auth import Reads, Writes
from vividcover.server.public import Links
from vividcover.server.runs import with_logs
from vividcover.server.shapes import time
from vividcover.server.state import Here, State
from vividcover.store import tables
from vividcover.store.accounts import insert_new

router = APIRouter(tags=["webhooks"])
LOCAL = "http://127.0.0.1:5000"


@router.get("/v1/webhooks/default/secret", summary="The secret that your webhooks are signed with")
async def secret(who: Reads, here: Here) -> dict[str, str]:
    column = tables.accounts.c.webhook_secret
    query = sa.select(column).where(tables.accounts.c.id == who.account_id)
    return {"key": str(await here.read(lambda db: db.execute(query).scalar_one()))}


@router.get("/v1/webhooks/deliveries", summary="What was sent to your webhooks, the newest first")
async def deliveries(
    who: Reads, here: Here, run: str | None = None, state: str | None = None, limit: int = Query(100, ge=1, le=1000)
) -> dict[str, Any]:
    def ask(db: Connection) -> list[dict[str, Any]]:
        found = outbox.deliveries(db, account_id=_whose(who), run_id=run, state=state, limit=limit)
        return [_shown(row) for row in found]

    return {"results": await here.read(ask)}


@router.get("/v1/webhooks/deliveries/{delivery_id}", summary="One delivery and every attempt of it")
async def delivery(who: Reads, here: Here, delivery_id: str) -> dict[str, Any]:
    return await here.read(lambda db: _whole(db, delivery_id, _whose(who)))


@router.post("/v1/webhooks/deliveries/{delivery_id}/redeliver", status_code=202, summary="Send it again")
async def redeliver(who: Writes, here: Here, delivery_id: str) -> dict[str, Any]:
    """It keeps its `webhook-id`, so a receiver that has it already can tell."""

    def again(db: Connection) -> dict[str, Any]:
        outbox.redeliver(db, delivery_id, _whose(who))
        return _whole(db, delivery_id, _whose(who))

    shown = await here.write(again)
    bell.ring("webhooks", home=here.settings.home)
    return shown


def _whose(who: Any) -> str:
    return str(who.account_id)


def _whole(db: Connection, delivery_id: str, account_id: str | None) -> dict[str, Any]:
    row = outbox.delivery(db, delivery_id, account_id)
    log = [
        {"at": time(one["at"]), "status": one["status"], "error": one["error"], "seconds": one["seconds"]}
        for one in outbox.attempts(db, delivery_id)
    ]
    return {**_shown(row), "log": log}


def _shown(row: RowMapping) -> dict[str, Any]:
    shown = {
        "id": row["id"], "run": row["run_id"], "event": row["event"], "url": row["url"], "state": row["state"],
        "attempts": row["attempts"], "created_at": time(row["created_at"]), "done_at": time(row["done_at"]),
        "next_at": time(row["next_at"]) if row["state"] == "waiting" else None,
    }  # fmt: skip
    return shown | {key: row[key] for key in ("status", "error") if key in row}


# ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Outgoing:
    """The thread that sends webhooks, and what links inside their messages begin with.

    A message is made when nobody asks for it, so there is no request whose address could be taken: it is the setting
    `public_url`, else the address under which the account last asked for a run with a webhook.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._stop = threading.Event()
        sender = Sender(state.database, state.settings, self.present)
        self._thread = threading.Thread(target=sender.run, args=(self._stop,), name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        bell.ring("webhooks", home=self._state.settings.home)
        self._thread.join(5)

    def remember(self, db: Connection, account_id: str, base: str) -> None:
        """Called where a run with a webhook is made, in its transaction."""
        facts, name = tables.facts, f"base:{account_id}"
        known = db.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar()
        if known is None:
            insert_new(db, facts, {"name": name, "value": base})
        elif known != base:
            db.execute(sa.update(facts).where(facts.c.name == name).values(value=base))

    def present(self, db: Connection, run: RowMapping) -> dict[str, Any]:
        """The run as GET shows it to its account."""
        row, logs = with_logs(db, run["id"])
        base = (
            self._state.settings.public_url
            or db.execute(
                sa.select(tables.facts.c.value).where(tables.facts.c.name == f"base:{run['account_id']}")
            ).scalar()
        )
        links = Links((base or LOCAL).rstrip("/"), self._state.key)
        return bfl.result(db, row, links) if run["source"] == "bfl" else shapes.run(row, links, logs=logs)
