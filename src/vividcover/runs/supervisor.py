"""`vividcover up`: the server and its workers as children, started again when they die; all of them end with this one.

The listening socket is opened here and handed to the server's process, so while that is started again, clients wait a
moment and are not refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vividcover.errors import ParameterError, VividCoverError
from vividcover.runs.web import UNUSABLE
from vividcover.settings import Settings

SOON = 0.05  # seconds before a child that died is started again
LATE = 5.0  # seconds, of one that keeps dying
STEADY = 5.0  # seconds after which a child has not just died at its start
HOPELESS = 4  # deaths in a row, right after the start, of a server that has never answered
LEAVE = 4.0  # seconds that children get to end by themselves
TICK = 0.1  # seconds between two looks

log = logging.getLogger("vividcover.up")


@dataclass(frozen=True)
class Tls:
    """Files of a certificate, its key, and what clients have to trust ("" for one that they trust already)."""

    cert: Path
    key: Path
    ca: Path | None = None


@dataclass
class Part:
    """One child, and what is needed to start it again."""

    name: str
    command: list[str]
    fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    pause: float = SOON
    restarts: int = 0
    status: int | None = None  # with which it ended last

    def start(self) -> None:
        """From the main thread only: the kernel ends a child when the thread that started it ends."""
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, pass_fds=self.fds, start_new_session=True
        )  # fmt: skip

    def tend(self) -> None:
        """Starts it again if it died, a little later each time if it does so at once."""
        if self.process is None:
            if time.monotonic() >= self.due:
                self.start()
            return
        if (status := self.process.poll()) is None:
            return
        lived = time.monotonic() - self.began
        self.pause = SOON if lived > STEADY else min(LATE, self.pause * 2)
        if status != UNUSABLE:  # that one has told why
            log.warning("%s ended (status %s) and is started again", self.name, status)
        self.restarts, self.status = self.restarts + 1, status
        self.process, self.due = None, time.monotonic() + self.pause

    def hopeless(self) -> bool:
        """Whether there is no use in starting it again, if it has never been up."""
        return self.restarts >= HOPELESS or self.status == UNUSABLE

    def ask_to_end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def end(self, until: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Supervisor:
    """`run()` returns when `stop()` was called, from a signal handler or another thread.

    It raises `VividCoverError` when the server cannot be started at all.
    """

    settings: Settings
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    tls: Tls | None = None
    on_ready: Callable[[str], None] | None = None
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = listen(self.host, self.port)
        self.port = self.socket.getsockname()[1]
        self._stopping = threading.Event()
        self._answered = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def run(self) -> None:
        server = [sys.executable, "-m", "vividcover.runs.web", str(self.socket.fileno())]
        server += [str(self.tls.cert), str(self.tls.key)] if self.tls else []
        self.parts = [Part("server", server, (self.socket.fileno(),))]
        worker = [sys.executable, "-m", "vividcover.runs.start_worker"]
        self.parts += [Part(f"worker {number + 1}", worker) for number in range(self.workers)]
        threading.Thread(target=self._greet, name="greet", daemon=True).start()
        try:
            while not self._stopping.wait(TICK):
                for part in self.parts:
                    part.tend()
                if not self._answered and self.parts[0].hopeless():
                    raise VividCoverError("The server does not start.", "Why is said above.")
        finally:
            for part in self.parts:
                part.ask_to_end()
            until = time.monotonic() + LEAVE
            for part in self.parts:
                part.end(until)
            self.socket.close()

    def stop(self, *_: object) -> None:
        self._stopping.set()

    def _greet(self) -> None:
        """Says that the server answers, when it does. A request waits at the open socket until then."""
        import ssl
        import urllib.request

        trust = ssl._create_unverified_context() if self.tls else None  # our own server, over the loopback
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        address = f"{'https' if self.tls else 'http'}://{host}:{self.port}/healthz"
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=60, context=trust).close()
                break
            time.sleep(TICK)
        else:
            return
        self._answered = True
        if self.on_ready:
            self.on_ready(self.url)


def listen(host: str, port: int) -> socket.socket:
    """An open socket. Raises `ParameterError` when the address is taken or not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ParameterError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            "Choose another with --host and --port; --port 0 takes a free one.",
        ) from None


def tls_of(text: str, settings: Settings, hosts: Sequence[str]) -> Tls | None:
    """What `--tls` says: "" for none, "self-signed", or CERT,KEY. Raises `ParameterError`."""
    import ssl

    if not text:
        return None
    if text == "self-signed":
        return self_signed(settings.home / "tls", hosts)
    cert, comma, key = text.partition(",")
    for file in (cert, key):
        if not comma or not Path(file).is_file():
            raise ParameterError(
                f"--tls {text!r}: there is no file {file!r}.", "Give self-signed, or CERT.pem,KEY.pem."
            )
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ParameterError(
            f"--tls {text!r}: {error}.", "The key must belong to the certificate, both in PEM."
        ) from None
    return Tls(Path(cert), Path(key))


def self_signed(folder: Path, hosts: Sequence[str]) -> Tls:
    """A certificate of our own, made once for the same hosts; clients trust `ca.pem`."""
    import trustme

    names = sorted({"localhost", "127.0.0.1", "::1", *(h for h in hosts if h not in ("0.0.0.0", "::"))})
    made = Tls(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    about = folder / "hosts.json"
    if about.exists() and json.loads(about.read_text(encoding="utf-8")) == names:
        return made
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca = trustme.CA(organization_name="vividcover, self-signed")
    leaf = ca.issue_cert(*names)
    made.key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(str(made.key))
    made.cert.write_bytes(b"".join(one.bytes() for one in leaf.cert_chain_pems))
    assert made.ca is not None
    ca.cert_pem.write_to_path(str(made.ca))
    about.write_text(json.dumps(names), encoding="utf-8")
    return made
