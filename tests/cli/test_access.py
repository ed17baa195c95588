"""`vividcover token`, `account`, `usage`, `webhooks`: with no server running, on the database itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from vividcover.cli import build
from vividcover.errors import AccessError, VividCoverError
from vividcover.runs import webhooks
from vividcover.settings import settings
from vividcover.store import accounts, tables
from vividcover.store.accounts import STATEMENT, Principal
from vividcover.store.database import Database, now

PROGRAM = str(Path(sys.executable).with_name("vividcover"))


def call(*words: str) -> tuple[str, str]:
    """stdout and stderr of a command that works."""
    done = CliRunner().invoke(build(), list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout, done.stderr


def told(*words: str) -> Any:
    return json.loads(call(*words, "--json")[0])


def wrong(*words: str) -> VividCoverError:
    done = CliRunner().invoke(build(), list(words))
    assert isinstance(done.exception, VividCoverError), (done.output, done.exception)
    return done.exception


def database() -> Database:
    return Database(settings().database_url)


def holder(token: str) -> Principal:
    return accounts.authenticate(database(), token)


def test_a_first_token_needs_no_more_than_one_command() -> None:
    done = subprocess.run(
        [PROGRAM, "token", "create", "--scope", "read write train", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    token = json.loads(done.stdout)["token"]
    who = holder(token)
    assert (who.username, who.scopes) == ("admin", {"read", "write", "train"})


def test_a_token_is_printed_alone_so_that_a_shell_can_take_it() -> None:
    out, _ = call("token", "create", "--scope", "read")
    assert holder(out.strip()).scopes == {"read"} and out.count("\n") == 1


def test_what_is_stated_about_the_people_is_said_at_once_or_in_ones_own_words() -> None:
    out, said = call("token", "create")
    assert STATEMENT in said and holder(out.strip()).consent == STATEMENT
    out, said = call("token", "create", "--consent", "Only my own voice.")
    assert holder(out.strip()).consent == "Only my own voice." and "Only my own voice." in said
    out, said = call("token", "create", "--scope", "read write")
    assert holder(out.strip()).consent == said == ""


def test_a_token_carries_what_it_was_made_with() -> None:
    call("account", "create", "band", "--organization", "--name", "The Band")
    made = told(
        "token", "create", "--account", "band", "--scope", "write,read", "--name", "ci", "--expires", "30d", "--budget",
        "12.5", "--rate", "60", "--priority", "5",
    )  # fmt: skip
    who = holder(made["token"])
    assert (who.username, who.token_name, who.rate, who.priority, who.budgeted) == ("band", "ci", 60, 5, True)
    (row,) = told("token", "list")
    assert row["account"] == "band" and row["scopes"] == "read write" and row["budget_usd"] == 12.5
    assert row["expires"] > row["created"] and made["token"] not in json.dumps(row)


def test_a_revoked_token_is_no_token() -> None:
    made = told("token", "create", "--name", "lost")
    holder(made["token"])
    call("token", "revoke", "lost")
    with pytest.raises(AccessError, match="revoked"):
        holder(made["token"])
    assert told("token", "list")[0]["revoked"]


def test_budgets_are_set_and_taken_away() -> None:
    made = told("token", "create", "--name", "ci")
    call("token", "budget", "ci", "3")
    assert holder(made["token"]).budgeted and told("token", "list")[0]["budget_usd"] == 3
    call("token", "budget", "ci", "none")
    assert not holder(made["token"]).budgeted
    call("account", "budget", "admin", "40", "--alerts", "https://example.com/alerts")
    (row,) = told("account", "list")
    assert (row["budget_usd"], row["alerts_to"]) == (40, "https://example.com/alerts")
    call("account", "budget", "admin", "none", "--alerts", "none")
    (row,) = told("account", "list")
    assert (row["budget_usd"], row["alerts_to"]) == (None, None)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["token", "create", "--scope", "fly"], 2, "'fly'"),
        (["token", "create", "--scope", ""], 2, "without a scope"),
        (["token", "create", "--account", "nobody"], 3, "no account 'nobody'"),
        (["token", "create", "--expires", "soon"], 2, "--expires 'soon'"),
        (["token", "revoke", "nothing"], 3, "no such token"),
        (["token", "budget", "nothing", "1"], 3, "no such token"),
        (["account", "create", "a/b"], 2, "'a/b'"),
        (["account", "create", "admin"], 2, "'admin' already"),
        (["account", "budget", "admin", "much"], 2, "'much'"),
        (["account", "budget", "nobody", "1"], 3, "no account 'nobody'"),
        (["account", "budget", "admin", "1", "--alerts", "http://127.0.0.1/x"], 2, "private address 127.0.0.1"),
        (["webhooks", "log", "msg_x"], 3, "no delivery 'msg_x'"),
        (["webhooks", "redeliver"], 2, "No delivery is named"),
        (["webhooks", "redeliver", "msg_x"], 3, "no delivery 'msg_x'"),
        (["usage", "--account", "nobody"], 3, "no account 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_status(words: list[str], code: int, says: str) -> None:
    error = wrong(*words)
    assert says in error.message and error.hint and error.exit_code == code


def test_mistakes_are_json_where_json_was_asked_for() -> None:
    done = subprocess.run([PROGRAM, "token", "create", "--account", "nobody", "--json"], capture_output=True, text=True)
    assert done.returncode == 3 and json.loads(done.stdout)["error"]["code"] == "not-found"
    assert "Traceback" not in done.stderr


def test_usage_is_a_table_of_what_was_used() -> None:
    account = told("account", "create", "band")["id"]
    empty = told("usage")
    assert (empty["rows"], empty["total"]["usd"]) == ([], 0)
    with database().write() as db:
        for model, usd in (("a/one", 1.0), ("a/two", 2.5)):
            db.execute(
                sa.insert(tables.usage).values(
                    account_id=account, token_id="t", model=model, device="cpu", engine="classic", seconds=10,
                    bytes=5, usd=usd, at=now(),
                )
            )  # fmt: skip
    found = told("usage", "--by", "model", "--account", "band")
    assert [(row["model"], row["usd"]) for row in found["rows"]] == [("a/two", 2.5), ("a/one", 1.0)]
    assert found["total"] == {"runs": 2, "seconds": 20.0, "bytes": 10, "usd": 3.5}
    assert told("usage", "--account", "admin")["total"]["runs"] == 0
    assert told("usage", "--days", "0.5", "--by", "device")["rows"][0]["device"] == "cpu"
    out, _ = call("usage")
    assert "a/two" in out and "in all" in out and "3.5" in out


def test_webhooks_are_listed_and_sent_again_by_whoever_runs_the_server() -> None:
    account = told("account", "create", "band")["id"]
    with database().write() as db:
        for _ in range(2):
            webhooks.queue_alert(db, account, "https://example.com/", "budget.threshold", {"threshold": 0.5})
        db.execute(sa.update(tables.deliveries).values(state="failed", attempts=31, done_at=now()))
        for row in webhooks.deliveries(db):
            webhooks.note(db, row["id"], 503, "HTTP 503", 0.1)
    rows = told("webhooks", "list", "--state", "failed")
    assert [(row["event"], row["attempts"], row["last"]) for row in rows] == [("alert", 31, "HTTP 503")] * 2
    assert [row["status"] for row in told("webhooks", "log", rows[0]["id"])] == [503]
    assert told("webhooks", "redeliver", rows[0]["id"]) == {"redelivered": [rows[0]["id"]]}
    assert told("webhooks", "redeliver", "--failed") == {"redelivered": [rows[1]["id"]]}
    assert {row["state"] for row in told("webhooks", "list")} == {"waiting"}
    out, _ = call("webhooks", "list")
    assert "HTTP 503" in out
