"""From photos to a still: the model, the cut-outs in it, and the pictures made of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from vividcover.errors import ConsentError, ImageError, ModelFileError, ParameterError
from vividcover.image.classic.compose import extend, place, put
from vividcover.image.classic.generate import generate
from vividcover.image.classic.modelfile import Model, read_model
from vividcover.image.classic.train import train
from vividcover.portrait.faces import FaceKit
from vividcover.workspace import Silent

PHOTOS = ("01.jpg", "08.jpg", "12_profile.jpg")


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def made(sample: Path, tmp_path_factory: pytest.TempPathFactory, kit: FaceKit) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("image")
    (folder / "photos").mkdir()
    for name in PHOTOS:
        Image.open(sample / "photos" / name).resize((768, 960 if name != "08.jpg" else 768)).save(
            folder / "photos" / name, quality=95
        )
    report = train(
        folder / "photos", folder / "vivi.tar", kit=kit, name="vivi", trigger_word="VIVI", consent="she does not exist"
    )
    return folder / "vivi.tar", report


@pytest.fixture(scope="module")
def model(made: tuple[Path, dict[str, Any]]) -> Model:
    return read_model(made[0])


# training -------------------------------------------------------------------------------------------------------------


def test_the_model_says_what_it_is(model: Model) -> None:
    info = model.info
    assert (info["kind"], info["engine"], info["format"]) == ("vividcover-image", "classic", 1)
    assert (info["name"], info["trigger_word"], info["type"], info["consent"]) == (
        "vivi",
        "VIVI",
        "subject",
        "she does not exist",
    )
    assert len(model.array(info["cutouts"][0]["landmarks"])) == 468


def test_every_photo_gets_a_verdict_and_a_profile_ranks_last(made: tuple[Path, dict[str, Any]]) -> None:
    verdicts = {v["photo"]: v for v in made[1]["verdicts"]}
    assert set(verdicts) == set(PHOTOS)
    assert verdicts["12_profile.jpg"]["score"] < min(verdicts["01.jpg"]["score"], verdicts["08.jpg"]["score"])
    assert any("10 to 20" in line for line in made[1]["advice"])


def test_training_again_gives_the_same_bytes_and_one_photo_is_enough(
    sample: Path, tmp_path: Path, kit: FaceKit
) -> None:
    Image.open(sample / "photos" / "08.jpg").resize((480, 480)).save(tmp_path / "one.png")
    report = train(tmp_path / "one.png", tmp_path / "a.tar", kit=kit, name="v", consent="mine")
    train(tmp_path / "one.png", tmp_path / "b.tar", kit=kit, name="v", consent="mine")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert any("Only one photo" in line for line in report["advice"])


def test_where_two_people_are_shown_the_person_of_the_other_photos_is_taken(
    sample: Path, tmp_path: Path, kit: FaceKit
) -> None:
    vivi = Image.open(sample / "photos" / "08.jpg").resize((480, 480))
    wider = vivi.resize((760, 480)).crop((140, 0, 620, 480))  # another shape of face
    both = Image.new("RGB", (960, 480))
    both.paste(wider, (0, 0))
    both.paste(vivi, (480, 0))
    folder = tmp_path / "photos"
    folder.mkdir()
    both.save(folder / "both.png")
    Image.open(sample / "photos" / "01.jpg").resize((480, 600)).save(folder / "alone.png")
    reporter = Silent()
    train(folder, tmp_path / "m.tar", kit=kit, name="v", consent="mine", reporter=reporter)
    assert any("both.png: 2 faces: the one on the right was taken" in note for note in reporter.notes)


def test_photos_without_a_face_are_named(sample: Path, tmp_path: Path, kit: FaceKit) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "wall.png")
    with pytest.raises(ImageError, match=r"wall\.png: no face"):
        train(tmp_path / "wall.png", tmp_path / "m.tar", kit=kit, name="v", consent="mine")
    assert not (tmp_path / "m.tar").exists()


def test_a_person_is_not_trained_without_consent(sample: Path, tmp_path: Path, kit: FaceKit) -> None:
    with pytest.raises(ConsentError):
        train(sample / "photos", tmp_path / "m.tar", kit=kit, name="v", consent="  ")
    with pytest.raises(ParameterError, match="banana"):
        train(sample / "photos", tmp_path / "m.tar", kit=kit, name="v", kind="banana", consent="x")  # type: ignore[arg-type]


# edges ----------------------------------------------------------------------------------------------------------------


def overshoot(rgb: np.ndarray, alpha: np.ndarray) -> float:
    """How much brighter the matte's edge is than person and new background, mean over the edge; a halo has 0.05 up."""
    weights = np.array([0.2126, 0.7152, 0.0722], np.float32)
    solid = (alpha > 0.98).astype(np.float32)
    inner = cv2.GaussianBlur(rgb @ weights * solid, (0, 0), 8) / (cv2.GaussianBlur(solid, (0, 0), 8) + 1e-3)
    background = np.array([0.0, 0.0, 0.6], np.float32)
    mixed = (rgb * alpha[..., None] + background * (1 - alpha[..., None])) @ weights
    band = (alpha > 0.05) & (alpha < 0.9) & (cv2.GaussianBlur(solid, (0, 0), 8) > 0.05)
    return float(np.clip(mixed - np.maximum(inner, background @ weights), 0, 1)[band].mean())


