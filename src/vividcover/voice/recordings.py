"""Recordings as people give them: files, folders and zips, in the order that their names mean.

clips = open_dataset(Path("dataset_ana.zip"), folder)
clips = gather([Path("interview.mp4"), Path("memos.zip")], folder, reporter)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vividcover.archives import extract
from vividcover.errors import AudioError, NotFoundError
from vividcover.song._fetch_kinds import kind_of
from vividcover.workspace import Reporter, Silent

AUDIO = frozenset(
    (
        "aac", "aif", "aiff", "amr", "ape", "au", "caf", "flac", "m4a", "m4b", "mka", "mp2", "mp3", "oga", "ogg",
        "opus", "wav", "wave", "weba", "wma", "wv",
        "3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpg", "mpeg", "mts", "ts", "webm", "wmv",
    )
)  # fmt: skip


def open_dataset(source: Path, folder: Path, *, reporter: Reporter | None = None) -> list[Path]:
    """The audio files of a data set or of a pile of recordings: a zip (unpacked below `folder`), a folder, or one file.

    In natural order (split_2 before split_10). Raises `AudioError` when there is none, `ArchiveError`, `NotFoundError`.
    """
    reporter = reporter or Silent()
    source = Path(source)
    if not source.exists():
        raise NotFoundError(f"There is no file or folder {source}.", "Check the path.")
    if source.is_dir():
        files = [path for path in source.rglob("*") if path.is_file() and not _hidden(path.relative_to(source))]
    elif _is_zip(source):
        files = extract(source, folder, reporter=reporter)
        if len(files) == 1 and _is_zip(files[0]):  # a zip in a zip, as some sites wrap downloads
            files = extract(files[0], folder / "inside", reporter=reporter)
    else:
        return [source]
    audio = sorted((path for path in files if _is_audio(path)), key=lambda path: _natural(path.as_posix()))
    if not audio:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in files)
        found = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(4)) or "nothing"
        raise AudioError(
            f"No audio found in {source.name}: it holds {found}.", "Pack recordings: wav, mp3, flac, m4a, ogg or video."
        )
    return audio


def gather(recordings: Sequence[Path], work: Path, reporter: Reporter) -> list[Path]:
    """Every audio file of the given files, folders and zips."""
    if not recordings:
        raise AudioError("No recordings were given.", "Give audio or video files, folders or zips of them.")
    found = [
        open_dataset(source, work / f"source_{number}", reporter=reporter) for number, source in enumerate(recordings)
    ]
    return [path for files in found for path in files]


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    return path.suffix.lower() == ".zip" or head in (b"PK\x03\x04", b"PK\x05\x06")


def _is_audio(path: Path) -> bool:
    if path.suffix[1:].lower() in AUDIO:
        return True
    with path.open("rb") as file:
        return not path.suffix and kind_of(file.read(4096), "")[0] == "media"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that puts split_2 before split_10."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(float(part), "") if part.isdigit() and len(part) < 16 else (math.inf, part) for part in parts]
