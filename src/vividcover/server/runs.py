"""Runs over HTTP: what predictions and trainings have in common. Creating one is one short transaction, looking at one
is one query.

    POST …            resolve the version → prepare the input → enqueue → ring the bell → (wait) → 201, or 202
    GET …/{id}        404 for what is not there and for what is another account's
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from pydantic import Field
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from starlette.responses import JSONResponse

from vividcover import outbound
from vividcover.catalog.contract import ENGINES, Inputs, Model
from vividcover.cover import models as catalog
from vividcover.errors import InputError
from vividcover.lines import encode
from vividcover.runs import bell, registry, states, usage
from vividcover.runs.registry import Resolved
from vividcover.server import inputs, shapes
from vividcover.server.auth import left_of
from vividcover.server.bodies import Body
from vividcover.server.problems import Problem, invalid, not_found
from vividcover.server.public import Links
from vividcover.server.state import State
from vividcover.server.watch import Attention
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.prepared import Prepared
from vividcover.store.tables import events, files, runs

EVENTS = ("start", "output", "logs", "completed")
DEFAULT_EVENTS = ("output", "completed")
WAIT = 60  # seconds that a request may be held open, and does when it does not say how long
PREFER = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,6})\"?)?(?=$|[,;\s])", re.IGNORECASE)
DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?|(\d{1,9})")
MAX_RESOLVED, RESOLVED_FOR = 1000, 1.0  # references, seconds
LONGEST_NOTE = 2000  # characters
STOPS = 0.6  # seconds beyond the grace that a canceled run may take until it has stopped
SHORTEST = 5.0  # seconds of Cancel-After
MODELS: dict[str, Model] = {}  # the catalog, looked up once
GONE = "The specified version does not exist (or perhaps you don't have permission to use it?)"


class RunBody(Body):
    """A prediction."""

    input: dict[str, Any] = Field(default_factory=dict)
    """The model's inputs."""
    webhook: str | None = None
    """Link that is told what happens."""
    webhook_events_filter: list[str] | None = None
    """start, output, logs, completed."""
    webhook_completed: str | None = None
    """An older name: a webhook that is told of the end only."""
    stream: bool | None = None
    """Not needed: every prediction can be streamed."""


class Answer(JSONResponse):
    """What is answered most often."""

    def render(self, content: Any) -> bytes:
        return encode(content)


@dataclass(frozen=True)
class Asked:
    """What the headers of a request for a run ask for."""

    wait: int | None  # seconds
    seconds: float | None  # of Cancel-After
    old: bool  # the client does not know the status "aborted"

    @classmethod
    def of(cls, request: Request) -> Asked:
        after = request.headers.get("cancel-after")
        return cls(_wait(request), _duration(after) if after else None, is_old(request))

    @property
    def applied(self) -> dict[str, str]:
        """The header that says that it was waited for."""
        return {"Preference-Applied": f"wait={self.wait}"}


def is_old(request: Request) -> bool:
    """Whether the client would break at the status "aborted"."""
    return request.headers.get("user-agent", "").startswith("replicate-python/1.")


def _wait(request: Request) -> int | None:
    found = PREFER.search(request.headers.get("prefer", ""))
    if found is None:
        return None
    return min(WAIT, int(found[1])) if found[1] else WAIT


def _duration(text: str) -> float:
    """`30`, `30s`, `1h30m45s` → seconds. Raises `Problem` 422."""
    found = DURATION.fullmatch(text.strip().lower())
    if not found or not text.strip():
        raise invalid({"Cancel-After": f"{text[:40]!r} is not a duration such as 30s, 5m or 1h30m"})
    hours, minutes, seconds, plain = (int(part or 0) for part in found.groups())
    total = float(hours * 3600 + minutes * 60 + seconds + plain)
    if total < SHORTEST:
        raise invalid({"Cancel-After": f"{text[:40]!r} is shorter than {SHORTEST:.0f} seconds"})
    return total


def model_of(serves: str) -> Model:
    if not MODELS:
        MODELS.update(catalog())
    return MODELS[serves]


