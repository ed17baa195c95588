"""A run that a client waits for goes straight to an idle worker; none is lost or done twice, whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from run_making import HELLO, new_run, opened, row, told
from vividcover.runs import bell, handover, states
from vividcover.runs.handover import Given, Hands
from vividcover.runs.worker import Worker
from vividcover.server import desk
from vividcover.server.desk import Desk
from vividcover.settings import settings
from vividcover.store.database import Database
from vividcover.store.tables import models, tokens, usage


@pytest.fixture
def database() -> Iterator[Database]:
    with opened(settings().database_url) as database:
        yield database


@pytest.fixture
def chosen(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that does what a test tells it to, and whose child is up, and whose moments are long."""
    monkeypatch.setattr("vividcover.runs.handed.MOMENT", 5.0)
    worker = Worker(settings())
    with bell.Listener("work") as worker.bell, bell.Listener("cancel") as worker.cancels:
        worker.children.prepare()
        while worker.children.warm() is not None:
            pass
        yield worker
        worker.hands.close()
        worker.children.close()
        worker.database.close()


class Said(handover.Line):
    """A server's side, which only listens."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.dead = self.idle = False

    def tell(self, **what: Any) -> None:
        self.heard.append(what)


def given(new: states.NewRun, **more: Any) -> Given:
    values = vars(new) | {"weights_file": None, "said": [], "asked": 0.0}
    _, line, _ = handover.lines_of(new.id, new.serves, values | more).split(b"\n")
    return Given(new.id, new.serves, line + b"\n", Said())


def handed(worker: Worker, one: Given) -> list[dict[str, Any]]:
    """Has the worker carry it out; what it answers."""
    from vividcover.runs.handed import Handed as Drive

    assert isinstance(one.by, Said)
    worker._carry_out(Drive(worker, one))
    return one.by.heard


def test_a_run_that_is_over_at_once_is_written_with_all_that_belongs_to_it(chosen: Worker, database: Database) -> None:
    one = given(new_run(input={"text": "you"}), said=["Not known.\n"])
    answer, committed = handed(chosen, one)
    kept = row(database, one.id)
    assert (kept["status"], kept["output"]) == ("succeeded", {"items": ["hello there, you"]})
    assert (kept["fence"], kept["attempts"], kept["lease_owner"], kept["lease_until"]) == (2, 1, None, None)
    assert kept["metrics"]["total_time"] >= kept["metrics"]["predict_time"] > 0
    assert kept["created_at"] <= kept["started_at"] <= kept["completed_at"]
    assert told(database, one.id) == ["Not known.\n"] and told(database, one.id, "output") == ["hello there, you"]
    assert answer["soon"] == {key: kept[key] for key in answer["soon"]} and answer["logs"] == "Not known.\n"
    assert committed["over"]
    with database.read() as db:
        assert db.execute(sa.select(usage.c.run_id)).scalars().all() == [one.id]
        assert db.scalar(sa.select(tokens.c.turn).where(tokens.c.id == "t1")) == kept["turn"] == 1.0
        assert db.scalar(sa.select(sa.func.sum(models.c.run_count))) in (None, 1)


def test_a_longer_one_is_told_of_as_soon_as_it_is_kept_and_goes_on(
    chosen: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vividcover.runs.handed.MOMENT", 0.01)
    one = given(new_run(input={"repeat": 2, "seconds": 0.1}))
    (answer,) = handed(chosen, one)
    assert answer["kept"]["status"] == "processing" and answer["kept"]["completed_at"] is None
    kept = row(database, one.id)
    assert (kept["status"], kept["fence"]) == ("succeeded", 2) and kept["metrics"]["predict_time"] > 0.2
    with database.read() as db:
        assert db.execute(sa.select(usage.c.run_id)).scalars().all() == [one.id]


def test_who_put_it_in_the_line_meanwhile_has_it(chosen: Worker, database: Database) -> None:
    new = new_run()
    with database.write() as db:
        states.enqueue(db, new)
    assert handed(chosen, given(new)) == [{"id": new.id, "no": True}]
    assert row(database, new.id)["status"] == "starting" and not told(database, new.id, "output")
    assert not chosen.children._kinds, "its child, which did it for nothing, is not asked again"


def test_a_failure_ends_it_as_any_other(chosen: Worker, database: Database) -> None:
    one = given(new_run(input={"fail": True}))
    answer, committed = handed(chosen, one)
    assert answer["soon"]["status"] == "failed" and answer["soon"]["error"].startswith("It was asked to fail.")
    assert committed["over"] and row(database, one.id)["error"] == answer["soon"]["error"]


def test_a_defect_leaves_no_trace_and_the_server_is_told(
    chosen: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("vividcover.runs.leases.finish", break_down)
    one = given(new_run())
    assert handed(chosen, one)[-1] == {"id": one.id, "no": True}
    with database.read() as db:
        assert states.get(db, one.id) is None
        assert db.scalar(sa.select(tokens.c.turn).where(tokens.c.id == "t1")) == 0.0


def at_a_desk(home: Path, act: Callable[[Desk, socket.socket], Any]) -> Any:
    """What comes of `act(desk, a worker's end)` in an event loop."""

    async def go() -> Any:
        here = Desk(home)
        here.start()
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(here._path))
                line.setblocking(False)
                return await act(here, line)
        finally:
            here.stop()

    return asyncio.run(go())


async def given_to(line: socket.socket) -> str:
    """The id of the run that comes."""
    data = await asyncio.get_running_loop().sock_recv(line, 1 << 16)
    return data.split(b" ")[0].decode()


async def idle(line: socket.socket, **what: Any) -> None:
    line.send(json.dumps({"idle": None, **what}).encode() + b"\n")
    await asyncio.sleep(0.05)


def test_a_run_is_handed_to_who_is_idle_and_could_begin_it_at_once(tmp_path: Path) -> None:
    async def act(here: Desk, line: socket.socket) -> None:
        assert await here.hand(new_run(), None, []) is None, "nobody has said that he is idle"
        await idle(line, idle=["somebody/else"])
        assert await here.hand(new_run(), None, []) is None
        await idle(line, idle=[HELLO])
        new = new_run()
        waits = asyncio.ensure_future(here.hand(new, None, []))
        assert await given_to(line) == new.id
        assert await here.hand(new_run(), None, []) is None, "he is busy now"
        soon = {"status": "succeeded", "output": {"items": ["x"]}}
        line.send(json.dumps({"id": new.id, "soon": soon, "logs": "words"}).encode() + b"\n")
        answer = await waits
        assert answer is not None and answer.row is not None and answer.ends and answer.logs == "words"
        assert (answer.row["id"], answer.row["status"]) == (new.id, "succeeded")
        over = asyncio.ensure_future(answer.is_over())
        await asyncio.sleep(0.05)
        assert not over.done(), "it may still not be committed"
        line.send(json.dumps({"id": new.id, "over": True, "idle": None}).encode() + b"\n")
        assert await over
        assert next(iter(here._idlers.values())).kinds is None, "and idle again"

    at_a_desk(tmp_path, act)


@pytest.mark.parametrize("how", ["refuses", "dies", "is silent"])
def test_nobody_waits_for_a_worker_that_does_not_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(desk, "SILENT", 0.1)

    async def act(here: Desk, line: socket.socket) -> None:
        await idle(line)
        new = new_run()
        waits = asyncio.ensure_future(here.hand(new, None, []))
        await given_to(line)
        if how == "refuses":
            line.send(json.dumps({"id": new.id, "no": True}).encode() + b"\n")
        elif how == "dies":
            line.close()
        answer = await asyncio.wait_for(waits, 2)
        assert answer is not None and answer.row is None and not answer.ends
        assert await here.hand(new_run(), None, []) is None

    at_a_desk(tmp_path, act)


@pytest.mark.parametrize("how", ["cannot commit", "dies", "is silent"])
def test_what_was_not_committed_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(desk, "SILENT", 0.1)

    async def act(here: Desk, line: socket.socket) -> None:
        await idle(line)
        new = new_run()
        waits = asyncio.ensure_future(here.hand(new, None, []))
        await given_to(line)
        line.send(json.dumps({"id": new.id, "soon": {"status": "succeeded"}, "logs": ""}).encode() + b"\n")
        answer = await waits
        assert answer is not None and answer.ends
        if how == "cannot commit":
            line.send(json.dumps({"id": new.id, "no": True}).encode() + b"\n")
        elif how == "dies":
            line.close()
        assert await asyncio.wait_for(answer.is_over(), 2) is False

    at_a_desk(tmp_path, act)


def test_a_bell_goes_before_a_run_that_is_handed_over(tmp_path: Path) -> None:
    server, path = handover.desk_at(tmp_path)
    hands = Hands(tmp_path)
    with bell.Listener("work", tmp_path) as ring:
        hands.look()
        line, _ = server.accept()
        line.settimeout(2)
        hands.hold_out(lambda: None)
        assert json.loads(line.recv(1000)) == {"idle": None}
        line.send(handover.lines_of("a" * 26, HELLO, {}))
        bell.ring("work", "b", tmp_path)
        assert hands.wait(ring, 2) == (None, True)
        assert json.loads(line.recv(1000)) == {"id": "a" * 26, "no": True}
        line.send(handover.lines_of("c" * 26, HELLO, {})[:40])
        assert hands.wait(ring, 2) == (None, False), "half of one"
        line.send(handover.lines_of("c" * 26, HELLO, {})[40:])
        one, _ = hands.wait(ring, 2)
        assert one is not None and (one.id, one.serves) == ("c" * 26, HELLO)
        line.close()
        assert hands.wait(ring, 2) == (None, False) and not hands.lines
    server.close()
    hands.close()
    path.unlink()
