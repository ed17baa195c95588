"""`vividcover account …`, `vividcover token …`, `vividcover usage`, `vividcover webhooks …`.

They write and read the database themselves, so they work with and without a running server.
"""

from __future__ import annotations

import datetime
import json as jsonlib
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vividcover.cli.console import Json, table
from vividcover.errors import ParameterError

if TYPE_CHECKING:
    from vividcover.store.database import Database

account = typer.Typer(no_args_is_help=True, help="Accounts of the server: create, list, budget.")
token = typer.Typer(no_args_is_help=True, help="Tokens of the server's API: create, list, revoke, budget.")

webhooks = typer.Typer(no_args_is_help=True, help="Webhooks that were sent and are to be: list, log, redeliver.")

UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "y": 365 * 86400.0}  # seconds
NONE = "none"

Account = Annotated[str, typer.Option("--account", help="Username of the account.")]
Which = Annotated[str, typer.Argument(help="The token's id, name, or the token itself.")]
Budget = Annotated[float | None, typer.Option("--budget", min=0, help="USD that may be used in a calendar month.")]


def opened() -> Database:
    """The database of the settings, with all its tables and its first account."""
    from vividcover.settings import settings
    from vividcover.store.accounts import first_account
    from vividcover.store.database import Database
    from vividcover.store.migrate import upgrade

    database = Database(settings().database_url)
    upgrade(database)
    first_account(database)
    return database


@account.command("create")
def account_create(
    username: Annotated[str, typer.Argument(help="As in USERNAME/model.")],
    name: Annotated[str, typer.Option("--name", help="The name that people read.")] = "",
    organization: Annotated[bool, typer.Option("--organization", help="It is not a person.")] = False,
    budget: Budget = None,
    json: Json = False,
) -> None:
    """Make an account. Its runs, files and private models are seen by its own tokens only."""
    from vividcover.store import accounts

    made = accounts.create_account(
        opened(), username, name=name, type="organization" if organization else "user", budget_usd=budget
    )
    _told({"id": made["id"], "username": username}, f"Account {username} is made.", json)


@account.command("list")
def account_list(json: Json = False) -> None:
    """Every account and its budget."""
    from vividcover.store import accounts

    rows = [
        {
            "username": row["username"], "name": row["name"], "type": row["type"], "budget_usd": row["budget_usd"],
            "alerts_to": row["alert_webhook"], "created": _day(row["created_at"]),
        }
        for row in accounts.list_accounts(opened())
    ]  # fmt: skip
    _table(rows, json, "")


@account.command("budget")
def account_budget(
    username: Annotated[str, typer.Argument(help="The account.")],
    usd: Annotated[str, typer.Argument(help="USD a calendar month, or none.")],
    alerts: Annotated[
        str | None, typer.Option("--alerts", help="Link that is told when 50, 80 and 100 % are used; none: nobody.")
    ] = None,
    json: Json = False,
) -> None:
    """Set what an account may use in a month.

    And who is told at 50, 80 and 100 % of it.
    """
    from vividcover.outbound import check_link
    from vividcover.settings import settings
    from vividcover.store import accounts

    values: dict[str, Any] = {"budget_usd": _usd(usd)}
    if alerts is not None:
        if alerts != NONE:
            check_link(alerts, settings().private_endpoints)
        values["alert_webhook"] = None if alerts == NONE else alerts
    accounts.change_account(opened(), username, **values)
    _told({"username": username, **values}, f"{username}: {usd} USD a month.", json)


