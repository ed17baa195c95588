"""Who asks, and whether they may. `Authorization: Bearer r8_…` or, as older clients send it, `Token r8_…`.

    async def endpoint(who: Reads, here: Here): ...        # the scope is checked, the rate limit counted

Scopes: read (GET), write (runs, files, models), train (trainings; needs no write), admin (everything, of everybody).
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from vividcover.errors import VividCoverError
from vividcover.runs.limits import Allowance
from vividcover.server.problems import Problem, status_of
from vividcover.server.state import State, state_of
from vividcover.store import accounts
from vividcover.store.accounts import Principal

KNOWN_FOR = 1.0  # seconds that a token is believed without asking the database again: so long may a revoked one live
MAX_KNOWN = 10_000
ALLOWANCE = "vividcover.allowance"  # in a request's scope: what is left of its token's rate limit
UNAUTHENTICATED = "You did not pass a valid authentication token"


def token_of(request: Request) -> str:
    """The token that came with a request, or "" """
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("bearer", "token") else ""


async def authenticate(state: State, token: str) -> Principal:
    """Raises `Problem` 401."""
    if not token:
        raise Problem(401, UNAUTHENTICATED, headers={"WWW-Authenticate": "Bearer"})
    now = time.monotonic()
    until, who = state.known.get(token, (0.0, None))
    if who is not None and now < until:
        return who
    try:
        who = await run_in_threadpool(accounts.authenticate, state.database, token)
    except VividCoverError as error:
        state.known.pop(token, None)
        if status_of(error) >= 500:
            raise
        said = UNAUTHENTICATED if UNAUTHENTICATED in error.message else f"{UNAUTHENTICATED}: {error.message}"
        raise Problem(401, said, headers={"WWW-Authenticate": "Bearer"}) from None
    if len(state.known) >= MAX_KNOWN:
        state.known.clear()
    state.known[token] = (now + KNOWN_FOR, who)
    return who


async def allowed(request: Request, scope: str, *, creates: bool = False) -> Principal:
    """The principal of a request that may do what needs `scope`. Raises `Problem` 401, 403, 429."""
    state = state_of(request)
    who = await authenticate(state, token_of(request))
    demand(who, scope)
    if allowance := await state.limits.take(who, state.settings, creates=creates):
        request.scope[ALLOWANCE] = allowance
    return who


def left_of(request: Request) -> dict[str, str]:
    """Headers that say what is left of the token's rate limit; none where there is no limit."""
    allowance: Allowance | None = request.scope.get(ALLOWANCE)
    return allowance.headers if allowance else {}


def demand(who: Principal, scope: str) -> None:
    """Raises `Problem` 403 unless the token has the scope."""
    if scope not in who.scopes and "admin" not in who.scopes:
        has = " ".join(sorted(who.scopes)) or "none"
        raise Problem(
            403, f"This needs the scope {scope!r}, and the token has: {has}. Make one: vividcover token create."
        )


async def _reads(request: Request) -> Principal:
    return await allowed(request, "read")


async def _writes(request: Request) -> Principal:
    return await allowed(request, "write")


async def _admins(request: Request) -> Principal:
    return await allowed(request, "admin")


Reads = Annotated[Principal, Depends(_reads)]
Writes = Annotated[Principal, Depends(_writes)]
Admins = Annotated[Principal, Depends(_admins)]
