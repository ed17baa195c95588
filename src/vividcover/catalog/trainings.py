"""The folder that long work goes on from: a training, or a neural portrait.

A training is worth hours, so what it has reached does not lie in a stage's own folder, which a kill takes away, but
under the cache, named by what is learnt: the same call again goes on where it stood, one with more steps goes on, too.
(The state of a full voice network is 1.3 GB, of a LoRA 1 GB. `vividcover cache` lists and removes it.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vividcover.workspace import Stage

FOLDER = "trainings"
KEPT = 3  # trainings that may be gone on with; older ones' folders go
WAIT = 0.5  # s between two looks at another process's training of the same


@contextmanager
def alone(cache: Path, name: str, stage: Stage, folder: str = FOLDER) -> Iterator[Path]:
    """The work's own folder under `folder`, held until it ends. Others than the newest few go."""
    trainings = cache / folder
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
            stage.progress(0.0, "waiting for another process that does the same")


def _forget(trainings: Path, current: Path) -> None:
    others = sorted((p for p in trainings.iterdir() if p.is_dir() and p != current), key=lambda p: p.stat().st_mtime)
    for old in others[: max(0, len(others) + 1 - KEPT)]:
        try:
            with FileLock(trainings / f"{old.name}.lock").acquire(timeout=0):
                shutil.rmtree(old, ignore_errors=True)
        except Timeout:
            continue  # another process trains there
