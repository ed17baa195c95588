"""How a model goes on, beyond what Replicate's API has: which version runs, what changed, what it can do, what is made
of it.

    POST …/promote {"version"}      it runs when none is asked for; {"version": null}: the newest again
    POST …/rollback                 the version before the one that runs now
    PUT  …/traffic {"versions"}     a comparison: calls without a version are drawn by these shares
    GET  …/traffic                  runs, failures and seconds of each version, to judge them by
    GET  …/changelog                PATCH …/versions/{id} {"changelog"} writes an entry
    POST …/examples {"prediction"}  shows a run to whoever may see the model
    POST …/versions/{id}/fork       trains anew by a version's recipe, with changes
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import JSONResponse, Response

from vividcover.errors import NotFoundError, ParameterError
from vividcover.runs import registry
from vividcover.server import model_shapes, runs, shapes, trainings
from vividcover.server.auth import Reads, Writes, allowed
from vividcover.server.bodies import Body, documented, json_body
from vividcover.server.models import Short, Words, is_example, own, version_of
from vividcover.server.problems import not_found
from vividcover.server.state import Here, Linked, state_of
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.tables import examples, files, models, versions
from vividcover.store.tables import runs as runs_table

router = APIRouter(prefix="/v1/models/{owner}/{name}", tags=["models"])
MOST_SHARES = 10
Reference = Annotated[str, StringConstraints(max_length=200)]


class Promotion(Body):
    """Which version is to run."""

    version: Reference | None = None
    """Its id, or the beginning of it; null: always the newest."""


class Traffic(Body):
    """A comparison of versions."""

    versions: dict[str, float] = Field(default_factory=dict)
    """Version id → its share of the calls that name no version. Empty: the comparison is over."""


class VersionChange(Body):
    """What is told of a version."""

    changelog: Words
    """What changed in it."""


class NewExample(Body):
    """A run to show."""

    prediction: Short
    """Its id."""
    default: bool = False
    """Show it first: as the model's default_example."""


class Fork(Body):
    """A training by the recipe of another version."""

    destination: Short
    """owner/name of the model that gets the new version."""
    input: dict[str, Any] = Field(default_factory=dict)
    """What is to be different: inputs of the trainer."""
    version: Reference = ""
    """Another version of the trainer."""
    changelog: Annotated[Words, StringConstraints(max_length=2000)] = ""
    """What changed; without it, what the recipe was."""
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None


# --- which version runs -------------------------------------------------------------------------------------------


@router.post("/promote", openapi_extra=documented(Promotion))
async def promote(request: Request, owner: str, name: str, who: Writes, here: Here, links: Linked) -> dict[str, Any]:
    """Makes a version the one that runs when none is asked for, also of models that get newer ones later."""
    body = await json_body(request, Promotion)

    def change(db: Connection) -> dict[str, Any]:
        row = own(db, who, owner, name)
        chosen = version_of(db, who, owner, name, body.version)[1]["id"] if body.version else None
        return _run(db, who, row, chosen, links)

    return await here.write(change)


@router.post("/rollback")
async def rollback(owner: str, name: str, who: Writes, here: Here, links: Linked) -> dict[str, Any]:
    """Promotes the version before the one that runs now."""

    def change(db: Connection) -> dict[str, Any]:
        row = own(db, who, owner, name)
        at = registry.current(db, row["id"])
        older = (
            sa.select(versions.c.id)
            .where(versions.c.model_id == row["id"], versions.c.deleted_at.is_(None))
            .where(versions.c.number < (at["number"] if at else 0))
            .order_by(versions.c.number.desc())
        )
        before = db.scalar(older.limit(1))
        if before is None:
            raise ParameterError(f"{owner}/{name} has no version before the one that runs.", "Promote one by its id.")
        return _run(db, who, row, before, links)

    return await here.write(change)


def _run(db: Connection, who: Principal, row: RowMapping, version: str | None, links: Linked) -> dict[str, Any]:
    db.execute(sa.update(models).where(models.c.id == row["id"]).values(pinned_version=version, traffic=None))
    return model_shapes.one(db, registry.visible(db, who, row["owner"], row["name"]), links, who)


