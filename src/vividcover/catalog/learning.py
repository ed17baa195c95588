"""A voice learnt by the neural engine: the stage around `voice/rvc/train.py`, and the folder that it goes on from.

A training is worth hours, so what it has reached does not lie in a stage's own folder, which a kill takes away, but
under the cache, named by the recordings: the same call again goes on where it stood, one with more epochs goes on, too.
(The state of a full network is 1.3 GB. `vividcover cache` lists and removes it.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vividcover.catalog import engines
from vividcover.catalog.contract import Context, Made
from vividcover.catalog.singing import trackers
from vividcover.catalog.steps import files_of
from vividcover.settings import Settings
from vividcover.workspace import Stage

if TYPE_CHECKING:
    from vividcover.catalog.train_rvc_model import TrainRvcModelInput

KEPT = 3  # trainings that may be gone on with; older ones' folders go
WAIT = 0.5  # s between two looks at another process's training of the same recordings


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
    trainings = context.workspace.root / "trainings"
    file = f"{name}.zip"

    def compute(stage: Stage) -> None:
        with _alone(trainings, f"{name}-{digest[:16]}", stage) as work:
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


@contextmanager
def _alone(trainings: Path, name: str, stage: Stage) -> Iterator[Path]:
    """The training's own folder, held until it ends. Others than the newest few go."""
    work = trainings / name
    work.mkdir(parents=True, exist_ok=True)
    os.utime(work)
    lock = FileLock(trainings / f"{name}.lock")
    while True:
        try:
            with lock.acquire(timeout=WAIT):
                _forget(trainings, work)
                yield work
                return
        except Timeout:
            stage.progress(0.0, "waiting for another training of the same recordings")


def _forget(trainings: Path, current: Path) -> None:
    others = sorted((p for p in trainings.iterdir() if p.is_dir() and p != current), key=lambda p: p.stat().st_mtime)
    for old in others[: max(0, len(others) + 1 - KEPT)]:
        try:
            with FileLock(trainings / f"{old.name}.lock").acquire(timeout=0):
                shutil.rmtree(old, ignore_errors=True)
        except Timeout:
            continue  # another process trains there


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
