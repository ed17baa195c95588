"""What work costs, in USD: a table, over which the operator's setting `prices` goes.

`second:WHAT` for a second of work and `output:WHAT` for a file that was made. WHAT is owner/name:variant (the input
`model`), owner/name, a device (`hosted` for work that another service does) or *; the first of these that is there
counts, and `output` before `second`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

PRICES: dict[str, float] = {
    "second:*": 0.001528,  # what the seed documents name for Replicate's training hardware
    "second:vividcover/hello": 0.0,
    "output:vividcover/flux-lora": 0.03,  # theirs for a picture of FLUX.1 [dev], which is the default: 0.03 to 0.05 …
    "output:vividcover/flux-lora:schnell": 0.003,  # … and of [schnell]: 0.003 to 0.005
}
Unit = Literal["output", "second"]
UNITS: tuple[Unit, ...] = ("output", "second")


def price(serves: str, input: Mapping[str, Any], device: str, own: Mapping[str, float]) -> tuple[Unit, float]:
    """(unit, USD each) of a catalog model; `own` are the operator's prices."""
    table = {**PRICES, **own}
    variants = [f"{serves}:{input['model']}"] if isinstance(input.get("model"), str) else []
    for unit in UNITS:
        for what in (*variants, serves, device, "*"):
            if f"{unit}:{what}" in table:
                return unit, table[f"{unit}:{what}"]
    return "second", 0.0
