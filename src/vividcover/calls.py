"""What the SDK's functions and the CLI's commands do, each on an open session: a run of a catalog model, handed over.

Outputs are written aside and renamed; the record of what made them lies beside each (`cover.mp4` → `cover.json`,
`song.flac` → `song.flac.json`). Only errors of `vividcover.errors` are raised.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from vividcover import provenance
from vividcover.catalog import shelf, singing, steps, voice_learning
from vividcover.catalog.contract import Context, Engine, Inputs, Model, Result, fits, is_secret, validated
from vividcover.catalog.contract import Made as ModelMade
from vividcover.catalog.create_rvc_dataset import CreateRvcDataset
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer, FastFluxTraining
from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer, FluxDevLoraTraining
from vividcover.catalog.realistic_voice_cloning import VOICE_OPTIONS, RealisticVoiceCloning, RealisticVoiceCloningInput
from vividcover.catalog.train_rvc_model import TrainRvcModel, TrainRvcModelInput
from vividcover.cover import Cover
from vividcover.errors import ParameterError, StorageError
from vividcover.settings import Settings, settings
from vividcover.workspace import Event, Workspace, publish, sha256_file, write_text

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Made:
    """What a call made: the files, and the story of how (also in the `.json` beside each file)."""

    files: tuple[Path, ...]
    text: str
    record: Mapping[str, Any]
    result: Result

    @property
    def path(self) -> Path:
        return self.files[0]


OnPreview = Callable[[float, Any], None]  # sees a video early: how far it is, 0..1, and uint8 [H, W, 3]


@dataclass
class Session:
    """The surroundings of calls: settings, engine, who listens, and the way to cancel. `with Session() as session:`"""

    settings: Settings
    engine: Engine = "auto"
    on_event: Callable[[Event], None] | None = None
    cookies: Path | None = None
    on_preview: OnPreview | None = None

    def __post_init__(self) -> None:
        writable(self.settings.home)
        self._loaded: dict[str, Any] = {}  # nets, from one call to the next
        self.workspace = Workspace(self.settings.cache, on_event=self.on_event, limit=self.settings.cache_limit)

    def context(self, consent: str = "", output: Path | None = None) -> Context:
        """For one run. Raises `StorageError` for an output that could not be written after all the work."""
        may_hold(output)
        return Context(
            self.workspace, self.settings, self.engine, consent, self.cookies, output=output,
            on_preview=self.on_preview, loaded=self._loaded,
        )  # fmt: skip

    def cancel(self) -> None:
        self.workspace.cancel()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.workspace.close()


def writable(home: Path) -> None:
    """Raises `StorageError` when the data folder cannot be made or written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise StorageError(
            f"May not write in {home}: {error.strerror}.", "Set VIVIDCOVER_HOME to a folder that you may write to."
        ) from error


def may_hold(output: Path | None) -> None:
    """Raises `StorageError` when nothing can be written at `output`; makes nothing."""
    if output is None:
        return
    try:
        above = output if output.is_dir() else output.parent
        while not above.exists() and above != above.parent:
            above = above.parent
        fine = above.is_dir() and os.access(above, os.W_OK)
        if fine:  # some folders take no files whatever their rights say, such as /proc
            tempfile.TemporaryFile(dir=above).close()
    except OSError:  # also for a name that no file can have
        fine = False
    if not fine:
        raise StorageError(f"May not write {str(output)!r}.", "Choose a folder that you may write to with -o.")


@contextmanager
def session(
    *, home: Source | None = None, engine: Engine = "auto", on_event: Callable[[Event], None] | None = None,
    cookies: Source | None = None, on_preview: OnPreview | None = None,
) -> Iterator[Session]:  # fmt: skip
    """A `Session` with the data folder `home` (default: the settings')."""
    chosen = settings() if home is None else settings().model_copy(update={"home": Path(home)})
    with Session(chosen, engine, on_event, Path(cookies) if cookies else None, on_preview) as opened:
        yield opened


# --- the calls, each on an open session; the module's functions below open one of their own ---------------------


