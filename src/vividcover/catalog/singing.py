"""How a song is taken apart and its vocals converted, on the classic engine and on the neural one.

    parts = parted(input, song, context, engine)      # vocals, instrumental, backing: separated, or the user's own
    sung = sung_by(voice, parts.vocals, input, context, engine)

Both calls of a cover's song (full mix; vocals alone) go through here and share every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vividcover.catalog import engines, shelf, steps
from vividcover.catalog.contract import Context
from vividcover.errors import EngineError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

if TYPE_CHECKING:
    from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloningInput
    from vividcover.voice.rvc.convert import Converter

Local = Literal["classic", "neural"]
OWN = ("vocals_stem", "instrumental_stem", "backup_vocals_stem")
OCTAVES = {"no-change": 0.0, "male-to-female": 12.0, "female-to-male": -12.0}  # semitones


@dataclass(frozen=True)
class Parts:
    """A song's parts as working files of one length. `instrumental` is None where the song is vocals only."""

    vocals: Path
    instrumental: Path | None
    backing: Path | None
    story: dict[str, Any] = field(default_factory=dict)


def resolver(context: Context) -> Callable[[str], Path]:
    """Gives the file of a net by name, and remembers that it was used."""
    from vividcover import weights

    def path(name: str) -> Path:
        found = weights.path(name, context.settings.weights)
        context.nets.add(name)
        return found

    return path


# --- apart ------------------------------------------------------------------------------------------------------------


def parted(input: RealisticVoiceCloningInput, song: StageResult, context: Context, engine: Local) -> Parts:
    """The song's parts: the user's own where they were given, else separated as `separator` says."""
    given = {name: value for name in OWN if (value := getattr(input, name))}
    if given:
        return _own(given, song, context)
    wanted = input.separator
    if wanted == "none":
        return Parts(song.path("audio.wav"), None, None, {"recipe": "none", "why": "the song is vocals only"})
    if wanted == "auto":
        wanted = _best_separator(context, engine)
    parts = separated(song.path("audio.wav"), wanted, context)
    story = {k: v for k, v in parts.meta.items() if k != "notes"}
    backing = parts.path("backing.wav") if parts.has("backing.wav") else None
    return Parts(parts.path("vocals.wav"), parts.path("instrumental.wav"), backing, story)


def separated(song: Path, separator: str, context: Context) -> StageResult:
    """`vocals.wav`, `instrumental.wav` and perhaps `backing.wav`; `separator`: "classic" or a net's name."""
    if separator == "classic":
        return steps.separated(context, song)
    if lacks := engines.missing(context.settings, ()):
        raise EngineError(f"separator={separator}: {lacks}.", "Use separator=classic.")
    return steps.separated_by_nets(context, song, separator, resolver(context))


def _best_separator(context: Context, engine: Local) -> str:
    """auto: the best net whose weights are here, for a song that the neural engine sings; else the classic recipe.

    Raises `EngineError` when the neural engine was asked for and has no net to take the song apart with.
    """
    if engine == "classic":
        return "classic"
    from vividcover.song.separators import chain

    found = chain.best_available(context.settings.weights)
    if found:
        return str(found[0])
    if context.engine == "neural":
        raise EngineError(
            "The neural engine has no weights to take the song apart with.",
            "Run `vividcover weights pull --group separation`, give vocals_stem, or use separator=classic.",
        )
    context.note("No weights for separation are here: the classic recipe takes the song apart.")
    return "classic"


def _own(given: Mapping[str, str], song: StageResult, context: Context) -> Parts:
    """Stems that the user brought. One that is missing is what the others leave of the song."""
    from vividcover.song import stems

    files = {name: steps.decoded(context, name, value).path("audio.wav") for name, value in given.items()}

    def compute(stage: Stage) -> None:
        stage.meta.update(stems.completed(song.path("audio.wav"), files, stage.folder, reporter=stage))

    inputs = {"song": song.path("audio.wav"), **files}
    done = context.stage("song/own-stems", version=1, inputs=inputs, params={}, compute=compute)
    backing = done.path("backing.wav") if done.has("backing.wav") else None
    story = {"recipe": "own stems", "why": "given: " + ", ".join(given), "report": dict(done.meta)}
    return Parts(done.path("vocals.wav"), done.path("instrumental.wav"), backing, story)


# --- in another voice -------------------------------------------------------------------------------------------------


