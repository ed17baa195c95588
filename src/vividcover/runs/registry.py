"""Which models and versions there are, who may see them, and what a reference in a request leads to.

    sync_catalog(database)                                   # at start: rows for everything that ships
    with database.read() as db: resolve(db, principal, "me/my-model:latest").version
    with database.write() as db: add_trained_version(db, run, sha256, "trained_model.tar", details)

A reference is a 64-hex version id, `owner/name`, `owner/name:id`, `owner/name:latest`, the beginning of a model's
version id (8 letters or more), or what clients make of a training's output, `owner/name:owner/name:id`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from vividcover.catalog.contract import Model
from vividcover.catalog.pins import PINS
from vividcover.cover import models as catalog
from vividcover.errors import NotFoundError, ParameterError
from vividcover.runs.states import redacted
from vividcover.store.database import Database, now
from vividcover.store.ids import new_id
from vividcover.store.tables import deployments, files, models, owners, versions

if TYPE_CHECKING:
    from vividcover.store.accounts import Principal

VERSION = re.compile(r"[0-9a-f]{64}")
BEGINNING = re.compile(r"[0-9a-f]{8,63}")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
NEWEST = ("", "latest")
HINT = "GET /v1/models lists the models, GET /v1/models/OWNER/NAME/versions a model's versions."


@dataclass(frozen=True, slots=True)
class Resolved:
    """A version that the caller may run."""

    model: str  # owner/name as shown
    model_id: str
    account_id: str | None  # whose the model is; None: it ships with the program
    version: str  # 64 hex
    serves: str  # the catalog model that does it
    weights: str | None  # sha256 of the trained model
    weights_file: str | None
    trigger_word: str | None
    deployment: str | None = None


def insert_missing(db: Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Inserts a row unless one with its key is there. True: it was inserted."""
    dialect = postgresql if db.dialect.name == "postgresql" else sqlite
    made = dialect.insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return db.execute(made).first() is not None  # a driver does not always count the rows of an insert


# --- what ships ---------------------------------------------------------------------------------------------------


def version_ids(model: Model) -> tuple[str, ...]:
    """The ids of a shipped model's versions, oldest first: pinned ones, or one made from its inputs."""
    if model.name in PINS:
        return PINS[model.name]
    shapes = [schema.model_json_schema() for schema in (model.Input, model.TrainingInput) if schema]
    text = json.dumps([model.name, model.output, shapes], sort_keys=True)
    return (hashlib.sha256(text.encode()).hexdigest(),)


def sync_catalog(database: Database) -> None:
    """Rows for everything that ships. Ids that an older release gave are kept and still run."""
    with database.write() as db:
        for model in catalog().values():
            owner, name = model.name.split("/")
            insert_missing(db, owners, {"name": owner, "account_id": None})
            told = {"description": model.description, "readme": readme_of(model), "visibility": "public"}
            insert_missing(db, models, {
                "id": new_id(), "owner": owner, "name": name, "account_id": None, "hardware": "cpu", "run_count": 0,
                "created_at": now(), **told,
            })  # fmt: skip
            row = find(db, owner, name)
            assert row is not None
            if any(row[key] != value for key, value in told.items()):
                db.execute(sa.update(models).where(models.c.id == row["id"]).values(**told))
            for version in version_ids(model):
                known = db.scalar(sa.select(versions.c.id).where(versions.c.id == version))
                if known is None:
                    insert_missing(db, versions, {
                        "id": version, "model_id": row["id"], "number": _next_number(db, row["id"]),
                        "serves": model.name, "changelog": "", "created_at": now(),
                    })  # fmt: skip


def readme_of(model: Model) -> str:
    """What a shipped model's page says, in Markdown."""
    lines = [f"# {model.name}", "", model.description]
    for title, schema in (("Training", model.TrainingInput), ("Inputs", model.Input)):
        if schema:
            lines += ["", f"## {title}", ""]
            lines += [f"- `{name}`: {info.description or ''}" for name, info in schema.model_fields.items()]
    for engine, ignored in model.ignores.items():
        lines += ["", f"## What the {engine} engine cannot follow", ""]
        lines += [f"- `{name}`: {why}" for name, why in ignored.items()]
    return "\n".join(lines) + "\n"


