"""`zsxkib/sonic`: a portrait and a voice in, a video of the portrait singing out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vividcover import provenance
from vividcover.catalog.contract import Context, Inputs, Made, Model, uri
from vividcover.catalog.steps import decoded, face_kit
from vividcover.workspace import Stage, StageResult

CLASSIC_IGNORES = {"inference_steps": "the classic engine has no diffusion network"}


class SonicInput(Inputs):
    image: str = uri("Portrait; cropped around the face unless keep_resolution is set.")
    audio: str = uri("The voice, without music.")
    dynamic_scale: float = Field(default=1.0, ge=0.5, le=2.0, description="How much movement.")
    min_resolution: int = Field(default=512, ge=256, le=1024, description="px of the shorter side after cropping.")
    inference_steps: int = Field(default=25, ge=5, le=50, description="Diffusion steps.")
    keep_resolution: bool = Field(default=False, description="Keep the picture's own size and frame.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Random seed; given back when drawn.")


class Sonic(Model):
    name: ClassVar[str] = "zsxkib/sonic"
    description: ClassVar[str] = "A still and a voice become a singing portrait."
    Input: ClassVar[type[Inputs]] = SonicInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".mp4"
    media: ClassVar[frozenset[str]] = frozenset({"audio"})
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES}

    def hosted(self, input: SonicInput, context: Context) -> Made:
        from vividcover.catalog import remote

        values = remote.with_files(input, remote.values_of(input), context, self.media)
        return remote.made(self, remote.marked(self, remote.run(self, values, context), context, input.seed))

    def classic(self, input: SonicInput, context: Context) -> Made:
        still = context.file("image", input.image)
        voice = decoded(context, "audio", input.audio).path("audio.wav")
        rendered = self.portrait(input, still, voice, None, context)
        joined = joined_with_sound(
            context, "portrait/sound", rendered.path("portrait.mp4"), voice, self.name, "output.mp4"
        )
        return Made(
            joined.path("output.mp4"),
            details={"portrait": rendered.meta},
            parts={"silent": rendered.path("portrait.mp4")},
        )

    def portrait(self, input: SonicInput, still: Path, voice: Path, beat: Path | None, context: Context) -> StageResult:
        """`portrait.mp4`, without sound. `beat`: music for the light to move with."""
        from vividcover.portrait.classic.portrait import portrait

        kit = face_kit(context)
        assert input.seed is not None  # drawn by Model.run

        def compute(stage: Stage) -> None:
            report = portrait(
                still, voice, stage.folder / "portrait.mp4", kit=kit, beat=beat, min_resolution=input.min_resolution,
                keep_resolution=input.keep_resolution, dynamic_scale=input.dynamic_scale, seed=input.seed or 0,
                threads=context.settings.threads, reporter=stage,
            )  # fmt: skip
            stage.meta.update(report)

        inputs = {"still": still, "voice": voice} | ({"beat": beat} if beat else {})
        params = input.model_dump(include={"min_resolution", "keep_resolution", "dynamic_scale", "seed"})
        return context.stage("portrait/render", version=2, inputs=inputs, params=params, compute=compute)


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
