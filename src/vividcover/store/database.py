"""The database: SQLite (WAL) by default, Postgres by URL; the same statements on both.

database = Database("sqlite:////home/me/vividcover.db")
with database.write() as db: db.execute(...)     # one transaction; SQLite takes the write lock at its beginning
with database.read() as db: db.execute(...)      # no transaction
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from vividcover.errors import ParameterError, StorageError
from vividcover.files import storage_errors

BUSY_SECONDS = 30.0  # how long a writer waits for another's transaction; ours are milliseconds long


class now(FunctionElement[float]):
    """The database's clock, unix seconds as a double. It goes on within a transaction."""

    type = sa.Double()
    inherit_cache = True
    name = "now"


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgres(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """One engine. Threads may share it; a forked or spawned child makes its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(vividcover_write=True)
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed at the end and rolled back by an exception. Raises `StorageError`."""
        with _clear(self.url), self._writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose every statement stands for itself. Raises `StorageError`."""
        with _clear(self.url), self._reader.connect() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


@contextlib.contextmanager
def _clear(url: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        shown = make_url(url).render_as_string(hide_password=True)
        raise StorageError(f"The database {shown} failed: {error.orig}.", "Is it there, writable, not full?") from error


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ParameterError(f"{url!r} is not a database URL.", "For example sqlite:////data/vividcover.db.") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ParameterError(
            f"{parsed.get_backend_name()!r} databases are not supported.", "Use sqlite:///… or postgresql://…"
        )
    if parsed.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=8, max_overflow=24
            )
        except (ImportError, NoSuchModuleError):
            raise ParameterError(
                "The Postgres driver is not installed.", "Install it: pip install 'vividcover[postgres]'."
            ) from None
    if parsed.database:
        folder = Path(parsed.database).parent
        with storage_errors("the database", folder):
            folder.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=24)
    sa.event.listen(engine, "connect", _open_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={int(BUSY_SECONDS * 1000)}",
                   "foreign_keys=ON", "temp_store=MEMORY"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("vividcover_write") else "BEGIN")
