"""One real server with TLS, and the official clients to ask it: two for Python, one for JavaScript."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from live import Live, live
from receiver import Receiver
from run_making import children_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = Path(sys.prefix) / "clients"  # `make test` installs them: clients/install.py
LARGE = 200_000_000  # bytes
MANY = 103  # runs: more than one page of them
HELLO = "vividcover/hello"
LORA_TRAINER = "ostris/flux-dev-lora-trainer:4ffd32160efd92e956d39c5338a9b8fbafca58e03f791f6d8011f3e20e8ea6fa"
SMALL = {"prompt": "VIVI on stage", "aspect_ratio": "custom", "width": 256, "height": 256, "output_format": "png"}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Ground:
    """A server, a token, a receiver of webhooks, and what the clients' processes need to find it."""

    live: Live
    token: str
    receiver: Receiver

    @property
    def url(self) -> str:
        return self.live.url

    @property
    def environment(self) -> dict[str, str]:
        """For a client's process: who vouches for the server, whom it asks, with which token."""
        names = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        trusted = dict.fromkeys(names, str(self.live.ca)) if self.live.ca else {}
        return {**trusted, "REPLICATE_API_TOKEN": self.token, "REPLICATE_BASE_URL": self.url}

    def http(self) -> httpx.Client:
        return self.live.client(self.token)

    def kept(self, secret: str) -> list[str]:
        """The files of the data folder, and the server's log, that have a text in them."""
        files = [self.live.log, *(path for path in self.live.home.rglob("*") if path.is_file())]
        return [str(path) for path in files if secret.encode() in path.read_bytes()]

    def peak(self) -> int:
        """Bytes of memory that the largest of the server's processes has had."""
        pids = [self.live.process.pid]
        for pid in pids:
            pids += children_of(pid)
        return max(_peak(pid) for pid in pids)


@contextlib.contextmanager
def served(home: Path, *, tls: bool, runs: int, **settings: str) -> Iterator[Ground]:
    """A server of its own, whose account has had so many runs."""
    with Receiver() as receiver, live(home, tls=tls, private_hosts=json.dumps([receiver.at]), **settings) as server:
        made = Ground(server, server.token(), receiver)
        with made.http() as http:
            for _ in range(runs):
                http.post("/v1/predictions", json={"version": HELLO, "input": {}}).raise_for_status()
        yield made


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass
class Script:
    """Runs a case of a script in its client's process; what the case returned comes back."""

    command: list[str]
    environment: dict[str, str]
    folder: Path

    def __call__(self, case: str, **given: Any) -> Any:
        done = subprocess.run(
            [*self.command, case, json.dumps(given)], env=os.environ | self.environment, cwd=self.folder,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])


def told(receiver: Receiver, path: str, status: str = "succeeded", timeout: float = 20.0) -> tuple[dict[str, str], str]:
    """Headers and body of the webhook that said so."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        for headers, body in list(receiver.got):
            if headers["path"] == path and json.loads(body)["status"] == status:
                return headers, body.decode()
        time.sleep(0.05)
    raise AssertionError(f"no webhook to {path} said {status}")
