"""What a network sees of a still: the published crop, mask and size; which face; and pictures of every kind."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from vividcover.errors import ImageError, ParameterError
from vividcover.portrait import framing
from vividcover.portrait.faces import Face, FaceKit, Rgb
from vividcover.portrait.framing import crop_box, face_mask, frame, model_size, singer, wider_box
from vividcover.portrait.stills import LARGEST, even, read_still

sys.path.insert(0, str(Path(__file__).parents[1] / "oracles"))

from make_sonic_framing import CROPS, PICTURES, boxes, face_in, still

PHOTOS = Path(__file__).parents[2] / "sample" / "photos"
GOLDEN = np.load(Path(__file__).parents[1] / "oracles" / "golden_sonic_framing.npz")


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def photo() -> Rgb:
    """Vivi from the front, 512 px wide."""
    return np.asarray(cv2.resize(read_still(PHOTOS / "01.jpg"), (512, 640), interpolation=cv2.INTER_AREA), np.uint8)


class Sees(FaceKit):
    """A kit that says which faces there are."""

    def __init__(self, *faces: Face) -> None:
        super().__init__()
        self.faces = list(faces)

    def detect(self, rgb: Rgb) -> list[Face]:
        return self.faces


def face(x: float, y: float, w: float, h: float, yaw: float = 0.0) -> Face:
    return Face(x, y, w, h, 0.9, np.zeros((468, 3), np.float32), yaw, 0.0, 0.0)


# the published rules -----------------------------------------------------------------------------------------------


def test_crops_are_the_published_ones_to_the_pixel() -> None:
    sizes, found = boxes(CROPS)
    ours = [
        crop_box(tuple(box), 0.5, int(h), int(w)) for (h, w), box in zip(sizes.tolist(), found.tolist(), strict=True)
    ]
    assert np.array_equal(np.array(ours), GOLDEN["crops"])


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_the_mask_and_the_picture_are_the_published_ones(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height, resolution = PICTURES[number]
    x, y, w, h = face_in(width, height)
    monkeypatch.setattr(framing, "wider_box", lambda _: (x, y, x + w, y + h))
    monkeypatch.setattr(framing, "SMALLEST_FACE", 10)
    made = frame(still(width, height), Sees(face(x, y, w, h)), min_resolution=resolution, crop=False)
    assert np.array_equal(np.round(made.mask * 255).astype(np.uint8), GOLDEN[f"mask_{number}"])
    assert np.array_equal(made.rgb, GOLDEN[f"picture_{number}"])
    assert made.mask.dtype == np.float32 and made.mask.max() == 1.0


def test_the_crop_s_mask_is_made_in_the_crop_s_own_pixels() -> None:
    """As if the crop had been saved and the face found again in it, which is what the published program does."""
    found = face(300.0, 260.0, 180.0, 200.0)
    made = frame(np.zeros((900, 800, 3), np.uint8), Sees(found), min_resolution=256)
    left, top, right, bottom = made.box
    x1, y1, x2, y2 = (round(v) for v in wider_box(found))
    mask = face_mask((x1 - left, y1 - top, x2 - left, y2 - top), bottom - top, right - left)
    assert made.size == (256, 256) and made.mask.shape == (256, 256)
    shrunk = cv2.resize(mask, (256, 256), interpolation=cv2.INTER_AREA) / 255.0
    assert np.abs(made.mask - shrunk).mean() < 0.01


@pytest.mark.parametrize(
    ("given", "resolution", "made"),
    [
        ((512, 512), 512, (512, 512)), ((511, 513), 512, (512, 512)), ((300, 300), 300, (320, 320)),
        ((1000, 1500), 512, (512, 768)), ((1440, 1024), 512, (704, 512)), ((100, 100), 1024, (1024, 1024)),
        ((100, 109), 288, (256, 320)), ((70, 70), 64, (64, 64)),
    ],
)  # fmt: skip
def test_sides_become_multiples_of_64(given: tuple[int, int], resolution: int, made: tuple[int, int]) -> None:
    assert model_size(*given, resolution) == made


def test_pictures_that_would_cost_too_much_are_refused_with_advice() -> None:
    with pytest.raises(ImageError, match=r"4\.0 times as long as wide"):
        model_size(400, 100, 512)
    with pytest.raises(ImageError, match="2048x2048") as caught:
        model_size(100, 100, 2048)
    assert "min_resolution" in caught.value.hint


@pytest.mark.parametrize("wrong", [{"min_resolution": 63}, {"min_resolution": 2049}, {"expand": -0.1}, {"expand": 3.0}])
def test_values_out_of_range_are_refused(photo: Rgb, kit: FaceKit, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        frame(photo, kit, **wrong)


# what the box of a face holds ---------------------------------------------------------------------------------------


def test_a_face_s_box_lies_as_those_of_detectors_trained_on_wider_face(kit: FaceKit) -> None:
    """In the examples that RetinaFace and MTCNN print in their own documentation, of faces from the front, the eyes
    are at .36 to .41 and the mouth's corners at .75 to .83 of the box's height, the eyes .42 to .48 of its width apart.
    """
    for name in ("01.jpg", "04.jpg", "07.jpg", "10.jpg"):
        found = kit.detect(read_still(PHOTOS / name))[0]
        left, top, right, bottom = wider_box(found)
        points = found.landmarks[:, :2]
        eyes = points[[33, 133]].mean(0), points[[362, 263]].mean(0)
        assert 0.36 < ((eyes[0][1] + eyes[1][1]) / 2 - top) / (bottom - top) < 0.41, name
        assert 0.74 < (points[[61, 291], 1].mean() - top) / (bottom - top) < 0.83, name
        assert 0.42 < np.linalg.norm(eyes[1] - eyes[0]) / (right - left) < 0.48, name
        assert 0.74 < (right - left) / (bottom - top) < 0.84, name


def test_the_framed_face_is_in_the_middle_with_its_hair_and_chin(kit: FaceKit) -> None:
    for file in sorted(PHOTOS.glob("*.jpg"))[:11]:
        made = frame(read_still(file), kit, min_resolution=256)
        (again,) = kit.detect(made.rgb)
        share = again.h * (1 + framing.ABOVE) / made.size[1]
        assert 0.5 < share < 0.75, file.name  # a box grown by half its size to both sides is half of the square
        assert abs(again.x + again.w / 2 - 128) < 16 and abs(again.y + again.h / 2 - 132) < 36, file.name
        inside = made.mask[int(again.y) : int(again.y + again.h), int(again.x) : int(again.x + again.w)]
        assert inside.mean() > 0.98 and made.mask.mean() < 0.5, file.name


def test_a_face_at_the_still_s_edge_is_framed_as_far_as_the_still_goes(kit: FaceKit, photo: Rgb) -> None:
    found = kit.detect(photo)[0]
    cut = np.ascontiguousarray(photo[:, int(found.x - 10) :])
    made = frame(cut, kit, min_resolution=256)
    left, top, right, bottom = made.box
    assert left == 0 and 0 <= top < bottom <= 640 and right <= cut.shape[1]
    assert right - left == bottom - top
    assert len(kit.detect(made.rgb)) == 1


@pytest.mark.parametrize("width", [110, 2000])
def test_tiny_and_huge_stills_are_framed_alike(kit: FaceKit, photo: Rgb, width: int) -> None:
    how = cv2.INTER_AREA if width < 512 else cv2.INTER_CUBIC
    sized = np.asarray(cv2.resize(photo, (width, width * 5 // 4), interpolation=how), np.uint8)
    made, usual = frame(sized, kit, min_resolution=128), frame(photo, kit, min_resolution=128)
    assert np.allclose(np.array(made.box) / width, np.array(usual.box) / 512, atol=0.03)
    assert any("soft" in note for note in frame(sized, kit).notes) == (width == 110)


def test_the_crop_s_own_size_is_even() -> None:
    made = frame(np.zeros((301, 401, 3), np.uint8), Sees(face(150, 100, 77, 83)), min_resolution=64)
    left, top, right, bottom = made.box
    width, height = made.own_size
    assert width % 2 == height % 2 == 0
    assert 0 <= (right - left) - width <= 1 and 0 <= (bottom - top) - height <= 1


# which face, and whether it will do ---------------------------------------------------------------------------------


def test_without_a_face_it_says_so(kit: FaceKit) -> None:
    with pytest.raises(ImageError, match="No face was found") as caught:
        frame(np.full((300, 300, 3), 90, np.uint8), kit)
    assert "from the front" in caught.value.hint


def test_of_two_faces_the_largest_sings_or_none() -> None:
    picture, notes = np.zeros((600, 1200, 3), np.uint8), []
    kit = Sees(face(800, 100, 200, 240), face(420, 150, 150, 180))
    assert singer(picture, kit, notes).x == 800
    assert notes == ["2 faces in the still: the largest sings."]
    assert singer(picture, kit, notes, choose="middle").x == 420
    with pytest.raises(ImageError, match="2 faces were found"):
        frame(picture, kit, strict=True)


def test_faces_that_are_small_or_turned_away_are_refused_with_their_figures() -> None:
    picture = np.zeros((600, 600, 3), np.uint8)
    with pytest.raises(ImageError, match="only 47 px high"):
        frame(picture, Sees(face(100, 100, 40, 47)))
    with pytest.raises(ImageError, match="by 43°"):
        frame(picture, Sees(face(100, 100, 200, 230, yaw=-43)))
    (note,) = frame(picture, Sees(face(100, 100, 200, 230, yaw=35)), min_resolution=64).notes
    assert "turned by 35°" in note


def test_a_real_profile_is_refused(kit: FaceKit) -> None:
    with pytest.raises(ImageError, match="profile"):
        frame(read_still(PHOTOS / "12_profile.jpg"), kit)


@pytest.mark.parametrize(("quarters", "what"), [(1, "on its side"), (2, "on its head"), (3, "on its side")])
def test_a_picture_that_is_not_upright_is_refused_with_what_to_do(
    kit: FaceKit, photo: Rgb, quarters: int, what: str
) -> None:
    with pytest.raises(ImageError, match=what) as caught:
        frame(np.ascontiguousarray(np.rot90(photo, quarters)), kit)
    assert "upright" in caught.value.hint


def test_a_tilted_head_is_fine_and_a_very_tilted_one_is_mentioned(kit: FaceKit, photo: Rgb) -> None:
    for angle, said in ((15, False), (40, True)):
        turn = cv2.getRotationMatrix2D((256, 320), angle, 1)
        tilted = cv2.warpAffine(photo, turn, (512, 640), borderMode=cv2.BORDER_REPLICATE)
        notes = frame(np.asarray(tilted, np.uint8), kit, min_resolution=64).notes
        assert any("tilted" in note for note in notes) == said


# files of every kind -------------------------------------------------------------------------------------------------


def _saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


def test_a_picture_reads_the_same_whatever_it_was_saved_as(photo: Rgb, tmp_path: Path) -> None:
    image = Image.fromarray(photo)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise by a quarter
    lying = ImageOps.exif_transpose(image).transpose(Image.Transpose.ROTATE_90)
    cyan = ImageOps.invert(image)
    cmyk = Image.merge("CMYK", (*cyan.split(), Image.new("L", image.size, 0)))
    clear = image.convert("RGBA")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "exif": _saved(tmp_path / "exif.png", lying, exif=turned),
        "cmyk": _saved(tmp_path / "cmyk.tif", cmyk),
        "alpha": _saved(tmp_path / "alpha.png", clear),
        "profile": _saved(tmp_path / "profile.png", image, icc_profile=profile),
        "webp": _saved(tmp_path / "a.webp", image, lossless=True),
    }
    for name, file in files.items():
        read = read_still(file)
        assert read.shape == photo.shape and read.dtype == np.uint8, name
        assert np.abs(read.astype(int) - photo).max() <= 2, name


def test_sixteen_bits_and_transparency_become_what_is_seen(photo: Rgb, tmp_path: Path) -> None:
    grey = photo.mean(axis=2)
    sixteen = Image.fromarray((grey * 257).astype(np.uint16))
    notes: list[str] = []
    read = read_still(_saved(tmp_path / "16.png", sixteen), notes)
    assert np.abs(read.astype(float) - grey[..., None]).max() <= 1.5
    assert any("16 bits" in note for note in notes)
    cut_out = Image.fromarray(photo).convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.tri(640, 512, dtype=np.uint8) * 255))
    read = read_still(_saved(tmp_path / "cut.png", cut_out), notes)
    assert tuple(read[0, -1]) == (40, 40, 44) and tuple(read[-1, 0]) == tuple(photo[-1, 0])
    assert any("dark grey" in note for note in notes)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (300, 300)).save(whole, "PNG")
    for name, data, what in (
        ("text.png", b"no picture at all", "text"), ("empty.jpg", b"", "empty"),
        ("half.png", whole.getvalue()[:120], "damaged"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=rf"{name} cannot be read as a picture: .*{what}"):
            read_still(tmp_path / name)
    with pytest.raises(ImageError, match="no picture at"):
        read_still(tmp_path)


def test_whole_stills_are_made_even_and_not_larger_than_video_goes() -> None:
    notes: list[str] = []
    assert even(np.zeros((301, 401, 3), np.uint8), notes).shape == (300, 400, 3) and not notes
    assert even(np.zeros((1001, 4000, 3), np.uint8), notes).shape == (960, LARGEST, 3)
    assert "4000x1001" in notes[0]


def test_a_larger_crop_shows_more() -> None:
    sizes = [crop_box((400, 400, 500, 520), expand, 1000, 1000) for expand in (0.0, 0.25, 0.5, 1.0)]
    assert all(a[2] - a[0] < b[2] - b[0] for a, b in pairwise(sizes))
