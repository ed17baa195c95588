"""Statements that are carried out all the time, made ready once.

    TAKE = Prepared(lambda: select(runs).where(runs.c.id == bindparam("run")))
    row = TAKE.one(db, {"run": run_id})          # a dict, or None
    CHANGE.do(db, {"run": run_id, "status": "starting"})

On SQLite such a statement takes a few microseconds, and SQLAlchemy's way to it ten times as long: there it is compiled
once for each set of names that it is given, and afterwards goes to the driver directly, with SQLAlchemy's own
conversion of its values. On Postgres, whose answer takes longer than that, SQLAlchemy carries it out.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Insert
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.types import TypeEngine

from vividcover.store.database import sqlite_of

Convert = Callable[[Any], Any]
Values = Mapping[str, Any]
LATER = re.compile(r"__\[POSTCOMPILE_(\w+)\]")  # where SQLAlchemy would write as many marks as there are values


class Prepared:
    """One statement, made by `make` when it is first needed."""

    def __init__(self, make: Callable[[], Executable]) -> None:
        self._make = make
        self._made: Executable | None = None
        self._ready: dict[tuple[str, ...], _Sqlite] = {}  # by the names of the values

    def rows(self, db: Connection, values: Values) -> list[dict[str, Any]]:
        """Every row that it gives."""
        if (raw := sqlite_of(db)) is None:
            return [dict(row) for row in db.execute(self._statement(), dict(values)).mappings()]
        return self._for(db, values).rows(raw, values)

    def one(self, db: Connection, values: Values) -> dict[str, Any] | None:
        """Its first row; None where it gives none."""
        rows = self.rows(db, values)
        return rows[0] if rows else None

    def do(self, db: Connection, values: Values) -> int:
        """How many rows it changed."""
        if (raw := sqlite_of(db)) is None:
            return int(db.execute(self._statement(), dict(values)).rowcount)
        return self._for(db, values).do(raw, values)

    def do_all(self, db: Connection, many: Sequence[Values]) -> None:
        """Carries it out for each of the values, which all have the same names."""
        if (raw := sqlite_of(db)) is None:
            db.execute(self._statement(), [dict(values) for values in many])
            return
        for values in many:
            self._for(db, values).do(raw, values)

    def _statement(self) -> Executable:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _for(self, db: Connection, values: Values) -> _Sqlite:
        names = tuple(values)
        ready = self._ready.get(names)
        if ready is None:
            ready = self._ready[names] = _Sqlite(self._statement(), names, db.dialect)
        return ready


class _Sqlite:
    """A statement as SQLite's driver takes it: its text, what stands for each mark, what is made of each column."""

    def __init__(self, statement: Any, names: tuple[str, ...], dialect: Dialect) -> None:
        compiled: SQLCompiler = statement.compile(dialect=dialect, column_keys=list(names))
        constants = {name: value for name, value in compiled.params.items() if name not in names}
        if isinstance(statement, Insert):
            constants |= {column.key: column.default.arg for column in compiled.insert_prefetch}  # type: ignore[union-attr]
        self._places: list[tuple[str, Convert | None]] = []  # a name of the values, or "" and a constant
        marks: dict[str, str] = {}
        for name in compiled.positiontup or ():
            convert = _of(compiled.binds[name].type, dialect)
            if name in names:
                self._places.append((name, convert))
                continue
            several = constants[name] if isinstance(constants[name], list | tuple) else [constants[name]]
            marks[name] = ", ".join("?" * len(several))
            self._places += [("", _always(convert(one) if convert else one)) for one in several]
        self._text = LATER.sub(lambda found: marks[found[1]], compiled.string)
        self._columns: tuple[str, ...] = ()
        self._made_of: list[tuple[str, Convert]] = []
        if isinstance(statement, ReturnsRows):
            columns = list(statement.exported_columns.items())
            self._columns = tuple(str(name) for name, _ in columns)
            kinds = [
                (name, column.type.dialect_impl(dialect).result_processor(dialect, None)) for name, column in columns
            ]
            self._made_of = [(name, _quick(convert)) for name, convert in kinds if convert]

    def _given(self, values: Values) -> list[Any]:
        return [
            (values[name] if convert is None else convert(values[name])) if name else convert(None)  # type: ignore[misc]
            for name, convert in self._places
        ]

    def rows(self, raw: sqlite3.Connection, values: Values) -> list[dict[str, Any]]:
        found = raw.execute(self._text, self._given(values)).fetchall()
        rows = [dict(zip(self._columns, row, strict=True)) for row in found]
        for row in rows:
            for name, convert in self._made_of:
                row[name] = convert(row[name])
        return rows

    def do(self, raw: sqlite3.Connection, values: Values) -> int:
        return raw.execute(self._text, self._given(values)).rowcount


def _of(kind: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _quick(convert: Convert) -> Convert:
    """JSON's most frequent value needs no parser, and NULL nothing."""
    return lambda value: None if value is None else {} if value == "{}" else convert(value)


def _always(value: Any) -> Convert:
    return lambda _: value
