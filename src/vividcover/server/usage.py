"""What an account used: `GET /v1/usage?by=model`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy.engine import Connection

from vividcover.runs import usage as ledger
from vividcover.server.auth import Reads
from vividcover.server.problems import invalid
from vividcover.server.shapes import time
from vividcover.server.state import Here

router = APIRouter(tags=["usage"])


@router.get("/v1/usage", summary="Seconds, bytes and USD of your runs, and what is left of budgets")
async def usage(
    who: Reads, here: Here, by: ledger.By = "model", since: str | None = None, until: str | None = None,
    everybody: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`since` and `until` are ISO 8601; by default the running calendar month (UTC). `everybody`: for admin tokens."""
    account = None if everybody and who.admin else who.account_id
    begin, end = _seconds("since", since), _seconds("until", until)

    def ask(db: Connection) -> dict[str, Any]:
        start = ledger.month_start(db) if begin is None else begin
        return {
            "since": time(start), "until": time(end), "by": by, "currency": "USD",
            "results": ledger.totals(db, by, account_id=account, since=start, until=end),
            "total": ledger.totals(db, None, account_id=account, since=start, until=end)[0],
            "budgets": ledger.budgets(db, who.account_id, who.token_id),
        }  # fmt: skip

    return await here.read(ask)


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise invalid({name: f"{text[:40]!r} is not a time such as 2026-11-20T12:00:00Z"}) from None
