"""What a trained model's file says of itself: its `model.json`, whether the file is a zip (voices) or a tar (images).

A model that others published has no card: a voice is a zip with a `.pth` in it, or the bare `.pth`; an image model is a
tar or zip with one `.safetensors` in it, or the bare file. It gets a card here, which says that the neural engine reads
it; whether it really is what it should be, that engine's own reader finds out.

    card = read_card(Path("vivi.zip"), "voice", hint="Give the .zip that `vividcover voice train` made.")

This is the only place that finds and checks the card; engines then check what is theirs (engine, format, arrays).
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal

from vividcover.errors import ModelFileError

Kind = Literal["voice", "image"]
SUFFIX: dict[Kind, str] = {"voice": ".zip", "image": ".tar"}
ARTICLE: dict[Kind, str] = {"voice": "a", "image": "an"}
CARD = "model.json"
PUBLISHED: dict[Kind, str] = {"voice": "rvc", "image": "lora"}  # the format of a model without a card
WEIGHTS: dict[Kind, tuple[str, ...]] = {"voice": (".pth", "/data.pkl"), "image": (".safetensors",)}  # what it holds
LONGEST_HEADER = 100_000_000  # bytes, of a .safetensors
ELSEWHERE = "the neural engine reads it, the classic one cannot"


def kind_name(kind: Kind) -> str:
    """What `kind` is called in a card."""
    return f"vividcover-{kind}"


def read_card(path: Path, kind: Kind, hint: str) -> dict[str, Any]:
    """The card of a trained model's file. Raises `ModelFileError` that says what the file is instead, with `hint`."""
    try:
        names, text = _open(path)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, KeyError, EOFError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path.name} is damaged: {error}.", hint) from error
    if names is None and (_is_pickle(path) if kind == "voice" else _is_safetensors(path)):
        return _card_for(kind, path)
    if names is None:
        raise ModelFileError(f"{path.name} is not a trained {kind} model: {_looks_like(path, kind)}.", hint)
    if text is None and (inside := [n for n in names if n.endswith(WEIGHTS[kind]) and not _hidden(n)]):
        if kind == "image" and len(inside) > 1:
            raise ModelFileError(
                f"{path.name} holds {len(inside)} LoRAs ({', '.join(inside[:4])}), not one.", "Give the one you mean."
            )
        return _card_for(kind, path)
    if text is None:
        raise ModelFileError(f"{path.name} {_holds(names)}.", hint)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"{path.name} has a damaged {CARD}: {error}.", hint) from error
    if not isinstance(found, dict) or found.get("kind") != kind_name(kind):
        what = found.get("kind", "something else") if isinstance(found, dict) else "something else"
        raise ModelFileError(f"{path.name} is a model of kind {what!r}, not {ARTICLE[kind]} {kind}.", hint)
    return found


def _open(path: Path) -> tuple[list[str] | None, bytes | None]:
    """The archive's names (None: it is no archive) and the card's bytes (None: it has no card)."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            names = zipped.namelist()
            return names, zipped.read(CARD) if CARD in names else None
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tarred:
            names = tarred.getnames()
            member = tarred.extractfile(CARD) if CARD in names else None
            return names, member.read() if member else None
    return None, None


def _card_for(kind: Kind, path: Path) -> dict[str, Any]:
    """The card of a model that others published."""
    return {"kind": kind_name(kind), "engine": "neural", "format": PUBLISHED[kind], "name": path.stem, "card": False}


def _hidden(name: str) -> bool:
    """What a Mac's archiver adds beside each file."""
    return "__MACOSX" in name or name.rsplit("/", 1)[-1].startswith("._")


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as a `.safetensors` does: the length of its header, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER


def _is_pickle(path: Path) -> bool:
    """Whether a file is torch's older format, a bare pickle."""
    with path.open("rb") as file:
        return file.read(2) == b"\x80\x02"


def _holds(names: list[str]) -> str:
    if any(n.endswith((".pth", "data.pkl")) for n in names):
        return f"is an RVC model or another PyTorch file (.pth): {ELSEWHERE}"
    if any(n.endswith(".safetensors") for n in names):
        return f"is a FLUX LoRA: {ELSEWHERE}"
    if any(n.startswith("dataset/") for n in names):
        return "is a dataset, not yet a model: train it first"
    return f"has no {CARD}; it holds {', '.join(names[:4]) or 'nothing'}"


def _looks_like(path: Path, kind: Kind) -> str:
    """What a file that is no archive seems to be."""
    with path.open("rb") as file:
        head = file.read(262)
    if not head:
        return "it is empty"
    if head[:2] == b"\x80\x02" or path.suffix == ".pth":
        return f"it looks like a PyTorch or RVC file: {ELSEWHERE}"
    if head[:4] in (b"RIFF", b"fLaC", b"OggS") or head[:3] == b"ID3":
        return "it is an audio file; train a voice from it first"
    import filetype

    found = filetype.guess(head)
    return f"it is not a {SUFFIX[kind][1:]}" + (f" but of the kind {found.mime}" if found else "")
