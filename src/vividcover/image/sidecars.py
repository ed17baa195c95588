"""What lies beside a photo: its caption (NAME.txt, also NAME.jpg.txt) and its mask (NAME_mask.png).

Captions may also stand in one table for all: metadata.jsonl or metadata.csv, as the Hugging Face hub has them.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ImageError
from vividcover.image.decode import SUFFIXES, Limits, decode

CAPTIONS = (".txt", ".caption")
TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
NAMED, SAID = ("file_name", "filename", "file", "image", "name"), ("text", "caption", "prompt")  # of its columns
MOST_TABLE = 20_000_000  # bytes of a table
MASKS = ("_mask", "-masklabel")  # ends of a mask's name: fal's trainer, OneTrainer
MOST_BYTES = 16_000  # of a caption's file
MOST_SIDE = 8192  # px of a mask
SAME_SHAPE = 0.02  # relative difference between the aspect ratios of a mask and its photo
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_caption(file: Path) -> tuple[str, str]:
    """(the caption on one line, what was mended or "") of a text file in whichever encoding it was saved."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        return "", f"its caption cannot be opened: {error.strerror or error}"
    note = ""
    if len(raw) > MOST_BYTES:
        raw, note = raw[:MOST_BYTES], f"its caption was cut at {MOST_BYTES} bytes"
    text, encoding = _decoded(raw)
    if encoding != "utf-8":
        note = f"its caption was saved as {encoding} and read as that"
    return clean(text), note


def read_table(file: Path) -> tuple[dict[str, str], str]:
    """(key of each photo → its caption, what is wrong or "") of a table of captions in the photos' folder."""
    try:
        if file.stat().st_size > MOST_TABLE:
            return {}, f"a table of captions of {file.stat().st_size / 1e6:.0f} MB is not read"
        text = _decoded(file.read_bytes())[0]
        if file.suffix.lower() == ".csv":
            rows = list(csv.DictReader(io.StringIO(text)))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        return {}, f"a table of captions that cannot be read: {' '.join(str(error).split())[:120]}"
    found: dict[str, str] = {}
    for row in rows:
        if isinstance(row, dict):
            name, said = (next((row[k] for k in keys if isinstance(row.get(k), str)), "") for keys in (NAMED, SAID))
            if name and clean(said):
                found[key(file.parent / name.replace("\\", "/"))] = clean(said)[:MOST_BYTES]
    wanted = f"each row has {NAMED[0]} and {SAID[0]}"
    return found, "" if found else f"a table of captions without any: {wanted}"


def _decoded(raw: bytes) -> tuple[str, str]:
    for mark, codec in BOMS:
        if raw.startswith(mark):
            return raw.decode(codec, "replace"), "utf-8" if mark == codecs.BOM_UTF8 else "UTF-16"
    if raw[1::2].count(0) > len(raw) // 4 or raw[::2].count(0) > len(raw) // 4:  # UTF-16 without its mark
        little = raw[1::2].count(0) >= raw[::2].count(0)
        return raw.decode("utf-16-le" if little else "utf-16-be", "replace"), "UTF-16"
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if len(raw) - error.start < 4 and len(raw) == MOST_BYTES:  # cut inside of a character
            return raw[: error.start].decode("utf-8"), "utf-8"
        return raw.decode("cp1252", "replace"), "Windows-1252"


def clean(text: str) -> str:
    """One line, composed Unicode, without characters that are not printed."""
    spaced = "".join(" " if c.isspace() or unicodedata.category(c) == "Cc" else c for c in text)
    kept = "".join(c for c in spaced if unicodedata.category(c) not in ("Cf", "Co", "Cs", "Cn") or c == "\u200d")
    return " ".join(unicodedata.normalize("NFC", kept).split())


def key(file: Path) -> str:
    """What a photo and its caption share: folder and name, whatever their case and their way to write an umlaut."""
    return unicodedata.normalize("NFC", str(file.with_suffix("")).casefold())


def caption_key(file: Path) -> str:
    """The key of the photo that a caption belongs to: img.txt → img, img.jpg.txt → img."""
    inner = file.with_suffix("")
    return key(inner) if inner.suffix.lower() in SUFFIXES else key(file)


def mask_key(file: Path) -> str:
    """The key of the photo that a file would be the mask of; "" when its name is no mask's."""
    stem = file.stem.casefold()
    end = next((end for end in MASKS if stem.endswith(end) and len(stem) > len(end)), "")
    return unicodedata.normalize("NFC", str(file.with_name(stem.removesuffix(end))).casefold()) if end else ""


def read_mask(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask as uint8 [H,W] of the photo's `shape`: white is learned. Raises `ImageError`."""
    found = decode(file, Limits(1, MOST_SIDE, (0, 0, 0), "black"))
    grey = cv2.cvtColor(found.rgb, cv2.COLOR_RGB2GRAY)
    height, width = shape[:2]
    given, wanted = grey.shape[1] / grey.shape[0], width / height
    if abs(given / wanted - 1) > SAME_SHAPE:
        raise ImageError(
            f"a mask of another shape than its photo: {found.size[0]} x {found.size[1]} px, not like {width} x {height}"
        )
    if int(grey.max()) == 0:
        raise ImageError("a mask that is black all over: nothing of its photo would be learned")
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
