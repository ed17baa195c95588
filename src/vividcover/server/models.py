"""Models and their versions over HTTP: list, search, make, change, delete. What is ours alone is in `evolution.py`."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import AfterValidator, StringConstraints
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vividcover.errors import ForbiddenError, NotFoundError, ParameterError
from vividcover.runs import registry
from vividcover.server import model_shapes, shapes
from vividcover.server.auth import Reads, Writes
from vividcover.server.bodies import Body, documented, json_body, raw
from vividcover.server.paging import cursor_of, page
from vividcover.server.problems import Problem, not_found
from vividcover.server.state import Here, Linked
from vividcover.store.accounts import Principal
from vividcover.store.tables import deployments, examples, models, runs, versions

router = APIRouter(tags=["models"])
MODELS = 25  # models to a page: each comes with its schema


def _text(text: str) -> str:
    """The bodies' reader has refused NUL; a lone half of a letter is no text either, and a database refuses it."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("has half of a letter in it")
    return text


Words = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(_text)]
Short = Annotated[str, StringConstraints(max_length=200), AfterValidator(_text)]
Address = Annotated[
    str, StringConstraints(max_length=2000, pattern=r"^(https?://[^\s]+)?$"), AfterValidator(_text)
]  # fmt: skip


class NewModel(Body):
    owner: Short
    name: Short
    visibility: Literal["public", "private"] = "private"
    hardware: Annotated[Short, StringConstraints(max_length=32)] | None = None  # some clients leave it out
    description: Words | None = None
    github_url: Address | None = None
    paper_url: Address | None = None
    license_url: Address | None = None
    cover_image_url: Address | None = None


class ModelChange(Body):
    description: Words | None = None
    readme: Words | None = None
    github_url: Address | None = None
    paper_url: Address | None = None
    license_url: Address | None = None
    weights_url: Address | None = None
    cover_image_url: Address | None = None
    visibility: Literal["public", "private"] | None = None
    hardware: Annotated[Short, StringConstraints(max_length=32)] | None = None
    default_example: Short | None = None  # id of one of the model's examples


# --- models -------------------------------------------------------------------------------------------------------


@router.get("/v1/models")
async def list_models(
    request: Request, who: Reads, here: Here, links: Linked,
    sort_by: Literal["model_created_at", "latest_version_created_at"] = "latest_version_created_at",
    sort_direction: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:  # fmt: skip
    """Public models and the account's own."""
    cursor = cursor_of(request)

    def ask(db: Connection) -> dict[str, Any]:
        newest = (
            sa.select(sa.func.max(versions.c.created_at))
            .where(versions.c.model_id == models.c.id, versions.c.deleted_at.is_(None))
            .scalar_subquery()
        )
        at = models.c.created_at if sort_by == "model_created_at" else sa.func.coalesce(newest, models.c.created_at)
        listed = sa.select(models, at.label("at")).where(registry.may_see(who)).subquery()
        got = page(
            db, sa.select(listed), listed.c["at"], listed.c.id, cursor, MODELS, newest_first=sort_direction == "desc"
        )
        return got.body(request, links, model_shapes.several(db, got.rows, links, who))

    return await here.read(ask)


@router.post("/v1/models", status_code=201, openapi_extra=documented(NewModel))
async def create_model(request: Request, who: Writes, here: Here, links: Linked) -> dict[str, Any]:
    body = await json_body(request, NewModel)

    def change(db: Connection) -> dict[str, Any]:
        told = body.model_dump(exclude={"owner", "name", "visibility"})
        row = registry.create_model(db, who, body.owner, body.name, body.visibility, **told)
        return model_shapes.one(db, row, links, who)

    return await here.write(change)


@router.api_route("/v1/models", methods=["QUERY"], include_in_schema=False)
async def query_models(request: Request, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """Search. The text comes bare, or as a JSON string, whatever the content type says."""
    text = await search_text(request)

    def ask(db: Connection) -> dict[str, Any]:
        found = [row for row, _ in search(db, who, text)]
        return {"next": None, "previous": None, "results": model_shapes.several(db, found, links, who)}

    return await here.read(ask)


async def search_text(request: Request) -> str:
    text = (await raw(request, 10_000)).decode(errors="replace").strip()
    if text.startswith('"'):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text))
    return text.strip('"')


