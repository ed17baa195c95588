"""Files that come in: streamed to disk, hashed on the way, stopped where they grow too large.

What is kept is an artifact and a row that says whose it is and until when. Whatever goes wrong on the way, nothing of
it stays. The forms are those of the official clients: the part `content` is the file; `filename`, `type` and `metadata`
may stand beside it, `metadata` as a JSON text, as a JSON file, or as fields `metadata[key]`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from sqlalchemy.engine import Connection, RowMapping

from vividcover.server.bodies import loads
from vividcover.server.media import HEAD, guess
from vividcover.server.problems import Problem, invalid
from vividcover.server.state import State
from vividcover.store.accounts import Principal
from vividcover.store.artifacts import Blob, Writer
from vividcover.store.database import now
from vividcover.store.ids import new_id
from vividcover.store.tables import accounts, files

BATCH = 1 << 20  # bytes handed to a thread at a time
FORM_BYTES = 1 << 20  # everything in the form but the file
NAME_LENGTH = 200


class Incoming:
    """A file that is being received: bytes into an artifact, never more than `limit`."""

    def __init__(self, writer: Writer, limit: int) -> None:
        self._writer, self._limit = writer, limit
        self.head = b""

    def write(self, data: bytes) -> None:
        """Raises `Problem` 413, `StorageError`."""
        if self._writer.bytes + len(data) > self._limit:
            raise too_large(self._limit)
        if len(self.head) < HEAD:
            self.head += data[: HEAD - len(self.head)]
        self._writer.write(data)


def too_large(limit: int) -> Problem:
    shown = f"{limit / 1e9:.1f} GB" if limit >= 1e9 else f"{limit / 1e6:.3g} MB"
    return Problem(413, f"Files must be less than {shown} in size, or the account's storage is used up.")


def clean_name(name: str) -> str:
    """A file name without folders or characters that do not belong in one."""
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in name).strip(". ")
    return name[-NAME_LENGTH:] or "file"


async def room(state: State, who: Principal, announced: int | None = None) -> int:
    """How many bytes the account may send now. Raises `Problem` 413 at once for more announced than that."""
    limit = await state.read(lambda db: min(state.settings.max_upload_bytes, _left(db, who.account_id, state)))
    if limit <= 0 or (announced is not None and announced > limit + FORM_BYTES):
        raise too_large(max(0, limit))
    return limit


def _left(db: Connection, account_id: str, state: State) -> int:
    kept = sa.select(sa.func.coalesce(sa.func.sum(files.c.bytes), 0)).where(
        files.c.account_id == account_id, sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now())
    )
    own = sa.select(accounts.c.storage_limit).where(accounts.c.id == account_id)
    limit = db.scalar(own)
    return (state.settings.max_account_bytes if limit is None else int(limit)) - int(db.scalar(kept) or 0)


async def register(
    state: State, who: Principal, blob: Blob, name: str, content_type: str, metadata: dict[str, Any] | None = None
) -> RowMapping:
    """The row of an uploaded file. Raises `Problem` 413 when others' uploads have filled the account meanwhile."""

    def change(db: Connection) -> RowMapping:
        if (left := _left(db, who.account_id, state)) < blob.bytes:
            raise too_large(max(0, left))
        keep = state.settings.upload_keep_seconds
        values = {
            "id": new_id(), "account_id": who.account_id, "sha256": blob.sha256, "md5": blob.md5, "bytes": blob.bytes,
            "name": clean_name(name), "content_type": content_type[:100], "metadata": metadata or {},
        }  # fmt: skip
        insert = sa.insert(files).values(**values, created_at=now(), expires_at=now() + keep)
        return db.execute(insert.returning(files)).mappings().one()

    return await state.write(change)


