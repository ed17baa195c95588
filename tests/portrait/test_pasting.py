"""The moving crop back in its still: nothing around it changes, its edge is not seen, its colours are the still's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.portrait.classic.portrait import ClassicRenderer
from vividcover.portrait.faces import FaceKit, Rgb
from vividcover.portrait.framing import Framing, frame
from vividcover.portrait.pasting import FEATHER, MOST_SHIFT, SETTLED, SLOW, Paste
from vividcover.portrait.render import RenderSettings
from vividcover.portrait.stills import LARGEST, read_still
from vividcover.song.pcm import RATE, write_pcm

PHOTOS = Path(__file__).parents[2] / "sample" / "photos"
DRIFT = (np.array([1.08, 1.1, 1.1]), np.array([5.0, 3.0, -5.0]))  # gain and shift of L, a, b: a visible cast
Floats = NDArray[np.floating[Any]]


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def still() -> Rgb:
    """Vivi before leaves, 480 px wide."""
    return np.asarray(cv2.resize(read_still(PHOTOS / "11.jpg"), (480, 640), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def framed(kit: FaceKit, still: Rgb) -> Framing:
    return frame(still, kit, min_resolution=256)


@pytest.fixture(scope="module")
def moving(kit: FaceKit, framed: Framing, tmp_path_factory: pytest.TempPathFactory) -> list[Rgb]:
    """Frames in which the crop sings and its head moves."""
    time = np.arange(2 * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 12)) * 0.15 * (np.sin(9 * time) > 0)
    vocals = write_pcm(tmp_path_factory.mktemp("sung") / "v.wav", np.stack([tone] * 2).astype(np.float32))
    frames = list(ClassicRenderer(kit).render(framed.rgb, vocals, RenderSettings(keep_resolution=True)).frames)
    assert frames[0].shape == framed.rgb.shape
    return frames[::2]


def lab(rgb: Rgb) -> Floats:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab), np.float64)


def tinted(rgb: Rgb, gain: Floats, shift: Floats) -> Rgb:
    moved = (lab(rgb) - [50.0, 0, 0]) * gain + [50.0, 0, 0] + shift
    back = cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(np.round(back * 255), 0, 255), np.uint8)


def plainly(still: Rgb, framed: Framing, rgb: Rgb) -> Rgb:
    """The frame laid over the still without any care, for comparison."""
    left, top, right, bottom = framed.box
    picture = still.copy()
    picture[top:bottom, left:right] = cv2.resize(rgb, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
    return picture


def seam(picture: Rgb, still: Rgb, box: tuple[int, int, int, int]) -> float:
    """How much steeper the picture is across the crop's edges than the still is there: mean |ΔL|, L of 0 … 100."""
    left, top, right, bottom = box

    def steps(rgb: Rgb) -> Floats:
        light = lab(rgb)[..., 0]
        across = [light[top:bottom, x] - light[top:bottom, x - 1] for x in (left, right) if 0 < x < light.shape[1]]
        down = [light[y, left:right] - light[y - 1, left:right] for y in (top, bottom) if 0 < y < light.shape[0]]
        return np.concatenate(across + down)

    return float(np.abs(steps(picture) - steps(still)).mean())