def search(db: Connection, who: Principal, text: str, limit: int = MODELS) -> list[tuple[RowMapping, float]]:
    """Models that the caller may see in which every word occurs, with a score 0..1, best first."""
    words = [word for word in text.replace("\x00", " ").lower().split() if word.strip("/")][:12]
    triggers = (
        sa.select(sa.func.max(versions.c.trigger_word))
        .where(versions.c.model_id == models.c.id, versions.c.weights.is_not(None), versions.c.deleted_at.is_(None))
        .scalar_subquery()
    )
    columns = {
        "name": models.c.owner + "/" + models.c.name, "trigger": sa.func.coalesce(triggers, ""),
        "description": sa.func.coalesce(models.c.description, ""), "readme": sa.func.coalesce(models.c.readme, ""),
    }  # fmt: skip
    query = sa.select(models, *[column.label(f"in_{key}") for key, column in columns.items()]).where(
        registry.may_see(who)
    )
    for word in words:
        query = query.where(
            sa.or_(*[sa.func.lower(column).contains(word, autoescape=True) for column in columns.values()])
        )
    rows = db.execute(query.order_by(models.c.created_at.desc()).limit(1000)).mappings().all()
    scored = [(row, _score(row, words)) for row in rows]
    return sorted(scored, key=lambda pair: -pair[1])[:limit]


WEIGHTS = {"in_name": 1.0, "in_trigger": 0.9, "in_description": 0.6, "in_readme": 0.3}


def _score(row: RowMapping, words: list[str]) -> float:
    best = [max((w for key, w in WEIGHTS.items() if word in row[key].lower()), default=0.0) for word in words]
    return round(sum(best) / len(best), 3) if best else 0.0


