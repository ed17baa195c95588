"""Training on several devices: torch's launcher starts one process for each, and this page is both ends of it.

    torchrun --nproc-per-node 8 -m vividcover.image.flux.together JOB.json

`learn_together` writes the job and starts the launcher; each process opens the base, takes its share (see `loop.py`)
and averages its gradients with the others'. The first one saves and tells; what it tells is read from `progress.json`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from vividcover.errors import Canceled, EngineError, ParameterError, VividCoverError
from vividcover.files import canonical, write_text
from vividcover.image.flux.course import Job, course_of
from vividcover.image.flux.loop import Learnt, learn
from vividcover.image.flux.presets import enough_memory
from vividcover.tensors import use_threads
from vividcover.workspace import Reporter, Silent

POLL = 0.25  # s between two looks at the processes
PARENT = "VIVIDCOVER_TRAINING_PARENT"  # the environment's name for who started it all
PATIENCE = timedelta(minutes=10)  # that one process waits for another


def learn_together(job: Job, device: torch.device, reporter: Reporter) -> Learnt:
    """Starts the processes, tells how far they are, and stops them on cancel. Their state is kept."""
    count = job.options.processes
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise ParameterError(
            f"{count} processes for {torch.cuda.device_count()} GPUs.", "Choose one process per GPU at most."
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    for old in (job.folder / "learnt.json", job.folder / "progress.json", *job.folder.glob("failed_*.json")):
        old.unlink(missing_ok=True)
    written = write_text(job.folder / "job.json", canonical(job.to_json()))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
        "-m", "vividcover.image.flux.together", str(written),
    ]  # fmt: skip
    surroundings = os.environ | {PARENT: str(os.getpid())} | ({"WANDB_API_KEY": job.wandb_key} if job.wandb_key else {})
    said = job.folder / "processes.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=surroundings
        )
        try:
            while process.poll() is None:
                reporter.check()
                _tell(job.folder, reporter)
                time.sleep(POLL)
        finally:
            process.terminate()  # the launcher ends its processes
            process.wait()
    if process.returncode:
        raise _failure(job.folder, said)
    found = json.loads((job.folder / "learnt.json").read_text(encoding="utf-8"))
    return Learnt.from_json(job.folder, job.name, found)


def _tell(folder: Path, reporter: Reporter) -> None:
    """What the first process said last."""
    try:
        found = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    reporter.progress(found["fraction"], found["text"])


def _failure(folder: Path, said: Path) -> VividCoverError:
    for failed in sorted(folder.glob("failed_*.json")):
        found = json.loads(failed.read_text(encoding="utf-8"))
        return EngineError(found["message"], found["hint"])
    last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no word of why"]
    return EngineError(f"A training process ended: {last[0][:300]}", f"All that they said is in {said}.")


# --- in each process ------------------------------------------------------------------------------------------------


class _Worker(Silent):
    """The reporter of a process: the launcher's signal to end is a cancel, so that the state is kept; so is the death
    of who started it all. The first process (`folder`) leaves its progress in a file for the one that started it."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder, self.ended, self.parent = folder, False, int(os.environ.get(PARENT, "0"))
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        self.ended = True

    def check(self) -> None:
        if self.ended or (self.parent and not _alive(self.parent)):
            raise Canceled

    def progress(self, fraction: float, text: str = "") -> None:
        if self.folder is not None:
            write_text(self.folder / "progress.json", json.dumps({"fraction": fraction, "text": text}))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def main(path: Path) -> None:
    """One process of several, as torch's launcher starts it."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    job = Job.from_json(values)
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = job.device.startswith("cuda")
    device = torch.device("cuda", local) if cuda else torch.device(job.device)
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    use_threads(job.threads or 1)
    try:
        with enough_memory(device):
            learn(course_of(job, device, rank=rank, world=world), _Worker(job.folder if rank == 0 else None))
        distributed.barrier()
    except VividCoverError as error:
        if not isinstance(error, Canceled):
            told = {"message": error.message, "hint": error.hint}
            write_text(job.folder / f"failed_{rank}.json", json.dumps(told))
        os._exit(1)  # at once: the others may never come to where this one is awaited
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