def test_no_halo_is_left_of_the_old_background(model: Model, made: tuple[Path, dict[str, Any]]) -> None:
    for entry in model.info["cutouts"]:
        photo = np.asarray(Image.open(made[0].parent / "photos" / entry["photo"]), np.float32) / 255
        rgb, alpha = model.cutout(entry["cutout"])
        assert overshoot(rgb, alpha) < 0.02
        assert overshoot(rgb, alpha) < 0.6 * overshoot(photo, cv2.GaussianBlur(alpha, (0, 0), 2)) + 1e-3


def straightest(alpha: np.ndarray, margin: int = 3) -> int:
    """Longest run of px along which the matte jumps between two neighbouring columns or rows inside the frame."""
    longest = 0
    for image in (alpha, alpha.T):
        jumps = np.abs(np.diff(image, axis=1))[margin:-margin, margin:-margin] > 0.4
        for column in jumps.T:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(np.int8), [0]])))
            longest = max([longest, *(edges[1::2] - edges[::2])])
    return longest


def test_a_body_cut_by_the_photo_shows_no_straight_edge_in_the_still(model: Model) -> None:
    entry = next(e for e in model.info["cutouts"] if e["photo"] == "01.jpg")
    assert entry["side_cut"] > 0.3  # shoulders cut at both sides
    rgb, alpha = model.cutout(entry["cutout"])
    points = model.array(entry["landmarks"])
    rng = np.random.default_rng(0)
    placing = place((alpha.shape[1], alpha.shape[0]), points, entry["head_top"], 768, 768, None, rng)
    grown, grown_alpha, moved = extend(rgb, alpha, points, rng)
    origin = (float(moved[0, 0] - points[0, 0]), float(moved[0, 1] - points[0, 1]))
    before = put(rgb, alpha, points, placing, (0.0, 0.0), 768, 768)
    after = put(grown, grown_alpha, moved, placing, origin, 768, 768)
    assert np.allclose(before.landmarks, after.landmarks, atol=0.01)
    assert straightest(before.alpha) > 60  # the check sees a cut edge
    assert straightest(after.alpha) < 25
    assert placing.bottom_gap == 0
    assert after.alpha[-1].max() > 0.95  # the body goes on to the frame's bottom


# stills ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["VIVI on stage performing", "club, magenta light, smoke", "beach at sunset", "snow, backlit, microphone"]
)
def test_the_face_is_there_large_and_free_in_every_scene(
    made: tuple[Path, dict[str, Any]], kit: FaceKit, prompt: str
) -> None:
    still = generate(made[0], prompt, seed=5, width=640, height=640, kit=kit)
    faces = kit.detect(still.rgb)
    assert len(faces) >= 1
    height = np.linalg.norm(faces[0].landmarks[10, :2] - faces[0].landmarks[152, :2])
    assert height >= 0.18 * 640
    assert still.report["face_of_height"] == pytest.approx(height / 640, rel=0.12)


def test_the_still_is_neither_dark_nor_burnt(made: tuple[Path, dict[str, Any]], kit: FaceKit) -> None:
    still = generate(made[0], "stage", seed=2, width=512, height=512, kit=kit)
    face = kit.detect(still.rgb)[0]
    x0, y0 = face.landmarks[:, :2].min(0).astype(int)
    x1, y1 = face.landmarks[:, :2].max(0).astype(int)
    skin = still.rgb[y0:y1, x0:x1].mean(2)
    assert 60 < np.median(skin) < 215
    assert (still.rgb > 250).all(2).mean() < 0.05


