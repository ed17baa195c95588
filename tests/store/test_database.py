"""One database behind one door: transactions that are whole or nothing, its own clock, and errors in words."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from vividcover.errors import ParameterError, StorageError
from vividcover.store import migrate
from vividcover.store.database import Database, apart, now
from vividcover.store.tables import facts


def names(database: Database) -> set[str]:
    with database.read() as db:
        return set(db.execute(sa.select(facts.c.name)).scalars())


def test_a_transaction_is_whole_or_nothing(database_url: str) -> None:
    database = Database(database_url)
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(sa.insert(facts).values(name="kept", value=""))
    with pytest.raises(RuntimeError), database.write() as db:
        db.execute(sa.insert(facts).values(name="lost", value=""))
        raise RuntimeError
    assert names(database) == {"kept"}
    database.close()


def test_writers_wait_for_each_other(database_url: str) -> None:
    database = Database(database_url)
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(sa.insert(facts).values(name="count", value="0"))

    def add() -> None:
        for _ in range(20):
            with database.write() as db:
                row = sa.select(facts.c.value).where(facts.c.name == "count").with_for_update()
                value = int(db.execute(row).scalar_one())
                db.execute(sa.update(facts).where(facts.c.name == "count").values(value=str(value + 1)))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as db:
        assert db.execute(sa.select(facts.c.value)).scalar_one() == "80"
    database.close()


def test_a_part_that_fails_is_undone_alone(database_url: str) -> None:
    database = Database(database_url)
    migrate.upgrade(database)
    with database.write() as db:
        for name, fails in (("a", False), ("b", True), ("c", False)):
            with contextlib.suppress(RuntimeError), apart(db):
                db.execute(sa.insert(facts).values(name=name, value=""))
                if fails:
                    raise RuntimeError
    assert names(database) == {"a", "c"}
    database.close()


def test_who_must_not_wait_is_told_that_another_writes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate.upgrade(database)
    with database.write(), database.write_now() as none:
        assert none is None
    with database.write_now() as db:
        assert db is not None
        db.execute(sa.insert(facts).values(name="kept", value=""))
    with pytest.raises(RuntimeError), database.write_now() as db:
        assert db is not None
        db.execute(sa.insert(facts).values(name="lost", value=""))
        raise RuntimeError
    assert names(database) == {"kept"}
    database.close()


def test_a_writer_that_waits_is_let_in_at_once_and_gives_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Database(f"sqlite:///{tmp_path / 'a.db'}") for _ in range(2))
    migrate.upgrade(one)
    let_in: list[float] = []

    def wait() -> None:
        with other.write():
            let_in.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    with one.write():
        waiting.start()
        time.sleep(0.2)
        assert not let_in
        left = time.monotonic()
    waiting.join()
    assert 0 < let_in[0] - left < 0.2
    monkeypatch.setattr("vividcover.store.database.BUSY_SECONDS", 0.05)
    with one.write(), pytest.raises(StorageError, match="locked"), other.write():
        raise AssertionError
    one.close()
    other.close()


def test_the_clock_is_the_databases_and_goes_on_within_a_transaction(database_url: str) -> None:
    database = Database(database_url)
    with database.write() as db:
        first = float(db.execute(sa.select(now())).scalar_one())
        time.sleep(0.02)
        second = float(db.execute(sa.select(now())).scalar_one())
    assert 0.01 < second - first < 5 and abs(first - time.time()) < 5
    database.close()


@pytest.mark.parametrize("url", ["not a url", "mysql://localhost/x", ""])
def test_a_url_of_something_else_is_refused_in_words(url: str) -> None:
    with pytest.raises(ParameterError, match="sqlite:///"):
        Database(url)


def test_a_database_that_is_not_there_is_an_error_without_its_password(tmp_path: Path) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/none", f"sqlite:///{tmp_path}"):
        with pytest.raises(StorageError) as raised, Database(url).read() as db:
            db.execute(sa.select(now()))
        assert "secret" not in str(raised.value) and "Is it there" in raised.value.hint


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="May not write the database"):
        Database(f"sqlite:///{tmp_path / 'file' / 'folder' / 'x.db'}")
