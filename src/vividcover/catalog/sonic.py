"""`zsxkib/sonic`: a portrait and a voice in, a video of the portrait singing out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vividcover import provenance
from vividcover.catalog import animating
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, uri
from vividcover.catalog.steps import decoded, face_kit
from vividcover.portrait.sonic.config import SHORTEST
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

OURS = (
    "mode", "speedups", "paste_back", "straight_windows", "smooth_decoding", "smooth_listening", "idle_motion",
    "preview_every", "processes", "renderer",
)  # fmt: skip
NO_NETWORK = "the classic engine has no diffusion network"
CLASSIC_IGNORES = {"inference_steps": NO_NETWORK} | {
    name: NO_NETWORK for name in OURS if name not in ("paste_back", "idle_motion", "renderer")
} | {"idle_motion": "the classic engine always moves quietly where nobody sings"}  # fmt: skip


class SonicInput(Inputs):
    image: str = uri("Portrait; cropped around the face unless keep_resolution is set.")
    audio: str = uri("The voice, without music.")
    dynamic_scale: float = Field(default=1.0, ge=0.5, le=2.0, description="How much movement.")
    min_resolution: int = Field(default=512, ge=256, le=1024, description="px of the shorter side after cropping.")
    inference_steps: int = Field(default=25, ge=5, le=50, description="Diffusion steps.")
    keep_resolution: bool = Field(
        default=False,
        description="Keep the picture's own size: of the crop around the face, or of all of it with the classic engine "
        "or paste_back.",
    )
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Random seed; given back when drawn.")
    # what follows is not part of the published model
    mode: Literal["exact", "fast"] = Field(
        default="exact", description="exact: the published algorithm; fast: with the speed-ups, three times as quick."
    )
    speedups: str | None = Field(
        default=None, max_length=100,
        description="With mode fast, only these: schedule, guidance, features, silence, fp8 (commas between).",
    )  # fmt: skip
    paste_back: bool = Field(default=False, description="Put the moving face back into the whole picture.")
    straight_windows: bool = Field(
        default=False, description="Let the song's end and beginning not be drawn together, as the published code does."
    )
    smooth_decoding: bool = Field(default=False, description="Decode overlapping pieces: less flicker, more time.")
    smooth_listening: bool = Field(
        default=False, description="Hear overlapping pieces of the voice: no step every 30 s."
    )
    idle_motion: bool = Field(default=False, description="Move quietly where nobody sings, instead of freezing.")
    preview_every: int = Field(
        default=5, ge=0, le=50, description="Steps between two early looks at the video, where somebody looks; 0: none."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="One per GPU; they share the work of each step, and the video is the same."
    )
    renderer: str | None = Field(default=None, max_length=100, description="Who draws; empty: sonic, or classic.")


class Sonic(Model):
    name: ClassVar[str] = "zsxkib/sonic"
    description: ClassVar[str] = "A still and a voice become a singing portrait."
    Input: ClassVar[type[Inputs]] = SonicInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".mp4"
    media: ClassVar[frozenset[str]] = frozenset({"audio"})
    together: ClassVar[str] = LARGE
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "classic": CLASSIC_IGNORES, "hosted": dict.fromkeys(OURS, "it is not one of the published model's inputs"),
    }  # fmt: skip

    def neural_lacks(self, settings: Settings, input: SonicInput | None = None, training: bool = False) -> str:
        return animating.lacks(settings, input)

    def reader(self, input: SonicInput, context: Context) -> tuple[str, str] | None:
        """A renderer that was asked for belongs to one engine."""
        if not input.renderer:
            return None
        return animating.about(input).engine, f"the renderer {input.renderer} was asked for"

    def hosted(self, input: SonicInput, context: Context) -> Made:
        from vividcover.catalog import remote

        values = {k: v for k, v in remote.values_of(input).items() if k not in OURS}
        values = remote.with_files(input, values, context, self.media)
        return remote.made(self, remote.marked(self, remote.run(self, values, context), context, input.seed))

    def classic(self, input: SonicInput, context: Context) -> Made:
        if input.renderer:
            animating.check(input, "classic")
        return self._sounding(input, context, "classic")

    def neural(self, input: SonicInput, context: Context) -> Made:
        animating.check(input)  # what is wrong with its options is said before any work
        return self._sounding(input, context, "neural")

    def _sounding(self, input: SonicInput, context: Context, engine: Literal["classic", "neural"]) -> Made:
        still = context.file("image", input.image)
        voice = decoded(context, "audio", input.audio, min_seconds=SHORTEST).path("audio.wav")
        rendered = self.portrait(input, still, voice, None, context, engine)
        joined = joined_with_sound(
            context, "portrait/sound", rendered.path("portrait.mp4"), voice, self.name, "output.mp4",
            seed=input.seed, engine=engine,
        )  # fmt: skip
        return Made(
            joined.path("output.mp4"),
            details={"portrait": rendered.meta},
            parts={"silent": rendered.path("portrait.mp4")},
        )

    def portrait(
        self, input: SonicInput, still: Path, voice: Path, beat: Path | None, context: Context,
        engine: Literal["classic", "neural"] = "classic",
    ) -> StageResult:  # fmt: skip
        """`portrait.mp4`, without sound. `beat`: music for light or camera to move with."""
        if engine == "neural" or input.renderer not in (None, "", "classic"):
            return animating.animated(input, still, voice, beat, context, engine)
        from vividcover.portrait.classic.portrait import portrait

        kit = face_kit(context)
        assert input.seed is not None  # drawn by Model.run
        whole = input.keep_resolution or input.paste_back

        def compute(stage: Stage) -> None:
            report = portrait(
                still, voice, stage.folder / "portrait.mp4", kit=kit, beat=beat, min_resolution=input.min_resolution,
                keep_resolution=whole, dynamic_scale=input.dynamic_scale, seed=input.seed or 0,
                threads=context.settings.threads, reporter=stage,
            )  # fmt: skip
            stage.meta.update(report)

        inputs = {"still": still, "voice": voice} | ({"beat": beat} if beat else {})
        params = input.model_dump(include={"min_resolution", "dynamic_scale", "seed"}) | {"keep_resolution": whole}
        return context.stage("portrait/render", version=3, inputs=inputs, params=params, compute=compute)


def joined_with_sound(
    context: Context,
    name: str,
    video: Path,
    sound: Path,
    model: str,
    file: str,
    title: str = "",
    seed: int | None = None,
    engine: str = "classic",
) -> StageResult:
    """`file`: the video, untouched, with the sound beside it and the marks inside."""
    from vividcover.song import codec

    tags = provenance.tags(title or Path(file).stem, model, engine, seed)

    def compute(stage: Stage) -> None:
        codec.mux(video, sound, stage.folder / file, tags=tags, reporter=stage)

    return context.stage(
        name, version=1, inputs={"video": video, "sound": sound}, params={"tags": tags, "file": file}, compute=compute
    )
