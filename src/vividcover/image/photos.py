"""Photos as people have them: any format, size and orientation in; upright RGB PNGs of at most 1536 px out.

Memory stays bounded: one photo at a time, huge JPEGs decoded at reduced size, other huge pictures refused.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vividcover import archives
from vividcover.errors import ImageError, NotFoundError
from vividcover.workspace import Reporter, Silent

LONGEST_SIDE = 1536  # px of a prepared photo
SMALLEST_SIDE = 256  # px; below this there is no face to work with
MOST_PIXELS = 90_000_000  # decoded whole (270 MB as RGB)
MOST_PIXELS_JPEG = 1_000_000_000  # baseline JPEG: decoded at 1/8 scale
MOST_PHOTOS = 1000
HASH_SIDE = 16  # difference hash of 16 x 16 bits
SAME_BITS = 12  # of 256: at most this many differ between duplicates
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".ppm", ".tga", ".jp2", ".ico", ".psd", ".mpo", ".apng",
}  # fmt: skip
_bomb_lock = threading.Lock()  # Pillow's limit is a global


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo: `path` is an upright RGB PNG; `notes`: what was mended; `size` = (width, height) as given, px."""

    name: str
    path: Path
    size: tuple[int, int]
    caption: str
    sharpness: float
    notes: tuple[str, ...]

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
    photos: list[Photo]
    problems: list[Problem]


def read_photos(source: Path, folder: Path, *, reporter: Reporter | None = None) -> PhotoSet:
    """The photos of a zip, a folder or one file, prepared into `folder`. Captions stand in NAME.txt beside NAME.jpg.

    Raises `ImageError` when nothing usable is left (naming every file and its fault), `ArchiveError`, `NotFoundError`.
    """
    reporter = reporter or Silent()
    folder.mkdir(parents=True, exist_ok=True)
    files = _files_of(source, folder)
    captions = {_stem(f): _caption(f) for f in files if f.suffix.lower() == ".txt"}
    pictures = [
        f for f in files if f.suffix.lower() in SUFFIXES or (f.suffix.lower() != ".txt" and _looks_like_picture(f))
    ]
    if not pictures:
        raise ImageError(
            f"{source.name} holds no pictures.", "Give a zip or folder with 10 to 20 photos (JPEG, PNG, WebP)."
        )
    if len(pictures) > MOST_PHOTOS:
        raise ImageError(
            f"{source.name} holds {len(pictures)} pictures; at most {MOST_PHOTOS} are read.", "Give fewer."
        )
    photos: list[Photo] = []
    problems: list[Problem] = []
    seen: list[tuple[NDArray[np.bool_], int]] = []
    for i, file in enumerate(pictures):
        reporter.progress(i / len(pictures), f"photo {i + 1} of {len(pictures)}")
        name = _name(file, source, folder)
        try:
            image, size, notes = open_photo(file)
        except ImageError as error:
            problems.append(Problem(name, error.message))
            continue
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        mark = difference_hash(grey)
        twin = next((k for known, k in seen if int((known != mark).sum()) <= SAME_BITS), None)
        sharp = sharpness(grey)
        if twin is not None and photos[twin].sharpness >= sharp:
            problems.append(Problem(name, f"the same picture as {photos[twin].name}"))
            continue
        prepared = folder / f"photo_{i:04d}.png"
        Image.fromarray(image).save(prepared, compress_level=1)
        photo = Photo(name, prepared, size, captions.get(_stem(file), ""), sharp, tuple(notes))
        if twin is not None:
            problems.append(Problem(photos[twin].name, f"the same picture as {name}, less sharp"))
            photos[twin] = replace(photo, caption=photo.caption or photos[twin].caption)
        else:
            seen.append((mark, len(photos)))
            photos.append(photo)
    if not photos:
        raise ImageError(
            f"None of the {len(pictures)} pictures in {source.name} can be used: " + listed(problems),
            "Give photos of at least 256 px as JPEG, PNG or WebP.",
        )
    return PhotoSet(photos, problems)


def listed(problems: list[Problem], most: int = 8) -> str:
    """Problems as one readable line."""
    text = "; ".join(f"{p.name}: {p.why}" for p in problems[:most])
    return text + (f"; and {len(problems) - most} more" if len(problems) > most else "") + "."


def _files_of(source: Path, folder: Path) -> list[Path]:
    if not source.exists():
        raise NotFoundError(f"{source} does not exist.", "Give a zip, a folder or a picture.")
    if source.is_dir():
        return sorted(
            f for f in source.rglob("*") if f.is_file() and not f.name.startswith(".") and "__MACOSX" not in f.parts
        )
    if _is_zip(source):
        return sorted(archives.extract(source, folder / "unpacked"))
    if source.suffix.lower() == ".zip":
        return sorted(archives.extract(source, folder / "unpacked"))  # says what is wrong with it
    return [source]