# --- looking up ---------------------------------------------------------------------------------------------------


def may_see(principal: Principal) -> sa.ColumnElement[bool]:
    """Public models and the account's own."""
    return sa.or_(models.c.visibility == "public", models.c.account_id == principal.account_id)


def find(db: Connection, owner: str, name: str) -> RowMapping | None:
    """A model's row, whoever asks."""
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
        return None
    query = sa.select(models).where(models.c.owner == owner, models.c.name == name)
    return db.execute(query).mappings().first()


def visible(db: Connection, principal: Principal, owner: str, name: str) -> RowMapping:
    """A model's row. Raises `NotFoundError`, the same for one that is not there and one that is not shown."""
    row = find(db, owner, name)
    if row is None or (row["visibility"] != "public" and row["account_id"] != principal.account_id):
        raise NotFoundError(f"There is no model {owner}/{name}, or you may not see it.", HINT)
    return row


def parse(reference: str) -> tuple[str, str, str]:
    """(owner, name, version) of a reference; empty where it does not say. Raises `NotFoundError`."""
    text = reference.strip()
    if VERSION.fullmatch(text):
        return "", "", text
    where, _, version = text.partition(":")
    owner, slash, name = where.partition("/")
    version = version.rpartition(":")[2]
    if not slash or not NAME.fullmatch(owner) or not NAME.fullmatch(name) or "/" in version:
        raise NotFoundError(f"There is no version {reference!r}, or you may not use it.", HINT)
    return owner, name, version


def resolve(db: Connection, principal: Principal, reference: str) -> Resolved:
    """The version behind a reference. Without one: as `current` says. Raises `NotFoundError`."""
    owner, name, version = parse(reference)
    chosen = _COLUMNS.where(versions.c.deleted_at.is_(None), may_see(principal))
    if owner:
        chosen = chosen.where(models.c.owner == owner, models.c.name == name)
    if VERSION.fullmatch(version):
        rows = db.execute(chosen.where(versions.c.id == version)).mappings().all()
    elif BEGINNING.fullmatch(version):
        rows = db.execute(chosen.where(versions.c.id.startswith(version)).limit(2)).mappings().all()
    elif version in NEWEST:
        rows = db.execute(chosen.order_by(*CURRENT_FIRST).limit(1)).mappings().all()
        if rows and rows[0]["traffic"]:
            drawn = draw(rows[0]["traffic"])
            rows = db.execute(chosen.where(versions.c.id == drawn)).mappings().all() or rows
    else:
        rows = []
    if len(rows) != 1:
        raise NotFoundError(_why_not(db, principal, reference, owner, name, version, len(rows)), HINT)
    return _resolved(rows[0])


_COLUMNS = sa.select(
    versions.c.id, versions.c.serves, versions.c.weights, versions.c.weights_file, versions.c.trigger_word,
    versions.c.model_id, models.c.owner, models.c.name, models.c.account_id, models.c.traffic,
).join(models, models.c.id == versions.c.model_id)  # fmt: skip
# the promoted version, else the newest
CURRENT_FIRST = (sa.case((versions.c.id == models.c.pinned_version, 0), else_=1), versions.c.number.desc())


def draw(traffic: Mapping[str, float]) -> str:
    """One of the versions that share a model's calls, by their shares."""
    return random.choices(list(traffic), list(traffic.values()))[0]


def _resolved(row: RowMapping, deployment: str | None = None) -> Resolved:
    return Resolved(
        model=f"{row['owner']}/{row['name']}", model_id=row["model_id"], account_id=row["account_id"],
        version=row["id"], serves=row["serves"], weights=row["weights"], weights_file=row["weights_file"],
        trigger_word=row["trigger_word"], deployment=deployment,
    )  # fmt: skip


