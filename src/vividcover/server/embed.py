"""Small outputs as `data:` links, for clients that reach the server by http:// (setting `data_uri_bytes`).

The official clients make file objects of https: and data: links only; of an http: link they hand on the text.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict

import sqlalchemy as sa

from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database, now
from vividcover.store.tables import files

KEPT = 32  # links that are remembered: clients ask for the same run again and again


class Embedder:
    """`embedder(file_id)` is the file as a link; None for one that is larger than `most` bytes or not on this disk."""

    def __init__(self, database: Database, artifacts: Artifacts, most: int) -> None:
        self._database, self._artifacts, self._most = database, artifacts, most
        self._made: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, file_id: str) -> str | None:
        with self._lock:
            if file_id in self._made:
                self._made.move_to_end(file_id)
                return self._made[file_id]
        if (link := self._link(file_id)) is not None:
            with self._lock:
                self._made[file_id] = link
                while len(self._made) > KEPT:
                    self._made.popitem(last=False)
        return link

    def _link(self, file_id: str) -> str | None:
        live = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now())
        wanted = sa.select(files.c.sha256, files.c.content_type).where(files.c.id == file_id, live)
        with self._database.read() as db:
            row = db.execute(wanted.where(files.c.bytes <= self._most)).first()
        if row is None or (place := self._artifacts.here(row.sha256)) is None:
            return None
        return f"data:{row.content_type};base64,{base64.b64encode(place.read_bytes()).decode()}"
