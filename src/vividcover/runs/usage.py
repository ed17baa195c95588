"""What runs cost: seconds by device and model, bytes kept, and USD by a table of prices; budgets and their alerts.

    new = reserve(db, principal, new)                   # in the transaction that creates the run
    record(db, row, device, engine, seconds, bytes)     # in the transaction that ends it

A budget is of a calendar month (UTC), of an account or of a token. It is exact however many runs are created at once:
every open run holds what it is expected to cost, and whoever creates one under a budget holds the account's row.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vividcover import prices
from vividcover.errors import BudgetError, ParameterError
from vividcover.runs.states import OPEN, NewRun
from vividcover.settings import settings
from vividcover.store import tables
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.prepared import Prepared

THRESHOLDS = (1.0, 0.8, 0.5)  # of a budget, at which somebody is told
LATEST = 20  # runs of a model whose mean length is what the next one is expected to take
DUST = 1e-9  # USD: what adding many small amounts may be off by

USED = Prepared(lambda: sa.insert(tables.usage).values(at=now()))

By = Literal["model", "token", "device", "engine", "day"]
Row = Mapping[str, Any]


def price(serves: str, input: Mapping[str, Any], device: str = "*") -> tuple[str, float]:
    """("output" | "second", USD) of a catalog model, with the operator's prices over `prices.PRICES`."""
    return prices.price(serves, input, device, settings().prices)


def record(
    db: Connection, run: Row, device: str, engine: str, seconds: float, size: int, *, usd: float | None = None
) -> float:
    """Writes down what a run used and tells of thresholds that it passed; its USD. Part of the ending transaction.

    `size`: bytes of its output. `usd`: where it is known; else what another service said of the run's stages, else the
    table of prices.
    """
    if usd is None and engine != "classic" and (there := _there(db, run["id"])):
        usd, seconds = there
    if usd is None:
        unit, each = price(run["serves"], run["input"], engine if engine == "hosted" else device)
        usd = each * (seconds if unit == "second" else len((run["output"] or {}).get("files", [])))
    USED.do(db, {
        "account_id": run["account_id"], "token_id": run["token_id"], "run_id": run["id"], "model": run["model"],
        "device": device, "engine": engine, "seconds": seconds, "bytes": size, "usd": usd,
    })  # fmt: skip
    if usd:
        _alert(db, run["account_id"], run["token_id"])
    return usd


def _there(db: Connection, run_id: str) -> tuple[float, float] | None:
    """(USD, seconds) of the stages that another service did for the run; None where it did none, or does not say.

    One from the cache costs nothing again, and one that an earlier attempt of the run has paid is counted here.
    """
    done = HOSTED.rows(db, {"run": run_id})
    paid = [one for one in done if not one["hit"]]
    if not done or any(one["usd"] is None for one in paid):
        return None
    return sum(one["usd"] for one in paid), sum(one["hosted_seconds"] or 0.0 for one in paid)


def _hosted() -> sa.Select[Any]:
    c = tables.stages.c
    return sa.select(c.hit, c.usd, c.hosted_seconds).where(c.run_id == sa.bindparam("run"), c.name.like("hosted/%/%"))


HOSTED = Prepared(_hosted)


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def reserve(db: Connection, principal: Principal, new: NewRun) -> NewRun:
    """The run with what it is expected to cost, which it holds until it is over. In the transaction that creates it.

    Raises `BudgetError` when the account or the token cannot pay for it this month.
    """
    if not principal.budgeted:
        return new
    purses = _purses(db, principal.account_id, principal.token_id)
    if not purses:
        return new
    since = month_start(db)
    expected = _expected(db, new, since)
    for purse in purses:
        used, held = _spent(db, purse, since), _held(db, purse)
        budget = purse["budget_usd"]
        if used + held + expected > budget + DUST or used + held >= budget - DUST:
            also = f", {held:.2f} USD are held by open runs" if held else ""
            raise BudgetError(
                f"The budget of {purse['what']} is {budget:.2f} USD a month: {used:.2f} USD are used{also}, and this "
                f"run is expected to cost {expected:.4f} USD.",
                f"It begins anew on the 1st; `vividcover {purse['kind']} budget` changes it.",
            )
    return replace(new, reserved_usd=expected)


def _purses(db: Connection, account_id: str, token_id: str, *, lock: bool = True) -> list[dict[str, Any]]:
    """The account's and the token's budget, as far as they have one; their rows are held until the transaction ends.

    (SQLite has one writer at a time anyway.)
    """
    found = []
    for kind, table, id in (("account", tables.accounts, account_id), ("token", tables.tokens, token_id)):
        query = sa.select(table).where(table.c.id == id, table.c.budget_usd.is_not(None))
        row = db.execute(query.with_for_update(key_share=True) if lock else query).mappings().first()
        if row:
            name = f"the account {row['username']}" if kind == "account" else f"the token {row['name'] or row['hint']}"
            found.append({**row, "kind": kind, "what": name, "table": table})
    return found


