"""/v1/deployments: names of the caller's own for a version."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy.engine import Connection, RowMapping
from starlette.responses import JSONResponse, Response

from vividcover.errors import NotFoundError
from vividcover.runs import registry
from vividcover.server import paging, shapes
from vividcover.server.auth import Reads, allowed
from vividcover.server.bodies import Body, documented, json_body
from vividcover.server.problems import Problem, invalid, not_found
from vividcover.server.state import Here, Linked, state_of
from vividcover.store.accounts import Principal
from vividcover.store.database import now
from vividcover.store.tables import accounts, deployments

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])
Few = Annotated[int, Field(ge=0, le=5)]
Some = Annotated[int, Field(ge=0, le=20)]


class NewDeployment(Body):
    """A deployment. Instances are kept for the record: a model's workers here are warm by themselves."""

    name: str
    model: str
    version: str
    hardware: Annotated[str, Field(max_length=32)]
    min_instances: Few
    max_instances: Some


class DeploymentChange(Body):
    """What is not given stays as it is."""

    version: str | None = None
    hardware: Annotated[str, Field(max_length=32)] | None = None
    min_instances: Few | None = None
    max_instances: Some | None = None


@router.get("")
async def list_all(request: Request, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """The account's deployments, newest first."""

    def ask(db: Connection) -> tuple[paging.Page, RowMapping]:
        query = sa.select(deployments).where(deployments.c.account_id == who.account_id)
        page = paging.page(db, query, deployments.c.created_at, deployments.c.name, paging.cursor_of(request))
        return page, _creator(db, who.account_id)

    page, creator = await here.read(ask)
    return page.body(request, links, [shapes.deployment(row, creator) for row in page.rows])


def _creator(db: Connection, account_id: str) -> RowMapping:
    return db.execute(sa.select(accounts).where(accounts.c.id == account_id)).mappings().one()


@router.post("", openapi_extra=documented(NewDeployment))
async def create(request: Request) -> JSONResponse:
    """Makes a deployment of a version, under the account's username."""
    state, who = state_of(request), await allowed(request, "write")
    body = await json_body(request, NewDeployment)
    if body.max_instances < body.min_instances:
        raise invalid({"max_instances": f"{body.max_instances} is less than min_instances, {body.min_instances}"})

    def change(db: Connection) -> dict[str, Any]:
        registry.check_name("name", body.name)
        version = _version(db, who, body.model, body.version)
        made = registry.insert_missing(db, deployments, {
            "owner": who.username, "name": body.name, "account_id": who.account_id, "model": version.model,
            "version": version.version, "hardware": body.hardware, "min_instances": body.min_instances,
            "max_instances": body.max_instances, "number": 1, "created_at": now(), "changed_at": now(),
        })  # fmt: skip
        if not made:
            raise Problem(409, f"There is a deployment {who.username}/{body.name} already. Change it, or delete it.")
        return shapes.deployment(_own(db, who, who.username, body.name), _creator(db, who.account_id))

    return JSONResponse(await state.write(change))


def _version(db: Connection, who: Principal, model: str, version: str) -> registry.Resolved:
    """Raises `Problem` 422 for a version that is not of the model, or that the caller may not use."""
    try:
        return registry.resolve(db, who, f"{model.partition(':')[0]}:{version.rpartition(':')[2]}")
    except NotFoundError as error:
        raise invalid({"version": error.message}) from None


def _own(db: Connection, who: Principal, owner: str, name: str) -> RowMapping:
    query = sa.select(deployments).where(
        deployments.c.owner == owner, deployments.c.name == name, deployments.c.account_id == who.account_id
    )
    row = db.execute(query).mappings().first()
    if row is None:
        raise not_found()
    return row


@router.get("/{owner}/{name}")
async def get(owner: str, name: str, who: Reads, here: Here) -> dict[str, Any]:
    """A deployment."""
    return await here.read(lambda db: shapes.deployment(_own(db, who, owner, name), _creator(db, who.account_id)))


@router.patch("/{owner}/{name}", openapi_extra=documented(DeploymentChange))
async def update(request: Request, owner: str, name: str) -> JSONResponse:
    """Changes a deployment: a new release of it."""
    state, who = state_of(request), await allowed(request, "write")
    body = await json_body(request, DeploymentChange)

    def change(db: Connection) -> dict[str, Any]:
        row = _own(db, who, owner, name)
        values = body.model_dump(exclude_none=True)
        if "version" in values:
            values["version"] = _version(db, who, row["model"], values["version"]).version
        after = {**row, **values}
        if after["max_instances"] < after["min_instances"]:
            raise invalid({"max_instances": f"{after['max_instances']} is less than min_instances"})
        db.execute(
            sa.update(deployments).where(deployments.c.owner == owner, deployments.c.name == name)
            .values(**values, number=row["number"] + 1, changed_at=now())
        )  # fmt: skip
        return shapes.deployment(_own(db, who, owner, name), _creator(db, who.account_id))

    return JSONResponse(await state.write(change))


@router.delete("/{owner}/{name}", status_code=204, response_class=Response)
async def delete(request: Request, owner: str, name: str) -> Response:
    """Removes a deployment. Its runs stay."""
    state, who = state_of(request), await allowed(request, "write")

    def change(db: Connection) -> None:
        _own(db, who, owner, name)
        db.execute(sa.delete(deployments).where(deployments.c.owner == owner, deployments.c.name == name))

    await state.write(change)
    return Response(status_code=204)
