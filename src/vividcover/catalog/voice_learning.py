"""A voice learnt by the neural engine: the stage around `voice/rvc/train.py`."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.catalog import engines, trainings
from vividcover.catalog.contract import Context, Made
from vividcover.catalog.singing import trackers
from vividcover.catalog.steps import files_of
from vividcover.settings import Settings
from vividcover.workspace import Stage

if TYPE_CHECKING:
    from vividcover.catalog.train_rvc_model import TrainRvcModelInput


def lacks(settings: Settings, input: TrainRvcModelInput | None) -> str:
    """What is missing here for the neural engine to train, in words; "" when nothing is."""
    return engines.missing(settings, needed(input))


def needed(input: TrainRvcModelInput | None) -> list[str]:
    """The nets that a training needs, by their names in the weights registry."""
    if input is None:
        return ["contentvec", "rmvpe", *_pretrained("v2", "48k")]
    begins = [] if input.pretrained == "none" or input.small else _pretrained(input.version, input.sample_rate)
    return ["contentvec", *trackers(input.f0method), *begins]


def _pretrained(version: str, rate: str) -> list[str]:
    return [f"pretrained_{version}_f0{part}{rate}" for part in "GD"]


def learnt(sources: list[Path], name: str, input: TrainRvcModelInput, context: Context) -> Made:
    """The voice's zip, from zips, folders and files of recordings."""
    from vividcover import weights
    from vividcover.voice.rvc.train import TrainOptions, train_voice

    place = context.settings
    sample = context.file("sample_recording", input.sample_recording) if input.sample_recording else None
    options = TrainOptions(
        sample_rate=input.sample_rate, version=input.version, f0method=input.f0method, epochs=input.epoch,
        batch_size=int(input.batch_size), learning_rate=input.learning_rate, pretrained=input.pretrained,
        save_every=input.save_every, sample=sample, stop_early=input.stop_early, tensorboard=input.tensorboard,
        precision=place.precision, device=place.device, processes=input.processes, threads=place.threads,
        small=input.small,
    )  # fmt: skip
    files = files_of(sources)
    hashes = sorted(context.workspace.hash_of(f) for f in files)
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    file = f"{name}.zip"

    def compute(stage: Stage) -> None:
        with trainings.alone(context.workspace.root, f"{name}-{digest[:16]}", stage) as work:
            dataset = sources[0] if len(sources) == 1 else _gathered(files, work / "sources")
            stage.meta["report"] = train_voice(
                dataset, stage.folder / file, options, weights=weights.Shelf(place.weights), work=work,
                consent=context.consent, name=name, reporter=stage,
            )  # fmt: skip
            _show(work, stage.folder)

    params: dict[str, Any] = asdict(options) | {
        "clips": hashes, "name": name, "consent": context.consent, "sample": context.inputs.get("sample_recording"),
    }  # fmt: skip
    made = context.stage("voice/train-neural", version=1, inputs={}, params=params, compute=compute)
    context.nets.update(needed(input))
    parts = {path.stem: path for part in made.files if (path := made.path(part)).suffix in (".wav", ".jsonl")}
    return Made(made.path(file), {"report": made.meta["report"], "dataset_sha256": digest}, parts)


def _gathered(files: list[Path], folder: Path) -> Path:
    """Files from several places in one folder, under names of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        target = folder / f"{number:05d}_{file.name}"
        try:
            os.link(file, target)
        except OSError:  # another disk, or one without links
            shutil.copy(file, target)
    return folder


def _show(work: Path, folder: Path) -> None:
    """What a person may want to see of the training: the losses, and what the voice sounded like on the way."""
    newest = max(work.glob("training-*"), key=lambda p: p.stat().st_mtime)
    for path in [newest / "losses.jsonl", *sorted((newest / "samples").glob("*.wav"))[-6:]]:
        if path.is_file():
            shutil.copy(path, folder / path.name)
