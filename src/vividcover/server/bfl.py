"""BFL's fine-tuning API, on your own machine: /bfl/v1/… with a token of this server in the header `x-key`.
(And, our own, `Vividcover-Engine` and `Vividcover-Consent`.)

    POST /finetune                      → {"finetune_id"}          POST /{model}-finetuned → {"id", "polling_url"}
    GET  /get_result?id=                → {"id", "status", "result", "progress"}
    GET  /my_finetunes, /finetune_details?finetune_id=, /credits   POST /delete_finetune

A task is a run like any other, so it can also be looked at under /v1. Errors have FastAPI's form, as BFL's had.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import JSONResponse

from vividcover import outbound
from vividcover.errors import InputError, NotFoundError, VividCoverError
from vividcover.runs import bell, finetunes, registry, states, usage
from vividcover.server import inputs, runs, shapes, uploads
from vividcover.server.auth import authenticate, demand
from vividcover.server.bfl_bodies import PICTURES, TRAINER, Deletion, Finetune, Hooked, Picture
from vividcover.server.bodies import documented, json_body
from vividcover.server.problems import Problem, from_error
from vividcover.server.public import Links
from vividcover.server.state import State, state_of
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.ids import new_id
from vividcover.store.tables import events
from vividcover.store.tables import finetunes as rows

STATUS = {"starting": "Pending", "processing": "Pending", "succeeded": "Ready"}  # the others: Error
SEED = re.compile(r"^Using seed: (\d+)$", re.MULTILINE)
NO_LIMIT = 1e9  # credits of an account without a budget
CENT = 0.01  # a credit is a US cent
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BflRoute(APIRoute):
    """Errors as BFL's API gives them: {"detail": text}, or {"detail": [{"loc", "msg", "type"}, …]} for wrong fields."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                found = [{"loc": list(e["loc"]), "msg": str(e["msg"]), "type": str(e["type"])} for e in error.errors()]
                return JSONResponse({"detail": found}, 422)
            except Problem as problem:
                return _answer(problem)
            except VividCoverError as error:
                told = from_error(error)
                if told.status >= 500:
                    raise
                return _answer(told)

        return handler


def _answer(problem: Problem) -> JSONResponse:
    if problem.fields:
        detail: Any = [
            {"loc": ["body", *field["field"].split(".")], "msg": field["description"], "type": "value_error"}
            for field in problem.fields
        ]
    else:
        detail = problem.detail
    status = 403 if problem.status == 401 else problem.status
    return JSONResponse({"detail": detail}, status, problem.headers)


router = APIRouter(prefix="/bfl/v1", tags=["bfl"], route_class=BflRoute)


async def _principal(request: Request, scope: str, *, creates: bool = False) -> Principal:
    """Whose key `x-key` is. Raises `Problem` 403, 429."""
    key = request.headers.get("x-key", "").strip()
    if not key:
        raise Problem(403, "Not authenticated: the header x-key is missing.")
    state = state_of(request)
    who = await authenticate(state, key)
    demand(who, scope)
    await state.limits.take(who, state.settings, creates=creates)
    return who


# --- orders -------------------------------------------------------------------------------------------------------


@router.post("/finetune", openapi_extra=documented(Finetune), summary="Train")
async def finetune(request: Request) -> JSONResponse:
    """Trains on 1 to 20 pictures. The id is known at once, and usable when `get_result` says Ready."""
    state, who = state_of(request), await _principal(request, "train", creates=True)
    body = await json_body(request, Finetune)
    model = runs.model_of(TRAINER)
    engine = runs.engine_of(request)
    consent = (request.headers.get("vividcover-consent", "") or who.consent).strip()
    model.check_consent(consent)
    await _check_webhook(state, body)
    links = state.links(request)
    stored = await uploads.keep(state, who, _zip_of(body.file_data), "pictures.zip", "application/zip")
    schema, values = model.TrainingInput, body.inputs(links.file(stored["id"]))
    assert schema is not None
    async with inputs.or_forget(state, inputs.Prepared({}, stored=[stored["id"]])):
        prepared = await inputs.prepare(state, who, links, schema, values, TRAINER)
        finetune_id = str(uuid.uuid4())
        home = finetunes.home_of(who.username, finetune_id)
        version = await state.read(lambda db: registry.resolve(db, who, TRAINER))
        new = _new(who, version, body, prepared, kind="training", output_shape="training", consent=consent)
        new = replace(new, destination=home, note=body.finetune_comment, engine=engine)

        def change(db: Connection) -> None:
            registry.destination(db, who, home)
            _enqueue(db, state, who, links, new)
            finetunes.add(db, who.account_id, new.id, home, body.model_dump(), finetune_id)

        await state.write(change)
    bell.ring("work", new.id, state.settings.home)
    return JSONResponse({"finetune_id": finetune_id, **_accepted(links, finetune_id, body)})


