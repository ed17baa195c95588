"""Renderers: a folder is all that one more needs; what it makes is held to what it announced; progress is even."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vividcover import portrait
from vividcover.errors import Canceled, EngineError, NotFoundError, ParameterError
from vividcover.portrait import renderers
from vividcover.portrait.faces import FaceKit
from vividcover.portrait.render import Rendering, RenderSettings, encode, perform
from vividcover.portrait.renderers import About, Means
from vividcover.song.pcm import RATE, write_pcm
from vividcover.weights import Shelf
from vividcover.workspace import Reporter, Silent

TOY = """
from vividcover.portrait.renderers import About

ABOUT = About(
    "toy", "The still gets lighter with the voice.", "classic", licence="Apache-2.0", commercial=True,
    options={"glow": "how much lighter"}, ignores={"beat": "it hears none"},
)

def open_renderer(means):
    from vividcover_toy_drawing import Toy
    return Toy(**means.options)
"""
DRAWING = """
import numpy as np
from vividcover.portrait.render import Rendering
from vividcover.song.pcm import PcmReader

class Toy:
    def __init__(self, glow=100.0):
        self.glow = glow

    def render(self, still, vocals, settings, *, beat=None, reporter=None):
        with PcmReader(vocals) as sound:
            count, samples, rate = round(sound.seconds * settings.fps), sound.all(), sound.rate

        def frames():
            for i in range(count):
                piece = samples[:, i * rate // settings.fps : (i + 1) * rate // settings.fps]
                yield (still + self.glow * np.abs(piece).max()).clip(0, 255).astype(np.uint8)

        return Rendering(still.shape[1], still.shape[0], count, frames(), {"glow": self.glow})
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder `toy` that Python finds beside the shipped renderers' ones."""
    folder = tmp_path / "more" / "toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "about.py").write_text(TOY)
    (tmp_path / "vividcover_toy_drawing.py").write_text(DRAWING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(portrait, "__path__", [*portrait.__path__, str(folder.parent)])
    yield folder
    for name in [name for name in sys.modules if name.startswith(("vividcover.portrait.toy", "vividcover_toy"))]:
        del sys.modules[name]


def means(tmp_path: Path, **options: Any) -> Means:
    return Means(FaceKit(), Shelf(tmp_path / "weights"), tmp_path / "work", options=options)


def voice(tmp_path: Path) -> Path:
    """One second: silence, then a tone."""
    tone = np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE) * (np.arange(RATE) >= RATE // 2)
    return write_pcm(tmp_path / "voice.wav", tone.astype(np.float32))


def lightness(video: Path) -> list[float]:
    with av.open(str(video)) as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def test_the_renderers_that_ship_are_found_by_their_folders() -> None:
    known = renderers.known()
    assert {"classic", "sonic"} <= set(known)
    assert known["classic"].commercial
    assert known["classic"].engine == "classic"
    assert not known["sonic"].commercial
    assert known["sonic"].engine == "neural"
    assert "sonic-unet" in known["sonic"].nets


def test_one_more_folder_is_one_more_renderer_and_makes_a_video(toy: Path, tmp_path: Path) -> None:
    assert renderers.about("toy").title == "The still gets lighter with the voice."
    renderer = renderers.open_renderer("toy", means(tmp_path, glow=60.0))
    still = np.full((32, 48, 3), 90, np.uint8)
    report = perform(renderer, still, voice(tmp_path), tmp_path / "toy.mp4", RenderSettings())
    seen = lightness(tmp_path / "toy.mp4")
    assert len(seen) == 25
    assert np.mean(seen[14:]) > np.mean(seen[:11]) + 30
    assert report == {"glow": 60.0}


def test_a_package_elsewhere_names_itself_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "vividcover_other-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: vividcover-other\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[vividcover.renderers]\nother = vividcover_other_about\n")
    (tmp_path / "vividcover_other_about.py").write_text(TOY.replace('"toy"', '"other"'))
    monkeypatch.syspath_prepend(tmp_path)
    assert renderers.about("other").options == {"glow": "how much lighter"}
    assert "other" in renderers.known()


def test_a_name_or_an_option_that_there_is_none_of_is_said_with_those_that_there_are(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="classic, sonic, toy"):
        renderers.about("musetalk")
    with pytest.raises(ParameterError, match="Did you mean glow"):
        renderers.open_renderer("toy", means(tmp_path, glwo=1.0))


def test_a_folder_that_says_another_name_is_refused(toy: Path) -> None:
    (toy / "about.py").write_text(TOY.replace('"toy"', '"tyo"'))
    with pytest.raises(EngineError, match="renderer called toy"):
        renderers.about("toy")


def test_a_renderer_whose_package_lacks_something_says_what(toy: Path) -> None:
    (toy / "about.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(EngineError, match="a_package_that_nobody_has"):
        renderers.about("toy")


def test_nobody_can_ignore_what_nobody_can_ask_for() -> None:
    with pytest.raises(ParameterError, match="ignores 'weather'"):
        About("x", "", "classic", ignores={"weather": "it is indoors"})


def test_nets_that_are_not_here_are_named_with_how_to_get_them(tmp_path: Path) -> None:
    assert "vividcover weights pull sonic-unet" in renderers.lacks("sonic", Shelf(tmp_path))


# --- the contract ------------------------------------------------------------------------------------------------------


class Told(Silent):
    """Keeps what it is told; stops from a fraction on."""

    def __init__(self, stop_at: float = 2.0) -> None:
        super().__init__()
        self.fractions: list[float] = []
        self.stop_at = stop_at

    def progress(self, fraction: float, text: str = "") -> None:
        self.fractions.append(fraction)
        if fraction >= self.stop_at:
            raise Canceled


def rendering(count: int, made: int, side: int = 16, ahead: float = 0.0, **more: Any) -> Rendering:
    frames = (np.full((side, side, 3), i, np.uint8) for i in range(made))
    return Rendering(16, 16, count, frames, ahead=ahead, **more)


def test_work_before_the_first_frame_has_its_share_of_the_progress(tmp_path: Path) -> None:
    told = Told()

    def prepare(reporter: Reporter, on_preview: Any) -> None:
        for i in range(11):
            reporter.progress(i / 10)
        on_preview(0.5, np.zeros((16, 16, 3), np.uint8))

    seen: list[float] = []
    encode(
        rendering(20, 20, ahead=0.8, prepare=prepare), tmp_path / "o.mp4", fps=25, reporter=told,
        on_preview=lambda fraction, rgb: seen.append(fraction),
    )  # fmt: skip
    assert told.fractions == sorted(told.fractions)
    assert told.fractions[:11] == pytest.approx([0.08 * i for i in range(11)])
    assert told.fractions[11:] == pytest.approx([0.85, 0.9, 0.95, 1.0])
    assert seen == [0.5]


@pytest.mark.parametrize("made", [3, 7])
def test_a_renderer_that_makes_more_or_fewer_frames_than_announced_is_caught(tmp_path: Path, made: int) -> None:
    with pytest.raises(EngineError, match=f"made {made} frames.*announced 5"):
        encode(rendering(5, made), tmp_path / "o.mp4", fps=25)
    assert not (tmp_path / "o.mp4").exists()


def test_frames_of_another_size_are_caught(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"\[18, 18, 3\].*16x16"):
        encode(rendering(5, 5, side=18), tmp_path / "o.mp4", fps=25)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_canceled_leaves_nothing_and_lets_go_of_the_renderer(tmp_path: Path) -> None:
    closed: list[float] = []

    def frames() -> Iterator[Any]:
        try:
            for _ in range(1000):
                yield np.zeros((16, 16, 3), np.uint8)
        finally:
            closed.append(time.monotonic())

    class Endless:
        def render(self, *_: Any, **__: Any) -> Rendering:
            return Rendering(16, 16, 1000, frames())

    with pytest.raises(Canceled):
        perform(
            Endless(), np.zeros((16, 16, 3), np.uint8), tmp_path, tmp_path / "o.mp4", RenderSettings(),
            reporter=Told(0.1),
        )  # fmt: skip
    assert closed
    assert list(tmp_path.iterdir()) == []
