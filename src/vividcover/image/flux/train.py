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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vividcover.errors import ConsentError, EngineError, ModelFileError, ParameterError
from vividcover.files import canonical
from vividcover.image import captions
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.image.flux import package
from vividcover.image.flux.checkpoint import read_config
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.course import Job, course_of
from vividcover.image.flux.encode import encode, identity, key_of, split
from vividcover.image.flux.loop import Learnt, learn
from vividcover.image.flux.lorafile import read_lora
from vividcover.image.flux.opening import BaseFiles, open_base
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import fit
from vividcover.image.flux.trainee import halved
from vividcover.prices import PRICES
from vividcover.progress import Part
from vividcover.tensors import pick_device, pick_dtype, require, use_threads
from vividcover.weights import Resolver
from vividcover.weights.licences import licence_of
from vividcover.workspace import Reporter, Silent

__all__ = ["TrainOptions", "train_lora"]
PREPARED, CAPTIONED, ENCODED, LEARNT = 0.02, 0.06, 0.12, 0.98  # of the whole


def train_lora(
    source: Path, out: Path, options: TrainOptions, *, base: BaseFiles, work: Path, consent: str, name: str,
    reporter: Reporter | None = None, weights: Resolver | None = None, device: str = "auto", threads: int = 0,
    wandb_key: str | None = None, usd_per_second: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the LoRA's tar to `out` and returns its card, which is the report.

    `source`: a zip or a folder of photos. `base`: dev or schnell. `weights`: for the captioner. `threads`: processor
    cores; 0: as torch finds them. Raises `ConsentError`, `ImageError` when no photo can be used,
    `ParameterError`, `WeightsError` for weights that are not there, `EngineError`, `Canceled` (the state is kept).
    """
    reporter, began = reporter or Silent(), time.monotonic()
    require()
    if not consent.strip():
        raise ConsentError(
            f"The image model {name!r} cannot be trained without consent.",
            'Say whose pictures these are and that they agree: --consent "It is me."',
        )
    if base.kind not in ("dev", "schnell"):
        raise ParameterError(
            f"A LoRA cannot be trained on {base.kind!r}.", "Train it on dev: the others can wear it too."
        )
    licence = licence_of(base.kind, doing="training")
    reporter.note(licence.text)
    where = pick_device(device)
    dtype = _dtype(where, options.precision)
    if threads:
        use_threads(threads)
    work.mkdir(parents=True, exist_ok=True)

    dataset = _dataset(Path(source), work, options, Part(reporter, 0.0, PREPARED))
    dataset = captions.caption(
        dataset, options.captioner, prefix=options.caption_prefix, suffix=options.caption_suffix, weights=weights,
        device=device, reporter=Part(reporter, PREPARED, CAPTIONED),
    )  # fmt: skip
    config = read_config(base.transformer)
    plan = fit(_memory(where), config, options)
    opened = open_base(base, device=where, dtype=dtype, quantise=plan.quantise)
    lessons_key = key_of(dataset, options, base, dtype)
    folder = work / f"set-{lessons_key}"
    on_disk = options.cache_to_disk or options.processes > 1
    lessons = encode(
        opened, dataset, options, folder, Part(reporter, CAPTIONED, ENCODED), on_disk=on_disk, key=lessons_key
    )
    if not options.sample_prompts:
        opened.release("vae")
    taught, tested = split(lessons, options.validation)

    key = _key(lessons_key, canonical(options.mathematics()), canonical(identity(base.transformer)), plan.quantise)
    job = Job(
        name, base, folder, lessons_key, taught, tested, work / f"training-{key}", key, options, plan, str(where),
        "bf16" if dtype == torch.bfloat16 else "fp32", threads, wandb_key,
    )  # fmt: skip
    teaching = Part(reporter, ENCODED, LEARNT)
    if options.processes > 1:
        from vividcover.image.flux.together import learn_together

        opened.release("vae")
        learnt = learn_together(job, where, teaching)
    else:
        learnt = learn(course_of(job, where, base=opened, lessons=lessons), teaching)

    reporter.progress(LEARNT, "packing")
    report = _report(dataset, learnt, job, began, usd_per_second, held=len(tested) if options.validation else 0)
    card = package.card(
        name, trigger_word=options.trigger_word, type=options.kind, consent=consent.strip(), base=base.kind,
        rank=options.rank, steps=report.pop("steps"), licence=licence.text, commercial=licence.commercial,
        dataset_sha256=dataset.report["hash"], **report,
    )  # fmt: skip
    _pack(Path(out), card, learnt, dataset, job, config, reporter)
    reporter.progress(1.0, "done")
    return card


def _dataset(source: Path, work: Path, options: TrainOptions, reporter: Reporter) -> Dataset:
    smallest = min(256, options.resolutions[0])
    wanted = DatasetOptions(options.trigger_word, options.kind, options.resolutions, smallest)
    dataset = prepare(source, work / "photos", wanted, reporter)
    if options.background < 1.0:
        from vividcover.image import masks

        dataset = masks.add(dataset, reporter)
    return dataset


def _dtype(device: torch.device, precision: str) -> torch.dtype:
    if precision == "fp16":
        raise ParameterError("FLUX's activations overflow in fp16.", "Choose bf16 or fp32.")
    return pick_dtype(device, precision)


def _memory(device: torch.device) -> float:
    """Bytes that are free on the device; 0 where it shares the machine's."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0.0


def _report(
    dataset: Dataset, learnt: Learnt, job: Job, began: float, usd_per_second: float | None, held: int
) -> dict[str, Any]:
    """What the training says of itself, JSON."""
    seconds = time.monotonic() - began
    gpu_seconds = seconds - learnt.seconds_here + learnt.seconds * job.options.processes
    usd = PRICES["second:*"] if usd_per_second is None else usd_per_second
    return {
        **learnt.to_json(), "device": job.device, "precision": job.dtype, "quantise": job.plan.quantise,
        "processes": job.options.processes, "gpu_seconds": round(gpu_seconds, 1),
        "cost_usd": round(gpu_seconds * usd, 4), "validation_on": f"{held} held-out" if held else "the training's own",
        "photos": dataset.report["used"], "buckets": dataset.report["buckets"],
        "left_out": dataset.report["left_out"],
        "options": asdict(job.options),
    }  # fmt: skip


def _pack(
    out: Path, card: dict[str, Any], learnt: Learnt, dataset: Dataset, job: Job, config: FluxConfig, reporter: Reporter
) -> None:
    lora = read_lora(learnt.file, config)
    last = sorted((job.folder / "samples").glob(f"{learnt.steps:06d}_*.png"))
    if not last and job.options.sample_prompts:
        raise EngineError("The sample pictures of the last step are missing.", "Run the training again.")
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
