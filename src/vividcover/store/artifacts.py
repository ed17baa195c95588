"""Artifacts: immutable files named by their sha256, in a folder or in S3.

    artifacts = Artifacts("/data/artifacts")          # or "s3://bucket/prefix", with a folder for local copies
    with artifacts.put_stream() as writer:
        writer.write(b"…")
        blob = writer.commit()                        # without it, nothing is left behind
    artifacts.path(blob.sha256)                       # a local file

Layout: blobs/ab/<sha256>. What is being written stands in tmp/ and is renamed when it is whole, so a reader sees a
whole artifact or none. Who owns an artifact, and for how long, is told by rows in the database; `sweep` removes those
that no row speaks of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vividcover.errors import NotFoundError
from vividcover.files import share, storage_errors
from vividcover.settings import Settings

CHUNK = 1 << 18  # bytes read at a time
ABANDONED = 86_400.0  # seconds after which a file in tmp/, or a local copy that nobody asked for, belongs to nobody


@dataclass(frozen=True, slots=True)
class Blob:
    """An artifact: hashes in hex, size in bytes."""

    sha256: str
    md5: str
    bytes: int


class Artifacts:
    """A store of artifacts. Any number of processes and threads may use the same one.

    `where` is a folder or s3://bucket/prefix; of the latter, `cache` is the folder for local copies.
    """

    def __init__(self, where: str | Path, cache: Path | None = None) -> None:
        from vividcover.store.s3 import Bucket

        self._bucket = Bucket(str(where)) if str(where).startswith("s3://") else None
        if self._bucket is not None and cache is None:
            raise TypeError("a bucket needs a folder for local copies")
        self.root = Path(where) if self._bucket is None or cache is None else cache

    @classmethod
    def of(cls, settings: Settings) -> Artifacts:
        """The store that the settings name."""
        return cls(settings.artifacts or settings.home / "artifacts", settings.cache / "artifacts")

    def put_file(self, path: Path) -> str:
        """Takes in a copy of a file; returns its sha256."""
        return self.keep(path).sha256

    def keep(self, path: Path) -> Blob:
        """Takes in a copy of a file."""
        with path.open("rb") as file, self.put_stream() as writer:
            while chunk := file.read(CHUNK):
                writer.write(chunk)
            return writer.commit()

    def adopt(self, path: Path, sha: str) -> None:
        """Takes in a file that nobody will change and whose sha256 is known: a folder by a second name of the file, a
        bucket straight from it. Raises `FileNotFoundError`, `StorageError`.
        """
        if self._bucket is not None:
            self._bucket.put(sha, path)
            return
        place = self._place(sha)
        with storage_errors("an artifact", self.root):
            try:
                os.utime(place)
                return
            except FileNotFoundError:
                part = self._aside()
            try:
                share(path, part)
                os.utime(part)
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                place.parent.mkdir(parents=True, exist_ok=True)
                part.rename(place)
            finally:
                part.unlink(missing_ok=True)  # two names of one file: a rename leaves the first where it is

    def put_stream(self) -> Writer:
        """A context manager that takes `write(bytes)`, and `commit()` at the end."""
        return Writer(self)

    def path(self, sha: str) -> Path:
        """The artifact as a local file; from S3 it is fetched once. Raises `NotFoundError`."""
        place = self._place(sha)
        if not place.exists():
            if self._bucket is None:
                raise NotFoundError(f"There is no artifact {sha}.", "It may have expired; make it again.")
            with self.put_stream() as writer:
                for chunk in self._bucket.read(sha, 0, None):
                    writer.write(chunk)
                writer.settle()
        elif self._bucket is not None:
            os.utime(place)  # asked for now
        return place

    def here(self, sha: str) -> Path | None:
        """The artifact as far as it lies on this machine's disk; nothing is fetched."""
        place = self._place(sha)
        return place if place.exists() else None

    def open(self, sha: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The artifact's bytes from `start` up to, not including, `end`, in chunks. Raises `NotFoundError`."""
        place = self._place(sha)
        if self._bucket is not None and not place.exists():
            return self._bucket.read(sha, start, end)
        try:
            file = place.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"There is no artifact {sha}.", "It may have expired; make it again.") from None
        return _span(file, start, end)

    def exists(self, sha: str) -> bool:
        return self._bucket.exists(sha) if self._bucket else self._place(sha).exists()

    def size(self, sha: str) -> int:
        """Bytes. Raises `NotFoundError`."""
        return self._bucket.size(sha) if self._bucket else self.path(sha).stat().st_size

    def sweep(self, live: Collection[str], older_than: float) -> int:
        """Removes artifacts that are not in `live` and were last put `older_than` seconds ago; returns how many.

        An artifact whose row is not written yet is young, so it stays.
        """
        gone = self._bucket.sweep(live, older_than) if self._bucket else 0
        for place in self.root.glob("blobs/*/*"):
            if self._bucket is not None:  # a copy, and perhaps in use
                self._remove(place, ABANDONED)
            elif place.name not in live:
                gone += self._remove(place, older_than)
        for leftover in self.root.glob("tmp/*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > ABANDONED:
                    leftover.unlink()
        return gone

    def _place(self, sha: str) -> Path:
        if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
            raise NotFoundError(f"{sha!r} is not the name of an artifact.", "It is a sha256 in lower-case hex.")
        return self.root / "blobs" / sha[:2] / sha

    def _aside(self) -> Path:
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _remove(self, place: Path, older_than: float) -> int:
        """Takes it out of the way, looks again whether somebody has just put it anew, and only then removes it."""
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime <= older_than:
                return 0
            doomed = self._aside()
            place.rename(doomed)
            if time.time() - doomed.stat().st_mtime <= older_than:
                doomed.rename(place)
                return 0
            doomed.unlink()
            return 1
        return 0


class Writer:
    """An artifact that is being written. Leaving the `with` without `commit()` leaves nothing behind."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts, self._part = artifacts, artifacts._aside()
        self._sha, self._md5, self.bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0

    def __enter__(self) -> Writer:
        with storage_errors("an artifact", self._artifacts.root):
            self._file = self._part.open("wb")
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Raises `StorageError` when the disk is full."""
        with storage_errors("an artifact", self._artifacts.root):
            self._file.write(data)
        self._sha.update(data)
        self._md5.update(data)
        self.bytes += len(data)

    def commit(self) -> Blob:
        """Makes it an artifact; from here on it stays. Raises `StorageError`."""
        blob = self.settle()
        if self._artifacts._bucket is not None:
            self._artifacts._bucket.put(blob.sha256, self._artifacts._place(blob.sha256))
        return blob

    def settle(self) -> Blob:
        """Puts it into the local folder, durably and in one step."""
        blob = Blob(self._sha.hexdigest(), self._md5.hexdigest(), self.bytes)
        place = self._artifacts._place(blob.sha256)
        with storage_errors("an artifact", self._artifacts.root):
            try:
                os.utime(place)  # it is here already; "put now", so that no sweep takes it
            except FileNotFoundError:
                self._file.flush()
                os.fsync(self._file.fileno())
                place.parent.mkdir(parents=True, exist_ok=True)
                self._part.rename(place)
        return blob

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk has been told by `write`
            self._file.close()
        self._part.unlink(missing_ok=True)


def _span(file: IO[Any], start: int, end: int | None) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = None if end is None else end - start
        while left is None or left > 0:
            data = file.read(CHUNK if left is None else min(CHUNK, left))
            if not data:
                return
            left = None if left is None else left - len(data)
            yield data
