"""The LoRA that somebody names: on the shelf, in a file, behind a link, or on a page of a site for LoRAs.

worn = lora("vivi", context)                              # also a path, a link, huggingface.co/owner/name, …
path = lora_file(worn, context)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from vividcover.catalog import shelf
from vividcover.catalog.contract import Context
from vividcover.errors import ParameterError
from vividcover.workspace import Stage

OWN = re.compile(r"[\w.-]+/[\w.-]+([:/]\w+)?")  # owner/name, or a version of it
LONGEST = 300  # characters of a reference in a record; a data: link is longer


def lora(reference: str, context: Context, hub: str = "", civitai: str = "") -> shelf.Trained:
    """The trained model behind a name, a path, a link, or a page of Hugging Face, Civitai or Replicate.

    `hub`, `civitai`: the caller's own tokens there.
    """
    if not _elsewhere(reference, context):
        trained = shelf.take("image", reference, context)
        # a server's own are called as their callers call them: the file of each has the same name
        return replace(trained, name=reference) if context.resolve and OWN.fullmatch(reference) else trained
    path = context.used(reference[:LONGEST], reference[:LONGEST], brought(reference, context, hub, civitai))
    return shelf.taken("image", path, context)


def engine_of(reference: str | None, context: Context) -> tuple[str, str] | None:
    """(engine, why) of what a reference names, without fetching it; None where that is not known."""
    if not reference:
        return None
    if _elsewhere(reference, context) or reference.partition("?")[0].endswith(".safetensors"):
        return "neural", f"{reference[:LONGEST]} is a LoRA, which the neural engine reads"
    return shelf.engine_of("image", reference, context)


def _elsewhere(reference: str, context: Context) -> bool:
    """Whether it names a LoRA by its page on another site, which tells where the file is."""
    from vividcover.image.flux import sources
    from vividcover.song.fetch import is_link

    if context.resolve and context.resolve(reference):
        return False
    if reference.startswith("data:"):
        return True
    if is_link(reference):
        return sources.plan(reference, allow=context.settings.private_endpoints).site != "the web"
    here = not context.resolve and Path(reference).expanduser().exists()
    return not here and ("/" in reference or reference.startswith("urn:"))


def brought(reference: str, context: Context, hub: str = "", civitai: str = "") -> Path:
    """The file behind such a name, fetched once."""
    from vividcover.image.flux import sources
    from vividcover.song.fetch import FetchLimits

    place = context.settings
    served = context.resolve is not None
    if served:
        reference = public(reference)
    # a stranger's reference is not looked up with the operator's tokens
    ours = ("", "", "") if served else (place.hf_token, place.civitai_token, place.replicate_token)
    limits = FetchLimits(place.max_download_bytes, place.max_song_seconds, place.download_timeout)
    tokens = sources.Tokens(hub or ours[0], civitai or ours[1], ours[2])
    # what one token may read is not in the cache for others
    who = hashlib.sha256(f"{tokens.hub}\n{tokens.civitai}\n{tokens.replicate}".encode()).hexdigest()

    def compute(stage: Stage) -> None:
        found = sources.bring(
            reference, stage.folder, tokens=tokens, reporter=stage, allow=place.private_endpoints, limits=limits
        )
        stage.meta["file"] = found.name

    done = context.stage(
        "image/fetch", version=1, inputs={}, params={"reference": reference, "who": who}, compute=compute
    )
    return done.path(done.meta["file"])


def public(reference: str) -> str:
    """A reference as one that leads to no file of this machine's. Raises `ParameterError`."""
    from vividcover.image.flux import sources
    from vividcover.song.fetch import is_link

    if is_link(reference) or reference.startswith("data:") or sources.AIR.fullmatch(reference):
        return reference
    if sources.SITE.match(reference):
        return f"https://{reference}"
    if sources.NAME.fullmatch(reference):
        return f"https://{sources.HUB}/{reference}"
    raise ParameterError(f"{reference[:LONGEST]!r} names no LoRA.", sources.WAYS)


def lora_file(trained: shelf.Trained, context: Context) -> Path:
    """The LoRA's file behind a trained image: itself, or what is inside one that was trained on the hosted engine."""
    from vividcover.catalog import remote

    engine = trained.card.get("engine")
    if engine == "classic":
        raise ParameterError(
            f"The image {trained.name!r} was trained by the classic engine: it has no LoRA.",
            "Use --engine classic, or train it with --engine neural.",
        )
    return remote.unwrapped(trained, context) if engine == "hosted" else trained.path
