"""`zsxkib/create-rvc-dataset`: a link or recordings in, a zip of `dataset/<name>/split_<i>.wav` out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vividcover.catalog import engines
from vividcover.catalog.contract import Context, Inputs, Made, Model, uri
from vividcover.catalog.singing import resolver
from vividcover.catalog.steps import files_of
from vividcover.errors import EngineError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage

if TYPE_CHECKING:
    from vividcover.song.separators.contract import Separator


class CreateRvcDatasetInput(Inputs):
    youtube_url: str = uri("Link to a recording (YouTube, any page yt-dlp knows, or audio), a file, a folder or a zip.")
    audio_name: str = Field(
        default="rvc_v2_voices", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the dataset and of the folder inside the zip.",
    )  # fmt: skip
    # what follows is not part of the published model
    dereverb: Literal["off", "auto", "all"] = Field(
        default="off", description="Take the room off the voice: where it is heard (auto), or everywhere. Needs a net."
    )


class CreateRvcDataset(Model):
    name: ClassVar[str] = "zsxkib/create-rvc-dataset"
    description: ClassVar[str] = "Create a voice dataset from a link or from recordings."
    Input: ClassVar[type[Inputs]] = CreateRvcDatasetInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".zip"
    synthetic: ClassVar[bool] = False
    wants_gpu: ClassVar[bool] = False
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "hosted": {"dereverb": "it is not one of the published model's inputs"}
    }

    def hosted(self, input: CreateRvcDatasetInput, context: Context) -> Made:
        from vividcover.catalog import remote
        from vividcover.song.fetch import is_link

        if not is_link(input.youtube_url):
            raise EngineError(f"{self.name} on the hosted engine takes links only.", "Use --engine classic for files.")
        context.inputs["youtube_url"] = {"source": input.youtube_url}
        values = {k: v for k, v in remote.values_of(input).items() if k != "dereverb"}
        return remote.made(self, remote.run(self, values, context))

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        """Music can be taken away by a net when one is here; without a GPU, by a quick one."""
        if lacks := engines.missing(settings, ()):
            return lacks
        return "" if _separator(settings) else "no weights that take music away are here"

    def classic(self, input: CreateRvcDatasetInput, context: Context) -> Made:
        path = context.file("youtube_url", input.youtube_url, media=True, folder=True)
        return self.from_recordings([path], input.audio_name, context, dereverb=input.dereverb)

    def neural(self, input: CreateRvcDatasetInput, context: Context) -> Made:
        path = context.file("youtube_url", input.youtube_url, media=True, folder=True)
        return self.from_recordings([path], input.audio_name, context, dereverb=input.dereverb, engine="neural")

    def from_recordings(
        self, recordings: list[Path], name: str, context: Context, isolate: str = "auto", *, dereverb: str = "off",
        engine: str = "classic",
    ) -> Made:  # fmt: skip
        """The same from files, folders and zips on this machine.

        `isolate`: "auto", "yes" or "no"; `dereverb`: "off", "auto" or "all", which needs a net on either engine.
        """
        from vividcover.voice import dataset

        for key, value, choices in (
            ("isolate", isolate, ("auto", "yes", "no")), ("dereverb", dereverb, ("off", "auto", "all"))
        ):  # fmt: skip
            if value not in choices:
                raise ParameterError(f"{key}={value!r} is not a choice.", f"Use {', '.join(choices)}.")
        files = files_of(recordings)
        file = f"dataset_{name}.zip"
        wish: Literal["auto"] | bool = "auto" if isolate == "auto" else isolate == "yes"
        takes_music = _separator(context.settings) if engine == "neural" else ""
        takes_room = _needed_net("dereverb", context) if dereverb != "off" else ""

        def compute(stage: Stage) -> None:
            options = dataset.Options(
                wish, _loaded(takes_music, "vocals", context), _loaded(takes_room, "dereverb", context),
                "all" if dereverb == "all" else "auto", threads=context.settings.threads,
            )  # fmt: skip
            stage.meta["report"] = dataset.make_dataset(
                recordings, stage.folder / file, name=name, options=options, reporter=stage
            )

        made = context.stage(
            "voice/dataset", version=3, inputs={str(i): f for i, f in enumerate(files)},
            params={"name": name, "isolate": isolate, "separator": takes_music, "dereverb": [dereverb, takes_room]},
            compute=compute,
        )  # fmt: skip
        return Made(made.path(file), details={"report": made.meta["report"]})


def _separator(settings: Settings) -> str:
    """The best net here that takes music away: one that is not slow, where there is no GPU; "" where there is none."""
    return _best("vocals", settings)


def _needed_net(stage: Literal["vocals", "dereverb"], context: Context) -> str:
    """The best net here for a stage. Raises `EngineError` with what to pull."""
    if lacks := engines.missing(context.settings, ()):
        raise EngineError(f"dereverb: {lacks}.", "Leave it off, or record in a room with curtains and carpets.")
    if found := _best(stage, context.settings):
        return found
    raise EngineError(
        "dereverb: no weights that take the room off a voice are here.",
        "Run `vividcover weights pull uvr_mdx_reverb_hq` (a CPU will do) or mel_band_roformer_dereverb (wants a GPU).",
    )


def _best(stage: Literal["vocals", "dereverb"], settings: Settings) -> str:
    from vividcover import weights
    from vividcover.song.separators import known

    gpu = engines.gpu_present()
    for one in known.ranked(stage, gpu):
        if (gpu or not one.slow) and known.serves(one, settings.device) and weights.has(one.weights, settings.weights):
            return one.name
    return ""


def _loaded(name: str, stage: Literal["vocals", "dereverb"], context: Context) -> Separator | None:
    if not name:
        return None
    from vividcover.song.separators import known

    one, place = known.known(name, stage), context.settings
    return known.load(one, resolver(context), device=place.device, threads=place.threads)
