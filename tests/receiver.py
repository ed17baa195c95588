"""Where webhooks arrive, for tests."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

Message = tuple[dict[str, str], bytes]
Answer = int | Callable[[], int]


class Receiver:
    """A real HTTP server that keeps what it gets. `answers`: path → status, or what to do instead."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.headers: dict[str, str] = {}
        self.open = 0  # requests that wait for their answer
        self.closed = False
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()} | {"path": self.path}, body))
                receiver.open += 1
                answer = receiver.answers.get(self.path.split("?")[0], 200)
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status = answer() if callable(answer) else answer
                receiver.open -= 1
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                with contextlib.suppress(OSError):
                    self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None: ...

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.at = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.server.shutdown()
            self.server.server_close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.at}{path}"

    def bodies(self, path: str = "/hook") -> list[dict[str, Any]]:
        return [json.loads(body) for headers, body in self.got if headers["path"] == path]

    def statuses(self, path: str = "/hook") -> list[str]:
        return [body["status"] for body in self.bodies(path)]