def _is_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _name(file: Path, source: Path, folder: Path) -> str:
    for root in (folder / "unpacked", source):
        if file.is_relative_to(root) and file != root:
            return str(file.relative_to(root))
    return file.name


def _stem(file: Path) -> Path:
    return file.with_suffix("")


def _caption(file: Path) -> str:
    return " ".join(file.read_bytes()[:4000].decode("utf-8", "replace").split())


def _looks_like_picture(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(16)
    starts = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
    return head.startswith(starts) or head[4:8] == b"ftyp"


@contextlib.contextmanager
def _our_limits() -> Iterator[None]:
    """We check sizes ourselves, before any pixel is decoded."""
    with _bomb_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_photo(file: Path) -> tuple[NDArray[Any], tuple[int, int], list[str]]:
    """(upright sRGB uint8 [H,W,3] of at most 1536 px, size as given, notes). Raises `ImageError`."""
    head = file.read_bytes()[:32] if file.stat().st_size < 64 else _head(file)
    if not head:
        raise ImageError("the file is empty (0 bytes)")
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        raise ImageError("a HEIC photo, which cannot be read here: save it as JPEG first")
    notes: list[str] = []
    try:
        with _our_limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
        with image:
            size = image.size
            _reduce_while_decoding(image, notes)
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                notes.append("animated: its first picture is used")
                image.seek(0)
            image.load()
            upright = _upright(image, notes)
            pixels = _srgb(upright, notes)
    except ImageError:
        raise
    except UnidentifiedImageError:
        kind = "text" if _is_text(head) else "not a picture that can be read"
        raise ImageError(f"{kind}, not a picture" if kind == "text" else kind) from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(f"damaged: {error}".rstrip(".")) from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise ImageError(f"too small: {size[0]} x {size[1]} px, at least {SMALLEST_SIDE} px are needed")
    longest = max(pixels.shape[:2])
    if longest > LONGEST_SIDE:
        scale = LONGEST_SIDE / longest
        small = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), np.uint8)
        if min(small) < SMALLEST_SIDE:
            raise ImageError(f"too narrow: {size[0]} x {size[1]} px")
    return pixels, size, notes


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(32)


def _is_text(head: bytes) -> bool:
    return all(b in b"\t\n\r" or 32 <= b < 127 for b in head)


def _reduce_while_decoding(image: Image.Image, notes: list[str]) -> None:
    pixels = image.size[0] * image.size[1]
    if min(image.size) < SMALLEST_SIDE:
        raise ImageError(f"too small: {image.size[0]} x {image.size[1]} px, at least {SMALLEST_SIDE} px are needed")
    whole = image.format not in ("JPEG", "MPO") or bool(image.info.get("progressive") or image.info.get("progression"))
    limit = MOST_PIXELS if whole else MOST_PIXELS_JPEG
    if pixels > limit:
        raise ImageError(
            f"too large: {pixels / 1e6:.0f} megapixels, at most {limit / 1e6:.0f} are read; make it smaller"
        )
    if image.format in ("JPEG", "MPO") and max(image.size) > 2 * LONGEST_SIDE:
        image.draft(None, (LONGEST_SIDE, LONGEST_SIDE))
        notes.append(f"{pixels / 1e6:.0f} megapixels: read at reduced size")


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    turned = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned upright by its EXIF orientation")
    return turned


def _srgb(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    """Any mode to sRGB uint8 [H,W,3]; transparency lies on neutral grey."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(np.nanmax(values)), 1e-9)
        top = 255.0 if image.mode == "I" and values.max() <= 255 else top
        notes.append("16 bits or more a channel: brought to 8")
        grey = np.clip(np.nan_to_num(values) / top * 255, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    profile: Any = image.info.get("icc_profile")
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if transparent:
        layers = image.convert("RGBA")
        base = Image.new("RGBA", layers.size, (150, 150, 150, 255))
        base.alpha_composite(layers)
        if np.asarray(layers.getchannel("A")).min() < 255:
            notes.append("transparent parts were put on grey")
        image = base.convert("RGB")
    if image.mode == "CMYK":
        notes.append("CMYK: converted to RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            changed = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = changed if changed is not None else image
    return np.array(image.convert("RGB"), np.uint8)


def difference_hash(grey: NDArray[Any]) -> NDArray[np.bool_]:
    """256 bits: is each of 16 x 17 cells brighter than its neighbour (perceptual hash)."""
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1]).ravel()


def sharpness(grey: NDArray[Any]) -> float:
    """Variance of the Laplacian at about 512 px (Pech-Pacheco et al. 2000)."""
    scale = 512 / max(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    return float(cv2.Laplacian(small, cv2.CV_64F).var())
