"""The Python SDK: one function for each thing a user wants, each of them a run of one catalog model.

Every function takes `home` (default `VIVIDCOVER_HOME`), `engine` and `on_event`, writes its output aside and then
renames it, puts the record of what made it beside it (`cover.mp4` → `cover.json`, `song.flac` → `song.flac.json`), and
raises only the errors of `vividcover.errors`. Results of finished stages are kept: the same call again costs almost
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.calls import (
    Made,
    OnPreview,
    Session,
    Source,
    convert_voice_in,
    convert_voices_in,
    cover_in,
    dataset_in,
    hand_over,
    kind_of,
    may_hold,
    run_model,
    separate_in,
    session,
    train_image_in,
    train_voice_in,
    writable,
)
from vividcover.catalog.contract import Engine
from vividcover.catalog.flux_lora import FluxLora
from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloning
from vividcover.catalog.sonic import Sonic
from vividcover.cover import get
from vividcover.image_calls import (
    batch_in,
    caption_photos_in,
    compare_in,
    convert_lora_in,
    examine_photos_in,
    merge_loras_in,
)
from vividcover.workspace import Event

if TYPE_CHECKING:
    from vividcover.image.ab import Outcome
    from vividcover.image.batch import Batch

__all__ = [
    "Made",
    "OnPreview",
    "Session",
    "Source",
    "caption_photos",
    "compare_trainings",
    "convert_song",
    "convert_voice_in",
    "convert_voices_in",
    "cover_in",
    "dataset_in",
    "draw_batch",
    "examine_photos",
    "examine_recordings",
    "generate_image",
    "hand_over",
    "kind_of",
    "make_cover",
    "make_dataset",
    "make_portrait",
    "may_hold",
    "merge_loras",
    "run",
    "run_model",
    "separate_in",
    "separate_song",
    "session",
    "train_image",
    "train_image_in",
    "train_voice",
    "train_voice_in",
    "writable",
]


def make_cover(
    song: Source, *, voice: Source, image: Source | None = None, output: Source = "cover.mp4",
    parts: Source | None = None, home: Source | None = None, engine: Engine = "auto",
    on_event: Callable[[Event], None] | None = None, cookies: Source | None = None,
    on_preview: OnPreview | None = None, **options: Any,
) -> Made:  # fmt: skip
    """A video of the trained person singing `song` (a path or a link).

    `voice`, `image`: names, paths or links of trained models. `options`: any input of `vividcover/cover`, for example
    `prompt`, `seed`, `aspect_ratio`, `width` and `height` (px; give both), `pitch_change`, `still`. `on_preview` is
    shown early looks at a portrait by a network, while it is made.
    """
    if options.get("width") and options.get("height"):
        options.setdefault("aspect_ratio", "custom")
    values = {"song": str(song), "voice": str(voice), "image": str(image) if image else None, **options}
    with session(home=home, engine=engine, on_event=on_event, cookies=cookies, on_preview=on_preview) as opened:
        return cover_in(opened, Path(output), values, Path(parts) if parts else None)


def train_voice(
    clips: Source | Sequence[Source], *, name: str, consent: str, home: Source | None = None, engine: Engine = "auto",
    on_event: Callable[[Event], None] | None = None, cookies: Source | None = None, **options: Any,
) -> Made:  # fmt: skip
    """A voice model from recordings (files, folders, zips, links; 30 s at least, minutes better), put on the shelf.

    `options`: inputs of `replicate/train-rvc-model`, for example `epoch`, `batch_size`, `sample_rate`, `f0method`.
    """
    sources = [clips] if isinstance(clips, str | os.PathLike) else list(clips)
    with session(home=home, engine=engine, on_event=on_event, cookies=cookies) as opened:
        return train_voice_in(opened, sources, name, consent, options)


def train_image(
    photos: Source, *, name: str, consent: str, trigger_word: str = "TOK", type: str = "subject",
    home: Source | None = None, engine: Engine = "auto", on_event: Callable[[Event], None] | None = None,
    **options: Any,
) -> Made:  # fmt: skip
    """An image model from photos (a zip or a folder; 10 to 20 varied ones are best), put on the shelf.

    `options`: inputs of `ostris/flux-dev-lora-trainer`, for example `steps`, `lora_rank`, `resolution`, `captioner`.
    """
    given = {"trigger_word": trigger_word, **kind_of(type), **options}
    with session(home=home, engine=engine, on_event=on_event) as opened:
        return train_image_in(opened, photos, name, consent, given)


def run(
    model: str, input: Mapping[str, Any], *, output: Source | None = None, consent: str = "", training: bool = False,
    home: Source | None = None, engine: Engine = "auto", on_event: Callable[[Event], None] | None = None,
    cookies: Source | None = None, on_preview: OnPreview | None = None,
) -> Made:  # fmt: skip
    """Any model of the catalog by name, with the seeds' own inputs: `run("zsxkib/sonic", {"image": …, "audio": …})`."""
    with session(home=home, engine=engine, on_event=on_event, cookies=cookies, on_preview=on_preview) as opened:
        target = Path(output) if output else None
        return run_model(get(model), input, target, opened, consent=consent, training=training)