def sung_by(
    voice: shelf.Trained, vocals: Path, input: RealisticVoiceCloningInput, context: Context, engine: Local,
    semitones: float = 0.0,
) -> StageResult:  # fmt: skip
    """`vocals.wav`: the same melody and length in the trained voice. Raises `AudioError` where nobody sings.

    `semitones`: by how much more the melody is moved (the neural engine only: the song's key).
    """
    if engine == "classic":
        from vividcover.voice.classic.convert import Conversion

        conversion = Conversion(
            pitch_change=input.pitch_change, index_rate=input.index_rate, filter_radius=input.filter_radius,
            rms_mix_rate=input.rms_mix_rate, protect=input.protect,
        )  # fmt: skip
        return steps.converted(context, vocals, voice, conversion)
    model = _blended(voice, input, context)
    return _by_network(model, vocals, input, context, semitones)


def _by_network(
    model: Path, vocals: Path, input: RealisticVoiceCloningInput, context: Context, semitones: float
) -> StageResult:
    from vividcover.voice.rvc import convert

    settings = convert.NeuralConversion(
        pitch_change=input.pitch_change, semitones=semitones, index_rate=input.index_rate,
        rms_mix_rate=input.rms_mix_rate, protect=input.protect, method=input.pitch_detection_algorithm,
        crepe_hop_length=input.crepe_hop_length, filter_radius=input.filter_radius, unvoiced=input.unvoiced,
        formant=input.formant_shift, autotune=input.autotune,
    )  # fmt: skip
    place = context.settings

    def compute(stage: Stage) -> None:
        out = stage.folder / "vocals.wav"
        converter = _converter(model, settings.index_rate > 0, context)
        for note in converter.model.notes:
            stage.note(note)
        stage.meta.update(converter.convert(vocals, out, settings, reporter=stage))

    sung = context.stage(
        "voice/convert-neural", version=1, inputs={"vocals": vocals, "voice": model},
        params=asdict(settings) | {"device": place.device, "precision": place.precision}, compute=compute,
    )  # fmt: skip
    context.nets.update(needed(input))
    return steps.with_singing(sung)


def _converter(model: Path, with_index: bool, context: Context) -> Converter:
    """The voice, loaded: the last one stays in memory, for the next song."""
    from vividcover.voice.rvc.convert import Converter

    place = context.settings
    name = f"{context.workspace.hash_of(model)} {with_index} {place.device} {place.precision}"
    if name not in context.loaded:
        context.loaded.pop(context.loaded.pop("voice", ""), None)
        context.loaded[name] = Converter(
            model, weights=resolver(context), device=place.device, dtype=place.precision, threads=place.threads,
            with_index=with_index,
        )  # fmt: skip
        context.loaded["voice"] = name
    found: Converter = context.loaded[name]
    return found


def _blended(voice: shelf.Trained, input: RealisticVoiceCloningInput, context: Context) -> Path:
    """The voice, or its mixture with a second one: weights and all, at `blend` of the way."""
    if not input.blend_voice:
        return voice_file(voice, context)
    from vividcover.voice.rvc import blend

    other = shelf.take("voice", input.blend_voice, context)
    if other.card.get("engine") == "classic":
        raise ParameterError(
            f"blend_voice: the classic engine trained {other.name!r}; its voices have no weights to mix.",
            "Give a voice that the neural engine trained, or an RVC model.",
        )
    first, second = voice_file(voice, context), voice_file(other, context)

    def compute(stage: Stage) -> None:
        stage.meta.update(blend.blend(first, second, input.blend, stage.folder / "blend.zip", reporter=stage))

    done = context.stage(
        "voice/blend", version=1, inputs={"first": first, "second": second}, params={"share": input.blend},
        compute=compute,
    )  # fmt: skip
    return done.path("blend.zip")


def voice_file(voice: shelf.Trained, context: Context) -> Path:
    """The RVC file behind a trained voice: itself, or what is inside one that was trained on the hosted engine."""
    from vividcover.catalog import remote

    return remote.unwrapped(voice, context) if voice.card.get("engine") == "hosted" else voice.path


def needed(input: RealisticVoiceCloningInput | None) -> list[str]:
    """The nets that a conversion needs, by their names in the weights registry."""
    return ["contentvec", *trackers(input.pitch_detection_algorithm if input else "rmvpe")]


def trackers(method: str) -> list[str]:
    """The net behind a pitch tracker, if it is one."""
    bare = method.removeprefix("mangio-").removesuffix("_gpu")
    name = "crepe-full" if bare == "crepe" else bare
    return [name] if name in ("rmvpe", "fcpe", "crepe-full", "crepe-tiny") else []


def lacks(settings: Settings, input: RealisticVoiceCloningInput | None) -> str:
    """What is missing here for the neural engine to convert, in words; "" when nothing is."""
    return engines.missing(settings, needed(input))