async def keep(state: State, who: Principal, data: bytes, name: str, told: str) -> RowMapping:
    """A file that came inside a request, as a row. Raises `Problem` 413."""
    limit = await room(state, who, len(data))

    def store() -> tuple[Blob, bytes]:
        with state.artifacts.put_stream() as writer:
            incoming = Incoming(writer, limit)
            incoming.write(data)
            return writer.commit(), incoming.head

    blob, head = await run_in_threadpool(store)
    return await register(state, who, blob, name, guess(head, name, told))


async def receive(request: Request, state: State, who: Principal) -> RowMapping:
    """The file of a multipart request, as a row. Raises `Problem` 413, 422, 400."""
    boundary = _boundary(request)
    length = request.headers.get("content-length", "")
    limit = await room(state, who, int(length) if length.isdigit() else None)
    with state.artifacts.put_stream() as writer:
        form = Form(Incoming(writer, limit))
        parser = form.parser(boundary)
        try:
            async for batch in _batches(request):
                await run_in_threadpool(parser.write, batch)
            parser.finalize()
        except MultipartParseError as error:
            raise Problem(400, f"The form cannot be read: {error}") from None
        if not form.complete:
            raise Problem(400, "The form is cut short: the upload did not come to its end.")
        if not form.has_file:
            raise invalid({"content": "the file is missing: send it as the part named content"})
        if not writer.bytes:
            raise invalid({"content": f"{form.name or 'the file'} is empty (0 bytes)"})
        name = clean_name(form.fields.get("filename") or form.name or "file")
        content_type = guess(form.incoming.head, name, form.fields.get("type") or form.content_type)
        metadata = _metadata(form.fields)
        blob = await run_in_threadpool(writer.commit)
    return await register(state, who, blob, name, content_type, metadata)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem(422, "Send the file as multipart/form-data, in the part named content.")
    return options[b"boundary"]


async def _batches(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a change of threads."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        waiting.append(chunk)
        size += len(chunk)
        if size >= BATCH:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)


class Form:
    """What a multipart parser finds: the file goes to `incoming`, the rest into `fields`."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming, self.fields = incoming, dict[str, str]()
        self.has_file = self.complete = False
        self.name = self.content_type = ""
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None  # None: the part is the file
        self._text = bytearray()
        self._small = 0

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._on_field, "on_header_value": self._on_value,
            "on_header_end": self._on_header, "on_headers_finished": self._on_headers, "on_part_data": self._on_data,
            "on_part_end": self._on_end, "on_end": self._on_all,
        })  # fmt: skip

    def _begin(self) -> None:
        self._headers, self._text = {}, bytearray()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count(end - start)

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _on_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        field = options.get(b"name", b"").decode(errors="replace")
        if field == "content" and not self.has_file:
            self.has_file, self._field = True, None
            self.name = options.get(b"filename", b"").decode(errors="replace")
            self.content_type = self._headers.get(b"content-type", b"").decode(errors="replace")
        else:
            self._field = field

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.incoming.write(data[start:end])
        else:
            self._count(end - start)
            self._text += data[start:end]

    def _on_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._text.decode(errors="replace").replace("\x00", "")

    def _on_all(self) -> None:
        self.complete = True

    def _count(self, size: int) -> None:
        self._small += size
        if self._small > FORM_BYTES:
            raise Problem(413, f"The fields beside the file are larger than {FORM_BYTES} bytes.")


def _metadata(fields: dict[str, str]) -> dict[str, Any]:
    """`metadata` as a JSON object, or as fields `metadata[key]`. Raises `Problem` 422."""
    found: dict[str, Any] = {}
    if text := fields.get("metadata", "").strip():
        try:
            given = loads(text)
        except ValueError as error:
            raise invalid({"metadata": f"is not JSON: {error}"}) from None
        if not isinstance(given, dict):
            raise invalid({"metadata": "is not a JSON object"})
        found.update(given)
    for name, value in fields.items():
        if inside := re.fullmatch(r"metadata\[([^\[\]]+)\]", name):
            found[inside[1]] = value
    return found
