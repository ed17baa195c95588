"""Photos as people have them: any format, size and orientation in; upright RGB PNGs out, each fault named.

A zip or a folder is flattened: `a/me.jpg` and `b/me.jpg` become `me.png` and `me-2.png`, with `me.txt` and
`me_mask.png` beside them where the photo came with a caption or a mask. Memory stays bounded: one photo at a time.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vividcover import archives
from vividcover.errors import ArchiveError, ImageError, NotFoundError
from vividcover.image import sidecars
from vividcover.image.decode import Decoded, Limits, decode, is_picture
from vividcover.patience import Patient
from vividcover.workspace import Reporter, Silent

LONGEST_SIDE = 1536  # px of a prepared photo
SMALLEST_SIDE = 256  # px; below this there is no face to work with
MOST_PHOTOS = 1000
MOST_BYTES = 4 << 30  # that zips, and zips inside them, may unpack to
HASH_SIDE = 16  # difference hash of 16 x 16 bits
SAME_BITS = 12  # of 256: at most this many differ between duplicates
SAME_LEVELS = 40  # of 255: no cell of 16 x 16 differs by more between duplicates (plain backdrops have no bits)
UNPACKED = ".unpacked"  # inside the folder of the prepared photos
PLAIN = Limits(SMALLEST_SIDE, LONGEST_SIDE)
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}


@dataclass(frozen=True, slots=True)
class Rules:
    """How pictures are read. `masks`: NAME_mask.png is the mask of NAME, and transparency is kept as one."""

    limits: Limits = PLAIN
    masks: bool = False
    most: int = MOST_PHOTOS


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo: `path` is an upright RGB PNG; `notes`: what was mended; `size` = (width, height) as given, px.

    `mask`: a grey PNG of the same shape, white where something is to be learned. `digest`: sha256 of the pixels.
    """

    name: str
    path: Path
    size: tuple[int, int]
    caption: str
    sharpness: float
    notes: tuple[str, ...]
    mask: Path | None = None
    digest: str = ""

    def rgb(self) -> NDArray[Any]:
        """uint8 [H, W, 3]."""
        with Image.open(self.path) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was left out, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """`problems`: pictures that were left out; `ignored`: other files, and captions and masks without a photo."""

    photos: list[Photo]
    problems: list[Problem]
    ignored: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _Files:
    """The files of a source, by what they are; captions and masks by the key of the photo that they belong to."""

    pictures: list[Path] = field(default_factory=list)
    captions: dict[str, Path] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # captions from a table
    masks: dict[str, Path] = field(default_factory=dict)
    ignored: list[Problem] = field(default_factory=list)


def read_photos(
    source: Path, folder: Path, *, rules: Rules | None = None, reporter: Reporter | None = None
) -> PhotoSet:
    """The photos of a zip, a folder or one file, prepared into `folder`. Captions stand in NAME.txt beside NAME.jpg.

    Raises `ImageError` when nothing usable is left (naming every file and its fault), `ArchiveError`, `NotFoundError`.
    """
    reporter, rules = reporter or Silent(), rules or Rules()
    folder.mkdir(parents=True, exist_ok=True)
    files = _files_of(source, folder, reporter)
    found = _sorted_out(files, source, folder, rules, reporter)
    if not found.pictures:
        raise ImageError(
            f"{source.name} holds no pictures.", "Give a zip or folder with 10 to 20 photos (JPEG, PNG, WebP)."
        )
    if len(found.pictures) > rules.most:
        raise ImageError(
            f"{source.name} holds {len(found.pictures)} pictures; at most {rules.most} are read.", "Give fewer."
        )
    with Patient(reporter) as patient:
        photos, problems = _prepared(found, source, folder, rules, reporter, patient)
    if not photos:
        raise ImageError(
            f"None of the {len(found.pictures)} pictures in {source.name} can be used: " + listed(problems),
            f"Give photos of at least {rules.limits.smallest} px as JPEG, PNG or WebP.",
        )
    return PhotoSet(photos, problems, found.ignored)


