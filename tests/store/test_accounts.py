"""Accounts and tokens: who may what, and what is never kept."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from vividcover.errors import AccessError, ForbiddenError, NotFoundError, ParameterError
from vividcover.store import accounts, migrate, tables
from vividcover.store.database import Database, now


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    migrate.upgrade(database)
    yield database
    database.close()


@pytest.fixture
def alice(database: Database) -> str:
    return str(accounts.create_account(database, "alice")["id"])


def stored(database: Database) -> str:
    with database.read() as db:
        return repr(db.execute(sa.select(tables.tokens)).all())


def test_a_token_says_who_holds_it_and_what_they_may(database: Database, alice: str) -> None:
    token, row = accounts.create_token(
        database, alice, scopes=["train", "read"], name="ci", consent=" They agreed. ", priority=3, rate_per_minute=9
    )
    who = accounts.authenticate(database, token)
    assert (who.account_id, who.username, who.token_id, who.token_name) == (alice, "alice", row["id"], "ci")
    assert (who.scopes, who.admin, who.priority, who.rate, who.consent) == (
        {"read", "train"}, False, 3, 9, "They agreed.",
    )  # fmt: skip
    who.demand("read")
    with pytest.raises(ForbiddenError, match=r"needs the scope 'write'; the token has: read train"):
        who.demand("write")


def test_a_token_looks_as_the_clients_expect_and_is_not_in_the_database(database: Database, alice: str) -> None:
    token, row = accounts.create_token(database, alice)
    assert re.fullmatch(r"r8_[A-Za-z0-9]{40}", token)
    assert token not in stored(database) and token[8:30] not in stored(database)
    assert row["hint"] == f"{token[:5]}…{token[-4:]}"


def test_an_admin_token_may_everything(database: Database, alice: str) -> None:
    token, _ = accounts.create_token(database, alice, scopes=["admin"])
    who = accounts.authenticate(database, token)
    assert who.admin and all(who.may(scope) for scope in accounts.SCOPES)


def test_unknown_revoked_and_expired_tokens_are_turned_away(database: Database, alice: str) -> None:
    revoked, row = accounts.create_token(database, alice)
    short, brief = accounts.create_token(database, alice, expires_in=100)
    accounts.authenticate(database, revoked)
    accounts.authenticate(database, short)
    accounts.revoke(database, row["id"])
    with database.write() as db:
        db.execute(sa.update(tables.tokens).where(tables.tokens.c.id == brief["id"]).values(expires_at=now() - 1))
    unknown = "r8_" + "x" * 40
    for token, why in ((unknown, "not pass a valid"), ("", "not pass"), (revoked, "revoked"), (short, "expired")):
        with pytest.raises(AccessError, match=why):
            accounts.authenticate(database, token)


def test_use_is_noted_but_not_at_every_request(database: Database, alice: str) -> None:
    token, _ = accounts.create_token(database, alice)
    used = []
    for _ in range(3):
        accounts.authenticate(database, token)
        used.append(accounts.list_tokens(database)[0]["last_used_at"])
    assert used[0] is not None and len(set(used)) == 1


def test_tokens_are_found_by_id_name_and_themselves(database: Database, alice: str) -> None:
    token, row = accounts.create_token(database, alice, name="laptop")
    assert {accounts.find_token(database, which)["id"] for which in (token, "laptop", row["id"])} == {row["id"]}
    accounts.create_token(database, alice, name="laptop")
    with pytest.raises(ParameterError, match="2 tokens are named 'laptop'"):
        accounts.find_token(database, "laptop")
    with pytest.raises(NotFoundError):
        accounts.find_token(database, "phone")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"scopes": ["fly"]}, "scope 'fly' is unknown"),
        ({"scopes": []}, "without a scope"),
        ({"expires_in": 0.0}, "expires in 0 s"),
        ({"budget_usd": -1.0}, "-1.0 USD"),
        ({"budget_usd": float("nan")}, "nan USD"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(tmp_path: object, wrong: dict[str, object], says: str) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    migrate.upgrade(database)
    account = accounts.first_account(database)["id"]
    with pytest.raises(ParameterError, match=says):
        accounts.create_token(database, account, **wrong)  # type: ignore[arg-type]
    assert accounts.list_tokens(database) == []
    database.close()


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "ä", "x" * 65, "a\n", "../a"])
def test_names_that_no_link_could_hold_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="not a name for an account"):
        accounts.check_name(name)


def test_the_first_account_is_made_once_by_however_many_start_at_once(database: Database) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(accounts.first_account(database)["id"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1
    assert [row["username"] for row in accounts.list_accounts(database)] == ["admin"]


def test_a_webhook_secret_is_what_every_client_can_split_and_decode() -> None:
    for _ in range(200):
        secret = accounts.new_webhook_secret()
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{32}", secret)  # one underscore, plain base64


def test_a_name_goes_to_who_uses_it_first(database: Database, alice: str) -> None:
    bob = accounts.create_account(database, "bob")["id"]
    token, _ = accounts.create_token(database, alice)
    other, _ = accounts.create_token(database, bob)
    first, second = accounts.authenticate(database, token), accounts.authenticate(database, other)
    with database.write() as db:
        accounts.claim_owner(db, first, "alice")
        accounts.claim_owner(db, first, "band")
        accounts.claim_owner(db, first, "Band")
        for taken in ("band", "BAND", "alice"):
            with pytest.raises(ForbiddenError, match="belongs to another account"):
                accounts.claim_owner(db, second, taken)
    with pytest.raises(ParameterError, match="taken by an owner"):
        accounts.create_account(database, "band")
    assert accounts.find_account(database, "band") is None, "nothing of the failed account is left"


def test_nobody_gets_the_names_of_the_shipped_catalog(database: Database, alice: str) -> None:
    with database.write() as db:
        db.execute(sa.insert(tables.owners).values(name="replicate", account_id=None))
    token, _ = accounts.create_token(database, alice, scopes=["admin"])
    who = accounts.authenticate(database, token)
    with database.write() as db, pytest.raises(ForbiddenError):
        accounts.claim_owner(db, who, "replicate")
