"""Rate limits: exact, however many threads and servers ask at once, and cheap."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from run_making import who
from vividcover.errors import ThrottledError
from vividcover.runs import limits
from vividcover.runs.limits import Allowance, Limits
from vividcover.settings import Settings
from vividcover.store import tables
from vividcover.store.accounts import Principal
from vividcover.store.database import Database

NAME = "create:t1"


def ask(server: Limits, principal: Principal, settings: Settings | None = None, **more: bool) -> Allowance | None:
    return asyncio.run(server.take(principal, settings or Settings(), **more))


def granted(server: Limits, limit: int, tries: int, name: str = NAME) -> list[float]:
    """When the tries that were let through were."""
    found = []
    for _ in range(tries):
        try:
            server.take_now(name, limit)
        except ThrottledError:
            continue
        found.append(time.monotonic())
    return found


def writes(database: Database) -> Any:
    """Counts the transactions that write."""
    counted: list[None] = []
    plain = database.write

    def write() -> Any:
        counted.append(None)
        return plain()

    database.write = write  # type: ignore[method-assign]
    return counted


def test_many_threads_of_one_server_get_exactly_as_many_as_there_are(database: Database) -> None:
    server = Limits(database)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: granted(server, 50, 20), range(8)))
    assert sum(map(len, found)) == 50


def test_several_servers_before_one_database_count_together(database: Database) -> None:
    servers = [Limits(database) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda server: granted(server, 60, 100), servers))
    assert 60 - 2 * 6 <= sum(map(len, found)) <= 60, "a slice that a server has not used up is a tenth at most"


def test_who_asks_now_and_then_is_counted_one_by_one_by_all_servers(database: Database) -> None:
    first, second = Limits(database), Limits(database)
    for number in range(5):
        allowance = (first, second)[number % 2].take_now(NAME, 5)
        assert allowance.remaining == 4 - number and 0 < allowance.reset <= 60
    for server in (first, second):
        with pytest.raises(ThrottledError):
            server.take_now(NAME, 5)


def test_never_more_than_the_limit_in_any_window(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW", 1.0)
    monkeypatch.setattr(limits, "SLICE", 0.2)
    servers, found, end = [Limits(database) for _ in range(2)], [], time.monotonic() + 3.5
    lock = threading.Lock()

    def hammer(server: Limits, pause: float) -> None:
        while time.monotonic() < end:
            times = granted(server, 30, 1)
            with lock:
                found.extend(times)
            time.sleep(pause)

    threads = [threading.Thread(target=hammer, args=(server, pause)) for server in servers for pause in (0.001, 0.05)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.sort()
    most = max(sum(begin <= at < begin + 0.95 for at in found) for begin in found)
    assert most <= 30
    assert len(found) > 45, "what has had its time comes back"


def test_who_asks_often_costs_a_write_a_second_and_not_one_a_request(database: Database) -> None:
    server, counted = Limits(database), writes(database)
    assert len(granted(server, 6000, 1000)) == 1000
    assert len(counted) < 25
    granted(server, 5, 5, "create:t2")
    before = len(counted)
    assert granted(server, 5, 200, "create:t2") == [] and len(counted) - before <= 2, "nor does who is refused"


def test_what_was_not_used_of_a_slice_goes_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLICE", 0.3)
    server = Limits(database)
    granted(server, 1000, 33)
    time.sleep(0.4)
    assert server.take_now(NAME, 1000).remaining == 1000 - 34 and _counted(database) >= 34
    assert _counted(database) - 34 <= server._slices[NAME].left
    with database.read() as db:
        taken = db.execute(sa.select(tables.rates.c.taken)).scalar_one()
    assert all(count > 0 for _, count in taken)


def _counted(database: Database) -> int:
    with database.read() as db:
        taken = db.execute(sa.select(tables.rates.c.taken).where(tables.rates.c.name == NAME)).scalar_one()
    return sum(count for _, count in taken)


def test_who_asks_too_often_is_told_when_to_come_back(database: Database) -> None:
    server, principal = Limits(database), who(rate=2)
    first, second = (ask(server, principal, creates=True) for _ in range(2))
    assert first and second and (first.remaining, second.remaining, second.limit) == (1, 0, 2)
    for _ in range(2):
        with pytest.raises(
            ThrottledError, match=r"Request was throttled\. Your rate limit resets in ~\d+s\."
        ) as caught:
            ask(server, principal, creates=True)
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60 and caught.value.status == 429


def test_tokens_kinds_of_request_and_settings_have_limits_of_their_own(database: Database) -> None:
    server, chosen = Limits(database), Settings(creates_per_minute=1, reads_per_minute=2)
    ask(server, who(token_id="one"), chosen, creates=True)
    ask(server, who(token_id="two"), chosen, creates=True)
    for _ in range(2):
        ask(server, who(token_id="one"), chosen)
    for creates in (True, False):
        with pytest.raises(ThrottledError):
            ask(server, who(token_id="one"), chosen, creates=creates)


def test_without_a_limit_nothing_is_counted(database: Database) -> None:
    counted = writes(database)
    assert ask(Limits(database), who(), creates=True) is None and counted == []
