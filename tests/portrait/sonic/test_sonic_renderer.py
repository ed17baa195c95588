"""A still and vocals through the whole neural renderer, with tiny networks: length, sizes, refusals, stops."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sonic_making import tiny_sonic_files
from vividcover.errors import AudioError, Canceled, ImageError, ParameterError, StorageError
from vividcover.portrait.faces import FaceKit, Rgb
from vividcover.portrait.render import Rendering, RenderSettings
from vividcover.portrait.renderers import Means, open_renderer
from vividcover.portrait.sonic.config import SonicOptions, options_of
from vividcover.portrait.sonic.files import sonic_files
from vividcover.portrait.sonic.opening import Sonic, open_sonic
from vividcover.portrait.sonic.renderer import SonicRenderer, portrait
from vividcover.song.pcm import RATE, PcmWriter, write_pcm
from vividcover.workspace import Silent

PHOTOS = Path(__file__).parents[3] / "sample" / "photos"
SIDE = 64  # px, what the tiny network draws
ONE_STEP = SonicOptions(steps=1, seed=3)


class Tiny:
    """A shelf of weights with the tiny Sonic on it."""

    def path(self, name: str) -> Path:
        return tiny_sonic_files()[name]

    def has(self, name: str) -> bool:
        return name in tiny_sonic_files()


@pytest.fixture(scope="module")
def sonic() -> Sonic:
    return open_sonic(sonic_files(Tiny()), device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def still() -> Rgb:
    """480 x 600 px."""
    return np.array(Image.open(PHOTOS / "01.jpg").convert("RGB").resize((480, 600)), np.uint8)


@pytest.fixture(scope="module")
def photo(still: Rgb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("still") / "still.png"
    Image.fromarray(still).save(path)
    return path


def vowel(seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    """Half a second of a tone, half a second of silence, and so on: [1, samples]."""
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 8)) * 0.15
    return np.asarray((tone * (time % 1.0 < 0.5))[None], np.float32)


def song(path: Path, seconds: float) -> Path:
    return write_pcm(path, vowel(seconds))


def frames_of(video: Path) -> NDArray[np.uint8]:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rendered(
    sonic: Sonic, kit: FaceKit, still: Rgb, vocals: Path, work: Path, options: SonicOptions = ONE_STEP, **settings: Any
) -> Rendering:
    asked = RenderSettings(**{"min_resolution": SIDE, "keep_resolution": False, "seed": options.seed} | settings)
    return SonicRenderer(sonic, kit, options, work).render(still, vocals, asked)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sung(
    sonic: Sonic, kit: FaceKit, photo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """1.3 s with three steps."""
    folder = tmp_path_factory.mktemp("sung")
    vocals, out = song(folder / "v.wav", 1.3), folder / "out.mp4"
    options = SonicOptions(steps=3, seed=5)
    return out, portrait(
        photo, vocals, out, sonic=sonic, kit=kit, work=folder / "work", options=options, min_resolution=SIDE
    )


def test_a_still_and_vocals_become_a_silent_video_that_is_as_long(sung: tuple[Path, dict[str, Any]]) -> None:
    with av.open(str(sung[0])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].average_rate == 25
    seen = frames_of(sung[0])
    assert seen.shape == (32, SIDE, SIDE, 3)
    assert min(np.abs(a.astype(int) - b).mean() for a, b in zip(seen[2:], seen)) > 0.5  # something moves


def test_the_report_tells_what_was_made_and_under_which_licence(sung: tuple[Path, dict[str, Any]]) -> None:
    report = sung[1]
    assert (report["width"], report["height"], report["fps"], report["frames"]) == (SIDE, SIDE, 25, 32)
    assert (report["seed"], report["steps"], report["network_frames"], report["windows"]) == (5, 3, 16, 1)
    assert (report["device"], report["dtype"]) == ("cpu", "float32")
    assert set(report["seconds"]) == {"looking", "listening", "sampling", "showing"}
    assert report["memory"]["process"] > 1e8
    assert report["licence"]["commercial"] is False
    assert "BY-NC-SA" in report["licence"]["name"]


@pytest.mark.parametrize(("seconds", "frames"), [(0.1, 2), (1.019, 25), (1.021, 26)])
def test_the_number_of_frames_is_exact(
    sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path, seconds: float, frames: int
) -> None:
    rendering = rendered(sonic, kit, still, song(tmp_path / "v.wav", seconds), tmp_path / "work")
    assert rendering.count == frames
    assert sum(1 for _ in rendering.frames) == frames


def test_the_video_is_as_large_as_the_network_s_picture_the_crop_or_the_still(
    sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path
) -> None:
    vocals, work = song(tmp_path / "v.wav", 0.2), tmp_path / "work"

    def shown(**settings: Any) -> Rgb:
        rendering = rendered(sonic, kit, still, vocals, work, **settings)
        frame = next(iter(rendering.frames))
        assert frame.shape == (rendering.height, rendering.width, 3)
        return frame

    assert shown().shape == (SIDE, SIDE, 3)
    crop = shown(keep_resolution=True)
    assert SIDE < crop.shape[0] == crop.shape[1] <= 480
    whole = shown(paste_back=True)
    assert whole.shape == still.shape
    changed = np.abs(whole.astype(int) - still).max(2) > 0
    assert np.flatnonzero(changed.any(1))[-1] < 599  # what is below the crop is the still's own
    assert 0.2 < changed.mean() < 0.9
    assert len(list(work.iterdir())) == 1  # sampled once for all three


def test_the_same_seed_gives_the_same_video_and_another_seed_another(
    sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path
) -> None:
    vocals = song(tmp_path / "v.wav", 0.5)
    first, again, other = (
        np.stack(list(rendered(sonic, kit, still, vocals, tmp_path / name, SonicOptions(steps=2, seed=seed)).frames))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seed_and_movement_are_those_of_the_settings(sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path) -> None:
    rendering = rendered(sonic, kit, still, song(tmp_path / "v.wav", 0.2), tmp_path / "w", seed=0, dynamic_scale=0.5)
    assert rendering.report["seed"] == 0
    assert rendering.report["options"]["dynamic_scale"] == 0.5


def test_the_list_of_renderers_opens_sonic_and_keeps_its_networks_for_the_next_portrait(
    kit: FaceKit, still: Rgb, tmp_path: Path
) -> None:
    loaded: dict[str, Any] = {}

    def opened(**options: Any) -> SonicRenderer:
        means = Means(kit, Tiny(), tmp_path / "work", "cpu", "fp32", 1, options, loaded=loaded)
        renderer = open_renderer("sonic", means)
        assert isinstance(renderer, SonicRenderer)
        return renderer

    renderer = opened(mode="exact", steps=2)
    rendering = renderer.render(still, song(tmp_path / "v.wav", 0.2), RenderSettings(min_resolution=SIDE))
    assert sum(1 for _ in rendering.frames) == 5
    assert opened(steps=3).sonic is renderer.sonic
    with pytest.raises(ParameterError, match="speed-up"):
        opened(mode="fast", speedups=("magic",))


def test_early_looks_come_when_they_are_asked_for(sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path) -> None:
    vocals, seen = song(tmp_path / "v.wav", 0.4), []
    for every in (0, 2):
        rendering = rendered(
            sonic, kit, still, vocals, tmp_path / str(every), SonicOptions(steps=4, preview_every=every)
        )
        rendering.prepare(Silent(), lambda fraction, rgb: seen.append((fraction, rgb.shape)))
        assert len(seen) == (2 if every else 0)
    assert 0 < seen[0][0] < seen[1][0] <= 1
    assert seen[0][1] == (SIDE, SIDE, 3)


def test_every_speedup_and_every_option_of_ours_makes_a_video(
    sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path
) -> None:
    vocals = song(tmp_path / "v.wav", 2.2)
    exact = np.stack(list(rendered(sonic, kit, still, vocals, tmp_path / "0").frames))
    more = {"straight": True, "smooth_decoding": True, "smooth_listening": True, "idle": True}
    for number, options in enumerate((options_of("fast", seed=3, steps=3), SonicOptions(steps=1, seed=3, **more)), 1):
        seen = np.stack(list(rendered(sonic, kit, still, vocals, tmp_path / str(number), options).frames))
        assert seen.shape == exact.shape
        assert not np.array_equal(seen, exact)


def test_progress_never_goes_back_and_reaches_the_end(sonic: Sonic, kit: FaceKit, photo: Path, tmp_path: Path) -> None:
    told: list[float] = []

    class Told(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            told.append(fraction)

    portrait(
        photo, song(tmp_path / "v.wav", 1.0), tmp_path / "o.mp4", sonic=sonic, kit=kit, work=tmp_path / "w",
        options=SonicOptions(steps=4), min_resolution=SIDE, reporter=Told(),
    )  # fmt: skip
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert any(0.1 < fraction < 0.9 for fraction in told)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unused() -> Any:
    """In place of Sonic: nothing may be asked of it, since what is refused is refused before any network works."""
    return None


def test_a_still_without_a_face_is_refused_before_any_network_is_loaded(
    unused: Any, kit: FaceKit, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="No face"):
        rendered(unused, kit, np.full((200, 200, 3), 128, np.uint8), song(tmp_path / "v.wav", 0.5), tmp_path)


def test_of_two_faces_the_larger_one_sings_and_that_is_said(
    sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path
) -> None:
    small = np.array(Image.fromarray(still).resize((240, 300)), np.uint8)
    pair = np.full((600, 720, 3), 60, np.uint8)
    pair[:, :480], pair[150:450, 480:] = still, small
    rendering = rendered(sonic, kit, pair, song(tmp_path / "v.wav", 0.2), tmp_path / "work")
    assert any("2 faces" in note and "largest" in note for note in rendering.report["notes"])
    assert rendering.report["crop"][2] <= 560
    assert sum(1 for _ in rendering.frames) == 5


def test_sound_of_less_than_a_frame_is_refused(unused: Any, kit: FaceKit, still: Rgb, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"only 0\.05 s long"):
        rendered(unused, kit, still, song(tmp_path / "v.wav", 0.05), tmp_path)


def test_another_frame_rate_is_refused(unused: Any, kit: FaceKit, still: Rgb, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="25 frames a second"):
        rendered(unused, kit, still, song(tmp_path / "v.wav", 0.5), tmp_path, fps=30)


def test_seven_minutes_are_sung_to_the_end(sonic: Sonic, kit: FaceKit, still: Rgb, tmp_path: Path) -> None:
    """The published program stops at 400 s. Rests are not computed here, or 210 windows would take a minute."""
    with PcmWriter(tmp_path / "v.wav", 16_000, 1) as out:
        out.write(vowel(2.0, 16_000))
        for _ in range(416):
            out.write(np.zeros((1, 16_000), np.float32))
        out.write(vowel(2.0, 16_000))
    options = options_of("fast", speedups=("silence",), steps=1)
    rendering = rendered(sonic, kit, still, tmp_path / "v.wav", tmp_path / "work", options)
    assert rendering.count == 10_500
    rendering.prepare(Silent(), None)
    assert (rendering.report["network_frames"], rendering.report["windows"]) == (5250, 210)
    first = next(iter(rendering.frames))
    assert first.shape == (SIDE, SIDE, 3)


# --- stopping ---------------------------------------------------------------------------------------------------------


class Stopping(Silent):
    """Is canceled as soon as `when` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.when = threading.Event()

    def progress(self, fraction: float, text: str = "") -> None:
        self.check()

    def check(self) -> None:
        if self.when.is_set():
            raise Canceled


