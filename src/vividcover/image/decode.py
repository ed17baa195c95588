"""One picture of any format, size and orientation → upright sRGB pixels, and what was mended on the way.

Memory stays bounded: huge JPEGs are decoded at reduced size, other huge pictures refused before a pixel is read.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from vividcover.errors import ImageError

MOST_PIXELS = 90_000_000  # decoded whole (270 MB as RGB)
MOST_PIXELS_JPEG = 1_000_000_000  # baseline JPEG: decoded at 1/8 scale
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".ppm", ".tga", ".jp2", ".ico", ".psd", ".mpo", ".apng",
}  # fmt: skip
FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "TGA", "JPEG2000", "ICO", "PSD", "HEIF",
)  # fmt: skip  # of Pillow; it knows others too, some of which start programs (EPS)
RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}  # what cameras' sensors saw
ORIENTATION = 0x0112  # EXIF's tag; its values are CIPA DC-008, 4.6.5
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_bomb_lock = threading.Lock()  # Pillow's limit is a global


@dataclass(frozen=True, slots=True)
class Limits:
    """`smallest` and `longest` side of a picture in px; transparent parts lie on `backdrop`, called `backdrop_name`."""

    smallest: int
    longest: int
    backdrop: tuple[int, int, int] = (150, 150, 150)
    backdrop_name: str = "grey"


@dataclass(frozen=True, slots=True)
class Decoded:
    """`rgb` uint8 [H,W,3]; `alpha` uint8 [H,W] where parts were transparent; `size` (width, height) as given."""

    rgb: NDArray[Any]
    size: tuple[int, int]
    notes: tuple[str, ...]
    alpha: NDArray[Any] | None = None


def is_picture(file: Path) -> bool:
    """By its name, or by how it begins."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES or suffix in RAW:
        return True
    with contextlib.suppress(OSError):  # one that may not be read is none
        return suffix not in (".txt", ".caption") and _looks_like_picture(file)
    return False


def decode(file: Path, limits: Limits) -> Decoded:
    """Raises `ImageError`: what the picture is at fault with, without its name."""
    try:
        head = _head(file)
    except OSError as error:
        raise ImageError(f"it cannot be opened: {error.strerror or error}") from error
    _refuse_by_head(file, head)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what damaged files make Pillow say, the errors are enough
            size, pixels, alpha = _read(file, limits, notes, heic=_is_heic(head))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_what(head)) from None
    except Exception as error:
        if not _damage(error):
            raise
        why = " ".join(str(error).split())[:120]
        raise ImageError(f"damaged: {why or type(error).__name__}".rstrip(".")) from error
    if min(pixels.shape[:2]) < limits.smallest:
        raise ImageError(f"too small: {size[0]} x {size[1]} px, at least {limits.smallest} px are needed")
    pixels, alpha = _shrunk(pixels, limits.longest), None if alpha is None else _shrunk(alpha, limits.longest)
    if min(pixels.shape[:2]) < limits.smallest:
        raise ImageError(f"too narrow: {size[0]} x {size[1]} px")
    return Decoded(pixels, size, tuple(notes), alpha)


def _damage(error: Exception) -> bool:
    """Whether it is the file's fault and not ours: Pillow's readers fail in every way there is, but in their own code.

    What a wrong call raises counts only from within the readers of formats, which trip over damaged headers so.
    """
    place = str([frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1].f_globals.get("__name__", ""))
    if isinstance(error, TypeError | AttributeError | NameError | AssertionError):
        return place.startswith("pillow_heif") or bool(re.fullmatch(r"PIL\.(\w+Plugin|ImageFile|Exif\w*)", place))
    return isinstance(error, OSError | MemoryError) or place.partition(".")[0] in ("PIL", "pillow_heif")


def _read(
    file: Path, limits: Limits, notes: list[str], *, heic: bool
) -> tuple[tuple[int, int], NDArray[Any], NDArray[Any] | None]:
    """(size as given, sRGB uint8 [H,W,3], alpha). Raises whatever Pillow raises."""
    Image.init()
    if heic:  # a library of its own, which is not ours to install
        importlib.import_module("pillow_heif").register_heif_opener()
    with _our_limits():
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    with image:
        size = image.size
        _reduce_while_decoding(image, limits, notes)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            notes.append("animated: its first picture is used")
            image.seek(0)
        image.load()
        return (size, *_srgb(_upright(image, notes), limits, notes))


