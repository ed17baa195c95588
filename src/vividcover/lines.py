"""JSON between our own processes and to clients, fast: orjson, and the standard library for what orjson cannot say."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode(value: Any) -> bytes:
    """JSON in UTF-8. What is no JSON is told by its `str`; NaN becomes null."""
    try:
        return orjson.dumps(value, default=str)
    except TypeError:  # an integer of more than 64 bits, half of a letter (a lone surrogate)
        return json.dumps(value, default=str).encode()


def decode(data: bytes) -> Any:
    """What `encode` has made; an integer of more than 64 bits may have become a float. Raises `ValueError`."""
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)
