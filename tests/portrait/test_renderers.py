"""Renderers: a folder is all that one more needs; what it makes is held to what it announced; progress is even."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vividcover import portrait
from vividcover.errors import Canceled, EngineError, NotFoundError, ParameterError
from vividcover.portrait import renderers
from vividcover.portrait.faces import FaceKit
from vividcover.portrait.render import Rendering, RenderSettings, encode, perform
from vividcover.portrait.renderers import About, Means
from vividcover.song.pcm import RATE, write_pcm
from vividcover.weights import Shelf
from vividcover.workspace import Reporter, Silent

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "adding-a-renderer.md"


def blocks_of_the_guide() -> list[str]:
    """Its Python: what is told of a renderer, how it draws, what long work looks like, how to try it."""
    return [block.split("```")[0] for block in GUIDE.read_text(encoding="utf-8").split("```python\n")[1:]]


ABOUT, DRAWING, _, TRIAL = blocks_of_the_guide()


@pytest.fixture
def glow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The guide's renderer, in a folder that Python finds beside the shipped renderers' ones."""
    folder = tmp_path / "more" / "glow"
    folder.mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("about.py", ABOUT), ("drawing.py", DRAWING)):
        (folder / name).write_text(text)
    monkeypatch.setattr(portrait, "__path__", [*portrait.__path__, str(folder.parent)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("vividcover.portrait.glow")]:
        del sys.modules[name]


def voice(path: Path) -> Path:
    """One second: silence, then a tone."""
    tone = np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE) * (np.arange(RATE) >= RATE // 2)
    return write_pcm(path, tone.astype(np.float32))


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


def test_the_guide_s_folder_is_one_more_renderer_and_its_trial_makes_a_video(
    glow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert renderers.about("glow").title == "The still gets lighter with the voice."
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "me.png")
    voice(tmp_path / "vocals.wav")
    monkeypatch.chdir(tmp_path)
    done: dict[str, Any] = {}
    exec(TRIAL, done)
    seen = lightness(tmp_path / "glow.mp4")
    assert len(seen) == 25
    assert np.mean(seen[14:]) > np.mean(seen[:11]) + 60
    assert done["report"] == {"most": 120.0}


def test_a_package_elsewhere_names_itself_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "vividcover_other-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: vividcover-other\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[vividcover.renderers]\nother = vividcover_other_about\n")
    (tmp_path / "vividcover_other_about.py").write_text(ABOUT.replace('"glow"', '"other"'))
    monkeypatch.syspath_prepend(tmp_path)
    assert renderers.about("other").options == {"most": "how much lighter, 0 to 255"}
    assert "other" in renderers.known()


def test_a_name_or_an_option_that_there_is_none_of_is_said_with_those_that_there_are(
    glow: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="classic, glow, sonic"):
        renderers.about("musetalk")
    means = Means(FaceKit(), Shelf(tmp_path), tmp_path, options={"moist": 1.0})
    with pytest.raises(ParameterError, match="Did you mean most"):
        renderers.open_renderer("glow", means)


def test_values_are_refused_before_anything_is_loaded() -> None:
    renderers.check("sonic", {"mode": "fast", "speedups": ("schedule",), "steps": 8})
    for wrong, said in (
        ({"steps": 0}, "steps is 0"),
        ({"mode": "slow"}, "'slow'"),
        ({"stpes": 3}, "Did you mean steps"),
    ):
        with pytest.raises(ParameterError, match=said):
            renderers.check("sonic", wrong)
    code = "import sys; from vividcover.portrait import renderers; renderers.check('sonic', {}); renderers.known(); "
    code += "assert not {'torch', 'cv2', 'av', 'diffusers'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_says_another_name_is_refused(glow: Path) -> None:
    (glow / "about.py").write_text(ABOUT.replace('"glow"', '"golw"'))
    with pytest.raises(EngineError, match="renderer called glow"):
        renderers.about("glow")


def test_a_renderer_whose_package_lacks_something_says_what(glow: Path) -> None:
    (glow / "about.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(EngineError, match="a_package_that_nobody_has"):
        renderers.about("glow")


def test_nobody_can_ignore_what_nobody_can_ask_for() -> None:
    with pytest.raises(ParameterError, match="ignores 'weather'"):
        About("x", "", "classic", ignores={"weather": "it is indoors"})


def test_nets_that_are_not_here_are_named_with_how_to_get_them(tmp_path: Path) -> None:
    assert "vividcover weights pull sonic-unet" in renderers.lacks("sonic", Shelf(tmp_path))


# --- the contract ----------------------------------------------------------------------------------------------------


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


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    """Noise, which the encoder has most to decide about; on processors with AVX-512 it decided by chance."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    videos = [tmp_path / f"{i}.mp4" for i in range(8)]
    for video in videos:
        encode(Rendering(320, 320, 36, iter(np.concatenate([picture] * 3))), video, fps=25)
    assert len({video.read_bytes() for video in videos}) == 1
