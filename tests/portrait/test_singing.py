"""The singing portrait: exact length, a still mouth in silence, an open one on a vowel, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vividcover.errors import Canceled, ImageError, ParameterError
from vividcover.portrait.classic.portrait import ClassicRenderer, portrait
from vividcover.portrait.faces import FaceKit, Rgb
from vividcover.portrait.render import Rendering, RenderSettings, encode
from vividcover.portrait.stills import read_still
from vividcover.song.pcm import RATE, write_pcm
from vividcover.workspace import Silent

PHOTOS = Path(__file__).parents[2] / "sample" / "photos"
SIDE = 320  # px


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _still(tmp_path_factory.mktemp("still") / "01.png", "01.jpg")


def _still(path: Path, name: str) -> Path:
    with Image.open(PHOTOS / name) as image:
        width, height = image.size
        box = (0, (height - width) // 2, width, (height - width) // 2 + width)
        image.convert("RGB").crop(box).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path)
    return path


def vowels(seconds: float, bursts: list[tuple[float, float]]) -> NDArray[np.float32]:
    """A harmonic tone of 220 Hz between the given times, silence elsewhere: [2, samples]."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 15)) * 0.15
    edge = np.zeros_like(time)
    for start, end in bursts:
        edge = np.maximum(edge, np.clip(np.minimum(time - start, end - time) / 0.03, 0, 1))
    return np.stack([tone * edge] * 2).astype(np.float32)


def frames_of(video: Path) -> list[Rgb]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def openness(kit: FaceKit, rgb: Rgb) -> float:
    """Distance of the inner lips in face heights, as FaceMesh sees it."""
    points = kit.detect(rgb)[0].landmarks
    return float(np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[10] - points[152]))


@pytest.fixture(scope="module")
def sung(kit: FaceKit, still: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """2.5 s: silence to 0.8 s, a vowel to 1.5 s, silence."""
    folder = tmp_path_factory.mktemp("sung")
    vocals = write_pcm(folder / "vocals.wav", vowels(2.5, [(0.8, 1.5)]))
    return folder / "out.mp4", portrait(still, vocals, folder / "out.mp4", kit=kit)


def test_the_mouth_opens_on_the_vowel_and_closes_after_it(kit: FaceKit, sung: tuple[Path, dict[str, Any]]) -> None:
    frames = frames_of(sung[0])
    before, during, after = (openness(kit, frames[k]) for k in (12, 29, 52))
    assert during > before + 0.04
    assert during > after + 0.04
    assert abs(after - before) < 0.012


def test_no_frame_loses_the_face(kit: FaceKit, sung: tuple[Path, dict[str, Any]]) -> None:
    assert all(len(kit.detect(frame)) == 1 for frame in frames_of(sung[0])[::6])


def test_the_report_tells_size_and_frames(sung: tuple[Path, dict[str, Any]]) -> None:
    report = sung[1]
    assert (report["width"], report["height"], report["fps"], report["frames"]) == (SIDE, SIDE, 25, 62)
    assert 0.5 < report["sung_seconds"] < 1.2


def test_the_same_inputs_give_the_same_bytes_with_one_thread_and_with_two(
    kit: FaceKit, still: Path, tmp_path: Path
) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(1.0, [(0.2, 0.8)]))
    videos = [tmp_path / "1.mp4", tmp_path / "2.mp4"]
    for threads, video in enumerate(videos, 1):
        portrait(still, vocals, video, kit=kit, threads=threads)
    assert videos[0].read_bytes() == videos[1].read_bytes()


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(1.019, 25, 25), (1.021, 25, 26), (0.5, 30, 15), (1.0, 24, 24)])
def test_the_number_of_frames_is_exact(
    kit: FaceKit, still: Path, tmp_path: Path, seconds: float, fps: int, frames: int
) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(seconds, []))
    portrait(still, vocals, tmp_path / "o.mp4", kit=kit, fps=fps)
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert sum(1 for _ in container.decode(video=0)) == frames
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == fps
        assert len(container.streams) == 1


def _poses(kit: FaceKit, still: Path, vocals: Path, **settings: Any) -> Rendering:
    return ClassicRenderer(kit).render(read_still(still), vocals, RenderSettings(**settings))


