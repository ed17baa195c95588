"""Memory that was freed goes back to the system.

glibc keeps freed arrays of up to 32 MB for the next one, in an arena per thread; where something small lives on above
them they stay for good, and a process ends up several times as large as what it holds.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import lru_cache

LARGE = 16 << 20  # bytes from which an array has pages of its own, which go back the moment it is freed
ARENAS = 2
YOUNG = 20_000  # objects, after which those are looked through
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # glibc's malloc.h


@lru_cache(maxsize=1)
def settle() -> None:
    """Has this process's allocator keep little, and the same in every run; glibc alone. Once, before the work."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None and _trim() is not None:  # musl's mallopt is there and does nothing
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_ARENA_MAX, ARENAS)


def steady() -> None:
    """For a process that serves for long: what is here now stays, and is not looked through for cycles any more."""
    gc.freeze()
    gc.set_threshold(YOUNG)


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