def _why_not(
    db: Connection, principal: Principal, reference: str, owner: str, name: str, version: str, found: int
) -> str:
    if found > 1:
        return f"{reference!r} is the beginning of more than one version id; give more of it."
    if owner:
        model = visible(db, principal, owner, name)  # says so when the model itself is not there
        if version in NEWEST:
            return f"{model['owner']}/{model['name']} has no version yet: train one into it first."
    return f"There is no version {reference!r}, or you may not use it."


def resolve_deployment(db: Connection, principal: Principal, owner: str, name: str) -> Resolved:
    """The version that a deployment of the caller runs. Raises `NotFoundError`."""
    row = db.execute(
        sa.select(deployments).where(
            deployments.c.owner == owner, deployments.c.name == name, deployments.c.account_id == principal.account_id
        )
    ).mappings().first()  # fmt: skip
    if row is None:
        raise NotFoundError(f"There is no deployment {owner}/{name}.", "GET /v1/deployments lists yours.")
    found = db.execute(_COLUMNS.where(versions.c.id == row["version"], versions.c.deleted_at.is_(None))).mappings()
    version = found.first()
    if version is None:
        raise NotFoundError(
            f"{owner}/{name}: its version {row['version']} is gone.", "PATCH the deployment with another version."
        )
    return _resolved(version, f"{owner}/{name}")


def current(db: Connection, model_id: str) -> RowMapping | None:
    """The row of the version that runs when none is asked for: the promoted one, else the newest."""
    query = (
        sa.select(versions).join(models, models.c.id == versions.c.model_id)
        .where(versions.c.model_id == model_id, versions.c.deleted_at.is_(None)).order_by(*CURRENT_FIRST).limit(1)
    )  # fmt: skip
    return db.execute(query).mappings().first()


# --- adding -------------------------------------------------------------------------------------------------------


def check_name(what: str, name: str) -> str:
    """The name. Raises `ParameterError` for one that could not stand in an address."""
    if not NAME.fullmatch(name):
        raise ParameterError(
            f"{what}={name!r} cannot be a name.", "Use 1 to 64 letters, digits, '.', '_' or '-', no sign at the ends."
        )
    return name


def create_model(
    db: Connection, principal: Principal, owner: str, name: str, visibility: str = "private", **told: str | None
) -> RowMapping:
    """A new model without versions. Its owner's name is claimed by the first account that uses it.

    Raises `ParameterError` when there is one of that name, or a name cannot be one.
    """
    from vividcover.store.accounts import claim_owner

    check_name("owner", owner)
    check_name("name", name)
    if visibility not in ("public", "private"):
        raise ParameterError(f"visibility={visibility!r} is neither public nor private.", "Give one of them.")
    claim_owner(db, principal, owner)
    made = insert_missing(db, models, {
        "id": new_id(), "owner": owner, "name": name, "account_id": principal.account_id, "visibility": visibility,
        "run_count": 0, "created_at": now(), "hardware": told.pop("hardware", None) or "cpu",
        **{k: v for k, v in told.items() if v is not None},
    })  # fmt: skip
    if not made:
        raise ParameterError(f"A model with that name and owner already exists: {owner}/{name}.", "Take another name.")
    row = find(db, owner, name)
    assert row is not None
    return row


def destination(db: Connection, principal: Principal, reference: str) -> RowMapping:
    """The model that a training is to make a version of; made, privately, when it is not there yet.

    Raises `ParameterError` for what is no `owner/name`, and as `claim_owner` does for somebody else's.
    """
    from vividcover.store.accounts import claim_owner

    owner, slash, name = reference.strip().partition("/")
    if not slash or "/" in name or ":" in name:
        raise ParameterError(f"destination={reference!r} is not owner/name.", 'For example "me/my-model".')
    row = find(db, owner, name)
    if row is None:
        return create_model(db, principal, owner, name)
    claim_owner(db, principal, owner)
    if row["account_id"] != principal.account_id:
        raise NotFoundError("The specified training destination does not exist.", "Give a model of your own.")
    return row


