"""Files and disks: hashing, writing aside and renaming, and errors of storage that say what to do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from vividcover.errors import StorageError

UNWRITABLE = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip
HASH_CHUNK = 1 << 20  # bytes read at a time when hashing


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical(value: Any) -> str:
    """JSON with one spelling per value, for keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@contextlib.contextmanager
def storage_errors(what: str, where: Path) -> Iterator[None]:
    """Turns a full disk or a folder that may not be written into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(_existing(where)).free
            raise StorageError(
                f"The disk is full: could not write {what} in {where} ({free / 1e6:.0f} MB free).",
                "Free some space, run `vividcover cache prune`, or move VIVIDCOVER_HOME; finished stages are kept.",
            ) from error
        if error.errno in UNWRITABLE:
            raise StorageError(
                f"May not write {what} in {where}: {error.strerror}.",
                "Choose a folder that you may write to (`-o`, or VIVIDCOVER_HOME for the cache).",
            ) from error
        raise


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@contextlib.contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Yields a path beside `out` to write to; on success it becomes `out`, on any error it is removed.

    So a reader sees a whole file or none. A full disk or a place that may not be written raises `StorageError`.
    """
    out = Path(out)
    with storage_errors(out.name, out.parent):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(
                f"May not write {out.name} in {out.parent}: it is a file, not a folder.", "Name a folder."
            ) from None
        if out.is_dir():
            raise StorageError(f"{out} is a folder, so no file can be written there.", "Name a file inside it.")
        part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            yield part
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)


def stamp(path: Path) -> str:
    """What changes when a file, or one in a folder, is replaced: names, sizes and times, of nothing that is read."""
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    told = [(str(one.relative_to(path)), *_size_and_time(one)) for one in found]
    return hashlib.sha256(canonical(told).encode()).hexdigest()[:16]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        known = path.stat()
    except OSError:
        return -1, -1
    return known.st_size, known.st_mtime_ns


def share(source: Path, target: Path) -> None:
    """Gives a file that nobody will change a second name, which must be free; on another file system, copies it."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def publish(source: Path, destination: Path) -> Path:
    """Copies a finished file to where the user wants it."""
    with aside(destination) as part:
        shutil.copyfile(source, part)
    return destination


class Closing:
    """What is closed at the end of its `with` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_text(destination: Path, text: str) -> Path:
    """Writes a small text file."""
    with aside(destination) as part:
        part.write_text(text, encoding="utf-8")
    return destination


def write_durably(path: Path, text: str) -> None:
    """Writes and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
