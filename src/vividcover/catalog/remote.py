"""The hosted engine of every model: the same inputs, the work done on Replicate, BFL, or a server like them.

A stage here is one run there, so asking again for the same thing costs nothing. What a training brings back is wrapped
with a `model.json` that says `engine: hosted` and where the version lies, so that a later run knows who can read it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from vividcover import archives
from vividcover.catalog import shelf
from vividcover.catalog.contract import Context, Inputs, Made, takes_file
from vividcover.errors import EngineError
from vividcover.hosted.remote import Memory, Order
from vividcover.prices import price
from vividcover.workspace import Stage, StageResult, canonical

if TYPE_CHECKING:
    from vividcover.catalog.contract import Model

INNER: dict[shelf.Kind, str] = {"voice": "remote.zip", "image": "remote.tar"}
PICTURES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # of files inside what we write: the same answer gives the same bytes


def values_of(input: Inputs) -> dict[str, Any]:
    """What the user gave, and the seed; what was left alone is left to the other side's own defaults."""
    given = input.model_fields_set | ({"seed"} if getattr(input, "seed", None) is not None else set())
    values = input.model_dump(mode="json", include=given)
    return {key: value for key, value in values.items() if value is not None}


def with_files(input: Inputs, values: Mapping[str, Any], context: Context, media: frozenset[str]) -> dict[str, Any]:
    """The values with a local path for every file. Links are fetched here, where the guard is, and uploaded."""
    files = {key for key, info in type(input).model_fields.items() if takes_file(info)}
    return {
        key: context.file(key, str(value), media=key in media) if key in files else value
        for key, value in values.items()
    }


def run(
    model: Model, values: Mapping[str, Any], context: Context, *, training: bool = False, reference: str = ""
) -> StageResult:
    """One run there as a stage here. `reference`: owner/name:id to run instead of the model itself."""
    name, _, version = (reference or f"{model.name}:{model.pinned}").partition(":")
    settings = context.settings
    files = {key: value for key, value in values.items() if isinstance(value, Path)}
    plain = {key: value for key, value in values.items() if key not in files}
    story = {"model": name, "version": version, "input": plain, "training": training, "site": settings.replicate_url}
    hashes = {key: context.workspace.hash_of(path) for key, path in files.items()}
    ticket = hashlib.sha256(canonical(story | {"files": hashes}).encode()).hexdigest()
    memory = Memory(context.workspace.root / "hosted" / f"{ticket}.json")

    def compute(stage: Stage) -> None:
        from vividcover.hosted import replicate

        site = replicate.Site(settings.replicate_token, settings.replicate_url, settings.max_download_bytes)
        order = Order(name, version, values, training)
        answer = replicate.carry_out(order, site, stage.folder, memory=memory, reporter=stage)
        stage.meta.update(answer.story())
        if answer.seconds is not None:
            unit, each = price(model.name, plain, "hosted", settings.prices)
            usd = round(each * (len(answer.files) if unit == "output" else answer.seconds), 6)
            stage.meta["spent"] = {"seconds": answer.seconds, "usd": usd}  # by this stage, for who keeps the accounts
            stage.meta["hosted"]["usd"] = usd
            stage.note(f"{name}: {answer.seconds:.1f} s there, about {usd:.4f} USD")

    return context.stage(f"hosted/{name}", version=1, inputs=files, params=story, compute=compute)


def made(model: Model, done: StageResult) -> Made:
    """A stage's outputs as the model gives them. Raises `EngineError` for an answer of another shape."""
    files = [done.path(name) for name in done.meta["files"]]
    details = {"hosted": done.meta["hosted"]}
    if model.output in ("text", "stream"):
        return Made(done.meta["text"], details)
    if not files:
        raise EngineError(
            f"{model.name} gave {done.meta['text']!r} instead of a file.", "Is its version the right one?"
        )
    return Made(files if model.output == "files" else files[0], details)


def marked(model: Model, done: StageResult, context: Context, seed: int | None = None) -> StageResult:
    """The outputs with the AI-generated mark inside, which the other side does not put there. The media stay as is;
    pictures of formats that lose something are written once more at quality 95.
    """
    from vividcover import provenance
    from vividcover.song import codec

    tags = {n: provenance.tags(Path(n).stem, model.name, "hosted", seed) for n in done.meta["files"]}

    def compute(stage: Stage) -> None:
        stage.meta.update({k: done.meta[k] for k in ("files", "text", "hosted")})
        for name in done.meta["files"]:
            if Path(name).suffix.lower() in PICTURES:
                _mark_picture(done.path(name), stage.folder / name, f"{model.name}, hosted engine, seed {seed}.")
            else:
                codec.tag(done.path(name), stage.folder / name, tags[name])

    inputs = {name: done.path(name) for name in done.meta["files"]}
    return context.stage("hosted/mark", version=1, inputs=inputs, params={"tags": tags}, compute=compute)


