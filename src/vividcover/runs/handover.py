"""A worker that has nothing to do, and a server of the same machine that has a run for it: a line between the two.

The server listens at its desk, a Unix socket in the data folder; workers come and say that they are idle. A run that a
client waits for is then handed over at once, instead of being put in the line, rung for, and found there. It is begun
while its row is written, by the worker, which claims it with the same INSERT. What the server may say of a run, it says
after that is committed; before, nobody but the server knows of it. The row's primary key decides who has written it:

    the worker cannot take it   it says so, and the server puts the run in the line
    the worker dies             the connection ends; the server looks whether the row is there, else puts it in the line
    the worker falls silent     so too, after a while; should it wake up, its INSERT finds the row there, and it stops
    the server dies             the worker writes the run down; its client was told of none

It is fair: a worker is idle when it has found the line empty, and a bell that rang since then goes before a handed run.

Worker → server, lines of JSON: `{"idle": [models whose child is up] | null (any)}`, `{"busy": true}`, and of a run
`{"id", "no": true}`, `{"id", "kept": columns}` (committed, goes on), or `{"id", "soon": columns, "logs"}` of one that
is over, so that the server can write its answer while that is committed, and then `{"id", "over": true}`, to send it.
Server → worker, two lines: `ID SERVES`, and the run as its child understands it, with what else the row needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vividcover.lines import encode
from vividcover.runs import bell

READ = 1 << 16  # bytes
LARGEST = 1 << 16  # bytes of a run that is handed over
OPENED = "desk"  # what the bell for "work" is about when a server has opened its desk


@dataclass(slots=True)
class Given:
    """A run that a server hands over. `line`: what the child is to read."""

    id: str
    serves: str
    line: bytes
    by: Line

    def answer(self, **what: Any) -> None:
        self.by.tell(id=self.id, **what)


class Line:
    """A worker's end of the connection with one server."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` when nobody is there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._buffer = b""
        self.dead = False
        self.idle = False  # what the server was told

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, **what: Any) -> None:
        """A server that is gone does not hear it; one that does not read is taken for gone."""
        line = encode(what) + b"\n"
        try:
            self.dead |= self._socket.send(line) < len(line)
        except OSError:
            self.dead = True
        if "idle" in what or "busy" in what:
            self.idle = "idle" in what

    def given(self) -> list[Given]:
        """The runs that came; does not wait. The server takes the worker for busy from then on."""
        try:
            data = self._socket.recv(READ)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.dead = True
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(lines) % 2:  # half of one
            self._buffer = lines.pop() + b"\n" + self._buffer
        found = []
        for head, line in zip(lines[::2], lines[1::2], strict=True):
            run_id, serves = head.decode().split(" ")
            found.append(Given(run_id, serves, line + b"\n", self))
            self.idle = False
        return found

    def close(self) -> None:
        self._socket.close()


class Hands:
    """A worker's connections with the servers of its machine."""

    def __init__(self, home: Path) -> None:
        self._folder = bell.folder("desks", home)
        self._lines: dict[str, Line] = {}
        self.opened = False  # a desk, that it may not have gone to yet

    @property
    def lines(self) -> list[Line]:
        return list(self._lines.values())

    def look(self) -> None:
        """Goes to the desks where it is not yet, and leaves those that are gone."""
        self._leave()
        self.opened = False
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):  # noqa: PTH208 (every half second)
                if name in self._lines:
                    continue
                path = f"{self._folder}/{name}"
                try:
                    self._lines[name] = Line(path)
                except ConnectionRefusedError:  # its process is dead
                    Path(path).unlink(missing_ok=True)
                except OSError:
                    continue

    def _leave(self) -> None:
        for name in [name for name, line in self._lines.items() if line.dead]:
            self._lines.pop(name).close()

    def hold_out(self, warm: Callable[[], Collection[str] | None]) -> None:
        """Says that a run of these models (None: of any) would be begun at once, to those who do not know it."""
        if self.opened:
            self.look()
        if new := [line for line in self._lines.values() if not line.idle]:
            kinds = warm()
            for line in new:
                line.tell(idle=None if kinds is None else sorted(kinds))

    def withdraw(self) -> None:
        for line in self._lines.values():
            if line.idle:
                line.tell(busy=True)

    def refuse(self, ready: Collection[Any]) -> None:
        """Runs that come while another is being carried out."""
        for line in self.lines:
            if line in ready:
                for given in line.given():
                    given.answer(no=True)
        self._leave()

    def wait(self, ring: bell.Listener, timeout: float) -> tuple[Given | None, bool]:
        """(a run to begin, whether there is reason to look at the line). The line goes before a run that is given."""
        sources: list[Any] = [ring, *self._lines.values()]
        ready, _, _ = select.select(sources, [], [], timeout)
        rung = ring.heard() if ring in ready else set()
        if not ready or OPENED in rung:
            self.look()
        if rung:
            self.refuse(ready)
            return None, True
        runs = [given for line in self.lines if line in ready for given in line.given()]
        for given in runs[1:]:
            given.answer(no=True)
        self._leave()
        return runs[0] if runs else None, not ready

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()


def desk_at(home: Path) -> tuple[socket.socket, Path]:
    """A server's desk: a listening socket, and the file to remove at the end."""
    from vividcover.store.ids import new_id

    folder = Path(bell.folder("desks", home))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / new_id()[:12]
    desk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    desk.setblocking(False)
    desk.bind(str(path))
    desk.listen(64)
    return desk, path


def lines_of(run_id: str, serves: str, run: Mapping[str, Any]) -> bytes:
    """What a server sends to hand a run over."""
    return f"{run_id} {serves}\n".encode() + encode({"do": "run", **run}) + b"\n"
