"""A training as a file can hold it, and what a process makes of it: the base opened and made ready, who paints.

    job = Job(name, files, set_folder, key, …)
    learnt = learn(course_of(job, device), reporter)

One process makes its course out of the job in its hand; several are started with it in a JSON file (`together.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vividcover.errors import ModelFileError, ParameterError
from vividcover.image.flux.data import TrainingSet
from vividcover.image.flux.log import Board, TensorBoard, WandB
from vividcover.image.flux.opening import Base, BaseFiles, open_base
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import Plan
from vividcover.image.flux.samples import Samples
from vividcover.image.flux.teaching import Course, Painter
from vividcover.image.flux.trainee import method_of
from vividcover.tensors import pick_dtype

FEW_SIZES = 3  # of pictures, up to which blocks are compiled for each; a size takes about a minute


@dataclass(frozen=True)
class Job:
    """What a process needs to know to take part in a training. `lessons`: the folder of the set, `key` its name."""

    name: str
    files: BaseFiles
    lessons: Path
    lessons_key: str
    taught: Sequence[int]
    tested: Sequence[int]
    folder: Path
    key: str
    options: TrainOptions
    plan: Plan
    device: str
    dtype: str  # fp32, bf16
    threads: int = 0
    method: str = "lora"  # or full
    wandb_key: str | None = None  # never written into a file

    def to_json(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if name != "wandb_key"}
        found["files"] = {name: str(path) for name, path in asdict(self.files).items()}
        return found | {"lessons": str(self.lessons), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        told, plan = values["files"], values["plan"]
        files = BaseFiles(Path(told["transformer"]), Path(told["text"]), Path(told["vae"]), told["kind"])
        read = {
            "files": files, "lessons": Path(values["lessons"]), "folder": Path(values["folder"]),
            "options": TrainOptions.from_json(values["options"]),
            "plan": Plan(**(plan | {"resolutions": tuple(plan["resolutions"])})),
        }  # fmt: skip
        return cls(**(values | read))


def course_of(
    job: Job, device: torch.device, *, base: Base | None = None, lessons: TrainingSet | None = None, rank: int = 0,
    world: int = 1,
) -> Course:  # fmt: skip
    """The base's transformer made ready to learn, and all that learning needs.

    `base` and `lessons`, where they are open already. Raises `ParameterError` for a pattern that no layer has.
    """
    options = job.options
    lessons = lessons or TrainingSet.open(job.lessons, job.lessons_key)
    if lessons is None:
        raise ModelFileError(f"{job.lessons} does not hold this training's pictures.", "Start the training again.")
    dtype = pick_dtype(device, job.dtype)
    base = base or open_base(job.files, device=device, dtype=dtype, quantise=job.plan.quantise)
    network = base.flux
    network.requires_grad_(False)
    trainee = method_of(job.method).begin(network, base.config, options, job.files.kind)
    if options.compile:
        if device.type != "cuda":
            raise ParameterError(f"Compiling is for CUDA devices, not for {device.type}.", "Leave `compile` out.")
        from vividcover.image.flux.generate import compile_blocks

        compile_blocks(network, any_size=len({item.shape for item in lessons.items}) > FEW_SIZES)
    painter: Painter | None = None
    if options.sample_prompts and rank == 0:
        painter = Samples(base, network, lessons.store, options, dtype)
    return Course(
        job.name, trainee, lessons, job.taught, job.tested, job.folder, options, job.plan, device, dtype, job.key,
        painter, _boards(job) if rank == 0 else (), rank, world,
    )  # fmt: skip


def _boards(job: Job) -> list[Board]:
    options = job.options
    boards: list[Board] = [TensorBoard(job.folder / "tensorboard")] if options.tensorboard else []
    if options.wandb_project:
        boards.append(
            WandB(job.folder / "wandb", options.wandb_project, run=options.wandb_run, entity=options.wandb_entity,
                  key=job.wandb_key, config=asdict(options))
        )  # fmt: skip
    return boards
