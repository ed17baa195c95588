"""`replicate/train-rvc-model`: a dataset zip in, a voice model out."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vividcover.catalog import voice_learning
from vividcover.catalog.contract import Context, Inputs, Made, Model, uri
from vividcover.catalog.steps import files_of
from vividcover.errors import ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, sha256_file

OURS = (
    "learning_rate", "pretrained", "save_every", "sample_recording", "stop_early", "tensorboard", "processes", "small",
)  # fmt: skip
PUBLISHED_METHODS = ("pm", "dio", "harvest", "rmvpe", "rmvpe_gpu")
CLASSIC_IGNORES = {
    "sample_rate": "the classic engine analyses at a rate of its own and sings at 44.1 kHz",
    "version": "it chooses the RVC network; the classic engine has none",
    "f0method": "the classic engine has one pitch tracker of its own",
    "epoch": "the classic engine learns in one pass over all the recordings",
    "batch_size": "the classic engine learns in one pass over all the recordings",
} | dict.fromkeys(OURS, "the classic engine has no network to train")
HOSTED_IGNORES = dict.fromkeys(OURS, "it is not one of the published model's inputs")


class TrainRvcModelInput(Inputs):
    dataset_zip: str = uri("Dataset zip with `dataset/<rvc_name>/split_<i>.wav`; any zip, folder or recording will do.")
    sample_rate: Literal["32k", "40k", "48k"] = Field(default="48k", description="Sample rate.")
    version: Literal["v1", "v2"] = Field(default="v2", description="RVC version.")
    f0method: Literal["pm", "dio", "harvest", "rmvpe", "rmvpe_gpu", "fcpe", "crepe", "crepe-tiny"] = Field(
        default="rmvpe_gpu", description="F0 method, `rmvpe_gpu` recommended."
    )
    epoch: int = Field(default=10, ge=1, le=100_000, description="Passes over the dataset.")
    batch_size: str = Field(default="7", pattern=r"^[1-9][0-9]{0,3}$", description="Batch size.")
    # what follows is not part of the published model
    learning_rate: float = Field(default=1e-4, gt=0, le=0.1, description="Of both networks.")
    pretrained: Literal["auto", "none"] = Field(
        default="auto", description="auto: start from the published weights; none: from nothing, which takes days."
    )
    save_every: int = Field(default=50, ge=1, le=100_000, description="Epochs between two voices kept on the way.")
    sample_recording: str | None = uri("Somebody's recording, sung in the voice while it learns.", required=False)
    stop_early: bool = Field(default=False, description="Stop when a held-out clip gets no better.")
    tensorboard: bool = Field(default=False, description="Also write TensorBoard's files.")
    processes: int = Field(default=1, ge=1, le=64, description="One per GPU.")
    small: bool = Field(default=False, description="A network of a sixtieth of the size, to try things out on a CPU.")


class TrainRvcModel(Model):
    name: ClassVar[str] = "replicate/train-rvc-model"
    description: ClassVar[str] = "Train a voice model on a dataset."
    Input: ClassVar[type[Inputs]] = TrainRvcModelInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".zip"
    synthetic: ClassVar[bool] = False
    pinned: ClassVar[str] = "cf360587a27f67500c30fc31de1e0f0f9aa26dcd7b866e6ac937a07bd104bad9"
    needs_consent: ClassVar[bool] = True
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES, "hosted": HOSTED_IGNORES}

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        return voice_learning.lacks(settings, input)

    def neural(self, input: TrainRvcModelInput, context: Context) -> Made:
        source = context.file("dataset_zip", input.dataset_zip, media=True, folder=True)
        return voice_learning.learnt([source], _voice_name(source), input, context)

    def classic(self, input: TrainRvcModelInput, context: Context) -> Made:
        source = context.file("dataset_zip", input.dataset_zip, media=True, folder=True)
        return self.from_recordings([source], _voice_name(source), context)

    def hosted(self, input: TrainRvcModelInput, context: Context) -> Made:
        source = context.file("dataset_zip", input.dataset_zip, media=True)
        return self._trained_there(source, _voice_name(source), input, context)

    def hosted_from_recordings(
        self, sources: list[Path], name: str, input: TrainRvcModelInput, context: Context
    ) -> Made:
        """A dataset made here and learned there."""
        from vividcover.catalog.create_rvc_dataset import CreateRvcDataset

        dataset = CreateRvcDataset().from_recordings(sources, name, context)
        assert isinstance(dataset.output, Path)
        return self._trained_there(dataset.output, name, input, context)

    def _trained_there(self, dataset: Path, name: str, input: TrainRvcModelInput, context: Context) -> Made:
        from vividcover.catalog import remote

        values = {k: v for k, v in remote.values_of(input).items() if k not in OURS}
        if values.get("f0method", "rmvpe") not in PUBLISHED_METHODS or values.get("sample_rate") == "32k":
            raise ParameterError(
                f"The published model has neither f0method {input.f0method!r} nor sample_rate 32k.",
                f"Choose one of {', '.join(PUBLISHED_METHODS)} and 40k or 48k, or use --engine neural.",
            )
        done = remote.run(self, values | {"dataset_zip": dataset}, context)
        model = remote.wrapped("voice", name, done, context)
        return Made(model.path(f"{name}.zip"), {"hosted": done.meta["hosted"], "report": {}})

    def from_recordings(self, sources: list[Path], name: str, context: Context) -> Made:
        """The same from zips, folders and files on this machine, under a name of the caller's."""
        from vividcover.voice.classic import train
        from vividcover.voice.recordings import open_dataset

        files = files_of(sources)
        file = f"{name}.zip"

        def compute(stage: Stage) -> None:
            unpacked = stage.folder / "unpacked"
            clips = [
                clip
                for i, source in enumerate(sources)
                for clip in open_dataset(source, unpacked / str(i), reporter=stage)
            ]
            clips.sort(key=sha256_file)  # the same recordings in another order give the same model
            stage.meta["report"] = train.train(
                clips, stage.folder / file, name=name, consent=context.consent, threads=context.settings.threads,
                reporter=stage,
            )  # fmt: skip
            shutil.rmtree(unpacked, ignore_errors=True)

        hashes = sorted(context.workspace.hash_of(f) for f in files)
        made = context.stage(
            "voice/train", version=2, inputs={}, params={"clips": hashes, "name": name, "consent": context.consent},
            compute=compute,
        )  # fmt: skip
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return Made(made.path(file), details={"report": made.meta["report"], "dataset_sha256": digest})


def _voice_name(source: Path) -> str:
    """The seed names the voice after `dataset/<rvc_name>/`; else the file's own name is used."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.namelist():
                if found := re.fullmatch(r"dataset/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/[^/]+", entry):
                    return found[1]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", source.stem.removeprefix("dataset_")).strip("._-")[:64]
    return stem or "voice"
