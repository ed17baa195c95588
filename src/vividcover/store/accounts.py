"""Accounts, their tokens, and the names that are theirs.

A token is shown once, when it is made; the database keeps its sha256. Scopes: `read`, `write` (runs, files, models),
`train`, `admin` (every call, and everybody's usage; never another account's runs, files or private models).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from vividcover.errors import AccessError, ForbiddenError, NotFoundError, ParameterError
from vividcover.store import tables
from vividcover.store.database import Database, now
from vividcover.store.ids import new_id, new_token

SCOPES = ("read", "write", "train", "admin")
FIRST = "admin"  # the account that the first start makes
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")  # as in owner/name
SEEN = 60.0  # seconds; `last_used_at` is not written more often: reading must not become writing
STATEMENT = "The holder of this token states that everybody whose face or voice is trained with it has agreed to that."
UNKNOWN = "You did not pass a valid authentication token"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a token and the account that it belongs to."""

    account_id: str
    username: str
    token_id: str
    token_name: str
    scopes: frozenset[str]
    admin: bool  # the token may do everything
    priority: int
    rate: int | None  # requests that create, a minute; None: the setting
    consent: str  # what the holder states about the people whom they train on; "": nothing
    budgeted: bool = False  # the account or the token has a budget

    def may(self, scope: str) -> bool:
        return self.admin or scope in self.scopes

    def demand(self, scope: str) -> None:
        """Raises `ForbiddenError` unless the token has the scope."""
        if not self.may(scope):
            has = " ".join(sorted(self.scopes)) or "none"
            raise ForbiddenError(
                f"This needs the scope {scope!r}; the token has: {has}.",
                f'Make one that has it: vividcover token create --scope "{has} {scope}".',
            )


def new_webhook_secret() -> str:
    """`whsec_` and 24 random bytes in plain base64: an official client splits it at `_` and wants two parts."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def create_account(
    database: Database, username: str, *, name: str = "", type: str = "user", admin: bool = False,
    budget_usd: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A new account, whose username is its first owner name. Raises `ParameterError` for a name that is taken."""
    check_name(username)
    if type not in ("user", "organization"):
        raise ParameterError(f"type={type!r} is not user or organization.")
    check_budget(budget_usd)
    row = {
        "id": new_id(), "username": username, "name": name or username, "type": type, "admin": admin,
        "webhook_secret": new_webhook_secret(), "budget_usd": budget_usd, "alerted": "",
    }  # fmt: skip
    with database.write() as db:
        if not insert_new(db, tables.accounts, {**row, "created_at": now()}):
            raise ParameterError(f"There is an account {username!r} already.", "Choose another name.")
        if not insert_new(db, tables.owners, {"name": username.lower(), "account_id": row["id"]}):
            raise ParameterError(f"The name {username!r} is taken by an owner of models.", "Choose another name.")
    return row


def first_account(database: Database) -> dict[str, Any]:
    """The account `admin`, made when there is none. Several processes may ask at once."""
    known = find_account(database, FIRST)
    if known is None:
        try:
            return create_account(database, FIRST, admin=True)
        except ParameterError:
            known = find_account(database, FIRST)
            if known is None:
                raise
    return known


def fresh_account(database: Database) -> dict[str, Any]:
    """For a token that is to share with nobody: the first account while it has no token, else a new one."""
    first = first_account(database)
    with database.read() as db:
        if not db.execute(sa.select(tables.tokens.c.id).where(tables.tokens.c.account_id == first["id"])).first():
            return first
    return create_account(database, f"user-{new_id()[:8]}")


def find_account(database: Database, username: str) -> dict[str, Any] | None:
    with database.read() as db:
        row = db.execute(sa.select(tables.accounts).where(tables.accounts.c.username == username)).mappings().first()
    return dict(row) if row else None


def get_account(database: Database, username: str) -> dict[str, Any]:
    """Raises `NotFoundError`."""
    found = find_account(database, username)
    if found is None:
        raise NotFoundError(
            f"There is no account {username!r}.", f"`vividcover account create {username}` makes it; `account list`."
        )
    return found


