"""The server's desk, where idle workers of this machine wait: a run that a client waits for is handed to one at once.

    handed = await desk.hand(new, weights_file, said)     # None: nobody is idle; the run goes into the line

What is said between the two, and why nothing is lost, is in `runs/handover.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vividcover.lines import decode
from vividcover.runs import bell, handover
from vividcover.runs.states import NewRun

SILENT = 2.0  # seconds after which a worker that says nothing is not waited for any longer
Row = Mapping[str, Any]


class Handed:
    """What becomes of a run. Without a row, the worker did not take it, or nobody knows whether it has."""

    def __init__(self, row: Row | None = None, logs: str = "", pending: _Pending | None = None) -> None:
        self.row, self.logs = row, logs
        self._pending = pending

    @property
    def ends(self) -> bool:
        """The row says how it ended, and is being committed. Nobody may hear of it before `is_over`."""
        return self._pending is not None

    async def is_over(self) -> bool:
        """Whether it was committed. False: nobody knows."""
        return self._pending is not None and await self._pending.over


class _Pending:
    """A run that a worker has."""

    def __init__(self, loop: asyncio.AbstractEventLoop, silent: Callable[[], None]) -> None:
        self.known: asyncio.Future[dict[str, Any]] = loop.create_future()  # what the worker says first
        self.over: asyncio.Future[bool] = loop.create_future()
        self._clock = loop.call_later(SILENT, silent)

    def hear(self, message: dict[str, Any]) -> bool:
        """Whether this was the last of it."""
        if "soon" not in message:
            self._clock.cancel()
            if not self.over.done():
                self.over.set_result("over" in message)
        if not self.known.done():
            self.known.set_result(message)
        return "soon" not in message


@dataclass
class _Idler:
    """A worker at the desk."""

    socket: socket.socket
    kinds: Collection[str] | None = ()  # models that it would begin at once; None: any
    buffer: bytes = b""
    has: dict[str, _Pending] = field(default_factory=dict)  # by the run's id


class Desk:
    """Lives in the event loop that called `start`. `home` is the data folder, where the workers look for it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._idlers: dict[int, _Idler] = {}  # by file number
        self._socket: socket.socket | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._path = handover.desk_at(self._home)
        self._loop.add_reader(self._socket.fileno(), self._greet)
        bell.ring("work", handover.OPENED, self._home)

    def stop(self) -> None:
        for number in list(self._idlers):
            self._leaves(number)
        if self._socket:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._path.unlink(missing_ok=True)

    async def hand(self, new: NewRun, weights_file: str | None, said: list[str]) -> Handed | None:
        """Hands a run to a worker that is idle, and waits until its row is committed, or about to be.

        `said`: its first log lines.
        """
        idler = next((i for i in self._idlers.values() if i.kinds is None or new.serves in i.kinds), None)
        if idler is None:
            return None
        values = dict(vars(new))
        more = {"weights_file": weights_file, "said": said, "asked": time.monotonic()}
        lines = handover.lines_of(new.id, new.serves, values | more)
        if len(lines) > handover.LARGEST:
            return None
        idler.kinds = ()
        if not self._sent(idler, lines):
            return Handed()
        number = idler.socket.fileno()
        pending = idler.has[new.id] = _Pending(self._loop, lambda: self._leaves(number))
        answer = await pending.known
        values["data_removed"] = False
        if "soon" in answer:
            return Handed(values | answer["soon"], answer["logs"], pending)
        return Handed(values | answer["kept"] if "kept" in answer else None)

    def _sent(self, idler: _Idler, lines: bytes) -> bool:
        try:
            if idler.socket.send(lines) == len(lines):
                return True
        except OSError:
            pass
        self._leaves(idler.socket.fileno())
        return False

    def _greet(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while True:
                came, _ = self._socket.accept()
                came.setblocking(False)
                self._idlers[came.fileno()] = _Idler(came)
                self._loop.add_reader(came.fileno(), self._hear, came.fileno())

    def _hear(self, number: int) -> None:
        idler = self._idlers[number]
        try:
            data = idler.socket.recv(handover.READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leaves(number)
            return
        *lines, idler.buffer = (idler.buffer + data).split(b"\n")
        for line in lines:
            message = decode(line)
            if "idle" in message:
                idler.kinds = message["idle"]
            elif "busy" in message:
                idler.kinds = ()
            run_id = message.get("id", "")
            if (pending := idler.has.get(run_id)) and pending.hear(message):
                del idler.has[run_id]

    def _leaves(self, number: int) -> None:
        """A worker is gone, or not to be relied on. Whoever waits for it hears that nothing is known."""
        if (idler := self._idlers.pop(number, None)) is None:
            return
        self._loop.remove_reader(number)
        idler.socket.close()
        for pending in idler.has.values():
            pending.hear({})
