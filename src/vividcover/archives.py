"""Zip files from strangers, read safely; zip files of ours, the same bytes every time.

    files = extract(Path("photos.zip"), folder)            # → sorted list of files below `folder`
    write_zip(Path("voice.zip"), {"model.json": data, "arrays.npz": path})

A zip is a list of names and streams, and each of them may lie. So: a name is split at / and \\ and refused when it
leaves the folder; a size is what really came out of the decompressor, counted while it is written; nothing but plain
files is made; and everything is written aside first, so that a bad archive leaves nothing behind.

Facts: PKWARE, ".ZIP File Format Specification" 6.3.10 (APPNOTE); D. Fifield, "A better zip bomb", WOOT 2019.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import struct
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vividcover.errors import ArchiveError, NotFoundError
from vividcover.files import aside
from vividcover.workspace import Reporter, Silent, storage_errors

CHUNK = 1 << 20  # bytes written between two looks at the limits and at the cancel flag
MAX_RATIO = 200  # bytes out per byte of the archive; photos and recordings stay below 3, flat silence may reach 1000
RATIO_FREE = 64 << 20  # bytes that may come out before the ratio counts (a short silent recording packs very well)
MAX_DIRECTORY = 8 << 20  # bytes of the list of contents, which is read into memory whole (about 100 bytes a file)
MAX_COMPONENT = 200  # bytes of one file or folder name; file systems allow 255
MAX_DEPTH, MAX_PATH = 32, 1000  # folders inside folders; bytes of a whole path inside
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
ZIP_END, ZIP64_LOCATOR, ZIP64_END = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"  # signatures, APPNOTE 4.3
ENCRYPTED = 0x1 | 0x40 | 0x2000  # general purpose bits 0, 6 and 13, APPNOTE 4.4.4
UTF8_NAME = 0x800  # general purpose bit 11
METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
OTHER_KINDS = (
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive (.gz, .tgz)"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an XZ archive"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)
UNPACKING = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, struct.error, RuntimeError)
AGAIN = "Make the zip again and check that it opens on your computer; if you downloaded it, download it once more."
OUTSIDE = "Such an archive can overwrite other files, so nothing was unpacked. Make the zip again from a plain folder."


def extract(
    archive: Path, folder: Path, *, max_bytes: int = 4 << 30, max_files: int = 20_000, reporter: Reporter | None = None
) -> list[Path]:
    """Unpacks a zip below `folder` (made if missing; best empty) and returns its files, sorted by path.

    Folders inside are kept. Left out: `__MACOSX/`, names that begin with a dot, Thumbs.db, desktop.ini. Two entries of
    the same name (also when only upper and lower case differ) are both kept, the second as `name-2.ext`.
    Raises `ArchiveError` for whatever is wrong with the archive, after removing what was written; `Canceled`.
    """
    reporter = reporter or Silent()
    archive, folder = Path(archive), Path(folder)
    made = not folder.exists()
    beside = folder / f".unzip-{uuid.uuid4().hex}"
    try:
        with storage_errors(f"the contents of {archive.name}", folder):
            beside.mkdir(parents=True)
            with _open(archive) as zipped:
                budget = _Budget(archive.name, archive.stat().st_size, max_bytes)
                targets = _plan(zipped, archive.name, max_files)
                for info, target in targets:
                    _unpack(zipped, info, beside / target, budget, reporter)
            for _, target in targets:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (beside / target).replace(folder / target)
    except BaseException:
        shutil.rmtree(folder if made else beside, ignore_errors=True)
        raise
    shutil.rmtree(beside, ignore_errors=True)
    return sorted(folder / target for _, target in targets)


def inspect(archive: Path, name: str = "", *, max_bytes: int = 4 << 30, max_files: int = 20_000, head: int = 262
            ) -> dict[str, bytes]:  # fmt: skip
    """The first `head` bytes of every file in a zip, by its path, without unpacking it.

    Raises `ArchiveError` for whatever the list of contents shows to be wrong: `extract` would refuse it too. Sizes are
    those that the archive claims; more than that never comes out of an entry, and `extract` counts what does.
    `name` stands for the archive in messages.
    """
    archive = Path(archive)
    name = name or archive.name
    with _open(archive) as zipped:
        plan = _plan(zipped, name, max_files)
        budget = _Budget(name, archive.stat().st_size, max_bytes)
        for info, _ in plan:
            budget.spend(info.file_size, _name(info))
        heads = {}
        for info, target in plan:
            try:
                with zipped.open(info) as data:
                    heads[str(target)] = data.read(head)
            except UNPACKING as error:
                raise ArchiveError(
                    f"{name} is damaged: “{_show(_name(info))}” cannot be unpacked ({error}).", AGAIN
                ) from None
    return heads


def looks_like_zip(head: bytes) -> bool:
    """Whether a file that begins like this says that it is a zip."""
    return head.startswith((b"PK\x03\x04", ZIP_END))


def write_zip(
    out: Path, files: Mapping[str, Path | bytes], *, compress: bool = False, reporter: Reporter | None = None
) -> Path:
    """Writes a zip whose bytes depend on the names and contents only: sorted, dated 1980-01-01, mode 0644.

    Stored by default, which is the same on every machine; `compress=True` deflates (same bytes for the same zlib).
    `files` maps the name inside to a file or to bytes. Written aside and renamed, so `out` is whole or not there.
    """
    reporter = reporter or Silent()
    out = Path(out)
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with aside(out) as part, zipfile.ZipFile(part, "w", method, compresslevel=6) as zipped:
        for name in sorted(files):
            _add(zipped, name, files[name], method, reporter)
    return out


def _add(zipped: zipfile.ZipFile, name: str, source: Path | bytes, method: int, reporter: Reporter) -> None:
    info = zipfile.ZipInfo(name, FIXED_DATE)
    info.compress_type, info.create_system = method, 3  # 3: Unix
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size  # decides whether it is zip64
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as data, zipped.open(info, "w") as to:
        while chunk := data.read(CHUNK):
            reporter.check()
            to.write(chunk)


def _open(archive: Path) -> zipfile.ZipFile:
    """The archive's list of contents, after the checks that need no list."""
    if not archive.exists():
        raise NotFoundError(f"There is no file {archive}.", "Check the path.")
    if archive.is_dir():
        raise ArchiveError(f"{archive.name} is a folder, not a zip file.", "Give the folder's zip, or its files.")
    with archive.open("rb") as file:
        head = file.read(512)
        directory = _directory_size(file)
    _refuse_other_kinds(archive.name, head)
    if directory is None:
        if head[:4] == b"PK\x03\x04":
            raise ArchiveError(
                f"{archive.name} is cut short: its list of contents, kept at the end, is missing.", AGAIN
            )
        raise ArchiveError(f"{archive.name} is not a zip file.", "Pack the files as a .zip, or give them one by one.")
    if directory > MAX_DIRECTORY:
        raise ArchiveError(f"{archive.name} has a list of contents of {directory / 1e6:.0f} MB.", "Pack fewer files.")
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise ArchiveError(
            f"{archive.name} is a damaged zip: its list of contents cannot be read ({error}).", AGAIN
        ) from error


