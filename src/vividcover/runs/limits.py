"""How often a token may ask. A window that moves: never more than N in any 60 seconds, however the requests fall.

Counted in the memory of the server's process. Several servers before one database count each for themselves.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vividcover.errors import ThrottledError
from vividcover.settings import Settings

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter

    from vividcover.store.accounts import Principal


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a token's minute, for the headers of the answer."""

    limit: int
    remaining: int
    reset: float  # seconds until there is more again

    @property
    def headers(self) -> dict[str, str]:
        return {"ratelimit-remaining": str(self.remaining), "ratelimit-reset": str(math.ceil(self.reset))}


_lock = threading.Lock()  # the library looks and writes in two steps; and of the limiter there must be one


def take(principal: Principal, settings: Settings, *, creates: bool = False) -> Allowance | None:
    """Counts one request; None where there is no limit. Raises `ThrottledError`, whose `headers` say when to return.

    A request that creates a run counts against `rate_per_minute` of the token or the setting `creates_per_minute`,
    any other against `reads_per_minute`.
    """
    limit = (settings.creates_per_minute if principal.rate is None else principal.rate) if creates else (
        settings.reads_per_minute
    )  # fmt: skip
    if not limit:
        return None
    from limits import RateLimitItemPerMinute

    item, name = RateLimitItemPerMinute(limit), ("create" if creates else "other", principal.token_id)
    with _lock:
        limiter = _limiter()
        granted = limiter.hit(item, *name)
        window = limiter.get_window_stats(item, *name)
    left = max(0.0, window.reset_time - time.time())
    if granted:
        return Allowance(limit, window.remaining, left)
    wait = max(1, math.ceil(left))
    raise ThrottledError(
        f"Request was throttled. Your rate limit resets in ~{wait}s.",
        f"This token may {'create' if creates else 'ask'} {limit} times a minute.",
        {"Retry-After": str(wait), "ratelimit-remaining": "0", "ratelimit-reset": str(wait)},
    )


@lru_cache
def _limiter() -> MovingWindowRateLimiter:
    from limits.storage import MemoryStorage
    from limits.strategies import MovingWindowRateLimiter

    return MovingWindowRateLimiter(MemoryStorage())
