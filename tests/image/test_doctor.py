"""The dataset doctor says what to add, drop and mend: on a good set, on a bad one, for a style and for a product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from vividcover.errors import Canceled
from vividcover.image.dataset import DatasetOptions, prepare
from vividcover.image.doctor import Examination, examine
from vividcover.image.looks import blockiness, plain_borders
from vividcover.portrait.faces import FaceKit
from vividcover.workspace import Silent


def vivi(sample: Path, number: int, scale: float = 0.6) -> np.ndarray:
    """One of the sample's photos, smaller."""
    (file,) = (sample / "photos").glob(f"{number:02}*.jpg")
    image = Image.open(file)
    return np.asarray(image.resize((round(image.width * scale), round(image.height * scale))).convert("RGB"))


def examined(
    tmp_path: Path,
    pictures: dict[str, np.ndarray],
    kind: str = "subject",
    captions: dict[str, str] | None = None,
    **more: Any,
) -> Examination:
    source = tmp_path / "in"
    source.mkdir()
    for name, rgb in pictures.items():
        Image.fromarray(rgb).save(source / f"{name}.png")
    for name, text in (captions or {}).items():
        (source / f"{name}.txt").write_text(text)
    options = DatasetOptions(more.pop("trigger", "ZIKI"), kind=kind, resolutions=(512,))  # type: ignore[arg-type]
    return examine(prepare(source, tmp_path / "out", options), **more)


def finding(done: Examination, words: str) -> tuple[str, set[str]]:
    """(level, photos) of the one finding that has these words."""
    found = [f for f in done.findings if words in f.text]
    assert len(found) == 1, [f.line() for f in done.findings]
    return found[0].level, set(found[0].photos)


def silent_on(done: Examination, *words: str) -> bool:
    return not any(word in f.text for f in done.findings for word in words)


def test_a_good_set_is_told_so_and_what_little_it_lacks(sample: Path, tmp_path: Path) -> None:
    done = examined(tmp_path, {f"{i:02}": vivi(sample, i, 0.49) for i in range(1, 13)})
    assert {f.level for f in done.findings} == {"add", "good"}
    assert finding(done, "12 photos: as many as it takes")[0] == "good"
    assert finding(done, "Angles: 7 from the front, 4 three-quarter, 1 in profile")[0] == "good"
    assert finding(done, "9 backdrops in 12 photos")[0] == "good"  # as one counts them
    assert finding(done, "kinds of clothes in 12 photos")[0] == "good"
    assert finding(done, "one or two full body would help")[0] == "add"
    assert finding(done, "the same expression")[0] == "add"
    page = done.text()
    assert page.startswith("12 of 12 photos can be used for ZIKI.")
    assert len(page.splitlines()) < 40
    assert json.loads(json.dumps(done.to_json()))["counts"]["angles"]["in profile"] == 1


def test_each_bad_photo_is_found_and_no_good_one_blamed(sample: Path, tmp_path: Path) -> None:
    two = np.hstack([vivi(sample, 8), vivi(sample, 9)[: vivi(sample, 8).shape[0]]])
    wall = np.full((900, 700, 3), (120, 140, 90), np.uint8)
    wall[::7] += 40
    wall[400:520, 300:390] = cv2.resize(vivi(sample, 11), (90, 120), interpolation=cv2.INTER_AREA)
    framed = np.zeros((614, 1000, 3), np.uint8)
    framed[:, 193:807] = vivi(sample, 4)
    burst = vivi(sample, 7)
    jpeg = cv2.imencode(".jpg", vivi(sample, 6)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 6])[1]
    done = examined(
        tmp_path,
        {
            "good": vivi(sample, 11),
            "blurred": cv2.GaussianBlur(vivi(sample, 1), (0, 0), 5),
            "dark": (vivi(sample, 3) * 0.1).astype(np.uint8),
            "bright": np.clip(vivi(sample, 5) * 1.2 + 110, 0, 255).astype(np.uint8),
            "framed": framed,
            "packed": cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1],
            "burst": burst,
            "burst again": burst[6:, 8:],
            "two": two,
            "far": wall,
            "cut": vivi(sample, 1)[250:, 180:],
        },
    )
    assert finding(done, "Blurred") == ("drop", {"blurred.png"})
    assert finding(done, "Very dark") == ("drop", {"dark.png"})
    assert finding(done, "Very bright") == ("drop", {"bright.png"})
    assert finding(done, "Black bars") == ("drop", {"framed.png"})
    assert finding(done, "JPEG's blocks") == ("drop", {"packed.png"})
    assert finding(done, "Several people") == ("drop", {"two.png"})
    assert finding(done, "too small to be learned") == ("drop", {"far.png"})
    assert finding(done, "outside of the photo") == ("drop", {"cut.png"})
    level, same = finding(done, "Almost the same as burst")
    assert level == "drop" and same < {"burst.png", "burst again.png"}
    assert not any("good.png" in f.photos for f in done.of("drop"))
    order = [f.level for f in done.findings]
    assert order == sorted(order, key=["mend", "drop", "add", "know", "good"].index)


