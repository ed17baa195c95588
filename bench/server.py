"""What the server costs: create, get and blocking run of a model that does nothing, beside cog's server in one run.

    python bench/server.py                      about two minutes on two cores
    python bench/server.py --quick --json       half a minute; the last line is one JSON object

Both servers run here, one after the other, with the same load generator: keep-alive connections over plain sockets,
1 and 16 clients. Ours: `vividcover up` on SQLite with one worker and the model `vividcover/hello`. cog: an ordinary
runner that returns the same text. Both do one run at a time; where ours queues, cog refuses (409), and its client asks
again at once. A latency is what a user waits: from the first time that a client asks for a run until it is answered,
with every refusal and asking again in between. cog's server has no database, queue, accounts or kept runs, and no GET
of a run.
Results go to bench/results/server.json and .md; those of --quick to bench/.work/.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, tell

CLIENTS = (1, 16)
SECONDS, QUICK_SECONDS = 8.0, 2.0  # of load per figure
PATIENCE = 30.0  # seconds that a client which was refused goes on asking when the load is over
WARM = 10  # requests before anything is counted
CREATES_AIM, START_AIM = 300.0, 3.0  # per second; seconds to the first answer
BIN = Path(sys.executable).parent
COG_RUNNER = """from cog import BaseRunner, Input, concurrent


class Runner(BaseRunner):
    @concurrent(max=16)
    async def run(self, text: str = Input(default="world")) -> str:
        return "hello there, " + text
