"""What the API says when it cannot do what was asked: `application/problem+json` (RFC 9457), as Replicate's does.

    raise Problem(422, "Input validation failed", "- input.steps: must be at most 50.")

Every error of `vividcover.errors` becomes one too, with the status of its kind. Anything else is a fault of ours: it is
logged, and the client gets a 500 that says so and asks not to be retried (a repeated POST would run twice).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from vividcover.errors import ConsentError, EngineError, InputError, NotFoundError, StorageError, VividCoverError

log = logging.getLogger(__name__)
NO_RETRY = {"x-should-retry": "false"}  # replicate 2.x repeats even POSTs after a 5xx, unless told not to
TITLES = {
    400: "Bad request", 401: "Unauthenticated", 402: "Insufficient credit", 403: "Forbidden", 404: "Not found",
    405: "Method not allowed", 409: "Conflict", 413: "Content too large", 416: "Range not satisfiable",
    422: "Unprocessable request", 429: "Too many requests", 500: "Internal server error", 503: "Service unavailable",
    507: "Insufficient storage",
}  # fmt: skip


class Problem(Exception):
    """An answer that is an error. `fields` lists wrong inputs: {"type", "field", "description"} each."""

    def __init__(
        self, status: int, detail: str, title: str = "", *, headers: Mapping[str, str] | None = None,
        fields: Sequence[Mapping[str, str]] = (),
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.status, self.detail, self.title = status, detail, title or TITLES.get(status, "Error")
        self.headers, self.fields = dict(headers or {}), list(fields)

    def response(self) -> JSONResponse:
        body: dict[str, Any] = {"title": self.title, "detail": self.detail, "status": self.status}
        if self.fields:
            body["invalid_fields"] = self.fields
        headers = {**(NO_RETRY if self.status >= 500 or self.status == 409 else {}), **self.headers}
        return JSONResponse(body, self.status, headers, media_type="application/problem+json")


def not_found(what: str = "The requested resource could not be found.") -> Problem:
    """The one answer for what does not exist and for what belongs to somebody else."""
    return Problem(404, what)


def invalid(fields: Mapping[str, str]) -> Problem:
    """422 for an input: name of each wrong field → what is wrong with it."""
    detail = "".join(f"- {name}: {why}\n" for name, why in fields.items())
    listed = [{"type": "invalid", "field": name, "description": why} for name, why in fields.items()]
    return Problem(422, detail, "Input validation failed", fields=listed)


def status_of(error: VividCoverError) -> int:
    """HTTP status of an error of the tree: the caller's mistakes are 4xx."""
    status = getattr(error, "status", None)  # an error that knows its own
    if isinstance(status, int):
        return status
    for kind, code in (
        (NotFoundError, 404), (ConsentError, 403), (InputError, 422), (EngineError, 503), (StorageError, 507)
    ):  # fmt: skip
        if isinstance(error, kind):
            return code
    return 500


def from_error(error: VividCoverError) -> Problem:
    headers = getattr(error, "headers", None)
    return Problem(status_of(error), f"{error.message} {error.hint}".strip(), headers=headers)


def install(app: FastAPI) -> None:
    """Every error of the app is answered as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(VividCoverError, _own)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _fault)
    app.add_exception_handler(Exception, _fault)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, VividCoverError)
    return own(request, error)


def own(request: Request, error: VividCoverError) -> Response:
    """The answer for an error of ours."""
    problem = from_error(error)
    if problem.status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return problem.response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail if isinstance(error.detail, str) else str(error.detail)
    if error.status_code == 404:
        detail = "The requested resource could not be found."
    return Problem(error.status_code, detail, headers=error.headers).response()


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = {}
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
        wrong[place] = str(one["msg"])
    return invalid(wrong).response()


async def _fault(request: Request, error: Exception) -> Response:
    return fault(request, error)


def fault(request: Request, error: Exception) -> Response:
    """The answer for what must not happen, which the log tells in full; a client that hung up is no fault."""
    if isinstance(error, ClientDisconnect):
        return Problem(400, "The request did not come to its end.").response()
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Problem(500, "The server made a mistake; it is in its log.").response()
