"""Servers for tests: one in a thread without workers, for what is answered at once; one in processes, for runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from live import Live, live
from server_making import Api, api_of, in_a_thread
from vividcover.server.app import create_app
from vividcover.settings import Settings


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str]]:
    app = create_app(Settings(home=tmp_path_factory.mktemp("shared")))
    with in_a_thread(app) as url:
        yield app, url


@pytest.fixture
def api(_shared: tuple[FastAPI, str]) -> Iterator[Api]:
    """A server without workers, which tests share, with accounts of this test's own."""
    with api_of(*_shared) as made:
        yield made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts a server of this test's own, with the settings that are given."""
    with contextlib.ExitStack() as ends:

        def start(**values: object) -> Api:
            app = create_app(Settings(**{"home": tmp_path / "home", **values}))  # type: ignore[arg-type]
            url = ends.enter_context(in_a_thread(app))
            return ends.enter_context(api_of(app, url))

        yield start


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with a worker, in processes of their own; shared by the tests of this folder."""
    with live(tmp_path_factory.mktemp("server") / "home") as server:
        yield server


@pytest.fixture(scope="session")
def http(running: Live) -> Iterator[httpx.Client]:
    """Asks the running server, with a token."""
    with running.client(running.token()) as client:
        yield client
