"""Webhooks: written with what they tell of, signed, sent in order, tried again for hours, and never lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import replicate
import sqlalchemy as sa
from replicate.webhook import InvalidSignatureError, WebhookSigningSecret
from standardwebhooks import Webhook, WebhookVerificationError

from receiver import Receiver
from run_making import add, opened, until
from vividcover.errors import NotFoundError, StorageError
from vividcover.runs import sender, states, webhooks
from vividcover.runs.sender import Sender
from vividcover.settings import settings
from vividcover.store import tables
from vividcover.store.accounts import new_webhook_secret
from vividcover.store.database import Database, now

SECRET = new_webhook_secret()
ALL = "start output logs completed"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as receiver:
        monkeypatch.setenv("VIVIDCOVER_PRIVATE_HOSTS", json.dumps([receiver.at]))
        settings.cache_clear()
        yield receiver


@contextlib.contextmanager
def signing(url: str) -> Iterator[Database]:
    with opened(url) as database:
        with database.write() as db:
            db.execute(sa.update(tables.accounts).values(webhook_secret=SECRET))
        yield database


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("VIVIDCOVER_DATABASE", f"sqlite:///{tmp_path / 'runs.db'}")
    with signing(f"sqlite:///{tmp_path / 'runs.db'}") as database:
        yield database


@pytest.fixture
def either(database_url: str) -> Iterator[Database]:
    """On SQLite and on Postgres."""
    with signing(database_url) as database:
        yield database


def present(db: Any, run: Any) -> dict[str, Any]:
    body = {key: run[key] for key in ("id", "status", "output", "error", "metrics", "completed_at")}
    return body | {"logs": "a line\n" * 2000 if run["input"].get("long") else "a line\n"}


@contextlib.contextmanager
def sending(database: Database, **options: Any) -> Iterator[None]:
    stop = threading.Event()
    one = Sender(database, settings(), **{"present": present, "first": 0.05, **options})
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def happen(database: Database, run_id: str, *what: str, output: Any = None) -> None:
    """Changes of a run, each in a transaction of its own, as a worker makes them."""
    for event in what:
        with database.write() as db:
            if event == "completed":
                states.close(db, *(states.locked(db, run_id) or ({}, 0.0)), "succeeded", output=output)
                continue
            values = {"output": {"items": [output]}} if event == "output" else {}
            changed = sa.update(tables.runs).where(tables.runs.c.id == run_id)
            row = db.execute(changed.values(status="processing", **values).returning(tables.runs)).mappings().one()
            webhooks.on_event(db, row, event)


def rows(database: Database, **which: Any) -> list[Any]:
    with database.read() as db:
        return list(reversed(webhooks.deliveries(db, **which)))


def log(database: Database, delivery_id: str) -> list[tuple[int | None, str]]:
    with database.read() as db:
        return [(one["status"], one["error"] or "") for one in webhooks.attempts(db, delivery_id)]


def settled(database: Database) -> list[Any]:
    """The deliveries when none waits any more."""
    return until(lambda: None if rows(database, state="waiting") else rows(database))


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_official_client_and_the_standard_accept_the_signature(either: Database, receiver: Receiver) -> None:
    run_id = add(either, webhook=receiver.url("/hook?job=7"), webhook_events="completed")
    with sending(either):
        happen(either, run_id, "completed", output={"text": "schön"})
        settled(either)
    ((headers, body),) = receiver.got
    assert headers["path"] == "/hook?job=7" and json.loads(body)["output"] == {"text": "schön"}
    secret = WebhookSigningSecret(key=SECRET)
    replicate.Client(api_token="x").webhooks.validate(headers=headers, body=body.decode(), secret=secret, tolerance=60)
    assert Webhook(SECRET).verify(body, headers)["id"] == run_id
    with pytest.raises(InvalidSignatureError):
        replicate.Client(api_token="x").webhooks.validate(headers=headers, body=body.decode() + " ", secret=secret)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_webhook_secret()).verify(body, headers)


def test_a_secret_that_the_caller_brought_signs_in_its_place(database: Database, receiver: Receiver) -> None:
    import hashlib
    import hmac

    run_id = add(database, webhook=receiver.url(), webhook_events="completed", webhook_secret="any words", source="bfl")
    with sending(database):
        happen(database, run_id, "completed")
        settled(database)
    ((headers, body),) = receiver.got
    assert headers["x-bfl-signature"] == "sha256=" + hmac.new(b"any words", body, hashlib.sha256).hexdigest()
    Webhook(b"any words").verify(body, headers)


@pytest.mark.parametrize(
    ("chosen", "told"), [("", "output completed"), ("completed", "completed"), ("start logs", "start logs"), (ALL, ALL)]
)
def test_only_the_events_that_were_chosen_are_told(database: Database, chosen: str, told: str) -> None:
    run_id = add(database, webhook="https://example.com/", webhook_events=chosen)
    happen(database, run_id, "start", "output", "logs", "completed")
    assert [row["event"] for row in rows(database)] == told.split()


def test_a_change_that_is_rolled_back_is_not_told(database: Database) -> None:
    run_id = add(database, webhook="https://example.com/", webhook_events=ALL)
    with pytest.raises(ZeroDivisionError), database.write() as db:
        states.close(db, *(states.locked(db, run_id) or ({}, 0.0)), "succeeded")
        raise ZeroDivisionError
    assert rows(database) == []


def test_a_run_without_a_webhook_tells_nobody(database: Database) -> None:
    happen(database, add(database), "start", "output", "completed")
    assert rows(database) == []


def test_outputs_come_at_most_twice_a_second_and_the_last_one_is_whole(either: Database, receiver: Receiver) -> None:
    run_id = add(either, webhook=receiver.url(), webhook_events="output")
    came: list[float] = []
    receiver.answers["/hook"] = lambda: came.append(time.monotonic()) or 200  # type: ignore[func-returns-value]
    with sending(either):
        for number in range(24):
            happen(either, run_id, "output", output=number)
            time.sleep(0.05)
        settled(either)
    assert receiver.bodies()[-1]["output"] == {"items": [23]}
    assert 2 <= len(came) <= 5
    assert all(later - earlier > 0.4 for earlier, later in itertools.pairwise(came))


def test_events_come_in_order_and_only_the_last_says_that_it_is_over(either: Database, receiver: Receiver) -> None:
    run_id = add(either, webhook=receiver.url(), webhook_events=ALL)
    happen(either, run_id, "start", "output", "logs", "completed", output={"text": "done"})
    with sending(either):  # all of them late
        sent = settled(either)
    assert [row["event"] for row in sent] == ["start", "output", "logs", "completed"]
    assert receiver.statuses() == ["processing", "processing", "processing", "succeeded"]
    first, *_, last = receiver.bodies()
    assert (first["output"], first["logs"]) == (None, "") and "completed_at" not in first
    assert last["output"] == {"text": "done"} and last["completed_at"]


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_receiver_that_fails_gets_the_same_message_again(either: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = [500, 503, 200]
    run_id = add(either, webhook=receiver.url(), webhook_events="completed")
    with sending(either):
        happen(either, run_id, "completed")
        (sent,) = settled(either)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == len({body for _, body in receiver.got}) == 1
    assert (sent["state"], sent["attempts"]) == ("sent", 3)
    assert log(either, sent["id"]) == [(500, "HTTP 500"), (503, "HTTP 503"), (200, "")]


def test_tries_go_on_for_hours_later_and_later() -> None:
    count = sender.tries(12 * 3600)
    waits = [sender.delay(attempt) for attempt in range(1, count)]
    assert waits[0] == 5 and waits == sorted(waits) and max(waits) == 1800
    assert 11 * 3600 < sum(waits) <= 12 * 3600
    assert sender.tries(0) == 1


def test_a_delivery_is_given_up_when_its_hours_are_over(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEBHOOK_HOURS", str(0.2 / 3600))  # tries at 0, 0.05 and 0.15 s
    settings.cache_clear()
    receiver.answers["/hook"] = 500
    with sending(database):
        happen(database, add(database, webhook=receiver.url()), "completed")
        (lost,) = settled(database)
    assert (lost["state"], lost["attempts"], lost["status"]) == ("failed", 3, 500)


def test_an_intermediate_event_that_failed_gives_way_to_a_newer_one(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = [500, 200]
    run_id = add(database, webhook=receiver.url(), webhook_events="start completed")
    with sending(database, first=30.0):
        happen(database, run_id, "start")
        until(lambda: rows(database)[0]["attempts"])
        happen(database, run_id, "completed")
        start, end = settled(database)
    assert (start["state"], end["state"]) == ("failed", "sent")
    assert log(database, start["id"]) == [(500, "HTTP 500"), (None, webhooks.OVERTAKEN)]
    assert receiver.statuses() == ["processing", "succeeded"]


def test_a_redirect_is_not_followed_and_the_log_says_so(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = 301
    receiver.headers["Location"] = receiver.url("/elsewhere")
    with sending(database, first=30.0):
        happen(database, add(database, webhook=receiver.url()), "completed")
        row = until(lambda: next((one for one in rows(database) if one["attempts"]), None))
    assert [headers["path"] for headers, _ in receiver.got] == ["/hook"]
    assert row["state"] == "waiting" and row["status"] == 301
    assert f"redirects to {receiver.url('/elsewhere')}. Redirects are not followed" in row["error"]


def test_a_receiver_that_wants_no_more_gets_no_more(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = 410
    with sending(database):
        happen(database, add(database, webhook=receiver.url()), "completed")
        (row,) = settled(database)
    assert (row["state"], len(receiver.got)) == ("failed", 1)


def test_a_message_that_is_too_large_comes_again_with_less_of_the_logs(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = [413, 200]
    with sending(database):
        happen(database, add(database, webhook=receiver.url(), input={"long": True}), "completed")
        (row,) = settled(database)
    whole, cut = receiver.bodies()
    assert row["state"] == "sent" and len(cut["logs"]) < 4100 < len(whole["logs"])
    assert whole["logs"].endswith(cut["logs"].partition("\n")[2]) and cut | {"logs": ""} == whole | {"logs": ""}


def test_a_receiver_that_hangs_does_not_hold_up_the_others(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, hangs = threading.Event(), Receiver()
    hangs.answers["/hook"] = lambda: 200 if free.wait(20) else 500
    monkeypatch.setenv("VIVIDCOVER_PRIVATE_HOSTS", json.dumps([receiver.at, hangs.at]))
    settings.cache_clear()
    for _ in range(30):
        happen(database, add(database, webhook=hangs.url()), "completed")
    with sending(database):
        until(lambda: hangs.open)
        happen(database, add(database, webhook=receiver.url()), "completed")
        until(receiver.bodies, 5)
        assert len(hangs.got) <= sender.AT_ONCE_HOST
        free.set()
        settled(database)
    hangs.close()


def test_a_receiver_has_so_long_and_no_longer(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEBHOOK_SECONDS", "0.2")
    settings.cache_clear()
    free = threading.Event()
    receiver.answers["/hook"] = lambda: (free.wait(20) and 200) or 500
    with sending(database, first=30.0):
        happen(database, add(database, webhook=receiver.url()), "completed")
        row = until(lambda: next((one for one in rows(database) if one["attempts"]), None))
    free.set()
    assert (row["status"], row["error"]) == (None, "no answer within 0.2 s")


def test_nobody_is_there(database: Database, receiver: Receiver) -> None:
    receiver.close()
    with sending(database, first=30.0):
        happen(database, add(database, webhook=receiver.url()), "completed")
        row = until(lambda: next((one for one in rows(database) if one["attempts"]), None))
    assert row["status"] is None and "ConnectError" in row["error"] and row["next_at"] > row["created_at"] + 20


def test_a_target_that_became_private_is_not_reached(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was public when the run was made (rebinding), and an address that the operator no longer allows."""
    monkeypatch.setenv("VIVIDCOVER_PRIVATE_HOSTS", "[]")
    settings.cache_clear()
    port = receiver.at.partition(":")[2]
    with sending(database, first=30.0):
        for host in ("localhost", "127.0.0.1", "2130706433"):
            happen(database, add(database, webhook=f"http://{host}:{port}/hook"), "completed")
        until(lambda: all(row["attempts"] for row in rows(database)))
    found = rows(database)
    assert receiver.got == []
    assert all("private address 127.0.0.1" in row["error"] or "::1" in row["error"] for row in found)


