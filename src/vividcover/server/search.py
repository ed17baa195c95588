"""/v1/search: models and collections by their words."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy.engine import Connection

from vividcover.server import collections, model_shapes, models
from vividcover.server.auth import Reads
from vividcover.server.problems import Problem
from vividcover.server.state import Here, Linked

router = APIRouter(prefix="/v1", tags=["search"])
MOST, USUAL = 50, 20


@router.get("/search")
async def search(who: Reads, here: Here, links: Linked, query: str = "", limit: str = "") -> dict[str, Any]:
    """Models that the caller may see, the best match first, and collections."""
    if not query.strip():
        raise Problem(400, "query is required: the words to look for.")
    if limit and not (limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MOST):
        raise Problem(400, f"limit={limit[:20]!r} is not a number from 1 to {MOST}.")

    def ask(db: Connection) -> dict[str, Any]:
        found = models.search(db, who, query, int(limit or USUAL))
        shown = model_shapes.several(db, [row for row, _ in found], links, who)
        scored = [
            {"model": model, "metadata": {"score": score, "tags": []}}
            for model, (_, score) in zip(shown, found, strict=True)
        ]
        return {"query": query, "models": scored, "collections": collections.found(query), "pages": []}

    return await here.read(ask)
