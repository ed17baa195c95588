"""Lists, a page at a time: {"next": link|null, "previous": link|null, "results": […]}.

The cursor says where a page begins by the last row's (time, id), not by a count, so that rows that come or go meanwhile
neither repeat nor skip others. Clients request `next` and `previous` as they are: they are absolute links.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Request
from sqlalchemy import ColumnElement, Select, and_, or_
from sqlalchemy.engine import Connection, RowMapping

from vividcover.server.problems import Problem
from vividcover.server.public import Links

SIZE = 100


@dataclass(frozen=True, slots=True)
class Cursor:
    back: bool  # the page before this place, not after it
    at: float
    id: str

    def text(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([int(self.back), self.at, self.id]).encode()).decode()


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[RowMapping]
    next: Cursor | None
    previous: Cursor | None

    def body(self, request: Request, links: Links, results: list[Any]) -> dict[str, Any]:
        """The JSON of the page; `results` are its rows as the API shows them."""
        return {
            "next": _link(request, links, self.next), "previous": _link(request, links, self.previous),
            "results": results,
        }  # fmt: skip


def cursor_of(request: Request) -> Cursor | None:
    """The cursor in the query. Raises `Problem` 400 for one that is not ours."""
    text = request.query_params.get("cursor")
    if not text:
        return None
    try:
        back, at, id = json.loads(base64.urlsafe_b64decode(text.encode()))
        cursor = Cursor(bool(back), float(at), str(id))
        if not math.isfinite(cursor.at) or "\x00" in cursor.id:
            raise ValueError(text)
    except (ValueError, TypeError):
        raise Problem(400, f"The cursor {text[:100]!r} is not one of this server's.") from None
    return cursor


def page(
    db: Connection, query: Select[Any], time: ColumnElement[float], id: ColumnElement[str], cursor: Cursor | None,
    size: int = SIZE, *, newest_first: bool = True,
) -> Page:  # fmt: skip
    """One page of `query`, which has no order yet and selects `time` and `id` under their own names."""
    down = newest_first != bool(cursor and cursor.back)  # the direction in which rows are read
    if cursor:
        after = (time < cursor.at, id < cursor.id) if down else (time > cursor.at, id > cursor.id)
        query = query.where(or_(after[0], and_(time == cursor.at, after[1])))
    query = query.order_by(time.desc() if down else time.asc(), id.desc() if down else id.asc()).limit(size + 1)
    rows = list(db.execute(query).mappings())
    more = len(rows) > size
    rows = rows[:size]
    if cursor and cursor.back:
        rows.reverse()
    first = Cursor(True, rows[0][time.key], rows[0][id.key]) if rows and time.key and id.key else None
    last = Cursor(False, rows[-1][time.key], rows[-1][id.key]) if rows and time.key and id.key else None
    if cursor and cursor.back:
        return Page(rows, last, first if more else None)
    return Page(rows, last if more else None, first if cursor else None)


def _link(request: Request, links: Links, cursor: Cursor | None) -> str | None:
    if cursor is None:
        return None
    kept = [(k, v) for k, v in parse_qsl(request.url.query, keep_blank_values=True) if k != "cursor"]
    return f"{links.base}{request.url.path}?{urlencode([*kept, ('cursor', cursor.text())])}"
