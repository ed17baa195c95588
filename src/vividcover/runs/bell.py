"""A doorbell between the processes of one machine, so that nobody has to poll hard.

    ring("work")                                  # whoever listens to "work" wakes up
    with Listener("work") as bell:
        heard = bell.wait(0.5)                    # what the rings were about; None: time is up

Topics: "work" (a run waits), "cancel" (one that is carried out is to stop), "runs" (a run changed), "webhooks" (one is
to be sent). A ring may say what it is about, a run's id, with a "!" behind it when the run is over. Rings are datagrams
to Unix sockets in the data folder. A ring that gets lost is harmless: the truth is in the database, and everybody also
looks there every half second or so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import tempfile
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal

from vividcover.settings import settings
from vividcover.store.ids import new_id

Topic = Literal["work", "cancel", "runs", "webhooks"]
LONGEST_PATH = 100  # bytes: an address of a Unix socket holds 104 to 108
LARGEST = 256  # bytes of a ring


def ring(topic: Topic, about: str = "", home: Path | None = None) -> None:
    """Wakes everybody who listens to `topic` on this machine. Never waits and never fails."""
    with contextlib.suppress(OSError):
        bell = _bell()
        for name in os.listdir(place := folder(topic, home)):  # noqa: PTH208 (in the way of every request)
            path = f"{place}/{name}"
            try:
                bell.sendto(about.encode()[:LARGEST], path)
            except ConnectionRefusedError:  # its process is dead
                Path(path).unlink(missing_ok=True)
            except OSError:  # it has more rings waiting than it can hold: it will wake up anyway
                continue


@lru_cache
def _bell() -> socket.socket:
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)
    return bell


class Listener:
    """One who is woken. `fileno()` makes it fit for `select` and for asyncio's `add_reader`; then call `heard()`."""

    def __init__(self, topic: Topic, home: Path | None = None) -> None:
        place = Path(folder(topic, home))
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = place / new_id()[:12]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path))

    def fileno(self) -> int:
        return self._socket.fileno()

    def heard(self) -> set[str]:
        """What the rings since the last call were about ("" for a ring about nothing); does not wait."""
        about = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                about.add(self._socket.recv(LARGEST).decode(errors="replace"))
        return about

    def wait(self, timeout: float) -> set[str] | None:
        """Waits at most `timeout` seconds for a ring."""
        ready, _, _ = select.select([self], [], [], max(0.0, timeout))
        return self.heard() if ready else None

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def folder(topic: str, home: Path | None) -> str:
    """Where Unix sockets for `topic` are: in the data folder, or, where its name is too long for a socket's address, in
    a short one in the system's own."""
    place = f"{home or settings().home}/bells/{topic}"
    if len(os.fsencode(place)) + 13 > LONGEST_PATH:
        short = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        return f"{tempfile.gettempdir()}/vividcover-{os.getuid()}-{short}"
    return place