def _refuse_other_kinds(name: str, head: bytes) -> None:
    if not head:
        raise ArchiveError(f"{name} is empty (0 bytes).", "The download or copy failed; fetch it again.")
    start = head.lstrip().lower()
    for magic, kind in OTHER_KINDS:
        if head.startswith(magic) or (magic.startswith(b"<") and start.startswith(magic)):
            raise ArchiveError(f"{name} is {kind}, not a zip file.", "Unpack it and pack the files as a .zip.")
    if head[257:262] == b"ustar":
        raise ArchiveError(f"{name} is a tar archive, not a zip file.", "Unpack it and pack the files as a .zip.")


def _directory_size(file: BinaryIO) -> int | None:
    """Bytes of the central directory as the end record says it; None without an end record (APPNOTE 4.3.14-16)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557 - 20))  # 22 bytes of record, at most 65535 of comment; 20 of zip64 locator before it
    tail = file.read()
    at = tail.rfind(ZIP_END)
    if at < 0 or len(tail) - at < 22:
        return None
    (length,) = struct.unpack_from("<I", tail, at + 12)
    if at >= 20 and tail[at - 20 : at - 16] == ZIP64_LOCATOR:
        (offset,) = struct.unpack_from("<Q", tail, at - 12)
        file.seek(min(offset, size))
        record = file.read(56)
        if len(record) == 56 and record[:4] == ZIP64_END:
            (length,) = struct.unpack_from("<Q", record, 40)
    return int(length)


def _plan(zipped: zipfile.ZipFile, archive: str, max_files: int) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Which entries are unpacked, and to where below the folder. Refuses the archive if one of them is not harmless."""
    plan: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    taken: set[str] = set()  # files, folded to lower case
    folders: set[str] = set()
    for info in zipped.infolist():
        name = _name(info)
        parts = _parts(name, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
            raise ArchiveError(f"{archive} contains {what}, “{_show(name)}”, where a plain file is expected.", OUTSIDE)
        if info.is_dir() or name.endswith("\\") or not parts or _is_litter(parts):
            continue
        if len(plan) == max_files:
            raise ArchiveError(f"{archive} holds more than {max_files} files.", "Pack fewer files.")
        _refuse_unreadable(info, name, archive)
        target = _free(PurePosixPath(*parts), taken)
        taken.add(str(target).casefold())
        folders.update(str(parent).casefold() for parent in target.parents)
        plan.append((info, target))
    if not plan:
        raise ArchiveError(f"{archive} holds no files.", "Pack the photos or recordings themselves into the zip.")
    if clash := sorted(taken & folders):
        raise ArchiveError(f"{archive} has “{_show(clash[0])}” both as a file and as a folder.", AGAIN)
    return plan


def _name(info: zipfile.ZipInfo) -> str:
    """The entry's name. Without the UTF-8 flag it is often UTF-8 all the same, else code page 437 (APPNOTE D)."""
    if info.flag_bits & UTF8_NAME:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _parts(name: str, archive: str) -> list[str]:
    """The name split into folders and file, fit for every file system. Raises when it points outside the folder."""
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or re.match(r"[A-Za-z]:/", slashed) or ".." in slashed.split("/"):
        raise ArchiveError(
            f"{archive} contains the name “{_show(name)}”, which points outside of the archive.", OUTSIDE
        )
    parts = [_component(part) for part in slashed.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH or len("/".join(parts).encode()) > MAX_PATH:
        raise ArchiveError(f"{archive} has folders too deep (“{_show(name)}”).", "Pack a flatter folder.")
    return parts


def _component(part: str) -> str:
    """One file or folder name: composed Unicode, no characters that some file system refuses, not too long."""
    part = re.sub(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]', "_", unicodedata.normalize("NFC", part))
    if part.endswith((" ", ".")):
        part = part.rstrip(" .") + "_"
    raw = part.encode()
    if len(raw) <= MAX_COMPONENT:
        return part
    suffix = Path(part).suffix if len(Path(part).suffix.encode()) <= 16 else ""
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: MAX_COMPONENT - 32].decode(errors="ignore") + f"-{digest}{suffix}"


def _is_litter(parts: list[str]) -> bool:
    """What operating systems leave in zips, and hidden files."""
    if any(part == "__MACOSX" or part.startswith(".") for part in parts):
        return True
    return parts[-1].casefold() in ("thumbs.db", "desktop.ini", "ehthumbs.db")


def _free(target: PurePosixPath, taken: set[str]) -> PurePosixPath:
    number, candidate = 2, target
    while str(candidate).casefold() in taken:
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
        number += 1
    return candidate


def _refuse_unreadable(info: zipfile.ZipInfo, name: str, archive: str) -> None:
    if info.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{archive} is protected by a password (“{_show(name)}”).", "Make the zip without one.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise ArchiveError(
            f"“{_show(name)}” in {archive} is compressed with {method}, which is not supported.",
            "Make the zip again with ordinary (Deflate) or no compression; files over 2 GB may need another program.",
        )


class _Budget:
    """What may still come out of the archive: a count of real bytes, whatever the headers say."""

    def __init__(self, archive: str, packed: int, max_bytes: int) -> None:
        self.archive, self.packed, self.max_bytes, self.spent = archive, packed, max_bytes, 0

    def spend(self, count: int, name: str) -> None:
        self.spent += count
        if self.spent > self.max_bytes:
            raise ArchiveError(
                f"{self.archive} unpacks to more than {self.max_bytes / 1e6:.0f} MB (stopped in “{_show(name)}”).",
                "Pack fewer or smaller files.",
            )
        if self.spent > max(RATIO_FREE, MAX_RATIO * self.packed):
            raise ArchiveError(
                f"{self.archive} looks like a zip bomb: {self.packed / 1e6:.1f} MB unpack to more than "
                f"{MAX_RATIO} times that (stopped in “{_show(name)}”).",
                "Photos and recordings never pack that well. If it is yours, make the zip without compression.",
            )


def _unpack(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, budget: _Budget, reporter: Reporter) -> None:
    """One entry's bytes into one new file."""
    name, written = _name(info), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out:
        for chunk in _chunks(zipped, info, budget.archive):
            reporter.check()
            written += len(chunk)
            budget.spend(len(chunk), name)
            out.write(chunk)
    if written != info.file_size:
        raise ArchiveError(
            f"{budget.archive} is damaged: “{_show(name)}” should be {info.file_size} bytes and is {written}.", AGAIN
        )


def _chunks(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, archive: str) -> Iterator[bytes]:
    """An entry's bytes, decompressed; zipfile compares the checksum at the end. What goes wrong here is the archive."""
    try:
        with zipped.open(info) as data:
            while chunk := data.read(CHUNK):
                yield chunk
    except UNPACKING as error:
        raise ArchiveError(
            f"{archive} is damaged: “{_show(_name(info))}” cannot be unpacked ({error}).", AGAIN
        ) from error


def _show(name: str) -> str:
    """A stranger's name, fit for a message: printable and short."""
    clean = "".join(character if character.isprintable() else "?" for character in name)
    return clean if len(clean) <= 80 else clean[:77] + "…"
