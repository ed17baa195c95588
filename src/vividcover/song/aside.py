"""Writing a file aside and renaming it into place, so that a reader sees a whole file or none."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from vividcover.errors import StorageError
from vividcover.workspace import storage_errors


@contextlib.contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Yields a path beside `out` to write to; on success it becomes `out`, on any error it is removed.

    A full disk or a folder that may not be written raises `StorageError`.
    """
    out = Path(out)
    with storage_errors(out.name, out.parent):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(
                f"{out.parent} is a file, so {out.name} cannot be put there.", "Name a folder."
            ) from None
        if out.is_dir():
            raise StorageError(f"{out} is a folder, so no file can be written there.", "Name a file inside it.")
        part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            yield part
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
