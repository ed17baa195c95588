"""The tar of a trained FLUX LoRA: laid out as Replicate's trainer does, with a card that says what it is.

    model.tar ── model.json
              └─ output/flux_train_replicate/ ── lora.safetensors  config.yaml  captions/*.txt  samples/*

Programs that load such a tar look for the one `.safetensors` in it, so there is never a second. The same parts give the
same bytes. Read back is this, a published tar without card, any tar or zip with one LoRA in it, or the bare file.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vividcover.errors import ModelFileError, ParameterError
from vividcover.files import aside
from vividcover.image.flux.config import DEV, FluxConfig
from vividcover.image.flux.lorafile import Lora, read_lora, write_lora
from vividcover.trained import CARD, PUBLISHED, kind_name, read_card
from vividcover.workspace import Reporter, Silent

ENGINE = "neural"
FORMAT = "flux-lora"
FOLDER = "output/flux_train_replicate"
LORA, SETTINGS = f"{FOLDER}/lora.safetensors", f"{FOLDER}/config.yaml"
HINT = "Give a model made by `vividcover image train`, a trained_model.tar of Replicate, or a LoRA (.safetensors)."
MOST_BYTES = 16 << 30  # of a LoRA inside an archive: rank 512 on every layer, fp32, has 11 GB
TEXT_LENGTH, LONGEST_TEXT = "vividcover.text_length", 512  # in a LoRA's metadata; tokens
MOST_SETTINGS = 1 << 20  # bytes of a config.yaml
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, RuntimeError)
TRIGGER = re.compile(r"^[ \t]*(?:- )?[\"']?trigger_word[\"']?:[ \t]*([\"']?)([^\"'\n#]+)\1[ \t]*$", re.M)


def card(
    name: str, *, trigger_word: str, type: str, consent: str, base: str, rank: int, steps: int, licence: str,
    commercial: bool | None, dataset_sha256: str, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """model.json. `type`: subject, style…; `base`: dev or schnell; `commercial`: whether what is made with it may be
    sold (None: not known); `more`: what the training says of itself (losses, resolutions, warnings)."""
    return {
        "kind": kind_name("image"), "engine": ENGINE, "format": FORMAT, "name": name, "trigger_word": trigger_word,
        "type": type, "consent": consent, "base": base, "rank": rank, "steps": steps, "licence": licence,
        "commercial": commercial, "dataset_sha256": dataset_sha256, **more,
    }  # fmt: skip


def write_package(
    out: Path, lora: Lora, card: Mapping[str, Any], captions: Mapping[str, str], config_yaml: str = "",
    samples: Mapping[str, Path | bytes] | None = None, *, dtype: str = "fp16", config: FluxConfig | None = None,
    reporter: Reporter | None = None,
) -> Path:  # fmt: skip
    """Writes the tar, whole or not at all. `captions`: text by the photo's name; `samples`: pictures by file name.

    The LoRA inside is read again and compared before the tar is made. `config`: of a network that is not FLUX.1.
    Raises what `write_lora` does, and `StorageError`.
    """
    reporter, out = reporter or Silent(), Path(out)
    members: dict[str, Path | bytes] = {CARD: (json.dumps(dict(card), indent=1, sort_keys=True) + "\n").encode()}
    if config_yaml:
        members[SETTINGS] = config_yaml.encode(errors="replace")
    for name, text in captions.items():
        stem = PurePosixPath(name.replace("\\", "/")).stem.lstrip(".") or "photo"  # a photo may be called anything
        members[_free(f"{FOLDER}/captions/{stem}", members)] = (text.strip() + "\n").encode(errors="replace")
    for name, picture in (samples or {}).items():
        members[f"{FOLDER}/samples/{_plain(name)}"] = picture
    said = {"vividcover.base": str(card.get("base", "")), "vividcover.trigger_word": str(card.get("trigger_word", "")),
            "modelspec.title": str(card.get("name", ""))}  # fmt: skip
    if length := card.get("options", {}).get("text_length"):
        said[TEXT_LENGTH] = str(length)
    with aside(out) as part, tempfile.TemporaryDirectory(prefix=".lora-", dir=part.parent) as folder:
        written = write_lora(Path(folder) / "lora.safetensors", lora, dtype=dtype, metadata=said, config=config)
        members[LORA] = written
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name in sorted(members):
                    _add(archive, name, members[name], reporter)
            file.flush()
            os.fsync(file.fileno())
    return out


def read_package(path: Path, config: FluxConfig = DEV) -> tuple[Lora, dict[str, Any]]:
    """The LoRA and the card; one that others published gets a card that says no more than the file does.

    Raises `ModelFileError`: no LoRA in it, two of them, a model of the classic engine, or what `read_lora` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"There is no image model at {path}.", HINT)
    found = read_card(path, "image", HINT)
    if found.get("engine") != ENGINE or found.get("format") not in (FORMAT, PUBLISHED["image"]):
        made = f"the engine {found.get('engine')!r}, format {found.get('format')!r}"
        raise ModelFileError(f"{path.name} is no FLUX LoRA: it was made by {made}.", HINT)
    source, settings, peft = _inside(path)
    lora = read_lora(source, config, "" if source == path else path.name, peft)
    length = found.get("options", {}).get("text_length") or lora.metadata.get(TEXT_LENGTH, "")
    if str(length).isdecimal() and 1 <= int(length) <= LONGEST_TEXT:
        found = {**found, "text_length": int(length)}  # tokens; pictures are made with as many
    if found["format"] == FORMAT:
        return lora, found
    trigger = lora.metadata.get("vividcover.trigger_word") or _trigger(settings)
    known = {"name": path.stem, "base": lora.base, "rank": lora.rank, "trigger_word": trigger}
    return lora, {**found, **{key: value for key, value in known.items() if value}}