@token.command("create")
def token_create(
    scope: Annotated[str, typer.Option("--scope", help="What it may do: read write train admin.")] = "read write train",
    account: Annotated[
        str, typer.Option("--account", help="Account to share with its other tokens; default: one of its own.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="To tell it from others.")] = "",
    expires: Annotated[str, typer.Option("--expires", help="Its lifetime: 12h, 30d, 1y; default: for good.")] = "",
    budget: Budget = None,
    rate: Annotated[
        int | None, typer.Option("--rate", min=1, help="Runs that it may create a minute; default: the setting.")
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Runs of a higher priority go first.")
    ] = 0,
    consent: Annotated[
        str | None, typer.Option("--consent", help="Whom its holder trains on and that they agree, in words.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a token. It is shown once; the server keeps only its hash.

    What is run, uploaded and trained with it is seen by tokens of the same account only. The first token is that of the
    account admin; each further one has an account of its own, unless --account names one to share.
    """
    from vividcover.store import accounts

    scopes = accounts.check_scopes(scope.replace(",", " ").split())
    trains = "train" in scopes or "admin" in scopes
    said = accounts.STATEMENT if consent is None and trains else consent or ""
    database = opened()
    owner = accounts.get_account(database, account) if account else accounts.fresh_account(database)
    text, row = accounts.create_token(
        database, owner["id"], scopes=scopes, name=name, consent=said,
        expires_in=_duration(expires), budget_usd=budget, priority=priority, rate_per_minute=rate,
    )  # fmt: skip
    if said:
        _say(f"Consent that every training with this token carries (--consent says it in your words): {said}")
    shown = {
        "token": text,
        "id": row["id"],
        "account": owner["username"],
        "scopes": scopes,
        "name": name,
        "consent": said,
    }
    _told(shown, text, json)


@token.command("list")
def token_list(json: Json = False) -> None:
    """Every token, without the token itself."""
    from vividcover.store import accounts

    rows = [
        {
            "id": row["id"], "account": row["username"], "name": row["name"], "token": row["hint"],
            "scopes": row["scopes"], "budget_usd": row["budget_usd"], "created": _day(row["created_at"]),
            "expires": _day(row["expires_at"]), "revoked": _day(row["revoked_at"]),
            "last_used": _day(row["last_used_at"]),
        }
        for row in accounts.list_tokens(opened())
    ]  # fmt: skip
    _table(rows, json, "There are no tokens yet: vividcover token create.")


@token.command("revoke")
def token_revoke(which: Which, json: Json = False) -> None:
    """End a token. Runs that it started go on."""
    from vividcover.store import accounts

    database = opened()
    row = accounts.find_token(database, which)
    accounts.revoke(database, row["id"])
    _told({"id": row["id"], "revoked": True}, f"{row['hint']} is revoked.", json)


@token.command("budget")
def token_budget(
    which: Which,
    usd: Annotated[str, typer.Argument(help="USD a calendar month, or none.")],
    json: Json = False,
) -> None:
    """Set what a token may use in a month.

    Its account's budget holds besides.
    """
    from vividcover.store import accounts

    database = opened()
    row = accounts.find_token(database, which)
    accounts.change_token(database, row["id"], budget_usd=_usd(usd))
    _told({"id": row["id"], "budget_usd": _usd(usd)}, f"{row['hint']}: {usd} USD a month.", json)


def usage(
    by: Annotated[
        Literal["model", "token", "device", "engine", "day"], typer.Option("--by", help="What the rows stand for.")
    ] = "model",
    account: Annotated[str, typer.Option("--account", help="Only this account's; default: all.")] = "",
    days: Annotated[
        float | None, typer.Option("--days", min=0.001, help="The last days; default: this calendar month (UTC).")
    ] = None,
    json: Json = False,
) -> None:
    """What runs used.

    How many, seconds of work, bytes of output, USD by the table of prices.
    """
    from sqlalchemy import select

    from vividcover.runs import usage as ledger
    from vividcover.store import accounts
    from vividcover.store.database import now

    database = opened()
    owner = accounts.get_account(database, account)["id"] if account else None
    with database.read() as db:
        since = ledger.month_start(db) if days is None else db.execute(select(now())).scalar_one() - days * 86400
        rows = ledger.totals(db, by, account_id=owner, since=since)
        total = ledger.totals(db, None, account_id=owner, since=since)[0]
    if json:
        typer.echo(jsonlib.dumps({"since": _day(since), "by": by, "rows": rows, "total": total}))
        return
    _table([*rows, {by: "in all", **total}] if rows else [], False, f"Nothing was used since {_day(since)}.")


@webhooks.command("list")
def webhooks_list(
    run: Annotated[str | None, typer.Option("--run", help="Only those of this run.")] = None,
    state: Annotated[
        Literal["waiting", "sent", "failed"] | None, typer.Option("--state", help="Only those in this state.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest first.")] = 50,
    json: Json = False,
) -> None:
    """Deliveries and what came of each."""
    from vividcover.runs import webhooks as outbox

    with opened().read() as db:
        rows = [
            {
                "id": row["id"], "run": row["run_id"] or "", "event": row["event"], "state": row["state"],
                "attempts": row["attempts"], "created": _day(row["created_at"]),
                "next": _day(row["next_at"]) if row["state"] == "waiting" else "", "to": row["url"],
                "last": row["error"] or (f"HTTP {row['status']}" if row["status"] else ""),
            }
            for row in outbox.deliveries(db, run_id=run, state=state, limit=limit)
        ]  # fmt: skip
    _table(rows, json, "No webhook was asked for yet.")


@webhooks.command("log")
def webhooks_log(delivery: Annotated[str, typer.Argument(help="Its id, msg_….")], json: Json = False) -> None:
    """Every attempt of one delivery."""
    from vividcover.runs import webhooks as outbox

    with opened().read() as db:
        outbox.delivery(db, delivery)
        rows = [
            {
                "at": _day(row["at"]),
                "status": row["status"] or "",
                "seconds": row["seconds"],
                "error": row["error"] or "",
            }
            for row in outbox.attempts(db, delivery)
        ]
    _table(rows, json, "It was not tried yet.")


@webhooks.command("redeliver")
def webhooks_redeliver(
    delivery: Annotated[list[str] | None, typer.Argument(help="Ids, msg_….")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that were given up: ends of runs, alerts.")] = False,
    json: Json = False,
) -> None:
    """Send again what was sent or given up, under the same webhook-id. The running server does it."""
    from vividcover.runs import bell
    from vividcover.runs import webhooks as outbox
    from vividcover.settings import settings

    if not delivery and not failed:
        raise ParameterError("No delivery is named.", "Give ids, or --failed for all that were given up.")
    with opened().write() as db:
        ids = list(delivery or [])
        given_up = outbox.deliveries(db, state="failed", limit=100_000) if failed else ()
        ids += [row["id"] for row in given_up if row["event"] in outbox.FINAL]
        for id in ids:
            outbox.redeliver(db, id)
    bell.ring("webhooks", home=settings().home)
    _told({"redelivered": ids}, f"{len(ids)} to be sent again", json)


def _usd(text: str) -> float | None:
    if text == NONE:
        return None
    try:
        return float(text)
    except ValueError:
        raise ParameterError(f"{text!r} is not an amount of USD.", "For example 25, or none.") from None


def _duration(text: str) -> float | None:
    """Seconds of `30d`; None of nothing. Raises `ParameterError`."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdwy])", text)
    if not found:
        raise ParameterError(f"--expires {text!r} is not a time.", "For example 90m, 12h, 30d, 4w, 1y.")
    return float(found[1]) * UNITS[found[2]]


def _day(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _table(rows: list[dict[str, Any]], as_json: bool, empty: str) -> None:
    table(rows, list(rows[0]) if rows else [], as_json, empty)


def _told(values: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(jsonlib.dumps(values) if as_json else text)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
