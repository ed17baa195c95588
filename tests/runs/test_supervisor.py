"""`vividcover up`: there in a moment, hard to kill, gone when asked, and clear about what keeps it from starting."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from run_making import add, alive, finished, opened, until, up
from vividcover.errors import ParameterError
from vividcover.runs.supervisor import self_signed, tls_of
from vividcover.settings import settings

COMMAND = [sys.executable, "-c", "from vividcover.cli import main; main()", "up", "--port", "0"]


def cpu_seconds(pids: list[int]) -> float:
    """What processes and those of their children that have ended have used of the processor."""
    ticks = 0
    for pid in pids:
        ticks += sum(int(part) for part in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_it_answers_within_three_seconds() -> None:
    with up() as running:  # the first start of all: the database is made, too
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        # in seconds of one core, so that whatever else this machine does has no part in it
        assert cpu_seconds([running.process.pid, *running.pids("web")]) < 3.0


def test_what_dies_is_started_again_and_serves_on() -> None:
    with up() as running:
        for part in ("web", "start_worker"):
            before = running.pids(part)
            running.kill(part)
            until(lambda part=part, before=before: set(running.pids(part)) - set(before), 10)
            assert httpx.get(f"{running.url}/healthz", timeout=20).status_code == 200
        with opened(settings().database_url) as database:
            assert finished(database, add(database))["status"] == "succeeded"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_ends_with_all_that_it_started(how: signal.Signals) -> None:
    with up("--workers", "2") as running:
        parts = [pid for part in ("web", "start_worker", "runner") for pid in running.pids(part)]
        began = time.monotonic()
        running.process.send_signal(how)
        assert running.process.wait(10) == 0
        assert time.monotonic() - began < 6
        assert not any(alive(pid) for pid in parts)


def test_an_address_that_is_taken_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        tried = subprocess.run([*COMMAND[:-1], port], capture_output=True, text=True, timeout=30)
    assert tried.returncode == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in tried.stderr and "--port" in tried.stderr
    assert "Traceback" not in tried.stderr


def test_a_database_that_cannot_be_used_is_said_in_words_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_DATABASE", "postgresql://nobody:secret@127.0.0.1:1/none")
    tried = subprocess.run([*COMMAND, "--workers", "0"], capture_output=True, text=True, timeout=60)
    assert tried.returncode == 1
    assert "nobody:***@127.0.0.1:1" in tried.stderr and "The server does not start." in tried.stderr
    assert "Traceback" not in tried.stderr and "secret" not in tried.stderr


def test_self_signed_https_is_trusted_by_its_own_ca() -> None:
    with up("--tls", "self-signed", "--workers", "0") as running:
        assert running.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(settings().home / "tls" / "ca.pem"))
        assert httpx.get(f"{running.url}/healthz", verify=trust).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{running.url}/healthz")


def test_the_certificate_stays_the_same_until_other_hosts_are_asked_for(tmp_path: Path) -> None:
    first = self_signed(tmp_path, ["127.0.0.1"]).cert.read_bytes()
    assert self_signed(tmp_path, ["127.0.0.1"]).cert.read_bytes() == first
    assert self_signed(tmp_path, ["box.lan"]).cert.read_bytes() != first
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0, "the key is its owner's alone"


def test_a_certificate_of_ones_own_is_checked_before_the_start(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "one", ["127.0.0.1"])
    other = self_signed(tmp_path / "other", ["127.0.0.1"])
    found = tls_of(f"{made.cert},{made.key}", settings(), [])
    assert found is not None and found.cert == made.cert and found.ca is None
    assert tls_of("", settings(), []) is None
    for wrong in ("nowhere.pem", f"{made.cert}", f"{made.cert},nowhere.key", f"{made.cert},{other.key}"):
        with pytest.raises(ParameterError, match="--tls"):
            tls_of(wrong, settings(), [])
