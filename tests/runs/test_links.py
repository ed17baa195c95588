"""A run's files under their own names, in a folder that goes with the run, also with one whose process was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vividcover.runs import links

HOLD = "from vividcover.runs import links; kept = links.folder(); print(kept.name, flush=True); input()"


def test_what_a_killed_child_leaves_is_swept_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-c", HOLD]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    theirs = Path(child.stdout.readline().strip())
    with links.folder() as own:
        links.sweep()
        assert theirs.is_dir() and Path(own).is_dir()
        child.kill()
        child.wait()
        links.sweep()
        assert not theirs.exists() and Path(own).is_dir()
    assert not Path(own).exists()