# ── nothing is lost ───────────────────────────────────────────────────────────────────────────────────────────────────

PROCESS = """
import json, sys, threading
from vividcover.runs.sender import Sender
from vividcover.settings import settings
from vividcover.store.database import Database
present = lambda db, run: {"id": run["id"], "status": run["status"]}
Sender(Database(settings().database_url), settings(), present, lease=1.5).run(threading.Event())
"""


def test_a_sender_that_is_killed_in_the_middle_loses_nothing(either: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = lambda: time.sleep(0.6) or 200  # type: ignore[func-returns-value]
    run_id = add(either, webhook=receiver.url(), webhook_events="completed")
    happen(either, run_id, "completed")
    url = either.engine.url.render_as_string(hide_password=False)
    environment = os.environ | {"VIVIDCOVER_DATABASE": url}
    struck = 0.0
    for _ in range(2):
        before = len(receiver.got)
        process = subprocess.Popen([sys.executable, "-c", PROCESS], env=environment)
        until(lambda seen=before: len(receiver.got) > seen, 20)  # it has sent, and has no answer yet
        process.send_signal(signal.SIGKILL)
        process.wait()
        struck = time.monotonic()
    with sending(either):
        (row,) = settled(either)
    assert time.monotonic() - struck < settings().webhook_seconds / 2, "nobody waited for as long as an answer may take"
    assert row["state"] == "sent" and len(receiver.got) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_a_receiver_that_takes_longer_than_a_lease_gets_it_once(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = lambda: time.sleep(4.0) or 200  # type: ignore[func-returns-value]
    with sending(database, lease=3.0), sending(database, lease=3.0):  # long enough for a machine with other work
        happen(database, add(database, webhook=receiver.url(), webhook_events="completed"), "completed")
        (row,) = settled(database)
    assert (row["state"], row["attempts"], len(receiver.got)) == ("sent", 1, 1)


def test_two_senders_send_everything_once(either: Database, receiver: Receiver) -> None:
    with sending(either), sending(either):
        ids = [add(either, webhook=receiver.url(), webhook_events="completed") for _ in range(40)]
        for run_id in ids:
            happen(either, run_id, "completed")
        settled(either)
    assert sorted(body["id"] for body in receiver.bodies()) == sorted(ids)


def test_a_message_that_cannot_be_made_holds_up_no_other(database: Database, receiver: Receiver) -> None:
    lost, good = (add(database, webhook=receiver.url(), webhook_events="completed") for _ in range(2))
    happen(database, lost, "completed")
    with database.write() as db:
        db.execute(sa.delete(tables.usage).where(tables.usage.c.run_id == lost))
        db.execute(sa.delete(tables.runs).where(tables.runs.c.id == lost))
    happen(database, good, "completed")
    with sending(database):
        first, second = settled(database)
    assert (first["state"], second["state"]) == ("failed", "sent")
    assert "the run was deleted" in first["error"] and [body["id"] for body in receiver.bodies()] == [good]


def test_a_sender_outlives_a_database_that_fails(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken = Database.read, threading.Event()

    def read(self: Database) -> Any:
        if not broken.is_set():
            broken.set()
            raise StorageError("The disk is gone.")
        return good(self)

    happen(database, add(database, webhook=receiver.url()), "completed")
    monkeypatch.setattr(Database, "read", read)
    with sending(database):
        until(receiver.bodies)
    assert broken.is_set()


def test_a_run_that_cannot_be_shown_is_logged_and_tried_again(database: Database, receiver: Receiver) -> None:
    first, second = (add(database, webhook=receiver.url(), webhook_events="completed") for _ in range(2))
    happen(database, first, "completed")
    happen(database, second, "completed")
    failures = [1, 2]

    def fragile(db: Any, run: Any) -> dict[str, Any]:
        if run["id"] == first and failures:
            failures.pop()
            db.execute(sa.text("SELECT nothing FROM nowhere"))
        return present(db, run)

    with sending(database, present=fragile):
        one, other = settled(database)
    assert (one["state"], other["state"]) == ("sent", "sent") and one["attempts"] == 3
    assert all("could not be made" in why for status, why in log(database, one["id"]) if status is None)


def test_an_alert_is_signed_and_sent_like_any_other(database: Database, receiver: Receiver) -> None:
    with database.write() as db:
        id = webhooks.queue_alert(db, "alice", receiver.url("/alerts"), "budget.threshold", {"threshold": 0.5})
    with sending(database):
        settled(database)
    ((headers, body),) = receiver.got
    said = Webhook(SECRET).verify(body, headers)
    assert headers["webhook-id"] == id and (said["type"], said["data"]) == ("budget.threshold", {"threshold": 0.5})


def test_what_was_given_up_is_sent_again_on_demand(database: Database, receiver: Receiver) -> None:
    receiver.answers["/hook"] = [410, 200]
    with sending(database):
        happen(database, add(database, webhook=receiver.url()), "completed")
        (row,) = settled(database)
        with database.write() as db:
            webhooks.redeliver(db, row["id"], "alice")
        (row,) = settled(database)
    assert row["state"] == "sent" and [status for status, _ in log(database, row["id"])] == [410, 200]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_a_delivery_is_not_there_for_another_account(database: Database) -> None:
    happen(database, add(database, webhook="https://example.com/"), "completed")
    (row,) = rows(database)
    with database.write() as db:
        for other in (row["id"], "msg_unknown"):
            with pytest.raises(NotFoundError, match="There is no delivery"):
                webhooks.redeliver(db, other, "bob")
    assert rows(database, account_id="bob") == []


def test_what_was_removed_is_not_kept_in_a_message_either(database: Database, receiver: Receiver) -> None:
    run_id = add(database, webhook=receiver.url(), webhook_events="completed")
    with sending(database):
        happen(database, run_id, "completed", output={"text": "private"})
        (row,) = settled(database)
    with database.write() as db:
        db.execute(sa.update(tables.runs).values(data_removed=True))

    def kept() -> str | None:
        with database.read() as db:
            return str(webhooks.delivery(db, row["id"])["body"])

    assert "private" in str(kept())
    with sending(database):
        until(lambda: kept() == "None")


def test_the_log_is_kept_for_its_days_and_no_longer(database: Database, receiver: Receiver) -> None:
    with sending(database):
        old, young = (add(database, webhook=receiver.url(), webhook_events="completed") for _ in range(2))
        happen(database, old, "completed")
        happen(database, young, "completed")
        settled(database)
    with database.write() as db:
        ago = sa.update(tables.deliveries).where(tables.deliveries.c.run_id == old)
        db.execute(ago.values(created_at=now() - 31 * 86400))
    with sending(database):
        until(lambda: len(rows(database)) == 1)
    assert rows(database)[0]["run_id"] == young
    with database.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(tables.attempts)).scalar() == 1
