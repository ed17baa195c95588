"""A zip as people make them becomes a clean folder of photos, captions and masks, and every fault in it is named."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vividcover.errors import ArchiveError, Canceled, ImageError, ParameterError
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.image.photos import Photo
from vividcover.workspace import Silent

SIDE = 300


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """A picture like no other, with something small in it as photos have."""
    numbers = np.random.default_rng(seed)
    cells = (Image.fromarray(numbers.integers(0, 255, (n, n, 3), np.uint8)) for n in (6, 90))
    coarse, fine = (cell.resize((side, side), Image.Resampling.BICUBIC) for cell in cells)
    return Image.blend(coarse, fine, 0.3)


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def made(tmp_path: Path, files: dict[str, bytes], options: DatasetOptions | None = None) -> Dataset:
    return prepare(zipped(tmp_path / "photos.zip", files), tmp_path / "out", options or DatasetOptions("VIVI"))


def why(dataset: Dataset) -> dict[str, str]:
    return {p.name: p.why for p in (*dataset.problems, *dataset.ignored)}


def only(dataset: Dataset) -> Photo:
    (photo,) = dataset.photos
    return photo


def test_a_zip_as_people_make_them_is_flattened(tmp_path: Path) -> None:
    dataset = made(
        tmp_path,
        {
            "Vivi (2026)/stage/IMG 1.JPG": encoded(picture(1), "JPEG"),
            "Vivi (2026)/garden/IMG 1.JPG": encoded(picture(2), "JPEG"),
            "Vivi (2026)/garden/img 1.txt": b"VIVI in a garden",
            "Vivi (2026)/Äpfel.png": encoded(picture(3)),
            "__MACOSX/Vivi (2026)/stage/._IMG 1.JPG": b"\0\5\x16\7",
            "Vivi (2026)/.DS_Store": b"\0\0\0\1Bud1",
            "Vivi (2026)/Thumbs.db": b"x",
        },
    )
    found = {(p.name, p.path.name, p.caption) for p in dataset.photos}
    assert found == {
        ("Vivi (2026)/garden/IMG 1.JPG", "IMG_1.png", "VIVI in a garden"),
        ("Vivi (2026)/stage/IMG 1.JPG", "IMG_1-2.png", ""),
        ("Vivi (2026)/Äpfel.png", "Apfel.png", ""),
    }
    assert why(dataset) == {}
    names = {f.name for f in dataset.folder.iterdir() if not f.name.startswith(".")}
    assert names == {"IMG_1.png", "IMG_1-2.png", "IMG_1.txt", "Apfel.png"}
    assert dataset.captions == {"IMG_1.txt": "VIVI in a garden"}


def test_each_picture_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, sample: Path) -> None:
    vivi = Image.open(sample / "photos" / "05.jpg").resize((480, 600))
    whole = encoded(picture(2), "JPEG", quality=95)
    clear = picture(5).convert("RGBA")
    clear.putalpha(0)
    dataset = made(
        tmp_path,
        {
            "good.png": encoded(vivi),
            "again.jpg": encoded(vivi.resize((320, 400)), "JPEG", quality=60),
            "cut.jpg": whole[: len(whole) // 2],
            "noise.png": b"\x89PNG\r\n\x1a\n" + bytes(200),
            "empty.jpg": b"",
            "page.jpg": b"<html><body>404 not found, sorry about that</body></html>",
            "phone.HEIC": b"\0\0\0\x18ftypheic" + bytes(64),
            "camera.CR2": b"II*\0\x10\0\0\0CR" + bytes(64),
            "tiny.png": encoded(picture(3, 120)),
            "thin.png": encoded(picture(4).resize((2000, 90))),
            "clear.png": encoded(clear),
            "clip.mov": b"\0\0\0\x14ftypqt  " + bytes(64),
            "readme.md": b"# photos",
        },
    )
    assert [p.name for p in dataset.photos] == ["good.png"]
    faults = {
        "again.jpg": "the same picture as good.png", "cut.jpg": "damaged", "noise.png": "not a picture",
        "empty.jpg": "empty", "page.jpg": "text", "phone.HEIC": "HEIC", "camera.CR2": "raw", "tiny.png": "too small",
        "thin.png": "too small", "clear.png": "transparent all over", "clip.mov": "a video",
        "readme.md": "not a picture",
    }  # fmt: skip
    said = why(dataset)
    assert said.keys() == faults.keys()
    for name, fault in faults.items():
        assert fault in said[name], name
    report = dataset.report
    assert (report["given"], report["used"]) == (11, 1)
    assert {p["name"] for p in report["left_out"] + report["ignored"]} == faults.keys()


def test_what_was_mended_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half = picture(2).convert("RGBA")
    half.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 150 + [255] * 150]), SIDE, axis=0)))
    silent = Silent()
    source = zipped(
        tmp_path / "a.zip",
        {
            "turned.jpg": encoded(picture(1).resize((300, 400)), "JPEG", exif=exif),
            "half.png": encoded(half),
            "print.jpg": encoded(picture(3).convert("CMYK"), "JPEG"),
            "deep.png": encoded(Image.fromarray(np.asarray(picture(4).convert("L"), np.uint16) * 257)),
            "moves.gif": encoded(picture(5), "GIF", save_all=True, append_images=[picture(6)]),
            "wide.jpg": encoded(picture(7, 4400), "JPEG", quality=30),
        },
    )
    dataset = prepare(source, tmp_path / "out", DatasetOptions("VIVI"), silent)
    notes = {p.name: " ".join(p.notes) for p in dataset.photos}
    words = {
        "turned.jpg": "EXIF", "half.png": "put on white", "print.jpg": "CMYK", "deep.png": "16 bits",
        "moves.gif": "animated",
    }  # fmt: skip
    for name, word in words.items():
        assert word in notes[name], name
        assert any(n.startswith(f"{name}: ") and word in n for n in silent.notes)
    by_name = {p.name: p for p in dataset.photos}
    assert by_name["turned.jpg"].rgb().shape == (300, 400, 3)
    assert by_name["half.png"].rgb()[:, :140].min() == 255
    assert max(by_name["wide.jpg"].rgb().shape) == 2048 and not by_name["wide.jpg"].notes  # nothing of it is missed
    quiet = Silent()
    again = prepare(source, tmp_path / "again", DatasetOptions("VIVI"), quiet, notes=False)
    assert not quiet.notes and [p.notes for p in again.photos] == [p.notes for p in dataset.photos]


@pytest.mark.parametrize(
    ("raw", "caption", "said"),
    [
        ("VIVI im Café\r\n".encode(), "VIVI im Café", ""),
        ("\ufeffVIVI im Café".encode(), "VIVI im Café", ""),
        ("VIVI im Café".encode("utf-16"), "VIVI im Café", "UTF-16"),
        ("VIVI im Café".encode("utf-16-be"), "VIVI im Café", "UTF-16"),
        ("VIVI im Café".encode("cp1252"), "VIVI im Café", "Windows-1252"),
        ("“VIVI”,\tin\u200b red…\n\n\n".encode(), "“VIVI”, in red…", ""),
        (b"   \n", "", "empty"),
        (b"VIVI sings. " * 2000, None, "cut"),
    ],
)
def test_captions_in_any_encoding_are_read(tmp_path: Path, raw: bytes, caption: str | None, said: str) -> None:
    photo = only(made(tmp_path, {"a.png": encoded(picture(1)), "A.TXT": raw}))
    if caption is not None:
        assert photo.caption == caption
    notes = " ".join(photo.notes)
    assert said in notes if said else not notes


def test_captions_of_other_programs_names_are_found_and_lonely_ones_named(tmp_path: Path) -> None:
    dataset = made(
        tmp_path,
        {
            "a.png": encoded(picture(1)), "a.png.txt": b"one", "b.v2.jpg": encoded(picture(2), "JPEG"),
            "b.v2.txt": b"two", "c.webp": encoded(picture(3), "WEBP"), "c.caption": b"three", "d.txt": b"lonely",
        },
    )  # fmt: skip
    assert [p.caption for p in dataset.photos] == ["one", "two", "three"]
    assert why(dataset) == {"d.txt": "a text without a picture of its name"}


def test_captions_may_stand_in_one_table(tmp_path: Path) -> None:
    lines = [{"file_name": "a.png", "text": "VIVI in a café"}, {"file_name": "sub/b.PNG", "text": "two"}, {"x": 1}]
    jsonl = "\n".join(json.dumps(line) for line in lines).encode()
    pictures = {"a.png": encoded(picture(1)), "sub/b.png": encoded(picture(2)), "c.png": encoded(picture(3))}
    dataset = made(tmp_path, pictures | {"metadata.jsonl": jsonl, "sub/b.txt": b"its own"})
    assert [p.caption for p in dataset.photos] == ["VIVI in a café", "", "its own"]
    table = 'file_name,text\na.png,"one, two"\n'.encode("utf-8-sig")
    assert made(tmp_path, pictures | {"metadata.csv": table}).photos[0].caption == "one, two"
    broken = made(tmp_path, pictures | {"metadata.jsonl": b"{", "captions.csv": b"a,b\n1,2\n"})
    assert "cannot be read" in why(broken)["metadata.jsonl"]
    assert "each row has file_name and text" in why(broken)["captions.csv"]


def test_files_that_may_not_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "in" / "b.png")  # leads to itself
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    dataset = prepare(tmp_path / "in", tmp_path / "out", DatasetOptions("VIVI"))
    assert [p.name for p in dataset.photos] == ["a.png"]


def test_masks_beside_photos_are_taken_as_masks(tmp_path: Path) -> None:
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, :100] = 255
    half = picture(5).convert("RGBA")
    half.putalpha(Image.fromarray(left))
    dataset = made(
        tmp_path,
        {
            "a.png": encoded(picture(1)), "a_mask.jpg": encoded(Image.fromarray(left), "JPEG"),
            "b.png": encoded(picture(2)), "b_mask.png": encoded(Image.fromarray(left[:, :120])),
            "c.png": encoded(picture(3)), "c-masklabel.png": encoded(Image.new("L", (SIDE, SIDE))),
            "half.png": encoded(half), "the_mask.png": encoded(picture(4)),
        },
    )  # fmt: skip
    photos = {p.name: p for p in dataset.photos}
    assert photos.keys() == {"a.png", "b.png", "c.png", "half.png", "the_mask.png"}
    assert photos["a.png"].mask is not None and photos["half.png"].mask is not None
    assert np.abs(np.asarray(Image.open(photos["a.png"].mask), int) - left).mean() < 2
    assert np.array_equal(np.asarray(Image.open(photos["half.png"].mask)), left)
    assert photos["b.png"].mask is None and "another shape" in " ".join(photos["b.png"].notes)
    assert photos["c.png"].mask is None and "black all over" in " ".join(photos["c.png"].notes)
    assert photos["the_mask.png"].path.name == "the_mask_photo.png"  # else it would be a mask when read again


def test_a_prepared_folder_is_a_data_set_itself(tmp_path: Path) -> None:
    mask = encoded(Image.fromarray(np.uint8(np.arange(SIDE)[None] % 256).repeat(SIDE, 0)))
    files = {"x/a.png": encoded(picture(1)), "y/a.png": encoded(picture(2)), "x/a.txt": b"one", "y/a_mask.png": mask}
    first = made(tmp_path, files)
    again = prepare(first.folder, tmp_path / "again", first.options)
    assert again.report["hash"] == first.report["hash"]
    assert [(p.path.name, p.caption) for p in again.photos] == [("a-2.png", ""), ("a.png", "one")]


def test_the_hash_changes_with_what_is_learned_and_with_nothing_else(tmp_path: Path) -> None:
    files = {"a.png": encoded(picture(1)), "a.txt": b"one"}
    same = {"z/other.png": encoded(picture(1)), "z/other.txt": b"one\n", "notes.md": b"x"}
    hashes = [
        prepare(zipped(tmp_path / f"{i}.zip", f), tmp_path / f"{i}", DatasetOptions("VIVI")).report["hash"]
        for i, f in enumerate((files, same, files | {"a.txt": b"two"}, files | {"a.png": encoded(picture(2))}))
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_zips_in_a_zip_are_opened_once(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"b.png": encoded(picture(2)), "deep.zip": b"PK\3\4"}).read_bytes()
    other = zipped(tmp_path / "other.zip", {"b.png": encoded(picture(3)), "b.txt": b"her own"}).read_bytes()
    bad = zipped(tmp_path / "bad.zip", {"../b.png": encoded(picture(4))}).read_bytes()
    dataset = made(tmp_path, {"a.png": encoded(picture(1)), "1.zip": inner, "x/2.zip": other, "bad.zip": bad})
    found = {p.name: (p.path.name, p.caption) for p in dataset.photos}
    assert found.keys() == {"a.png", "1.zip/b.png", "x/2.zip/b.png"}
    assert found["x/2.zip/b.png"][1] == "her own"
    assert len({file for file, _ in found.values()}) == 3
    said = why(dataset)
    assert "taken as well" in said["1.zip"]
    assert "points outside" in said["bad.zip"]
    assert "unpack it first" in said["1.zip/deep.zip"]


def test_plain_pictures_that_differ_a_little_are_not_the_same(tmp_path: Path) -> None:
    """Products before white: their backdrops are alike, and the products are not."""
    files = {}
    for i, colour in enumerate(((200, 30, 30), (30, 30, 200), (30, 160, 30))):
        white = Image.new("RGB", (SIDE, SIDE), "white")
        white.paste(colour, (130, 130, 170, 170))
        files[f"{i}.png"] = encoded(white)
    assert len(made(tmp_path, files).photos) == 3


def test_a_hundred_photos_are_read(tmp_path: Path) -> None:
    dataset = made(tmp_path, {f"{i:03}.jpg": encoded(picture(i, 256), "JPEG") for i in range(120)})
    assert len(dataset.photos) == 120
    assert sum(row["photos"] for row in dataset.report["buckets"]) == 120
    with pytest.raises(ImageError, match="at most 5"):
        prepare(dataset.folder, tmp_path / "few", DatasetOptions("VIVI", most=5))


def test_nothing_usable_is_an_error_that_names_each(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"tiny\.png: too small.*text\.jpg: text"):
        made(tmp_path, {"text.jpg": b"words and more words", "a/tiny.png": encoded(picture(1, 40))})
    with pytest.raises(ImageError, match="holds no pictures"):
        made(tmp_path, {"notes.txt": b"hello"})
    with pytest.raises(ArchiveError):
        prepare(zipped(tmp_path / "slip.zip", {"../../a.png": encoded(picture(1))}), tmp_path / "o", DatasetOptions())


def test_only_a_folder_of_its_own_is_emptied(tmp_path: Path) -> None:
    first = made(tmp_path, {"a.png": encoded(picture(1)), "b.png": encoded(picture(2))})
    again = made(tmp_path, {"c.png": encoded(picture(3))})
    assert {f.name for f in again.folder.glob("*.png")} == {"c.png"}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.doc").write_text("dear")
    for folder in (mine, first.folder, first.folder.parent, first.folder / "inside"):
        with pytest.raises(ParameterError):
            prepare(first.folder, folder, DatasetOptions())
    assert (mine / "letter.doc").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "face"},
        {"trigger_word": " "},
        {"resolutions": ()},
        {"resolutions": (5,)},
        {"step": 20},
        {"smallest": 2},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        DatasetOptions(**wrong)  # type: ignore[arg-type]


def test_reading_can_be_canceled_within_a_picture(tmp_path: Path) -> None:
    big = zipped(tmp_path / "big.zip", {"a.png": encoded(Image.new("RGB", (8000, 8000), "red"))})

    class Stops(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            self.until = time.monotonic() + 0.1

        def check(self) -> None:
            if time.monotonic() > getattr(self, "until", float("inf")):
                raise Canceled()

    stops = Stops()
    with pytest.raises(Canceled):
        prepare(big, tmp_path / "out", DatasetOptions("VIVI"), stops)
    assert time.monotonic() < stops.until + 0.8