def test_a_set_of_one_moment_is_told_to_vary(sample: Path, tmp_path: Path) -> None:
    base = vivi(sample, 1)
    shots = {}
    for i in range(5):  # the head moves about before the same wall
        turn = cv2.getRotationMatrix2D((310, 380), 4 * i - 8, 1 + 0.03 * i)
        turn[:, 2] += [40 * i - 80, 15 * i]
        shots[f"{i}"] = cv2.warpAffine(base, turn, base.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    done = examined(tmp_path, shots)
    assert finding(done, "5 photos can be used; 10 to 20 are advised, so add 5 to 15")[0] == "add"
    assert finding(done, "Angles: all 5 from the front; add some three-quarter and in profile")[0] == "add"
    assert finding(done, "5 of 5 photos have the same backdrop") == ("add", {f"{i}.png" for i in range(5)})
    assert finding(done, "have the same clothes")[0] == "add"
    assert finding(done, "much the same light")[0] == "add"


@pytest.mark.parametrize(("count", "said"), [(1, "Only one photo"), (2, "2 photos can be used")])
def test_two_photos_are_the_least(sample: Path, tmp_path: Path, count: int, said: str) -> None:
    done = examined(tmp_path, {f"{i}": vivi(sample, i) for i in range(1, count + 1)})
    assert finding(done, said)[0] == "add"


def test_somebody_else_among_the_photos_is_doubted(sample: Path, tmp_path: Path) -> None:
    """Her own face, made wider at the jaw and of another skin: the bones differ as between two people."""
    shots = {f"{i}": vivi(sample, i) for i in (1, 4, 8, 10)}
    base = shots["1"]
    height, width = base.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    squeeze = 1 - 0.33 * np.exp(-(((y - 390) / 130) ** 2))
    other = cv2.remap(base, (x - 307) * squeeze + 307, y + 28 * np.exp(-(((y - 330) / 60) ** 2)), cv2.INTER_LINEAR)
    shots["other"] = (other * [0.62, 0.55, 0.5]).astype(np.uint8)
    assert finding(examined(tmp_path, shots), "somebody else") == ("drop", {"other.png"})


def poster(seed: int, wide: bool = False) -> np.ndarray:
    """Flat shapes in six colours: pictures of one manner that show different things."""
    palette = [(236, 219, 180), (201, 88, 60), (61, 90, 108), (41, 50, 65), (224, 170, 90), (120, 140, 110)]
    dice = np.random.default_rng(seed)
    height, width = (480, 640) if wide else (640, 480)
    image = np.full((height, width, 3), palette[dice.integers(6)], np.uint8)
    for _ in range(dice.integers(6, 16)):
        colour = palette[dice.integers(6)]
        x, y, side = int(dice.integers(width)), int(dice.integers(height)), int(dice.integers(40, 220))
        if dice.random() < 0.5:
            cv2.circle(image, (x, y), side // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + side, y + int(dice.integers(30, 250))), colour, -1)
    return np.clip(image + dice.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def test_a_style_is_one_manner_with_many_subjects(sample: Path, tmp_path: Path) -> None:
    pictures = {f"{i:02}": poster(i, i % 3 == 0) for i in range(7)}
    grey = cv2.cvtColor(poster(20), cv2.COLOR_RGB2GRAY)
    done = examined(tmp_path, pictures | {"photo": vivi(sample, 3), "grey": np.dstack([grey] * 3)}, "style")
    assert finding(done, "another manner") == ("drop", {"photo.png"})
    assert finding(done, "black and white") == ("drop", {"grey.png"})
    assert finding(done, "different compositions")[0] == "good"
    assert silent_on(done, "backdrop", "Angles", "No face")


def test_a_style_of_faces_alone_is_told_to_show_more(sample: Path, tmp_path: Path) -> None:
    done = examined(tmp_path, {f"{i}": vivi(sample, i) for i in (1, 3, 5, 6)}, "style")
    assert finding(done, "show a face from close; add landscapes")[0] == "add"
    assert finding(done, "All are upright")[0] == "know"


def test_a_product_is_to_be_seen_from_more_sides_and_in_use(tmp_path: Path) -> None:
    shots = {}
    for i in range(5):
        shot = np.random.default_rng(i).normal(235, 3, (560, 560, 3))
        cv2.rectangle(shot, (200 + 4 * i, 150), (350 + 4 * i, 450), (40, 90, 170), -1)
        cv2.circle(shot, (270, 220 + 30 * i), 25, (250, 250, 250), -1)
        shots[f"{i}"] = shot.clip(0, 255).astype(np.uint8)
    done = examined(tmp_path, shots, "product")
    assert finding(done, "from the same side")[0] == "add"
    assert finding(done, "same surroundings")[0] == "add"
    assert silent_on(done, "Very bright", "No face", "black or white")


def test_a_subject_without_a_face_is_judged_as_a_thing(sample: Path, tmp_path: Path) -> None:
    """A dog, a doll, a drawn character: their photos are not blamed for showing no face."""
    done = examined(tmp_path, {f"{i}": poster(i) for i in range(5)} | {"owner": vivi(sample, 7)})
    assert finding(done, "judged as those of a thing") == ("know", {"owner.png"})
    assert finding(done, "different views")[0] == "good"
    assert silent_on(done, "No face", "Angles", "clothes")


def test_a_back_of_a_head_is_asked_about_not_dropped(sample: Path, tmp_path: Path) -> None:
    away = vivi(sample, 3).copy()
    cv2.ellipse(away, (360, 300), (190, 240), 0, 0, 360, (70, 50, 35), -1)
    done = examined(tmp_path, {f"{i}": vivi(sample, i) for i in (1, 5)} | {"away": away})
    assert finding(done, "No face was found") == ("know", {"away.png"})


def test_trigger_word_and_captions_are_looked_at(sample: Path, tmp_path: Path) -> None:
    shots = {f"{i}": vivi(sample, i) for i in (1, 2, 3)}
    done = examined(
        tmp_path, shots, captions={"1": "a photo of TOK", "2": "ZIKI. " * 400, "3": "a woman"}, kind="general"
    )
    assert finding(done, "say TOK although") == ("mend", {"1.png"})
    assert finding(done, "the end is not read") == ("mend", {"2.png"})
    assert finding(done, "Captions without ZIKI") == ("know", {"1.png", "3.png"})
    assert silent_on(done, "All captions")


def test_a_trigger_word_that_is_everybody_s_is_a_fault(sample: Path, tmp_path: Path) -> None:
    same = dict.fromkeys("123", "TOK on a stage in red light")
    done = examined(
        tmp_path, {f"{i}": vivi(sample, i) for i in (1, 2, 3)}, captions=same, trigger="TOK", kind="general"
    )
    assert any("TOK is the trigger word of very many" in f.text and f.level == "mend" for f in done.findings)
    assert finding(done, "All captions are the same")[0] == "mend"


def test_without_the_nets_that_is_said_and_the_rest_examined(sample: Path, tmp_path: Path) -> None:
    done = examined(tmp_path, {"1": cv2.GaussianBlur(vivi(sample, 1), (0, 0), 6)}, kit=FaceKit(tmp_path / "none"))
    assert finding(done, "Faces were not looked for")[0] == "know"
    assert finding(done, "Blurred")[0] == "drop"
    assert silent_on(done, "No face was found")


def test_what_was_left_out_and_mended_stands_in_the_examination(sample: Path, tmp_path: Path) -> None:
    tiny = cv2.resize(vivi(sample, 2), (100, 130))
    mask = np.zeros(vivi(sample, 3).shape[:2], np.uint8)
    mask[:9, :9] = 255
    done = examined(tmp_path, {"1": vivi(sample, 1), "tiny": tiny, "3": vivi(sample, 3), "3_mask": mask}, "general")
    assert finding(done, "Left out: too small") == ("mend", {"tiny.png"})
    assert finding(done, "Masks that cover next to nothing")[0] == "mend"
    assert done.text().startswith("2 of 3 photos")


def test_a_fault_of_many_photos_is_one_line(sample: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3
    for i in range(8):
        picture = cv2.resize(np.random.default_rng(i).integers(0, 255, (9, 9, 3), np.uint8), (300, 300))
        Image.fromarray(picture).save(source / f"{i}.jpg", exif=exif)
    done = examine(prepare(source, tmp_path / "out", DatasetOptions("ZIKI", kind="general")))
    assert finding(done, "Turned upright") == ("know", {f"{i}.jpg" for i in range(8)})
    assert "(0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg and 2 more)" in done.text()


def test_an_examination_can_be_canceled(sample: Path, tmp_path: Path) -> None:
    class Stops(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            if fraction > 0.3:
                raise Canceled()

    with pytest.raises(Canceled):
        examined(tmp_path, {f"{i}": vivi(sample, i) for i in (1, 2)}, "product", reporter=Stops())


def test_bars_and_blocks_are_measured_and_walls_are_not_bars() -> None:
    noise = np.random.default_rng(0).integers(60, 190, (400, 400), np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 1.5)
    barred = noise.copy()
    barred[:50] = barred[-50:] = 0
    wall = noise.copy()
    wall[:200] = 255  # above only
    assert plain_borders(noise) == 0 and plain_borders(wall) == 0
    assert plain_borders(barred) == pytest.approx(0.25, abs=0.01)
    packed = cv2.imdecode(cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_GRAYSCALE)
    assert blockiness(noise) < 1.3 < 1.9 < blockiness(packed)
