"""Archives from strangers: what is unpacked, what is refused, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from vividcover import archives
from vividcover.archives import extract, write_zip
from vividcover.errors import ArchiveError, Canceled, NotFoundError
from vividcover.workspace import Silent


def make(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as zipped:
        for name, data in entries.items():
            zipped.writestr(name, data)
    return path


def refused(archive: Path, tmp_path: Path, **limits: int) -> ArchiveError:
    """Unpacks what must be refused; checks that nothing came of it inside or outside of the folder."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as caught:
        extract(archive, tmp_path / "out", **limits)
    assert sorted(tmp_path.rglob("*")) == before
    assert caught.value.hint
    return caught.value


def test_files_come_out_with_their_folders_and_litter_stays_behind(tmp_path: Path) -> None:
    archive = make(
        tmp_path / "a.zip",
        {
            "Photos/b.jpg": b"b", "Photos/a.jpg": b"a", "Photos/a.txt": b"TOK", "top.wav": b"w",
            "__MACOSX/Photos/._a.jpg": b"x", "Photos/._b.jpg": b"x", "Photos/.DS_Store": b"x", "Photos/Thumbs.db": b"x",
            ".hidden/c.jpg": b"x", "Photos/empty/": b"",
        },
    )  # fmt: skip
    files = extract(archive, tmp_path / "out")
    assert [f.relative_to(tmp_path / "out").as_posix() for f in files] == [
        "Photos/a.jpg", "Photos/a.txt", "Photos/b.jpg", "top.wav",
    ]  # fmt: skip
    assert files[0].read_bytes() == b"a"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["Photos", "top.wav"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/etc/evil.txt",
        "..\\evil.txt",
        "a\\..\\..\\evil",
        "C:\\evil.txt",
        "\\\\host\\e",
    ],
)
def test_a_name_that_leaves_the_folder_is_refused_and_named(tmp_path: Path, name: str) -> None:
    error = refused(make(tmp_path / "slip.zip", {"good.txt": b"1", name: b"2"}), tmp_path)
    assert name in error.message and "outside" in error.message


def test_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
        zipped.writestr("link/passwd", "root")
    assert "a link, “link”" in refused(tmp_path / "l.zip", tmp_path).message


def test_backslashes_of_old_windows_tools_are_folders(tmp_path: Path) -> None:
    files = extract(make(tmp_path / "w.zip", {"photos\\01.jpg": b"1"}), tmp_path / "out")
    assert files == [tmp_path / "out" / "photos" / "01.jpg"]


def test_a_bomb_stops_at_the_ratio_without_filling_the_disk(tmp_path: Path) -> None:
    archive = make(tmp_path / "bomb.zip", {"zeros.bin": bytes(archives.RATIO_FREE + (8 << 20))})
    error = refused(archive, tmp_path)
    assert "bomb" in error.message and "zeros.bin" in error.message


def test_a_header_that_lies_about_the_size_helps_no_bomb(tmp_path: Path) -> None:
    archive = make(tmp_path / "lie.zip", {"zeros.bin": bytes(4 << 20)})
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # the central directory says: 10 bytes
    archive.write_bytes(data)
    assert "zeros.bin" in refused(archive, tmp_path).message
    data[at + 24 : at + 28] = struct.pack("<I", 5 << 20)  # more than there is
    archive.write_bytes(data)
    assert "should be 5242880 bytes and is 4194304" in refused(archive, tmp_path).message


def test_overlapping_entries_are_counted_each_time(tmp_path: Path) -> None:
    """Fifield's bomb: many directory entries that point at the same data."""
    archive = make(tmp_path / "o.zip", {"a": os.urandom(100_000)}, zipfile.ZIP_STORED)
    data = archive.read_bytes()
    at, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    record, tail = data[at:end], bytearray(data[end:])
    tail[8:16] = struct.pack("<HHI", 50, 50, 50 * len(record))
    archive.write_bytes(data[:at] + record * 50 + tail)
    assert "more than 1 MB" in refused(archive, tmp_path, max_bytes=1_000_000).message


def test_too_many_bytes_or_files_are_refused_with_the_limit(tmp_path: Path) -> None:
    archive = make(tmp_path / "big.zip", {f"{i}.bin": os.urandom(1000) for i in range(5)})
    assert "more than 0 MB" in refused(archive, tmp_path, max_bytes=4000).message
    assert "more than 4 files" in refused(archive, tmp_path, max_files=4).message


def test_an_enormous_list_of_contents_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 2000)
    archive = make(tmp_path / "many.zip", {f"{i}.bin": b"" for i in range(100)})
    assert "list of contents" in refused(archive, tmp_path).message


def test_a_password_is_explained(tmp_path: Path) -> None:
    archive = make(tmp_path / "p.zip", {"secret.wav": b"123"}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + offset] |= 1
    archive.write_bytes(data)
    assert "password (“secret.wav”)" in refused(archive, tmp_path).message


def test_other_compressions_are_named(tmp_path: Path) -> None:
    assert "LZMA" in refused(make(tmp_path / "z.zip", {"a.wav": b"1"}, zipfile.ZIP_LZMA), tmp_path).message


