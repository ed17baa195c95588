"""A file of rows of one size, any span of which is read or written: for what there is of every frame of a song.

    rows = Rows(folder / "tokens", (32, 1024), count=2625)
    rows.write(100, values)                        # [n, 32, 1024] from row 100 on
    rows.read(98, 103)                             # [5, 32, 1024]

Nothing is buffered: what was written is there after this process is killed; `flush` has it survive a power cut, too.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vividcover.errors import StorageError
from vividcover.files import Closing, storage_errors


class Rows(Closing):
    """Rows of `shape`. `count` is how many there will be, 0 when that is not known; the file grows as it is written."""

    def __init__(self, path: Path, shape: tuple[int, ...], count: int = 0, dtype: DTypeLike = np.float32) -> None:
        self.path, self.shape, self.rows, self.dtype = Path(path), tuple(shape), count, np.dtype(dtype)
        self.size = self.dtype.itemsize * int(np.prod(self.shape))  # bytes of a row
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()

    def _opened(self) -> Any:
        if self._file is None:
            with storage_errors(self.path.name, self.path.parent):
                self.path.touch()
                self._file = self.path.open("r+b", buffering=0)
        return self._file

    def count(self) -> int:
        """Whole rows that the file holds."""
        return self.path.stat().st_size // self.size if self.path.exists() else 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """[stop - start, …]. Raises `StorageError` for rows that are not in the file."""
        out = np.empty((stop - start, *self.shape), self.dtype)
        view, done = out.reshape(-1).view(np.uint8).data, 0
        with self._lock:
            file = self._opened()
            file.seek(start * self.size)
            while done < len(view) and (got := file.readinto(view[done:])):
                done += got
        if done < len(view):
            raise StorageError(f"{self.path} ends before row {stop}.", "It was cut short; start the work again.")
        return out

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Puts rows from `start` on. Raises `StorageError` on a full disk."""
        if values.shape[1:] != self.shape or (self.rows and start + len(values) > self.rows):
            raise ValueError(f"rows {start}+{values.shape} for a file of {self.rows} rows of {self.shape}")
        view, done = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data, 0
        with self._lock, storage_errors(self.path.name, self.path.parent):
            file = self._opened()
            file.seek(start * self.size)
            while done < len(view):
                done += file.write(view[done:])

    def flush(self) -> None:
        """Waits until the disk has it."""
        if self._file is not None:
            with storage_errors(self.path.name, self.path.parent):
                os.fsync(self._file.fileno())

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