@router.put("/traffic", openapi_extra=documented(Traffic))
async def share(request: Request, owner: str, name: str, who: Writes, here: Here) -> dict[str, Any]:
    """Calls that name no version are drawn among these."""
    body = await json_body(request, Traffic)
    wrong = [share for share in body.versions.values() if not (math.isfinite(share) and 0 < share <= 1e6)]
    if wrong or len(body.versions) > MOST_SHARES:
        raise ParameterError("versions: shares are numbers above 0, of at most 10 versions.", "As {id: 0.9, id: 0.1}.")

    def change(db: Connection) -> dict[str, Any]:
        row = own(db, who, owner, name)
        shares = {version_of(db, who, owner, name, key)[1]["id"]: share for key, share in body.versions.items()}
        db.execute(sa.update(models).where(models.c.id == row["id"]).values(traffic=shares or None))
        return _compared(db, row, shares, who)

    return await here.write(change)


@router.get("/traffic")
async def shares(owner: str, name: str, who: Reads, here: Here) -> dict[str, Any]:
    """How the versions do, of the caller's own runs."""

    def ask(db: Connection) -> dict[str, Any]:
        row = registry.visible(db, who, owner, name)
        return _compared(db, row, row["traffic"] or {}, who)

    return await here.read(ask)


def _compared(db: Connection, row: RowMapping, shares: dict[str, float], who: Principal) -> dict[str, Any]:
    c = runs_table.c
    ok = sa.func.sum(sa.case((c.status == "succeeded", 1), else_=0))
    failed = sa.func.sum(sa.case((c.status == "failed", 1), else_=0))
    seconds = sa.func.avg(sa.case((c.status == "succeeded", c.completed_at - c.started_at)))
    query = (
        sa.select(c.version, sa.func.count().label("runs"), ok.label("ok"), failed.label("bad"), seconds.label("mean"))
        .where(c.model == f"{row['owner']}/{row['name']}", c.kind == "prediction")
        .group_by(c.version)
    )
    if row["account_id"] != who.account_id:
        query = query.where(c.account_id == who.account_id)
    seen = {one["version"]: one for one in db.execute(query).mappings()}
    total = sum(shares.values()) or 1.0
    listed = {
        id: {
            "share": round(shares.get(id, 0.0) / total, 6), "runs": seen[id]["runs"] if id in seen else 0,
            "succeeded": seen[id]["ok"] if id in seen else 0, "failed": seen[id]["bad"] if id in seen else 0,
            **({"mean_seconds": round(seen[id]["mean"], 3)} if id in seen and seen[id]["mean"] is not None else {}),
        }
        for id in dict.fromkeys([*shares, *seen])
    }  # fmt: skip
    return {"versions": listed}


# --- what changed -------------------------------------------------------------------------------------------------


@router.get("/changelog")
async def changelog(owner: str, name: str, who: Reads, here: Here) -> dict[str, Any]:
    """What is told of each version, newest first."""

    def ask(db: Connection) -> dict[str, Any]:
        row = registry.visible(db, who, owner, name)
        at = registry.current(db, row["id"])
        query = sa.select(versions).where(versions.c.model_id == row["id"], versions.c.deleted_at.is_(None))
        told = [
            {
                "version": one["id"], "number": one["number"], "created_at": shapes.time(one["created_at"]),
                "changelog": one["changelog"], "promoted": bool(at and at["id"] == one["id"]),
            }
            for one in db.execute(query.order_by(versions.c.number.desc())).mappings()
        ]  # fmt: skip
        return {"results": told}

    return await here.read(ask)


@router.patch("/versions/{version:path}", openapi_extra=documented(VersionChange))
async def describe(request: Request, owner: str, name: str, version: str, who: Writes, here: Here) -> dict[str, Any]:
    """Writes a version's entry in the changelog."""
    body = await json_body(request, VersionChange)

    def change(db: Connection) -> dict[str, Any]:
        own(db, who, owner, name)
        _, found = version_of(db, who, owner, name, version)
        changed = sa.update(versions).where(versions.c.id == found["id"]).values(changelog=body.changelog)
        return model_shapes.version(db.execute(changed.returning(versions)).mappings().one(), own=True)

    return await here.write(change)


# --- what it can do -----------------------------------------------------------------------------------------------


