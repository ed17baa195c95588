"""Servers for tests: one in a thread without workers, for what is answered at once; one in processes, for runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from live import Live, live
from vividcover.server.app import create_app
from vividcover.server.lean import Lean
from vividcover.server.state import State
from vividcover.settings import Settings
from vividcover.store import accounts
from vividcover.store.database import Database
from vividcover.store.ids import new_id

SCOPES = ("read", "write", "train")


@dataclass
class Api:
    """A server in a thread. `http` asks with a token of `user`, `bob` with another account's, `open` with none."""

    url: str
    user: str
    http: httpx.Client
    bob: httpx.Client
    open: httpx.Client
    state: State

    def as_(self, token: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def token_of(database: Database, username: str, scopes: tuple[str, ...] = SCOPES, consent: str = "All agreed.") -> str:
    """A new token; the account is made if it is not there."""
    known = accounts.find_account(database, username) or accounts.create_account(database, username)
    return accounts.create_token(database, known["id"], scopes=scopes, consent=consent)[0]


@contextlib.contextmanager
def _api(app: FastAPI, url: str) -> Iterator[Api]:
    """Two new accounts of a server, with clients."""
    state: State = app.state.vividcover
    with contextlib.ExitStack() as ends:
        user, other = f"alice-{new_id()[:8]}", f"bob-{new_id()[:8]}"
        tokens = [f"Bearer {token_of(state.database, name)}" for name in (user, other)]
        clients = [
            ends.enter_context(httpx.Client(base_url=url, headers=headers, timeout=30))
            for headers in ({"Authorization": tokens[0]}, {"Authorization": tokens[1]}, {})
        ]
        yield Api(url, user, *clients, state)


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str]]:
    app = create_app(Settings(home=tmp_path_factory.mktemp("shared")))
    with _in_a_thread(app) as url:
        yield app, url


@pytest.fixture
def api(_shared: tuple[FastAPI, str]) -> Iterator[Api]:
    """A server without workers, which tests share, with accounts of this test's own."""
    with _api(*_shared) as made:
        yield made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts a server of this test's own, with the settings that are given."""
    with contextlib.ExitStack() as ends:

        def start(**values: object) -> Api:
            app = create_app(Settings(**{"home": tmp_path / "home", **values}))  # type: ignore[arg-type]
            url = ends.enter_context(_in_a_thread(app))
            return ends.enter_context(_api(app, url))

        yield start


@contextlib.contextmanager
def _in_a_thread(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(Lean(app), port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server could not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


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
