"""The server: `create_app(settings)`; `uvicorn vividcover.server.app:from_environment --factory` runs it by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from vividcover import __version__
from vividcover.memory import steady
from vividcover.runs import registry
from vividcover.server import (
    about,
    bfl,
    collections,
    deployments,
    evolution,
    files,
    models,
    outputs,
    predictions,
    problems,
    search,
    streams,
    trainings,
    usage,
    webhooks,
)
from vividcover.server.desk import Desk
from vividcover.server.lean import Lean
from vividcover.server.public import signing_key
from vividcover.server.state import State
from vividcover.server.watch import Watch
from vividcover.server.writer import Writer
from vividcover.settings import Settings, settings
from vividcover.store import accounts, migrate
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database

DESCRIPTION = "Replicate's HTTP API, on your own machine. Official clients work with the base URL changed."
SEEN = ["Preference-Applied", "Retry-After", "ratelimit-remaining", "ratelimit-reset", "Content-Range", "ETag"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY", "OPTIONS"]


def from_environment() -> Lean:
    """What uvicorn starts."""
    lean = Lean(create_app(settings()))
    steady()
    return lean


def create_app(settings: Settings) -> FastAPI:
    """The application. Database and artifacts are opened when it starts, and closed when it ends."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state = open_state(settings)
        app.state.vividcover = state
        state.watch.start()
        state.desk.start()
        state.outgoing = webhooks.Outgoing(state)
        state.outgoing.start()
        try:
            yield
        finally:
            await asyncio.to_thread(state.outgoing.stop)
            state.desk.stop()
            await state.watch.stop()
            state.writer.close()
            state.database.close()

    app = FastAPI(
        title="vividcover", version=__version__, description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None,
        generate_unique_id_function=_operation, separate_input_output_schemas=False,
    )  # fmt: skip
    problems.install(app)
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=METHODS, allow_headers=["*"], expose_headers=SEEN,
        max_age=86_400,
    )  # fmt: skip
    for part in (
        predictions, trainings, files, outputs, streams, models, evolution, deployments, collections, search, usage,
        webhooks, bfl, about,
    ):  # fmt: skip
        app.include_router(part.router)
    return app


def open_state(settings: Settings) -> State:
    """The database, brought up to date; the catalog in it; the artifacts."""
    database = Database(settings.database_url)
    migrate.upgrade(database)
    registry.sync_catalog(database)
    accounts.first_account(database)
    return State(
        settings=settings, database=database, artifacts=Artifacts.of(settings), key=signing_key(database),
        writer=Writer(database), watch=Watch(database, settings.home),
        desk=Desk(settings.home),
    )  # fmt: skip


def _operation(route: APIRoute) -> str:
    """predictions.create: the name of an endpoint for those who make clients."""
    return f"{route.tags[0] if route.tags else 'server'}.{route.name}.{'_'.join(sorted(route.methods or ())).lower()}"