def _inside(path: Path) -> tuple[Path | bytes, str, str]:
    """The LoRA (the file itself, or the archive's as bytes), `config.yaml` and PEFT's settings beside it."""
    if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        return path, "", ""
    try:
        with _members(path) as (names, read):
            loras = [name for name in names if name.endswith(".safetensors") and not _hidden(name)]
            if len(loras) != 1:
                inside = f"{len(loras)} LoRAs ({', '.join(loras[:4])})" if loras else "no .safetensors file"
                raise ModelFileError(f"{path.name} holds {inside}, where one is needed.", "Give the one you mean.")
            folder = PurePosixPath(loras[0]).parent
            beside = [str(folder / "config.yaml"), str(folder / "adapter_config.json")]
            settings, peft = (read(n, MOST_SETTINGS).decode(errors="replace") if n in names else "" for n in beside)
            return read(loras[0], MOST_BYTES), settings, peft
    except DAMAGED as error:
        raise ModelFileError(f"{path.name} is damaged: {error}.", HINT) from error


def members_of(path: Path) -> dict[str, bytes]:
    """All files of a package by their names in it; of a bare LoRA none. Raises `ModelFileError`."""
    if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        return {}
    try:
        with _members(path) as (names, read):
            return {name: read(name, MOST_BYTES) for name in names if not _hidden(name)}
    except DAMAGED as error:
        raise ModelFileError(f"{path.name} is damaged: {error}.", HINT) from error


@contextmanager
def _members(path: Path) -> Iterator[tuple[list[str], Any]]:
    """The plain files of a zip or tar, and what reads one of them, up to a number of bytes."""

    def take(name: str, size: int, file: BinaryIO | None, most: int) -> bytes:
        if size > most:
            raise ModelFileError(
                f"{path.name}: {name} has {size / 1e9:.1f} GB; at most {most / 1e9:.1f} are read.", HINT
            )
        data = b"" if file is None else file.read(most + 1)
        if len(data) != size:
            raise ModelFileError(f"{path.name} is damaged: {name} is not as long as the archive says.", HINT)
        return data

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            entries = {info.filename: info for info in zipped.infolist() if not info.is_dir()}

            def read_zip(name: str, most: int) -> bytes:
                with zipped.open(entries[name]) as file:
                    return take(name, entries[name].file_size, file, most)  # type: ignore[arg-type]

            yield list(entries), read_zip
        return
    with tarfile.open(path) as tarred:
        members = {member.name.removeprefix("./"): member for member in tarred.getmembers() if member.isfile()}

        def read_tar(name: str, most: int) -> bytes:
            return take(name, members[name].size, tarred.extractfile(members[name]), most)  # type: ignore[arg-type]

        yield list(members), read_tar


def _trigger(settings: str) -> str:
    """The trigger word in a trainer's `config.yaml`; "" where it says none."""
    found = TRIGGER.search(settings)
    word = found[2].strip() if found else ""
    return "" if word in ("null", "~") else word


def _hidden(name: str) -> bool:
    """What a Mac's archiver adds beside each file."""
    return "__MACOSX" in name or name.rsplit("/", 1)[-1].startswith("._")


def _plain(name: str) -> str:
    """A name for a file in the tar, which must not lead elsewhere nor be a second LoRA."""
    if not name or name != PurePosixPath(name).name or name.startswith(".") or name.endswith(".safetensors"):
        raise ParameterError(f"{name!r} is no name for a file in the model.", "Give a plain file name.")
    return name


def _free(stem: str, taken: Mapping[str, object]) -> str:
    """A name for a caption; photos whose names differ in their endings only are told apart by a number."""
    names = (f"{stem}.txt", *(f"{stem}-{i}.txt" for i in range(2, 2 + len(taken))))
    return next(name for name in names if name not in taken)


def _add(archive: tarfile.TarFile, name: str, source: Path | bytes, reporter: Reporter) -> None:
    """One member: no time, no owner, so that the same content gives the same bytes."""
    entry = tarfile.TarInfo(name)
    entry.size = len(source) if isinstance(source, bytes) else source.stat().st_size
    entry.mode = 0o644
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as data:
        archive.addfile(entry, _Checked(data, reporter))


class _Checked:
    """A file that looks at the cancel flag whenever it is read."""

    def __init__(self, file: Any, reporter: Reporter) -> None:
        self.file, self.reporter = file, reporter

    def read(self, size: int = -1) -> bytes:
        self.reporter.check()
        data: bytes = self.file.read(size)
        return data