def _prepared(
    found: _Files, source: Path, folder: Path, rules: Rules, reporter: Reporter, patient: Patient
) -> tuple[list[Photo], list[Problem]]:
    photos: list[Photo] = []
    problems: list[Problem] = []
    seen: list[_Look] = []  # of each photo
    taken: set[str] = set()
    for i, file in enumerate(found.pictures):
        reporter.progress(i / len(found.pictures), f"photo {i + 1} of {len(found.pictures)}")
        name = _name(file, source, folder)
        try:
            decoded = patient.call(decode, file, rules.limits)
        except ImageError as error:
            problems.append(Problem(name, error.message))
            continue
        look = _look(decoded.rgb)
        twin = next((k for k, other in enumerate(seen) if look.same(other)), None)
        if twin is not None and not _better(decoded.rgb, photos[twin]):
            problems.append(Problem(name, f"the same picture as {photos[twin].name}"))
            photos[twin] = _with_sidecars_of(photos[twin], file, found)
            continue
        photo = _save(decoded, look, name, file, folder / f"{_flat(file.stem, taken)}.png", found, rules)
        if twin is not None:
            problems.append(Problem(photos[twin].name, f"the same picture as {name}, which is better"))
            photo = replace(photo, caption=photo.caption or photos[twin].caption, mask=photo.mask or photos[twin].mask)
            photos[twin].path.unlink(missing_ok=True)
            photos[twin], seen[twin] = photo, look
        else:
            seen.append(look)
            photos.append(photo)
    return photos, problems


def listed(problems: list[Problem], most: int = 8) -> str:
    """Problems as one readable line."""
    text = "; ".join(f"{p.name}: {p.why}" for p in problems[:most])
    return text + (f"; and {len(problems) - most} more" if len(problems) > most else "") + "."


# files ------------------------------------------------------------------------------------------------------------


def _files_of(source: Path, folder: Path, reporter: Reporter) -> list[Path]:
    if not source.exists():
        raise NotFoundError(f"{source} does not exist.", "Give a zip, a folder or a picture.")
    if source.is_dir():
        inside = ((f, f.relative_to(source).parts) for f in source.rglob("*"))
        return sorted(f for f, parts in inside if f.is_file() and not any(_is_litter(part) for part in parts))
    if source.suffix.lower() == ".zip" or archives.looks_like_zip(source.open("rb").read(4)):
        return sorted(archives.extract(source, folder / UNPACKED, reporter=reporter))  # says what is wrong with it
    return [source]


