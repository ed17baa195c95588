"""A request's `input`, made ready for a run, or refused now with a reason, rather than in a run that fails later.

- Validated against the model's own inputs, leniently: unknown keys are dropped and named, null is "not given", a number
  stands for the text of it.
- Every file is found: `data:` links and JavaScript Buffers are stored, links to our own files and outputs are resolved
  (to files that the caller may read), other links must lead to the public internet.
- Every file that is here is looked at: wrong kind, empty, unsafe zip.

`Prepared.files` says which artifact is behind which value of the input; workers resolve no other way.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import typing
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from sqlalchemy import delete, or_, select
from sqlalchemy.engine import RowMapping

from vividcover import outbound
from vividcover.catalog.contract import Inputs, takes_file
from vividcover.catalog.flux_lora import several
from vividcover.errors import InputError, LinkError, NotFoundError, VividCoverError
from vividcover.runs import finetunes
from vividcover.server import media, uploads
from vividcover.server.problems import invalid
from vividcover.server.public import Links, signed
from vividcover.server.state import State
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.tables import files

DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.ASCII)
# ends of our own links: a proxy may serve us below a folder
OWN_FILE = re.compile(r"/v1/files/([0-9a-z]{26})(?:/download)?\Z")
OWN_OUTPUT = re.compile(r"/outputs/([0-9a-z]{26})/([A-Za-z0-9_-]{32})/[^/]+\Z")
REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]{0,63}/[A-Za-z0-9][\w.-]{0,63}(:[0-9a-f]{8,64}|:latest|/[0-9a-f]{64})?")
# fields whose text may name a trained model on this server (owner/name), link to one, or contain one
TAKES_MODEL: dict[str, media.Kind] = {
    "voice": "voice model", "rvc_model": "voice model", "custom_rvc_model_download_url": "voice model",
    "replicate_weights": "image model", "lora_weights": "image model", "extra_lora": "image model",
    "finetune_id": "image model",
}  # fmt: skip
LISTS = frozenset({"more_loras"})  # texts that name several image models, each with its scale
COVER_MODEL: media.Kind = "image model"  # of the field `image` where it is a text, as in vividcover/cover
LONGEST_SHOWN = 80


@dataclass
class Prepared:
    """An input that a run can be made of."""

    input: dict[str, Any]
    files: dict[str, dict[str, str]] = field(default_factory=dict)  # value → {"sha256", "name"}
    dropped: list[str] = field(default_factory=list)  # keys that the model does not know
    stored: list[str] = field(default_factory=list)  # ids of the files that came inside the request
    validated: Inputs | None = None


@dataclass(frozen=True)
class _Fields:
    """What is worth knowing of a model's inputs, once."""

    texts: frozenset[str]  # take a text: a number is turned into one
    files: frozenset[str]
    models: Mapping[str, media.Kind]
    required: frozenset[str]


@lru_cache
def _fields_of(schema: type[Inputs]) -> _Fields:
    texts, links, models = set(), set(), {}
    for name, info in schema.model_fields.items():
        kinds = {t for t in _types(info.annotation) if t is not type(None)}
        if kinds and all(kind is str for kind in kinds):
            texts.add(name)
        if takes_file(info):
            links.add(name)
        elif name == "image":
            models[name] = COVER_MODEL
        if name in TAKES_MODEL:
            models[name] = TAKES_MODEL[name]
    required = frozenset(n for n, i in schema.model_fields.items() if i.is_required())
    return _Fields(frozenset(texts), frozenset(links), models, required)


def _types(annotation: Any) -> list[Any]:
    """The plain types in an annotation: `str | None` → [str, NoneType], Literal["1"] → [str]."""
    if typing.get_origin(annotation) is typing.Literal:
        return [type(value) for value in typing.get_args(annotation)]
    inside = typing.get_args(annotation)
    return [one for part in inside for one in _types(part)] if inside else [annotation]


