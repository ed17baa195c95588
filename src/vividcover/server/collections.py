"""Collections: the catalog by what it is for, and the gallery of public fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from sqlalchemy.engine import Connection

from vividcover.runs import registry
from vividcover.server import model_shapes
from vividcover.server.auth import Reads
from vividcover.server.problems import not_found
from vividcover.server.state import Here, Linked
from vividcover.store.tables import models, versions

router = APIRouter(prefix="/v1/collections", tags=["collections"])
MOST = 200  # models in one answer


@dataclass(frozen=True, slots=True)
class Collection:
    """`models`: names of the catalog; none: the public models that somebody trained."""

    slug: str
    name: str
    description: str
    models: tuple[str, ...] = ()


COLLECTIONS = (
    Collection("flux-fine-tunes", "FLUX fine-tunes", "Image models that were trained here and are public."),
    Collection(
        "image-trainers", "Train an image model", "From photos of a person, or pictures in a style.",
        ("replicate/fast-flux-trainer", "ostris/flux-dev-lora-trainer", "black-forest-labs/flux-pro-trainer"),
    ),
    Collection(
        "pictures-of-a-person", "Pictures from a trained model", "A prompt in, pictures of the person out.",
        ("vividcover/flux-lora", "black-forest-labs/flux-pro-finetuned",
         "black-forest-labs/flux-1.1-pro-ultra-finetuned"),
    ),
    Collection(
        "voice", "Train and use a voice", "From recordings to a song in that voice.",
        ("zsxkib/create-rvc-dataset", "replicate/train-rvc-model", "zsxkib/realistic-voice-cloning"),
    ),
    Collection(
        "covers", "Sing a song", "Everything together: a video of a person who sings.",
        ("vividcover/cover", "zsxkib/sonic"),
    ),
)  # fmt: skip


def _shown(collection: Collection) -> dict[str, Any]:
    return {"name": collection.name, "slug": collection.slug, "description": collection.description}


def found(text: str) -> list[dict[str, Any]]:
    """The collections in which every word occurs, with the names of their models."""
    words = text.lower().split()
    return [
        _shown(one) | {"models": list(one.models)}
        for one in COLLECTIONS
        if all(word in f"{one.name} {one.slug} {one.description} {' '.join(one.models)}".lower() for word in words)
    ]


@router.get("")
async def list_collections(who: Reads) -> dict[str, Any]:
    return {"next": None, "previous": None, "results": [_shown(one) for one in COLLECTIONS]}


@router.get("/{slug}")
async def get_collection(slug: str, who: Reads, here: Here, links: Linked) -> dict[str, Any]:
    """With its models, the most used first."""
    collection = next((one for one in COLLECTIONS if one.slug == slug), None)
    if collection is None:
        raise not_found(f"There is no collection {slug[:80]!r}.")

    def ask(db: Connection) -> dict[str, Any]:
        query = sa.select(models).where(registry.may_see(who), models.c.visibility == "public")
        if collection.models:
            query = query.where((models.c.owner + "/" + models.c.name).in_(collection.models))
        else:
            trained = sa.select(versions.c.model_id).where(
                versions.c.weights.is_not(None), versions.c.deleted_at.is_(None)
            )
            query = query.where(models.c.account_id.is_not(None), models.c.id.in_(trained))
        rows = db.execute(query.order_by(models.c.run_count.desc(), models.c.created_at).limit(MOST)).mappings().all()
        return _shown(collection) | {
            "full_description": collection.description, "models": model_shapes.several(db, rows, links, who)
        }  # fmt: skip

    return await here.read(ask)
