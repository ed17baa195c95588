"""One order on another machine: what is refused, what is canceled, what survives a crash."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from live import Live
from vividcover.errors import Canceled, EngineError, InputError, LinkError
from vividcover.hosted.remote import Memory, Order, download
from vividcover.hosted.replicate import Site, carry_out
from vividcover.workspace import Silent

HELLO = "vividcover/hello"


@pytest.fixture
def site(server: Live) -> Site:
    return Site(server.token(), server.url, 1 << 20)


class Impatient(Silent):
    """Cancels as soon as the other side has begun."""

    def progress(self, fraction: float, text: str = "") -> None:
        if fraction > 0 or "piece" in text or text == "processing":
            raise Canceled()


def _runs(site: Site) -> list[dict[str, object]]:
    answer = httpx.get(f"{site.url}/v1/predictions", headers={"Authorization": f"Bearer {site.token}"}, timeout=30)
    return list(answer.json()["results"])


def test_a_text_comes_back_with_what_it_took(site: Site, tmp_path: Path) -> None:
    order = Order(HELLO, "", {"text": "there", "repeat": 2})
    answer = carry_out(order, site, tmp_path, memory=Memory(tmp_path / "memory.json"), reporter=Silent())
    assert answer.text == "hello there, there (2)"
    assert answer.seconds is not None
    assert not (tmp_path / "memory.json").exists()


def test_values_that_the_other_side_refuses_are_named(site: Site, tmp_path: Path) -> None:
    order = Order(HELLO, "", {"repeat": 100_000})
    with pytest.raises(InputError, match="repeat"):
        carry_out(order, site, tmp_path, memory=Memory(tmp_path / "memory.json"), reporter=Silent())


def test_a_run_that_fails_there_fails_here_with_its_reason(site: Site, tmp_path: Path) -> None:
    order = Order(HELLO, "", {"fail": True})
    with pytest.raises(EngineError, match="asked to fail"):
        carry_out(order, site, tmp_path, memory=Memory(tmp_path / "memory.json"), reporter=Silent())


def test_a_wrong_token_says_where_to_set_it(site: Site, tmp_path: Path) -> None:
    wrong = Site("r8_wrong", site.url, 1 << 20)
    with pytest.raises(EngineError, match="VIVIDCOVER_REPLICATE_TOKEN"):
        carry_out(Order(HELLO, "", {}), wrong, tmp_path, memory=Memory(tmp_path / "m"), reporter=Silent())


def test_a_pinned_version_that_is_gone_gives_way_to_the_latest_and_is_named(site: Site, tmp_path: Path) -> None:
    reporter = Silent()
    order = Order(HELLO, "0" * 64, {"text": "x"})
    answer = carry_out(order, site, tmp_path, memory=Memory(tmp_path / "m"), reporter=reporter)
    assert answer.text == "hello there, x"
    assert any("is gone" in note for note in reporter.notes)
    assert answer.notes


def test_a_cancel_is_passed_on(site: Site, tmp_path: Path) -> None:
    order = Order(HELLO, "", {"text": "slow", "seconds": 60})
    with pytest.raises(Canceled):
        carry_out(order, site, tmp_path, memory=Memory(tmp_path / "memory.json"), reporter=Impatient())
    assert _runs(site)[0]["status"] in ("canceled", "processing")
    for _ in range(100):
        if _runs(site)[0]["status"] == "canceled":
            break
    assert _runs(site)[0]["status"] == "canceled"
    assert not (tmp_path / "memory.json").exists()


def test_a_run_that_was_ordered_before_a_crash_is_waited_for_and_not_ordered_again(site: Site, tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class Crashing(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            raise Crash

    memory = Memory(tmp_path / "memory.json")
    order = Order(HELLO, "", {"text": "once", "seconds": 0.5})
    with pytest.raises(Crash):
        carry_out(order, site, tmp_path, memory=memory, reporter=Crashing())
    ordered = memory.recall()["id"]
    answer = carry_out(order, site, tmp_path, memory=memory, reporter=Silent())
    assert answer.id == ordered
    assert answer.text == "hello there, once"
    assert [r["input"] for r in _runs(site)].count({"text": "once", "seconds": 0.5}) == 1


def test_an_output_larger_than_allowed_or_not_there_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="larger than 10 bytes"):
        download(f"{site.url}/openapi.json", tmp_path, max_bytes=10, reporter=Silent())
    with pytest.raises(EngineError, match="could not be downloaded"):
        download(f"{site.url}/nowhere", tmp_path, max_bytes=10, reporter=Silent())
    assert list(tmp_path.iterdir()) == []
