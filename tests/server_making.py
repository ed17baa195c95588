"""A server in a thread for tests, and what they ask of it again and again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from vividcover.server.lean import Lean
from vividcover.server.public import Links
from vividcover.server.state import State
from vividcover.store import accounts, tables
from vividcover.store.database import Database, now
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
def api_of(app: FastAPI, url: str) -> Iterator[Api]:
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


@contextlib.contextmanager
def in_a_thread(app: FastAPI) -> Iterator[str]:
    """Serves the app on a free port; its address."""
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


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an answer that must be a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status and body["title"] and body["detail"]
    return body


def upload(http: httpx.Client, content: bytes, name: str = "a.bin", **form: Any) -> dict[str, Any]:
    """What the server says of a file that it took in."""
    answer = http.post("/v1/files", files={"content": (name, content)}, data=form)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def made(api: Api, content: bytes, name: str, expires_at: float | None = None) -> str:
    """The link of a file that a run made."""
    with api.state.artifacts.put_stream() as writer:
        writer.write(content)
        blob = writer.commit()
    id = new_id()
    with api.state.database.write() as db:
        account = db.execute(sa.select(tables.accounts.c.id).where(tables.accounts.c.username == api.user)).scalar_one()
        db.execute(sa.insert(tables.files).values(
            id=id, account_id=account, run_id=new_id(), sha256=blob.sha256, md5=blob.md5, name=name, bytes=blob.bytes,
            content_type="image/png", metadata={}, created_at=now(), expires_at=expires_at,
        ))  # fmt: skip
    return Links(api.url, api.state.key).output(id, name)
