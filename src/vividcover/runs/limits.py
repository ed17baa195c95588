"""How often a token may ask. A window that moves: never more than N in any 60 seconds, however the requests fall.

    limits = Limits(database)
    allowance = await limits.take(principal, settings, creates=True)

All servers before one database count together, in a row per token. A server does not ask the database each time: it
takes permits in slices, of one for who asks now and then, of more for who asks often, as many as the second before
showed and never more than a tenth of the limit. A slice is good for a second and counts from its end on; what is left
of it goes back with the next. So a token costs a write a second at most, or one per request.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from vividcover.errors import ThrottledError
from vividcover.runs.registry import insert_missing
from vividcover.settings import Settings
from vividcover.store.database import Database, now
from vividcover.store.tables import rates

if TYPE_CHECKING:
    from vividcover.store.accounts import Principal

WINDOW = 60.0  # seconds
SLICE = 1.0  # seconds for which a slice is good, and for which who was refused is refused without a look
SHARE = 10  # a slice is at most the limit by this
KNOWN = 10_000  # tokens whose slices are kept; of more, those that are over are forgotten


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a token's minute, for the headers of the answer."""

    limit: int
    remaining: int
    reset: float  # seconds until there is more again

    @property
    def headers(self) -> dict[str, str]:
        return {"ratelimit-remaining": str(self.remaining), "ratelimit-reset": str(math.ceil(self.reset))}


@dataclass(slots=True)
class Slice:
    """Permits of one token that this server holds. Times are of this process' clock, unless they are the database's."""

    size: int = 0
    left: int = 0
    until: float = 0.0  # when what is left of it is void
    counts_from: float = 0.0  # by the database's clock: under which it stands in the row
    beyond: int = 0  # permits of the minute that nobody has taken
    more_at: float = 0.0  # when the oldest of the minute's permits comes back
    refused: bool = False
    asking: threading.Lock = field(default_factory=threading.Lock)  # one thread asks the database, the others wait


class Limits:
    """Of one server. May be used from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slices: dict[str, Slice] = {}
        self._lock = threading.Lock()

    async def take(self, who: Principal, settings: Settings, *, creates: bool = False) -> Allowance | None:
        """Counts one request; None where there is no limit. Raises `ThrottledError`; its `headers` say when to return.

        A request that creates a run counts against `rate_per_minute` of the token or the setting `creates_per_minute`,
        any other against `reads_per_minute`.
        """
        limit = settings.reads_per_minute
        if creates:
            limit = settings.creates_per_minute if who.rate is None else who.rate
        if not limit:
            return None
        name = f"{'create' if creates else 'other'}:{who.token_id}"
        allowance = self._at_hand(name, limit)
        if allowance is None:
            from fastapi.concurrency import run_in_threadpool

            allowance = await run_in_threadpool(self._asked, name, limit)
        return allowance

    def take_now(self, name: str, limit: int) -> Allowance:
        """`take` by name, in the caller's thread. Raises `ThrottledError`."""
        return self._at_hand(name, limit) or self._asked(name, limit)

    def _at_hand(self, name: str, limit: int) -> Allowance | None:
        """Of the slice that is here; None when there is none. Raises `ThrottledError`."""
        clock = time.monotonic()
        with self._lock:
            held = self._slices.get(name)
            if held is None or clock >= held.until:
                return None
            if held.refused:
                raise _throttled(name, limit, held.more_at - clock)
            if not held.left:
                return None
            held.left -= 1
            return Allowance(limit, held.beyond + held.left, max(0.0, held.more_at - clock))

    def _asked(self, name: str, limit: int) -> Allowance:
        """With another slice, out of the database. Raises `ThrottledError`, `StorageError`."""
        with self._lock:
            if len(self._slices) > KNOWN:
                over = time.monotonic() - WINDOW
                self._slices = {key: one for key, one in self._slices.items() if one.until > over}
            held = self._slices.setdefault(name, Slice())
        while True:
            with held.asking:
                if (allowance := self._at_hand(name, limit)) is not None:  # another thread has asked meanwhile
                    return allowance
                self._refill(name, held, limit)
            if (allowance := self._at_hand(name, limit)) is not None:
                return allowance

    def _refill(self, name: str, held: Slice, limit: int) -> None:
        began = time.monotonic()
        with self._lock:
            spent, left, held.left = held.size - held.left, held.left, 0
            lively = began < held.until + SLICE
        wanted = 2 * spent if left == 0 and lively else spent if lively else 1
        size = min(max(1, wanted), max(1, limit // SHARE))
        with self._database.write() as db:
            insert_missing(db, rates, {"name": name, "taken": []})
            row = db.execute(select(rates.c.taken, now()).where(rates.c.name == name).with_for_update()).one()
            clock = float(row[1])
            taken = _live(row[0], clock)
            taken[held.counts_from] -= min(left, taken[held.counts_from])
            beyond = limit - taken.total()
            size = min(size, max(0, beyond))
            counts_from = clock + (SLICE if size > 1 else 0.0)
            taken[counts_from] += size  # SQLite's clock ticks in milliseconds: others may count from the same
            taken = +taken
            db.execute(update(rates).where(rates.c.name == name).values(taken=list(taken.items())))
        oldest = min(taken, default=clock)
        with self._lock:
            held.size = held.left = size
            held.counts_from, held.beyond = counts_from, max(0, beyond - size)
            held.more_at = began + max(0.0, oldest + WINDOW - clock)
            held.refused = not size
            held.until = began + SLICE if size else min(began + SLICE, held.more_at)


def _live(taken: Iterable[tuple[float, int]], clock: float) -> Counter[float]:
    """What counts now: the database's time from which it counts → how many."""
    return Counter({at: count for at, count in taken if at > clock - WINDOW})


def _throttled(name: str, limit: int, seconds: float) -> ThrottledError:
    wait = max(1, math.ceil(seconds))
    return ThrottledError(
        f"Request was throttled. Your rate limit resets in ~{wait}s.",
        f"This token may {'create' if name.startswith('create') else 'ask'} {limit} times a minute.",
        {"Retry-After": str(wait), "ratelimit-remaining": "0", "ratelimit-reset": str(wait)},
    )
