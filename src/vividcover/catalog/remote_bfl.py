"""FLUX [pro] on BFL's own API, or on a server that speaks it: a stage here is one order there.

The fine-tune stays there; what is kept here is its id. So `finetune_id` is BFL's own, not a name on our shelf.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vividcover.catalog.contract import Context
from vividcover.hosted import bfl
from vividcover.hosted.remote import Answer, Memory
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult, canonical

CAPTIONING = {"automatic": True, "captioning-enabled": True, "captioning-disabled": False}


def finetuned(input: Any, photos: Path, context: Context) -> StageResult:
    """A fine-tune; `meta["hosted"]["trained"]` is its id."""
    values = {
        "finetune_comment": input.finetune_comment or f"vividcover {input.trigger_word}", "mode": input.mode,
        "trigger_word": input.trigger_word, "iterations": input.iterations or input.training_steps,
        "learning_rate": input.learning_rate, "captioning": CAPTIONING[input.captioning], "priority": input.priority,
        "finetune_type": input.finetune_type, "lora_rank": input.lora_rank,
    }  # fmt: skip
    return _ordered(
        "finetune", {k: v for k, v in values.items() if v is not None}, {"photos": photos}, context,
        lambda site, folder, given, memory, stage: bfl.finetune(photos, given, site, memory=memory, reporter=stage),
    )  # fmt: skip


def pictured(endpoint: str, values: Mapping[str, Any], files: Mapping[str, Path], context: Context) -> StageResult:
    """A picture. `endpoint`: "flux-pro-finetuned", … `files` are sent as base64 under their names."""

    def order(site: bfl.Site, folder: Path, given: Mapping[str, Any], memory: Memory, stage: Stage) -> Answer:
        sent = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
        return bfl.picture(endpoint, {**given, **sent}, site, folder, memory=memory, reporter=stage)

    return _ordered(endpoint, values, files, context, order)


def site_of(settings: Settings) -> bfl.Site:
    return bfl.Site(settings.bfl_key, settings.bfl_url, settings.max_download_bytes)


def _ordered(
    endpoint: str, values: Mapping[str, Any], files: Mapping[str, Path], context: Context,
    order: Callable[[bfl.Site, Path, Mapping[str, Any], Memory, Stage], Answer],
) -> StageResult:  # fmt: skip
    story = {"endpoint": endpoint, "input": dict(values), "site": context.settings.bfl_url}
    hashes = {name: context.workspace.hash_of(path) for name, path in files.items()}
    ticket = hashlib.sha256(canonical(story | {"files": hashes}).encode()).hexdigest()
    memory = Memory(context.workspace.root / "hosted" / f"{ticket}.json")

    def compute(stage: Stage) -> None:
        stage.meta.update(order(site_of(context.settings), stage.folder, values, memory, stage).story())

    return context.stage(f"hosted/bfl/{endpoint}", version=1, inputs=files, params=story, compute=compute)
