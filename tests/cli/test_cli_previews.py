"""Early looks at a video, from the command line: a picture that the newest takes, and a place that is checked first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vividcover.cli import build
from vividcover.cli.video import _watched
from vividcover.settings import settings


def test_the_newest_look_takes_the_last_ones_place_and_says_what_it_is(tmp_path: Path) -> None:
    picture = tmp_path / "look.png"
    session: Any = _watched(SimpleNamespace(on_preview=None), picture)
    for shade in (10, 200):
        session.on_preview(0.25, np.full((64, 96, 3), shade, np.uint8))
    with Image.open(picture) as look:
        assert look.size == (96, 64) and np.asarray(look).mean() == 200
        assert "trainedAlgorithmicMedia" in str(look.info)
    assert [path.name for path in tmp_path.iterdir()] == ["look.png"], "nothing half-written stays"


@pytest.mark.parametrize(
    ("place", "said"),
    [("look.mp4", "would hold .png data"), (".", "is a folder"), ("file/look.png", "May not write")],
)
def test_a_place_that_cannot_hold_it_is_said_before_the_work(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    (tmp_path / "file").write_text("no folder")
    words = ["portrait", "no.png", "no.wav", "--preview", str(tmp_path / place)]
    done = CliRunner().invoke(build(), words)
    assert done.exit_code != 0 and said in " ".join(done.stderr.split()), done.stderr
