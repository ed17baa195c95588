"""Brings a database to the current schema. Any number of processes may do it at once: one does, the others wait."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vividcover.errors import StorageError
from vividcover.store.database import Database
from vividcover.store.migrations import HEAD

LOCK = 7_240_101  # of Postgres' advisory locks: ours, for the length of the upgrade
FOLDER = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """All in one transaction. Raises `StorageError` for a database that a newer release has made."""
    with database.read() as db:
        if revision(db) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with database.write() as db:  # SQLite has its lock from here on
        if not database.is_sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        if revision(db) == HEAD:
            return
        config.attributes["connection"] = db
        try:
            command.upgrade(config, HEAD)
        except CommandError as error:
            raise StorageError(
                f"The database has the schema {revision(db)!r}, which this release does not know.",
                "A newer release of vividcover has used it: install that one, or another database.",
            ) from error


def revision(db: Connection) -> str | None:
    """The schema's revision; None for an empty database."""
    if not sa.inspect(db).has_table("alembic_version"):
        return None
    found: str | None = db.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found
