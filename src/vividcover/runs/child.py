"""A worker's side of its warm children: start one, talk to it, kill it with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from vividcover.cover import models
from vividcover.lines import decode, encode
from vividcover.runs import links
from vividcover.settings import Settings

WARM = 2  # children that are kept
READ = 1 << 16  # bytes


class Child:
    """One runner process. `fileno()` is readable when it has said something, or has died."""

    def __init__(self, settings: Settings) -> None:
        self.ready = False
        self.dead = False
        self._buffer = b""
        requests, self._requests = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vividcover.runs.runner", str(requests)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(requests,), start_new_session=True, bufsize=0,
        )  # fmt: skip
        os.close(requests)
        os.set_blocking(self.fileno(), False)
        self.send("begin", settings=settings.model_dump(mode="json"))

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def up(self) -> bool:
        """It is waiting for work."""
        if not self.ready:
            list(self.heard())
        return self.ready and self.process.poll() is None

    def send(self, what: str, **more: Any) -> None:
        """A child that is dead does not hear it; `heard` tells."""
        self.pass_on(encode({"do": what, **more}) + b"\n")

    def pass_on(self, line: bytes) -> None:
        """`send`, of a line that is written already."""
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._requests, line) :]

    def cancel(self, run_id: str) -> None:
        """Asks it to stop a run that was sent before."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(run_id.encode() + b"\n")

    def heard(self) -> Iterator[dict[str, Any]]:
        """What it has said since; does not wait. Sets `ready`, and `dead` at the end of all that it said."""
        while True:
            try:
                data = os.read(self.fileno(), READ)
            except BlockingIOError:
                break
            if not data:
                self.dead = True
                break
            self._buffer += data
            if len(data) < READ:
                break
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = decode(line)
            if message["say"] == "ready":
                self.ready = True
            else:
                yield message

    def kill(self) -> int:
        """Ends it and its group at once; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.dead = True
        return status


class Children:
    """The warm children of a worker, one a model, or one for several that share nets.

    Of more than `WARM`, the least recently used ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kinds: OrderedDict[str, Child] = OrderedDict()
        self._spare: Child | None = None
        links.sweep()

    def prepare(self) -> None:
        """Starts one for the first model that comes, whichever it is."""
        self._spare = self._spare or Child(self._settings)

    def warm(self) -> set[str] | None:
        """Models whose child is up; None: any, there is one to spare."""
        if self._spare and self._spare.up():
            return None
        up = {kind for kind, child in self._kinds.items() if child.up()}
        return {model for kind in up for model in _groups().get(kind, [kind])}

    def take(self, model: str, *, sure: bool = False) -> Child:
        """The model's child, started if need be. `sure`: one that was up a moment ago is not looked at again."""
        kind = kind_of(model)
        if sure and (child := self._kinds.get(kind)) is not None:
            self._kinds.move_to_end(kind)
            return child
        child = self._kinds.pop(kind, None)
        if child is None or child.process.poll() is not None:
            if child is not None:
                child.kill()
            child, self._spare = self._spare or Child(self._settings), None
        self._kinds[kind] = child
        while len(self._kinds) > WARM:
            self._kinds.popitem(last=False)[1].kill()
        return child

    def drop(self, model: str) -> int:
        """Kills the model's child; its exit status."""
        child = self._kinds.pop(kind_of(model), None)
        status = child.kill() if child else 0
        links.sweep()
        return status

    def close(self) -> None:
        for child in (*self._kinds.values(), *([self._spare] if self._spare else [])):
            child.kill()
        self._kinds.clear()
        self._spare = None


@lru_cache(maxsize=1)
def _groups() -> dict[str, list[str]]:
    """Kind → the models of the catalog that one child carries out together."""
    groups: dict[str, list[str]] = {}
    for model in models().values():
        if model.together:
            groups.setdefault(model.together, []).append(model.name)
    return groups


def kind_of(model: str) -> str:
    """Which child is a model's: its own, or that of all which share its nets."""
    return next((kind for kind, names in _groups().items() if model in names), model)
