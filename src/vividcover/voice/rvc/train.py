"""Recordings in, a voice out: the training of an RVC voice, from top to bottom.

    report = train_voice(
        Path("dataset_ana.zip"), Path("ana.zip"), TrainOptions(epochs=100), weights=weights, work=folder,
        consent="It is my own voice.", name="ana", reporter=stage,
    )

`work` holds everything on the way: the training set, the newest state, voices, samples and losses. Called again with
the same recordings and options, also after a kill, a training goes on where it stood, and ends in the same voice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
import torch

from vividcover.errors import ConsentError, ParameterError
from vividcover.files import canonical, sha256_file
from vividcover.progress import Part
from vividcover.song.codec import decode
from vividcover.song.pcm import read_pcm
from vividcover.tensors import pick_device, pick_dtype, require, use_threads
from vividcover.voice.recordings import open_dataset
from vividcover.voice.rvc import index, package
from vividcover.voice.rvc.config import RvcConfig, Version, config_of, tiny
from vividcover.voice.rvc.data import TrainingSet
from vividcover.voice.rvc.learn import Learnt, Lesson, learn
from vividcover.voice.rvc.live import Sample
from vividcover.voice.rvc.prepare import HEARD, Array, Features, Pitch, prepare
from vividcover.workspace import Reporter, Silent

PREPARED, LEARNT = 0.15, 0.97  # of the whole: when the set is there, when the voice is
SAMPLE_SECONDS = 10.0  # of another's recording that is sung while training
Ears = Callable[[], tuple[Features, Pitch]]


class Weights(Protocol):
    """Where files of weights are: the registry, or whatever has its `path`."""

    def path(self, name: str) -> Path: ...


@dataclass(frozen=True)
class TrainOptions:
    """How a voice is trained. The first seven are the published model's inputs, with its defaults."""

    sample_rate: str = "48k"  # 32k, 40k, 48k
    version: Version = "v2"
    f0method: str = "rmvpe_gpu"
    epochs: int = 10
    batch_size: int = 7
    f0: bool = True  # False: a voice that only speaks, without a pitch of its own
    speaker: int = 0
    learning_rate: float = 1e-4
    pretrained: str | tuple[Path, Path] = "auto"  # "none", or own files (G, D)
    save_every: int = 50  # epochs between two kept voices
    keep: int = 3  # how many of them
    sample: Path | None = None  # someone else's recording, to be sung while training
    listen_every: int = 0  # epochs between two samples; 0: about twenty in all
    patience: int = 0  # epochs without getting better before a hint; 0: a tenth of all, 10 at least
    stop_early: bool = False  # stop there instead
    tensorboard: bool = False
    precision: str = "auto"  # fp32, bf16, fp16
    device: str = "auto"
    processes: int = 1  # one per GPU, started by torch's launcher
    threads: int = 0  # processor cores; 0: as torch finds them
    seed: int = 1234
    small: bool = False  # a network of 1/60 of the size: minutes on a CPU, for trying things out
    state_seconds: float = 600.0  # between two states that a killed training goes on from

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "save_every", "keep", "processes"):
            if getattr(self, field) < 1:
                raise ParameterError(f"{field} is {getattr(self, field)}.", "Choose 1 or more.")
        if not 0 < self.learning_rate <= 0.1:
            raise ParameterError(f"The learning rate is {self.learning_rate}.", "The published one is 0.0001.")

    @property
    def config(self) -> RvcConfig:
        return (tiny if self.small else config_of)(self.version, self.sample_rate)

    def mathematics(self) -> dict[str, Any]:
        """What decides which voice comes out, the number of epochs aside."""
        names = ("sample_rate", "version", "f0method", "batch_size", "f0", "speaker", "learning_rate", "seed", "small")
        return {name: getattr(self, name) for name in names}


