"""Blocks through child processes, packed so that a child needs nothing but Python until its own module is loaded.

A child's reading thread unpickles while its main thread still imports; arrays would make both import numpy at once,
which Python answers with a deadlock error. So an item travels as bytes and is unpacked by the function's own thread.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from vividcover.processes import map_in_children
from vividcover.workspace import Reporter


def in_children(function: str, items: Iterable[Any], threads: int, reporter: Reporter) -> Iterator[Any]:
    """As `map_in_children`: yields `function(item)` in order; `function` is "package.module:name"."""
    packed = ((function, pickle.dumps(item, protocol=5)) for item in items)
    return map_in_children(f"{__name__}:call", packed, workers=max(1, threads), reporter=reporter)


def call(packed: tuple[str, bytes]) -> Any:
    """In a child: unpacks and calls."""
    module, _, name = packed[0].partition(":")
    return getattr(importlib.import_module(module), name)(pickle.loads(packed[1]))