async def prepare(
    state: State, who: Principal, links: Links, schema: type[Inputs], given: Mapping[str, Any], model: str,
    earlier: Mapping[str, Mapping[str, str]] | None = None,
) -> Prepared:  # fmt: skip
    """Raises `Problem` 422 naming every field that is wrong; 413 for more bytes than the account may keep.

    `earlier`: links whose files an earlier run of the caller had, though they may have expired since.
    """
    known = _fields_of(schema)
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in schema.model_fields or value is None:
            continue
        if key in known.texts and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        values[key] = value
    prepared = Prepared(values, dropped=[key for key in given if key not in schema.model_fields])
    buffers = {key: value for key, value in values.items() if _is_buffer(value) and key in known.files}
    checked = {key: "data:," if key in buffers else value for key, value in values.items()}
    prepared.validated = _validate(schema, checked, known)
    finder = _Finder(state, who, links, prepared, model, earlier or {})
    wrong: dict[str, str] = {}
    async with or_forget(state, prepared):
        for key, value in list(values.items()):
            if key in LISTS and isinstance(value, str):
                wrong |= await finder.several(key, value)
            if key not in known.files and not (key in known.models and isinstance(value, str)):
                continue
            try:
                await finder.find(key, value, key in known.files, known.models.get(key))
            except InputError as error:
                wrong[key] = f"{error.message} {error.hint}".strip()
        if wrong:
            raise invalid(wrong)
    return prepared


@contextlib.asynccontextmanager
async def or_forget(state: State, prepared: Prepared) -> AsyncIterator[None]:
    """If no run comes of an input, the files that came with it are not kept either."""
    try:
        yield
    except Exception:
        if prepared.stored:
            await state.write(lambda db: db.execute(delete(files).where(files.c.id.in_(prepared.stored))).rowcount)
        raise


def _validate(schema: type[Inputs], values: dict[str, Any], known: _Fields) -> Inputs:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        wrong = {}
        for one in error.errors():
            key = ".".join(str(part) for part in one["loc"]) or str(one.get("ctx", {}).get("field", ""))
            message = str(one["msg"]).removeprefix("Value error, ")
            shown = repr(one["input"])
            shown = shown if len(shown) <= LONGEST_SHOWN else shown[: LONGEST_SHOWN - 1] + "…"
            wrong[key] = (
                "is required" if one["type"] == "missing" else f"{message[:1].lower()}{message[1:]}, not {shown}"
            )
        raise invalid(wrong) from None


def _is_buffer(value: Any) -> bool:
    """What JSON.stringify makes of a JavaScript Buffer."""
    return isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list)