def run_model(
    model: Model, values: Mapping[str, Any] | Inputs, output: Path | None, session: Session, *, consent: str = "",
    training: bool = False,
) -> Made:  # fmt: skip
    """Runs a model, publishes what it made to `output` (default: a file in the current folder), writes the record."""
    context = session.context(consent, output)
    if model.suffix:
        fits(output, model.suffix)
    return hand_over((model.train if training else model.run)(values, context), output)


def hand_over(result: Result, output: Path | None) -> Made:
    """Copies outputs out of the cache and writes the record beside each of them."""
    sources = result.files
    if not sources:
        return _text_over(result, output)
    fits(output, sources[0].suffix)
    output = output or Path(sources[0].name)
    if output.is_dir():
        output = output / sources[0].name
    names = (output.name, *(f"{output.stem}-{i}{output.suffix}" for i in range(2, len(sources) + 1)))
    return _told(result, [publish(s, output.with_name(name)) for s, name in zip(sources, names)])


def _text_over(result: Result, output: Path | None) -> Made:
    """A text, also as a file where one is wanted."""
    if output is None:
        return Made((), result.text, story_of(result, ()), result)
    file = write_text(output / "output.txt" if output.is_dir() else output, result.text + "\n")
    return replace(_told(result, [file]), text=result.text)


def _told(result: Result, files: Sequence[Path], record: Path | None = None, **more: Any) -> Made:
    """The finished files with their record beside each of them (or once, at `record`)."""
    story = story_of(result, files) | more
    if record:
        write_text(record, provenance.dumps(story))
    else:
        for file in files:
            provenance.sidecar(file, story)
    return Made(tuple(files), "", story, result)


def story_of(result: Result, files: Sequence[Path], synthetic: bool | None = None) -> dict[str, Any]:
    """The record of what made some files."""
    from vividcover import weights

    nets = [
        {
            "name": n, "licence": weights.REGISTRY[n].licence, "allows": weights.REGISTRY[n].licence_note,
            "commercial": getattr(weights.REGISTRY[n], "commercial", True), "sha256": weights.REGISTRY[n].sha256,
        }
        for n in result.nets
    ]  # fmt: skip
    return provenance.record(
        model=result.model, engine=result.engine, why=result.why, input=result.input, inputs=result.inputs, nets=nets,
        materials=result.materials, stages=result.stages, not_honoured=result.not_honoured, notes=result.notes,
        details=result.details, outputs={f.name: sha256_file(f) for f in files},
        synthetic=result.synthetic if synthetic is None else synthetic,
    )  # fmt: skip


def cover_in(session: Session, output: Path, values: Mapping[str, Any], parts: Path | None = None) -> Made:
    """A cover. `parts`: a folder that also gets the still, the silent portrait, the mixes and the instrumental."""
    if output.suffix.lower() != ".mp4" and not output.is_dir():
        raise ParameterError(
            f"A cover is an mp4 video, not {output.suffix or 'a file without suffix'!r}.", "Name it …mp4."
        )
    may_hold(parts / "still.png" if parts else None)
    made = run_model(Cover(), values, output, session)
    if parts:
        _write_parts(made.result, parts)
    return made


def _write_parts(result: Result, folder: Path) -> None:
    """A cover's parts, each with its record; what is synthetic is marked inside as the cover itself is."""
    from vividcover.song import codec

    made_up = {"portrait", "mix", "vocals"} | (set() if result.input.get("still") else {"still"})
    title = result.details["song"]["title"] or "cover"
    for name, path in result.parts.items():
        file = folder / f"{name}{path.suffix}"
        if name in ("portrait", "mix", "vocals"):  # working files: they carry no mark yet
            tags = provenance.tags(f"{title}: {name}", result.model, result.engine, result.input.get("seed"))
            codec.tag(path, file, tags)
        else:
            publish(path, file)
        provenance.sidecar(file, story_of(result, [file], name in made_up) | {"part": name})