@router.post("/examples", status_code=201, openapi_extra=documented(NewExample))
async def show(request: Request, owner: str, name: str, who: Writes, here: Here, links: Linked) -> dict[str, Any]:
    """Shows a finished run of the model, with its files, to whoever may see the model."""
    body = await json_body(request, NewExample)

    def change(db: Connection) -> dict[str, Any]:
        row = own(db, who, owner, name)
        query = sa.select(runs_table).where(runs_table.c.id == body.prediction)
        run = db.execute(query).mappings().first()
        if run is None or run["account_id"] != who.account_id:
            raise not_found()
        if run["status"] != "succeeded" or run["data_removed"] or run["model"] != f"{owner}/{name}":
            raise ParameterError(
                f"{run['id']} is not a finished run of {owner}/{name}.", "Give one that succeeded and is still kept."
            )
        registry.insert_missing(db, examples, {"model_id": row["id"], "run_id": run["id"], "created_at": now()})
        db.execute(sa.update(files).where(files.c.run_id == run["id"]).values(expires_at=None))
        if body.default or row["default_example"] is None:
            db.execute(sa.update(models).where(models.c.id == row["id"]).values(default_example=run["id"]))
        return shapes.run(dict(run), links, logs="")

    return await here.write(change)


@router.delete("/examples/{run_id}", status_code=204, response_class=Response)
async def hide(owner: str, name: str, run_id: str, who: Writes, here: Here) -> Response:
    """The run itself stays."""

    def change(db: Connection) -> None:
        row = own(db, who, owner, name)
        if not is_example(db, row["id"], run_id):
            raise not_found()
        db.execute(sa.delete(examples).where(examples.c.model_id == row["id"], examples.c.run_id == run_id))
        if row["default_example"] == run_id:
            oldest = sa.select(examples.c.run_id).where(examples.c.model_id == row["id"])
            following = db.scalar(oldest.order_by(examples.c.created_at).limit(1))
            db.execute(sa.update(models).where(models.c.id == row["id"]).values(default_example=following))

    await here.write(change)
    return Response(status_code=204)


# --- what is made of it -------------------------------------------------------------------------------------------


@router.post("/versions/{version:path}/fork", status_code=201, openapi_extra=documented(Fork))
async def fork(request: Request, owner: str, name: str, version: str) -> JSONResponse:
    """Trains anew as a version was trained, with changes. What it learnt from is taken only for its owner: photos of
    a person were given for one model, so whoever forks another's brings their own.
    """
    state, who = state_of(request), await allowed(request, "train", creates=True)
    body = await json_body(request, Fork)

    def ask(db: Connection) -> tuple[RowMapping, RowMapping, registry.Resolved, RowMapping | None]:
        row, found = version_of(db, who, owner, name, version)
        if not found["trainer"]:
            raise NotFoundError(f"{owner}/{name} was not trained here: it has no recipe.", "Fork a trained version.")
        trainer = str(found["trainer"])
        if body.version:
            trainer = f"{trainer.partition(':')[0]}:{body.version}"
        query = sa.select(runs_table).where(runs_table.c.id == found["trained_by"])
        return row, found, registry.resolve(db, who, trainer), db.execute(query).mappings().first()

    row, found, trainer, trained = await state.read(ask)
    recipe = dict(found["training_input"] or {})
    known: dict[str, Any] = {}
    if trained is not None and trained["account_id"] == who.account_id:
        known = dict(trained["files"])
    else:
        schema = runs.model_of(trainer.serves).TrainingInput
        recipe = {key: value for key, value in recipe.items() if schema and not _is_file(schema, key)}
    story = body.changelog or f"Forked from {row['owner']}/{row['name']}:{found['id']}" + (
        f", with other {', '.join(sorted(body.input)[:12])}." if body.input else "."
    )
    asked = trainings.TrainingBody(
        destination=body.destination, input={**recipe, **body.input}, webhook=body.webhook,
        webhook_events_filter=body.webhook_events_filter,
    )  # fmt: skip
    return await runs.create(
        request, state, who, trainer, asked, destination=body.destination.strip(), note=story, known=known
    )


def _is_file(schema: Any, key: str) -> bool:
    from vividcover.catalog.contract import takes_file

    return key in schema.model_fields and takes_file(schema.model_fields[key])
