"""Sizes for training: the photo's own shape, at most the asked area, never enlarged, and pixels that fit them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vividcover.errors import ImageError, ParameterError
from vividcover.image.buckets import Bucket, buckets, mask, pixels, table
from vividcover.image.photos import Photo

ALL = (512, 768, 1024)


def photo_of(folder: Path, rgb: np.ndarray, hidden: np.ndarray | None = None) -> Photo:
    Image.fromarray(rgb).save(folder / "a.png")
    if hidden is not None:
        Image.fromarray(hidden).save(folder / "a_mask.png")
    size = (rgb.shape[1], rgb.shape[0])
    return Photo("a.png", folder / "a.png", size, "", 1.0, (), None if hidden is None else folder / "a_mask.png")


@given(st.integers(64, 6000), st.integers(64, 6000), st.sampled_from([16, 32, 64]))
def test_no_size_enlarges_exceeds_its_area_or_misses_the_step(width: int, height: int, step: int) -> None:
    found = buckets(width, height, ALL, step)
    assert found
    assert len({(b.width, b.height) for b in found}) == len(found)
    for b in found:
        assert b.width <= width and b.height <= height
        assert b.width * b.height <= b.resolution**2
        assert b.width % step == 0 and b.height % step == 0
        assert b.shape == (b.height // 8, b.width // 8)


@given(st.floats(0.4, 2.5), st.integers(1024, 4000))
def test_a_photo_keeps_its_shape_and_nearly_all_of_the_area(aspect: float, short: int) -> None:
    width, height = (round(short * aspect), short) if aspect > 1 else (short, round(short / aspect))
    for b in buckets(width, height, ALL):
        kept = min(b.width / b.height, width / height) / max(b.width / b.height, width / height)
        assert kept > 0.95  # a side of 320 px in steps of 16
        assert b.width * b.height > 0.92 * b.resolution**2


def test_usual_photos_get_the_sizes_one_expects() -> None:
    assert [(b.width, b.height) for b in buckets(1920, 1080, ALL)] == [(672, 384), (1024, 576), (1360, 768)]
    assert buckets(4000, 4000, ALL) == [Bucket(512, 512, 512), Bucket(768, 768, 768), Bucket(1024, 1024, 1024)]
    assert Bucket(1024, 1024, 1024).tokens == 4096


def test_a_small_photo_is_trained_at_its_own_size_once() -> None:
    assert buckets(600, 600, ALL) == [Bucket(512, 512, 512), Bucket(592, 592, 768)]
    assert buckets(300, 300, ALL) == [Bucket(288, 288, 512)]


def test_what_cannot_be_a_size_is_said() -> None:
    for resolutions in ((), (32,), (9000,)):
        with pytest.raises(ParameterError, match="esolution"):
            buckets(1000, 1000, resolutions)
    with pytest.raises(ParameterError, match="steps of 20"):
        buckets(1000, 1000, ALL, 20)
    with pytest.raises(ImageError):
        buckets(12, 900, ALL)


def test_pixels_are_the_middle_of_the_photo_between_minus_one_and_one(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:300, 0:400].astype(np.float32)
    ramp = np.dstack([columns / 399 * 255, rows / 299 * 255, np.full_like(rows, 128)]).round().astype(np.uint8)
    photo = photo_of(tmp_path, ramp)
    small = pixels(photo, Bucket(160, 112, 128))
    assert small.shape == (3, 112, 160)
    assert small.dtype == np.float32
    height = 400 / 160 * 112  # of the photo that is kept
    top = (300 - height) / 2
    wanted_x = ((np.arange(160) + 0.5) * 2.5 - 0.5) / 399 * 2 - 1
    wanted_y = (top + (np.arange(112) + 0.5) * 2.5 - 0.5) / 299 * 2 - 1
    assert np.abs(small[0, 56, 4:-4] - wanted_x[4:-4]).max() < 0.01
    assert np.abs(small[1, :, 80] - wanted_y).max() < 0.01
    assert np.abs(small[2] - (128 / 127.5 - 1)).max() < 1e-6


def test_pixels_at_the_photo_s_own_size_are_its_pixels(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    small = pixels(photo_of(tmp_path, rgb), Bucket(96, 64, 512))
    assert np.array_equal(np.rint((small + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0), rgb)


def test_a_mask_comes_at_the_latents_size_and_fits_the_pixels(tmp_path: Path) -> None:
    rgb = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(rgb, (150, 120), 60, (255, 255, 255), -1)
    photo = photo_of(tmp_path, rgb, rgb[..., 0])
    bucket = Bucket(160, 112, 128)
    small = mask(photo, bucket)
    assert small.shape == bucket.shape
    white = (pixels(photo, bucket)[0] + 1) / 2
    assert np.abs(small - cv2.resize(white, (20, 14), interpolation=cv2.INTER_AREA)).max() < 0.06
    assert np.array_equal(mask(photo_of(tmp_path, rgb), bucket), np.ones(bucket.shape, np.float32))


def test_the_table_counts_photos_by_size(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, np.zeros((600, 600, 3), np.uint8))
    assert table([photo, photo], ALL) == [
        {"width": 512, "height": 512, "resolution": 512, "tokens": 1024, "photos": 2},
        {"width": 592, "height": 592, "resolution": 768, "tokens": 1369, "photos": 2},
    ]
