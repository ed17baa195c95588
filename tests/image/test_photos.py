"""Photos as people have them are read, mended where possible, and refused with the reason where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vividcover.errors import ArchiveError, ImageError, NotFoundError
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


def test_a_photo_turned_by_exif_comes_out_upright(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "in" / "a.jpg", exif=exif, quality=95)
    pixels, notes = only(tmp_path / "in", tmp_path)
    assert close_to(pixels, picture, 4)
    assert any("EXIF" in note for note in notes)


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