def list_accounts(database: Database) -> Sequence[RowMapping]:
    with database.read() as db:
        return db.execute(sa.select(tables.accounts).order_by(tables.accounts.c.username)).mappings().all()


def change_account(database: Database, username: str, **values: Any) -> None:
    """Sets columns of an account (budget_usd, alert_webhook, storage_limit, name). Raises `NotFoundError`."""
    check_budget(values.get("budget_usd"))
    if "budget_usd" in values:
        values["alerted"] = ""  # a new budget has new thresholds
    with database.write() as db:
        changed = db.execute(
            sa.update(tables.accounts).where(tables.accounts.c.username == username).values(**values)
        ).rowcount
    if not changed:
        get_account(database, username)


def check_name(name: str) -> None:
    """Raises `ParameterError` for what cannot be the first part of owner/name."""
    if not NAME.fullmatch(name):
        raise ParameterError(
            f"{name[:80]!r} is not a name for an account.",
            "Letters, digits, dots, dashes and underscores, at most 64, a letter or digit first and last.",
        )


def check_budget(usd: float | None) -> None:
    """Raises `ParameterError` for what is not an amount of money."""
    if usd is not None and not 0 <= usd < 1e9:
        raise ParameterError(f"A budget of {usd} USD a month is out of range.", "Give 0 or more, or none for no limit.")


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def create_token(
    database: Database, account_id: str, *, scopes: Collection[str] = ("read", "write", "train"), name: str = "",
    consent: str = "", expires_in: float | None = None, budget_usd: float | None = None, priority: int = 0,
    rate_per_minute: int | None = None,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """A new token, which only its receiver will know, and its row. `expires_in`: seconds."""
    check_budget(budget_usd)
    if expires_in is not None and expires_in <= 0:
        raise ParameterError(f"A token that expires in {expires_in:g} s is of no use.", "Give more than 0, as in 30d.")
    token = new_token()
    row = {
        "id": new_id(), "account_id": account_id, "name": name, "hash": hash_of(token),
        "hint": f"{token[:5]}…{token[-4:]}", "scopes": " ".join(check_scopes(scopes)), "consent": consent.strip(),
        "priority": priority, "budget_usd": budget_usd, "rate_per_minute": rate_per_minute,
    }  # fmt: skip
    with database.write() as db:
        db.execute(
            sa.insert(tables.tokens).values(
                **row, created_at=now(), expires_at=None if expires_in is None else now() + expires_in
            )
        )
    return token, row


def check_scopes(scopes: Collection[str]) -> list[str]:
    """The scopes in their order, each once. Raises `ParameterError` for one that is unknown, and for none."""
    for scope in scopes:
        if scope not in SCOPES:
            raise ParameterError(f"The scope {scope!r} is unknown.", f"Scopes: {', '.join(SCOPES)}.")
    if not scopes:
        raise ParameterError("A token without a scope may do nothing.", f"Scopes: {', '.join(SCOPES)}.")
    return [scope for scope in SCOPES if scope in scopes]


def list_tokens(database: Database, account_id: str | None = None) -> Sequence[RowMapping]:
    """Every token with its account's username, oldest first; without what would let it be used."""
    c = tables.tokens.c
    query = sa.select(
        c.id, c.name, c.hint, c.scopes, c.consent, c.priority, c.budget_usd, c.rate_per_minute, c.created_at,
        c.expires_at, c.revoked_at, c.last_used_at, tables.accounts.c.username,
    ).join(tables.accounts, tables.accounts.c.id == c.account_id)  # fmt: skip
    if account_id is not None:
        query = query.where(c.account_id == account_id)
    with database.read() as db:
        return db.execute(query.order_by(c.created_at, c.id)).mappings().all()


def find_token(database: Database, which: str) -> RowMapping:
    """The one token of this id, name, or text (the token itself). Raises `NotFoundError`, `ParameterError`."""
    c = tables.tokens.c
    with database.read() as db:
        found = db.execute(
            sa.select(tables.tokens).where(sa.or_(c.id == which, c.name == which, c.hash == hash_of(which)))
        ).mappings().all()  # fmt: skip
    exact = [row for row in found if row["name"] != which] or [row for row in found if row["revoked_at"] is None]
    if len(exact) > 1:
        raise ParameterError(f"{len(exact)} tokens are named {which!r}.", "Give the id: vividcover token list.")
    if not (exact or found):
        raise NotFoundError(f"There is no such token: {which[:12]!r}…", "`vividcover token list` shows them.")
    return (exact or found)[0]


def change_token(database: Database, token_id: str, **values: Any) -> None:
    """Sets columns of a token (budget_usd, priority, rate_per_minute, name)."""
    check_budget(values.get("budget_usd"))
    if "budget_usd" in values:
        values["alerted"] = ""
    with database.write() as db:
        db.execute(sa.update(tables.tokens).where(tables.tokens.c.id == token_id).values(**values))


def revoke(database: Database, token_id: str) -> None:
    """Ends a token; a server notices within a second. Its runs go on."""
    c = tables.tokens.c
    with database.write() as db:
        db.execute(sa.update(tables.tokens).where(c.id == token_id, c.revoked_at.is_(None)).values(revoked_at=now()))


def authenticate(database: Database, token: str) -> Principal:
    """Who holds this token. Raises `AccessError` for one that is unknown, revoked or expired."""
    t, a = tables.tokens.c, tables.accounts.c
    query = (
        sa.select(
            t.id, t.name, t.scopes, t.consent, t.priority, t.rate_per_minute, t.account_id, a.username, t.expires_at,
            t.revoked_at, t.last_used_at, now().label("now"), t.budget_usd, a.budget_usd.label("account_budget"),
        )
        .join(tables.accounts, a.id == t.account_id)
        .where(t.hash == hash_of(token))
    )  # fmt: skip
    with database.read() as db:
        row = db.execute(query).mappings().first()
    if row is None:
        raise AccessError(f"{UNKNOWN}.", "Make one: vividcover token create.")
    if row["revoked_at"] is not None:
        raise AccessError("This token was revoked.", "Make a new one: vividcover token create.")
    if row["expires_at"] is not None and row["expires_at"] <= row["now"]:
        raise AccessError("This token has expired.", "Make a new one: vividcover token create.")
    if row["last_used_at"] is None or row["last_used_at"] < row["now"] - SEEN:
        with database.write() as db:
            db.execute(sa.update(tables.tokens).where(t.id == row["id"]).values(last_used_at=now()))
    scopes = frozenset(row["scopes"].split())
    return Principal(
        row["account_id"], row["username"], row["id"], row["name"], scopes, "admin" in scopes, row["priority"],
        row["rate_per_minute"], row["consent"], (row["budget_usd"], row["account_budget"]) != (None, None),
    )  # fmt: skip


# ── owners ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def claim_owner(db: Connection, principal: Principal, owner: str) -> None:
    """Makes sure that models may be kept under `owner/…`: a name that nobody holds goes to who uses it first.

    Raises `ForbiddenError` for a name of another account or of the shipped catalog.
    """
    check_name(owner)
    if insert_new(db, tables.owners, {"name": owner.lower(), "account_id": principal.account_id}):
        return
    holder = db.execute(sa.select(tables.owners.c.account_id).where(tables.owners.c.name == owner.lower())).scalar()
    if holder != principal.account_id:
        raise ForbiddenError(
            f"The name {owner!r} belongs to another account.", f"Use your own: {principal.username}/…, or a free one."
        )


def insert_new(db: Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """Inserts a row unless a unique value of it is there already; says whether it was inserted."""
    kind = sqlite if db.dialect.name == "sqlite" else postgresql
    statement: Any = kind.insert(table).values(**row).on_conflict_do_nothing().returning(*table.primary_key)
    return db.execute(statement).first() is not None
