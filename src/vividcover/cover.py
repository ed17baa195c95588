"""The product on one page: the model `vividcover/cover`.

    A still      image model + "TOK on stage performing"                     ─► still.png
    B song       song + voice model: one separation, one conversion, two mixes ─► full mix; vocals alone
    C portrait   still + vocals alone                                        ─► portrait.mp4 (silent)
    D join       portrait + full mix                                         ─► cover.mp4

A and B do not need each other and run side by side. Every step is a model of the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vividcover.catalog import SHIPPED
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, uri, validated
from vividcover.catalog.flux_lora import FluxLora, FluxLoraInput, Ratio, size_of
from vividcover.catalog.realistic_voice_cloning import (
    LEFT_OUT,
    RealisticVoiceCloning,
    RealisticVoiceCloningInput,
    Tracker,
)
from vividcover.catalog.shelf import engine_of
from vividcover.catalog.sonic import Sonic, SonicInput, joined_with_sound
from vividcover.catalog.steps import face_kit
from vividcover.errors import EngineError, ImageError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.song.fetch import is_link

# How long the stages take, in seconds of one core per second of song (bench/cover.py): for the overall ETA only.
EXPECTED = {
    "fetch": 1.0, "song/decode": 0.02, "song/separate": 0.15, "voice/convert": 0.35, "image/still": 0.05,
    "image/paint": 0.3, "song/mix": 0.05, "song/vocals-alone": 0.05, "portrait/render": 0.8, "portrait/animate": 3.0,
    "cover/join": 0.02,
}  # fmt: skip
RETRY = "Try another seed or prompt (a portrait from the front), or give a picture as still. What was drawn: {}"
STILLS = {"classic": "image/still", "neural": "image/paint"}  # engine → the stage that draws
PORTRAITS = {"classic": "portrait/render", "neural": "portrait/animate"}  # engine → the stage that makes it sing
MENDED = ("straight_windows", "smooth_decoding", "smooth_listening")  # what a whole song gains from
OURS = ("portrait_mode", "portrait_processes", "idle_motion")  # inputs for a portrait by a network here; and …
NETWORKS = (*OURS, "portrait_resolution", "portrait_steps")  # … by a network anywhere

SINGING = RealisticVoiceCloningInput.model_fields  # inputs that are the song's are declared there


class CoverInput(Inputs):
    song: str = uri("The song: a file, a link to audio, or any page yt-dlp understands (YouTube and others).")
    voice: str = Field(min_length=1, description="Trained voice: a name, a path or a link.")
    image: str | None = Field(default=None, description="Trained image model: a name, a path or a link.")
    prompt: str = Field(
        default="TOK on stage performing", min_length=1, max_length=2000,
        description="The still; TOK (or the model's own trigger word) is the person.",
    )  # fmt: skip
    still: str | None = uri("A picture to use as the still, instead of image and prompt.", required=False)
    aspect_ratio: Ratio = Field(default="1:1", description="Of the video; custom uses width and height.")
    width: int | None = Field(default=None, ge=256, le=1440, description="px, with aspect_ratio custom.")
    height: int | None = Field(default=None, ge=256, le=1440, description="px, with aspect_ratio custom.")
    pitch_change: Literal["auto", "no-change", "male-to-female", "female-to-male"] = Field(
        default="auto", description="Octave of the vocals; auto: chosen from the song's range and the voice's."
    )
    index_rate: float = SINGING["index_rate"]  # type: ignore[assignment]
    protect: float = SINGING["protect"]  # type: ignore[assignment]
    rms_mix_rate: float = SINGING["rms_mix_rate"]  # type: ignore[assignment]
    main_vocals_volume_change: float = Field(
        default=-4, ge=-24, le=24,
        description="dB, of the main vocals. The published mix has them 5 dB forward; -4 keeps most songs' balance.",
    )  # fmt: skip
    backup_vocals_volume_change: float = Field(default=0, ge=-100, le=24, description="dB, of the backing vocals.")
    instrumental_volume_change: float = Field(default=0, ge=-59, le=24, description="dB, of the instrumental.")
    pitch_change_all: float = Field(default=0, ge=-12, le=12, description="Semitones, of everything: the song's key.")
    reverb_size: float = Field(default=0.15, ge=0, le=1, description="The larger the room, the longer the reverb.")
    reverb_wetness: float = Field(default=0.2, ge=0, le=1, description="Level of the vocals with reverb.")
    dynamic_scale: float = Field(default=1.0, ge=0.5, le=2.0, description="How much movement.")
    portrait_mode: Literal["exact", "fast"] = Field(
        default="exact", description="Of the neural portrait: as published, or with its speed-ups."
    )
    portrait_resolution: int = Field(
        default=512, ge=256, le=1024, description="px of the face's shorter side, as the neural portrait draws it."
    )
    portrait_steps: int = Field(default=25, ge=5, le=50, description="Diffusion steps of the neural portrait.")
    portrait_processes: int = Field(default=1, ge=1, le=64, description="Of the neural portrait: one per GPU.")
    idle_motion: bool = Field(default=False, description="The neural portrait moves quietly where nobody sings.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Random seed; given back when drawn.")
    pitch_detection_algorithm: Tracker = SINGING["pitch_detection_algorithm"]  # type: ignore[assignment]
    formant_shift: float = SINGING["formant_shift"]  # type: ignore[assignment]
    autotune: float = SINGING["autotune"]  # type: ignore[assignment]
    separator: str = SINGING["separator"]  # type: ignore[assignment]
    vocals_stem: str | None = SINGING["vocals_stem"]  # type: ignore[assignment]
    instrumental_stem: str | None = SINGING["instrumental_stem"]  # type: ignore[assignment]


class Cover(Model):
    name: ClassVar[str] = "vividcover/cover"
    together: ClassVar[str] = LARGE
    description: ClassVar[str] = "A song, a voice and a face become a video of that person singing the song."
    Input: ClassVar[type[Inputs]] = CoverInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    suffix: ClassVar[str] = ".mp4"
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {
        engine: {name: why for name, why in these.items() if name in CoverInput.model_fields}
        | (dict.fromkeys(OURS, "the hosted portrait has no such input") if engine == "hosted" else {})
        for engine, these in RealisticVoiceCloning.ignores.items()
    }

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        """Of a cover whose voice is a neural one: what the song needs. Still and portrait choose for themselves."""
        return RealisticVoiceCloning().neural_lacks(settings, self._singing(input) if input else None)

    def classic(self, input: CoverInput, context: Context) -> Made:
        return self._here(input, context, "classic")

    def neural(self, input: CoverInput, context: Context) -> Made:
        """The song in PyTorch. The still and the portrait by the best engine that is here for each."""
        for step in (*(() if input.still else (FluxLora(),)), Sonic()):
            if context.engine == "neural" and (lacks := step.neural_lacks(context.settings)):
                raise EngineError(
                    f"A cover by the neural engine alone is not possible here: {lacks}.",
                    "Use --engine auto: each step then runs on the best engine that is here for it.",
                )
        return self._here(input, context, "neural")

    def _here(self, input: CoverInput, context: Context, engine: Literal["classic", "neural"]) -> Made:
        """A to D on this machine; `engine` is the song's."""
        painter, singer, animator = FluxLora(), RealisticVoiceCloning(), Sonic()
        workspace = context.workspace
        painting, singing = self._painting(input), self._singing(input)
        draws = self._still_engine(painting, context) if not input.still else "given"
        acts = self._portrait_engine(context)
        for name in NETWORKS if acts == "classic" else ():
            if name in input.model_fields_set:
                context.cannot(name, getattr(input, name), "the portrait is made by the classic engine")
        workspace.expect(self._expected(input, draws, acts))
        face_kit(context)  # a net that is missing is said before the minutes of work, not after

        def still() -> Any:  # A
            if input.still:
                return context.file("still", input.still), {"given": input.still}
            if draws == "neural":
                drawn = painter.painted(painting, context)
            else:
                drawn = painter.still(painting, painting.seed or 0, *size_of(painting), context)
            return drawn.path(drawn.meta["file"]), drawn.meta["report"]

        def song() -> Any:  # B: once for the ear, once for the portrait
            stems = singer.stems(singing, context, engine)
            alone = singer.mix(singing.model_copy(update=ALONE), stems, context)
            return stems, alone

        if draws == "neural" and engine == "neural":  # one after the other: a GPU holds one large network at a time
            (picture, drawn), (stems, alone) = still(), song()
        else:
            (picture, drawn), (stems, alone) = workspace.parallel(still, song)

        acting = self._acting(input, str(picture), str(alone), acts)

        def portrait_of() -> Any:  # C
            try:
                return animator.portrait(acting, picture, alone, stems.instrumental, context, acts)
            except ImageError as error:
                if draws == "given":
                    raise
                raise ImageError(
                    f"The still that was drawn cannot sing: {error.message}", RETRY.format(picture)
                ) from None

        full, portrait = workspace.parallel(lambda: singer.mix(singing, stems, context), portrait_of)
        joined = joined_with_sound(  # D
            context, "cover/join", portrait.path("portrait.mp4"), full, self.name, "cover.mp4", stems.title, input.seed
        )
        return Made(
            joined.path("cover.mp4"),
            details={
                "engines": {"still": draws, "song": engine, "portrait": acts}, "still": drawn,
                **stems.details, "portrait": portrait.meta,
            },
            parts={
                "still": picture, "portrait": portrait.path("portrait.mp4"), "mix": full, "vocals": alone,
                "instrumental": stems.instrumental,
            },
        )  # fmt: skip

    def _still_engine(self, painting: FluxLoraInput, context: Context) -> str:
        """Who draws the still on this machine: whoever trained the image, if it is not said otherwise."""
        here = context.settings.model_copy(update={"replicate_token": "", "bfl_key": ""})
        painter = FluxLora()
        return painter.choose(context.engine, here, painter.reader(painting, context), painting)[0]

    def _portrait_engine(self, context: Context) -> Literal["classic", "neural"]:
        """Who makes the still sing: the neural engine where it was asked for, or is here with a GPU."""
        here = context.settings.model_copy(update={"replicate_token": "", "bfl_key": ""})
        chosen = Sonic().choose(context.engine, here)[0]
        return "neural" if chosen == "neural" else "classic"

    def _acting(self, input: CoverInput, picture: str, voice: str, engine: str) -> SonicInput:
        """What the portrait is asked for: all of the still, and of a network what does a whole song good."""
        network: dict[str, Any] = {}
        if engine == "neural":
            network = {
                "mode": input.portrait_mode,
                "processes": input.portrait_processes,
                "idle_motion": input.idle_motion,
                "paste_back": True,
                **dict.fromkeys(MENDED, True),
            }
        for name, ours in (("inference_steps", "portrait_steps"), ("min_resolution", "portrait_resolution")):
            if engine != "classic" and ours in input.model_fields_set:
                network[name] = getattr(input, ours)
        acting: SonicInput = validated(
            Sonic.name, SonicInput,
            {"image": picture, "audio": voice, "keep_resolution": True, "dynamic_scale": input.dynamic_scale,
             "seed": input.seed, **network},
        )  # fmt: skip
        return acting

    def reader(self, input: CoverInput, context: Context) -> tuple[str, str] | None:
        """The voice's engine, since it decides about the song; all of a cover is hosted, or none of it."""
        voice = engine_of("voice", input.voice, context)
        image = engine_of("image", input.image, context) if not input.still else None
        if voice and image and voice[0] != image[0] and "hosted" in (voice[0], image[0]):
            raise EngineError(f"One cover, two engines: {voice[1]}, and {image[1]}.", "Train both with the same one.")
        return voice or image

    def hosted(self, input: CoverInput, context: Context) -> Made:
        """The same four steps, A to C on the other side, each a run of its model there; D here."""
        from vividcover.catalog.steps import decoded

        painting, singing = self._painting(input), self._singing(input)
        singing = singing.model_copy(update={"output_format": "wav"})
        singing.model_fields_set.add("output_format")
        singer = RealisticVoiceCloning()

        def still() -> Path:  # A
            if input.still:
                return context.file("still", input.still)
            return _one(FluxLora().hosted(painting, context))

        def alone() -> Path:  # B, for the portrait
            quiet = singing.model_copy(update=ALONE)
            quiet.model_fields_set.update(ALONE)
            return _one(singer.hosted(quiet, context))

        picture, voice, full = context.workspace.parallel(still, alone, lambda: _one(singer.hosted(singing, context)))
        acting = self._acting(input, str(picture), str(voice), "hosted")
        portrait = _one(Sonic().hosted(acting, context))  # C
        mix = decoded(context, "mix", str(full), media=False)
        title = mix.meta["title"] or "cover"
        joined = joined_with_sound(  # D
            context, "cover/join", portrait, mix.path("audio.wav"), self.name, "cover.mp4", title, input.seed, "hosted"
        )
        parts = {"still": picture, "portrait": portrait, "mix": full, "vocals": voice}
        return Made(joined.path("cover.mp4"), details={"song": dict(mix.meta)}, parts=parts)

    def _expected(self, input: CoverInput, draws: str, acts: str) -> dict[str, float]:
        """The stages to come: a link is fetched first, and a given still is not drawn."""
        absent = set() if is_link(input.song) else {"fetch"}
        absent |= {stage for engine, stage in STILLS.items() if engine != draws}
        absent |= {stage for engine, stage in PORTRAITS.items() if engine != acts}
        return {name: seconds for name, seconds in EXPECTED.items() if name not in absent}

    def _painting(self, input: CoverInput) -> FluxLoraInput:
        if not input.image and not input.still:
            raise ParameterError(
                f"{self.name}: image is required.", "Give a trained image model, or a picture as still."
            )
        values = {k: getattr(input, k) for k in ("prompt", "aspect_ratio", "width", "height", "seed")}
        painting: FluxLoraInput = validated(
            FluxLora.name, FluxLoraInput, values | {"replicate_weights": input.image, "output_format": "png"}
        )
        size_of(painting)  # says what is wrong with the size before any work
        return painting

    def _singing(self, input: CoverInput) -> RealisticVoiceCloningInput:
        same = [k for k in CoverInput.model_fields if k in RealisticVoiceCloningInput.model_fields]
        values: dict[str, Any] = {k: getattr(input, k) for k in same}
        singing: RealisticVoiceCloningInput = validated(
            RealisticVoiceCloning.name,
            RealisticVoiceCloningInput,
            values | {"song_input": input.song, "rvc_model": input.voice},
        )
        return singing


def _one(made: Made) -> Path:
    assert isinstance(made.output, Path | list)
    one = made.output if isinstance(made.output, Path) else made.output[0]
    assert isinstance(one, Path)
    return one


# What the pipeline's second song call asks for: the same vocals, dry, with nothing beside them.
ALONE = {
    "instrumental_volume_change": LEFT_OUT, "backup_vocals_volume_change": LEFT_OUT, "main_vocals_volume_change": 0.0,
    "reverb_wetness": 0.0, "reverb_dryness": 1.0,
}  # fmt: skip


def models() -> dict[str, Model]:
    """Every model that can be run, by name."""
    return {model.name: model for model in (Cover(), *SHIPPED)}


def get(name: str) -> Model:
    """The model `owner/name`; a `:version` behind it is taken as the one that ships. Raises `NotFoundError`."""
    import difflib

    known = models()
    bare = name.partition(":")[0]
    if bare not in known:
        near = difflib.get_close_matches(bare, known, 1, 0.4)
        raise NotFoundError(
            f"There is no model {name!r}.",
            (f"Did you mean {near[0]}? " if near else "") + "`vividcover models` lists them all.",
        )
    return known[bare]
