"""Webhooks over HTTP: the secret that they are signed with, what was sent and what came of it, and once more."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Query
from sqlalchemy.engine import Connection, RowMapping

from vividcover.runs import bell
from vividcover.runs import webhooks as outbox
from vividcover.server.auth import Reads, Writes
from vividcover.server.shapes import time
from vividcover.server.state import Here
from vividcover.store import tables

router = APIRouter(tags=["webhooks"])


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


def _whose(who: Any) -> str | None:
    return None if who.admin else str(who.account_id)


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
