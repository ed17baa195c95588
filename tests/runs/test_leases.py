"""Whoever holds the lease writes, and nobody else; whatever dies, the run is taken up again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from run_making import add, opened, row, stage_rows, told
from vividcover.runs import chores, leases, states
from vividcover.runs.leases import Claim, LostLease, Outcome
from vividcover.runs.worker import _dead, _machine
from vividcover.store.database import Database, now
from vividcover.store.tables import files, runs, usage

BLOB = {"sha256": "a" * 64, "md5": "b" * 32, "bytes": 12, "name": "cover.mp4"}


def claimed(database: Database, worker: str = "w1", **more: Any) -> Claim:
    claim = leases.claim_one(database, worker, **more)
    assert claim is not None
    return claim


def let_lease_end(database: Database, run_id: str) -> None:
    with database.write() as db:
        db.execute(sa.update(runs).where(runs.c.id == run_id).values(lease_until=now() - 1))


def give_back(database: Database, why: str = "", *, counts: bool = True) -> None:
    claim = claimed(database)
    with database.write() as db:
        leases.release(db, claim, why, counts=counts)


def stage(name: str, hit: bool = False) -> dict[str, Any]:
    return {"name": name, "key": name, "hit": hit, "seconds": 1.0}


def test_a_run_is_claimed_once(database: Database) -> None:
    ids = {add(database) for _ in range(40)}
    got: list[str] = []

    def work(name: str) -> None:
        while claim := leases.claim_one(database, name):
            got.append(claim.id)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(ids) and set(got) == ids


def test_a_model_whose_child_is_up_begins_with_the_claim(database: Database) -> None:
    for warm, status in (((), "starting"), (("vividcover/hello",), "processing"), (None, "processing")):
        add(database)
        claim = claimed(database, warm=warm)
        assert claim.run["status"] == status and (claim.run["started_at"] is not None) == (status == "processing")


def test_a_run_for_another_device_is_left_to_it(database: Database) -> None:
    run_id = add(database, device="cuda:0")
    assert leases.claim_one(database, "w", "cpu") is None
    assert claimed(database, "w", device="cuda:0").id == run_id


def test_a_worker_that_fell_silent_loses_its_run_and_can_write_nothing_more(
    database: Database,
) -> None:
    run_id = add(database)
    old = claimed(database, "w1")
    assert leases.claim_one(database, "w2") is None, "the lease has not ended"
    let_lease_end(database, run_id)
    new = claimed(database, "w2")
    assert new.id == run_id and new.again and not old.again
    with pytest.raises(LostLease):
        leases.look(database, old)
    for write in (
        lambda db: leases.beat(db, old, 30),
        lambda db: leases.release(db, old),
        lambda db: leases.started(db, old),
        lambda db: leases.record_stage(db, old, stage("a")),
        lambda db: leases.say(db, old, [("log", "still here\n")], {"items": ["x"]}),
        lambda db: leases.finish(db, old, Outcome("succeeded", files=[BLOB]), [("log", "done\n")]),
    ):
        with pytest.raises(LostLease), database.write() as db:
            write(db)
    assert told(database, run_id) == [] and stage_rows(database, run_id) == []
    with database.write() as db:
        leases.finish(db, new, Outcome("succeeded", files=[BLOB]))
    assert row(database, run_id)["status"] == "succeeded"
    with database.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(files)).scalar_one() == 1
        assert db.execute(sa.select(sa.func.count()).select_from(usage)).scalar_one() == 1


def test_a_beat_keeps_the_lease(database: Database) -> None:
    run_id = add(database)
    claim = claimed(database, lease=5)
    before = row(database, run_id)["lease_until"]
    with database.write() as db:
        leases.beat(db, claim, 60)
    assert row(database, run_id)["lease_until"] > before + 50


def test_after_three_deaths_without_a_stage_a_run_fails_and_says_why(database: Database) -> None:
    run_id = add(database)
    for _ in range(leases.ATTEMPTS):
        claimed(database)
        let_lease_end(database, run_id)
    assert leases.claim_one(database, "w") is None
    assert chores.tend(database) == [run_id]
    found = row(database, run_id)
    assert found["status"] == "failed" and "begun 3 times and its process died each time" in found["error"]


def test_a_run_that_gets_further_is_taken_up_as_often_as_it_takes(database: Database) -> None:
    run_id = add(database)
    for number in range(3 * leases.ATTEMPTS):
        claim = claimed(database)
        with database.write() as db:
            leases.record_stage(db, claim, stage(f"stage {number}"))
        let_lease_end(database, run_id)
    assert chores.tend(database) == []
    assert [one["name"] for one in stage_rows(database, run_id)] == [f"stage {n}" for n in range(9)]


def test_a_stage_that_a_later_attempt_finds_in_the_cache_is_known_already(database: Database) -> None:
    run_id = add(database)
    first = claimed(database)
    with database.write() as db:
        leases.record_stage(db, first, stage("a"))
    let_lease_end(database, run_id)
    second = claimed(database)
    with database.write() as db:
        leases.record_stage(db, second, stage("a", hit=True))
        leases.record_stage(db, second, stage("from another run", hit=True))
        leases.record_stage(db, second, stage("b"))
    assert [(one["name"], one["hit"], one["fence"]) for one in stage_rows(database, run_id)] == [
        ("a", False, 1), ("from another run", True, 2), ("b", False, 2),
    ]  # fmt: skip


def test_a_worker_that_leaves_gives_its_run_back_without_counting_it_as_a_death(database: Database) -> None:
    run_id = add(database)
    for _ in range(2 * leases.ATTEMPTS):
        give_back(database, counts=False)
    assert row(database, run_id)["attempts"] == 0
    give_back(database, "The child died.")
    assert row(database, run_id)["attempts"] == 1 and told(database, run_id) == ["The child died.\n"]


def test_a_canceled_run_whose_worker_died_is_canceled_by_whoever_looks(database: Database) -> None:
    run_id = add(database)
    claimed(database)
    states.request_cancel(database, run_id)
    let_lease_end(database, run_id)
    assert leases.claim_one(database, "w2") is None
    assert chores.tend(database) == [run_id]
    assert row(database, run_id)["status"] == "canceled"


def test_canceling_a_run_whose_worker_died_needs_nobody(database: Database) -> None:
    run_id = add(database)
    claim = claimed(database)
    let_lease_end(database, run_id)
    canceled = states.request_cancel(database, run_id)
    assert canceled is not None and canceled["status"] == "canceled"
    with pytest.raises(LostLease), database.write() as db:
        leases.finish(db, claim, Outcome("succeeded", text="too late"))


def test_an_end_writes_status_output_files_usage_and_last_words_together(database: Database) -> None:
    run_id = add(database, output_shape="files")
    claim = claimed(database, warm=None)
    outcome = Outcome("succeeded", files=[BLOB, BLOB | {"name": "still.png"}], engine="classic")
    with database.write() as db:
        leases.finish(db, claim, outcome, [("log", "bye\n")], keep_seconds=100)
    found = row(database, run_id)
    assert found["status"] == "succeeded" and found["engine"] == "classic" and found["lease_owner"] is None
    assert found["metrics"].keys() == {"total_time", "predict_time"}
    assert [file["name"] for file in found["output"]["files"]] == ["cover.mp4", "still.png"]
    with database.read() as db:
        kept = db.execute(sa.select(files).order_by(files.c.name)).mappings().all()
        used = db.execute(sa.select(usage)).mappings().one()
    assert [(f["content_type"], f["run_id"], f["account_id"]) for f in kept] == [
        ("video/mp4", run_id, "alice"), ("image/png", run_id, "alice"),
    ]  # fmt: skip
    assert kept[0]["expires_at"] - kept[0]["created_at"] == pytest.approx(100, abs=1)
    assert used["bytes"] == 24 and used["seconds"] == found["metrics"]["predict_time"]
    assert told(database, run_id) == ["bye\n"]


@pytest.mark.parametrize(
    ("outcome", "output"),
    [
        (Outcome("succeeded", text="hello"), {"text": "hello"}),
        (Outcome("succeeded", items=["a", "b"]), {"items": ["a", "b"]}),
        (Outcome("failed", error="It broke."), None),
        (Outcome("canceled"), None),
    ],
)
def test_outputs_are_kept_as_the_model_gives_them(database: Database, outcome: Outcome, output: Any) -> None:
    run_id = add(database)
    claim = claimed(database)
    with database.write() as db:
        leases.finish(db, claim, outcome)
    found = row(database, run_id)
    assert (found["status"], found["error"], found["output"]) == (outcome.status, outcome.error, output)


def test_the_dead_of_this_machine_are_known_and_those_of_others_are_not(database: Database) -> None:
    mine, theirs = f"{_machine()}:999999999:x", "elsewhere-1:999999999:x"
    assert _dead(mine) and not _dead(theirs) and not _dead(f"{_machine()}:1:x") and not _dead("odd")
    lost, kept = add(database), add(database)
    assert claimed(database, mine).id == lost and claimed(database, theirs).id == kept
    assert chores.bury(database, _dead) == 1
    assert claimed(database, "w").id == lost


def test_a_chore_is_done_by_one(database: Database) -> None:
    assert chores.my_turn(database, "sweep", 60)
    assert not chores.my_turn(database, "sweep", 60)
    assert chores.my_turn(database, "sweep", 0)


def test_the_next_run_is_taken_as_the_last_one_ends_or_neither_happens(database: Database) -> None:
    add(database), add(database)
    claim = claimed(database)

    def end_and_take(*, fails: bool) -> Claim | None:
        with database.write() as db:
            leases.finish(db, claim, Outcome("succeeded", text="done"))
            taken = leases.take(db, "w1", "cpu", None, 30.0)
            if fails:
                raise ZeroDivisionError
            return taken

    with pytest.raises(ZeroDivisionError):
        end_and_take(fails=True)
    assert row(database, claim.id)["completed_at"] is None
    taken = end_and_take(fails=False)
    assert taken is not None and taken.id != claim.id
    assert [row(database, one)["status"] for one in (claim.id, taken.id)] == ["succeeded", "processing"]
    assert leases.claim_one(database, "w2") is None


def test_a_long_line_does_not_make_it_slower_to_look_for_fallen_runs(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'a.db'}") as database, database.read() as db:
        text = str(leases._fallen().compile(db.engine, compile_kwargs={"literal_binds": True}))
        bare = text.replace(":device", "'cpu'")
        plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {bare}", {"device": "cpu"} if ":device" in bare else ()).all()
    assert len(plan) == 1 and "ix_runs_lease_until" in plan[0][3]
