"""What the three clients make of a server that has had enough of them: none of their tries becomes a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ground import HELLO, Ground, Script, served
from replicate.client import Client
from replicate.exceptions import ReplicateError


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One run a minute may be made, and has been."""
    with served(tmp_path_factory.mktemp("throttled") / "home", tls=False, runs=1, creates_per_minute="1") as made:
        yield made


@pytest.fixture(autouse=True)
def _only_one(ground: Ground) -> Iterator[None]:
    yield
    with ground.http() as http:
        assert len(http.get("/v1/predictions").json()["results"]) == 1


def test_the_python_client_says_when_to_come_back(clients: Ground) -> None:
    with pytest.raises(ReplicateError) as error:
        Client().run(HELLO, {})
    assert error.value.status == 429
    assert error.value.detail is not None and "Request was throttled" in error.value.detail


def test_the_javascript_client_which_does_not_wait_is_refused_each_time(javascript: Script) -> None:
    done = javascript("throttled")
    assert done["status"] == 429 and "Request was throttled" in done["message"]
    assert done["asked"] > 1


def test_the_second_major_of_the_python_client_has_an_error_of_its_own_for_it(python_2: Script) -> None:
    refused, asked = python_2("throttled")
    assert (refused["kind"], asked) == ("RateLimitError", [429])
