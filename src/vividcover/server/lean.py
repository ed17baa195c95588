"""The requests that come most often, answered without the layers of the framework: creating a run, and looking at one.

Their endpoints are plain functions of a request, so nothing is lost: the same functions are in the app's routes, where
they are documented, and from where browsers (which send an Origin) are answered. It halves what such a request costs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vividcover.errors import VividCoverError
from vividcover.server import predictions, problems
from vividcover.server.problems import Problem

Endpoint = Callable[..., Awaitable[Response]]
ROUTES: tuple[tuple[str, re.Pattern[str], Endpoint], ...] = (
    ("GET", re.compile(r"/v1/predictions/([0-9a-z]{26})"), predictions.get),
    ("POST", re.compile(r"/v1/predictions"), predictions.create),
    ("POST", re.compile(r"/v1/models/([\w.-]+)/([\w.-]+)/predictions", re.ASCII), predictions.create_of_model),
)


class Known(Headers):
    """Headers that are looked up often: each of their names is decoded once."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        self._values = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}

    def __getitem__(self, key: str) -> str:
        return self._values[key.lower()]

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key.lower(), default)


class Lean:
    """An ASGI app before `app`, which gets whatever is not one of `ROUTES`."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _found(scope) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        endpoint, words = found
        scope["app"] = self.app
        request = Request(scope, receive)
        request._headers = Known(raw=scope["headers"])
        response = await self._answer(request, endpoint, words)
        await response(scope, receive, send)

    async def _answer(self, request: Request, endpoint: Endpoint, words: tuple[str, ...]) -> Response:
        try:
            return await endpoint(request, *words)
        except Problem as problem:
            return problem.response()
        except VividCoverError as error:
            return problems.own(request, error)
        except Exception as error:
            return problems.fault(request, error)


def _found(scope: Scope) -> tuple[Endpoint, tuple[str, ...]] | None:
    method, path = scope["method"], scope["path"]
    for wanted, pattern, endpoint in ROUTES:
        if method == wanted and (match := pattern.fullmatch(path)):
            if any(name == b"origin" for name, _ in scope["headers"]):
                return None
            return endpoint, match.groups()
    return None