@dataclass
class _Finder:
    """Finds the file behind one value of an input."""

    state: State
    who: Principal
    links: Links
    prepared: Prepared
    model: str
    earlier: Mapping[str, Mapping[str, str]]

    async def find(self, key: str, value: Any, is_file: bool, model_kind: media.Kind | None) -> None:
        """Puts what is behind `value` into `prepared`. Raises `InputError` when there is nothing fit."""
        kind = model_kind or media.FIELDS.get(key, "anything")
        if _is_buffer(value):
            await self._store(key, _bytes_of(value["data"]), "buffer", "", kind)
        elif value.startswith("data:") and (found := DATA.match(value)):
            content = await run_in_threadpool(_data_of, value, found)
            await self._store(key, content, "data", found[1], kind)
        elif value in self.earlier:
            await self._take(value, self.earlier[value]["sha256"], self.earlier[value]["name"], kind)
        elif (row := await self._own(value)) is not None:
            await self._take(value, str(row["sha256"]), str(row["name"]), kind)
        elif model_kind and (key == "finetune_id" or REFERENCE.fullmatch(value)):
            await self._trained(value, model_kind)
        elif value.startswith(("http://", "https://")):
            await outbound.probe(value, self.state.settings.private_endpoints)
        elif is_file:
            shown = value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"
            raise LinkError(f"{shown!r} is not a link to a file.", "Give an http(s) link, a data: link, or upload it.")

    async def several(self, key: str, value: str) -> dict[str, str]:
        """The same of every reference in a list of image models; what is wrong, by the input's name."""
        try:
            for reference, _ in several(value):
                await self.find(key, reference, False, "image model")
        except VividCoverError as error:
            return {key: f"{error.message} {error.hint}".strip()}
        return {}

    async def _store(self, key: str, content: bytes, name: str, told: str, kind: media.Kind) -> None:
        """A file that came in the request becomes one of the caller's files, and its link stands in the input."""
        if not content:
            raise InputError("the file is empty (0 bytes).", "Send its content.")
        row = await uploads.keep(self.state, self.who, content, name, told)
        self.prepared.stored.append(str(row["id"]))
        link = self.links.file(row["id"])
        self.prepared.input[key] = link
        await self._take(link, str(row["sha256"]), str(row["name"]), kind)

    async def _own(self, value: str) -> RowMapping | None:
        """The row behind a link to this server, by whatever name the server was reached. None: it is another link."""
        if not value.startswith(("http://", "https://")):
            return None
        path = urlsplit(value).path if len(value) < 4096 else ""
        row = None
        if uploaded := OWN_FILE.search(path):
            row = await self._file(uploaded[1])
        elif (made := OWN_OUTPUT.search(path)) and signed(self.links.key, made[1], made[2]):
            row = await self._file(made[1], anybody=True)
        if row is None and value.startswith(f"{self.links.base}/"):
            raise LinkError(f"There is no file {value}, it has expired, or it is not yours.", "Upload it again.")
        return row

    async def _file(self, file_id: str, anybody: bool = False) -> RowMapping | None:
        query = select(files).where(
            files.c.id == file_id, or_(files.c.expires_at.is_(None), files.c.expires_at > now())
        )
        if not anybody:
            query = query.where(files.c.account_id == self.who.account_id)
        return await self.state.read(lambda db: db.execute(query).mappings().first())

    async def _trained(self, value: str, kind: media.Kind) -> None:
        """A trained model of this server, by its name. A name that nobody knows is left to the model itself."""
        try:
            reference = re.sub(r"/(?=[0-9a-f]{64}\Z)", ":", value)  # owner/name/version, as Replicate's models take it
            resolved = await self.state.read(lambda db: finetunes.trained(db, self.who, reference))
        except NotFoundError as error:
            raise InputError(error.message, error.hint) from None
        assert resolved.weights is not None
        await self._take(value, resolved.weights, resolved.weights_file or "model", kind)

    async def _take(self, value: str, sha256: str, name: str, kind: media.Kind) -> None:
        """Looks at an artifact and remembers that it is behind `value`."""
        try:
            path = await run_in_threadpool(self.state.artifacts.path, sha256)
            await run_in_threadpool(media.check, path, name, kind)
        except NotFoundError:
            raise InputError(f"{name} is no longer kept.", "Upload it again.") from None
        except VividCoverError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(error.message, error.hint) from None
        self.prepared.files[value] = {"sha256": sha256, "name": name}


def _bytes_of(numbers: list[Any]) -> bytes:
    try:
        return bytes(numbers)
    except (ValueError, TypeError):
        raise InputError("this Buffer holds what are no bytes.", "Upload the file instead.") from None


def _data_of(value: str, found: re.Match[str]) -> bytes:
    """The content of a data: link (RFC 2397). Raises `InputError`."""
    content = value[found.end() :]
    if ";base64" not in found[2].lower():
        return unquote_to_bytes(content)
    text = unquote_to_bytes(content) if "%" in content else content.encode(errors="replace")
    text = re.sub(rb"\s", b"", text).replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(f"the data: link is not base64: {error}.", "Upload the file instead.") from None