def train_voice_in(
    session: Session, clips: Sequence[Source], name: str, consent: str, options: Mapping[str, Any] | None = None
) -> Made:
    """`options`: inputs of `replicate/train-rvc-model` but for the dataset."""
    model, given = TrainRvcModel(), dict(options or {})
    shelf.check_name(name)
    input: TrainRvcModelInput = validated(model.name, TrainRvcModelInput, {"dataset_zip": "clips", **given})
    model.check_consent(consent)
    context = session.context(consent)
    sources = [context.file(f"clips[{i}]", str(clip), media=True, folder=True) for i, clip in enumerate(clips)]
    chosen = model.choose(context.engine, context.settings, None, input)
    model.name_ignored(chosen[0], input, context)
    if chosen[0] == "classic":
        made = model.from_recordings(sources, name, context)
    else:
        learn = voice_learning.learnt if chosen[0] == "neural" else model.hosted_from_recordings
        made = learn(sources, name, input, context)
    used = {"dataset_zip": [str(c) for c in clips], **given}
    return _shelved("voice", model, name, made, used, context, chosen)


def kind_of(type: str) -> dict[str, str]:
    """What is learnt, as the trainers' inputs say it: the published ones know subjects and styles."""
    return {"lora_type": type} if type in ("subject", "style") else {"kind": type}


def train_image_in(
    session: Session, photos: Source, name: str, consent: str, options: Mapping[str, Any] | None = None
) -> Made:
    """`options`: inputs of `ostris/flux-dev-lora-trainer` but for the photos. Without any of its own ones, it is
    `replicate/fast-flux-trainer` that learns, which the hosted engine runs in two minutes.
    """
    shelf.check_name(name)
    given = {"input_images": str(photos), **(options or {})}
    if "steps" in given and set(given) <= {"steps", *FastFluxTraining.model_fields}:
        given["training_steps"] = given.pop("steps")
    fast = set(given) <= set(FastFluxTraining.model_fields)
    model = FastFluxTrainer() if fast else FluxDevLoraTrainer()
    schema = FastFluxTraining if fast else FluxDevLoraTraining
    input: Any = validated(model.name, schema, given)
    model.check_consent(consent)
    context = session.context(consent)
    chosen = model.choose(context.engine, context.settings, None, input, training=True)
    model.name_ignored(chosen[0], input, context)
    made = model.learn(chosen[0], input, name, context)
    shown = {key: value for key, value in given.items() if not is_secret(schema.model_fields[key])}
    if chosen[0] == "neural":
        _register(name, input, context)
    return _shelved("image", model, name, made, shown, context, chosen)


def _register(name: str, input: Any, context: Context) -> None:
    """Remembers the trigger word, and says what is wrong with it: LoRAs that share one cannot be worn together."""
    from vividcover.image.flux.triggers import Model as Named
    from vividcover.image.flux.triggers import Triggers

    words = Triggers(context.settings.home / "triggers.json")
    here = {trained.name for trained in shelf.listed("image", context.settings)} | {name}
    for gone in {model.name for model in words.models()} - here:
        words.remove(gone)
    warnings = words.add(Named(name, input.trigger_word))
    if warnings:
        context.note(warnings[0] + (f" (And {len(warnings) - 1} more like this.)" if len(warnings) > 1 else ""))


def _shelved(
    kind: shelf.Kind, model: Model, name: str, made: ModelMade, input: Mapping[str, Any], context: Context,
    chosen: tuple[str, str],
) -> Made:  # fmt: skip
    assert isinstance(made.output, Path)
    result = context.result(model.name, made, *chosen, input, synthetic=False)
    path = shelf.shelve(kind, name, made.output, context.settings)
    return _told(result, [path], path.with_suffix(".json"), consent=context.consent)