def test_nothing_outside_the_crop_changes_by_a_single_bit(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    paste = Paste(still, framed)
    left, top, right, bottom = framed.box
    outside = np.ones(still.shape[:2], bool)
    outside[top:bottom, left:right] = False
    for rgb in moving[::5]:
        picture = paste.put(tinted(rgb, *DRIFT))
        assert picture.shape == still.shape and picture.dtype == np.uint8
        assert np.array_equal(picture[outside], still[outside])


def test_what_the_network_was_given_comes_back_as_the_still(still: Rgb, framed: Framing) -> None:
    """Position and colour fit: only the detail that the smaller size cannot hold is lost."""
    picture = Paste(still, framed).put(framed.rgb)
    left, top, right, bottom = framed.box
    error = np.abs(picture.astype(int) - still)[top:bottom, left:right]
    assert error.mean() < 1.2
    moved = np.roll(picture, 1, axis=1)[top:bottom, left + 1 : right]
    assert np.abs(moved.astype(int) - still[top:bottom, left + 1 : right]).mean() > 1.5 * error.mean()


def test_no_edge_is_seen_where_the_crop_ends(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    paste = Paste(still, framed)
    for rgb in (tinted(rgb, *DRIFT) for rgb in moving):
        pasted = paste.put(rgb)
        assert seam(pasted, still, framed.box) < 0.25
        assert seam(plainly(still, framed, rgb), still, framed.box) > 3.0


def test_colours_return_to_the_still_s(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    """Also the skin's, which lies inside, where nothing was measured."""
    paste = Paste(still, framed)
    for rgb in moving:
        picture = paste.put(tinted(rgb, *DRIFT))
    left, top, right, bottom = framed.box
    ours = lab(np.asarray(cv2.resize(picture[top:bottom, left:right], (256, 256), interpolation=cv2.INTER_AREA)))
    true, wrong = lab(moving[-1]), lab(tinted(moving[-1], *DRIFT))
    cheeks = np.zeros((256, 256), bool)
    cheeks[128:150, 88:104] = cheeks[128:150, 150:166] = True

    def away(a: Floats) -> float:
        return float(np.linalg.norm(np.median((a - true)[cheeks], axis=0)))

    assert away(wrong) > 6.0 and away(ours) < 1.5
    assert np.linalg.norm(np.median((ours - true)[20:236, 20:40].reshape(-1, 3), axis=0)) < 1.5
    assert np.allclose(paste.shift, -DRIFT[1], atol=2.5)


def test_without_a_cast_colours_stay_as_they_are(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    paste = Paste(still, framed)
    for rgb in moving:
        picture = paste.put(rgb)
    left, top, right, bottom = framed.box
    inside = cv2.resize(picture[top:bottom, left:right], (256, 256), interpolation=cv2.INTER_AREA)
    face = framed.mask > 0.9
    assert np.abs(inside.astype(int) - moving[-1])[face].mean() < 2.5
    assert np.abs(paste.shift).max() < 1.0


def test_a_slow_drift_is_followed_and_one_frame_s_flash_is_not(still: Rgb, framed: Framing) -> None:
    paste = Paste(still, framed)
    for _ in range(SETTLED):
        paste.put(framed.rgb)
    paste.put(tinted(framed.rgb, np.ones(3), np.array([8.0, 0, 0])))
    assert abs(paste.shift[0]) < 0.1  # a flash of the stage's light is no drift
    brighter = tinted(framed.rgb, np.ones(3), np.array([6.0, 0, 0]))
    for _ in range(2 * SLOW):  # 20 s
        paste.put(brighter)
    assert paste.shift[0] == pytest.approx(-6.0 * (1 - np.exp(-2)), abs=0.5)


def test_the_correction_never_jumps_between_frames(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    paste, shifts = Paste(still, framed), []
    for rgb in moving * 2:
        paste.put(rgb)
        shifts.append(paste.shift)
    assert np.abs(np.diff(np.array(shifts), axis=0))[5:].max() < 0.25


def test_another_picture_altogether_is_not_forced_into_the_still_s_colours(still: Rgb, framed: Framing) -> None:
    paste = Paste(still, framed)
    paste.put(255 - framed.rgb)
    assert np.abs(paste.shift).max() <= MOST_SHIFT


def test_edges_of_the_still_itself_do_not_fade(kit: FaceKit, still: Rgb) -> None:
    found = kit.detect(still)[0]
    cut = np.ascontiguousarray(still[:, int(found.x) - 20 :])
    framed = frame(cut, kit, min_resolution=256)
    assert framed.box[0] == 0
    dark = np.zeros_like(framed.rgb)
    paste = Paste(cut, framed)
    paste._matrix = lambda: np.eye(3, 4)  # type: ignore[method-assign]
    picture = paste.put(dark)
    middle = (framed.box[1] + framed.box[3]) // 2
    assert picture[middle, 0].max() == 0 and picture[middle, framed.box[2] - 1].max() > 30
    inside = round(FEATHER * (framed.box[2] - framed.box[0])) + 2
    assert picture[middle, framed.box[2] - inside].max() == 0


@pytest.mark.parametrize(("height", "width"), [(641, 481), (640, 481), (481, 481)])
def test_stills_with_odd_sides_lose_one_line_and_stay_in_place(
    kit: FaceKit, still: Rgb, height: int, width: int
) -> None:
    odd = np.asarray(cv2.resize(still, (481, 641), interpolation=cv2.INTER_AREA), np.uint8)[:height, :width]
    framed = frame(np.ascontiguousarray(odd), kit, min_resolution=256, crop=height != width)
    picture = Paste(odd, framed).put(framed.rgb)
    assert picture.shape == (height // 2 * 2, width // 2 * 2, 3)
    assert np.abs(picture.astype(int) - odd[: height // 2 * 2, : width // 2 * 2]).mean() < 2.5


def test_a_still_too_large_for_video_is_made_smaller_with_its_crop(kit: FaceKit, still: Rgb) -> None:
    large = np.asarray(cv2.resize(still, (3000, 4000), interpolation=cv2.INTER_CUBIC), np.uint8)
    framed = frame(large, kit, min_resolution=256)
    paste = Paste(large, framed)
    picture = paste.put(framed.rgb)
    assert paste.size == (2880, LARGEST) and picture.shape == (LARGEST, 2880, 3)
    (again,) = kit.detect(picture)
    assert again.x / 2880 == pytest.approx(framed.face.x / 3000, abs=0.01)
    assert any("3840" in note for note in paste.notes) and any("enlarged" in note for note in paste.notes)


def test_the_same_frames_give_the_same_pictures(still: Rgb, framed: Framing, moving: list[Rgb]) -> None:
    one, two = Paste(still, framed), Paste(still, framed)
    for rgb in moving[:6]:
        assert np.array_equal(one.put(rgb), two.put(rgb))


def test_a_mask_that_fills_the_crop_leaves_its_border_to_measure(still: Rgb, framed: Framing) -> None:
    full = replace(framed, mask=np.ones_like(framed.mask))
    assert np.abs(Paste(still, full).put(framed.rgb).astype(int) - still).mean() < 1.2
