"""Memory that was freed goes back to the system.

glibc keeps freed arrays of up to 32 MB for the next one, in an arena per thread; where something small lives on above
them they stay for good, and a process ends up several times as large as what it holds.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache


def give_back() -> None:
    """Hands every free page back, within a few milliseconds. Other systems' allocators do so by themselves."""
    if (trim := _trim()) is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    return trim
