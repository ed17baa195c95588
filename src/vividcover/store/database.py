"""The database: SQLite (WAL) by default, Postgres by URL; the same statements on both.

database = Database("sqlite:////home/me/vividcover.db")
with database.write() as db: db.execute(...)     # one transaction; SQLite takes the write lock at its beginning
with database.read() as db: db.execute(...)      # no transaction
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
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
BUSY_MS = int(BUSY_SECONDS * 1000)
MOMENT = 2e-4  # seconds that even who must not wait does: handing its write to another thread takes longer
FIRST_PAUSE, LONGEST_PAUSE = 2e-5, 5e-3  # seconds between two tries to write
LOG_PAGES = 16000  # of SQLite's log, 64 MB, which the writer who gets there brings into the database
KEPT = 8  # connections that stay open although nobody uses them


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
    """One engine. Threads may share it; a forked or spawned child makes its own.

    A file of SQLite's is kept open by connections that go from hand to hand; for Postgres the engine's pool looks each
    time whether its connection still lives.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(vividcover_write=True)
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._keeps = self.is_sqlite and bool(self.engine.url.database)
        self._kept: list[Connection] = []  # which nobody uses at the moment
        self._hasty: list[Connection] = []  # likewise, of `write_now`
        self._writers: list[Connection] = []  # likewise, of `write`

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed at the end and rolled back by an exception. Raises `StorageError`."""
        if self._keeps:
            with _clear(self.url), self._hand(self._writers, "busy_timeout=0") as connection:
                raw = _raw(connection)
                _in_turn(raw, "BEGIN IMMEDIATE")
                yield connection
                _in_turn(raw, "COMMIT")
            return
        with _clear(self.url), self._writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write_now(self) -> Iterator[Connection | None]:
        """`write()` for a thread that must not wait: None on Postgres, and when another writes for over a moment."""
        if not self._keeps:
            yield None
            return
        with (
            _clear(self.url),
            self._hand(self._hasty, "busy_timeout=0", f"wal_autocheckpoint={2 * LOG_PAGES}") as connection,
        ):
            raw = _raw(connection)
            mine = _done(raw, "BEGIN IMMEDIATE", MOMENT)
            yield connection if mine else None
            if mine:
                raw.execute("COMMIT")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose every statement stands for itself. Raises `StorageError`."""
        with _clear(self.url), self._hand(self._kept) if self._keeps else self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _hand(self, kept: list[Connection], *pragmas: str) -> Iterator[Connection]:
        """A connection of SQLite's, outside any transaction, also afterwards; after an error it is not used again."""
        try:
            connection = kept.pop()
        except IndexError:
            connection = self._reader.connect()
            for pragma in pragmas:
                _raw(connection).execute(f"PRAGMA {pragma}")
        try:
            yield connection
            if connection.in_transaction():  # SQLAlchemy thinks so from its first statement on
                connection.rollback()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.connection.rollback()
            _part(connection)
            raise
        if len(kept) < KEPT:
            kept.append(connection)
        else:
            _part(connection)

    def close(self) -> None:
        for kept in (self._kept, self._hasty, self._writers):
            while kept:
                _part(kept.pop())
        self.engine.dispose()


def _done(raw: sqlite3.Connection, statement: str, seconds: float) -> bool:
    """Carries it out when nobody is in the way. False: somebody was for all these seconds.

    SQLite itself would look again after a millisecond and more, in which a worker could have done a run.
    """
    until, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        try:
            raw.execute(statement)
            return True
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(1.25 * pause, LONGEST_PAUSE)


def _in_turn(raw: sqlite3.Connection, statement: str) -> None:
    if not _done(raw, statement, BUSY_SECONDS):
        raise sqlite3.OperationalError("database is locked")


@contextlib.contextmanager
def _clear(url: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, sqlite3.OperationalError, sqlite3.InterfaceError) as error:
        shown = make_url(url).render_as_string(hide_password=True)
        why = getattr(error, "orig", error)
        raise StorageError(f"The database {shown} failed: {why}.", "Is it there, writable, not full?") from error


def _part(connection: Connection) -> None:
    """Closes it for good: its settings are its own, so it must not get into the engine's pool."""
    connection.invalidate()
    connection.close()


@contextlib.contextmanager
def apart(db: Connection) -> Iterator[None]:
    """A part of a transaction; what it did is undone when it fails, and nothing else."""
    if (raw := sqlite_of(db)) is None:
        with db.begin_nested():
            yield
        return
    if not raw.in_transaction:  # an error such as a full disk has ended it
        raise StorageError("The database has given up the transaction.", "Is there room on its disk?")
    raw.execute("SAVEPOINT apart")
    try:
        yield
    except BaseException:
        raw.execute("ROLLBACK TO apart")
        raw.execute("RELEASE apart")
        raise
    raw.execute("RELEASE apart")


def sqlite_of(db: Connection) -> sqlite3.Connection | None:
    """The driver's own connection, where that is SQLite's."""
    raw: Any = db.connection.dbapi_connection
    return raw if isinstance(raw, sqlite3.Connection) else None


def _raw(connection: Connection) -> sqlite3.Connection:
    raw: Any = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


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
    _in_turn(connection, "PRAGMA journal_mode=WAL")  # of several that open a new file, SQLite lets all but one fail
    for pragma in ("synchronous=NORMAL", f"busy_timeout={BUSY_MS}",
                   "foreign_keys=ON", "temp_store=MEMORY", f"wal_autocheckpoint={LOG_PAGES}"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("vividcover_write") else "BEGIN")
