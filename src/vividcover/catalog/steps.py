"""The stages that several models share, so that the same work is keyed the same way and done once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.catalog.contract import Context
from vividcover.errors import AudioError
from vividcover.workspace import Stage, StageResult

if TYPE_CHECKING:
    from vividcover.catalog.shelf import Trained
    from vividcover.portrait.faces import FaceKit
    from vividcover.song.mix import MixSettings
    from vividcover.voice.classic.convert import Conversion

FACE_NETS = ("face_detection_short_range", "face_landmark", "selfie_segmentation")


def files_of(sources: list[Path]) -> list[Path]:
    """Every file behind a list of files and folders, each once, sorted."""
    return sorted({f for s in sources for f in (s.rglob("*") if s.is_dir() else [s]) if f.is_file()})


def file_name(title: str, otherwise: str) -> str:
    """A title as a file's name without suffix: only what every file system takes, 80 characters at most."""
    kept = "".join(c if c.isalnum() or c in " ._-()" else "_" for c in title).strip(" .")[:80]
    return kept or otherwise


def face_kit(context: Context) -> FaceKit:
    """The nets that find and cut out faces.

    Set-up pulls them; where it did not, they are fetched now, once, and said so. Raises `WeightsError` when that fails:
    before the minutes of work, not after.
    """
    from vividcover import weights
    from vividcover.portrait.faces import FaceKit

    folder = context.settings.weights
    if not all(weights.has(name, folder) for name in FACE_NETS):
        context.workspace.note(f"the face nets are not in {folder} yet: fetching them once (35 MB)")
        weights.pull(list(FACE_NETS), folder, reporter=context.workspace)
    context.nets.update(FACE_NETS)
    return FaceKit(context.settings.weights)


def decoded(
    context: Context, name: str, source: str, *, media: bool = True, min_seconds: float = 1.0
) -> StageResult:  # fmt: skip
    """`audio.wav` (float32, 44.1 kHz, stereo) of a path or link; meta has seconds, rate, channels, title."""
    from vividcover.song import codec

    path = context.file(name, source, media=media)

    def compute(stage: Stage) -> None:
        limit = context.settings.max_song_seconds
        info = codec.decode(
            path, stage.folder / "audio.wav", max_seconds=limit, min_seconds=min_seconds, reporter=stage
        )
        if codec.is_silent(stage.folder / "audio.wav"):
            raise AudioError(f"{path.name} is silent: {info.seconds:.1f} s without a sound.", "Give another recording.")
        stage.meta.update(asdict(info))

    params = {"max_seconds": context.settings.max_song_seconds}
    params |= {} if min_seconds == 1.0 else {"min_seconds": min_seconds}
    return context.stage("song/decode", version=1, inputs={"file": path}, params=params, compute=compute)


def separated(context: Context, song: Path) -> StageResult:
    """`vocals.wav`, `instrumental.wav` and perhaps `backing.wav`, which add up to the song."""
    from vividcover.song import separate

    def compute(stage: Stage) -> None:
        parts = separate.separate(song, stage.folder, threads=context.settings.threads, reporter=stage)
        stage.meta.update(recipe=parts.recipe, why=parts.why, report=parts.report)

    return context.stage("song/separate", version=5, inputs={"song": song}, params={}, compute=compute)


def separated_by_nets(context: Context, song: Path, name: str, nets: Callable[[str], Path]) -> StageResult:
    """The same by the neural engine; `name`: which net takes the vocals out. Meta says which nets did what."""
    from vividcover.song.separators import chain

    place = context.settings
    options = chain.choose(chain.Options(vocals=name), nets, place.device, context.note)  # what is here now

    def compute(stage: Stage) -> None:
        stage.meta.update(
            chain.separate_song(
                song, stage.folder, options, weights=nets, device=place.device, threads=place.threads, reporter=stage
            )
        )

    params = asdict(options) | {"device": place.device}
    done = context.stage("song/separate-neural", version=1, inputs={"song": song}, params=params, compute=compute)
    context.nets.update(done.meta["nets"])
    return done


def converted(context: Context, vocals: Path, voice: Trained, conversion: Conversion) -> StageResult:
    """`vocals.wav`, the same melody and length in the trained voice."""
    from vividcover.voice.classic import convert

    def compute(stage: Stage) -> None:
        out = stage.folder / "vocals.wav"
        threads = context.settings.threads
        stage.meta.update(convert.convert(vocals, voice.path, out, conversion, threads=threads, reporter=stage))

    sung = context.stage(
        "voice/convert", version=3, inputs={"vocals": vocals, "voice": voice.path}, params=asdict(conversion),
        compute=compute,
    )  # fmt: skip
    return with_singing(sung)


def with_singing(sung: StageResult) -> StageResult:
    """Raises `AudioError` for a song in which the converter has found nothing to sing."""
    if not sung.meta.get("song_f0_hz"):
        raise AudioError(
            "No singing was found in the song: there is nothing to sing in another voice.",
            "Is it an instrumental? Listen to what `vividcover song separate` makes of it.",
        )
    return sung


def mixed(
    context: Context, name: str, vocals: Path, backing: Path | None, instrumental: Path | None, settings: MixSettings
) -> StageResult:
    """`mix.wav`: the vocals with what goes with them, levelled."""
    from vividcover.song import mix

    inputs = {"vocals": vocals, "backing": backing, "instrumental": instrumental}

    def compute(stage: Stage) -> None:
        out = stage.folder / "mix.wav"
        stage.meta.update(mix.mix(vocals, backing, instrumental, out, settings, reporter=stage))

    return context.stage(
        name, version=2, inputs={k: p for k, p in inputs.items() if p}, params=asdict(settings), compute=compute
    )


def encoded(context: Context, name: str, pcm: Path, format: str, file: str, tags: dict[str, str]) -> StageResult:
    """`file`, the working file `pcm` in the user's format, with its marks."""
    from vividcover.song import codec

    def compute(stage: Stage) -> None:
        codec.encode(pcm, stage.folder / file, format=format, tags=tags, reporter=stage)

    params: dict[str, Any] = {"format": format, "tags": tags, "file": file}
    return context.stage(name, version=2, inputs={"pcm": pcm}, params=params, compute=compute)