def _is_litter(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX" or part.casefold() in ("thumbs.db", "desktop.ini")


def _sorted_out(files: list[Path], source: Path, folder: Path, rules: Rules, reporter: Reporter) -> _Files:
    """What each file is. Zips inside are opened too, those inside them are not: people zip folders of zips."""
    found = _Files()
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    room = MOST_BYTES - sum(f.stat().st_size for f in files if f.is_relative_to(folder))
    for number, file in enumerate(zips):
        name = _name(file, source, folder)
        try:
            place = folder / UNPACKED / f".{number}-{name}"
            inner = archives.extract(file, place, max_bytes=max(0, room), reporter=reporter)
        except ArchiveError as error:
            found.ignored.append(Problem(name, f"a zip inside: {error.message}"))
            continue
        room -= sum(f.stat().st_size for f in inner)
        found.ignored.append(Problem(name, f"a zip inside: its files ({len(inner)}) were taken as well"))
        files = [*files, *inner]
    pictures = [file for file in files if file not in zips and is_picture(file)]
    keys = {sidecars.key(file) for file in pictures}
    for file in files:
        if rules.masks and file in pictures and (of := sidecars.mask_key(file)) in keys:
            found.masks[of] = file
        elif file in pictures:
            found.pictures.append(file)
        elif file.name.lower() in sidecars.TABLES:
            rows, wrong = sidecars.read_table(file)
            found.told |= rows
            found.ignored += [Problem(_name(file, source, folder), wrong)] if wrong else []
        elif file.suffix.lower() in sidecars.CAPTIONS:
            found.captions[sidecars.caption_key(file)] = file
        elif file not in zips:
            found.ignored.append(Problem(_name(file, source, folder), _what_else(file)))
    there = {sidecars.key(file) for file in found.pictures}
    for lonely in found.captions.keys() - there:
        name = _name(found.captions[lonely], source, folder)
        found.ignored.append(Problem(name, "a text without a picture of its name"))
    return found


def _what_else(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in VIDEOS:
        return "a video, not a picture"
    return "a zip inside a zip inside: unpack it first" if suffix == ".zip" else "not a picture"


def _name(file: Path, source: Path, folder: Path) -> str:
    for root in (folder / UNPACKED, source):
        if file.is_relative_to(root) and file != root:
            parts = file.relative_to(root).parts
            return str(Path(re.sub(r"^\.\d+-", "", parts[0]), *parts[1:]))
    return file.name


def _flat(stem: str, taken: set[str]) -> str:
    """A name for the prepared photo that every file system takes, and that no other photo has."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:80] or "photo"
    while any(plain.casefold().endswith(end) for end in sidecars.MASKS):
        plain += "_photo"  # else it would be taken for a mask when the folder is read again
    name, number = plain, 2
    while name.casefold() in taken:
        name, number = f"{plain}-{number}", number + 1
    taken.add(name.casefold())
    return name


# pixels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    """By what the same picture is known again."""

    bits: NDArray[np.bool_]
    cells: NDArray[np.int16]  # [16, 16, 3]
    sharpness: float

    def same(self, other: _Look) -> bool:
        if int((self.bits != other.bits).sum()) > SAME_BITS:
            return False
        return int(np.abs(self.cells - other.cells).max()) <= SAME_LEVELS


def _better(rgb: NDArray[Any], kept: Photo) -> bool:
    """Whether a copy is plainly sharper, or larger and not less sharp. Small differences are JPEG's noise."""
    other = kept.rgb()
    side = min(512, max(rgb.shape), max(other.shape))  # at the same size, for sharpness depends on it
    here, there = (
        sharpness(cv2.cvtColor(cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))
        for p in (rgb, other)
    )
    return here > 1.2 * there or (rgb.size > 1.5 * other.size and here > 0.8 * there)


def _look(rgb: NDArray[Any]) -> _Look:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(rgb, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return _Look(difference_hash(grey), cells, sharpness(grey))


def _save(decoded: Decoded, look: _Look, name: str, file: Path, prepared: Path, found: _Files, rules: Rules) -> Photo:
    """Writes the photo and its mask into the folder."""
    Image.fromarray(decoded.rgb).save(prepared, compress_level=1)
    digest = hashlib.sha256(repr(decoded.rgb.shape).encode() + decoded.rgb.tobytes()).hexdigest()
    photo = Photo(name, prepared, decoded.size, "", look.sharpness, decoded.notes, None, digest)
    photo = _with_sidecars_of(photo, file, found)
    if rules.masks and photo.mask is None and decoded.alpha is not None and decoded.alpha.max() > 0:
        photo = replace(photo, mask=_write_mask(prepared, decoded.alpha))
        photo = replace(photo, notes=(*photo.notes, "its transparency is its mask"))
    return photo


def _with_sidecars_of(photo: Photo, file: Path, found: _Files) -> Photo:
    """The photo with the caption and the mask that lie beside `file`, where it has none yet."""
    beside = sidecars.key(file)
    if not photo.caption and (text := found.captions.get(beside)) is not None:
        caption, note = sidecars.read_caption(text)
        note = note if caption else note or "its caption is empty"
        photo = replace(photo, caption=caption, notes=(*photo.notes, *([note] if note else [])))
    if not photo.caption and (told := found.told.get(beside)):
        photo = replace(photo, caption=told)
    if photo.mask is None and (mask := found.masks.get(beside)) is not None:
        try:
            with Image.open(photo.path) as image:
                photo = replace(photo, mask=_write_mask(photo.path, sidecars.read_mask(mask, image.size[::-1])))
        except ImageError as error:
            photo = replace(photo, notes=(*photo.notes, f"{mask.name} was left out: {error.message}"))
    return photo


def _write_mask(prepared: Path, mask: NDArray[Any]) -> Path:
    path = prepared.with_name(f"{prepared.stem}_mask.png")
    Image.fromarray(mask).save(path, compress_level=1)
    return path


def difference_hash(grey: NDArray[Any]) -> NDArray[np.bool_]:
    """256 bits: is each of 16 x 17 cells brighter than its neighbour (perceptual hash)."""
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1]).ravel()


def sharpness(grey: NDArray[Any]) -> float:
    """Variance of the Laplacian at about 512 px (Pech-Pacheco et al. 2000)."""
    scale = 512 / max(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    return float(cv2.Laplacian(small, cv2.CV_64F).var())
