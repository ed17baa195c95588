"""Training on several devices: torch's launcher starts one process for each, and this page is both ends of it.

    torchrun --nproc-per-node 4 -m vividcover.voice.rvc.together JOB.json

`learn_together` writes the job and starts the launcher; each process reads it, takes its share (see `learn.py`) and
averages its gradients with the others'. The first one saves and tells; what it tells is read from `losses.jsonl`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from vividcover.errors import EngineError, ParameterError, VividCoverError
from vividcover.files import canonical, write_text
from vividcover.tensors import use_threads, write_torch
from vividcover.voice.rvc.data import TrainingSet
from vividcover.voice.rvc.learn import Learnt, Lesson, learn
from vividcover.voice.rvc.live import Sample
from vividcover.voice.rvc.train import TrainOptions, training_dtype
from vividcover.workspace import Reporter, Silent

POLL = 0.5  # s between two looks at the processes
PATIENCE = timedelta(minutes=10)  # that one process waits for another


def learn_together(lesson: Lesson, samples: Sequence[Sample], reporter: Reporter) -> Learnt:
    """Starts the processes, tells how far they are, and stops them on cancel. Their newest state is kept."""
    count = lesson.options.processes
    if lesson.device.type == "cuda" and count > torch.cuda.device_count():
        raise ParameterError(
            f"{count} processes for {torch.cuda.device_count()} GPUs.", "Choose one process per GPU at most."
        )
    lesson.folder.mkdir(parents=True, exist_ok=True)
    heard = lesson.folder / "samples.pt"
    write_torch(heard, [asdict(sample) for sample in samples])
    job = write_text(lesson.folder / "job.json", canonical(_job(lesson)))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
        "-m", "vividcover.voice.rvc.together", str(job),
    ]  # fmt: skip
    said = lesson.folder / "processes.log"
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                reporter.check()
                _tell(lesson.folder, reporter)
                time.sleep(POLL)
        finally:
            process.terminate()  # the launcher ends its processes
            process.wait()
    if process.returncode:
        raise _failure(lesson.folder, said)
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


def _tell(folder: Path, reporter: Reporter) -> None:
    """The last whole line of the first process."""
    try:
        with (folder / "progress.json").open(encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return
    reporter.progress(found["fraction"], found["text"])


def _failure(folder: Path, said: Path) -> VividCoverError:
    for failed in sorted(folder.glob("failed_*.json")):
        found = json.loads(failed.read_text(encoding="utf-8"))
        failed.unlink()
        return EngineError(found["message"], found["hint"])
    last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no word of why"]
    return EngineError(f"A training process ended: {last[0][:300]}", f"All that they said is in {said}.")


# --- in each process ------------------------------------------------------------------------------------------------


class _Teller(Silent):
    """The first process's reporter: leaves its progress in a file for the one that started it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def progress(self, fraction: float, text: str = "") -> None:
        write_text(self.folder / "progress.json", json.dumps({"fraction": fraction, "text": text}))


def main(job: Path) -> None:
    """One process of several, as torch's launcher starts it."""
    found = json.loads(job.read_text(encoding="utf-8"))
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = found["device"] == "cuda"
    device = torch.device("cuda", local) if cuda else torch.device(found["device"])
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    folder = Path(found["folder"])
    options = _options(found["options"])
    use_threads(options.threads or 1)
    lesson = Lesson(
        found["name"], TrainingSet.open(Path(found["clips"])), folder, options,
        tuple(Path(path) for path in found["pretrained"]) if found["pretrained"] else None,  # type: ignore[arg-type]
        device, training_dtype(device, options.precision), rank, world,
    )  # fmt: skip
    samples = [Sample(**sample) for sample in torch.load(folder / "samples.pt", weights_only=True)]
    try:
        learn(lesson, samples if rank == 0 else [], _Teller(folder) if rank == 0 else Silent())
        distributed.barrier()
    except VividCoverError as error:
        story = {"message": error.message, "hint": error.hint}
        write_text(folder / f"failed_{rank}.json", json.dumps(story))
        raise SystemExit(1) from error
    finally:
        distributed.destroy_process_group()


def _options(values: dict[str, Any]) -> TrainOptions:
    pretrained, sample = values["pretrained"], values["sample"]
    values = values | {
        "pretrained": tuple(Path(path) for path in pretrained) if isinstance(pretrained, list) else pretrained,
        "sample": Path(sample) if sample else None,
    }
    return replace(TrainOptions(), **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