"""
INPUT = {"text": "bench"}


@dataclass
class Load:
    """What one figure's load gave: seconds from each first asking to its answer, and of all together."""

    latencies: list[float]
    refused: int
    seconds: float

    def row(self, server: str, what: str, clients: int) -> dict[str, Any]:
        ordered = sorted(self.latencies)
        return {
            "server": server, "request": what, "clients": clients, "per_s": round(len(ordered) / self.seconds, 1),
            "p50_ms": round(1000 * ordered[len(ordered) // 2], 2),
            "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
            "answered": len(ordered), "refused": self.refused,
        }  # fmt: skip


async def _client(port: int, request: Callable[[], bytes], wanted: tuple[int, ...], until: float, load: Load) -> None:
    """One keep-alive connection that asks for the next as soon as it is answered, and again when it is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (began := time.perf_counter()) < until:
            while True:
                writer.write(request())
                status, _ = await _answer(reader)
                if status in wanted:
                    break
                load.refused += 1
                if time.perf_counter() > until + PATIENCE:
                    raise SystemExit(f"A client was only refused, the last time with {status}.")
            load.latencies.append(time.perf_counter() - began)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"content-length:" in head:
        return status, await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    body = b""
    while b"chunked" in head:
        size = int(await reader.readline(), 16)
        piece = await reader.readexactly(size + 2)
        if not size:
            break
        body += piece[:-2]
    return status, body


def load(port: int, request: Callable[[], bytes], wanted: tuple[int, ...], clients: int, seconds: float) -> Load:
    """That many clients for so long; refusals are counted apart."""

    async def go() -> Load:
        warm = Load([], 0, 0.0)
        for _ in range(WARM):
            await _client(port, request, wanted, time.perf_counter() + 1e-4, warm)
        done, began = Load([], 0, 0.0), time.perf_counter()
        await asyncio.gather(*(_client(port, request, wanted, began + seconds, done) for _ in range(clients)))
        done.seconds = time.perf_counter() - began
        return done

    return asyncio.run(go())


def post(path: str, body: dict[str, Any], headers: dict[str, str]) -> Callable[[], bytes]:
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    head = "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items())]).encode()
    whole = head + b"\r\n\r\n" + data
    return lambda: whole


def get(path: str, headers: dict[str, str]) -> Callable[[], bytes]:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
    whole = ("\r\n".join(lines) + "\r\n\r\n").encode()
    return lambda: whole


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(words: list[str], folder: Path, environment: dict[str, str], ready: Callable[[], bool]) -> Iterator[float]:
    """A server of its own session; yields the seconds until it was ready, and ends all of it at the end."""
    began = time.perf_counter()
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not ready():
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit(f"The server did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)
        yield time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def ask(port: int, request: Callable[[], bytes]) -> tuple[int, bytes]:
    async def go() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request())
            return await asyncio.wait_for(_answer(reader), 60)
        finally:
            writer.close()

    return asyncio.run(go())


def answers(port: int, path: str, sign: bytes = b"") -> Callable[[], bool]:
    def ready() -> bool:
        try:
            status, body = ask(port, get(path, {}))
        except (OSError, asyncio.IncompleteReadError):
            return False
        return status == 200 and sign in body

    return ready


def ours(folder: Path, seconds: float) -> tuple[list[dict[str, Any]], float]:
    port = free_port()
    environment = {**os.environ, "VIVIDCOVER_HOME": str(folder / "home")}
    made = subprocess.run(
        [BIN / "vividcover", "token", "create", "--scope", "read write", "--json"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
    words = [str(BIN / "vividcover"), "up", "--port", str(port), "--workers", "1"]
    with running(words, folder, environment, answers(port, "/healthz")) as start:
        body = {"version": "vividcover/hello", "input": INPUT}
        blocking, create = post("/v1/predictions", body, key | {"Prefer": "wait"}), post("/v1/predictions", body, key)
        status, first = ask(port, blocking)
        made_run = json.loads(first)
        if status != 201 or made_run["status"] != "succeeded":
            raise SystemExit(f"The first run was answered {status}: {first.decode()[:500]}")
        look = get(f"/v1/predictions/{made_run['id']}", key)
        rows = []
        for what, request, wanted in (
            ("blocking run", blocking, (201,)),
            ("get", look, (200,)),
            ("create", create, (201, 202)),
        ):
            for clients in CLIENTS:
                rows.append(load(port, request, wanted, clients, seconds).row("vividcover", what, clients))
                print(rows[-1], file=sys.stderr)
    return rows, start


def cogs(folder: Path, seconds: float) -> list[dict[str, Any]]:
    (folder / "run.py").write_text(COG_RUNNER)
    port = free_port()
    environment = {
        **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": "run.py:Runner", "RUST_LOG": "error",
    }  # fmt: skip
    words = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with running(words, folder, environment, answers(port, "/health-check", b'"READY"')):
        rows = []
        body = {"input": INPUT}
        later = post("/predictions", body, {"Prefer": "respond-async"})
        for what, request, wanted in (
            ("blocking run", post("/predictions", body, {}), (200,)),
            ("create", later, (202,)),
        ):
            for clients in CLIENTS:
                rows.append(load(port, request, wanted, clients, seconds).row("cog", what, clients))
                print(rows[-1], file=sys.stderr)
    return rows


def sum_up(rows: list[dict[str, Any]], start: float) -> dict[str, float]:
    at = {(r["server"], r["request"], r["clients"]): r for r in rows}
    ours_1, cog_1 = at["vividcover", "blocking run", 1], at["cog", "blocking run", 1]
    ours_16, cog_16 = at["vividcover", "blocking run", 16], at["cog", "blocking run", 16]
    return {
        "blocking_p50_ratio": round(cog_1["p50_ms"] / ours_1["p50_ms"], 3), "blocking_p50_ratio_aim": 1.0,
        "blocking_16_per_s_ratio": round(ours_16["per_s"] / cog_16["per_s"], 3), "blocking_16_per_s_ratio_aim": 1.0,
        "creates_ratio": round(at["vividcover", "create", 16]["per_s"] / CREATES_AIM, 3), "creates_ratio_aim": 1.0,
        "start_ratio": round(START_AIM / start, 3), "start_ratio_aim": 1.0,
    }  # fmt: skip


def page(head: dict[str, Any], figures: dict[str, float], rows: list[dict[str, Any]], start: float) -> str:
    ratios = [
        {"ratio (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
        for k, v in figures.items()
        if not k.endswith("_aim")
    ]
    missed = verdict(figures)
    return "\n\n".join(
        [
            "# Server: requests per second beside cog's",
            f"{head['date']}, {head['device']['cpu']}, {head['device']['cores']} cores, "
            f"load {head['load_at_start'][0]} at the start: `python bench/server.py`",
            f"Missed: {', '.join(missed)}." if missed else "Every aim is met.",
            table(ratios),
            table(rows),
            f"`vividcover up` answered its first request after {start:.2f} s. A blocking run of ours is kept in the "
            "database, claimed by a worker process and done in a child of it; cog's is done in a child and forgotten.",
            "They are measured one after the other, cog first. What else the machine does (see its load above) "
            "weighs on them unequally: where it is shared, a ratio moves by a tenth and more from run to run.",
        ]
    )


def main() -> int:
    given = asked(__doc__, "two seconds a figure").parse_args()
    seconds = QUICK_SECONDS if given.quick else SECONDS
    head = about()
    with tempfile.TemporaryDirectory(prefix="server-") as temporary:
        work = Path(temporary)
        for name in ("ours", "cog"):
            (work / name).mkdir()
        theirs = cogs(work / "cog", seconds)
        rows, start = ours(work / "ours", seconds)
    rows += theirs
    figures = sum_up(rows, start)
    out = LOOKS if given.quick else RESULTS
    return tell(
        "server", given, head, figures, page(head, figures, rows, start), out, start_s=round(start, 3), rows=rows
    )


if __name__ == "__main__":
    sys.exit(main())
