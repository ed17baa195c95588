"""What was heard, read piece by piece from the files that `features.listen` left in a folder.

tokens.raw     [frames + 1, T, C] in the UNet's number format; the last ones are those of silence
buckets.f32    [frames, 2]
levels.f32     mean squares of the vocals, 50 a second
heard.json     sizes, and the key of what it was heard from; written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vividcover.errors import StorageError
from vividcover.portrait.sonic import sound
from vividcover.portrait.sonic.activity import Activity, activity_of
from vividcover.portrait.sonic.speech import BUCKETS

TOKENS, MOVES, LEVELS, DONE = "tokens.raw", "buckets.f32", "levels.f32", "heard.json"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Heard:
    """What `listen` left in a folder. Cheap to open, in as many processes as are wanted.

    `frames` of the network at 12.5 a second, `seconds` of sound, `activity` bool [F] (True: somebody sings),
    `silent_tokens` [T, C] on the CPU.
    """

    def __init__(self, folder: Path) -> None:
        about = read_json(Path(folder) / DONE)
        if not about:
            raise StorageError(f"Nothing was heard in {folder}, or not to the end.", "Run the portrait again.")
        self.folder, self.key = Path(folder), str(about["key"])
        self.frames, self.seconds = int(about["frames"]), float(about["seconds"])
        self.dtype: torch.dtype = DTYPES[about["dtype"]]
        self.shape = (int(about["tokens"]), int(about["context"]))
        self._each = self.shape[0] * self.shape[1] * self.dtype.itemsize  # bytes of a frame's tokens
        self._buckets = torch.from_numpy(sound.read(folder / MOVES, 0, self.frames * BUCKETS).reshape(-1, BUCKETS))
        self.silent_tokens: Tensor = self._read(self.frames, 1)[0]
        self.activity: Activity = activity_of(np.fromfile(folder / LEVELS, "<f4"), self.frames)

    def tokens(self, start: int, stop: int) -> Tensor:
        """Tokens of frames start … stop, [n, T, C] on the CPU, in the number format of the UNet."""
        return self._read(start, stop - start)

    def buckets(self, start: int, stop: int) -> Tensor:
        """How much head and face move, [n, 2] float32, as the net says it: times `dynamic_scale` is for who asks."""
        return self._buckets[start:stop]

    def tokens_of(self, indices: Sequence[int]) -> Tensor:
        """The same for any frames, such as those of a window that wraps round the song's end."""
        return torch.cat([self.tokens(start, stop) for start, stop in _runs(indices)])

    def buckets_of(self, indices: Sequence[int]) -> Tensor:
        return self._buckets[list(indices)]

    def _read(self, start: int, count: int) -> Tensor:
        if not 0 <= start <= start + count <= self.frames + 1:
            raise IndexError(f"frames {start} … {start + count} of {self.frames}")
        with (self.folder / TOKENS).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), count * self._each, start * self._each)
        if len(data) != count * self._each:
            raise StorageError(f"{self.folder / TOKENS} was cut short.", "Remove that folder and run it again.")
        if not count:
            return torch.zeros(0, *self.shape, dtype=self.dtype)
        return torch.frombuffer(bytearray(data), dtype=self.dtype).view(count, *self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """(start, stop) of the runs of numbers that follow one another."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def finished(folder: Path, key: str) -> bool:
    """Whether this was heard to its end, and is still there."""
    about = read_json(folder / DONE)
    if about.get("key") != key:
        return False
    each = about["tokens"] * about["context"] * DTYPES[about["dtype"]].itemsize
    wanted = {TOKENS: (about["frames"] + 1) * each, MOVES: about["frames"] * BUCKETS * 4, LEVELS: 4}
    return all(size_of(folder / name) >= size for name, size in wanted.items())


def size_of(path: Path) -> int:
    """Bytes in a file; -1: there is none."""
    return path.stat().st_size if path.is_file() else -1


def read_json(path: Path) -> dict[str, Any]:
    """A small file of ours; nothing where there is none or where it is torn."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
