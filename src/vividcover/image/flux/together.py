"""A LoRA learnt on several devices (`vividcover.together`): the job as a file, and what each process does with it.

    torchrun --nproc-per-node 8 -m vividcover.image.flux.together JOB.json

Each process opens the base, takes its share of every step (see `loop.py`) and averages its gradients with the others'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from vividcover import together
from vividcover.files import canonical, write_text
from vividcover.image.flux.course import Job, course_of
from vividcover.image.flux.loop import Learnt, learn
from vividcover.image.flux.presets import enough_memory
from vividcover.workspace import Reporter


def learn_together(job: Job, device: torch.device, reporter: Reporter) -> Learnt:
    """Starts the processes, tells how far they are, and stops them on cancel. Their state is kept."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "learnt.json").unlink(missing_ok=True)
    written = write_text(job.folder / "job.json", canonical(job.to_json()))
    key = {"WANDB_API_KEY": job.wandb_key} if job.wandb_key else {}  # in no file
    together.start("vividcover.image.flux.together", written, job.folder, job.options.processes, device, reporter, key)
    return Learnt.from_json(job.folder, job.name, json.loads((job.folder / "learnt.json").read_text(encoding="utf-8")))


def main(path: Path) -> None:
    """One process of several, as torch's launcher starts it."""
    job = Job.from_json(json.loads(path.read_text(encoding="utf-8")))
    with together.share(job.device, job.folder, job.threads) as place, enough_memory(place.device):
        learn(course_of(job, place.device, rank=place.rank, world=place.world), place.reporter)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
