"""JSON bodies, read leniently: unknown keys are ignored, the content type does not matter, mistakes are named."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from vividcover.server.problems import Problem, invalid

MAX_BODY = 128 << 20  # bytes; larger files are uploaded, or linked


class Body(BaseModel):
    """Base of the requests' bodies."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), use_attribute_docstrings=True)


B = TypeVar("B", bound=Body)


async def raw(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises `Problem` 413 before it is larger than `limit` bytes."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The request is larger than {limit >> 20} MB. Upload the file, or give a link to it.")


async def json_body(request: Request, kind: type[B]) -> B:
    """The body as `kind`. Raises `Problem` 400 for what is no JSON, 422 with every field that is wrong, 413."""
    data = await raw(request)
    try:
        value = json.loads(data or b"{}")
        json.dumps(value, allow_nan=False) if b"NaN" in data or b"Infinity" in data else None
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The request's body is not JSON: {error}.") from None
    if b"\\u0000" in data and _has_nul(value):
        raise Problem(422, "The request has a NUL character in a text, which no text needs.")
    if not isinstance(value, dict):
        raise Problem(422, "The request's body is not a JSON object.", "Input validation failed")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid({".".join(map(str, e["loc"])) or "body": _why(e) for e in error.errors()}) from None


def _why(error: Any) -> str:
    return "is required" if error["type"] == "missing" else str(error["msg"]).removeprefix("Value error, ")


def _has_nul(value: Any) -> bool:
    """Whether a text in it has a NUL, which Postgres cannot keep."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_has_nul(k) or _has_nul(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def documented(kind: type[Body], media: str = "application/json") -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that reads its body by `json_body`."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {media: {"schema": schema}}}}
