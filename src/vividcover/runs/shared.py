"""Finished stages that a worker on another machine goes on from: their files are artifacts, and a row names them.

    Workspace(cache, shared=of(settings, artifacts))

The cache of finished stages is each machine's own. Where machines share a database and artifacts, a stage is also put
there, by a thread of its own, so that no run waits for it: the files of a folder get a second name, a bucket is sent
them. The row is written when all of them are there. What the machine had no time to send before it died is made again.
Whoever has taken a run over asks for a stage that its own cache lacks. Rows go with `sweep`.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vividcover.errors import NotFoundError
from vividcover.files import share, storage_errors, write_durably
from vividcover.settings import Settings
from vividcover.store.artifacts import Artifacts

if TYPE_CHECKING:
    from vividcover.store.database import Database

FRESH = 300.0  # seconds in which a stage that was just put is not put again
MANY = 1000  # of them, after which the old ones are forgotten

log = logging.getLogger("vividcover.shared")


def of(settings: Settings, artifacts: Artifacts) -> SharedStages | None:
    """None where stages are not shared."""
    return SharedStages(settings.database_url, artifacts) if settings.shares_stages else None


class SharedStages:
    """`workspace.Shared` over a database and artifacts. May be used from several threads."""

    def __init__(self, database_url: str, artifacts: Artifacts) -> None:
        self._url, self._artifacts = database_url, artifacts
        self._opened: Database | None = None
        self._queue: queue.SimpleQueue[tuple[str, Path]] = queue.SimpleQueue()
        self._fresh: dict[str, float] = {}  # key → when it was put
        self._lock = threading.Lock()
        self._sender: threading.Thread | None = None

    @property
    def _database(self) -> Database:
        """Opened when it is first needed: most children never do."""
        from vividcover.store.database import Database

        with self._lock:
            self._opened = self._opened or Database(self._url)
            return self._opened

    def get(self, key: str, folder: Path) -> bool:
        """Raises `StorageError`."""
        from sqlalchemy import select

        from vividcover.store.tables import shared_stages as table

        with self._database.read() as db:
            row = db.execute(select(table.c.files, table.c.record).where(table.c.key == key)).first()
        if row is None:
            return False
        try:
            with storage_errors("a stage", folder):
                for name, sha in row.files.items():
                    share(self._artifacts.path(sha), folder / name)
                write_durably(folder / "stage.json", row.record)
        except NotFoundError:  # it was swept away meanwhile
            return False
        return True

    def put(self, key: str, folder: Path) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._fresh.get(key, now - FRESH) < FRESH:
                return
            if len(self._fresh) >= MANY:
                self._fresh = {known: at for known, at in self._fresh.items() if now - at < FRESH}
            self._fresh[key] = now
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, name="shared stages", daemon=True)
                self._sender.start()
        self._queue.put((key, folder))

    def _send_all(self) -> None:
        while True:
            key, folder = self._queue.get()
            try:
                self.send(key, folder)
            except Exception as error:  # the run has its own copy; whoever takes it over makes the stage again
                log.warning("The stage %s is not shared: %s", key[:12], error)
                with self._lock:
                    self._fresh.pop(key, None)

    def send(self, key: str, folder: Path) -> None:
        """Puts a stage there now. One that is there is marked as used. Raises `StorageError`, `OSError`."""
        from sqlalchemy import update

        from vividcover.runs.registry import insert_missing
        from vividcover.store.database import now
        from vividcover.store.tables import shared_stages as table

        with self._database.write() as db:
            if db.execute(update(table).where(table.c.key == key).values(used_at=now())).rowcount:
                return
        text = (folder / "stage.json").read_text(encoding="utf-8")
        record = json.loads(text)
        for name, sha in record["files"].items():
            self._artifacts.adopt(folder / name, sha)
        values = {"key": key, "name": record["name"][:100], "files": record["files"], "record": text, "used_at": now()}
        with self._database.write() as db:
            insert_missing(db, table, values)