def train_voice(
    dataset: Path, out: Path, options: TrainOptions, *, weights: Weights, work: Path, consent: str, name: str,
    reporter: Reporter | None = None, ears: Ears | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the voice's zip to `out` and returns its card.

    `dataset`: a zip, a folder or one recording, in any layout. `ears` gives the finders of content and pitch; by
    default ContentVec and `f0method`, from `weights`. Raises `ConsentError`, `AudioError` when nothing can be used,
    `WeightsError` for weights that are not there, `Canceled` (the state is kept).
    """
    reporter = reporter or Silent()
    require()
    if not consent.strip():
        raise ConsentError(
            f"The voice {name!r} cannot be trained without consent.",
            'Say whose voice it is and that they agree: --consent "It is my own voice."',
        )
    config, device = options.config, pick_device(options.device)
    if options.threads:
        use_threads(options.threads)
    ears = ears or (lambda: _ears(options, weights, device))
    pretrained = _pretrained(options, weights)  # before any work, so that missing weights are said at once

    recordings = open_dataset(Path(dataset), work / "recordings", reporter=reporter)
    digest = package.dataset_digest([sha256_file(path) for path in recordings])
    heard = _key(digest, options.f0method, str(config.rate), options.version)
    clips = prepare_once(recordings, work / f"set-{heard}", options, heard, ears, Part(reporter, 0.0, PREPARED))

    key = _key(heard, canonical(options.mathematics()), *(sha256_file(path) for path in pretrained or ()))
    folder = work / f"training-{key}"
    lesson = Lesson(name, clips, folder, options, pretrained, device, training_dtype(device, options.precision))
    samples = _samples(options, clips, ears, work)
    learnt = learn(lesson, samples, Part(reporter, PREPARED, LEARNT))

    reporter.progress(LEARNT, "packing")
    card = package.card(
        name, consent.strip(), clips.report, learnt.to_json(), version=options.version, rate=config.rate,
        f0=options.f0, dataset_sha256=digest,
    )  # fmt: skip
    return _pack(Path(out), name, options.version, clips, learnt, card, folder, reporter)


def prepare_once(
    recordings: list[Path], folder: Path, options: TrainOptions, key: str, ears: Ears, reporter: Reporter
) -> TrainingSet:
    """The training set, found again or made. (The nets that listen are loaded only if they are needed.)"""
    loaded: list[tuple[Features, Pitch]] = []

    def ear(which: int) -> Callable[[Array], Array]:
        def listen(sound: Array) -> Array:
            loaded.extend([] if loaded else [ears()])
            return loaded[0][which](sound)

        return listen

    speakers = [options.speaker] * len(recordings)
    return prepare(
        recordings, folder, options.config, features=ear(0), pitch=ear(1), fingerprint=key, speakers=speakers,
        reporter=reporter,
    )  # fmt: skip


def _pack(
    out: Path, name: str, version: str, clips: TrainingSet, learnt: Learnt, card: dict[str, Any], folder: Path,
    reporter: Reporter,
) -> dict[str, Any]:  # fmt: skip
    content = clips.content()
    made = index.build(content, folder, name=name, version=version)
    package.write_package(
        out, name=name, voice=learnt.voice, index=made, features=content, card=card, reporter=reporter
    )
    reporter.progress(1.0, "done")
    return card


def training_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The number format of the networks while they learn; weights and sums stay float32.

    `auto` is bfloat16 where the device multiplies it in hardware (also a CPU with AMX), float16 on older CUDA devices
    as RVC does, else float32.
    """
    if precision == "auto" and device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    if precision == "auto" and device.type == "cuda" and pick_dtype(device) == torch.float32:
        return torch.float16
    return pick_dtype(device, precision)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _ears(options: TrainOptions, weights: Weights, device: torch.device) -> tuple[Features, Pitch]:
    """ContentVec, and the pitch tracker of `f0method`."""
    from vividcover.voice.rvc.hubert import ContentVec
    from vividcover.voice.rvc.pitch import Tracker

    tracker = Tracker(options.f0method, weights=weights, device=device)  # reads its net once, for all clips
    net = ContentVec.load(weights.path("contentvec"), device, pick_dtype(device))

    def features(sound: Array) -> Array:
        found: Array = net.features(torch.from_numpy(sound), options.version).cpu().numpy()
        return found

    return features, tracker


def _pretrained(options: TrainOptions, weights: Weights) -> tuple[Path, Path] | None:
    """The files of generator and critics that training starts from."""
    if isinstance(options.pretrained, tuple):
        return options.pretrained
    if options.pretrained == "none" or options.small:
        return None
    if options.pretrained != "auto":
        raise ParameterError(f"pretrained is {options.pretrained!r}.", "Choose auto, none, or two files (G and D).")
    stem, rate = f"pretrained_{options.version}_{'f0' if options.f0 else ''}", f"{options.config.rate // 1000}k"
    return weights.path(f"{stem}G{rate}"), weights.path(f"{stem}D{rate}")


def _samples(options: TrainOptions, clips: TrainingSet, ears: Ears, work: Path) -> list[Sample]:
    """Someone else's recording, moved by octaves to where the voice is."""
    if options.sample is None:
        return []
    features, pitch = ears()
    pcm = work / "sample.wav"
    decode(Path(options.sample), pcm, rate=HEARD, channels=1, min_seconds=0.5, max_seconds=3600.0)
    sound = read_pcm(pcm)[0][0, : int(SAMPLE_SECONDS * HEARD)]
    sound = soxr.resample(sound, HEARD, HEARD).astype(np.float32)
    content, f0 = features(sound[None])[0], pitch(sound)
    own = (clips.report.get("f0_hz") or {}).get("median")
    if own and (f0 > 0).any():
        f0 = f0 * np.float32(2.0 ** round(float(np.log2(own / np.median(f0[f0 > 0])))))
    frames = min(2 * len(content), len(f0))
    return [
        Sample(
            "sample", torch.from_numpy(content.repeat(2, axis=0)[None, :frames]), torch.from_numpy(f0[None, :frames]),
            torch.tensor([options.speaker]),
        )
    ]  # fmt: skip