def _shrunk(pixels: NDArray[Any], longest: int) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), np.uint8)


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(32)


def _refuse_by_head(file: Path, head: bytes) -> None:
    if not head:
        raise ImageError("the file is empty (0 bytes)")
    if _is_heic(head) and importlib.util.find_spec("pillow_heif") is None:
        raise ImageError("a HEIC photo: save it as JPEG first, or install what reads it (`pip install pillow-heif`)")
    if file.suffix.lower() in RAW:  # what Pillow finds in these is a preview
        raise ImageError("a camera's raw file, which cannot be read here: save it as JPEG first")


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in HEIC


def _looks_like_picture(file: Path) -> bool:
    head = _head(file)
    starts = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(starts) or webp or _is_heic(head) or head[4:12] in (b"ftypavif", b"ftypavis")


def _what(head: bytes) -> str:
    """What a file is that is no picture."""
    if head.startswith(b"%PDF"):
        return "a PDF, not a picture: save its pictures as JPEG or PNG"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<svg", b"<?xml")):
        return "a drawing (SVG), not a picture: save it as PNG"
    if all(b in b"\t\n\r" or 32 <= b < 127 for b in head):
        return "text, not a picture"
    return "not a picture that can be read"


@contextlib.contextmanager
def _our_limits() -> Iterator[None]:
    """We check sizes ourselves, before any pixel is decoded."""
    with _bomb_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reduce_while_decoding(image: Image.Image, limits: Limits, notes: list[str]) -> None:
    pixels = image.size[0] * image.size[1]
    if min(image.size) < limits.smallest:
        raise ImageError(f"too small: {image.size[0]} x {image.size[1]} px, at least {limits.smallest} px are needed")
    whole = image.format not in ("JPEG", "MPO") or bool(image.info.get("progressive") or image.info.get("progression"))
    most = MOST_PIXELS if whole else MOST_PIXELS_JPEG
    if pixels > most:
        raise ImageError(
            f"too large: {pixels / 1e6:.0f} megapixels, at most {most / 1e6:.0f} are read; make it smaller"
        )
    if image.format in ("JPEG", "MPO") and max(image.size) > 2 * limits.longest:
        image.draft(None, (limits.longest, limits.longest))
        if pixels > MOST_PIXELS:  # of the others nothing is lost that would be kept
            notes.append(f"{pixels / 1e6:.0f} megapixels: read at reduced size")


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        if not _damage(error):
            raise  # else the pixels may be whole all the same
        notes.append("its EXIF data are damaged: whether it is upright is not known")
        return image
    if orientation not in TURNS:
        return image
    notes.append("turned upright by its EXIF orientation")
    return image.transpose(TURNS[orientation])


def _srgb(image: Image.Image, limits: Limits, notes: list[str]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Any mode to (sRGB uint8 [H,W,3], alpha uint8 [H,W] or None); transparency lies on the backdrop."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(np.nanmax(values)), 1e-9)
        top = 255.0 if image.mode == "I" and values.max() <= 255 else top
        notes.append("16 bits or more a channel: brought to 8")
        grey = np.clip(np.nan_to_num(values) / top * 255, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), None
    profile: Any = image.info.get("icc_profile")
    alpha: NDArray[Any] | None = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        base = Image.new("RGBA", layers.size, (*limits.backdrop, 255))
        base.alpha_composite(layers)
        alpha = np.asarray(layers.getchannel("A"))
        if alpha.max() == 0:
            raise ImageError("transparent all over: it shows nothing")
        if alpha.min() < 255:
            notes.append(f"transparent parts were put on {limits.backdrop_name}")
        else:
            alpha = None
        image = base.convert("RGB")
    if image.mode == "CMYK":
        notes.append("CMYK: converted to RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            changed = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = changed if changed is not None else image
    return np.array(image.convert("RGB"), np.uint8), alpha