def _zip_of(text: str) -> bytes:
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except binascii.Error as error:
        raise _wrong("file_data", f"is not base64: {error}") from None


def _wrong(field: str, why: str) -> Problem:
    return Problem(422, why, fields=[{"type": "invalid", "field": field, "description": why}])


def _order(name: str, kind: type[Picture]) -> None:
    """The endpoint of one kind of picture."""

    @router.post(f"/{name}", name=name, openapi_extra=documented(kind), summary=(kind.__doc__ or "").strip())
    async def order(request: Request) -> JSONResponse:
        return await _picture(request, kind)


for _name, _kind in PICTURES.items():
    _order(_name, _kind)


async def _picture(request: Request, kind: type[Picture]) -> JSONResponse:
    state, who = state_of(request), await _principal(request, "write", creates=True)
    body, engine = await json_body(request, kind), runs.engine_of(request)
    await _check_webhook(state, body)
    links = state.links(request)
    known = await state.read(lambda db: finetunes.trained(db, who, body.finetune_id))
    model = runs.model_of(kind.serves)
    values = body.inputs(known.trigger_word or "TOK")
    prepared = await inputs.prepare(state, who, links, model.Input, values, kind.serves)
    async with inputs.or_forget(state, prepared):
        version = await state.read(lambda db: registry.resolve(db, who, kind.serves))
        new = _new(who, version, body, prepared, kind="prediction", output_shape=model.output)
        new = replace(new, engine=engine)
        await state.write(lambda db: _enqueue(db, state, who, links, new))
    bell.ring("work", new.id, state.settings.home)
    return JSONResponse(_accepted(links, new.id, body))


def _new(
    who: Principal, version: registry.Resolved, body: Hooked, prepared: inputs.Prepared, *, kind: str,
    output_shape: str, consent: str = "",
) -> states.NewRun:  # fmt: skip
    return states.NewRun(
        kind=kind, account_id=who.account_id, token_id=who.token_id, model=version.model, version=version.version,
        serves=version.serves, input=prepared.input, files=prepared.files, consent=consent, output_shape=output_shape,
        source="bfl", webhook=body.webhook_url, webhook_secret=body.webhook_secret or None,
        webhook_events="completed" if body.webhook_url else "", priority=who.priority,
        stream_key=None if kind == "training" else new_id() + new_id(),
    )  # fmt: skip


def _enqueue(db: Connection, state: State, who: Principal, links: Links, new: states.NewRun) -> None:
    states.enqueue(db, usage.reserve(db, who, new))
    if new.webhook and state.outgoing:
        state.outgoing.remember(db, who.account_id, links.base)


async def _check_webhook(state: State, body: Hooked) -> None:
    if body.webhook_url:
        try:
            await outbound.check_target(body.webhook_url, state.settings.private_endpoints)
        except InputError as error:
            raise _wrong("webhook_url", f"{error.message} {error.hint}") from None


def _accepted(links: Links, task: str, body: Hooked) -> dict[str, Any]:
    told = {"id": task, "polling_url": f"{links.base}/bfl/v1/get_result?id={task}"}
    return told | ({"status": "Pending", "webhook_url": body.webhook_url} if body.webhook_url else {})


# --- looking ------------------------------------------------------------------------------------------------------


@router.get("/get_result", summary="What became of a task")
async def get_result(request: Request, id: str) -> JSONResponse:
    """Of a picture, or of a training by its finetune_id."""
    state, who = state_of(request), await _principal(request, "read")
    links = state.links(request)

    def ask(db: Connection) -> dict[str, Any] | None:
        run_id = id
        if finetunes.ID.fullmatch(id):
            try:
                run_id = finetunes.get(db, who, id)["run_id"]
            except NotFoundError:
                return None
        if not finetunes.RUN.fullmatch(run_id):
            return None
        row = states.get(db, run_id)
        if row is None or row["account_id"] != who.account_id:
            return None
        return result(db, row, links, task=id)

    found = await state.read(ask)
    if found is None:
        lost = {"id": id[:100], "status": "Task not found", "result": None, "progress": None}
        return JSONResponse(lost | {"detail": "Task not found"}, 404)
    return JSONResponse(found)


