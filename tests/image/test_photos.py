"""Photos as people have them are read, mended where possible, and refused with the reason where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vividcover.errors import ArchiveError, ImageError, NotFoundError
from vividcover.image import decode as decoding
from vividcover.image.decode import Limits, decode
from vividcover.image.photos import LONGEST_SIDE, read_photos


@pytest.fixture
def picture(sample: Path) -> Image.Image:
    return Image.open(sample / "photos" / "04.jpg").convert("RGB").resize((480, 480))


def only(folder: Path, tmp_path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    found = read_photos(folder, tmp_path / "prepared")
    assert len(found.photos) == 1
    return found.photos[0].rgb(), found.photos[0].notes


def close_to(a: np.ndarray, image: Image.Image, tolerance: float) -> bool:
    return float(np.abs(a.astype(float) - np.asarray(image, float)).mean()) < tolerance


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_turned_by_exif_comes_out_upright(picture: Image.Image, tmp_path: Path, orientation: int) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.crop((0, 0, 480, 400)).save(tmp_path / "in" / "a.jpg", exif=exif, quality=95)
    turned = ImageOps.exif_transpose(Image.open(tmp_path / "in" / "a.jpg"))
    pixels, notes = only(tmp_path / "in", tmp_path)
    assert close_to(pixels, turned, 0.01)
    assert any("EXIF" in note for note in notes)


def test_damaged_exif_does_not_cost_the_photo(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "in" / "a.jpg", exif=exif, quality=95)
    raw = bytearray((tmp_path / "in" / "a.jpg").read_bytes())
    at = raw.index(b"Exif\0\0") + 6
    raw[at : at + 8] = b"\xff" * 8
    (tmp_path / "in" / "a.jpg").write_bytes(bytes(raw))
    pixels, _ = only(tmp_path / "in", tmp_path)
    assert close_to(pixels, picture, 4)


@pytest.mark.parametrize("kind", ["cmyk", "alpha", "palette", "sixteen bits", "animated", "grey"])
def test_every_kind_of_pixel_becomes_rgb(picture: Image.Image, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    grey = picture.convert("L")
    expected = picture
    if kind == "cmyk":
        picture.convert("CMYK").save(folder / "a.jpg", quality=95)
    elif kind == "alpha":
        layer = picture.copy()
        layer.putalpha(Image.new("L", layer.size, 255))
        layer.save(folder / "a.png")
    elif kind == "palette":
        picture.quantize(256).save(folder / "a.png")
    elif kind == "sixteen bits":
        Image.fromarray(np.asarray(grey, np.uint16) * 257).save(folder / "a.png")
        expected = grey.convert("RGB")
    elif kind == "animated":
        picture.save(folder / "a.gif", save_all=True, append_images=[picture.rotate(180)])
    else:
        grey.save(folder / "a.png")
        expected = grey.convert("RGB")
    pixels, _ = only(folder, tmp_path)
    assert pixels.shape == (480, 480, 3)
    assert close_to(pixels, expected, 16)


def test_two_hundred_megapixels_are_read_at_reduced_size(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture.resize((14200, 14200), Image.Resampling.NEAREST).save(tmp_path / "in" / "a.jpg", quality=40)
    pixels, notes = only(tmp_path / "in", tmp_path)
    assert max(pixels.shape) <= LONGEST_SIDE
    assert any("megapixels" in note for note in notes)


def test_each_unusable_file_is_named_with_its_fault(picture: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text.jpg").write_text("these are words and not a picture, whatever the name says")
    (folder / "empty.png").write_bytes(b"")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
    picture.resize((100, 120)).save(folder / "tiny.png")
    picture.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:9000])
    (folder / "whole.jpg").unlink()
    with pytest.raises(ImageError) as caught:
        read_photos(folder, tmp_path / "prepared")
    for part in (
        "text.jpg: text",
        "empty.png: the file is empty",
        "phone.heic: a HEIC",
        "tiny.png: too small",
        "cut.jpg: damaged",
    ):
        assert part in caught.value.message


def test_the_same_picture_counts_once_and_the_sharper_copy_wins(
    picture: Image.Image, sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture.resize((300, 300)).resize((480, 480)).save(folder / "a_soft.jpg")
    picture.save(folder / "b_sharp.jpg")
    Image.open(sample / "photos" / "01.jpg").resize((512, 640)).save(folder / "c_other.jpg")
    found = read_photos(folder, tmp_path / "prepared")
    assert [p.name for p in found.photos] == ["b_sharp.jpg", "c_other.jpg"]
    assert "same picture" in found.problems[0].why


def test_captions_stand_beside_their_photos(picture: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture.save(folder / "img_0.jpg")
    (folder / "img_0.txt").write_text("a photo of TOK\nin black")
    assert read_photos(folder, tmp_path / "prepared").photos[0].caption == "a photo of TOK in black"


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_photos(tmp_path / "nowhere", tmp_path / "prepared")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    with pytest.raises(ImageError, match="holds no pictures"):
        read_photos(tmp_path / "in", tmp_path / "prepared")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 this is no zip")
    with pytest.raises(ArchiveError):
        read_photos(tmp_path / "bad.zip", tmp_path / "prepared")


def test_damage_of_any_kind_is_an_error_that_says_so(picture: Image.Image, tmp_path: Path) -> None:
    """Bytes changed at random in every format that is read: a picture comes out, or an `ImageError`."""
    dice = np.random.default_rng(0)
    small = picture.resize((48, 40))
    (tmp_path / "whole").mkdir()
    for kind in ("jpg", "png", "webp", "gif", "bmp", "tif", "avif", "ppm", "tga", "jp2"):
        small.save(
            tmp_path / "whole" / f"a.{kind}", **({"save_all": True, "append_images": [small]} if kind == "gif" else {})
        )
    for file in sorted((tmp_path / "whole").iterdir()):
        whole = np.frombuffer(file.read_bytes(), np.uint8)
        for i in range(40):
            raw = whole.copy()
            where = dice.integers(0, min(len(raw), 300 if i % 2 else len(raw)), dice.choice([1, 3, 20]))
            raw[where] = dice.integers(0, 256, len(where))
            bad = tmp_path / f"bad{file.suffix}"
            bad.write_bytes(raw.tobytes()[: len(raw) if i % 4 else int(dice.integers(1, len(raw)))])
            try:
                assert decode(bad, Limits(16, 64)).rgb.ndim == 3
            except ImageError as error:
                assert error.message and "\n" not in error.message and len(error.message) < 200


def test_a_mistake_of_ours_is_not_blamed_on_the_photo(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.save(tmp_path / "a.jpg")

    def mistaken(*_: object) -> None:
        len(3)  # type: ignore[arg-type]

    for name in ("_srgb", "_upright", "_reduce_while_decoding"):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, name, mistaken)
            with pytest.raises(TypeError):
                decode(tmp_path / "a.jpg", Limits(16, 64))
    with monkeypatch.context() as patch:  # Pillow, called wrongly
        patch.setattr(decoding, "_upright", lambda image, notes: image.resize("large"))
        with pytest.raises(TypeError):
            decode(tmp_path / "a.jpg", Limits(16, 64))


def test_a_photo_of_usual_size_is_no_news(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture.resize((5000, 4000)).save(tmp_path / "in" / "a.jpg", quality=40)
    assert only(tmp_path / "in", tmp_path)[1] == ()


def test_no_format_that_starts_programs_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 300 300\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="text, not a picture"):
        decode(tmp_path / "a.jpg", Limits(16, 64))
    (tmp_path / "b.jpg").write_bytes(b"%PDF-1.7\n" + bytes(100))
    with pytest.raises(ImageError, match="a PDF"):
        decode(tmp_path / "b.jpg", Limits(16, 64))
    (tmp_path / "c.png").write_bytes(b'<?xml version="1.0"?><svg width="300" height="300"/>')
    with pytest.raises(ImageError, match="SVG"):
        decode(tmp_path / "c.png", Limits(16, 64))
