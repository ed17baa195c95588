"""Masks: the head fully, the body less, the backdrop not; a product before a plain wall; own masks win."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vividcover.errors import ParameterError, WeightsError
from vividcover.image import masks
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.image.photos import Photo
from vividcover.portrait.faces import FaceKit
from vividcover.workspace import Silent


def sample_set(sample: Path, tmp_path: Path, *names: str, kind: str = "subject") -> Dataset:
    (tmp_path / "in").mkdir(exist_ok=True)
    for name in names:
        image = Image.open(sample / "photos" / name)
        image.resize((image.width // 2, image.height // 2)).save(tmp_path / "in" / f"{name[:2]}.png")
    return prepare(tmp_path / "in", tmp_path / "out", DatasetOptions("VIVI", kind=kind))  # type: ignore[arg-type]


def mask_of(photo: Photo) -> np.ndarray:
    assert photo.mask is not None
    with Image.open(photo.mask) as image, Image.open(photo.path) as pixels:
        assert image.size == pixels.size
        return np.asarray(image.convert("L"), float) / 255


def test_a_person_s_head_counts_fully_and_the_body_less(sample: Path, tmp_path: Path) -> None:
    dataset = masks.add(sample_set(sample, tmp_path, "01.jpg", "12_profile.jpg"))
    assert dataset.report["masks"] == {"what": "person", "own": 0, "made": 2, "without": []}
    front, profile = (mask_of(photo) for photo in dataset.photos)
    # 512 x 640: face at the middle, pullover at the bottom, wall in the corners
    assert front[200:300, 220:290].min() > 0.95
    assert front[590:, 150:350].max() == pytest.approx(masks.BODY, abs=0.03)
    assert front[:60].max() < 0.05 and front[100:300, :60].max() < 0.05
    assert profile[150:330, 200:330].mean() > 0.95  # face and hair of a head turned by sixty degrees
    assert profile[:60].max() < 0.05


def test_each_kind_of_mask_is_what_it_says(sample: Path, tmp_path: Path) -> None:
    dataset = sample_set(sample, tmp_path, "01.jpg")
    shares = {}
    for what in ("head", "person", "body"):
        again = prepare(tmp_path / "in", tmp_path / what, dataset.options)
        shares[what] = mask_of(masks.add(again, what=what).photos[0]).mean()  # type: ignore[arg-type]
    assert 0.1 < shares["head"] < shares["person"] < shares["body"] < 0.6
    assert masks.add(dataset, what="none").photos[0].mask is None
    with pytest.raises(ParameterError, match="hair"):
        masks.add(dataset, what="hair")  # type: ignore[arg-type]


def test_own_masks_win_and_photos_without_a_face_are_named(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    own = np.zeros((640, 512), np.uint8)
    own[:, :200] = 255
    Image.fromarray(own).save(tmp_path / "in" / "01_mask.png")
    wall = np.random.default_rng(0).integers(90, 160, (300, 300, 3), np.uint8)
    Image.fromarray(wall).save(tmp_path / "in" / "wall.png")
    silent = Silent()
    dataset = masks.add(sample_set(sample, tmp_path, "01.jpg", "05.jpg"), reporter=silent)
    assert dataset.report["masks"] == {"what": "person", "own": 1, "made": 1, "without": ["wall.png"]}
    assert np.array_equal(mask_of(dataset.photos[0]) * 255, own)
    assert any("wall.png" in note for note in silent.notes)


def test_a_product_is_told_from_a_plain_wall_and_only_from_that(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    truth = np.zeros((400, 500), np.uint8)
    cv2.rectangle(truth, (180, 120), (300, 330), 255, -1)
    cv2.circle(truth, (240, 110), 50, 255, -1)
    shade = np.linspace(225, 190, 400)[:, None, None] + np.random.default_rng(0).normal(0, 3, (400, 500, 3))
    shot = np.where(truth[..., None] > 0, [40, 90, 170], shade).clip(0, 255).astype(np.uint8)
    shot[200:240, 200:280] = 200  # a label like the wall
    Image.fromarray(shot).save(tmp_path / "in" / "a.png")
    patches = np.random.default_rng(1).integers(0, 255, (9, 9, 3), np.uint8)
    Image.fromarray(patches).resize((400, 400), Image.Resampling.NEAREST).save(tmp_path / "in" / "b.png")
    silent = Silent()
    dataset = masks.add(
        prepare(tmp_path / "in", tmp_path / "out", DatasetOptions("ZIKI", kind="product")), reporter=silent
    )
    found = mask_of(dataset.photos[0]) > 0.5
    assert (found & (truth > 0)).sum() / (found | (truth > 0)).sum() > 0.96
    assert dataset.photos[1].mask is None
    assert any("b.png" in note for note in silent.notes)


def test_a_style_needs_no_mask_and_no_nets(sample: Path, tmp_path: Path) -> None:
    dataset = sample_set(sample, tmp_path, "01.jpg", kind="style")
    assert masks.add(dataset, kit=FaceKit(tmp_path / "nothing")).report["masks"]["what"] == "none"
    with pytest.raises(WeightsError):
        masks.add(dataset, what="head", kit=FaceKit(tmp_path / "nothing"))


def test_masks_are_the_same_every_time_and_seen_on_a_sheet(sample: Path, tmp_path: Path) -> None:
    first = masks.add(sample_set(sample, tmp_path, "03.jpg"))
    again = masks.add(prepare(tmp_path / "in", tmp_path / "again", first.options))
    assert first.report["hash"] == again.report["hash"]
    sheet = masks.sheet([*first.photos] * 3, side=120, columns=2)
    assert sheet.shape == (240, 240, 3)
    cell = sheet[:120, :120].astype(float)
    assert cell[..., 2].mean() > cell[..., 0].mean()  # the garden behind her is not learned: dark and blue
