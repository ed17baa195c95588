"""Whatever stops a cover (kill -9 in any stage, Ctrl-C, a full disk), starting it again gives the same video."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vividcover import sdk
from vividcover.workspace import sha256_file

STAGES = {
    "song/decode", "image/still", "song/separate", "voice/convert", "song/vocals-alone", "song/mix", "portrait/render",
    "cover/join",
}  # fmt: skip
VIVIDCOVER = str(Path(sys.executable).with_name("vividcover"))
LIMITED = """
import resource, sys
from vividcover.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""


def command(clip: Path, output: Path) -> list[str]:
    return [
        "cover", str(clip), "--voice", "vivi", "--image", "vivi", "--prompt", "VIVI on stage performing",
        "--width", "256", "--height", "256", "--seed", "3", "-o", str(output),
    ]  # fmt: skip


def start(home: Path, words: list[str], program: list[str] | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"VIVIDCOVER_HOME": str(home)}
    return subprocess.Popen(
        [*(program or [VIVIDCOVER]), *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def until(process: subprocess.Popen[str], line: str) -> bool:
    """Reads what the process says until it says `line`; false if it ended without."""
    assert process.stderr is not None
    return any(line in said for said in process.stderr)


@pytest.fixture(scope="module")
def undisturbed(trained: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of the video that nothing stopped."""
    import shutil

    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(trained, folder / "home")
    made = sdk.make_cover(
        clip, voice="vivi", image="vivi", output=folder / "c.mp4", home=folder / "home", seed=3, width=256, height=256,
        prompt="VIVI on stage performing",
    )  # fmt: skip
    return sha256_file(made.path)


def test_killed_in_every_stage_in_turn_it_continues_and_gives_the_same_video(
    home: Path, clip: Path, tmp_path: Path, undisturbed: str
) -> None:
    output, killed = tmp_path / "cover.mp4", set()
    while killed != STAGES:
        process = start(home, command(clip, output))
        assert process.stderr is not None
        begun = (line.rsplit(" ", 2)[-2][:-1] for line in process.stderr if line.endswith(": start\n"))
        stage = next((s for s in begun if s in STAGES - killed), None)
        assert stage, f"it ended without reaching {STAGES - killed}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.add(stage)
        assert not output.exists()
    final = start(home, command(clip, output))
    said = final.communicate(timeout=120)[1]
    assert final.returncode == 0, said
    assert sha256_file(output) == undisturbed
    assert said.count("from cache") >= 4, said
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("stage", ["song/separate", "voice/convert", "portrait/render"])
def test_ctrl_c_ends_it_within_a_second_and_says_that_it_can_be_continued(
    home: Path, clip: Path, tmp_path: Path, stage: str
) -> None:
    process = start(home, command(clip, tmp_path / "cover.mp4"))
    assert until(process, f"{stage}: start")
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert time.monotonic() - began < 1.0
    assert process.returncode == 130 and "run it again to continue" in said
    assert not (tmp_path / "cover.mp4").exists() and not _children(process.pid)


def test_two_runs_of_the_same_cover_at_once_agree(home: Path, clip: Path, tmp_path: Path, undisturbed: str) -> None:
    runs = [start(home, command(clip, tmp_path / f"{i}.mp4")) for i in range(2)]
    said = [run.communicate(timeout=240)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sha256_file(tmp_path / "0.mp4") == sha256_file(tmp_path / "1.mp4") == undisturbed
    begun = sum(text.count("portrait/render: start") for text in said)
    assert begun == 1, said


def test_a_full_disk_is_said_and_the_run_can_be_continued(
    home: Path, clip: Path, tmp_path: Path, undisturbed: str
) -> None:
    output = tmp_path / "cover.mp4"
    full = start(home, ["200000", *command(clip, output)], [sys.executable, "-c", LIMITED])  # no file beyond 200 kB
    said = full.communicate(timeout=120)[1]
    assert full.returncode == 6 and "disk is full" in said and "finished stages are kept" in said, said
    assert not output.exists()
    again = start(home, command(clip, output))
    assert again.communicate(timeout=240) and again.returncode == 0
    assert sha256_file(output) == undisturbed


def test_a_folder_that_cannot_be_written_is_named(home: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    run = start(home, command(clip, tmp_path / "file" / "cover.mp4"))
    said = run.communicate(timeout=240)[1]
    assert run.returncode == 6 and str(tmp_path / "file") in said, said


def _children(pid: int) -> list[str]:
    """Living processes whose parent is, or was, `pid`'s program with our child module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            continue
        if "vividcover.processes" in line and parent == str(pid):
            found.append(line)
    return found
