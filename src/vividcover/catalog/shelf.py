"""The shelf of trained models: `voices/NAME.zip` and `images/NAME.tar` under the user's data folder.

A trained model is one file that carries its own `model.json` (kind, engine, format, name, consent, report). A name on
the shelf, a path, or a link all lead to such a file.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vividcover.catalog.contract import Context
from vividcover.errors import ModelFileError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.trained import SUFFIX as SUFFIX
from vividcover.trained import Kind as Kind
from vividcover.trained import read_card
from vividcover.workspace import publish

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Trained:
    """A trained model's file and its `model.json`."""

    kind: Kind
    name: str
    path: Path
    card: dict[str, Any]


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ParameterError(
            f"{name!r} cannot be a name.",
            "Use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit.",
        )
    return name


def folder(kind: Kind, settings: Settings) -> Path:
    return settings.voices if kind == "voice" else settings.images


def shelve(kind: Kind, name: str, model: Path, settings: Settings) -> Path:
    """Puts a trained model on the shelf under its name; an older one of that name is replaced in one step."""
    return publish(model, folder(kind, settings) / f"{check_name(name)}{SUFFIX[kind]}")


def listed(kind: Kind, settings: Settings) -> list[Trained]:
    """What is on the shelf, by name. A file that cannot be read is left out: `doctor` speaks of it."""
    found = []
    for path in sorted(folder(kind, settings).glob(f"*{SUFFIX[kind]}")):
        try:
            found.append(Trained(kind, path.stem, path, card(path, kind)))
        except ModelFileError:
            continue
    return found


def take(kind: Kind, wanted: str, context: Context) -> Trained:
    """The trained model behind a name, a path or a link. Raises `NotFoundError`, `ModelFileError`."""
    from vividcover.song.fetch import is_link

    if context.resolve or is_link(wanted):  # on a server no value is a name or a path on its own disk
        path = context.file(kind, wanted)
    elif (
        (path := folder(kind, context.settings) / f"{wanted}{SUFFIX[kind]}")
        and NAME.fullmatch(wanted)
        and path.is_file()
    ):
        context.used(kind, wanted, path)
    elif Path(wanted).expanduser().is_file():
        path = context.file(kind, wanted)
    else:
        raise _unknown(kind, wanted, context.settings)
    return taken(kind, path, context)


def taken(kind: Kind, path: Path, context: Context) -> Trained:
    """The trained model in a file, remembered as a material of what is made. Raises `ModelFileError`."""
    trained = Trained(kind, path.stem, path, card(path, kind))
    context.materials.append(
        {
            "kind": kind, "name": trained.card.get("name", trained.name), "engine": trained.card.get("engine"),
            "sha256": context.workspace.hash_of(path), "consent": trained.card.get("consent"),
            "licence": trained.card.get("licence", ""), "commercial": trained.card.get("commercial"),
        }
    )  # fmt: skip
    return trained


def engine_of(kind: Kind, wanted: str | None, context: Context) -> tuple[str, str] | None:
    """(engine, why) of the trained model behind a name or path, without taking it; None for a link or nothing."""
    from vividcover.song.fetch import is_link

    if not wanted:
        return None
    path = context.resolve(wanted) if context.resolve else None
    if path is None and (context.resolve or is_link(wanted)):
        return None
    if path is None:
        named = folder(kind, context.settings) / f"{wanted}{SUFFIX[kind]}"
        path = named if NAME.fullmatch(wanted) and named.is_file() else Path(wanted).expanduser()
    if not path.is_file():
        return None  # `take` says what is wrong with it
    found = card(path, kind)
    engine = str(found.get("engine", "classic"))
    if found.get("card") is False:
        what = {"voice": "an RVC model", "image": "a LoRA"}[kind]
        return engine, f"the {kind} {path.stem!r} is {what}, which the neural engine reads"
    return engine, f"the {engine} engine trained the {kind} {path.stem!r}"


def _unknown(kind: Kind, wanted: str, settings: Settings) -> NotFoundError:
    names = [t.name for t in listed(kind, settings)]
    near = difflib.get_close_matches(wanted, names, 3)
    known = (
        f"Did you mean {', '.join(near)}?"
        if near
        else f"Known: {', '.join(names)}."
        if names
        else "None is trained yet."
    )
    return NotFoundError(
        f"There is no {kind} named {wanted!r}, and no such file.",
        f"{known} Train one with `vividcover {kind} train … --name {_free(wanted)}`.",
    )


def _free(wanted: str) -> str:
    """A name to train under: the wanted one, unless it looks like a file's."""
    return wanted if NAME.fullmatch(wanted) and "." not in wanted else "NAME"


def card(path: Path, kind: Kind) -> dict[str, Any]:
    """The `model.json` of a trained model's file. Raises `ModelFileError` that says what the file is instead."""
    return read_card(path, kind, _what_to_give(kind))


def _what_to_give(kind: Kind) -> str:
    other = {"voice": "an RVC voice (.pth, .zip)", "image": "a FLUX LoRA (.safetensors, .tar)"}[kind]
    return f"Give the name or the {SUFFIX[kind]} file that `vividcover {kind} train` made, or {other}."