def convert_voice_in(
    session: Session, vocals: Source, voice: str, output: Path | None, options: Mapping[str, Any]
) -> Made:
    """Vocals without music in the trained voice. `options`: those of the song cover that concern the voice."""
    singer, context = RealisticVoiceCloning(), session.context(output=output)
    values = {"song_input": str(vocals), "rvc_model": voice, "output_format": "wav", **options}
    input: RealisticVoiceCloningInput = validated(singer.name, RealisticVoiceCloningInput, values)
    fits(output, f".{input.output_format}")
    here = session.settings.model_copy(update={"replicate_token": ""})  # vocals alone are converted on this machine
    reader = singer.reader(input, replace(context, settings=here))
    engine, why = singer.choose(context.engine, here, reader, input)
    singer.name_ignored(engine, input, context)
    trained = shelf.take("voice", voice, context)
    decoded = steps.decoded(context, "vocals", str(vocals))
    sung = singing.sung_by(trained, decoded.path("audio.wav"), input, context, cast(singing.Local, engine))
    file = f"{steps.file_name(decoded.meta['title'] or '', 'vocals')}.{input.output_format}"
    tags = provenance.tags(Path(file).stem, singer.name, engine)
    encoded = steps.encoded(context, "voice/encode", sung.path("vocals.wav"), input.output_format, file, tags)
    made = ModelMade(encoded.path(file), dict(sung.meta))
    used = input.model_dump(mode="json", include={"song_input", "rvc_model", "output_format", *VOICE_OPTIONS})
    return hand_over(context.result("voice/convert", made, engine, why, used), output)


def separate_in(session: Session, song: Source, folder: Path, separator: str = "classic") -> Made:
    """vocals.wav, instrumental.wav and perhaps backing.wav of a song, float32.

    `separator`: "classic", whose parts add up to the song, or one of `vividcover song separators`.
    """
    context = session.context(output=folder / "separation.json")
    decoded = steps.decoded(context, "song", str(song))
    parts = singing.separated(decoded.path("audio.wav"), separator, context)
    names = sorted(parts.files, reverse=True)
    made = ModelMade([parts.path(n) for n in names], dict(parts.meta))
    engine = "classic" if separator == "classic" else "neural"
    used = {"song": str(song), "separator": separator}
    result = context.result("song/separate", made, engine, "asked for", used, synthetic=False)
    files = [publish(parts.path(n), folder / n) for n in names]
    return _told(result, files, folder / "separation.json")


def convert_voices_in(
    session: Session, vocals: Sequence[Source], voice: str, output: Path | None, options: Mapping[str, Any]
) -> Made:
    """Several recordings, with the voice loaded once. `output` is a folder then."""
    if len(vocals) == 1:
        return convert_voice_in(session, vocals[0], voice, output, options)
    folder = output or Path()
    if folder.suffix and not folder.is_dir():
        raise ParameterError(f"{len(vocals)} recordings do not fit into {folder.name}.", "Name a folder with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    suffix = options.get("output_format", "wav")
    names = [f"{Path(str(one).rstrip('/')).stem or 'vocals'}.{suffix}" for one in vocals]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ParameterError(f"Two recordings would both become {twice[0]}.", "Convert them one by one, with -o.")
    made = [
        convert_voice_in(session, one, voice, folder / name, options) for one, name in zip(vocals, names, strict=True)
    ]
    return replace(made[-1], files=tuple(m.path for m in made))


def dataset_in(
    session: Session, recordings: Sequence[Source], name: str, output: Path | None, isolate: str,
    dereverb: str = "off",
) -> Made:  # fmt: skip
    model, context = CreateRvcDataset(), session.context(output=output)
    fits(output, model.suffix)
    paths = [context.file(f"recordings[{i}]", str(r), media=True, folder=True) for i, r in enumerate(recordings)]
    here = session.settings.model_copy(update={"replicate_token": ""})  # there, datasets are made of links only
    engine, why = model.choose(context.engine, here)
    name = shelf.check_name(name)
    made = model.from_recordings(paths, name, context, isolate, dereverb=dereverb, engine=engine)
    values = {"youtube_url": [str(r) for r in recordings], "audio_name": name, "isolate": isolate, "dereverb": dereverb}
    result = context.result(model.name, made, engine, why, values, synthetic=False)
    return hand_over(result, output)
