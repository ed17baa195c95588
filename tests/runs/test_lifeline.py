"""A process that must not outlive the one that started it does not, and takes along what it started itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from run_making import alive, children_of, kill, until

CHILD = """
import subprocess, sys, time
from vividcover.runs import lifeline
lifeline.hold(lambda line: print("heard", line.decode(), flush=True))
subprocess.Popen(["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
keep = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE)
line = subprocess.PIPE if sys.argv[1] == "pipe" else os.open(sys.argv[2], os.O_RDWR)
child = subprocess.Popen([sys.executable, "-c", sys.argv[3]], stdin=line, start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("belt", ["pipe", "kernel"])  # kernel: somebody else holds the pipe open, so it never ends
def test_it_ends_with_its_group_when_the_parent_is_killed(belt: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "line")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, belt, str(tmp_path / "line"), CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    held = os.open(tmp_path / "line", os.O_RDWR)
    try:
        assert parent.stdout.readline() == "up\n"
        other, child = sorted(children_of(parent.pid))
        family = [child, *children_of(child)]
        assert len(family) == 2
        parent.kill()
        until(lambda: not any(alive(pid) for pid in family), 1.0)
        kill(other)
    finally:
        os.close(held)
        parent.kill()
        parent.wait()


def test_lines_on_the_pipe_are_handed_on() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("one\ntwo\n")
    child.stdin.flush()
    said = {child.stdout.readline() for _ in range(3)}
    assert said == {"up\n", "heard one\n", "heard two\n"}
    child.stdin.close()
    assert child.wait(2) == -9, "the whole group, itself too"