async def create(
    request: Request, state: State, who: Principal, resolved: Resolved, body: RunBody, *, destination: str = "",
    note: str = "", known: Mapping[str, Mapping[str, str]] | None = None,
) -> JSONResponse:  # fmt: skip
    """Makes a run of a version and answers with it, when it is over or the wait is. Raises `Problem`.

    `note`: of a training, for the changelog; `known`: links that an earlier run of the caller had files for.
    """
    asked, links, model = Asked.of(request), state.links(request), model_of(resolved.serves)
    schema = _schema(model, bool(destination))
    given = dict(body.input)
    consent = _consent(request, who, model, schema, given, training=bool(destination))
    webhook, told = await _webhook(state, body)
    if destination and "changelog" not in schema.model_fields and isinstance(given.get("changelog"), str):
        note = given.pop("changelog")[:LONGEST_NOTE] or note
    prepared = await inputs.prepare(state, who, links, schema, given, model.name, known)
    new = states.NewRun(
        kind="training" if destination else "prediction", account_id=who.account_id, token_id=who.token_id,
        model=resolved.model, version=resolved.version, serves=resolved.serves, weights=resolved.weights,
        input=prepared.input, files=prepared.files, destination=destination or None, note=note or None,
        deployment=resolved.deployment, consent=consent, engine=engine_of(request), webhook=webhook,
        webhook_events=told, output_shape="training" if destination else model.output,
        stream_key=None if destination else secrets.token_hex(26),
        aborts=asked.seconds is not None and not asked.old, priority=who.priority, deadline_in=asked.seconds,
    )  # fmt: skip
    small, said = not (who.budgeted or destination or webhook), _left_out(new, prepared.dropped)
    handed = await state.desk.hand(new, resolved.weights_file, said) if small and asked.wait else None
    if handed and handed.row and handed.ends:
        shown = shapes.run(handed.row, links, logs=handed.logs, old=asked.old)
        answer = Answer(shown, 201, asked.applied | left_of(request))
        if await handed.is_over():
            return answer
    with state.watch.on(new.id, end=True) as attention:
        if handed and handed.row and not handed.ends:
            attention.wake(True)  # it may have ended since
            return await _waited(request, state, handed.row, asked, attention, links)
        async with inputs.or_forget(state, prepared):

            def put_in(db: Connection) -> Mapping[str, Any]:
                known = states.get(db, new.id) if handed else None  # by a worker that could not say so
                return known or _enqueue(db, state, who, links, new, said)

            try:
                row = await state.write(put_in, small=small)
            except IntegrityError:  # Postgres lets us wait for a worker that puts it in at this very moment
                if not handed:
                    raise
                row = await state.write(put_in)
        bell.ring("work", new.id, state.settings.home)
        if asked.wait:
            return await _waited(request, state, row, asked, attention, links)
    return Answer(shapes.run(row, links, logs="", old=asked.old), 201, left_of(request))


def _enqueue(
    db: Connection, state: State, who: Principal, links: Links, new: states.NewRun, said: list[str]
) -> Mapping[str, Any]:
    if new.destination:
        registry.destination(db, who, new.destination)
    new = usage.reserve(db, who, new)
    row = states.enqueue(db, new)
    if new.webhook and state.outgoing:
        state.outgoing.remember(db, who.account_id, links.base)
    for line in said:
        db.execute(sa.insert(events).values(run_id=new.id, kind="log", data=line, at=now()))
    return row


def _left_out(new: states.NewRun, dropped: list[str]) -> list[str]:
    """A line of the run's log about keys that the model does not know."""
    names = ", ".join(sorted(name[:64] for name in dropped)[:40])
    return [f"Not known to {new.model}, so left out: {names}.\n"] if dropped else []


async def _waited(
    request: Request, state: State, row: shapes.Row, asked: Asked, attention: Attention, links: Links
) -> JSONResponse:  # fmt: skip
    """The finished run; or, when the time is over, the run as "starting", which clients take for "not yet"."""
    assert asked.wait is not None
    applied = asked.applied | left_of(request)
    until = time.monotonic() + asked.wait
    while await attention.change(until - time.monotonic()):
        after, logs = await state.read(lambda db: with_logs(db, row["id"]))
        if after["status"] in states.TERMINAL:
            return Answer(shapes.run(after, links, logs=logs, old=asked.old), 201, applied)
    not_yet = {**row, "status": "starting", "started_at": None}
    return Answer(shapes.run(not_yet, links, logs="", old=asked.old), 202, applied)


async def resolve(state: State, who: Principal, reference: str) -> Resolved:
    """`registry.resolve`; what it says of a model that ships is believed for a second. Raises `NotFoundError`."""
    until, known = state.resolved.get(reference, (0.0, None))
    if known is not None and time.monotonic() < until:
        return known
    found = await state.read(lambda db: registry.resolve(db, who, reference))
    if found.account_id is None:  # public, and the same for everybody
        if len(state.resolved) >= MAX_RESOLVED:
            state.resolved.clear()
        state.resolved[reference] = (time.monotonic() + RESOLVED_FOR, found)
    return found


def _schema(model: Model, training: bool) -> type[Inputs]:
    if not training:
        return model.Input
    if model.TrainingInput is None:
        raise Problem(422, f"{model.name} cannot be trained: it has no training. Create a prediction instead.")
    return model.TrainingInput


def _consent(
    request: Request, who: Principal, model: Model, schema: type[Inputs], given: dict[str, Any], *, training: bool
) -> str:
    """What the caller states about the people that a model is trained on. Raises `ConsentError` where it is needed."""
    words = request.headers.get("vividcover-consent", "")
    if "consent" not in schema.model_fields and isinstance(given.get("consent"), str):
        words = given.pop("consent") or words
    words = (words or who.consent).strip()
    if training or model.needs_consent:
        model.check_consent(words)
    return words