def make_dataset(
    recordings: Source | Sequence[Source], *, name: str, output: Source | None = None, isolate: str = "auto",
    dereverb: str = "off", home: Source | None = None, engine: Engine = "auto",
    on_event: Callable[[Event], None] | None = None, cookies: Source | None = None,
) -> Made:  # fmt: skip
    """A dataset zip (`dataset/<name>/split_<i>.wav`) from recordings or links."""
    sources = [recordings] if isinstance(recordings, str | os.PathLike) else list(recordings)
    with session(home=home, engine=engine, on_event=on_event, cookies=cookies) as opened:
        return dataset_in(opened, sources, name, Path(output) if output else None, isolate, dereverb)


def examine_recordings(recordings: Source | Sequence[Source], *, home: Source | None = None) -> dict[str, Any]:
    """What a dataset of these would be like: minutes usable, what is wrong, what to add. Makes nothing."""
    from vividcover.voice import dataset

    sources = [recordings] if isinstance(recordings, str | os.PathLike) else list(recordings)
    with session(home=home) as opened:
        context = opened.context()
        paths = [context.file(f"recordings[{i}]", str(r), media=True, folder=True) for i, r in enumerate(sources)]
        return dataset.examine(paths)


def convert_song(song: Source, *, voice: Source, output: Source | None = None, **options: Any) -> Made:
    """The song in the trained voice, as audio. `options`: inputs of `zsxkib/realistic-voice-cloning`, and `home` …"""
    own = {k: options.pop(k) for k in ("home", "engine", "on_event", "cookies") if k in options}
    values = {"song_input": str(song), "rvc_model": str(voice), **options}
    return run(RealisticVoiceCloning.name, values, output=output, **own)


def generate_image(trained: Source, prompt: str, *, output: Source | None = None, **options: Any) -> Made:
    """Pictures from a trained image model. `options`: inputs of `vividcover/flux-lora`, and `home` …"""
    own = {k: options.pop(k) for k in ("home", "engine", "on_event") if k in options}
    return run(FluxLora.name, {"replicate_weights": str(trained), "prompt": prompt, **options}, output=output, **own)


def make_portrait(image: Source, audio: Source, *, output: Source | None = None, **options: Any) -> Made:
    """A singing portrait of a picture. `options`: inputs of `zsxkib/sonic`, and `home`, `on_preview` …"""
    own = {k: options.pop(k) for k in ("home", "engine", "on_event", "cookies", "on_preview") if k in options}
    return run(Sonic.name, {"image": str(image), "audio": str(audio), **options}, output=output, **own)


def separate_song(
    song: Source, folder: Source, *, separator: str = "classic", home: Source | None = None,
    on_event: Callable[[Event], None] | None = None, cookies: Source | None = None,
) -> Made:  # fmt: skip
    """A song's vocals, instrumental and, where it can, backing vocals, as WAV files in `folder`.

    `separator`: "classic", or the name of a net ("auto": the best whose weights are here).
    """
    with session(home=home, on_event=on_event, cookies=cookies) as opened:
        return separate_in(opened, song, Path(folder), separator)


# --- photos, LoRAs, many prompts --------------------------------------------------------------------------------------


def examine_photos(
    photos: Source, *, trigger_word: str = "TOK", type: str = "subject", home: Source | None = None
) -> dict[str, Any]:
    """What photos are good for, before a training: what to add, drop and mend. Makes nothing."""
    with session(home=home) as opened:
        return examine_photos_in(opened, photos, trigger_word, type)


def caption_photos(photos: Source, folder: Source, *, home: Source | None = None, **options: Any) -> dict[str, Any]:
    """Photos with a caption beside each, in `folder`. `options`: captioner, kind, trigger_word, prefix, suffix."""
    with session(home=home) as opened:
        return caption_photos_in(opened, photos, Path(folder), **options)


def merge_loras(
    loras: Sequence[str], output: Source, *, rank: int = 0, format: str = "diffusers", dtype: str = "fp16",
    home: Source | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One LoRA (.safetensors) of several, `NAME@0.8` each; of one alone, the same in another program's `format`."""
    with session(home=home) as opened:
        if len(loras) == 1:
            return convert_lora_in(opened, loras[0], Path(output), format, dtype, rank)
        return merge_loras_in(opened, loras, Path(output), format, dtype, rank)


def draw_batch(
    trained: Source, prompts: Source | Sequence[Any], folder: Source, *, home: Source | None = None,
    engine: Engine = "auto", on_event: Callable[[Event], None] | None = None, **options: Any,
) -> Batch:  # fmt: skip
    """Many prompts (a .csv, a text file or a list) drawn, scored, the best chosen.

    `options`: top, per_row, seed, scores, references, and `options`, inputs of `vividcover/flux-lora` for all.
    """
    rows = Path(prompts) if isinstance(prompts, str | os.PathLike) else prompts
    with session(home=home, engine=engine, on_event=on_event) as opened:
        return batch_in(opened, str(trained), rows, Path(folder), **options)


def compare_trainings(
    photos: Source, variants: Mapping[str, Mapping[str, Any]], folder: Source, *, name: str, consent: str,
    home: Source | None = None, on_event: Callable[[Event], None] | None = None, **options: Any,
) -> Outcome:  # fmt: skip
    """Several ways to train on the same photos, scored on prompts that none saw; the best is shelved as `name`.

    `variants`: name → inputs of `ostris/flux-dev-lora-trainer`; `options`: those of all, prompts, seeds, scores.
    """
    with session(home=home, on_event=on_event) as opened:
        return compare_in(opened, photos, variants, name, consent, Path(folder), **options)
