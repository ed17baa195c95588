"""kill -9, wherever it hurts: no run is lost, no stage is done twice, work goes on after the last finished stage."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from run_making import Up, add, alive, count, finished, kill, opened, row, stage_rows, told, until, up
from vividcover.runs import bell, states
from vividcover.settings import settings
from vividcover.store import accounts
from vividcover.store.database import Database
from vividcover.store.tables import runs, usage

PIECES = 3  # stages of the run that is killed
SECONDS = 0.4  # of each


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("VIVIDCOVER_LEASE_SECONDS", "2")
    settings.cache_clear()
    with opened(database_url) as database:
        yield database


def whole(database: Database, run_id: str) -> None:
    """The run succeeded; each of its stages took effect once, in order; nothing was said twice."""
    over = finished(database, run_id, 60)
    assert over["status"] == "succeeded", over["error"]
    pieces = ["hello there, world", *(f" ({number})" for number in range(2, PIECES + 1))]
    assert over["output"] == {"items": pieces}
    assert told(database, run_id, "output") == pieces
    keys = [stage["key"] for stage in stage_rows(database, run_id)]
    assert len(keys) == len(set(keys)) == PIECES
    with database.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(usage)).scalar_one() == count(database, "succeeded")


def at_every_boundary_and_inside(database: Database, run_id: str, strike: Up, part: str) -> int:
    """Kills a part in the midst of every stage, and right after each one but the last; gives back how often."""
    struck = 0
    for done in range(PIECES):
        until(lambda: strike.pids("runner") and row(database, run_id)["status"] == "processing", 30)
        time.sleep(SECONDS / 2)  # in the midst of a stage
        for when in ("inside", "boundary"):
            if when == "boundary":
                until(lambda done=done: len(stage_rows(database, run_id)) > done, 30, every=0.005)
            if when == "boundary" and done == PIECES - 1:
                break
            struck += 1
            fence = row(database, run_id)["fence"]
            strike.kill(part)
            until(lambda fence=fence: row(database, run_id)["fence"] > fence, 30, every=0.005)  # it is taken up again
    return struck


def test_a_run_does_not_notice_the_death_of_the_server(database: Database) -> None:
    with up("--workers", "1") as running:
        run_id, kills = add(database, input={"repeat": PIECES, "seconds": SECONDS}), 0
        while row(database, run_id)["status"] not in states.TERMINAL:
            running.kill("web")
            kills += 1
            time.sleep(SECONDS / 4)
        whole(database, run_id)
    assert kills > 2 * PIECES  # before, inside and after each stage
    assert {stage["fence"] for stage in stage_rows(database, run_id)} == {1}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_drops_everybody_costs_nothing(database: Database) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with up("--workers", "1") as running:
        run_id = add(database, input={"repeat": PIECES, "seconds": SECONDS})
        for done in range(1, PIECES):
            until(lambda done=done: len(stage_rows(database, run_id)) >= done, 30)
            with database.read() as db:
                db.exec_driver_sql(cut)
        whole(database, run_id)
        assert running.pids("start_worker") and running.pids("web"), "nobody had to be started again"
    assert {stage["fence"] for stage in stage_rows(database, run_id)} == {1}


@pytest.mark.parametrize("part", ["runner", "start_worker"])
def test_a_run_survives_the_death_of_its_runner_and_of_its_worker_at_any_point(database: Database, part: str) -> None:
    with up("--workers", "1") as running:
        run_id = add(database, input={"repeat": PIECES, "seconds": SECONDS})
        assert at_every_boundary_and_inside(database, run_id, running, part) == 2 * PIECES - 1
        whole(database, run_id)
    fences = [stage["fence"] for stage in stage_rows(database, run_id)]
    assert fences == sorted(fences) and len(set(fences)) == PIECES, "each stage was done in an attempt of its own"


def test_the_server_dies_again_and_again_and_nobody_is_refused_and_no_run_is_lost(database: Database) -> None:
    token, _ = accounts.create_token(database, "alice", scopes=["read", "write"])
    kills, made, cut = 4, set(), 0
    with up("--workers", "1") as running:

        def strike() -> None:
            for _ in range(kills):
                before = len(made)
                until(lambda before=before: len(made) > before + 3, 60)
                running.kill("web")

        with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(timeout=30) as client:
            killer = pool.submit(strike)
            while not killer.done() or len(made) < 4 * kills + 4:
                try:
                    answer = client.post(
                        f"{running.url}/v1/models/vividcover/hello/predictions", json={"input": {}},
                        headers={"Authorization": f"Bearer {token}"},
                    )  # fmt: skip
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    cut += 1  # the one that was just being answered
                    continue
                assert answer.status_code == 201, answer.text
                made.add(answer.json()["id"])
            killer.result()
        for run_id in made:
            assert finished(database, run_id)["status"] == "succeeded"
    assert cut <= 2 * kills
    assert len(made) <= count(database, "succeeded") <= len(made) + cut


@pytest.mark.parametrize("part", ["runner", "start_worker", "web"])
def test_who_waits_for_a_run_gets_it_whoever_dies_and_none_is_done_twice(database: Database, part: str) -> None:
    token, _ = accounts.create_token(database, "alice", scopes=["read", "write"])
    kills, made, cut = 3, dict[str, str](), 0
    with up("--workers", "1") as running:

        def strike() -> None:
            for _ in range(kills):
                before = len(made)
                until(lambda before=before: len(made) > before + 10, 60, every=0.001)
                running.kill(part)

        with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(timeout=60) as client:
            killer = pool.submit(strike)
            while not killer.done():
                try:
                    answer = client.post(
                        f"{running.url}/v1/models/vividcover/hello/predictions", json={"input": {}},
                        headers={"Authorization": f"Bearer {token}", "Prefer": "wait"},
                    )  # fmt: skip
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    cut += 1  # the one that was just being answered, by a server that died
                    continue
                assert answer.status_code == 201, answer.text
                made[answer.json()["id"]] = answer.json()["status"]
            killer.result()
    assert set(made.values()) == {"succeeded"}
    assert cut <= (kills if part == "web" else 0)
    with database.read() as db:
        over = set(db.execute(sa.select(runs.c.id).where(runs.c.status == "succeeded")).scalars())
        paid = list(db.execute(sa.select(usage.c.run_id)).scalars())
    assert set(made) <= over and len(over) <= len(made) + cut
    assert sorted(paid) == sorted(over)


def test_all_of_it_dies_and_goes_on_at_the_next_start(database: Database) -> None:
    with up("--workers", "2") as running:
        run_id = add(database, input={"repeat": PIECES, "seconds": SECONDS})
        until(lambda: len(stage_rows(database, run_id)) == 2)
        left = [pid for part in ("web", "start_worker", "runner") for pid in running.pids(part)]
        assert len(left) >= 4
        kill(running.process.pid)
        until(lambda: not any(alive(pid) for pid in left), 2)  # nothing outlives it
    assert row(database, run_id)["status"] == "processing"
    with up("--workers", "1"):
        whole(database, run_id)


def test_six_workers_and_six_hundred_runs(database: Database) -> None:
    with database.write() as db:
        from run_making import new_run

        ids = {str(states.enqueue(db, new_run(input={"text": str(number)}))["id"]) for number in range(600)}
    with up("--workers", "6") as running:
        bell.ring("work")
        until(lambda: count(database, "succeeded") == 600, 120, every=0.1)
        assert len(running.pids("start_worker")) == 6
    with database.read() as db:
        done = db.execute(sa.select(runs.c.id, runs.c.fence, runs.c.attempts, runs.c.output, runs.c.input)).all()
        paid = db.execute(sa.select(usage.c.run_id)).scalars().all()
    assert {one.id for one in done} == ids
    assert {(one.fence, one.attempts) for one in done} == {(2, 1)}, "claimed once, ended once"
    assert all(one.output == {"items": [f"hello there, {one.input['text']}"]} for one in done)
    assert len(paid) == len(set(paid)) == 600
