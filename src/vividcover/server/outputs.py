"""What runs made, to be fetched without a token by whoever has the signed link: /outputs/{file}/{signature}/{name}.

Answered directly with 200 (several clients follow no redirect), with the right type and length, whole or in part
(Range, RFC 9110 §14). What a browser might execute is only offered for saving.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import Response, StreamingResponse

from vividcover.errors import NotFoundError
from vividcover.server.problems import Problem, not_found
from vividcover.server.public import signed
from vividcover.server.shapes import Row
from vividcover.server.state import State, state_of
from vividcover.store.database import now
from vividcover.store.tables import files

router = APIRouter(tags=["outputs"])
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif", "audio/", "video/", "text/plain", "application/json")


@router.get("/outputs/{file_id}/{signature}/{name}", response_class=Response)
@router.head("/outputs/{file_id}/{signature}/{name}", include_in_schema=False)
async def output(request: Request, file_id: str, signature: str, name: str) -> Response:
    """A file that a run made. The link is the permission."""
    state = state_of(request)
    if not signed(state.key, file_id, signature):
        raise not_found()
    row = await state.read(lambda db: _row(db, file_id))
    return await send(request, state, row)


def _row(db: Connection, file_id: str) -> RowMapping:
    live = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now())
    row = db.execute(sa.select(files).where(files.c.id == file_id, live)).mappings().first()
    if row is None:
        raise Problem(404, "This file has expired, or was removed.")
    return row


async def send(request: Request, state: State, row: Row) -> Response:
    """A file's bytes, as much of them as was asked for. Raises `Problem` 404, 416."""
    size, etag = int(row["bytes"]), f'"{row["sha256"]}"'
    kind = str(row["content_type"])
    place = "inline" if kind.startswith(SHOWN) else "attachment"
    headers = {
        "Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f"{place}; filename*=UTF-8''{quote(str(row['name']))}", "Content-Type": kind,
        "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'",
    }  # fmt: skip
    if request.headers.get("if-none-match") in (etag, "*"):
        return Response(status_code=304, headers={key: headers[key] for key in ("ETag", "Cache-Control")})
    span = _span(request, size, etag)
    start, end = span or (0, size)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    try:
        chunks = await run_in_threadpool(state.artifacts.open, str(row["sha256"]), start, end)
    except NotFoundError:
        raise Problem(404, "This file has expired, or was removed.") from None
    return StreamingResponse(_async(chunks), status, headers)


async def _async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in iterate_in_threadpool(chunks):
        yield chunk


def _span(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The bytes [start, end) of a Range header; None for the whole file. Raises `Problem` 416."""
    header = request.headers.get("range", "").strip()
    condition = request.headers.get("if-range")
    if not header or (condition and condition != etag):
        return None
    found = RANGE.fullmatch(header.replace(" ", ""))
    if not found or not (found[1] or found[2]):
        return None  # several ranges, or another unit: the whole file is a right answer
    if found[1]:
        start, end = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
    else:
        start, end = max(0, size - int(found[2])), size
    if start >= end:
        raise Problem(
            416, f"The file has {size} bytes; asked for {header}.", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end
