"""Child processes: in order, bounded, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vividcover.errors import AudioError, Canceled, VividCoverError
from vividcover.processes import map_in_children
from vividcover.workspace import Silent

HERE = "test_processes"  # children import this file by its name
PARENT = """
import sys; sys.path.insert(0, {folder!r})
from vividcover.processes import map_in_children
for pid in map_in_children("test_processes:sleepy", [0, 60, 60], workers=2, ahead=0):
    print(pid, flush=True)
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))  # noqa: PTH120


def square(x: int) -> int:
    return x * x


def grumble(x: int) -> int:
    if x == 2:
        raise AudioError("item 2 is bad", "leave it out")
    return x


def dies(x: int) -> int:
    os._exit(3)


def chatty(x: int) -> int:
    print("libraries print", x)
    return x


def sleepy(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def doubled(x: np.ndarray) -> np.ndarray:
    import scipy.signal  # noqa: F401  (something that takes a while to import)

    return x * 2


def big(x: int) -> bytes:
    return bytes(3_000_000)


def test_results_come_in_order_whatever_the_number_of_workers() -> None:
    for workers in (1, 2, 3):
        assert list(map_in_children(f"{HERE}:square", range(9), workers=workers)) == [x * x for x in range(9)]


def test_what_a_child_prints_does_not_get_among_the_results() -> None:
    assert list(map_in_children(f"{HERE}:chatty", [1, 2], workers=1)) == [1, 2]


def test_large_items_pass_in_both_directions() -> None:
    assert [len(b) for b in map_in_children(f"{HERE}:big", [bytes(5_000_000)] * 3)] == [3_000_000] * 3


def test_arrays_pass_from_the_first_item_on() -> None:
    for _ in range(5):  # the child is still importing when the first one arrives
        made = list(map_in_children(f"{HERE}:doubled", [np.full(100_000, i, np.float32) for i in range(3)]))
        assert [float(a.sum()) for a in made] == [0.0, 2e5, 4e5]


def test_an_error_of_ours_arrives_as_itself() -> None:
    with pytest.raises(AudioError, match="item 2 is bad") as caught:
        list(map_in_children(f"{HERE}:grumble", range(5)))
    assert caught.value.hint == "leave it out"


def test_a_child_that_dies_is_an_error_that_says_so() -> None:
    with pytest.raises(VividCoverError, match="ended unexpectedly"):
        list(map_in_children(f"{HERE}:dies", [1]))


def test_cancel_ends_the_children_at_once() -> None:
    class Stopping(Silent):
        def check(self) -> None:
            if time.monotonic() > began + 0.3:
                raise Canceled()

    began = time.monotonic()
    with pytest.raises(Canceled):
        list(map_in_children(f"{HERE}:sleepy", [60], reporter=Stopping()))
    assert time.monotonic() - began < 3


def test_no_child_outlives_a_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(folder=os.path.dirname(__file__))],  # noqa: PTH120
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while _alive(child):
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return stat.read().split()[2] != "Z"
