"""Faces: found large and small, in photos of one and of many; nothing found where there is none; a matte that fits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vividcover.errors import WeightsError
from vividcover.portrait.faces import Face, FaceKit, Rgb, head_pose
from vividcover.portrait.stills import read_still

PHOTOS = Path(__file__).parents[2] / "sample" / "photos"


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


def photo(name: str, width: int) -> Rgb:
    rgb = read_still(PHOTOS / name)
    height = round(rgb.shape[0] * width / rgb.shape[1])
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def test_every_sample_photo_has_exactly_one_face(kit: FaceKit) -> None:
    for file in sorted(PHOTOS.glob("*.jpg")):
        assert len(kit.detect(photo(file.name, 512))) == 1, file.name


def test_a_small_face_in_a_large_picture_is_found(kit: FaceKit) -> None:
    picture = np.full((1200, 1600, 3), 120, np.uint8)
    small = photo("01.jpg", 160)
    picture[700 : 700 + small.shape[0], 1300:1460] = small
    (face,) = kit.detect(picture)
    assert 1300 < face.x < 1460 and 700 < face.y < 900


def test_a_face_that_fills_the_picture_is_found(kit: FaceKit) -> None:
    whole = photo("10.jpg", 768)
    (face,) = kit.detect(whole)
    close = np.ascontiguousarray(whole[int(face.y) : int(face.y + face.h), int(face.x) : int(face.x + face.w)])
    assert len(kit.detect(close)) == 1


def test_faces_come_largest_first(kit: FaceKit) -> None:
    large, small = photo("01.jpg", 400), photo("04.jpg", 200)
    picture = np.full((large.shape[0], 640, 3), 128, np.uint8)
    picture[:, :400] = large
    picture[100 : 100 + small.shape[0], 420:620] = small
    faces = kit.detect(picture)
    assert len(faces) == 2
    assert faces[0].h > 1.5 * faces[1].h and faces[0].x < 400


def test_pictures_without_a_face_have_none(kit: FaceKit) -> None:
    rng = np.random.default_rng(0)
    bricks = photo("07.jpg", 512)[:200, :140]
    for picture in (rng.integers(0, 255, (300, 400, 3), np.uint8), np.zeros((200, 200, 3), np.uint8), bricks):
        assert kit.detect(np.ascontiguousarray(picture)) == []


def test_the_head_s_turn_has_the_right_sign_and_size(kit: FaceKit) -> None:
    yaw = {name: kit.detect(photo(name, 512))[0].yaw for name in ("01.jpg", "02.jpg", "03.jpg", "12_profile.jpg")}
    assert abs(yaw["01.jpg"]) < 8
    assert yaw["02.jpg"] < -15 and yaw["03.jpg"] > 15
    assert yaw["12_profile.jpg"] < -45


def test_a_turned_picture_turns_the_roll_only(kit: FaceKit) -> None:
    straight = photo("01.jpg", 512)
    height, width = straight.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -15, 1.0)  # OpenCV's negative angles turn clockwise
    (turned,) = kit.detect(cv2.warpAffine(straight, matrix, (width, height)))
    (face,) = kit.detect(straight)
    assert turned.roll - face.roll == pytest.approx(15, abs=3)
    assert abs(turned.yaw - face.yaw) < 6


def test_pose_of_a_face_made_by_hand() -> None:
    points = np.zeros((468, 3), np.float32)
    points[454], points[234], points[263], points[33] = (50, 0, 0), (-50, 0, 0), (30, 0, 0), (-30, 0, 0)
    points[10], points[152] = (0, -80, 0), (0, 80, 0)
    yaw, _, roll = head_pose(points)
    assert yaw == pytest.approx(0) and roll == pytest.approx(0)
    points[454, 2], points[234, 2], points[263, 2], points[33, 2] = 50, -50, 30, -30  # its left cheek goes away
    assert head_pose(points)[0] == pytest.approx(45, abs=1)


def test_the_matte_holds_the_person_and_leaves_the_wall(kit: FaceKit) -> None:
    picture = photo("01.jpg", 512)
    (face,) = kit.detect(picture)
    matte = kit.matte(picture)
    assert matte.shape == picture.shape[:2] and matte.dtype == np.float32
    x, y = int(face.x + face.w / 2), int(face.y + face.h / 2)
    assert matte[y - 40 : y + 40, x - 40 : x + 40].min() > 0.95
    assert matte[:40, :40].max() < 0.05 and matte[:40, -40:].max() < 0.05


def test_detection_is_the_same_every_time_and_for_any_number_of_threads(kit: FaceKit) -> None:
    picture = photo("09.jpg", 400)
    found: list[Face] = []
    before = cv2.getNumThreads()
    try:
        for threads in (1, 2, 1):
            cv2.setNumThreads(threads)
            found.append(kit.detect(picture)[0])
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0].landmarks, found[1].landmarks)
    assert np.array_equal(found[0].landmarks, found[2].landmarks)


def test_without_weights_the_error_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vividcover weights pull"):
        FaceKit(tmp_path).detect(np.zeros((64, 64, 3), np.uint8))
