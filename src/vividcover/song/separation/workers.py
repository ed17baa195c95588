"""Looks at the cancel flag on the way."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], None]  # raises Canceled when the work is not wanted any more