def _expected(db: Connection, new: NewRun, since: float) -> float:
    """By the number of outputs asked for, or by what the account's last runs of the model cost."""
    unit, each = price(new.serves, new.input)
    if unit == "output":
        count = new.input.get("num_outputs", 1)
        return each * (count if isinstance(count, int) and 1 <= count <= 100 else 1)
    u = tables.usage.c
    latest = (
        sa.select(u.usd).where(u.account_id == new.account_id, u.at >= since, u.model == new.model)
        .order_by(u.at.desc()).limit(LATEST).subquery()
    )  # fmt: skip
    return float(db.execute(sa.select(sa.func.avg(latest.c.usd))).scalar() or 0.0)


def _spent(db: Connection, purse: Row, since: float) -> float:
    u = tables.usage.c
    owner = u.account_id if purse["kind"] == "account" else u.token_id
    query = sa.select(sa.func.coalesce(sa.func.sum(u.usd), 0.0)).where(owner == purse["id"], u.at >= since)
    return float(db.execute(query).scalar_one())


def _held(db: Connection, purse: Row) -> float:
    r = tables.runs.c
    owner = r.account_id if purse["kind"] == "account" else r.token_id
    query = sa.select(sa.func.coalesce(sa.func.sum(r.reserved_usd), 0.0)).where(
        owner == purse["id"], r.completed_at.is_(None), r.status.in_(OPEN)
    )
    return float(db.execute(query).scalar_one())


def _alert(db: Connection, account_id: str, token_id: str) -> None:
    """Tells the account's alert webhook of the highest threshold that is reached, once a month each."""
    from vividcover.runs import webhooks

    purses = _purses(db, account_id, token_id)
    if not purses:
        return
    since = month_start(db)
    month = datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m")
    a = tables.accounts.c
    for purse in purses:
        used, budget = _spent(db, purse, since), purse["budget_usd"]
        reached = next((t for t in THRESHOLDS if used >= t * budget - DUST), 0.0)
        told_month, _, told = purse["alerted"].partition(":")
        if reached <= (float(told) if told_month == month else 0.0):
            continue
        table = purse["table"]
        db.execute(sa.update(table).where(table.c.id == purse["id"]).values(alerted=f"{month}:{reached}"))
        username, url = db.execute(sa.select(a.username, a.alert_webhook).where(a.id == account_id)).one()
        if url:
            data = {
                "account": username, "token": None if purse["kind"] == "account" else purse["name"] or purse["hint"],
                "month": month, "threshold": reached, "used_usd": round(used, 6), "budget_usd": budget,
            }  # fmt: skip
            webhooks.queue_alert(db, account_id, url, "budget.threshold", data)


def month_start(db: Connection) -> float:
    """When the running month began (UTC), by the database's clock, unix seconds."""
    at = datetime.datetime.fromtimestamp(float(db.execute(sa.select(now())).scalar_one()), datetime.UTC)
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def totals(
    db: Connection, by: By | None, *, account_id: str | None = None, since: float = 0.0, until: float | None = None
) -> list[dict[str, Any]]:
    """Rows {by, runs, seconds, bytes, usd}, the dearest first; one row without `by` for None. Times: unix seconds."""
    u = tables.usage.c
    columns: Sequence[sa.ColumnElement[Any]] = (
        sa.func.count().label("runs"),
        *(sa.func.coalesce(sa.func.sum(column), 0).label(column.name) for column in (u.seconds, u.bytes, u.usd)),
    )  # fmt: skip
    query = sa.select(*columns).where(u.at >= since)
    if by is not None:
        key = _key(by)
        query = sa.select(key.label(by), *columns).where(u.at >= since).group_by(by)
        query = query.order_by(sa.desc("usd"), sa.desc("seconds"), sa.asc(by))
        if by == "token":
            query = query.select_from(tables.usage.outerjoin(tables.tokens, tables.tokens.c.id == u.token_id))
    if account_id is not None:
        query = query.where(u.account_id == account_id)
    if until is not None:
        query = query.where(u.at < until)
    rows = [dict(row) for row in db.execute(query).mappings()]
    for row in rows:
        row["seconds"], row["usd"] = round(float(row["seconds"]), 3), round(float(row["usd"]), 6)
        row["bytes"] = int(row["bytes"])
        if by == "day":
            row["day"] = datetime.datetime.fromtimestamp(row["day"] * 86400, datetime.UTC).strftime("%Y-%m-%d")
    return rows


def _key(by: str) -> sa.ColumnElement[Any]:
    u = tables.usage.c
    if by == "token":
        t = tables.tokens.c
        return sa.case((t.name != "", t.name), else_=sa.func.coalesce(t.hint, u.token_id))
    if by == "day":
        return sa.cast(u.at, sa.BigInteger) // 86400
    if by not in ("model", "device", "engine"):
        raise ParameterError(f"by={by!r} is unknown.", "model, token, device, engine or day.")
    return u[by]


def budgets(db: Connection, account_id: str, token_id: str) -> list[dict[str, Any]]:
    """The budgets that apply to a token: {of, name, budget_usd, used_usd, held_usd}."""
    since = month_start(db)
    return [
        {
            "of": purse["kind"], "name": purse["what"].split(" ", 2)[2], "budget_usd": purse["budget_usd"],
            "used_usd": round(_spent(db, purse, since), 6), "held_usd": round(_held(db, purse), 6),
        }
        for purse in _purses(db, account_id, token_id, lock=False)
    ]  # fmt: skip
