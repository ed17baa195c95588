"""JSON between our own processes and to clients, fast: orjson, and the standard library for what orjson cannot say."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

LONG = re.compile(rb"\d{19}")  # of what may be an integer of more than 64 bits orjson would make a float


def encode(value: Any) -> bytes:
    """JSON in UTF-8. What is no JSON is told by its `str`; NaN becomes null."""
    try:
        return orjson.dumps(value, default=str)
    except TypeError:  # an integer of more than 64 bits, half of a letter (a lone surrogate)
        return json.dumps(value, default=str).encode()


def decode(data: bytes) -> Any:
    """What `encode` has made. Raises `ValueError`."""
    if not LONG.search(data):
        try:
            return orjson.loads(data)
        except ValueError:  # half of a letter; or it is no JSON at all, which the other one says too
            pass
    return json.loads(data)