def _mark_picture(source: Path, target: Path, description: str) -> None:
    import numpy as np
    from PIL import Image

    from vividcover import provenance

    with Image.open(source) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    format = PICTURES[source.suffix.lower()]
    provenance.save_picture(rgb, target, format=format, quality=95, engine="hosted", description=description)


def trained_image(
    model: Model, photos: Path, input: Inputs, name: str, context: Context, without: Collection[str] = ()
) -> Made:
    """An image model learned there from a zip or folder of photos, wrapped for the shelf as `NAME.tar`.

    `without`: inputs that the other side does not know.
    """
    values: dict[str, Any] = {k: v for k, v in values_of(input).items() if k not in without}
    values["input_images"] = as_zip(photos, context)
    done = run(model, values, context, training=True)
    trigger = getattr(input, "trigger_word", "TOK")
    wrap = wrapped("image", name, done, context, trigger_word=trigger, type=getattr(input, "lora_type", "subject"))
    return Made(wrap.path(f"{name}.tar"), {"hosted": done.meta["hosted"], "report": {}})


def as_zip(photos: Path, context: Context) -> Path:
    """A folder as a zip; a file as it is."""
    if photos.is_file():
        return photos
    files = {str(f.relative_to(photos)): f for f in sorted(photos.rglob("*")) if f.is_file()}

    def compute(stage: Stage) -> None:
        archives.write_zip(stage.folder / "photos.zip", files)

    done = context.stage("image/zip", version=1, inputs=files, params={}, compute=compute)
    return done.path("photos.zip")


def wrapped(kind: shelf.Kind, name: str, done: StageResult, context: Context, **card: Any) -> StageResult:
    """The trained model that came back, as a file for the shelf: `model.json` and the other side's own file."""
    remote = done.path(done.meta["files"][0])
    story = {
        "kind": f"vividcover-{kind}", "engine": "hosted", "format": 1, "name": name, "consent": context.consent,
        "site": context.settings.replicate_url, "version": done.meta["hosted"]["trained"],
        "licence": f"trained with {done.name.removeprefix('hosted/')}, elsewhere (see site): its terms hold",
        **card,
    }  # fmt: skip
    file = f"{name}{shelf.SUFFIX[kind]}"

    def compute(stage: Stage) -> None:
        text = json.dumps(story, indent=1, ensure_ascii=False).encode()
        out = stage.folder / file
        if kind == "voice":
            with zipfile.ZipFile(out, "w") as archive:
                archive.writestr(zipfile.ZipInfo("model.json", EPOCH), text)
                with archive.open(zipfile.ZipInfo(INNER[kind], EPOCH), "w", force_zip64=True) as inner:
                    _copy(remote, inner)
        else:
            with tarfile.open(out, "w") as tar:
                card_ = tarfile.TarInfo("model.json")
                card_.size = len(text)
                tar.addfile(card_, io.BytesIO(text))
                weights = tarfile.TarInfo(INNER[kind])
                weights.size = remote.stat().st_size
                with remote.open("rb") as inner:
                    tar.addfile(weights, inner)

    params = {"card": story, "file": file}
    return context.stage("hosted/wrap", version=1, inputs={"remote": remote}, params=params, compute=compute)


def unwrapped(trained: shelf.Trained, context: Context) -> Path:
    """The other side's own file inside a wrapped model. Raises `EngineError` for a model that another engine made."""
    demand_hosted(trained)

    def compute(stage: Stage) -> None:
        name = INNER[trained.kind]
        out = stage.folder / f"{trained.card['name']}{shelf.SUFFIX[trained.kind]}"
        if trained.kind == "voice":
            with zipfile.ZipFile(trained.path) as archive, archive.open(name) as inner, out.open("wb") as file:
                shutil.copyfileobj(inner, file)
        else:
            with tarfile.open(trained.path) as tar, out.open("wb") as file:
                shutil.copyfileobj(cast(IO[bytes], tar.extractfile(name)), file)
        stage.meta["file"] = out.name

    done = context.stage("hosted/unwrap", version=1, inputs={"model": trained.path}, params={}, compute=compute)
    return done.path(done.meta["file"])


def _copy(source: Path, target: IO[bytes]) -> None:
    with source.open("rb") as file:
        shutil.copyfileobj(file, target)


def demand_hosted(trained: shelf.Trained) -> None:
    """Raises `EngineError` for a trained model that the hosted engine cannot use."""
    engine = trained.card.get("engine")
    if engine != "hosted":
        raise EngineError(
            f"The {trained.kind} {trained.name!r} was trained by the {engine} engine; the hosted one cannot read it.",
            f"Use --engine {engine}, or train it again with --engine hosted.",
        )
