"""Usage and budgets: exact, however many ask at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from run_making import HELLO, add, new_run, who
from vividcover.errors import BudgetError
from vividcover.runs import states, usage, webhooks
from vividcover.settings import settings
from vividcover.store import accounts, tables
from vividcover.store.accounts import Principal
from vividcover.store.database import Database, now

LORA = "vividcover/flux-lora"


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_PRICES", json.dumps({f"second:{HELLO}": 0.5, "output:me/model": 0.25}))
    settings.cache_clear()


def create(database: Database, principal: Principal, **changes: Any) -> str:
    new = new_run(token_id=principal.token_id, **changes)
    with database.write() as db:
        return str(states.enqueue(db, usage.reserve(db, principal, new))["id"])


def finish(database: Database, run_id: str, seconds: float, files: int = 0, status: str = "succeeded") -> None:
    with database.write() as db:
        began = sa.update(tables.runs).where(tables.runs.c.id == run_id).values(started_at=now() - seconds)
        db.execute(began)
        output = {"files": [{"id": str(number), "name": "a.png"} for number in range(files)]}
        row, clock = states.locked(db, run_id) or ({}, 0.0)
        if row["status"] not in states.TERMINAL:
            states.close(db, row, clock, status, output=output, engine="classic", size=1000 * files)


def spent(database: Database) -> float:
    with database.read() as db:
        return float(usage.totals(db, None)[0]["usd"])


def budget(database: Database, usd: float, **values: Any) -> None:
    accounts.change_account(database, "alice", budget_usd=usd, **values)


# ── what a run cost ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("prices")
def test_a_finished_run_is_written_down_with_its_end_and_not_without(database: Database) -> None:
    run_id = add(database)
    with pytest.raises(ZeroDivisionError), database.write() as db:
        states.close(db, *(states.locked(db, run_id) or ({}, 0.0)), "succeeded")
        raise ZeroDivisionError
    assert spent(database) == 0
    finish(database, run_id, 4.0, files=2)
    finish(database, run_id, 4.0, files=2)  # it is over: nothing happens
    with database.read() as db:
        (row,) = usage.totals(db, "model")
    assert row == {"model": HELLO, "runs": 1, "seconds": row["seconds"], "bytes": 2000, "usd": row["usd"]}
    assert row["seconds"] == pytest.approx(4.0, abs=0.3) and row["usd"] == pytest.approx(0.5 * row["seconds"], abs=1e-3)


def test_the_prices_are_the_seeds_where_nothing_else_is_said() -> None:
    assert usage.price("zsxkib/sonic", {}) == ("second", 0.001528)
    assert usage.price(LORA, {"model": "dev"}) == usage.price(LORA, {}) == ("output", 0.03)
    assert usage.price(LORA, {"model": "schnell"}) == ("output", 0.003)


def test_the_most_particular_price_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"second:cpu": 0.0, "second:zsxkib/sonic": 2.0, "output:vividcover/flux-lora": 0.5, "second:*": 7.0}
    monkeypatch.setenv("VIVIDCOVER_PRICES", json.dumps(table))
    settings.cache_clear()
    assert usage.price("zsxkib/sonic", {}, "cpu") == ("second", 2.0)
    assert usage.price("me/other", {}, "cpu") == ("second", 0.0)
    assert usage.price("me/other", {}, "cuda:0") == ("second", 7.0)
    assert usage.price(LORA, {"model": "schnell"}) == ("output", 0.003)
    assert usage.price(LORA, {"model": "other"}) == ("output", 0.5)


def test_the_bill_of_a_hosted_run_is_taken_as_it_is(database: Database) -> None:
    run_id = add(database)
    with database.write() as db:
        row = states.get(db, run_id)
        assert row is not None
        usage.record(db, row, "replicate", "hosted", 3.0, 10, usd=1.25)
    assert spent(database) == 1.25


def test_work_that_another_service_does_is_not_priced_as_the_own_machines(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_PRICES", json.dumps({"second:cpu": 0.0}))
    settings.cache_clear()
    row = {"id": "r", "account_id": "alice", "token_id": "t1", "model": "a/b", "serves": "zsxkib/sonic", "input": {}}
    with database.write() as db:
        assert usage.record(db, row, "cpu", "classic", 100.0, 0) == 0
        assert usage.record(db, row, "cpu", "hosted", 100.0, 0) == pytest.approx(0.1528)


@pytest.mark.usefixtures("prices")
def test_a_report_adds_up_by_whatever_it_is_asked_for(database: Database) -> None:
    finish(database, add(database, model="alice/one"), 1.0)
    finish(database, add(database, model="alice/two", token_id="t2"), 3.0)
    finish(database, add(database, model="alice/two"), 2.0)
    accounts.change_token(database, "t2", name="phone")
    with database.read() as db:
        by_model = {row["model"]: row["runs"] for row in usage.totals(db, "model")}
        by_token = {row["token"]: row["runs"] for row in usage.totals(db, "token", account_id="alice")}
        assert [row["runs"] for row in usage.totals(db, "day")] == [3]
        assert [row["device"] for row in usage.totals(db, "device")] == ["cpu"]
        assert [row["engine"] for row in usage.totals(db, "engine")] == ["classic"]
        assert usage.totals(db, "model", account_id="bob") == []
        assert usage.totals(db, None, account_id="bob") == [{"runs": 0, "seconds": 0.0, "bytes": 0, "usd": 0.0}]
        assert usage.totals(db, None, until=usage.month_start(db))[0]["runs"] == 0
    assert by_model == {"alice/two": 2, "alice/one": 1}
    assert by_token == {"phone": 1, "": 2}


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_budget_is_exact_when_many_runs_are_created_at_once(database: Database) -> None:
    """30 pictures at 0.03 USD each, under 0.30 USD, by 8 threads: 10 are taken, whoever comes first."""
    budget(database, 0.30)

    def attempt(_: int) -> bool:
        try:
            create(database, who(), model="alice/art", serves=LORA, input={"model": "dev"})
        except BudgetError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(30))) == 10


def test_what_a_run_holds_is_free_again_when_it_cost_less(database: Database) -> None:
    budget(database, 0.30)
    run_id = create(database, who(), serves=LORA, input={"model": "dev", "num_outputs": 9})
    with pytest.raises(BudgetError, match=r"0\.27 USD are held by open runs, and this run is expected to cost 0\.0600"):
        create(database, who(), serves=LORA, input={"model": "dev", "num_outputs": 2})
    finish(database, run_id, 1.0, files=1)
    for _ in range(9):
        create(database, who(), serves=LORA, input={"model": "dev"})
    with pytest.raises(BudgetError, match=r"0\.03 USD are used, 0\.27 USD are held"):
        create(database, who(), serves=LORA, input={"model": "dev"})


@pytest.mark.usefixtures("prices")
def test_a_run_is_expected_to_take_as_long_as_the_last_ones_of_its_model(database: Database) -> None:
    for seconds in (10.0, 20.0):
        finish(database, add(database), seconds)
    budget(database, 20.0)  # 15 are used, the next is expected to cost 7.5
    with pytest.raises(
        BudgetError, match=r"budget of the account alice is 20\.00.*15\.\d+ USD are used.*cost 7\.[5-9]"
    ):
        create(database, who())
    budget(database, 25.0)
    create(database, who())


def test_a_token_has_a_budget_besides_its_accounts(database: Database) -> None:
    budget(database, 100.0)
    accounts.change_token(database, "t1", budget_usd=0.03, name="cheap")
    create(database, who(), serves=LORA, input={"model": "dev"})
    with pytest.raises(BudgetError, match="budget of the token cheap"):
        create(database, who(), serves=LORA, input={"model": "schnell"})
    create(database, who(token_id="t2"), serves=LORA, input={"model": "dev"})
    with database.read() as db:
        assert [(one["of"], one["budget_usd"], one["held_usd"]) for one in usage.budgets(db, "alice", "t1")] == [
            ("account", 100.0, 0.06), ("token", 0.03, 0.03),
        ]  # fmt: skip


def test_a_budget_of_nothing_lets_nothing_pass_and_none_lets_everything(database: Database) -> None:
    budget(database, 0.0)
    with pytest.raises(BudgetError):
        create(database, who())
    accounts.change_account(database, "alice", budget_usd=None)
    create(database, who())


def test_last_months_usage_is_not_of_this_month(database: Database) -> None:
    finish(database, create(database, who(), serves=LORA, input={"model": "dev"}), 1.0, files=1)
    budget(database, 0.03)
    with pytest.raises(BudgetError):
        create(database, who(), serves=LORA, input={"model": "dev"})
    with database.write() as db:
        db.execute(sa.update(tables.usage).values(at=usage.month_start(db) - 1))
    create(database, who(), serves=LORA, input={"model": "dev"})


def test_each_threshold_is_told_once_a_month(database: Database) -> None:
    budget(database, 0.30, alert_webhook="https://example.com/alerts")
    told = []
    for _ in range(11):
        finish(database, add(database, serves=LORA, input={"model": "dev"}), 1.0, files=1)
        with database.read() as db:
            told.append(len(webhooks.deliveries(db)))
    assert told == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3]  # at 50, 80 and 100 %
    with database.read() as db:
        newest = webhooks.deliveries(db)[0]
        body = json.loads(webhooks.delivery(db, newest["id"])["body"])
    assert newest["event"] == "alert" and body["type"] == "budget.threshold"
    assert body["data"] | {"month": ""} == {
        "account": "alice", "token": None, "month": "", "threshold": 1.0, "used_usd": 0.3, "budget_usd": 0.3,
    }  # fmt: skip


def test_thresholds_are_told_once_when_runs_end_at_the_same_moment(database: Database) -> None:
    budget(database, 0.30, alert_webhook="https://example.com/alerts")
    ids = [add(database, serves=LORA, input={"model": "dev"}) for _ in range(10)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda run_id: finish(database, run_id, 1.0, files=1), ids))
    with database.read() as db:
        bodies = [json.loads(webhooks.delivery(db, one["id"])["body"]) for one in webhooks.deliveries(db)]
    assert sorted(body["data"]["threshold"] for body in bodies) == [0.5, 0.8, 1.0]