@router.get("/v1/models/{owner}/{name}")
async def get_model(owner: str, name: str, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    return await here.read(lambda db: model_shapes.one(db, registry.visible(db, who, owner, name), links, who))


@router.patch("/v1/models/{owner}/{name}", openapi_extra=documented(ModelChange))
async def update_model(
    request: Request, owner: str, name: str, who: Writes, here: Here, links: Linked
) -> dict[str, Any]:
    body = await json_body(request, ModelChange)

    def change(db: Connection) -> dict[str, Any]:
        row = own(db, who, owner, name)
        values = {k: v for k, v in body.model_dump(exclude_unset=True).items() if v is not None}
        shown = values.get("default_example")
        if shown and not is_example(db, row["id"], shown):
            raise ParameterError(
                f"default_example={shown!r} is not one of {owner}/{name}'s examples.", "POST it to …/examples first."
            )
        if values:
            db.execute(sa.update(models).where(models.c.id == row["id"]).values(**values))
        return model_shapes.one(db, registry.visible(db, who, owner, name), links, who)

    return await here.write(change)


@router.delete("/v1/models/{owner}/{name}", status_code=204, response_class=Response)
async def delete_model(owner: str, name: str, who: Writes, here: Here) -> Response:
    """The model with its versions. Its runs and their files stay."""

    def change(db: Connection) -> None:
        row = own(db, who, owner, name)
        if row["account_id"] is None:
            raise ForbiddenError(f"{owner}/{name} ships with the program.", "It cannot be deleted.")
        _not_deployed(db, deployments.c.model == f"{owner}/{name}", f"{owner}/{name}")
        query = sa.select(versions).where(versions.c.model_id == row["id"], versions.c.deleted_at.is_(None))
        for version in db.execute(query).mappings().all():
            registry.delete_version(db, version)
        db.execute(sa.delete(examples).where(examples.c.model_id == row["id"]))
        db.execute(sa.delete(versions).where(versions.c.model_id == row["id"]))
        db.execute(sa.delete(models).where(models.c.id == row["id"]))

    await here.write(change)
    return Response(status_code=204)


def _not_deployed(db: Connection, which: sa.ColumnElement[bool], what: str) -> None:
    row = db.execute(sa.select(deployments.c.owner, deployments.c.name).where(which)).mappings().first()
    if row is not None:
        raise Problem(409, f"{what} is used by the deployment {row['owner']}/{row['name']}. Delete that first.")


def own(db: Connection, who: Principal, owner: str, name: str) -> RowMapping:
    """A model that the caller may change. Raises `NotFoundError`, `ForbiddenError`."""
    row = registry.visible(db, who, owner, name)
    if row["account_id"] != who.account_id and not (row["account_id"] is None and who.admin):
        raise ForbiddenError(
            f"{owner}/{name} belongs to another account.", "Only its owner changes it; fork it into a model of yours."
        )
    return row


def is_example(db: Connection, model_id: str, run_id: str) -> bool:
    query = sa.select(examples.c.run_id).where(examples.c.model_id == model_id, examples.c.run_id == run_id)
    return db.scalar(query) is not None


# --- what belongs to a model --------------------------------------------------------------------------------------


@router.get("/v1/models/{owner}/{name}/readme", response_class=PlainTextResponse)
async def get_readme(owner: str, name: str, who: Reads, here: Here) -> Response:
    row = await here.read(lambda db: registry.visible(db, who, owner, name))
    if not row["readme"]:
        raise not_found(f"{owner}/{name} has no readme.")
    return PlainTextResponse(row["readme"])


@router.get("/v1/models/{owner}/{name}/examples")
async def list_examples(
    request: Request, owner: str, name: str, who: Reads, here: Here, links: Linked
) -> dict[str, Any]:
    """Runs that the owner shows to whoever may see the model."""
    cursor = cursor_of(request)

    def ask(db: Connection) -> dict[str, Any]:
        row = registry.visible(db, who, owner, name)
        query = (
            sa.select(runs)
            .join(examples, examples.c.run_id == runs.c.id)
            .where(examples.c.model_id == row["id"], runs.c.status == "succeeded", runs.c.data_removed.is_(False))
        )
        got = page(db, query, runs.c.created_at, runs.c.id, cursor, MODELS)
        return got.body(request, links, [shapes.run(dict(run), links, logs="") for run in got.rows])

    return await here.read(ask)


@router.get("/v1/models/{owner}/{name}/versions")
async def list_versions(
    request: Request, owner: str, name: str, who: Reads, here: Here, links: Linked
) -> dict[str, Any]:
    """Newest first."""
    cursor = cursor_of(request)

    def ask(db: Connection) -> dict[str, Any]:
        row = registry.visible(db, who, owner, name)
        current = registry.current(db, row["id"])
        query = sa.select(versions).where(versions.c.model_id == row["id"], versions.c.deleted_at.is_(None))
        got = page(db, query, sa.type_coerce(versions.c.number, sa.Double).label("number"), versions.c.id, cursor)
        mine = row["account_id"] == who.account_id
        shown = [
            model_shapes.version(one, own=mine, promoted=bool(current and current["id"] == one["id"]))
            for one in got.rows
        ]
        return got.body(request, links, shown)

    return await here.read(ask)


@router.get("/v1/models/{owner}/{name}/versions/{version:path}")
async def get_version(owner: str, name: str, version: str, who: Reads, here: Here) -> dict[str, Any]:
    """The version may come as its id, as the beginning of it, and as `owner/name:id` (some clients make that)."""

    def ask(db: Connection) -> dict[str, Any]:
        row, found = version_of(db, who, owner, name, version)
        current = registry.current(db, row["id"])
        promoted = bool(current and current["id"] == found["id"])
        return model_shapes.version(found, own=row["account_id"] == who.account_id, promoted=promoted)

    return await here.read(ask)


def version_of(db: Connection, who: Principal, owner: str, name: str, version: str) -> tuple[RowMapping, RowMapping]:
    """(model, version). Raises `NotFoundError`."""
    row = registry.visible(db, who, owner, name)
    id = version.rpartition(":")[2]
    if id not in registry.NEWEST and not registry.VERSION.fullmatch(id) and not registry.BEGINNING.fullmatch(id):
        raise NotFoundError(f"{owner}/{name} has no version {version[:100]!r}.", registry.HINT)
    found = registry.resolve(db, who, f"{owner}/{name}:{id}")
    query = sa.select(versions).where(versions.c.id == found.version)
    return row, db.execute(query).mappings().one()


@router.delete("/v1/models/{owner}/{name}/versions/{version:path}", status_code=202)
async def delete_version(owner: str, name: str, version: str, who: Writes, here: Here) -> JSONResponse:
    """What it learnt is not kept; a model that promoted it goes back to its newest."""

    def change(db: Connection) -> None:
        row = own(db, who, owner, name)
        if row["account_id"] is None:
            raise ForbiddenError(f"{owner}/{name} ships with the program.", "Its versions cannot be deleted.")
        _, found = version_of(db, who, owner, name, version)
        _not_deployed(db, deployments.c.version == found["id"], f"Version {found['id']}")
        registry.delete_version(db, found)

    await here.write(change)
    return JSONResponse({}, 202)
