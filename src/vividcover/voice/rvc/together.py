"""A voice learnt on several devices (`vividcover.together`): the job as a file, and what each process does with it.

    torchrun --nproc-per-node 4 -m vividcover.voice.rvc.together JOB.json

Each process takes its share of every step (see `learn.py`) and averages its gradients with the others'. The first one
saves and tells.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vividcover import together
from vividcover.files import canonical, write_text
from vividcover.tensors import write_torch
from vividcover.voice.rvc.data import TrainingSet
from vividcover.voice.rvc.learn import Learnt, Lesson, learn
from vividcover.voice.rvc.live import Sample
from vividcover.voice.rvc.train import TrainOptions, training_dtype
from vividcover.workspace import Reporter


def learn_together(lesson: Lesson, samples: Sequence[Sample], reporter: Reporter) -> Learnt:
    """Starts the processes, tells how far they are, and stops them on cancel. Their newest state is kept."""
    lesson.folder.mkdir(parents=True, exist_ok=True)
    write_torch(lesson.folder / "samples.pt", [asdict(sample) for sample in samples])
    job = write_text(lesson.folder / "job.json", canonical(_job(lesson)))
    count = lesson.options.processes
    together.start("vividcover.voice.rvc.together", job, lesson.folder, count, lesson.device, reporter)
    learnt = json.loads((lesson.folder / "learnt.json").read_text(encoding="utf-8"))
    return Learnt(lesson.folder / "voices" / f"{lesson.name}.pth", **learnt)


def _job(lesson: Lesson) -> dict[str, Any]:
    options = {name: _plain(value) for name, value in asdict(lesson.options).items()}
    return {
        "name": lesson.name, "clips": str(lesson.clips.folder), "folder": str(lesson.folder), "options": options,
        "pretrained": _plain(lesson.pretrained), "device": lesson.device.type,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def main(job: Path) -> None:
    """One process of several, as torch's launcher starts it."""
    found = json.loads(job.read_text(encoding="utf-8"))
    folder, options = Path(found["folder"]), _options(found["options"])
    with together.share(found["device"], folder, options.threads) as place:
        lesson = Lesson(
            found["name"], TrainingSet.open(Path(found["clips"])), folder, options,
            tuple(Path(path) for path in found["pretrained"]) if found["pretrained"] else None,  # type: ignore[arg-type]
            place.device, training_dtype(place.device, options.precision), place.rank, place.world,
        )  # fmt: skip
        samples = [Sample(**sample) for sample in torch.load(folder / "samples.pt", weights_only=True)]
        learn(lesson, samples if place.rank == 0 else [], place.reporter)


def _options(values: dict[str, Any]) -> TrainOptions:
    pretrained, sample = values["pretrained"], values["sample"]
    values = values | {
        "pretrained": tuple(Path(path) for path in pretrained) if isinstance(pretrained, list) else pretrained,
        "sample": Path(sample) if sample else None,
    }
    return replace(TrainOptions(), **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
