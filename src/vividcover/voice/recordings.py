"""Recordings as people give them: files, folders and zips, in the order that their names mean.

    clips = open_dataset(Path("dataset_ana.zip"), folder)
    clips = gather([Path("interview.mp4"), Path("memos.zip")], folder, reporter)

Any layout will do: dataset/NAME/split_0.wav, NAME/take 1.mp3, wavs beside a metadata.csv, 0_gt_wavs/ of an RVC project,
zips in a zip, folders in folders, names without a suffix or with a wrong one. What is no audio is passed over.
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
# never looked into: what lies beside recordings, and what other programs make of them
NO_AUDIO = frozenset(
    (
        "7z", "bat", "ckpt", "csv", "db", "doc", "docx", "htm", "html", "index", "ini", "jpeg", "jpg", "json", "lab",
        "list", "log", "lrc", "md", "npy", "npz", "pdf", "pkl", "png", "pt", "pth", "py", "rar", "safetensors", "sh",
        "srt", "textgrid", "toml", "tsv", "txt", "url", "vtt", "xml", "yaml", "yml",
    )
)  # fmt: skip
MAX_INNER = 50  # zips that are looked for in a zip


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
        files = _with_inner(extract(source, folder, reporter=reporter), folder, reporter)
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


def _with_inner(files: list[Path], folder: Path, reporter: Reporter) -> list[Path]:
    """The files, with zips among them (a download's wrapping, a zip per session) replaced by what they hold."""
    zips = [path for path in files if path.suffix.lower() == ".zip" and _is_zip(path)]
    if len(zips) > MAX_INNER:
        raise AudioError(f"There are {len(zips)} zips in the zip.", "Unpack them into one folder, and pack that.")
    inner = []
    for number, path in enumerate(zips):
        inner += extract(path, folder / f"inside_{number}", reporter=reporter)
        path.unlink()
    return [path for path in files if path not in zips] + inner


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    return path.suffix.lower() == ".zip" or head in (b"PK\x03\x04", b"PK\x05\x06")


def _is_audio(path: Path) -> bool:
    """By its suffix; where that says nothing, by its first bytes."""
    suffix = path.suffix[1:].lower()
    if suffix in AUDIO or suffix in NO_AUDIO:
        return suffix in AUDIO
    with path.open("rb") as file:
        return kind_of(file.read(4096), "")[0] == "media"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that puts split_2 before split_10."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(float(part), "") if part.isdigit() and len(part) < 16 else (math.inf, part) for part in parts]
