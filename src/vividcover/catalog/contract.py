"""What a model is (contract 2 of docs/architecture): inputs declared once, from which everything else is derived.

A model is a class with a pydantic `Input` (the seed's own field names, types, defaults and ranges), an output type, and
one method for each engine that serves it. CLI options, HTTP validation, schema, form and docs page come from `Input`.

    result = get("zsxkib/sonic").run({"image": "vivi.jpg", "audio": "vocals.wav"}, Context(workspace, settings()))
    result.output          # a Path in the cache; `publish` copies it to where it is wanted
    result.not_honoured    # parameters that this engine could not honour, each with the reason
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from vividcover.catalog import engines
from vividcover.catalog.checks import fits, validated
from vividcover.errors import ConsentError, EngineError, InputError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult, Workspace

Engine = Literal["auto", "classic", "neural", "hosted"]
ENGINES: tuple[Engine, ...] = ("auto", "classic", "neural", "hosted")
LARGE = "neural"  # `together` of the models with networks that fill a GPU: in one process, one makes room for another
HIDDEN = "[redacted]"  # instead of a secret
SEED_LIMIT = 2**31  # seeds drawn by us are below it; any seed that fits 64 bits is accepted


class Inputs(BaseModel):
    """Base of every model's inputs: unknown keys are errors, and `None` means "not given"."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


def uri(description: str, *, required: bool = True, **more: Any) -> Any:
    """A field that takes a file: a path, or a link (`format: uri` in the schema, as Replicate has it)."""
    extra: dict[str, Any] = {"format": "uri"}
    if required:
        return Field(description=description, json_schema_extra=extra, **more)
    return Field(default=None, description=description, json_schema_extra=extra, **more)


