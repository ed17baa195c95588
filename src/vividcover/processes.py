"""Work in child processes: all cores for Python code, memory handed back, and nothing left behind.

    with Children(workers=2, reporter=stage) as children:
        for block in children.map("vividcover.voice.classic.convert:sing", blocks):
            …

Children are plain `python -m vividcover.processes` interpreters that talk over their stdin and stdout, so the caller
needs no `if __name__ == "__main__"` and works from notebooks. A child whose parent dies reads end-of-file and ends
itself within a moment, even in the middle of its work; a canceled caller kills its children at once.

Work on large arrays belongs here: a child gives its memory back when it ends. In the caller's process they would leave
holes between what lives on, more with every song.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from vividcover.errors import VividCoverError
from vividcover.memory import give_back, settle
from vividcover.workspace import Reporter, Silent

POLL = 0.1  # seconds between two looks at the cancel flag


class Children:
    """Child processes that answer one `map` after the other, so that each starts and imports only once.

    They start when the first item for them comes. Use as a context manager: leaving it ends them.
    """

    def __init__(self, workers: int = 2, reporter: Reporter | None = None) -> None:
        self._workers, self._reporter = max(1, workers), reporter or Silent()
        self._children: list[_Child] = []

    def map(self, function: str, items: Iterable[Any], *, ahead: int = 1) -> Iterator[Any]:
        """Yields `function(item)` for each item, in order. `function` is "package.module:name"; items must pickle.

        At most `workers + ahead` items are in flight, so memory stays bounded however long `items` is.
        Raises what the function raised (a `VividCoverError` as itself), and `Canceled` when the reporter says so.
        """
        waiting: deque[_Child] = deque()  # who owes an answer, oldest first
        try:
            for number, item in enumerate(items):
                child = self._child(number % self._workers)
                child.send((function, item))
                del item  # the child's queue alone holds it
                waiting.append(child)
                if len(waiting) >= self._workers + ahead:
                    yield waiting.popleft().receive(self._reporter)
                    give_back()
            while waiting:
                yield waiting.popleft().receive(self._reporter)
                give_back()
        except BaseException:  # also when the caller wants no more of them
            self.close()  # there may be answers under way that nobody will take: the next map must not find them
            raise

    def _child(self, number: int) -> _Child:
        while len(self._children) <= number:
            self._children.append(_Child())
        return self._children[number]

    def close(self) -> None:
        for child in self._children:
            child.kill()
        self._children.clear()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_in_children(
    function: str, items: Iterable[Any], *, workers: int = 2, reporter: Reporter | None = None, ahead: int = 1
) -> Iterator[Any]:
    """`Children.map` for a single use."""
    with Children(workers, reporter) as children:
        yield from children.map(function, items, ahead=ahead)


class _Child:
    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vividcover.processes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self.results: queue.Queue[bytes | None] = queue.Queue()  # pickled (kind, value); None: it died
        self.requests: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, item: Any) -> None:
        self.requests.put(item)

    def _write(self) -> None:  # in a thread of its own: a pipe holds 64 kB, an item may be megabytes
        assert self.process.stdin is not None
        try:
            while (item := self.requests.get()) is not _STOP:
                _put(self.process.stdin, item)
                del item  # or it would stay until the next one comes
        except (OSError, ValueError):
            pass  # the child is gone; _read says so

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                self.results.put(_get(self.process.stdout))
        except (EOFError, OSError, ValueError):
            self.results.put(None)

    def receive(self, reporter: Reporter) -> Any:
        while True:
            reporter.check()
            try:
                answer = self.results.get(timeout=POLL)
                break
            except queue.Empty:
                continue
        if answer is not None:
            kind, value = pickle.loads(answer)  # our own child's, over a private pipe
            if kind == "value":
                return value
            raise value
        raise VividCoverError(
            f"A child process ended unexpectedly (exit status {self.process.wait()}).",
            "If memory ran out, close other programs or set VIVIDCOVER_THREADS=1, then run it again to continue.",
        )

    def kill(self) -> None:
        self.requests.put(_STOP)
        self.process.kill()
        self.process.wait()


_STOP = object()


def _put(pipe: BinaryIO | Any, value: Any) -> None:
    data = pickle.dumps(value, protocol=5)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _get(pipe: BinaryIO | Any) -> bytes:
    """One pickled value, still pickled: threads only read, so that no import happens in two threads at once."""
    header = pipe.read(8)
    if len(header) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", header)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve() -> None:
    """A child's whole life: read name and item, call the function, write the result; end when the parent does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the answers
    requests: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        try:
            while True:
                requests.put(_get(sys.stdin.buffer))
        except BaseException:
            os._exit(0)  # the parent is gone, or done with us

    threading.Thread(target=read, daemon=True).start()
    settle()
    while True:
        name, item = pickle.loads(requests.get())  # our parent's, over a private pipe
        try:
            module, _, attribute = name.partition(":")
            function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
            answer: tuple[str, Any] = ("value", function(item))
        except Exception as error:
            answer = ("error", _portable(error))
        _put(answers, answer)
        del item, answer  # while it waits
        give_back()


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _serve()


def alive(pid: int) -> bool:
    """Whether there is a process of this number, also somebody else's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
