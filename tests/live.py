"""A real server for tests: `vividcover up` in processes of its own, with a data folder of its own.

with live(tmp_path / "home") as server:
    server.url, server.token()
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PROGRAM = str(Path(sys.executable).with_name("vividcover"))
PATIENCE = 60.0  # seconds: other tests run beside this one


@dataclass
class Live:
    """A running server."""

    url: str  # without /v1
    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    ca: Path | None = None  # certificate to trust, of a server with TLS
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str) -> str:
        """A command on the server's data folder; what it printed."""
        done = subprocess.run(
            [PROGRAM, *words], env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def token(self, scope: str = "read write train", *words: str) -> str:
        return str(json.loads(self.run("token", "create", "--scope", scope, "--json", *words))["token"])

    def client(self, token: str) -> httpx.Client:
        """An HTTP client with that token."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE,
            verify=ssl.create_default_context(cafile=self.ca) if self.ca else True,
        )  # fmt: skip


@contextlib.contextmanager
def live(home: Path, *options: str, port: int | None = None, tls: bool = False, **settings: str) -> Iterator[Live]:
    """Starts it, waits for its first answer, ends it. `settings`: `lease_seconds="2"` and the like."""
    port = port or free_port()
    environment = {"VIVIDCOVER_HOME": str(home)} | {f"VIVIDCOVER_{k.upper()}": v for k, v in settings.items()}
    words = [PROGRAM, "up", "--port", str(port), *options, *(("--tls", "self-signed") if tls else ())]
    home.mkdir(parents=True, exist_ok=True)
    log = home.with_name(f"{home.name}-{port}.log")
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
        )
    ca = None
    try:
        ca = _until_it_answers(port, process, log, tls)
        yield Live(f"http{'s' if tls else ''}://127.0.0.1:{port}", home, process, log, ca, environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path, tls: bool) -> Path | None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(f"http{'s' if tls else ''}://127.0.0.1:{port}/healthz", verify=False, timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        trusted = [Path(w.split("=")[1]) for w in log.read_text().split() if w.startswith("SSL_CERT_FILE=")]
        if trusted or not tls:
            return trusted[-1] if tls else None
        time.sleep(0.05)  # it answers a moment before it says whom to trust
    raise AssertionError(f"the server did not answer:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
