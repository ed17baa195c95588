"""What a run says while it runs, as server-sent events: /v1/streams/{key}. The link is the permission.

    event: output      data: a piece of the output; for files their links, at the end
    event: logs        data: lines of the log
    event: error       data: {"detail": …}
    event: done        data: {} | {"reason": "error" | "canceled"}

Every event has an id (older Python clients drop those without), and a reader who comes again with `Last-Event-ID` is
told what it has missed and nothing twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import Response, StreamingResponse

from vividcover.server import shapes
from vividcover.server.problems import not_found
from vividcover.server.public import Links
from vividcover.server.state import State, state_of
from vividcover.server.watch import TERMINAL
from vividcover.store.tables import events, runs

router = APIRouter(prefix="/v1/streams", tags=["predictions"])
LOOK = 1.0  # seconds; a ring may be lost
KEEP_ALIVE = 15.0  # seconds of silence after which a comment is sent, so that no proxy hangs up
MANY = 500  # events in one query
NAMES = {"log": "logs", "output": "output"}
LAST = {"output": 1, "error": 2, "done": 3}  # what follows a run's last event; ids are {event}.{number}.{link}


@router.get("/{key}", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def stream(request: Request, key: str) -> Response:
    """Server-sent events of a prediction: output, logs, error, done."""
    state = state_of(request)
    row = await state.read(lambda db: db.execute(_run_of(key)).mappings().first())
    if row is None:
        raise not_found()
    after = _last_seen(request.headers.get("last-event-id", ""))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    told = _events(state, state.links(request), str(row["id"]), after)
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


def _run_of(key: str) -> sa.Select[Any]:
    return sa.select(runs).where(runs.c.stream_key == key)


def _last_seen(text: str) -> tuple[int, int, int]:
    """An event's id as numbers; (0, 0, 0) for one that is not ours: everything is told again."""
    found = re.fullmatch(r"(\d{1,18})(?:\.(\d)(?:\.(\d{1,4}))?)?", text.strip())
    return (int(found[1]), int(found[2] or 0), int(found[3] or 0)) if found else (0, 0, 0)


async def _events(
    state: State, links: Links, run_id: str, after: tuple[int, int, int]
) -> AsyncIterator[bytes]:  # fmt: skip
    last, silent = after[0], 0.0
    yield b": a run's events follow\n\n"
    with state.watch.on(run_id) as attention:
        while True:
            row, said = await state.read(lambda db, last=last: _news(db, run_id, last))  # type: ignore[misc]
            if row is None:
                return
            for event in said:
                last = int(event["id"])
                if event["kind"] in NAMES:
                    silent = 0.0
                    yield _frame(str(last), NAMES[event["kind"]], event["data"])
            if len(said) == MANY:
                continue
            if row["status"] in TERMINAL:
                for frame in _ending(row, links, last, after):
                    yield frame
                return
            if not await attention.change(LOOK):
                silent += LOOK
            if silent >= KEEP_ALIVE:
                silent = 0.0
                yield b": still here\n\n"


def _news(db: Connection, run_id: str, last: int) -> tuple[RowMapping | None, list[RowMapping]]:
    """The run first: when it is over, no event can come that the second query does not see."""
    row = db.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().first()
    query = sa.select(events).where(events.c.run_id == run_id, events.c.id > last).order_by(events.c.id).limit(MANY)
    return row, list(db.execute(query).mappings())


def _ending(row: shapes.Row, links: Links, last: int, after: tuple[int, int, int]) -> list[bytes]:
    """What a reader is told when the run is over: its files or text, its error, and that it is done."""
    told: list[tuple[tuple[int, int, int], str, str]] = []
    output = shapes.run(row, links)["output"] if row["kind"] == "prediction" else None
    pieces = output if isinstance(output, list) else [output] if isinstance(output, str) else []
    if row["output_shape"] != "stream":  # those have been told piece by piece
        told += [((last, LAST["output"], number), "output", piece) for number, piece in enumerate(pieces)]
    reason = {}
    if row["status"] == "failed":
        told.append(((last, LAST["error"], 0), "error", json.dumps({"detail": row["error"] or "It failed."})))
        reason = {"reason": "error"}
    elif row["status"] != "succeeded":
        reason = {"reason": "canceled"}
    told.append(((last, LAST["done"], 0), "done", json.dumps(reason)))
    return [_frame(".".join(map(str, place)), name, data) for place, name, data in told if place > after]


def _frame(id: str, name: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in re.split(r"\r\n|\r|\n", data))
    return f"event: {name}\nid: {id}\n{lines}\n".encode()
