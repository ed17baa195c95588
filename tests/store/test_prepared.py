"""A statement that is made ready once does what SQLAlchemy would do with it, on either database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vividcover.store import migrate
from vividcover.store.database import Database, now
from vividcover.store.prepared import Prepared
from vividcover.store.tables import accounts, runs

NAMED = runs.c.id == sa.bindparam("run")
ADD = Prepared(lambda: sa.insert(runs).values(created_at=now(), turn=1.0).returning(runs))
GET = Prepared(lambda: sa.select(runs, now().label("clock")).where(NAMED).with_for_update())
CHANGE = Prepared(lambda: sa.update(runs).where(NAMED))
OPEN = Prepared(lambda: sa.select(runs.c.id).where(runs.c.status.in_(["starting", "processing"])).order_by(runs.c.id))
GIVEN = {
    "account_id": "a", "token_id": "t", "model": "o/n", "version": "v", "serves": "o/n", "kind": "prediction",
    "files": {}, "metrics": {"seconds": 1.5}, "aborts": True, "output": None,
}  # fmt: skip


@pytest.fixture
def db(database_url: str) -> Iterator[Connection]:
    database = Database(database_url)
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(sa.insert(accounts).values(id="a", username="a", name="a", webhook_secret="", created_at=now()))
        yield db
    database.close()


def add(db: Connection, run_id: str, status: str = "starting") -> dict[str, object]:
    (row,) = ADD.rows(db, {**GIVEN, "id": run_id, "status": status, "input": {"text": "schön", "list": [1, {}]}})
    return row


def test_values_go_in_and_come_out_as_sqlalchemy_has_them(db: Connection) -> None:
    given = add(db, "r1")
    found = GET.one(db, {"run": "r1"})
    assert found is not None and found.pop("clock") >= found["created_at"]
    assert found == given == dict(db.execute(sa.select(runs)).mappings().one())
    assert found["input"] == {"text": "schön", "list": [1, {}]} and found["files"] == {}
    assert found["aborts"] is True and found["data_removed"] is False and found["output"] is None
    assert found["engine"] == "auto" and found["attempts"] == 0  # the columns' defaults
    assert db.execute(sa.select(runs.c.id).where(runs.c.output.is_(None))).scalar() == "r1"  # NULL, not JSON's null


def test_it_changes_whichever_columns_it_is_given(db: Connection) -> None:
    add(db, "r1")
    assert CHANGE.do(db, {"run": "r1", "output": {"items": ["a"]}, "aborts": False}) == 1
    assert CHANGE.do(db, {"run": "r1", "status": "succeeded"}) == 1
    assert CHANGE.do(db, {"run": "r2", "status": "failed"}) == 0
    row = GET.one(db, {"run": "r1"})
    assert row is not None and (row["status"], row["output"], row["aborts"]) == ("succeeded", {"items": ["a"]}, False)
    assert GET.one(db, {"run": "r2"}) is None


def test_lists_and_many_at_once(db: Connection) -> None:
    for run_id, status in (("r1", "starting"), ("r2", "failed"), ("r3", "processing")):
        add(db, run_id, status)
    assert OPEN.rows(db, {}) == [{"id": "r1"}, {"id": "r3"}]
    CHANGE.do_all(db, [{"run": "r1", "status": "failed"}, {"run": "r2", "status": "starting"}])
    assert OPEN.rows(db, {}) == [{"id": "r2"}, {"id": "r3"}]