def test_damage_is_told_from_truncation(tmp_path: Path) -> None:
    archive = make(tmp_path / "d.zip", {"voice.wav": os.urandom(5000)}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[:3000])
    assert "cut short" in refused(tmp_path / "cut.zip", tmp_path).message
    data[1000] ^= 0xFF
    archive.write_bytes(data)
    error = refused(archive, tmp_path)
    assert "damaged" in error.message and "voice.wav" in error.message


def test_no_single_flipped_byte_gives_a_traceback_or_a_stray_file(tmp_path: Path) -> None:
    whole = make(tmp_path / "f.zip", {"a/1.wav": os.urandom(9), "2.wav": bytes(60)}).read_bytes()
    archive = tmp_path / "f.zip"
    for at in range(len(whole)):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            extract(archive, tmp_path / "out" / str(at))
        except ArchiveError:
            assert not (tmp_path / "out" / str(at)).exists()
    for length in range(len(whole)):
        archive.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            extract(archive, tmp_path / "cut")
    assert {p.name for p in tmp_path.iterdir()} == {"f.zip", "out"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty (0 bytes)"),
        (b"Rar!\x1a\x07\x01\x00", "RAR"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"not a zip at all", "not a zip file"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "tar"),
    ],
)
def test_what_is_no_zip_is_called_by_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    assert words in refused(tmp_path / "x.zip", tmp_path).message


def test_an_empty_zip_and_a_zip_of_litter_hold_no_files(tmp_path: Path) -> None:
    for entries in ({}, {"__MACOSX/._a": b"x", ".DS_Store": b"x", "folder/": b""}):
        assert "holds no files" in refused(make(tmp_path / "e.zip", entries), tmp_path).message


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        extract(tmp_path / "none.zip", tmp_path / "out")
    assert "is a folder" in refused(tmp_path, tmp_path).message


def test_names_that_are_the_same_are_both_kept(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "n.zip", "w") as zipped:
        for name, data in (("a.wav", b"1"), ("a.wav", b"2"), ("A.WAV", b"3")):
            zipped.writestr(name, data)
    files = extract(tmp_path / "n.zip", tmp_path / "out")
    assert {f.name: f.read_bytes() for f in files} == {"a.wav": b"1", "a-2.wav": b"2", "A-3.WAV": b"3"}


def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path: Path) -> None:
    assert (
        "both as a file and as a folder"
        in refused(make(tmp_path / "c.zip", {"a": b"1", "a/b": b"2"}), tmp_path).message
    )


def test_names_of_any_script_and_code_page_survive(tmp_path: Path) -> None:
    archive = make(tmp_path / "u.zip", {"Grüße/日本語.wav": b"1", "e\u0301.wav": b"2", "what?: now.wav": b"3"})
    names = [f.relative_to(tmp_path / "out").as_posix() for f in extract(archive, tmp_path / "out")]
    assert set(names) == {"Grüße/日本語.wav", "é.wav", "what__ now.wav"}  # composed; fit for every file system
    for raw in ("naïve.wav".encode(), b"na\x8bve.wav"):  # UTF-8 without the flag, as macOS writes; code page 437
        data = make(tmp_path / "raw.zip", {"_" * len(raw): b"1"}).read_bytes().replace(b"_" * len(raw), raw)
        (tmp_path / "raw.zip").write_bytes(data)
        assert [f.name for f in extract(tmp_path / "raw.zip", tmp_path / raw.hex())] == ["naïve.wav"]


def test_names_too_long_for_a_disk_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    archive = make(tmp_path / "long.zip", {"ж" * 300 + f"{i}.wav": b"x" for i in range(2)})
    files = extract(archive, tmp_path / "out")
    assert len({f.name for f in files}) == 2
    assert all(len(f.name.encode()) <= 200 and f.suffix == ".wav" for f in files)


def test_a_zip64_archive_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "64.zip", "w") as zipped, zipped.open("a.wav", "w", force_zip64=True) as entry:
        entry.write(b"12345")
    assert extract(tmp_path / "64.zip", tmp_path / "out")[0].read_bytes() == b"12345"


def test_canceling_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise Canceled()

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(Canceled):
        extract(make(tmp_path / "a.zip", {"a": b"1"}), tmp_path / "out", reporter=Impatient())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("compress", [False, True])
def test_our_zips_have_the_same_bytes_every_time(tmp_path: Path, compress: bool) -> None:
    source = tmp_path / "clip.wav"
    digests = set()
    for round_ in range(2):
        source.write_bytes(b"abc" * 1000)
        os.utime(source, (1_000_000_000 + round_ * 9_999, 1_000_000_000))
        source.chmod(0o600 if round_ else 0o644)
        files: dict[str, Path | bytes] = {"dataset/b.wav": source, "a.json": b"{}"}
        out = write_zip(
            tmp_path / f"{round_}.zip", files if round_ else dict(reversed(files.items())), compress=compress
        )
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert [f.name for f in extract(out, tmp_path / "out")] == ["a.json", "b.wav"]
    assert zipfile.ZipFile(io.BytesIO(out.read_bytes())).namelist() == ["a.json", "dataset/b.wav"]


def test_a_zip_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_zip(tmp_path / "x.zip", {"a": b"1", "b": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == []
