"""The bell wakes whoever listens on this machine, and costs nothing where nobody does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from vividcover.runs import bell
from vividcover.runs.bell import Listener, ring


@pytest.fixture(params=["a short name", "a name " + "that is too long for a socket's address " * 4])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_a_ring_wakes_everybody_who_listens_to_the_topic(home: Path) -> None:
    with Listener("runs", home) as one, Listener("runs", home) as other, Listener("work", home) as bystander:
        ring("runs", "r1", home)
        ring("runs", "r2", home)
        assert one.wait(1) == other.wait(1) == {"r1", "r2"}
        assert one.wait(0.01) is None and bystander.wait(0.01) is None


def test_it_wakes_at_once(home: Path) -> None:
    async def heard() -> float:
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        with Listener("runs", home) as listener:
            loop.add_reader(listener.fileno(), rung.set)
            began = time.monotonic()
            loop.call_later(0.05, ring, "runs", "", home)
            await asyncio.wait_for(rung.wait(), 5)
            loop.remove_reader(listener.fileno())
            assert listener.heard() == {""}
            return time.monotonic() - began

    assert asyncio.run(heard()) < 1.0


def test_ringing_where_nobody_listens_or_the_listener_died_does_nothing(home: Path) -> None:
    ring("work", "", home)
    listener = Listener("work", home)
    listener._socket.close()  # as a killed process leaves it
    ring("work", "", home)
    assert not listener._path.exists(), "the dead one's socket is tidied away"


def test_a_listener_who_does_not_listen_holds_nobody_up(home: Path) -> None:
    with Listener("work", home) as deaf, Listener("work", home) as awake:
        for number in range(2000):
            ring("work", str(number), home)
            if number % 100 == 0:
                assert awake.heard()
        assert deaf.wait(0), "it wakes up all the same"


def test_rings_go_to_the_data_folder_of_the_settings() -> None:
    with Listener("work") as listener:
        bell.ring("work", "me")
        assert listener.wait(1) == {"me"}
