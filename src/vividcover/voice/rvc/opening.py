"""A voice as people have it: our zip, a published zip with the files anywhere inside, a folder, or a bare `.pth`.

model = open_model(Path("vivi.zip"))      # → what sings (VoiceFile), where its index is, what its card says
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vividcover import archives
from vividcover.errors import ModelFileError, NotFoundError
from vividcover.trained import CARD, kind_name
from vividcover.voice.rvc.checkpoint import VoiceFile, read_voice_file
from vividcover.voice.rvc.index import Index

HINT = "Give a zip with an RVC voice (.pth and, at best, its added_….index), or the .pth itself."
NETS = (".pth", ".safetensors")
OF_TRAINING = ("G_", "D_")  # checkpoints that training leaves beside the voice


@dataclass(frozen=True)
class Model:
    """A voice that can sing. `card` is our model.json, empty for a stranger's; `index` None where there is none."""

    file: VoiceFile
    index: Index | None
    card: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    notes: tuple[str, ...] = ()


def open_model(path: Path, *, with_index: bool = True) -> Model:
    """Reads a voice. Raises `NotFoundError`, `ModelFileError`, `ArchiveError` that say what the file is instead.

    `with_index=False` leaves the index unread.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"There is no voice model at {path}.", HINT)
    if path.is_dir():
        return _from_files(path.name, sorted(p for p in path.rglob("*") if p.is_file()), with_index)
    with path.open("rb") as file:
        head = file.read(4)
    if archives.looks_like_zip(head) and path.suffix.lower() not in NETS and not _is_torch_zip(path):
        with tempfile.TemporaryDirectory(prefix="vividcover-voice-") as folder:
            return _from_files(path.name, archives.extract(path, Path(folder)), with_index)
    beside = sorted(path.parent.glob(f"added_*{_glob_safe(path.stem)}*.index"))
    return _from_files(path.name, [path, *beside], with_index, bare=True)


def _is_torch_zip(path: Path) -> bool:
    """Whether a zip is itself what torch.save wrote (a .pth that was renamed)."""
    return any(name.endswith("/data.pkl") for name in archives.inspect(path, head=0))


def _glob_safe(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)


def _from_files(what: str, files: Sequence[Path], with_index: bool, bare: bool = False) -> Model:
    card = _card(what, files)
    voice, name = _voice(what, files, bare)
    index, notes = None, list[str]()
    if with_index and (found := _index_among(files)) is not None:
        index = Index.read(found, dimension=voice.config.features, name=found.name)
        if bare:
            notes.append(f"The index {found.name} beside the voice is used.")
    return Model(voice, index, card, str(card.get("name") or name), tuple(notes))


def _card(what: str, files: Sequence[Path]) -> dict[str, Any]:
    """Our card, if there is one; it must be of a voice that this engine reads."""
    cards = [file for file in files if file.name == CARD]
    if not cards:
        return {}
    try:
        card = json.loads(min(cards, key=lambda file: len(file.parts)).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"{what} has a damaged {CARD}: {error}.", HINT) from error
    if not isinstance(card, dict) or card.get("kind") is None:
        return {}  # a stranger's file of that name
    if card["kind"] != kind_name("voice"):
        raise ModelFileError(f"{what} is a model of kind {card['kind']!r}, not a voice.", HINT)
    if card.get("engine") not in (None, "neural"):
        raise ModelFileError(
            f"{what} is a voice of the {card['engine']!r} engine; the neural engine cannot read it.",
            f"Convert with --engine {card['engine']}.",
        )
    return card


def _voice(what: str, files: Sequence[Path], bare: bool) -> tuple[VoiceFile, str]:
    """The net among the files. Where several could be it, the one that reads as a voice, not as a checkpoint."""
    nets = files[:1] if bare else [file for file in files if file.suffix.lower() in NETS]
    if not nets:
        held = ", ".join(sorted({file.suffix or file.name for file in files})[:6]) or "nothing"
        raise ModelFileError(f"{what} holds no RVC voice (.pth): it has {held}.", HINT)
    nets = sorted(nets, key=lambda file: (file.name.startswith(OF_TRAINING), -file.stat().st_size))
    refusal: ModelFileError | None = None
    checkpoint: tuple[VoiceFile, str] | None = None
    for net in nets:
        try:
            voice = read_voice_file(net, net.name)
        except ModelFileError as error:
            refusal = refusal or error
            continue
        if voice.kind == "voice":
            return voice, net.stem
        checkpoint = checkpoint or (voice, net.stem)
    if checkpoint is not None:
        return checkpoint
    assert refusal is not None
    raise refusal


def _index_among(files: Sequence[Path]) -> Path | None:
    """The index: one that is called `added_` first, a `trained_` one last (it is empty, and refused for that)."""
    found = [file for file in files if file.suffix.lower() == ".index"]
    order = {"added": 0, "trained": 2}
    return min(found, key=lambda file: order.get(file.name.split("_")[0].lower(), 1)) if found else None