@pytest.fixture
def slow(sonic: Sonic, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Stopping], list[float]]]:
    """Has a part of Sonic take ten seconds for each call, and cancels 0.2 s after the first one began."""
    handles: list[Any] = []

    def begin(part: str, stopping: Stopping) -> list[float]:
        began: list[float] = []

        def wait(*_: Any) -> None:
            if not began:
                began.append(time.monotonic() + 0.2)
                threading.Timer(0.2, stopping.when.set).start()
            end = time.monotonic() + 10
            while time.monotonic() < end and not done.is_set():
                time.sleep(0.01)

        if part == "clip":
            sonic.clip(np.zeros((SIDE, SIDE, 3), np.uint8))
        net = sonic._parts["clip"] if part == "clip" else getattr(sonic, part)
        handles.append((net.decoder.conv_in if part == "vae" else net).register_forward_pre_hook(wait))
        return began

    done = threading.Event()
    yield begin
    done.set()
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("part", ["clip", "whisper", "tokens", "buckets", "unet", "vae", "rife"])
def test_a_cancel_is_answered_within_a_second_whatever_is_at_work(
    sonic: Sonic, kit: FaceKit, photo: Path, tmp_path: Path, slow: Callable[[str, Stopping], list[float]], part: str
) -> None:
    stopping = Stopping()
    began = slow(part, stopping)
    with pytest.raises(Canceled):
        portrait(
            photo, song(tmp_path / "v.wav", 1.0), tmp_path / "o.mp4", sonic=sonic, kit=kit, work=tmp_path / "work",
            options=ONE_STEP, min_resolution=SIDE, reporter=stopping,
        )  # fmt: skip
    assert time.monotonic() - began[0] < 3.0  # a second, and a busy machine's patience
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("part", ["clip", "unet"])
def test_a_cancel_is_answered_within_a_second_while_a_network_is_read(
    kit: FaceKit, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    sonic, stopping = open_sonic(sonic_files(Tiny()), device="cpu", dtype="fp32"), Stopping()
    began: list[float] = []

    def slow(name: str, load: Callable[[], Any]) -> Any:
        if name == part and not began:
            began.append(time.monotonic())
            stopping.when.set()
            time.sleep(6)
        return read(name, load)

    read = sonic._part
    monkeypatch.setattr(sonic, "_part", slow)
    with pytest.raises(Canceled):
        portrait(
            photo, song(tmp_path / "v.wav", 0.4), tmp_path / "o.mp4", sonic=sonic, kit=kit, work=tmp_path / "work",
            options=ONE_STEP, min_resolution=SIDE, reporter=stopping,
        )  # fmt: skip
    assert time.monotonic() - began[0] < 3.0  # a second, and a busy machine's patience


def test_a_disk_that_fills_up_is_said_and_no_half_video_is_left(
    sonic: Sonic, kit: FaceKit, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vividcover.portrait.render._write", full)
    with pytest.raises(StorageError, match="No space left"):
        portrait(
            photo, song(tmp_path / "v.wav", 0.4), tmp_path / "o.mp4", sonic=sonic, kit=kit, work=tmp_path / "work",
            options=ONE_STEP, min_resolution=SIDE,
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.wav", "work"]
