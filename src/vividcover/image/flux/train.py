"""Photos in, a LoRA out: the training of a FLUX LoRA, from top to bottom.

    report = train_lora(
        Path("photos.zip"), Path("vivi.tar"), TrainOptions(trigger_word="VIVI"), base=base_files("dev", weights),
        work=folder, consent="She does not exist.", name="vivi", reporter=stage,
    )

`work` holds everything on the way: prepared photos, the encoded set, the newest state, LoRAs, samples and losses.
Called again with the same photos and options, also after a kill, a training goes on where it stood, and ends in the
same LoRA. (On a CPU in the same bits; CUDA's attention adds up in an order of its own.)
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vividcover.errors import ConsentError, ModelFileError, ParameterError
from vividcover.files import canonical
from vividcover.image import captions, doctor, masks
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.image.flux import package
from vividcover.image.flux.ahead import look_ahead
from vividcover.image.flux.checkpoint import read_config
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.course import Job, course_of
from vividcover.image.flux.data import TrainingSet
from vividcover.image.flux.encode import encode, identity, key_of, split
from vividcover.image.flux.loop import Learnt, learn
from vividcover.image.flux.lorafile import Lora
from vividcover.image.flux.opening import Base, BaseFiles, open_base
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import Plan, enough_memory
from vividcover.image.flux.trainee import LORA, Method, halved
from vividcover.patience import Patient
from vividcover.prices import PRICES
from vividcover.progress import Part
from vividcover.tensors import pick_device, pick_dtype, require, use_threads
from vividcover.weights import Resolver
from vividcover.weights.licences import licence_of
from vividcover.workspace import Reporter, Silent

__all__ = ["Surroundings", "TrainOptions", "train", "train_lora"]
PREPARED, CAPTIONED, EXAMINED, MASKED, ENCODED, LEARNT = 0.02, 0.06, 0.07, 0.08, 0.13, 0.98  # of the whole

SCHNELL_TEXT = 256  # tokens


@dataclass(frozen=True)
class Surroundings:
    """What a training needs beside photos and options. `weights`: for the captioner. `threads`: processor cores; 0: as
    torch finds them. `usd_per_second` of a device; None: the table's price."""

    base: BaseFiles
    work: Path
    consent: str
    name: str
    reporter: Reporter
    weights: Resolver | None = None
    device: str = "auto"
    threads: int = 0
    wandb_key: str | None = None
    usd_per_second: float | None = None


