"""What every request needs: the settings, the database, the artifacts, and who waits for which run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.engine import Connection

from vividcover.runs.limits import Limits
from vividcover.runs.registry import Resolved
from vividcover.server.desk import Desk
from vividcover.server.embed import Embedder
from vividcover.server.public import Links, base_of
from vividcover.server.watch import Watch
from vividcover.server.writer import Writer
from vividcover.settings import Settings
from vividcover.store.accounts import Principal
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database

if TYPE_CHECKING:
    from vividcover.server.webhooks import Outgoing

T = TypeVar("T")


@dataclass
class State:
    """One of these lives as long as the server: `request.app.state.vividcover`."""

    settings: Settings
    database: Database
    artifacts: Artifacts
    key: bytes  # signs links
    writer: Writer
    watch: Watch
    desk: Desk
    known: dict[str, tuple[float, Principal]] = field(default_factory=dict)  # token → (until, who), for a second
    outgoing: Outgoing | None = None  # sends webhooks while the server runs
    resolved: dict[str, tuple[float, Resolved]] = field(default_factory=dict)  # reference → (until, what ships)
    limits: Limits = field(init=False)
    embed: Embedder | None = None  # gives small outputs as data: links, where that is wanted

    def __post_init__(self) -> None:
        self.limits = Limits(self.database)
        if most := self.settings.data_uri_bytes:
            self.embed = Embedder(self.database, self.artifacts, most)

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """`ask(connection)`. SQLite answers in less time than a change of threads takes; Postgres is waited for."""
        if self.database.is_sqlite:
            return self._read(ask)
        return await run_in_threadpool(self._read, ask)

    def _read(self, ask: Callable[[Connection], T]) -> T:
        with self.database.read() as db:
            return ask(db)

    async def write(self, change: Callable[[Connection], T], *, small: bool = False) -> T:
        """`change(connection)` in a transaction, together with others that wait. `small`: it takes microseconds."""
        return await self.writer.do(change, small=small)

    def links(self, request: Request) -> Links:
        base = base_of(request, self.settings.public_url)
        return Links(base, self.key, self.embed if base.startswith("http://") else None)


def state_of(request: Request) -> State:
    state: State = request.app.state.vividcover
    return state


def links_of(request: Request) -> Links:
    return state_of(request).links(request)


Here = Annotated[State, Depends(state_of)]
Linked = Annotated[Links, Depends(links_of)]
