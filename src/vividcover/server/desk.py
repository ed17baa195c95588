"""The server's desk, where idle workers of this machine wait: a run that a client waits for is handed to one at once.

    handed = await desk.hand(new, weights_file, said)     # None: nobody is idle; the run goes into the line

What is said between the two, and why nothing is lost, is in `runs/handover.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vividcover.lines import decode
from vividcover.runs import bell, handover
from vividcover.runs.states import NewRun

SILENT = 2.0  # seconds after which a worker that says nothing is not waited for any longer
FIELDS = tuple(one.name for one in fields(NewRun))
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Handed:
    """What became of a run. Without a row, the worker did not take it, or nobody knows whether it has."""

    row: Row | None = None  # committed
    over: bool = False
    logs: str = ""


@dataclass
class _Idler:
    """A worker at the desk."""

    socket: socket.socket
    kinds: Collection[str] | None = ()  # models that it would begin at once; None: any
    buffer: bytes = b""

    def __post_init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}


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
        """Hands a run to a worker that is idle, and waits until its row is committed. `said`: its first log lines."""
        idler = next((i for i in self._idlers.values() if i.kinds is None or new.serves in i.kinds), None)
        if idler is None:
            return None
        values = {name: getattr(new, name) for name in FIELDS}
        more = {"weights_file": weights_file, "said": said, "asked": time.monotonic()}
        lines = handover.lines_of(new.id, new.serves, values | more)
        if len(lines) > handover.LARGEST:
            return None
        idler.kinds = ()
        if not self._sent(idler, lines):
            return Handed()
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        idler.waiting[new.id] = future
        clock = self._loop.call_later(SILENT, self._leaves, idler.socket.fileno())
        try:
            answer = await future
        finally:
            clock.cancel()
            idler.waiting.pop(new.id, None)
        values["data_removed"] = False
        if "over" in answer:
            return Handed(values | answer["over"], True, answer["logs"])
        if "kept" in answer:
            return Handed(values | answer["kept"])
        return Handed()

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
            if (future := idler.waiting.get(message.get("id", ""))) and not future.done():
                future.set_result(message)

    def _leaves(self, number: int) -> None:
        """A worker is gone, or not to be relied on. Whoever waits for it hears that nothing is known."""
        if (idler := self._idlers.pop(number, None)) is None:
            return
        self._loop.remove_reader(number)
        idler.socket.close()
        for future in idler.waiting.values():
            if not future.done():
                future.set_result({})
