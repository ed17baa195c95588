"""A server of files on this machine, for the tests of weights: whole files, parts of them, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DATA = os.urandom(300_000)
Answer = Callable[[BaseHTTPRequestHandler], None]


def serve(request: BaseHTTPRequestHandler, data: bytes = DATA, ranges: bool = True) -> None:
    """The whole file, or from where it is asked for."""
    asked = request.headers.get("Range") if ranges else None
    first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    request.send_response(206 if asked else 200)
    if asked:
        request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    request.send_header("Content-Length", str(len(data) - first))
    request.end_headers()
    request.wfile.write(data[first:])


def cut(request: BaseHTTPRequestHandler) -> None:
    """Half of what was promised, then the connection breaks."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(DATA)))
    request.end_headers()
    request.wfile.write(DATA[: len(DATA) // 2])
    request.wfile.flush()
    request.connection.close()


def status(code: int, location: str = "") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        if location:
            request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@dataclass
class Site:
    """A server on this machine. `answers` are given in turn, the last one again and again; `asked` is what it heard."""

    answers: list[Answer]
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    base: str = ""

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, request.headers.get("Range", "")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        with contextlib.suppress(OSError):  # the client has gone, or the answer itself has hung up
            answer(request)


@contextlib.contextmanager
def running(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site(self)

        def log_message(self, *_: Any) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...

    server = Quiet(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.base = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
