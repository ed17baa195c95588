"""`zsxkib/create-rvc-dataset`: a link or recordings in, a zip of `dataset/<name>/split_<i>.wav` out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vividcover.catalog.contract import Context, Inputs, Made, Model, uri
from vividcover.catalog.steps import files_of
from vividcover.errors import EngineError, ParameterError
from vividcover.workspace import Stage


class CreateRvcDatasetInput(Inputs):
    youtube_url: str = uri("Link to a recording (YouTube, any page yt-dlp knows, or audio), a file, a folder or a zip.")
    audio_name: str = Field(
        default="rvc_v2_voices", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the dataset and of the folder inside the zip.",
    )  # fmt: skip


class CreateRvcDataset(Model):
    name: ClassVar[str] = "zsxkib/create-rvc-dataset"
    description: ClassVar[str] = "Create a voice dataset from a link or from recordings."
    Input: ClassVar[type[Inputs]] = CreateRvcDatasetInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".zip"
    synthetic: ClassVar[bool] = False

    def hosted(self, input: CreateRvcDatasetInput, context: Context) -> Made:
        from vividcover.catalog import remote
        from vividcover.song.fetch import is_link

        if not is_link(input.youtube_url):
            raise EngineError(f"{self.name} on the hosted engine takes links only.", "Use --engine classic for files.")
        context.inputs["youtube_url"] = {"source": input.youtube_url}
        return remote.made(self, remote.run(self, remote.values_of(input), context))

    def classic(self, input: CreateRvcDatasetInput, context: Context) -> Made:
        path = context.file("youtube_url", input.youtube_url, media=True, folder=True)
        return self.from_recordings([path], input.audio_name, context)

    def from_recordings(self, recordings: list[Path], name: str, context: Context, isolate: str = "auto") -> Made:
        """The same from files, folders and zips on this machine. `isolate`: "auto", "yes" or "no"."""
        from vividcover.voice import dataset

        if isolate not in ("auto", "yes", "no"):
            raise ParameterError(f"isolate={isolate!r} is not a choice.", "Use auto, yes or no.")
        files = files_of(recordings)
        file = f"dataset_{name}.zip"
        wish: Literal["auto"] | bool = "auto" if isolate == "auto" else isolate == "yes"

        def compute(stage: Stage) -> None:
            report = dataset.make_dataset(recordings, stage.folder / file, name=name, isolate=wish, reporter=stage)
            stage.meta["report"] = report

        made = context.stage(
            "voice/dataset", version=2, inputs={str(i): f for i, f in enumerate(files)},
            params={"name": name, "isolate": isolate}, compute=compute,
        )  # fmt: skip
        return Made(made.path(file), details={"report": made.meta["report"]})