def train_lora(
    source: Path, out: Path, options: TrainOptions, *, base: BaseFiles, work: Path, consent: str, name: str,
    reporter: Reporter | None = None, weights: Resolver | None = None, device: str = "auto", threads: int = 0,
    wandb_key: str | None = None, usd_per_second: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the LoRA's tar to `out` and returns its card, which is the report.

    `source`: a zip or a folder of photos. `base`: dev or schnell. The rest: `Surroundings`. Raises `ConsentError`,
    `ImageError` when no photo can be used, `ParameterError`, `WeightsError` for weights that are not there,
    `EngineError`, `Canceled` (the state is kept).
    """
    around = Surroundings(
        base, Path(work), consent, name, reporter or Silent(), weights, device, threads, wandb_key or None,
        usd_per_second,
    )  # fmt: skip
    return train(LORA, Path(source), Path(out), options, around)


def train(method: Method, source: Path, out: Path, options: TrainOptions, around: Surroundings) -> dict[str, Any]:
    """`train_lora` for any method: a LoRA, or all weights and a LoRA taken of them (`full.py`)."""
    began, base, reporter = time.monotonic(), around.base, around.reporter
    device, dtype, config = _check(method, options, around)
    licence = licence_of(base.kind, doing="training")
    reporter.note(licence.text)
    if base.kind == "schnell" and options.text_length > SCHNELL_TEXT:
        options = options.with_(text_length=SCHNELL_TEXT)
        reporter.note(f"FLUX.1 [schnell] knows texts of up to {SCHNELL_TEXT} tokens: so many are used.")
    plan = method.fit(_memory(device), config, options)
    if plan.resolutions != options.resolutions:
        kept = ",".join(map(str, plan.resolutions))
        reporter.note(f"The device's {plan.memory / 1e9:.0f} GB are enough for pictures of {kept} px, not for larger.")
        options = options.with_(resolution=kept)

    dataset, findings = _dataset(source, options, around)
    opened = open_base(base, device=device, dtype=dtype, quantise=plan.quantise)
    with enough_memory(device):
        job, lessons = _job(method, dataset, opened, plan, options, around, Part(reporter, MASKED, ENCODED))
        learnt = _learnt(job, opened, lessons, Part(reporter, ENCODED, LEARNT))

    reporter.progress(LEARNT, "packing")
    opened.release("flux")
    lora, more = method.end(learnt.file, config, options)
    report = _report(dataset, learnt, job, began, around.usd_per_second) | {"findings": findings} | more
    card = package.card(
        around.name, trigger_word=options.trigger_word, type=options.kind, consent=around.consent.strip(),
        base=base.kind, rank=lora.rank, steps=learnt.steps, licence=licence.text, commercial=licence.commercial,
        dataset_sha256=dataset.report["hash"], **report,
    )  # fmt: skip
    _pack(out, lora, card, learnt, dataset, job, config, reporter)
    reporter.progress(1.0, "done")
    return card


def _learnt(job: Job, opened: Base, lessons: TrainingSet, reporter: Reporter) -> Learnt:
    if job.options.processes > 1:
        from vividcover.image.flux.together import learn_together

        return learn_together(job, opened.device, reporter)
    reporter.progress(0.0, "opening the base")
    with Patient(reporter) as patient:
        patient.call(getattr, opened, "flux")  # gigabytes are read
    return learn(course_of(job, opened.device, base=opened, lessons=lessons), reporter)


def _check(method: Method, options: TrainOptions, around: Surroundings) -> tuple[torch.device, torch.dtype, FluxConfig]:
    """The device, the number format and the base's sizes, when a training may begin at all."""
    require()
    if not around.consent.strip():
        raise ConsentError(
            f"The image model {around.name!r} cannot be trained without consent.",
            'Say whose pictures these are and that they agree: --consent "It is me."',
        )
    if around.base.kind not in ("dev", "schnell"):
        raise ParameterError(
            f"A LoRA cannot be trained on {around.base.kind!r}.", "Train it on dev: the others can wear it too."
        )
    if options.precision == "fp16":
        raise ParameterError("FLUX's activations overflow in fp16.", "Choose bf16 or fp32.")
    device = pick_device(around.device)
    dtype, config = pick_dtype(device, options.precision), read_config(around.base.transformer)
    look_ahead(options, config, method, device, dtype, around.weights)
    if around.threads:
        use_threads(around.threads)
    around.work.mkdir(parents=True, exist_ok=True)
    return device, dtype, config


def _job(
    method: Method, dataset: Dataset, opened: Base, plan: Plan, options: TrainOptions, around: Surroundings,
    reporter: Reporter,
) -> tuple[Job, TrainingSet]:  # fmt: skip
    """What is to be learnt, its pictures and texts encoded; no encoder is needed afterwards, nor is it in memory."""
    key = key_of(dataset, options, around.base, opened.dtype)
    folder, on_disk = around.work / f"set-{key}", options.cache_to_disk or options.processes > 1
    lessons = encode(opened, dataset, options, folder, reporter, on_disk=on_disk, key=key)
    if not options.sample_prompts or options.processes > 1:
        opened.release("vae")
    taught, tested = split(lessons, options.validation)
    own = _key(
        method.name, key, canonical(options.mathematics()), canonical(identity(around.base.transformer)), plan.quantise
    )
    job = Job(
        around.name, around.base, folder, key, taught, tested, around.work / f"training-{own}", own, options, plan,
        str(opened.device), "bf16" if opened.dtype == torch.bfloat16 else "fp32", around.threads, method.name,
        around.wandb_key,
    )  # fmt: skip
    return job, lessons


def _dataset(source: Path, options: TrainOptions, around: Surroundings) -> tuple[Dataset, list[dict[str, Any]]]:
    """Photos with captions and, where they are asked for, masks; and what the doctor says of them, JSON."""
    reporter = around.reporter
    smallest = min(256, options.resolutions[0])
    wanted = DatasetOptions(options.trigger_word, options.kind, options.resolutions, smallest)
    dataset = prepare(source, around.work / "photos", wanted, Part(reporter, 0.0, PREPARED))
    dataset = captions.caption(
        dataset, options.captioner, prefix=options.caption_prefix, suffix=options.caption_suffix,
        weights=around.weights, device=around.device, reporter=Part(reporter, PREPARED, CAPTIONED),
    )  # fmt: skip
    examined = doctor.examine(dataset, reporter=Part(reporter, CAPTIONED, EXAMINED))
    if options.background < 1.0:
        dataset = masks.add(dataset, Part(reporter, EXAMINED, MASKED), looks=examined.looks or None)
    return dataset, examined.to_json()["findings"]


def _memory(device: torch.device) -> float:
    """Bytes that are free on the device; 0 where it shares the machine's."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()  # what this process keeps for later is free, too
    return float(torch.cuda.mem_get_info(device)[0])


def _report(dataset: Dataset, learnt: Learnt, job: Job, began: float, usd_per_second: float | None) -> dict[str, Any]:
    """What the training says of itself, JSON."""
    seconds = time.monotonic() - began
    gpu_seconds = seconds - learnt.seconds_here + learnt.seconds * job.options.processes
    usd = PRICES["second:*"] if usd_per_second is None else usd_per_second
    held = f"{len(job.tested)} held-out" if job.options.validation else "the training's own"
    found = learnt.to_json()
    found.pop("steps")  # the card has them
    return {
        **found, "device": job.device, "precision": job.dtype, "quantise": job.plan.quantise,
        "processes": job.options.processes, "gpu_seconds": round(gpu_seconds, 1),
        "cost_usd": round(gpu_seconds * usd, 4), "validation_on": f"{held} pictures",
        "photos": dataset.report["used"], "buckets": dataset.report["buckets"],
        "left_out": dataset.report["left_out"], "options": asdict(job.options),
    }  # fmt: skip


def _pack(
    out: Path, lora: Lora, card: dict[str, Any], learnt: Learnt, dataset: Dataset, job: Job, config: FluxConfig,
    reporter: Reporter,
) -> None:  # fmt: skip
    last = sorted((job.folder / "samples").glob(f"{learnt.steps:06d}_*.png"))
    parts: dict[str, Any] = {"config": config, "reporter": reporter}
    said = (card, dataset.captions, yaml_of(job.options), {path.name: path for path in last})
    try:
        package.write_package(out, halved(lora), *said, dtype="fp16", **parts)
    except ModelFileError as error:
        reporter.note(f"The LoRA is written with 32 bits a number: in 16 it would not be exact. ({error.message})")
        package.write_package(out, lora, *said, dtype="fp32", **parts)


def yaml_of(options: TrainOptions) -> str:
    """The options as a YAML file: a line each, its value as in JSON, which YAML reads."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in asdict(options).items())


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
