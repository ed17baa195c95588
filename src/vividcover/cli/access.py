"""`vividcover account …`, `vividcover token …`, `vividcover usage`, `vividcover webhooks …`.

They write and read the database themselves, so they work with and without a running server.
"""

from __future__ import annotations

import datetime
import json as jsonlib
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vividcover.cli.console import Json, table
from vividcover.errors import ParameterError

if TYPE_CHECKING:
    from vividcover.store.database import Database

account = typer.Typer(no_args_is_help=True, help="Accounts of the server: create, list, budget.")
token = typer.Typer(no_args_is_help=True, help="Tokens of the server's API: create, list, revoke, budget.")

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
    """Set what an account may use in a month, and who is told at 50, 80 and 100 % of it."""
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
    account: Account = "admin",
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
    """Make a token. It is shown once; the server keeps only its hash."""
    from vividcover.store import accounts

    scopes = accounts.check_scopes(scope.replace(",", " ").split())
    trains = "train" in scopes or "admin" in scopes
    said = accounts.STATEMENT if consent is None and trains else consent or ""
    database = opened()
    text, row = accounts.create_token(
        database, accounts.get_account(database, account)["id"], scopes=scopes, name=name, consent=said,
        expires_in=_duration(expires), budget_usd=budget, priority=priority, rate_per_minute=rate,
    )  # fmt: skip
    if said:
        _say(f"Consent that every training with this token carries (--consent says it in your words): {said}")
    shown = {"token": text, "id": row["id"], "account": account, "scopes": scopes, "name": name, "consent": said}
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
    """Set what a token may use in a month, besides the budget of its account."""
    from vividcover.store import accounts

    database = opened()
    row = accounts.find_token(database, which)
    accounts.change_token(database, row["id"], budget_usd=_usd(usd))
    _told({"id": row["id"], "budget_usd": _usd(usd)}, f"{row['hint']}: {usd} USD a month.", json)


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
