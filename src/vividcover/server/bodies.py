"""JSON bodies, read leniently: unknown keys are ignored, the content type does not matter, mistakes are named."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect

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
    parts, size, more = [], 0, True
    while more:  # as Request.stream does, with less in between
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > limit:
            raise _too_large(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The request is larger than {limit >> 20} MB. Upload the file, or give a link to it.")


async def json_body(request: Request, kind: type[B]) -> B:
    """The body as `kind`. Raises `Problem` 400 for what is no JSON, 422 with every field that is wrong, 413."""
    data = await raw(request)
    try:
        value = loads(data or b"{}")
    except ValueError as error:
        raise Problem(400, f"The request's body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Problem(422, "The request's body is not a JSON object.", "Input validation failed")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid({".".join(map(str, e["loc"])) or "body": _why(e) for e in error.errors()}) from None


def loads(data: bytes | str) -> Any:
    """JSON that can be kept and sent on. Raises `ValueError`, also for NaN, 1e999, NUL and nesting without end."""
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        value = DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if ("\\u" if isinstance(data, str) else b"\\u") in data and _unfit(value):  # type: ignore[operator]
        raise ValueError("a text in it has a NUL, or half of a letter (a lone surrogate)")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def _why(error: Any) -> str:
    return "is required" if error["type"] == "missing" else str(error["msg"]).removeprefix("Value error, ")


def _unfit(value: Any) -> bool:
    """Whether a text in it cannot be kept: Postgres takes no NUL, and UTF-8 no half of a letter."""
    if isinstance(value, str):
        return "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, dict):
        return any(_unfit(k) or _unfit(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_unfit, value))


def documented(kind: type[Body], media: str = "application/json") -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that reads its body by `json_body`."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {media: {"schema": schema}}}}
