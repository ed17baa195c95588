"""What a figure was measured on, and what a process and all its children cost."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import verdict
from judges_venv import judges_python

PERIOD = 0.1  # seconds between two looks at the memory of a process tree
PAGE = os.sysconf("SC_PAGE_SIZE")
RESULTS = Path(__file__).with_name("results")
LOOKS = Path(__file__).with_name(".work")  # what a quick or partial run leaves; not kept in git
ROOT = Path(__file__).resolve().parent.parent


def about() -> dict[str, Any]:
    """Date, device, versions and command: stands at the head of every result."""
    packages = ("vividcover", "numpy", "scipy", "av", "soxr", "opencv-python-headless", "pyworld-prebuilt")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gb": round(_memory() / 1e9, 1)},
        "load_at_start": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in packages},
        "commit": _commit(),
        "command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *(_public(a) for a in sys.argv[1:])]),
    }


def _public(argument: str) -> str:
    """A word of the command, without where things lie on this machine."""
    return Path(argument).name if argument.startswith("/") else argument


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * PAGE


def _version(package: str) -> str:
    try:
        return version(package)
    except Exception:
        return "not installed"


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip()


class Cost:
    """CPU-seconds of this process and of its children that have ended, while `spent` was open."""

    seconds: float = 0.0


@contextmanager
def spent() -> Iterator[Cost]:
    cost, before = Cost(), _cpu_seconds()
    try:
        yield cost
    finally:
        cost.seconds = _cpu_seconds() - before


def _cpu_seconds() -> float:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


# --- a process tree ----------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """What a command and everything it started cost. Memory is summed over the tree at each look."""

    code: int = 0
    wall: float = 0.0  # s
    cpu: float = 0.0  # s, user and system, of the command and of all descendants that were waited for
    peak_pss: int = 0  # bytes; pages that processes share are counted once, divided among them
    peak_rss: int = 0  # bytes; shared pages are counted in every process
    processes: int = 0  # most at a time
    looks: int = 0
    curve: list[tuple[float, int]] = field(default_factory=list)  # (s, PSS bytes), thinned to about one a second
    out: str = ""
    err: str = ""


def watch(command: Sequence[str], environment: dict[str, str] | None = None, cwd: Path | None = None) -> Watched:
    """Runs `command` to its end, looking at /proc every PERIOD; its output is kept."""
    seen, began = Watched(), time.monotonic()
    child = subprocess.Popen(
        list(command), env=environment, cwd=cwd, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    kept: dict[str, str] = {}
    readers = [
        threading.Thread(target=lambda n=name, p=pipe: kept.__setitem__(n, p.read()), daemon=True)
        for name, pipe in (("out", child.stdout), ("err", child.stderr))
    ]
    for reader in readers:
        reader.start()
    while True:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        _look(child.pid, seen, time.monotonic() - began)
        time.sleep(PERIOD)
    child.returncode = seen.code = os.waitstatus_to_exitcode(status)
    seen.wall, seen.cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
    for reader in readers:
        reader.join(timeout=5)
    seen.out, seen.err = kept.get("out", ""), kept.get("err", "")
    return seen


def _look(root: int, seen: Watched, now: float) -> None:
    pids = tree(root)
    pss, rss = sum(map(_pss, pids)), sum(map(_rss, pids))
    seen.peak_pss, seen.peak_rss = max(seen.peak_pss, pss), max(seen.peak_rss, rss)
    seen.processes, seen.looks = max(seen.processes, len(pids)), seen.looks + 1
    if not seen.curve or now - seen.curve[-1][0] >= 1.0:
        seen.curve.append((round(now, 1), pss))


def tree(root: int) -> list[int]:
    """`root` and all its descendants that are alive."""
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += [int(p) for p in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it ended between two looks
    return 0


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


# --- judges and results ------------------------------------------------------------------------------------------


def child(script: Path, job: dict[str, Any], folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs one job in a process of its own, at one thread unless it says more, and returns its last line."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    quiet = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.get("threads", 1)), **quiet}
    done = subprocess.run(
        [sys.executable, str(script), *arguments, str(file)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{script.name} failed at {job['kind']}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{script.stem} {job['kind']}: {answer}", file=sys.stderr)
    return answer


def ask_judges(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers of bench/judges.py, in the order of the questions."""
    if not jobs:
        return []
    python = judges_python()
    text = json.dumps(jobs, default=str)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("judges.py")), "batch"],
        input=text, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the judges failed:\n{done.stderr[-2000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def asked(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that every bench has. `quick` says what a quick run does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a ratio misses its aim")
    return parser


def tell(
    name: str, given: argparse.Namespace, head: dict[str, Any], figures: dict[str, Any], page: str, out: Path | None,
    **more: Any,
) -> int:  # fmt: skip
    """How every bench ends: OUT/NAME.json and NAME.md, the page, and with --json all of it. Returns the exit status."""
    missed = verdict(figures)
    result = {"bench": name, "quick": given.quick, **head, **figures, "missed": missed, **more}
    if out is not None:
        out.mkdir(exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (out / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)
    if given.json:
        print(json.dumps(result))
    return 1 if missed and given.strict else 0
