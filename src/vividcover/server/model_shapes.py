"""Models and versions as the API shows them. What is not known is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vividcover.runs import registry
from vividcover.runs.states import redacted
from vividcover.server import shapes
from vividcover.server.public import Links
from vividcover.server.schema import openapi_schema
from vividcover.store.accounts import Principal
from vividcover.store.tables import models, runs, versions

COG_VERSION = "0.23.1"  # clients take outputs of models before 0.3.9 for something else
TOLD = ("description", "github_url", "paper_url", "license_url", "weights_url", "cover_image_url")


def version(row: RowMapping, *, own: bool = False, promoted: bool | None = None) -> dict[str, Any]:
    """A version; `vividcover` says where it comes from. `own`: also what its trainer stated about consent."""
    story = {
        "number": row["number"], "trained_by": row["trained_by"], "trainer": row["trainer"], "engine": row["engine"],
        "training_input": redacted(row["training_input"]) if row["training_input"] else None,
        "dataset_sha256": row["dataset"], "trigger_word": row["trigger_word"], "licence": row["licence"],
        "consent": row["consent"] if own else None, "changelog": row["changelog"] or None,
        "weights_sha256": row["weights"], "serves": row["serves"], "promoted": promoted,
    }  # fmt: skip
    return {
        "id": row["id"], "created_at": shapes.time(row["created_at"]), "cog_version": COG_VERSION,
        "openapi_schema": openapi_schema(row["serves"]),
        "vividcover": {key: value for key, value in story.items() if value is not None},
    }  # fmt: skip


def several(db: Connection, rows: Sequence[RowMapping], links: Links, who: Principal) -> list[dict[str, Any]]:
    """Models with their current versions and default examples: three queries, however many they are."""
    if not rows:
        return []
    current = currents(db, [row["id"] for row in rows])
    wanted = {row["default_example"] for row in rows if row["default_example"]}
    shown = db.execute(sa.select(runs).where(runs.c.id.in_(wanted))).mappings() if wanted else ()
    examples = {run["id"]: shapes.run(dict(run), links, logs="") for run in shown if run["status"] == "succeeded"}
    return [_model(row, current.get(row["id"]), examples, links, who) for row in rows]


def one(db: Connection, row: RowMapping, links: Links, who: Principal) -> dict[str, Any]:
    return several(db, [row], links, who)[0]


def _model(
    row: RowMapping, current: RowMapping | None, examples: Mapping[str, dict[str, Any]],
    links: Links, who: Principal,
) -> dict[str, Any]:  # fmt: skip
    name = f"{row['owner']}/{row['name']}"
    body: dict[str, Any] = {
        "url": f"{links.base}/{name}", "owner": row["owner"], "name": row["name"], "visibility": row["visibility"],
        "run_count": row["run_count"], "is_official": row["account_id"] is None,
    }  # fmt: skip
    body |= {key: row[key] for key in TOLD if row[key] is not None}
    if row["default_example"] in examples:
        body["default_example"] = examples[row["default_example"]]
    if current is not None:
        own = row["account_id"] == who.account_id
        body["latest_version"] = version(current, own=own, promoted=True)
    return body


def currents(db: Connection, model_ids: Sequence[str]) -> dict[str, RowMapping]:
    """Model id → the version that runs when none is asked for."""
    place = sa.func.row_number().over(partition_by=versions.c.model_id, order_by=registry.CURRENT_FIRST).label("place")
    ranked = (
        sa.select(versions, place)
        .join(models, models.c.id == versions.c.model_id)
        .where(versions.c.model_id.in_(model_ids), versions.c.deleted_at.is_(None))
        .subquery()
    )
    rows = db.execute(sa.select(ranked).where(ranked.c.place == 1)).mappings()
    return {row["model_id"]: row for row in rows}
