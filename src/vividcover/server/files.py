"""/v1/files: what callers upload."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import JSONResponse, Response

from vividcover.server import outputs, paging, shapes, uploads
from vividcover.server.auth import Reads, allowed
from vividcover.server.problems import Problem, not_found
from vividcover.server.public import files_secret
from vividcover.server.state import Here, Linked, state_of
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.tables import accounts, files

router = APIRouter(prefix="/v1/files", tags=["files"])
DOWNLOADED = "application/octet-stream"  # whatever the file is: so says Replicate's description of its API
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object", "required": ["content"],
                    "properties": {
                        "content": {"type": "string", "format": "binary"}, "filename": {"type": "string"},
                        "type": {"type": "string"}, "metadata": {"type": "string"},
                    },
                }
            }
        },
    }
}  # fmt: skip


@router.post("", status_code=201, openapi_extra=FORM)
async def create(request: Request) -> JSONResponse:
    """Takes in a file, in the part `content` of a form. It is kept for a day, as an input of runs."""
    state, who = state_of(request), await allowed(request, "write")
    row = await uploads.receive(request, state, who)
    return JSONResponse(shapes.file(row, state.links(request)), 201)


@router.get("")
async def list_all(request: Request, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """The account's uploaded files, newest first."""

    def ask(db: Connection) -> paging.Page:
        query = sa.select(files).where(_live, files.c.account_id == who.account_id, files.c.run_id.is_(None))
        return paging.page(db, query, files.c.created_at, files.c.id, paging.cursor_of(request))

    page = await here.read(ask)
    return page.body(request, links, [shapes.file(row, links) for row in page.rows])


_live = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now())


@router.get("/default/secret")
async def secret(who: Reads, here: Here) -> dict[str, str]:
    """The secret with which download links of this account's files are signed. (Our own.)"""
    return {"key": files_secret(here.key, who.account_id)}


@router.get("/{file_id}")
async def get(file_id: str, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """What is known of a file. Its content is at `/download`."""
    return await here.read(lambda db: shapes.file(_own(db, who, file_id), links))


def _own(db: Connection, who: Principal, file_id: str) -> RowMapping:
    query = sa.select(files).where(_live, files.c.id == file_id, files.c.account_id == who.account_id)
    row = db.execute(query).mappings().first()
    if row is None:
        raise not_found()
    return row


@router.delete("/{file_id}", status_code=204, response_class=Response)
async def delete(request: Request, file_id: str) -> Response:
    """Removes a file."""
    state, who = state_of(request), await allowed(request, "write")

    def change(db: Connection) -> None:
        _own(db, who, file_id)
        db.execute(sa.delete(files).where(files.c.id == file_id))

    await state.write(change)
    return Response(status_code=204)


@router.get("/{file_id}/download", response_class=Response)
@router.head("/{file_id}/download", include_in_schema=False)
async def download(
    request: Request, file_id: str, owner: str = "", expiry: str = "", signature: str = ""
) -> Response:  # fmt: skip
    """A file's content: with a token, or with a signed link (`owner`, `expiry` in unix seconds, `signature`)."""
    state = state_of(request)
    if signature:
        row = await state.read(lambda db: _signed(db, state.key, file_id, owner, expiry, signature))
    else:
        who = await allowed(request, "read")
        row = await state.read(lambda db: _own(db, who, file_id))
    return await outputs.send(request, state, {**row, "content_type": DOWNLOADED})


def _signed(db: Connection, key: bytes, file_id: str, owner: str, expiry: str, signature: str) -> RowMapping:
    """The file that a signed link opens. Raises `Problem` 404, as the original does for every link that is no good."""
    query = (
        sa.select(files).join(accounts, accounts.c.id == files.c.account_id)
        .where(_live, files.c.id == file_id, accounts.c.username == owner)
    )  # fmt: skip
    row = db.execute(query).mappings().first()
    if row is None:
        raise not_found()
    told = f"{owner} {file_id} {expiry}".encode()
    wanted = base64.b64encode(hmac.new(files_secret(key, row["account_id"]).encode(), told, hashlib.sha256).digest())
    given = signature.replace(" ", "+").replace("-", "+").replace("_", "/").encode()
    if not hmac.compare_digest(wanted.rstrip(b"="), given.rstrip(b"=")):
        raise not_found()
    if not expiry.isdigit() or len(expiry) > 12 or int(expiry) < time.time():
        raise Problem(404, "This link has expired.")
    return row
