"""A song's latents in files: memory does not grow with the song, and a sampling that was killed goes on.

    store = Store.open(folder, key, Layout(frames=2625, shape=(4, 64, 64)))   # goes on with what is there, or begins
    store.begin(pieces)                      # turn 0: where sampling starts
    store.put(window, latents)               # a window's result, into a place of its own
    store.merge(windows, settle)             # every frame gets the mean of its results; the next turn begins

    store.json      the journal: which sampling this is, and how many turns are done
    latents.0, .1   a row for each frame, float32; even turns' and odd turns'
    windows.bin     the results of the turn under way, each with its checksum and the turn that it belongs to

Whatever moment it is killed at, what is there is either whole or is not taken: results that were torn fail their
checksum, and a turn counts once the journal says so, which is the last thing that is written. Every step can be done
again and gives the same. Files are read and written piece by piece, not mapped, since mapped pages count as memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vividcover.errors import StorageError
from vividcover.files import Closing, aside, storage_errors, write_durably
from vividcover.portrait.sonic.config import FPS, WINDOW
from vividcover.portrait.sonic.rows import Rows
from vividcover.portrait.sonic.windows import Window, runs

FORMAT = 1
JOURNAL, RESULTS = "store.json", "windows.bin"
HEADER = struct.Struct("<8s8sIII4x")  # magic, the sampling's mark, turn, number of the window, CRC-32 of what follows
MAGIC = b"VCwindow"
PIECE = 128  # frames merged at once: 8 MB at 512 px
Settle = Callable[[int, int, Tensor], Tensor]  # (turns done, first frame, latents [n,4,h,w]) → what is kept of them

Wait = Callable[[Callable[[], None]], None]  # calls what waits for the disk


def at_once(call: Callable[[], None]) -> None:
    """The `Wait` that just waits."""
    call()


def as_it_is(turn: int, first: int, latents: Tensor) -> Tensor:
    """The `Settle` that changes nothing."""
    return latents


@dataclass(frozen=True)
class Layout:
    """What a store holds: so many frames of latents."""

    frames: int
    shape: tuple[int, int, int]  # [4, h, w]

    @property
    def window(self) -> int:
        """Numbers in a window's result."""
        return WINDOW * int(np.prod(self.shape))


@dataclass
class Journal:
    """What `store.json` says. `turns` are done; -1: not begun. `memory` is for who samples: how batches were made."""

    key: str
    layout: Layout
    turns: int = -1
    check: int = 0  # CRC-32 of the rows
    finished: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