def takes_file(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("format") == "uri"


def secret(description: str) -> Any:
    """A field that takes a key of another service, as cog's `Secret`: no log, record or answer shows its value."""
    extra: dict[str, Any] = {"format": "password", "writeOnly": True, "x-cog-secret": True}
    return Field(default=None, description=description, json_schema_extra=extra)


def is_secret(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("x-cog-secret"))


@dataclass(frozen=True, slots=True)
class NotHonoured:
    """A parameter that was given and that the chosen engine cannot follow."""

    parameter: str
    value: Any
    why: str


@dataclass
class Context:
    """What a run has at hand: the workspace, the settings, the wanted engine, and what training was allowed to do."""

    workspace: Workspace
    settings: Settings
    engine: Engine = "auto"
    consent: str = ""
    cookies: Path | None = None  # a Netscape cookies file for sites that ask for a login
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → {source, sha256, bytes}, for provenance
    not_honoured: list[NotHonoured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nets: set[str] = field(default_factory=set)  # names in the weights registry that were used
    materials: list[dict[str, Any]] = field(default_factory=list)  # trained models that were used: kind, name, licence
    output: Path | None = None  # where the user wants it: looked at before any work
    # On a server: the file behind a value of the input (an upload, an earlier output, a model's weights), or None for a
    # link to fetch. With it, no value of an input is ever taken as a path or as a name on this machine's shelf.
    resolve: Callable[[str], Path | None] | None = None
    on_output: Callable[[str], None] | None = None  # hears each piece of a model that gives its output in pieces
    on_preview: Callable[[float, Any], None] | None = None  # sees a video early: how far it is, uint8 [H, W, 3]
    loaded: dict[str, Any] = field(default_factory=dict)  # nets that stay in memory from one run to the next

    def __post_init__(self) -> None:
        self._before = len(self.workspace.results)  # a session may have done other work before

    def cannot(self, parameter: str, value: Any, why: str) -> None:
        self.not_honoured.append(NotHonoured(parameter, value, why))
        self.workspace.note(f"{parameter}={value}: not honoured, {why}")

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.workspace.note(message)

    def stage(
        self, name: str, *, version: int, inputs: Mapping[str, Path], params: Mapping[str, Any],
        compute: Callable[[Stage], None],
    ) -> StageResult:  # fmt: skip
        """`Workspace.stage`; a stage from the cache says again what it had to say when it was computed."""
        result = self.workspace.stage(name, version=version, inputs=inputs, params=params, compute=compute)
        if result.hit:
            for message in result.meta.get("notes", []):
                self.workspace.note(message)
        return result

    def emit(self, piece: str) -> None:
        """One more piece of the output, for those who listen while it runs. Raises `Canceled`."""
        self.workspace.check()
        if self.on_output:
            self.on_output(piece)

    def result(
        self, model: str, made: Made, engine: str, why: str, input: Mapping[str, Any], *, synthetic: bool = True
    ) -> Result:
        """The run's whole story: what was said and could not be honoured here and in each of its stages."""
        stages = self.workspace.results[self._before :]
        told = [*self.notes, *(str(note) for s in stages for note in s.meta.get("notes", []))]
        refused: dict[tuple[str, str], NotHonoured] = {}
        for one in [*self.not_honoured, *(n for s in stages for n in refused_by(s))]:
            refused.setdefault((one.parameter, str(one.value)), one)
        return Result(
            model=model, output=made.output, engine=engine, why=why, input=dict(input),
            not_honoured=list(refused.values()), notes=list(dict.fromkeys(told)), stages=stages,
            inputs=dict(self.inputs), nets=sorted(self.nets), materials=list(self.materials), details=made.details,
            parts=made.parts, synthetic=synthetic,
        )  # fmt: skip

    def used(self, name: str, source: str, path: Path) -> Path:
        """Remembers an input for the provenance record. A folder's hash is that of its files' hashes, sorted.

        Raises `ParameterError` for an input that the output would replace.
        """
        if self.output and self.output.exists() and path.exists() and self.output.samefile(path) and path.is_file():
            raise ParameterError(f"{name}: the output {str(self.output)!r} is this input.", "Give -o another name.")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        hashes = sorted(self.workspace.hash_of(f) for f in files)
        digest = hashes[0] if path.is_file() else hashlib.sha256("".join(hashes).encode()).hexdigest()
        size = sum(f.stat().st_size for f in files)
        while self.inputs.get(name, {"source": source})["source"] != source:  # a second image model, beside an image
            name += "'"
        self.inputs[name] = {"source": source, "sha256": digest, "bytes": size, "files": len(files)}
        return path

    def file(self, name: str, value: str, *, media: bool = False, folder: bool = False) -> Path:
        """The local file behind an input: a path as it is, a link fetched once into the cache.

        `media=True` also takes any page that yt-dlp understands, `folder=True` a folder of files.
        """
        from vividcover.song.fetch import FetchLimits, fetch_file, fetch_media, is_link

        if self.resolve and (known := self.resolve(value)):
            return self.used(name, value, known)
        if not is_link(value):
            if self.resolve:
                raise ParameterError(f"{name}: {value!r} is not a link.", "Give an http(s) link, or upload the file.")
            path = Path(value).expanduser()
            if not path.exists():
                raise NotFoundError(f"{name}: there is no file {value!r}.", "Check the path, or give an http(s) link.")
            if path.is_dir() and not folder:
                raise InputError(f"{name}: {value!r} is a folder.", "Give one file.")
            return self.used(name, str(value), path if path.name else path.resolve())  # "." has no name to speak of
        s = self.settings
        limits = FetchLimits(s.max_download_bytes, s.max_song_seconds, s.download_timeout)

        def compute(stage: Any) -> None:
            if media:
                got = fetch_media(
                    value, stage.folder, limits=limits, cookies=self.cookies, reporter=stage, allow=s.private_endpoints
                )
            else:
                got = fetch_file(value, stage.folder, limits=limits, reporter=stage, allow=s.private_endpoints)
            stage.meta.update(file=got.path.name, title=got.title, how=got.how)

        fetched = self.stage("fetch", version=1, inputs={}, params={"link": value, "media": media}, compute=compute)
        return self.used(name, value, fetched.path(fetched.meta["file"]))


@dataclass(frozen=True)
class Result:
    """What a run gives back. `output` is a file, several files, a text, or the pieces of a text."""

    model: str
    output: Path | list[Path] | str | list[str]
    engine: str
    why: str  # why this engine
    input: Mapping[str, Any]  # as validated, defaults filled in, seed drawn
    not_honoured: list[NotHonoured]
    notes: list[str]
    stages: list[StageResult]
    inputs: Mapping[str, Mapping[str, Any]]
    nets: list[str]
    materials: list[Mapping[str, Any]]
    details: Mapping[str, Any] = field(default_factory=dict)  # what the engine measured and chose
    parts: Mapping[str, Path] = field(default_factory=dict)  # other files worth having, by name
    synthetic: bool = True  # a synthetic voice or face; not: a trained model, a dataset, a separated song

    @property
    def files(self) -> list[Path]:
        """The files that were made; none of a model that gives a text."""
        made = self.output if isinstance(self.output, list) else [self.output]
        return [one for one in made if isinstance(one, Path)]

    @property
    def text(self) -> str:
        """The text that was made, whole; "" of a model that makes files."""
        made = self.output if isinstance(self.output, list) else [self.output]
        return "".join(one for one in made if isinstance(one, str))

    @property
    def path(self) -> Path:
        """The one file of a model that makes one."""
        if len(self.files) == 1:
            return self.files[0]
        raise TypeError(f"{self.model} gave {self.output!r}, not one file")


@dataclass
class Made:
    """What an engine's method returns: the output, and what is worth telling about it."""

    output: Path | list[Path] | str | list[str]
    details: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Path] = field(default_factory=dict)


class Model(ABC):
    """One entry of the catalog. Subclasses say what goes in and define `classic(input, context)`."""

    name: ClassVar[str]  # owner/name
    description: ClassVar[str]
    Input: ClassVar[type[Inputs]]
    output: ClassVar[Literal["file", "files", "text", "stream"]]  # stream: a text in pieces, as they are made
    TrainingInput: ClassVar[type[Inputs] | None] = None  # of a model that has a training beside its prediction
    needs_consent: ClassVar[bool] = False  # its run itself learns a person's face or voice
    suffix: ClassVar[str] = ""  # of its files; "": the input `output_format` says it
    training_suffix: ClassVar[str] = ""  # of the file that its training makes
    trains: ClassVar[str] = ""  # the model of the catalog that runs what its training makes; "": itself
    synthetic: ClassVar[bool] = True  # what it makes shows or sounds like a person who did not do it
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # engine → input that it cannot follow → why
    pinned: ClassVar[str] = ""  # the version that the hosted engine asks for first; "": the latest
    wants_gpu: ClassVar[bool] = True  # the neural engine is no choice of `auto` without one: it would take hours
    together: ClassVar[str] = ""  # models that say the same share a server's process, and the nets in its memory
    is_hosted: ClassVar[bool] = True  # whether the model exists outside this program
    media: ClassVar[frozenset[str]] = frozenset()  # its files that may be a page with audio or video

    @abstractmethod
    def classic(self, input: Any, context: Context) -> Made:
        """Serves the model without GPU, torch or downloads."""

    def classic_train(self, input: Any, context: Context) -> Made:
        """Trains without GPU, torch or downloads. Only where `TrainingInput` is set."""
        raise EngineError(f"{self.name} cannot be trained.", "Run it instead.")

    def neural(self, input: Any, context: Context) -> Made:
        """Serves the model with PyTorch and the published weights. Called where `neural_lacks` says ""."""
        raise EngineError(f"{engines.NOT_YET.format(name=self.name)}.", "Use --engine classic, or auto.")

    def neural_train(self, input: Any, context: Context) -> Made:
        """Trains so. Only where `TrainingInput` is set."""
        return self.neural(input, context)

    def hosted(self, input: Any, context: Context) -> Made:
        """Serves the model on Replicate, or on a server like it."""
        from vividcover.catalog import remote

        values = remote.with_files(input, remote.values_of(input), context, self.media)
        return remote.made(self, remote.run(self, values, context))

    def hosted_train(self, input: Any, context: Context) -> Made:
        """Trains there. Only where `TrainingInput` is set."""
        raise EngineError(f"{self.name} cannot be trained on the hosted engine.", "Use --engine classic.")

    def hosted_at(self, settings: Settings) -> str:
        """The address that hosted runs of this model go to; "" without a token for one."""
        return settings.replicate_url if settings.replicate_token else ""

    def reader(self, input: Any, context: Context) -> tuple[str, str] | None:
        """(engine, why) when a trained model in the input leaves no choice; None when any engine would do."""
        return None

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        """What is missing for the neural engine to serve this here, in words; "" when nothing is."""
        return engines.NOT_YET.format(name=self.name)

    def choose(
        self, wanted: Engine, settings: Settings, reader: tuple[str, str] | None = None, input: Any = None,
        training: bool = False,
    ) -> tuple[str, str]:  # fmt: skip
        """(engine, why). Raises `EngineError` for one that cannot serve this model here. See `engines.choose`."""
        return engines.choose(self, wanted, settings, reader, input, training)

    def name_ignored(self, engine: str, input: Inputs, context: Context) -> None:
        """Says which of the given parameters the engine cannot follow."""
        fields = type(input).model_fields
        for parameter, reason in self.ignores.get(engine, {}).items():
            if parameter in input.model_fields_set and getattr(input, parameter) is not None:
                context.cannot(parameter, HIDDEN if is_secret(fields[parameter]) else getattr(input, parameter), reason)

    def check_consent(self, consent: str) -> None:
        """Raises `ConsentError` unless there are words."""
        if not consent.strip():
            raise ConsentError(
                f"{self.name} learns a person's face or voice and needs their consent, in words.",
                'Say whose it is and that they agree: --consent "This is my own voice" (kept with the model).',
            )

    def run(self, values: Mapping[str, Any] | Inputs, context: Context) -> Result:
        """Validates, chooses the engine, runs. Raises errors of `vividcover.errors` only."""
        return self._carry_out("", self.Input, values, context, self.needs_consent)

    def train(self, values: Mapping[str, Any] | Inputs, context: Context) -> Result:
        """The same for the model's training; `output` is the trained model's file."""
        if self.TrainingInput is None:
            raise ParameterError(f"{self.name} has no training of its own.", f"Run it: vividcover run {self.name}.")
        return self._carry_out("_train", self.TrainingInput, values, context, True)

    def _carry_out(
        self, way: str, schema: type[Inputs], values: Mapping[str, Any] | Inputs, context: Context, consent: bool
    ) -> Result:
        input = values if isinstance(values, schema) else validated(self.name, schema, dict(values))
        if consent:
            self.check_consent(context.consent)
        if "seed" in schema.model_fields and getattr(input, "seed", None) is None and not way:
            input = input.model_copy(update={"seed": random.SystemRandom().randrange(SEED_LIMIT)})
        reader = None if way else self.reader(input, context)
        engine, why = self.choose(context.engine, context.settings, reader, input, bool(way))
        fits(context.output, self.training_suffix if way else self.suffix or f".{getattr(input, 'output_format', '')}")
        self.name_ignored(engine, input, context)
        made: Made = getattr(self, engine + way)(input, context)
        used = input.model_dump(mode="json")
        used |= {key: HIDDEN for key, info in schema.model_fields.items() if is_secret(info) and used[key] is not None}
        return context.result(self.name, made, engine, why, used, synthetic=self.synthetic and not way)


def refused_by(stage: StageResult) -> list[NotHonoured]:
    """What a stage's own report says that it could not follow: `key=value: why`, or `word: X` of a prompt."""
    report = stage.meta.get("report")
    lines = [*stage.meta.get("not_honoured", []), *(report.get("not_honoured", []) if isinstance(report, dict) else [])]
    found = []
    for line in lines:
        asked, _, why = str(line).partition(": ")
        parameter, equals, value = asked.partition("=")
        if asked == "word":
            found.append(NotHonoured("prompt", why, "the engine has no picture for this word"))
        else:
            found.append(NotHonoured(parameter, value if equals else None, why))
    return found


__all__ = [
    "ENGINES", "Context", "Engine", "Inputs", "Made", "Model", "NotHonoured", "Result", "fits", "takes_file", "uri",
    "validated",
]  # fmt: skip
