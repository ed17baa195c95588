"""Fine-tunes: trained image models by an id, as BFL's API and `flux-pro-finetuned` name them.

A fine-tune is the view of a training: its version lies in a private model of the account. A prediction of a trainer
that gives an id back (`flux-pro-trainer`) ends as a fine-tune too.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vividcover.errors import NotFoundError
from vividcover.runs import registry
from vividcover.runs.registry import Resolved
from vividcover.store.database import now
from vividcover.store.tables import accounts, finetunes, runs, versions

if TYPE_CHECKING:
    from vividcover.store.accounts import Principal

ID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
RUN = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
SPACE = uuid.UUID("5d1d5c0e-6c5e-4f0a-9a57-3b1f2f2f9c11")  # of the ids that are made from a run's
TOLD = (
    "finetune_comment", "trigger_word", "mode", "iterations", "training_steps", "learning_rate", "captioning",
    "priority", "finetune_type", "lora_rank",
)  # fmt: skip


def id_of(run_id: str) -> str:
    """The fine-tune that a run makes: the same each time it is asked."""
    return str(uuid.uuid5(SPACE, run_id))


def home_of(username: str, finetune_id: str) -> str:
    """The model whose version a fine-tune is: owner/name."""
    return f"{username}/finetune-{finetune_id[:8]}"


def add(
    db: Connection, account_id: str, run_id: str, model: str, details: Mapping[str, Any], finetune_id: str = ""
) -> str:
    """A fine-tune of a training run; its id. The same run makes the same one again."""
    finetune_id = finetune_id or id_of(run_id)
    registry.insert_missing(db, finetunes, {
        "id": finetune_id, "account_id": account_id, "run_id": run_id, "model": model,
        "details": {key: details[key] for key in TOLD if details.get(key) is not None}, "created_at": now(),
    })  # fmt: skip
    return finetune_id


def finished(db: Connection, run: Mapping[str, Any], sha256: str, file_name: str, details: Mapping[str, Any]) -> str:
    """A prediction has trained a model: it becomes a version of a private model, and a fine-tune; the id."""
    finetune_id = id_of(run["id"])
    username = db.scalar(sa.select(accounts.c.username).where(accounts.c.id == run["account_id"]))
    home = home_of(str(username), finetune_id)
    registry.add_trained_version(db, {**run, "destination": home}, sha256, file_name, details)
    return add(db, run["account_id"], run["id"], home, run["input"])


def get(db: Connection, principal: Principal, finetune_id: str) -> RowMapping:
    """One of the account's own. Raises `NotFoundError`."""
    query = sa.select(finetunes).where(
        finetunes.c.id == finetune_id.lower(), finetunes.c.account_id == principal.account_id,
        finetunes.c.deleted_at.is_(None),
    )  # fmt: skip
    row = db.execute(query).mappings().first() if ID.fullmatch(finetune_id) else None
    if row is None:
        raise NotFoundError(f"There is no finetune {finetune_id[:80]!r}.", "GET /bfl/v1/my_finetunes lists yours.")
    return row


def listed(db: Connection, principal: Principal) -> list[RowMapping]:
    """The account's own, newest first."""
    query = sa.select(finetunes).where(finetunes.c.account_id == principal.account_id, finetunes.c.deleted_at.is_(None))
    return list(db.execute(query.order_by(finetunes.c.created_at.desc(), finetunes.c.id)).mappings())


def delete(db: Connection, principal: Principal, finetune_id: str) -> RowMapping:
    """The fine-tune and its version are gone; the row as it was. Raises `NotFoundError`."""
    row = get(db, principal, finetune_id)
    db.execute(sa.update(finetunes).where(finetunes.c.id == row["id"]).values(deleted_at=now()))
    query = sa.select(versions).where(versions.c.trained_by == row["run_id"], versions.c.deleted_at.is_(None))
    for version in db.execute(query).mappings().all():
        registry.delete_version(db, version)
    return row


def trained(db: Connection, principal: Principal, reference: str) -> Resolved:
    """The trained model that a `finetune_id` means: a fine-tune, a training's id, or a version as `resolve` takes it.

    Raises `NotFoundError`, also for one that is still being trained.
    """
    run_id = None
    if ID.fullmatch(reference):
        run_id = get(db, principal, reference)["run_id"]
    elif RUN.fullmatch(reference):
        run_id = reference
    elif "/" not in reference and not registry.VERSION.fullmatch(reference):
        raise NotFoundError(f"There is no finetune {reference[:80]!r}.", "Give the id that a training of yours gave.")
    if run_id is None:
        found = registry.resolve(db, principal, reference)
    else:
        version = db.scalar(
            sa.select(versions.c.id).where(versions.c.trained_by == run_id, versions.c.deleted_at.is_(None))
        )
        if version is None:
            raise NotFoundError(f"{reference!r} {_state(db, principal, run_id)}.", "Wait for its training to succeed.")
        found = registry.resolve(db, principal, version)
    if found.weights is None:
        raise NotFoundError(f"{reference!r} is not a trained model.", "Give the id that a training of yours gave.")
    return found


def _state(db: Connection, principal: Principal, run_id: str) -> str:
    status = db.scalar(sa.select(runs.c.status).where(runs.c.id == run_id, runs.c.account_id == principal.account_id))
    return f"is no finished training (it is {status})" if status else "is not a finetune of yours"