class Store(Closing):
    """One sampling's files. `begun_anew` says why what was there was not taken, "" otherwise."""

    def __init__(self, folder: Path, journal: Journal, begun_anew: str = "") -> None:
        self.folder, self.journal, self.begun_anew = Path(folder), journal, begun_anew
        self._mark = hashlib.sha256(journal.key.encode()).digest()[:8]
        layout = journal.layout
        self._rows = [Rows(self.folder / f"latents.{k}", layout.shape, layout.frames) for k in (0, 1)]
        self._results = Rows(self.folder / RESULTS, (HEADER.size + 4 * layout.window,), 0, np.uint8)

    @classmethod
    def open(cls, folder: Path, key: str, layout: Layout) -> Store:
        """The store of this sampling, as far as it came; a new one where there is none, or another's, or damaged."""
        folder = Path(folder)
        with storage_errors("the portrait's latents", folder):
            folder.mkdir(parents=True, exist_ok=True)
        why = ""
        if (folder / JOURNAL).is_file():
            found = _read_journal(folder / JOURNAL)
            if found is None:
                why = "what was kept of this portrait cannot be read, so it is begun anew"
            elif (found.key, found.layout) != (key, layout):
                why = "what was kept there is of another portrait or of other settings, so it is begun anew"
            else:
                store = cls(folder, found)
                if store.is_whole():
                    return store
                store.close()
                why = "what was kept of this portrait is damaged, so it is begun anew"
        return cls(folder, Journal(key, layout), why)

    def reload(self) -> None:
        """Takes over what another process has written into the journal since."""
        found = _read_journal(self.folder / JOURNAL)
        if found is None or found.key != self.journal.key:
            raise StorageError(f"{self.folder / JOURNAL} has gone or changed under way.", "Start the portrait again.")
        self.journal = found

    # --- what it holds ----------------------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        return self.journal.layout.frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """[4, h, w] of one frame."""
        return self.journal.layout.shape

    @property
    def turns(self) -> int:
        """Turns done; -1 before `begin`."""
        return self.journal.turns

    def read(self, start: int, stop: int) -> Tensor:
        """Latents [n, 4, h, w] float32 of frames `start` to `stop` as they are by now."""
        return torch.from_numpy(self._now.read(start, stop))

    def gather(self, frames: Sequence[int]) -> Tensor:
        """The same for frames in any order."""
        return torch.from_numpy(np.concatenate([self._now.read(start, stop) for start, stop in runs(frames)]))

    @property
    def _now(self) -> Rows:
        return self._rows[self.journal.turns % 2]

    def is_whole(self) -> bool:
        """Whether the rows are those that the journal speaks of."""
        if self.turns < 0:
            return True
        check = 0
        try:
            for start in range(0, self.frames, PIECE):
                check = zlib.crc32(self._now.read(start, min(start + PIECE, self.frames)).data, check)
        except StorageError:
            return False
        return check == self.journal.check

    # --- how it comes to be -----------------------------------------------------------------------------------------

    def begin(self, pieces: Iterable[Tensor], settle: Settle = as_it_is, wait: Wait = at_once) -> None:
        """Turn 0: latents [n, 4, h, w] of all frames in order, in pieces of any length.

        Raises `StorageError` at once where the disk has no room for all that is to come.
        """
        self._ask_for_room()
        first = check = 0
        for piece in pieces:
            rows = np.ascontiguousarray(settle(0, first, piece).numpy(), np.float32)
            self._rows[0].write(first, rows)
            check = zlib.crc32(rows.data, check)
            first += len(piece)
        if first != self.frames:
            raise ValueError(f"{first} frames to begin with, for a song of {self.frames}")
        self._commit(0, check, wait)

    def _ask_for_room(self) -> None:
        """Latents twice, and a turn's results."""
        layout = self.journal.layout
        windows = -(-layout.frames // WINDOW) + 1
        needed = 4 * (2 * layout.frames * int(np.prod(layout.shape)) + windows * layout.window)
        mine = [rows.path for rows in (*self._rows, self._results) if rows.path.exists()]
        there = sum(path.stat().st_size for path in mine)  # is written over
        free = shutil.disk_usage(self.folder).free
        if needed > free + there:
            raise StorageError(
                f"A portrait of {layout.frames / FPS:.0f} s needs {needed / 1e9:.1f} GB of disk while it is made, and "
                f"{self.folder} has {free / 1e9:.1f}.",
                "Free some space, move VIVIDCOVER_HOME, or use a smaller min_resolution.",
            )

    def put(self, window: Window, latents: Tensor) -> None:
        """A window's result [n, 4, h, w] float32 (n < 25 in a short, straight song)."""
        payload = np.zeros(self.journal.layout.window, np.float32)
        values = latents.contiguous().numpy().reshape(-1)
        payload[: len(values)] = values
        header = HEADER.pack(MAGIC, self._mark, self.turns, window.number, zlib.crc32(payload.data))
        record = np.concatenate((np.frombuffer(header, np.uint8), payload.view(np.uint8)))
        self._results.write(window.number, record[None])

    def result(self, window: Window) -> NDArray[np.float32] | None:
        """What `put` wrote in this turn [n, 4, h, w]; None when it is not there, or torn."""
        if window.number >= self._results.count():
            return None
        record = self._results.read(window.number, window.number + 1)[0]
        magic, mark, turn, number, check = HEADER.unpack(record[: HEADER.size].tobytes())
        payload = record[HEADER.size :]
        if (magic, mark, turn, number) != (MAGIC, self._mark, self.turns, window.number):
            return None
        if zlib.crc32(payload.data) != check:
            return None
        whole: NDArray[np.float32] = payload.view(np.float32).reshape(WINDOW, *self.shape)
        return whole[: len(window.frames)]

    def has(self, window: Window) -> bool:
        return self.result(window) is not None

    def merge(self, windows: Sequence[Window], settle: Settle = as_it_is, wait: Wait = at_once) -> None:
        """The mean of what the windows found for each frame; frames in none of them stay. The turn is then done."""
        then, check = self._rows[(self.turns + 1) % 2], 0
        for start in range(0, self.frames, PIECE):
            rows = self._merged(windows, start, min(start + PIECE, self.frames))
            rows = np.ascontiguousarray(settle(self.turns + 1, start, torch.from_numpy(rows)).numpy(), np.float32)
            then.write(start, rows)
            check = zlib.crc32(rows.data, check)
        self._commit(self.turns + 1, check, wait)

    def _merged(self, windows: Sequence[Window], start: int, stop: int) -> NDArray[np.float32]:
        total = np.zeros((stop - start, *self.shape), np.float32)
        times = np.zeros(stop - start, np.float32)
        for window in windows:
            places = [(i, frame - start) for i, frame in enumerate(window.frames) if start <= frame < stop]
            if not places:
                continue
            found = self.result(window)
            if found is None:
                raise StorageError(
                    f"The result of window {window.number} has gone from {self.folder / RESULTS}.",
                    "Something else has changed the folder; start the portrait again, and it goes on from there.",
                )
            for i, frame in places:
                total[frame] += found[i]
                times[frame] += 1
        if not times.all():
            kept = times == 0
            total[kept] = self._now.read(start, stop)[kept]
        often = times > 1
        total[often] /= times[often, None, None, None]
        return total

    def remember(self, **memory: Any) -> None:
        """Notes in the journal for who samples."""
        self.journal.memory.update(memory)
        self._write_journal()

    def finish(self) -> None:
        """The last turn is done: only the latents are kept."""
        self.journal.finished = True
        self._write_journal()
        self._results.remove()
        self._rows[(self.turns + 1) % 2].remove()

    def _commit(self, turns: int, check: int, wait: Wait) -> None:
        wait(self._rows[turns % 2].flush)
        self.journal.turns, self.journal.check = turns, check
        self._write_journal()

    def _write_journal(self) -> None:
        with aside(self.folder / JOURNAL) as part:
            write_durably(part, json.dumps(asdict(self.journal), indent=1))

    def close(self) -> None:
        for rows in (*self._rows, self._results):
            rows.close()


def _read_journal(path: Path) -> Journal | None:
    """None when it is not a journal of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        layout = found.pop("layout")
        journal = Journal(layout=Layout(layout["frames"], tuple(layout["shape"])), **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return journal if journal.format == FORMAT else None