def engine_of(request: Request) -> str:
    """The engine that the header `Vividcover-Engine` asks for. (Our own.)"""
    wanted = request.headers.get("vividcover-engine", "auto")
    if wanted not in ENGINES:
        raise invalid({"Vividcover-Engine": f"{wanted[:40]!r} is none of {', '.join(ENGINES)}"})
    return wanted


async def _webhook(state: State, body: RunBody) -> tuple[str | None, str]:
    """(link, events) of a run's webhook. Raises `Problem` 422 for a link that must not be called."""
    link = body.webhook or body.webhook_completed
    chosen = body.webhook_events_filter
    if chosen is not None and (unknown := [one for one in chosen if one not in EVENTS]):
        raise invalid({"webhook_events_filter": f"{unknown[0][:40]!r} is none of {', '.join(EVENTS)}"})
    if not link:
        return None, ""
    try:
        await outbound.check_target(link, state.settings.private_endpoints)
    except InputError as error:
        raise invalid({"webhook": f"{error.message} {error.hint}"}) from None
    if not body.webhook:
        return link, "completed"
    return link, " ".join(one for one in EVENTS if one in (DEFAULT_EVENTS if chosen is None else chosen))


# --- looking ------------------------------------------------------------------------------------------------------


def with_logs(db: Connection, run_id: str) -> tuple[shapes.Row, str]:
    """A run's row and everything that it logged. Raises `Problem` 404."""
    row = WITH_LOGS.one(db, {"run": run_id})
    if row is None:
        raise not_found()
    return row, row["logs"] or ""


def with_preview(db: Connection, run_id: str) -> tuple[shapes.Row, bytes | None]:
    """A run's row and the newest early look at what it makes, JPEG. Raises `Problem` 404."""
    row = db.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().first()
    if row is None:
        raise not_found()
    newest = sa.select(events.c.data).where(events.c.run_id == run_id, events.c.kind == "preview")
    told = db.scalar(newest.order_by(events.c.id.desc()).limit(1))
    return row, base64.b64decode(json.loads(told)["jpeg"]) if told else None


_said = (
    sa.select(events.c.data)
    .where(events.c.run_id == sa.bindparam("run"), events.c.kind == "log")
    .order_by(events.c.id)
    .subquery()
)
_logs = sa.select(sa.func.aggregate_strings(_said.c.data, "")).scalar_subquery().label("logs")
WITH_LOGS = Prepared(lambda: sa.select(runs, _logs).where(runs.c.id == sa.bindparam("run")))


async def look(request: Request, state: State, who: Principal, run_id: str, kind: str = "") -> dict[str, Any]:
    """A run as the API shows it. Raises `Problem` 404, also for another account's."""
    row, logs = await state.read(lambda db: with_logs(db, run_id))
    own(row, who, kind)
    return shapes.run(row, state.links(request), logs=logs, old=is_old(request))


def own(row: shapes.Row, who: Principal, kind: str = "") -> None:
    """Raises `Problem` 404 unless the run is the caller's, and of the kind."""
    if row["account_id"] != who.account_id or (kind and row["kind"] != kind):
        raise not_found()


def remove(db: Connection, who: Principal, run_id: str, kind: str = "") -> None:
    """Removes what a run that is over was given, said and made; that it was stays. Raises `Problem` 404, 409."""
    row, _ = with_logs(db, run_id)
    own(row, who, kind)
    if row["status"] not in states.TERMINAL:
        raise Problem(409, f"The run is {row['status']}. Cancel it first.")
    db.execute(sa.delete(files).where(files.c.run_id == run_id))
    db.execute(sa.delete(events).where(events.c.run_id == run_id))
    gone = {"data_removed": True, "input": {}, "files": {}, "output": None, "error": None}
    db.execute(sa.update(runs).where(runs.c.id == run_id).values(gone))


async def cancel(request: Request, state: State, who: Principal, run_id: str, kind: str = "") -> dict[str, Any]:
    """Asks a run to stop and waits a moment until it has; as it is then. One that is over stays as it is."""
    own((await state.read(lambda db: with_logs(db, run_id)))[0], who, kind)
    with state.watch.on(run_id) as attention:
        row = await state.write(lambda db: states.cancel(db, run_id))
        if row is None:
            raise not_found()
        for topic in states.BELLS:
            bell.ring(topic, run_id, state.settings.home)
        until = time.monotonic() + state.settings.cancel_grace + STOPS
        while True:
            shown = await look(request, state, who, run_id, kind)
            if shown["status"] in states.TERMINAL or not await attention.change(until - time.monotonic()):
                return shown
