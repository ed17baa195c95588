"""A run's row: it waits its fair turn, is canceled at once while it waits, and ends once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from run_making import add, new_run, row
from vividcover.runs import bell, chores, leases, states
from vividcover.store.database import Database, now
from vividcover.store.tables import runs, usage


def order(database: Database) -> list[str]:
    """The tokens whose runs are begun, one after the other, until the line is empty."""
    served = []
    while claim := leases.claim_one(database, "w"):
        served.append(str(claim.run["token_id"]))
        with database.write() as db:
            leases.finish(db, claim, leases.Outcome("succeeded", text="x"))
    return served


def test_a_new_run_is_starting_and_has_what_was_asked(database: Database) -> None:
    with database.write() as db:
        made = states.enqueue(
            db, new_run(input={"text": "you"}, files={"l": {"sha256": "0", "name": "n"}}, deadline_in=60)
        )
    assert made["status"] == "starting" and made["input"] == {"text": "you"} and made["output"] is None
    assert made["deadline"] - made["created_at"] == pytest.approx(60, abs=0.5)
    assert len(made["id"]) == 26
    assert row(database, made["id"]) == made
    with database.read() as db:
        assert states.get(db, "nobody") is None


def test_times_are_the_databases_clock(database: Database) -> None:
    before = _clock(database)
    made = row(database, add(database))
    assert before <= made["created_at"] <= _clock(database)


def _clock(database: Database) -> float:
    with database.read() as db:
        return float(db.execute(sa.select(now())).scalar_one())


def test_a_token_that_sends_many_runs_does_not_make_another_wait_for_all_of_them(database: Database) -> None:
    for _ in range(5):
        add(database, token_id="t1")
    for _ in range(3):
        add(database, token_id="t2")
    assert order(database) == ["t1", "t2", "t1", "t2", "t1", "t2", "t1", "t1"]


def test_nobody_saves_up_turns_and_nobody_starves(database: Database) -> None:
    for _ in range(20):
        add(database, token_id="t1")
    assert order(database) == ["t1"] * 20
    for _ in range(3):
        add(database, token_id="t2")  # it was silent until now: that is no credit
        add(database, token_id="t1")  # it has had twenty: that is no debt
    assert order(database) == ["t2", "t1", "t2", "t1", "t2", "t1"]


def test_one_at_a_time_does_not_push_in_before_those_who_wait(database: Database) -> None:
    for _ in range(4):
        add(database, token_id="t1")
    served = []
    add(database, token_id="t2")
    while claim := leases.claim_one(database, "w"):
        served.append(claim.run["token_id"])
        with database.write() as db:
            leases.finish(db, claim, leases.Outcome("succeeded", text="x"))
        if claim.run["token_id"] == "t2" and served.count("t2") < 4:
            add(database, token_id="t2")
    assert served == ["t1", "t2", "t1", "t2", "t1", "t2", "t1", "t2"]


def test_a_higher_priority_goes_first(database: Database) -> None:
    add(database, token_id="t1")
    add(database, token_id="t2", priority=5)
    add(database, token_id="t2", priority=-5)
    assert order(database) == ["t2", "t1", "t2"]


def test_a_run_that_waits_is_canceled_at_once(database: Database) -> None:
    run_id = add(database)
    with bell.Listener("runs") as listener:
        found = states.request_cancel(database, run_id)
        assert listener.wait(1) == {run_id}
    assert found is not None and found["status"] == "canceled" and found["completed_at"] >= found["created_at"]
    assert found["metrics"].keys() == {"total_time"}
    assert leases.claim_one(database, "w") is None


def test_a_run_that_is_worked_on_is_asked_to_stop(database: Database) -> None:
    run_id = add(database)
    claim = leases.claim_one(database, "w")
    assert claim is not None and leases.look(database, claim) is None
    asked = states.request_cancel(database, run_id)
    assert asked is not None and asked["status"] == "starting" and asked["cancel_requested_at"]
    assert leases.look(database, claim) == "canceled"


def test_a_run_that_is_over_stays_as_it_is(database: Database) -> None:
    run_id = add(database)
    states.request_cancel(database, run_id)
    before = row(database, run_id)
    assert states.request_cancel(database, run_id) == before
    assert states.request_cancel(database, "nobody") is None
    with database.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(usage)).scalar_one() == 1, "its usage is written once"


@pytest.mark.parametrize(("aborts", "status"), [(True, "aborted"), (False, "canceled")])
def test_a_deadline_that_passes_in_the_line_ends_the_run(database: Database, aborts: bool, status: str) -> None:
    late, in_time = add(database, deadline_in=-1, aborts=aborts), add(database, deadline_in=60, aborts=aborts)
    assert chores.tend(database) == [late]
    assert row(database, late)["status"] == status
    claim = leases.claim_one(database, "w")
    assert claim is not None and claim.id == in_time


def test_a_deadline_that_passed_is_not_begun_even_before_anybody_tends(database: Database) -> None:
    add(database, deadline_in=-1)
    assert leases.claim_one(database, "w") is None


def test_a_deadline_in_the_midst_of_work_is_told_to_the_worker(database: Database) -> None:
    run_id = add(database, deadline_in=60)
    claim = leases.claim_one(database, "w")
    assert claim is not None
    with database.write() as db:
        db.execute(sa.update(runs).where(runs.c.id == run_id).values(deadline=now() - 1))
    assert leases.look(database, claim) == "deadline"
    assert chores.tend(database) == [], "it has a worker"
