"""A renderer that ships elsewhere serves `zsxkib/sonic` like those that ship here, in either engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vividcover import portrait, sdk
from vividcover.song.pcm import RATE, write_pcm

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide" / "adding-a-renderer.md").read_text(encoding="utf-8")
STILL = ROOT / "sample" / "photos" / "01.jpg"


@pytest.fixture
def glow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The guide's renderer, in a folder that Python finds beside the shipped ones'."""
    about, drawing = (block.split("```")[0] for block in GUIDE.split("```python\n")[1:3])
    folder = tmp_path / "more" / "glow"
    folder.mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("about.py", about), ("drawing.py", drawing)):
        (folder / name).write_text(text)
    monkeypatch.setattr(portrait, "__path__", [*portrait.__path__, str(folder.parent)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("vividcover.portrait.glow")]:
        del sys.modules[name]


@pytest.mark.parametrize("engine", ["neural", "classic"])
def test_the_guide_s_renderer_makes_a_portrait_with_sound(glow: Path, tmp_path: Path, engine: str) -> None:
    about = glow / "about.py"
    about.write_text(about.read_text().replace('engine="neural"', f'engine="{engine}"'))
    voice = write_pcm(tmp_path / "voice.wav", 0.3 * np.sin(np.arange(RATE) / 20)[None].astype(np.float32))
    heard: list[Any] = []
    made = sdk.make_portrait(
        STILL, voice, output=tmp_path / "glow.mp4", renderer="glow", inference_steps=8, on_event=heard.append
    )
    with av.open(str(tmp_path / "glow.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 25
    assert made.record["engine"] == engine
    assert made.record["details"]["portrait"]["most"] == 100.0
    notes = " ".join(event.text for event in heard if event.kind == "note")
    assert "glow: Apache-2.0; commercial use allowed" in notes
    assert "inference_steps" in notes
