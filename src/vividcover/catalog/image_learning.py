"""An image model learnt by the neural engine: the stage around `image/flux/train.py`, and what goes with it.

made = learnt(photos, "vivi", TrainOptions(trigger_word="VIVI"), context)      # vivi's tar, report, samples
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.catalog import drawing, engines, loras, trainings
from vividcover.catalog.contract import Context, Made
from vividcover.catalog.steps import files_of
from vividcover.errors import ParameterError
from vividcover.prices import price
from vividcover.settings import Settings
from vividcover.workspace import Stage

if TYPE_CHECKING:
    from vividcover.image.flux.options import TrainOptions

FILE = "trained_model.tar"  # as Replicate's trainers name it
CAPTIONERS = ("florence-2-large", "florence-2-base", "qwen3-vl-4b")  # nets that write captions, if they are here


def lacks(settings: Settings) -> str:
    """What is missing here for the neural engine to train, in words; "" when nothing is."""
    return engines.missing(settings, drawing.base_nets(settings))


def learnt(
    photos: Path, name: str, options: TrainOptions, context: Context, *, full: bool = False, wandb_key: str = ""
) -> Made:
    """The image model's tar, from a zip or folder of photos. `full`: all weights are trained, and a LoRA taken of it.

    The same call again goes on where a stopped one was; one with more steps goes on, too.
    """
    from vividcover.image.flux.opening import base_files
    from vividcover.weights import Shelf

    place = context.settings
    weights = Shelf(place.weights)
    base = base_files("dev", weights)
    if place.precision != "auto":
        options = options.with_(precision=place.precision)
    hashes = sorted(context.workspace.hash_of(f) for f in files_of([photos]))
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    names = [f"{i}#{f.name}" for i, f in enumerate(files_of([photos]))] if photos.is_dir() else []

    def compute(stage: Stage) -> None:
        drawing.put_away(context)
        learn = _way(full)
        with trainings.alone(context.workspace.root, f"{name}-{digest[:16]}", stage) as work:
            stage.meta["report"] = learn(
                photos, stage.folder / FILE, options, base=base, work=work, reporter=stage, consent=context.consent,
                name=name, weights=weights, device=place.device, threads=place.threads, wandb_key=wandb_key or None,
                usd_per_second=price("", {}, "gpu", place.prices)[1],
            )  # fmt: skip

    params: dict[str, Any] = asdict(options) | {
        "photos": hashes, "names": names, "name": name, "consent": context.consent, "full": full,
        "device": place.device, "precision": place.precision, "base": str(base.transformer),
    }  # fmt: skip
    made = context.stage("image/train-neural", version=1, inputs={}, params=params, compute=compute)
    context.nets.update(drawing.base_nets(place))
    report = made.meta["report"]
    return Made(made.path(FILE), {"report": report, "dataset_sha256": digest, "licence": report.get("licence")})


def too_large(options: TrainOptions, context: Context) -> str:
    """Why all of FLUX cannot be trained on this device, in words; "" when it can, or nothing is known of it."""
    import torch

    from vividcover import tensors
    from vividcover.errors import EngineError
    from vividcover.image.flux import full
    from vividcover.image.flux.checkpoint import read_config
    from vividcover.image.flux.opening import base_files
    from vividcover.weights import Shelf

    device = tensors.pick_device(context.settings.device)
    if device.type != "cuda":
        return ""
    config = read_config(base_files("dev", Shelf(context.settings.weights)).transformer)
    try:
        full.fit(float(torch.cuda.mem_get_info(device)[0]), config, options)
    except EngineError as error:
        return error.message.rstrip(".")
    return ""


def _way(full: bool) -> Callable[..., dict[str, Any]]:
    if full:
        from vividcover.image.flux.full import train_full

        return train_full
    from vividcover.image.flux.train import train_lora

    return train_lora


def adopted(reference: str, name: str, trigger_word: str, context: Context, token: str = "") -> Made:
    """A LoRA that others have trained as an image model of ours: read whole, at the right scale, with a card."""
    from vividcover.image.flux.checkpoint import read_config
    from vividcover.image.flux.opening import base_files
    from vividcover.image.flux.package import card, read_package, write_package
    from vividcover.weights import Shelf

    source = loras.lora(reference, context, token)
    config = read_config(base_files("dev", Shelf(context.settings.weights)).transformer)

    def compute(stage: Stage) -> None:
        lora, known = read_package(loras.lora_file(source, context), config)
        for note in lora.notes:
            stage.note(note)
        told = card(
            name, trigger_word=str(known.get("trigger_word") or trigger_word), type=str(known.get("type", "subject")),
            consent=context.consent, base=lora.base or "dev", rank=lora.rank, steps=int(known.get("steps", 0)),
            licence=str(known.get("licence", "")), commercial=None, dataset_sha256="", adopted=reference,
        )  # fmt: skip
        write_package(stage.folder / FILE, lora, told, {}, config=config, reporter=stage)
        stage.meta["report"] = told

    params = {"name": name, "trigger_word": trigger_word, "consent": context.consent, "reference": reference}
    made = context.stage("image/adopt", version=1, inputs={"lora": source.path}, params=params, compute=compute)
    return Made(made.path(FILE), {"report": made.meta["report"], "licence": made.meta["report"]["licence"]})


def hub_token(given: str | None, context: Context) -> str:
    """The token to copy a model with. On a server it is the caller's own or none: never the operator's.

    Raises `ParameterError` without one, before the work.
    """
    token = given or ("" if context.resolve else context.settings.hf_token)
    if not token:
        raise ParameterError(
            "hf_repo_id is given, and no token for Hugging Face.",
            "Give hf_token" + ("." if context.resolve else ", or set VIVIDCOVER_HF_TOKEN."),
        )
    return token


def pushed(made: Made, repository: str, token: str, private: bool, context: Context) -> None:
    """Copies a trained model to Hugging Face. It is in the cache: after an error the same call only copies it."""
    from vividcover.image.flux.publish import publish

    assert isinstance(made.output, Path)
    done = publish(made.output, repository, token, private=private, reporter=context.workspace)
    made.details["published"] = {"url": done.url, "private": private}
    context.note(f"copied to {done.url}")
