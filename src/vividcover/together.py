"""One training by several processes, one for each device: torch's launcher starts them, and this is both ends of it.

    start("vividcover.image.flux.together", job, folder, count, device, reporter)          # in the one that wants it
    with share(device, folder, threads) as place: learn(…, place.rank, place.world, place.reporter)    # in each of them

The processes and the one that started them talk through files in `folder`: how far the first one is, and what was wrong
in any of them. On cancel, and when who started it all is killed, they keep their state and end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vividcover.errors import Canceled, EngineError, ParameterError, VividCoverError
from vividcover.files import write_text
from vividcover.processes import alive
from vividcover.tensors import use_threads
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    import torch

POLL = 0.25  # s between two looks at the processes
PARENT = "VIVIDCOVER_TRAINING_PARENT"  # the environment's name for who started it all
PATIENCE = timedelta(minutes=10)  # that one process waits for another
PROGRESS, FAILED, SAID = "progress.json", "failed_{}.json", "processes.log"


def start(
    module: str, job: Path, folder: Path, count: int, device: torch.device, reporter: Reporter,
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Runs `python -m module job` in `count` processes to their end, and tells how far they are.

    Raises `ParameterError` for more processes than there are GPUs, `EngineError` for what was wrong in one of them,
    `Canceled` (they have ended then).
    """
    import torch

    if device.type == "cuda" and count > torch.cuda.device_count():
        raise ParameterError(
            f"{count} processes for {torch.cuda.device_count()} GPUs.", "Choose one process per GPU at most."
        )
    for old in (folder / PROGRESS, *folder.glob(FAILED.format("*"))):
        old.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", module,
        str(job),
    ]  # fmt: skip
    surroundings = os.environ | {PARENT: str(os.getpid())} | dict(environment or {})
    with (folder / SAID).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=surroundings
        )
        try:
            while process.poll() is None:
                reporter.check()
                _tell(folder, reporter)
                time.sleep(POLL)
        finally:
            process.terminate()  # the launcher ends its processes
            process.wait()
    if process.returncode:
        raise _failure(folder)


def _tell(folder: Path, reporter: Reporter) -> None:
    """What the first process said last."""
    try:
        found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    reporter.progress(found["fraction"], found["text"])


def _failure(folder: Path) -> VividCoverError:
    for failed in sorted(folder.glob(FAILED.format("*"))):
        found = json.loads(failed.read_text(encoding="utf-8"))
        return EngineError(found["message"], found["hint"])
    said = folder / SAID
    last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no word of why"]
    return EngineError(f"A training process ended: {last[0][:300]}", f"All that they said is in {said}.")


# --- in each process ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """This process among `world`; number 0 saves and tells."""

    device: torch.device
    rank: int
    world: int
    reporter: Reporter


@contextmanager
def share(device: str, folder: Path, threads: int) -> Iterator[Place]:
    """Joins the others for the work inside. An error of ours is left for the one that started it, and ends the process
    at once: the others may never come to where this one is awaited.
    """
    import torch
    from torch import distributed

    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = device.startswith("cuda")
    mine = torch.device("cuda", local) if cuda else torch.device(device)
    if cuda:
        torch.cuda.set_device(mine)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    use_threads(threads or 1)
    try:
        yield Place(mine, rank, world, _Worker(folder if rank == 0 else None))
        distributed.barrier()
    except VividCoverError as error:
        if not isinstance(error, Canceled):
            write_text(folder / FAILED.format(rank), json.dumps({"message": error.message, "hint": error.hint}))
        os._exit(1)
    distributed.destroy_process_group()


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
        if self.ended or (self.parent and not alive(self.parent)):
            raise Canceled

    def progress(self, fraction: float, text: str = "") -> None:
        if self.folder is not None:
            write_text(self.folder / PROGRESS, json.dumps({"fraction": fraction, "text": text}))
