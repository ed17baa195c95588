"""An image model learnt by the neural engine: the stage around `image/flux/train.py`, and what goes with it.

made = learnt(photos, "vivi", TrainOptions(trigger_word="VIVI"), context)      # vivi's tar, report, samples
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.catalog import drawing, engines, trainings
from vividcover.catalog.contract import Context, Made
from vividcover.catalog.steps import files_of
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
    hashes = sorted(context.workspace.hash_of(f) for f in files_of([photos]))
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    names = [f"{i}#{f.name}" for i, f in enumerate(files_of([photos]))] if photos.is_dir() else []
    _say_licence(context)

    def compute(stage: Stage) -> None:
        from vividcover.image.flux import full as whole
        from vividcover.image.flux import train

        learn = whole.train_full if full else train.train_lora
        with trainings.alone(context.workspace.root, f"{name}-{digest[:16]}", stage) as work:
            stage.meta["report"] = learn(
                photos, stage.folder / FILE, options, base=base, work=work, reporter=stage, consent=context.consent,
                name=name, weights=weights, device=place.device, threads=place.threads, wandb_key=wandb_key,
            )  # fmt: skip

    params: dict[str, Any] = asdict(options) | {
        "photos": hashes, "names": names, "name": name, "consent": context.consent, "full": full,
        "device": place.device, "precision": place.precision, "base": str(base.transformer),
    }  # fmt: skip
    made = context.stage("image/train-neural", version=1, inputs={}, params=params, compute=compute)
    context.nets.update(drawing.base_nets(place))
    report = made.meta["report"]
    return Made(made.path(FILE), {"report": report, "dataset_sha256": digest, "licence": report.get("licence")})


def _say_licence(context: Context) -> None:
    """What may be done with a LoRA of FLUX.1 [dev], said before the work."""
    from vividcover.weights import licence_of

    context.note(licence_of("dev", doing="training").text)
