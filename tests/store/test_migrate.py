"""Whatever state a database is in, starting the program brings it to the current schema, or says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from vividcover.errors import StorageError
from vividcover.store import migrate
from vividcover.store.database import Database
from vividcover.store.migrations import HEAD
from vividcover.store.tables import metadata


def test_the_migrations_make_exactly_what_tables_py_says(database_url: str) -> None:
    database = Database(database_url)
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_an_upgrade_of_what_is_current_changes_nothing(database_url: str) -> None:
    database = Database(database_url)
    for _ in range(2):
        migrate.upgrade(database)
    with database.read() as db:
        assert migrate.revision(db) == HEAD
    database.close()


def test_an_earlier_release_s_rows_are_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url)
    monkeypatch.setattr(migrate, "HEAD", "0001")
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(sa.text("INSERT INTO facts (name, value) VALUES ('secret', 'kept')"))
    monkeypatch.undo()
    migrate.upgrade(database)
    with database.read() as db:
        assert db.execute(sa.select(metadata.tables["facts"].c.value)).scalars().all() == ["kept"]
        assert migrate.revision(db) == HEAD
    database.close()


def test_processes_that_start_at_once_do_not_get_into_each_others_way(database_url: str) -> None:
    code = "import sys; from vividcover.store import database, migrate; migrate.upgrade(database.Database(sys.argv[1]))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


def test_a_database_of_a_newer_release_is_refused_in_words(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'newer.db'}")
    migrate.upgrade(database)
    with database.write() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"schema '9999'.*install that one"):
        migrate.upgrade(database)
    database.close()


def test_the_newest_migration_is_the_one_that_the_quick_check_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