def add_trained_version(
    db: Connection, run: Mapping[str, Any], sha256: str, file_name: str, details: Mapping[str, Any]
) -> str:
    """The version that a finished training makes of its destination; the same run makes the same one again.

    `details`: engine, dataset (sha256), licence, trigger_word, as far as known; the rest is in the run's row.
    """
    version = trained_id(run["id"], sha256)
    if db.scalar(sa.select(versions.c.id).where(versions.c.id == version)) is not None:
        return version
    owner, _, name = str(run["destination"]).partition("/")
    row = find(db, owner, name)
    if row is None:  # it was deleted while the training ran: what was learnt is not thrown away
        insert_missing(db, models, {
            "id": new_id(), "owner": owner, "name": name, "account_id": run["account_id"], "visibility": "private",
            "hardware": "cpu", "run_count": 0, "created_at": now(),
        })  # fmt: skip
        row = find(db, owner, name)
        assert row is not None
    trainer = catalog()[run["serves"]]
    db.execute(sa.insert(versions).values(
        id=version, model_id=row["id"], number=_next_number(db, row["id"]), serves=trainer.trains or trainer.name,
        weights=sha256, weights_file=file_name, engine=details.get("engine") or run["engine"], trained_by=run["id"],
        trainer=f"{run['model']}:{run['version']}", training_input=_without_secrets(run["input"]),
        dataset=details.get("dataset") or _dataset(trainer, run), licence=details.get("licence"),
        trigger_word=details.get("trigger_word") or _trigger_word(trainer, run["input"]),
        consent=run["consent"] or None, changelog=run["note"] or "", created_at=now(),
    ))  # fmt: skip
    return version


def delete_version(db: Connection, row: RowMapping) -> None:
    """The version no longer runs, and what it learnt is not kept; runs that were made with it stay.

    A model that promoted it goes back to its newest.
    """
    model = db.execute(sa.select(models).where(models.c.id == row["model_id"])).mappings().one()
    db.execute(sa.update(versions).where(versions.c.id == row["id"]).values(deleted_at=now(), weights=None))
    if row["trained_by"] and row["weights"]:
        db.execute(sa.delete(files).where(files.c.run_id == row["trained_by"], files.c.sha256 == row["weights"]))
    shares = {id: share for id, share in (model["traffic"] or {}).items() if id != row["id"]}
    pinned = None if model["pinned_version"] == row["id"] else model["pinned_version"]
    db.execute(
        sa.update(models).where(models.c.id == model["id"]).values(traffic=shares or None, pinned_version=pinned)
    )


def trained_id(run_id: str, sha256: str) -> str:
    return hashlib.sha256(f"{run_id}:{sha256}".encode()).hexdigest()


def _next_number(db: Connection, model_id: str) -> int:
    highest = db.scalar(sa.select(sa.func.max(versions.c.number)).where(versions.c.model_id == model_id))
    return (highest or 0) + 1


def _without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """A training's input as it may be shown: tokens of other services are left out."""
    hidden = redacted(values)
    return {key: value for key, value in values.items() if hidden[key] == value}


def _dataset(trainer: Model, run: Mapping[str, Any]) -> str | None:
    """The hash of the file that a training got."""
    for name in (trainer.TrainingInput or trainer.Input).model_fields:
        given = run["input"].get(name)
        if isinstance(given, str) and given in run["files"]:
            return str(run["files"][given]["sha256"])
    return None


def _trigger_word(trainer: Model, values: Mapping[str, Any]) -> str | None:
    field = trainer.TrainingInput.model_fields.get("trigger_word") if trainer.TrainingInput else None
    if field is None:
        return None
    return str(values.get("trigger_word") or field.default)[:64]
