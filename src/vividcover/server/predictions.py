"""/v1/predictions, and predictions of a model or a deployment."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from sqlalchemy.engine import Connection
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vividcover.errors import NotFoundError
from vividcover.runs import registry
from vividcover.server import paging, runs, shapes
from vividcover.server.auth import Reads, allowed
from vividcover.server.bodies import documented, json_body
from vividcover.server.problems import Problem, invalid
from vividcover.server.state import Here, Linked, state_of
from vividcover.store import tables

router = APIRouter(prefix="/v1", tags=["predictions"])
UNKNOWN = "Invalid version or not permitted"
NAMELESS = "The clients' run() sends owner/name:latest without the name: run owner/name, which is its latest version."


class PredictionBody(runs.RunBody):
    """A prediction of any version."""

    version: str
    """64-hex id, owner/name:id or owner/name."""


@router.post("/predictions", status_code=201, openapi_extra=documented(PredictionBody))
async def create(request: Request) -> JSONResponse:
    """Runs a version. `Prefer: wait` holds the request open until the run is over; `Cancel-After: 5m` ends it then."""
    state, who = state_of(request), await allowed(request, "write", creates=True)
    body = await json_body(request, PredictionBody)
    try:
        resolved = await runs.resolve(state, who, body.version)
    except NotFoundError as error:
        bare = f" {NAMELESS}" if body.version.strip().lower() == "latest" else ""
        raise Problem(422, f"{runs.GONE} {error.message}{bare}", UNKNOWN) from None
    return await runs.create(request, state, who, resolved, body)


@router.post("/models/{owner}/{name}/predictions", status_code=201, openapi_extra=documented(runs.RunBody))
async def create_of_model(request: Request, owner: str, name: str) -> JSONResponse:
    """Runs a model's promoted version, else its newest."""
    state, who = state_of(request), await allowed(request, "write", creates=True)
    body = await json_body(request, runs.RunBody)
    resolved = await runs.resolve(state, who, f"{owner}/{name}")
    return await runs.create(request, state, who, resolved, body)


@router.post("/deployments/{owner}/{name}/predictions", status_code=201, openapi_extra=documented(runs.RunBody))
async def create_of_deployment(request: Request, owner: str, name: str) -> JSONResponse:
    """Runs the version that a deployment names."""
    state, who = state_of(request), await allowed(request, "write", creates=True)
    body = await json_body(request, runs.RunBody)
    resolved = await state.read(lambda db: registry.resolve_deployment(db, who, owner, name))
    return await runs.create(request, state, who, resolved, body)


@router.get("/predictions")
async def list_all(
    request: Request, who: Reads, here: Here, links: Linked, created_after: str = "", created_before: str = "",
    source: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The account's predictions, newest first."""
    page = await here.read(
        lambda db: listed(db, request, who.account_id, "prediction", created_after, created_before, source)
    )
    return page.body(request, links, [shapes.run(row, links, old=runs.is_old(request)) for row in page.rows])


def listed(
    db: Connection, request: Request, account_id: str, kind: str, after: str = "", before: str = "", source: str = ""
) -> paging.Page:
    """A page of an account's runs. Raises `Problem` 400, 422 for a cursor or a time that is none."""
    c = tables.runs.c
    query = sa.select(tables.runs).where(c.account_id == account_id, c.kind == kind)
    if after:
        query = query.where(c.created_at > _time("created_after", after))
    if before:
        query = query.where(c.created_at < _time("created_before", before))
    if source:
        if source not in ("web", "api"):
            raise invalid({"source": f"{source[:40]!r} is not web"})
        query = query.where(c.source == source)
    return paging.page(db, query, c.created_at, c.id, paging.cursor_of(request))


def _time(name: str, text: str) -> float:
    """ISO 8601 → unix seconds; without a zone it is UTC."""
    try:
        # a + that was not escaped in a link has become a space
        found = datetime.fromisoformat(text.strip().replace(" 0", "+0") if "T" in text else text)
        seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise invalid({name: f"{text[:40]!r} is not a time such as 2026-11-20T21:35:00Z"}) from None
    if not math.isfinite(seconds):
        raise invalid({name: f"{text[:40]!r} is out of range"})
    return seconds


@router.get("/predictions/{prediction_id}")
async def get(request: Request, prediction_id: str) -> JSONResponse:
    """A prediction; a training too, for clients that follow the link of one."""
    who = await allowed(request, "read")
    return runs.Answer(await runs.look(request, state_of(request), who, prediction_id))


@router.delete("/predictions/{prediction_id}", status_code=204, response_class=Response)
async def delete(request: Request, prediction_id: str) -> Response:
    """Removes a run's input, logs and files; that it was stays, with `data_removed`. (Our own.)"""
    state, who = state_of(request), await allowed(request, "write")
    await state.write(lambda db: runs.remove(db, who, prediction_id))
    return Response(status_code=204)


@router.post("/predictions/{prediction_id}/cancel")
async def cancel(request: Request, prediction_id: str) -> JSONResponse:
    """Stops a prediction. One that is over stays as it is."""
    who = await allowed(request, "write")
    return JSONResponse(await runs.cancel(request, state_of(request), who, prediction_id))


@router.get("/predictions/{prediction_id}/logs", response_class=PlainTextResponse)
async def logs(prediction_id: str, who: Reads, here: Here) -> PlainTextResponse:
    """Everything that a run logged, as plain text. (Our own.)"""
    row, text = await here.read(lambda db: runs.with_logs(db, prediction_id))
    runs.own(row, who)
    return PlainTextResponse("" if row["data_removed"] else text)


@router.get(
    "/predictions/{prediction_id}/preview", response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "There is none (yet)."}},
)  # fmt: skip
async def preview(prediction_id: str, who: Reads, here: Here) -> Response:
    """The newest early look at a video that is being made, as a small JPEG picture. (Our own.)"""
    row, picture = await here.read(lambda db: runs.with_preview(db, prediction_id))
    runs.own(row, who)
    if picture is None or row["data_removed"]:
        raise Problem(404, "There is no early look at this run, or not yet.")
    return Response(picture, media_type="image/jpeg", headers={"cache-control": "no-store"})