def result(db: Connection, row: shapes.Row, links: Links, task: str = "") -> dict[str, Any]:
    """A run as `get_result` shows it, and as BFL's webhooks tell of it."""
    if not task:
        known = sa.select(rows.c.id).where(rows.c.run_id == row["id"])
        task = str((db.scalar(known) if row["kind"] == "training" else None) or row["id"])
    status = STATUS.get(row["status"], "Error")
    body: dict[str, Any] = {"id": task, "status": status, "result": None, "progress": _progress(db, row)}
    if status == "Ready":
        body["result"] = _made(db, row, links, task)
    elif status == "Error":
        why = row["error"] or f"The task was {row['status']}."
        body |= {"result": {"error": why}, "details": {"error": why}}
    return body


def _made(db: Connection, row: shapes.Row, links: Links, task: str) -> dict[str, Any]:
    shown: Any = shapes.run(row, links).get("output")
    started, ended = row["started_at"] or row["created_at"], row["completed_at"]
    made: dict[str, Any] = {"start_time": started, "end_time": ended, "duration": round(ended - started, 3)}
    if row["kind"] == "training":
        return {"finetune_id": task, "version": shown["version"], "weights": shown.get("weights"), **made}
    return {"sample": shown, "prompt": row["input"].get("prompt"), "seed": _seed(db, row), **made}


def _seed(db: Connection, row: shapes.Row) -> int | None:
    """The seed that was given, or drawn: then the log has it."""
    if row["input"].get("seed") is not None:
        return int(row["input"]["seed"])
    said = sa.select(events.c.data).where(
        events.c.run_id == row["id"], events.c.kind == "log", events.c.data.contains("Using seed: ")
    )
    found = SEED.search(db.scalar(said.limit(1)) or "")
    return int(found[1]) if found else None


def _progress(db: Connection, row: shapes.Row) -> float:
    """0 to 1."""
    if row["status"] != "processing":
        return 1.0 if row["status"] == "succeeded" else 0.0
    last = sa.select(events.c.data).where(events.c.run_id == row["id"], events.c.kind == "progress")
    told: Mapping[str, Any] = json.loads(db.scalar(last.order_by(events.c.id.desc()).limit(1)) or "{}")
    fraction = told.get("overall") if told.get("overall") is not None else told.get("fraction")
    return round(min(max(float(fraction or 0.0), 0.0), 1.0), 3)


@router.get("/my_finetunes", summary="Your fine-tunes")
async def my_finetunes(request: Request) -> dict[str, list[str]]:
    """The ids, newest first."""
    who = await _principal(request, "read")
    found = await state_of(request).read(lambda db: finetunes.listed(db, who))
    return {"finetunes": [row["id"] for row in found]}


@router.get("/finetune_details", summary="How a fine-tune was trained")
async def finetune_details(request: Request, finetune_id: str) -> dict[str, Any]:
    """What was asked for, when, and what became of it."""
    who = await _principal(request, "read")

    def ask(db: Connection) -> dict[str, Any]:
        row = finetunes.get(db, who, finetune_id)
        run = states.get(db, row["run_id"])
        return {
            "finetune_id": row["id"], **row["details"], "model": row["model"],
            "timestamp": shapes.time(row["created_at"]),
            "status": STATUS.get(run["status"], "Error") if run else "Ready",
        }  # fmt: skip

    return {"finetune_details": await state_of(request).read(ask)}


@router.post("/delete_finetune", openapi_extra=documented(Deletion), summary="Delete a fine-tune")
async def delete_finetune(request: Request) -> dict[str, Any]:
    """Its version no longer runs; a training that still goes on is stopped."""
    state, who = state_of(request), await _principal(request, "write")
    body = await json_body(request, Deletion)

    def change(db: Connection) -> tuple[RowMapping, float]:
        row = finetunes.delete(db, who, body.finetune_id)
        states.cancel(db, row["run_id"])
        return row, float(db.execute(sa.select(now())).scalar_one())

    row, at = await state.write(change)
    bell.ring("cancel", row["run_id"], state.settings.home)
    bell.ring("runs", row["run_id"], state.settings.home)
    return {
        "status": "success", "message": f"The finetune {row['id']} is deleted.", "deleted_finetune_id": row["id"],
        "timestamp": shapes.time(at),
    }  # fmt: skip


@router.get("/credits", summary="What is left of the budget")
async def credits(request: Request) -> dict[str, float]:
    """In US cents, of the tighter of the account's and the token's monthly budget."""
    who = await _principal(request, "read")

    def ask(db: Connection) -> float:
        known = usage.budgets(db, who.account_id, who.token_id)
        left = [one["budget_usd"] - one["used_usd"] - one["held_usd"] for one in known]
        return max(0.0, min(left)) / CENT if left else NO_LIMIT

    return {"credits": round(await state_of(request).read(ask), 4)}


__all__ = ["result", "router"]