def test_in_silence_lips_do_not_move_at_all(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", np.zeros((2, 2 * RATE), np.float32))
    frames = list(_poses(kit, still, vocals, dynamic_scale=0.0).frames)
    face = kit.detect(frames[0])[0]
    x, y = face.landmarks[[61, 291], :2].mean(0).astype(int)
    mouths = np.stack([frame[y - 14 : y + 22, x - 26 : x + 26] for frame in frames]).astype(int)
    assert np.abs(mouths - mouths[0]).max() <= 2


def test_lips_that_are_apart_in_the_photo_are_closed_in_silence(kit: FaceKit, tmp_path: Path) -> None:
    parted = _still(tmp_path / "09.png", "09.jpg")
    vocals = write_pcm(tmp_path / "v.wav", np.zeros((2, RATE // 4), np.float32))
    frame = next(iter(_poses(kit, parted, vocals, dynamic_scale=0.0).frames))

    def dark(rgb: Rgb) -> int:
        """Pixels between the lips that are much darker than the lips."""
        points = kit.detect(rgb)[0].landmarks
        (x0, y0), (x1, y1) = points[[61, 0], :2].min(0).astype(int), points[[291, 17], :2].max(0).astype(int)
        mouth = rgb[y0:y1, x0:x1].mean(2)
        return int((mouth < 0.45 * np.median(mouth)).sum())

    assert dark(frame) < 0.6 * dark(read_still(parted))


def test_frames_are_made_one_by_one(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    """An hour-long song is not drawn before its first frame is handed out."""
    vocals = write_pcm(tmp_path / "v.wav", np.zeros((1, 60 * RATE), np.float32))
    rendering = _poses(kit, still, vocals)
    assert rendering.count == 1500
    assert next(rendering.frames).shape == (SIDE, SIDE, 3)


def test_the_picture_s_border_shows_no_seam(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(2.0, [(0.3, 1.7)]))
    original = read_still(still).astype(int)
    for frame in list(_poses(kit, still, vocals, dynamic_scale=2.0).frames)[::7]:
        for edge in (frame[:3], frame[-3:], frame[:, :3].swapaxes(0, 1), frame[:, -3:].swapaxes(0, 1)):
            lines = edge.astype(int)
            assert np.abs(lines[0] - lines[2]).mean() < 6  # neighbouring lines look alike: no black bar, no tear
        assert abs(frame.mean() - original.mean()) < 8


def test_dynamic_scale_zero_keeps_the_head_still(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(2.0, [(0.3, 1.7)]))
    movement = {}
    for scale in (0.0, 1.5):
        frames = list(_poses(kit, still, vocals, dynamic_scale=scale).frames)[::10]
        noses = np.array([kit.detect(frame)[0].landmarks[1, :2] for frame in frames])
        movement[scale] = float(np.ptp(noses, axis=0).max())
    assert movement[0.0] < 1.5 < movement[1.5]


def test_another_seed_gives_another_performance(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(1.0, [(0.2, 0.9)]))
    first, again, other = (list(_poses(kit, still, vocals, seed=seed).frames)[20] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_crop_has_the_asked_resolution_and_a_kept_one_is_even(kit: FaceKit, tmp_path: Path) -> None:
    rgb = read_still(PHOTOS / "01.jpg")
    odd = np.ascontiguousarray(cv2.resize(rgb, (301, 377), interpolation=cv2.INTER_AREA))
    vocals = write_pcm(tmp_path / "v.wav", vowels(0.2, []))
    for keep, size in ((True, (300, 376)), (False, (256, 256))):
        settings = RenderSettings(keep_resolution=keep, min_resolution=256)
        rendering = ClassicRenderer(kit).render(odd, vocals, settings)
        assert (rendering.width, rendering.height) == size
        assert next(rendering.frames).shape == (size[1], size[0], 3)


def _bad(tmp_path: Path, rgb: Rgb) -> tuple[Path, Path]:
    Image.fromarray(rgb).save(tmp_path / "s.png")
    return tmp_path / "s.png", write_pcm(tmp_path / "v.wav", vowels(0.2, []))


def test_a_still_without_a_face_is_refused(kit: FaceKit, tmp_path: Path) -> None:
    picture, vocals = _bad(tmp_path, np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(ImageError, match="No face"):
        portrait(picture, vocals, tmp_path / "o.mp4", kit=kit)
    assert not (tmp_path / "o.mp4").exists()


def test_a_tiny_face_is_refused_with_its_size(kit: FaceKit, tmp_path: Path) -> None:
    small = cv2.resize(read_still(PHOTOS / "01.jpg"), (96, 120), interpolation=cv2.INTER_AREA)
    with pytest.raises(ImageError, match=r"only \d+ px high"):
        portrait(*_bad(tmp_path, small), tmp_path / "o.mp4", kit=kit)


def test_a_profile_is_refused_with_advice(kit: FaceKit, tmp_path: Path) -> None:
    _, vocals = _bad(tmp_path, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="profile") as caught:
        portrait(PHOTOS / "12_profile.jpg", vocals, tmp_path / "o.mp4", kit=kit)
    assert "both eyes" in caught.value.hint


def test_of_two_faces_the_larger_sings_and_it_is_said(kit: FaceKit, tmp_path: Path) -> None:
    large, small = read_still(PHOTOS / "01.jpg")[::2, ::2], read_still(PHOTOS / "04.jpg")[::4, ::4]
    picture = np.full((large.shape[0], 800, 3), 128, np.uint8)
    picture[:, : large.shape[1]] = large
    picture[60 : 60 + small.shape[0], 530 : 530 + small.shape[1]] = small
    reporter = Silent()
    portrait(*_bad(tmp_path, picture), tmp_path / "o.mp4", kit=kit, reporter=reporter)
    assert any("2 faces" in note for note in reporter.notes)


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"s\.png cannot be read"):
        read_still(tmp_path / "s.png")
    with pytest.raises(ImageError, match="no picture at"):
        read_still(tmp_path / "missing.png")


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"dynamic_scale": 3.0}, {"min_resolution": 10}])
def test_values_out_of_range_are_named(kit: FaceKit, still: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        portrait(still, tmp_path / "v.wav", tmp_path / "o.mp4", kit=kit, **wrong)


class _Stops(Silent):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Canceled()

    def progress(self, fraction: float, text: str = "") -> None:
        self.check()


def test_a_canceled_portrait_leaves_no_video(kit: FaceKit, still: Path, tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", vowels(4.0, [(0.5, 3.5)]))
    with pytest.raises(Canceled):
        portrait(still, vocals, tmp_path / "o.mp4", kit=kit, reporter=_Stops(8))
    assert not (tmp_path / "o.mp4").exists()


def test_a_renderer_that_fails_leaves_no_video(tmp_path: Path) -> None:
    def frames() -> Any:
        yield np.zeros((64, 64, 3), np.uint8)
        raise ImageError("gone wrong")

    with pytest.raises(ImageError, match="gone wrong"):
        encode(Rendering(64, 64, 5, frames()), tmp_path / "o.mp4", fps=25)
    assert not (tmp_path / "o.mp4").exists()
