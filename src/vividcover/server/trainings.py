"""/v1/trainings: runs that make a version of a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from vividcover.server import predictions, runs, shapes
from vividcover.server.auth import Reads, allowed
from vividcover.server.bodies import documented, json_body
from vividcover.server.problems import invalid
from vividcover.server.state import Here, Linked, state_of

router = APIRouter(prefix="/v1", tags=["trainings"])


class TrainingBody(runs.RunBody):
    """A training."""

    destination: str
    """owner/name of the model that gets the trained version; it is made, privately, when it is not there."""


@router.post(
    "/models/{owner}/{name}/versions/{version_id:path}/trainings",
    status_code=201,
    openapi_extra=documented(TrainingBody),
)
async def create(request: Request, owner: str, name: str, version_id: str) -> JSONResponse:
    """Trains. Needs the consent of whoever is trained: the token's statement, or the header `Vividcover-Consent`."""
    state, who = state_of(request), await allowed(request, "train", creates=True)
    body = await json_body(request, TrainingBody)
    resolved = await runs.resolve(state, who, f"{owner}/{name}:{version_id}")
    if not body.destination.strip():
        raise invalid({"destination": "is required"})
    return await runs.create(request, state, who, resolved, body, destination=body.destination.strip())


@router.get("/trainings")
async def list_all(request: Request, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """The account's trainings, newest first."""
    page = await here.read(lambda db: predictions.listed(db, request, who.account_id, "training"))
    return page.body(request, links, [shapes.run(row, links, old=runs.is_old(request)) for row in page.rows])


@router.get("/trainings/{training_id}")
async def get(request: Request, training_id: str) -> JSONResponse:
    """A training."""
    who = await allowed(request, "read")
    return JSONResponse(await runs.look(request, state_of(request), who, training_id, "training"))


@router.get("/trainings/{training_id}/logs", response_class=PlainTextResponse)
async def logs(training_id: str, who: Reads, here: Here) -> PlainTextResponse:
    """Everything that a training logged, as plain text. (Our own.)"""
    return await predictions.logs(training_id, who, here)


@router.post("/trainings/{training_id}/cancel")
async def cancel(request: Request, training_id: str) -> JSONResponse:
    """Stops a training. One that is over stays as it is."""
    who = await allowed(request, "train")
    return JSONResponse(await runs.cancel(request, state_of(request), who, training_id, "training"))
