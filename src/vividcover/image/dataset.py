"""What a model of pictures is trained on: photos, captions and masks in one folder, and what was found wrong.

    dataset = prepare(Path("photos.zip"), Path("work/photos"), DatasetOptions("VIVI"), reporter)
    for photo in dataset.photos: …          # photo.path, photo.caption, photo.mask

The folder is a data set itself: NAME.png, NAME.txt, NAME_mask.png. Preparing it again gives the same photos.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vividcover.errors import ParameterError
from vividcover.files import canonical, sha256_file, storage_errors, write_text
from vividcover.image import buckets
from vividcover.image.decode import Limits
from vividcover.image.photos import MOST_PHOTOS, UNPACKED, Photo, PhotoSet, Problem, Rules, read_photos
from vividcover.workspace import Reporter, Silent

Kind = Literal["subject", "style", "product", "general"]  # subject: a person or a character
KINDS: tuple[str, ...] = get_args(Kind)
RESOLUTIONS = (512, 768, 1024)
SMALLEST = 256  # px; a photo below it teaches nothing but blur
MARK = ".vividcover-photos"  # says that the folder may be emptied
MEMORY = ".captions.json"  # what captioners have said of which photo
TOGETHER = 4  # photos up to which each is named in a note of its own
WIDEST = 4.0  # aspect ratio up to which the largest resolution loses nothing


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What the photos are for.

    `resolutions`: sides of squares, px, of the sizes that photos are trained at; `smallest`: side below which a photo
    is left out; `step`: px that sides are multiples of, 16 at least (64 gives fewer different sizes); `masks`: whether
    NAME_mask.png and transparency say which part of a photo is learned.
    """

    trigger_word: str = "TOK"
    kind: Kind = "subject"
    resolutions: tuple[int, ...] = RESOLUTIONS
    smallest: int = SMALLEST
    step: int = buckets.STEP
    masks: bool = True
    most: int = MOST_PHOTOS

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError(f"Unknown kind {self.kind!r}.", f"Choose one of {', '.join(KINDS)}.")
        if not self.trigger_word.strip() or self.trigger_word != " ".join(self.trigger_word.split()):
            raise ParameterError(
                f"The trigger word {self.trigger_word!r} is empty or has spaces at its ends.",
                "Choose a word that no language has, like ZIKI or CYBRPNK.",
            )
        if self.smallest < self.step:
            raise ParameterError(f"Photos of {self.smallest} px are smaller than {self.step} px.", "Ask for more.")
        buckets.buckets(max(self.resolutions, default=64), 64, self.resolutions, self.step)  # says what is wrong


@dataclass(frozen=True, slots=True)
class Dataset:
    """`problems`: pictures that were left out; `report`: JSON, see `describe`; `folder` holds the prepared photos."""

    folder: Path
    options: DatasetOptions
    photos: list[Photo]
    problems: list[Problem]
    ignored: list[Problem] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def captions(self) -> dict[str, str]:
        """Name of each photo's caption file → its caption: what a trained model's package keeps."""
        return {f"{photo.path.stem}.txt": photo.caption for photo in self.photos if photo.caption}

    def with_photos(self, photos: list[Photo]) -> Dataset:
        """The same data set with other captions or masks, its report brought up to date."""
        changed = replace(self, photos=photos)
        return replace(changed, report=self.report | describe(changed))


def prepare(
    source: Path, folder: Path, options: DatasetOptions | None = None, reporter: Reporter | None = None, *,
    notes: bool = True,
) -> Dataset:  # fmt: skip
    """Photos, captions and masks of a zip, a folder or one picture → `folder`, which is emptied first if it was
    made by this.

    `notes`: whether what was left out and mended is noted; not for who tells it otherwise, as the doctor's findings
    do. Raises `ImageError` when no photo can be used (naming every one and its fault), `ArchiveError`, `NotFoundError`,
    `ParameterError`, `StorageError`.
    """
    options, reporter = options or DatasetOptions(), reporter or Silent()
    _refuse_folder(source, folder)
    longest = round(max(options.resolutions) * WIDEST**0.5)
    rules = Rules(Limits(options.smallest, longest, (255, 255, 255), "white"), options.masks, options.most)
    with storage_errors("the prepared photos", folder):
        _empty(folder)
        found = read_photos(source, folder, rules=rules, reporter=reporter)
        shutil.rmtree(folder / UNPACKED, ignore_errors=True)
        for photo in found.photos:
            if photo.caption:
                write_text(caption_file(photo), photo.caption + "\n")
    dataset = Dataset(folder, options, found.photos, found.problems, found.ignored)
    dataset = replace(dataset, report=describe(dataset))
    if notes:
        _say(dataset, found, reporter)
    reporter.progress(1.0, f"{len(found.photos)} photos")
    return dataset


def caption_file(photo: Photo) -> Path:
    """Where a photo's caption stands."""
    return photo.path.with_suffix(".txt")


def describe(dataset: Dataset) -> dict[str, Any]:
    """JSON: what each photo is, what was left out and ignored, the buckets, and a hash of all that is learned from."""
    options = dataset.options
    return {
        "kind": options.kind,
        "trigger_word": options.trigger_word,
        "resolutions": list(options.resolutions),
        "given": len(dataset.photos) + len(dataset.problems),
        "used": len(dataset.photos),
        "photos": [
            {
                "name": photo.name,
                "file": photo.path.name,
                "size": list(photo.size),
                "caption": photo.caption,
                "mask": photo.mask is not None,
                "sharpness": round(photo.sharpness, 1),
                "notes": list(photo.notes),
            }
            for photo in dataset.photos
        ],
        "left_out": [{"name": p.name, "why": p.why} for p in dataset.problems],
        "ignored": [{"name": p.name, "why": p.why} for p in dataset.ignored],
        "buckets": buckets.table(dataset.photos, options.resolutions, options.step),
        "hash": fingerprint(dataset.photos),
    }


def fingerprint(photos: list[Photo]) -> str:
    """sha256 of the photos' pixels, captions and masks, whatever their names and order."""
    each = sorted([p.digest, p.caption, "" if p.mask is None else sha256_file(p.mask)] for p in photos)
    return hashlib.sha256(canonical(each).encode()).hexdigest()


def _refuse_folder(source: Path, folder: Path) -> None:
    """`folder` is emptied: it must not hold the photos, nor lie among them."""
    here, there = source.resolve(), folder.resolve()
    if here == there or here.is_relative_to(there) or (source.is_dir() and there.is_relative_to(here)):
        raise ParameterError(f"The photos in {source} cannot be prepared in {folder}.", "Name another folder for that.")
    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"{folder} is a file, not a folder.", "Name a folder.")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise ParameterError(f"{folder} holds other files, which would be deleted.", "Name a new folder.")


def _empty(folder: Path) -> None:
    """Makes the folder anew. What captioners said stays: the same photos are not described a second time."""
    memory = folder / MEMORY
    known = memory.read_text(encoding="utf-8") if memory.exists() else ""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    if known:
        write_text(memory, known)


def _say(dataset: Dataset, found: PhotoSet, reporter: Reporter) -> None:
    """Notes of what was left out, ignored and mended; what many photos share is said once."""
    told: dict[str, list[str]] = {}
    for problem in (*found.problems, *found.ignored):
        told.setdefault(problem.why, []).append(problem.name)
    for photo in dataset.photos:
        for note in photo.notes:
            told.setdefault(note, []).append(photo.name)
    for text, names in told.items():
        if len(names) > TOGETHER:
            reporter.note(f"{len(names)} photos, {names[0]} the first: {text}.")
        else:
            for name in names:
                reporter.note(f"{name}: {text}.")
