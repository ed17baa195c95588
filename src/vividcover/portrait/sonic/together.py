"""One portrait sampled by several processes, one for each GPU: they share the windows of every turn.

    store = sample_together(nets, look, heard, options, folder, reporter)      # options.processes of them

    torchrun --nproc-per-node 8 -m vividcover.portrait.sonic.together JOB.json

Windows of a turn do not know of each other. Each process takes its share of a turn's batches, writes the results into
the one folder, and meets the others; the first one merges, and the next turn begins. So the latents are those of one
process, to the bit where the devices are alike, and what one process has begun several may end, or the other way round.
The processes must see the same folder: they are on one machine.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vividcover import together
from vividcover.errors import Canceled
from vividcover.files import canonical, write_text
from vividcover.patience import Patient
from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.files import SonicFiles
from vividcover.portrait.sonic.heard import Heard
from vividcover.portrait.sonic.opening import Sonic, open_sonic
from vividcover.portrait.sonic.sampler import Crew, Look
from vividcover.portrait.sonic.speed import sampled
from vividcover.tensors import read_tensors
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.portrait.sonic.store import Store

JOB, LOOK, NOTES = "sampling.json", "look.safetensors", "notes.json"
POLL = 0.005  # s between two looks at whether all have come


def sample_together(
    nets: Sonic, look: Look, heard: Heard, options: SonicOptions, folder: Path, reporter: Reporter,
    noise: Tensor | None = None,
) -> Store:  # fmt: skip
    """Starts `options.processes` of them, tells how far they are, and stops them on cancel; what they found is kept.

    They open the network themselves, so this process lets go of its own. On cancel it returns at once, and they end as
    soon as they see it. Raises `ParameterError` for more processes
    than GPUs, `EngineError` for what was wrong in one of them, `Canceled`.
    """
    count = options.processes
    folder.mkdir(parents=True, exist_ok=True)
    nets.release("unet")
    _write_look(folder / LOOK, look, noise)
    (folder / NOTES).unlink(missing_ok=True)
    job = {
        "files": {name: str(path) for name, path in asdict(nets.files).items()}, "device": nets.device.type,
        "dtype": str(nets.dtype).removeprefix("torch."), "quantise": nets.quantise, "options": asdict(options),
        "heard": str(heard.folder), "folder": str(folder), "threads": max(torch.get_num_threads() // count, 1),
    }  # fmt: skip
    written = write_text(folder / JOB, canonical(job))
    relay = _Relay()
    with Patient(reporter, relay.end, lambda: reporter.progress(*relay.last)) as patient:  # they take a while to end
        patient.call(together.start, "vividcover.portrait.sonic.together", written, folder, count, nets.device, relay)
    for note in json.loads((folder / NOTES).read_text(encoding="utf-8")):
        reporter.note(note)
    return sampled(nets, look, heard, options, folder, _Listens(reporter), crew=Crew())  # it is done: this opens it


class _Relay:
    """The reporter of who waits for the processes, in a thread of its own."""

    def __init__(self) -> None:
        self.last, self._ended = (0.0, "opening the network in every process"), False

    def end(self) -> None:
        self._ended = True

    def progress(self, fraction: float, text: str = "") -> None:
        self.last = fraction, text

    def check(self) -> None:
        if self._ended:
            raise Canceled

    def note(self, message: str) -> None: ...


class _Listens:
    """The reporter without its notes: they were told already."""

    def __init__(self, outer: Reporter) -> None:
        self._outer = outer

    def progress(self, fraction: float, text: str = "") -> None:
        self._outer.progress(fraction, text)

    def check(self) -> None:
        self._outer.check()

    def note(self, message: str) -> None: ...


def _write_look(path: Path, look: Look, noise: Tensor | None) -> None:
    from safetensors.torch import save_file

    tensors = {"latents": look.latents, "clip": look.clip, "mask": look.mask}
    tensors |= {} if noise is None else {"noise": noise}
    save_file({name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}, path)


# --- in each process --------------------------------------------------------------------------------------------------


def main(path: Path) -> None:
    """One process of several, as torch's launcher starts it."""
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    folder, options = Path(job["folder"]), _options(job["options"])
    with together.share(job["device"], folder, job["threads"]) as place:
        crew = Crew(place.rank, place.world, _meeting(place.reporter))
        files = SonicFiles(**{name: Path(where) for name, where in job["files"].items()})
        nets = open_sonic(files, device=place.device, dtype=getattr(torch, job["dtype"]), quantise=job["quantise"])
        tensors = read_tensors(folder / LOOK)
        noise = tensors.pop("noise", None)
        heard = Heard(Path(job["heard"]))
        sampled(nets, Look(**tensors), heard, options, folder, place.reporter, crew=crew, noise=noise).close()
        if place.rank == 0:
            notes = [*getattr(place.reporter, "notes", ()), *nets.notes]
            write_text(folder / NOTES, json.dumps(notes))


def _options(values: dict[str, Any]) -> SonicOptions:
    return SonicOptions(**{**values, "speedups": tuple(values["speedups"])})


def _meeting(reporter: Reporter) -> Any:
    """What `Crew.meet` is here: it comes back when all have called it, or at once when the work is canceled."""
    from torch import distributed

    group = distributed.new_group(backend="gloo")  # on the CPU, where waiting can be broken off

    def meet() -> None:
        coming = distributed.barrier(group, async_op=True)
        assert coming is not None
        while not coming.is_completed():
            reporter.check()
            time.sleep(POLL)
        try:
            coming.wait()
        except RuntimeError as error:  # another one has gone, and said why
            raise Canceled from error

    return meet


if __name__ == "__main__":
    main(Path(sys.argv[1]))