def test_the_same_seed_gives_the_same_pixels_and_another_seed_another_picture(
    made: tuple[Path, dict[str, Any]],
) -> None:
    first = generate(made[0], "arena, confetti", seed=7, width=384, height=384)
    assert np.array_equal(first.rgb, generate(made[0], "arena, confetti", seed=7, width=384, height=384).rgb)
    other = generate(made[0], "arena, confetti", seed=8, width=384, height=384).rgb
    assert np.abs(first.rgb.astype(int) - other.astype(int)).mean() > 5
    assert first.report["seed"] == 7


@pytest.mark.parametrize("size", [(1344, 768), (256, 448), (500, 333), (448, 1024)])
def test_the_size_is_what_was_asked_for(made: tuple[Path, dict[str, Any]], size: tuple[int, int]) -> None:
    still = generate(made[0], "street at night, rain", seed=1, width=size[0], height=size[1])
    assert still.rgb.shape == (size[1], size[0], 3)
    assert still.rgb.dtype == np.uint8


def test_framing_changes_the_face_and_colour_changes_the_light(made: tuple[Path, dict[str, Any]]) -> None:
    near = generate(made[0], "stage close-up, red light", seed=3, width=320, height=320)
    normal = generate(made[0], "stage, blue light", seed=3, width=320, height=320)
    assert near.report["face_of_height"] > normal.report["face_of_height"] + 0.05
    edge = (slice(0, 160), slice(0, 60))
    red, blue = near.rgb[edge].reshape(-1, 3).mean(0), normal.rgb[edge].reshape(-1, 3).mean(0)
    assert red[0] > red[2] + 10
    assert blue[2] > blue[0] + 10


def test_words_not_understood_are_reported_and_said(made: tuple[Path, dict[str, Any]]) -> None:
    reporter = Silent()
    still = generate(
        made[0], "VIVI on stage with an elephant", seed=1, width=256, height=256, lora_scale=0.5, reporter=reporter
    )
    assert still.report["words_not_understood"] == ["elephant"]
    assert any("elephant" in note for note in reporter.notes)
    assert any("lora_scale" in line for line in still.report["not_honoured"])


def test_impossible_sizes_are_refused(made: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ParameterError, match="width is 2000"):
        generate(made[0], "stage", seed=1, width=2000, height=512)


# style ----------------------------------------------------------------------------------------------------------------


def test_a_style_brings_its_palette_into_a_scene_without_a_person(tmp_path: Path, kit: FaceKit) -> None:
    folder = tmp_path / "style"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(3):
        strokes = np.full((320, 320, 3), (20, 60, 50), np.uint8)
        for _ in range(400):
            start = rng.integers(0, 320, 2)
            end = start + rng.integers(-40, 40, 2)
            cv2.line(
                strokes,
                tuple(start.tolist()),
                tuple(end.tolist()),
                tuple(rng.integers((10, 90, 60), (60, 220, 130)).tolist()),
                5,
            )
        Image.fromarray(strokes).save(folder / f"{i}.png")
    train(folder, tmp_path / "s.tar", kit=kit, name="green", trigger_word="GREEN", kind="style")
    styled = generate(tmp_path / "s.tar", "GREEN desert", seed=1, width=320, height=320)
    plain = generate(tmp_path / "s.tar", "GREEN desert", seed=1, width=320, height=320, lora_scale=0.0)
    assert styled.report["type"] == "style"
    green, before = styled.rgb.reshape(-1, 3).mean(0), plain.rgb.reshape(-1, 3).mean(0)
    assert green[1] > green[0] and green[1] > green[2]
    assert green[1] - green[0] > before[1] - before[0] + 20


# model files ----------------------------------------------------------------------------------------------------------


def test_a_file_of_another_kind_is_named_for_what_it_is(sample: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "voice"), "zip", sample / "song")
    (tmp_path / "empty.tar").write_bytes(b"")
    cases = {
        tmp_path / "voice.zip": r"has no model\.json; it holds",
        sample / "photos" / "01.jpg": "not a tar but of the kind image/jpeg",
        tmp_path / "empty.tar": "it is empty",
        tmp_path / "none.tar": "no image model at",
    }  # fmt: skip
    for path, words in cases.items():
        with pytest.raises(ModelFileError, match=words):
            generate(path, "stage", seed=1)
