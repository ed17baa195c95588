"""Stages: cached, atomic, resumable, and honest about it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vividcover.errors import Canceled, StorageError, VividCoverError
from vividcover.files import stamp
from vividcover.workspace import Event, Stage, StageResult, Workspace, publish, sha256_file

SLOW_STAGE = """
import sys, time
from pathlib import Path
from vividcover.workspace import Workspace

def compute(stage):
    (stage.folder / "begun.txt").write_text("half")
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    (stage.folder / "out.txt").write_text("whole")

with Workspace(Path(sys.argv[1])) as workspace:
    first = workspace.stage("first", version=1, inputs={}, params={}, compute=lambda s: None)
    done = workspace.stage("slow", version=1, inputs={}, params={}, compute=compute)
    print(first.hit, done.hit, done.path("out.txt").read_text())
"""


def make(workspace: Workspace, text: str = "x", name: str = "make", version: int = 1, **params: object) -> StageResult:
    def compute(stage: Stage) -> None:
        (stage.folder / "out.txt").write_text(text)
        stage.meta["made"] = text

    return workspace.stage(name, version=version, inputs={}, params=params, compute=compute)


def slow(root: Path, flag: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_STAGE, str(root), str(flag), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_work_is_done_once(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        first, second = make(workspace, a=1), make(workspace, "never computed", a=1)
    assert not first.hit and second.hit
    assert second.path("out.txt").read_text() == "x" and second.meta == {"made": "x"}


def test_other_parameters_inputs_or_code_are_other_work(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("1")
    with Workspace(tmp_path / "w") as workspace:
        keys = {
            workspace.key("n", 1, {}, {"a": 1}), workspace.key("n", 1, {}, {"a": 2}),
            workspace.key("n", 2, {}, {"a": 1}),
            workspace.key("m", 1, {}, {"a": 1}), workspace.key("n", 1, {"f": tmp_path / "in"}, {"a": 1}),
        }  # fmt: skip
        assert len(keys) == 5
        before = workspace.key("n", 1, {"f": tmp_path / "in"}, {})
        (tmp_path / "in").write_text("22")
        assert workspace.key("n", 1, {"f": tmp_path / "in"}, {}) != before


def test_the_name_of_an_input_file_does_not_matter_but_its_bytes_do(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("same")
    (tmp_path / "b.mp3").write_text("same")
    workspace = Workspace(tmp_path / "w")
    assert workspace.key("n", 1, {"f": tmp_path / "a.wav"}, {}) == workspace.key("n", 1, {"f": tmp_path / "b.mp3"}, {})


def test_a_stage_that_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fails(stage: Stage) -> None:
        (stage.folder / "half").write_text("half")
        raise VividCoverError("no", "try again")

    with Workspace(tmp_path) as workspace:
        with pytest.raises(VividCoverError, match="no try again"):
            workspace.stage("make", version=1, inputs={}, params={}, compute=fails)
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not make(workspace).hit


def test_a_run_killed_in_the_middle_continues_from_its_last_finished_stage(tmp_path: Path) -> None:
    child = slow(tmp_path / "w", tmp_path / "flag", 60)
    wait_for(tmp_path / "flag")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    again = slow(tmp_path / "w", tmp_path / "flag2", 0)
    assert again.communicate(timeout=30)[0].split() == ["True", "False", "whole"]
    with Workspace(tmp_path / "w") as workspace:
        workspace.prune(10**9)
        assert list((tmp_path / "w" / "tmp").iterdir()) == []  # the killed run's leftovers are swept
    names = [e["name"] for e in Workspace(tmp_path / "w").entries()]
    assert sorted(names) == ["first", "slow"]


def test_two_runs_of_the_same_stage_compute_it_once_and_agree(tmp_path: Path) -> None:
    one = slow(tmp_path / "w", tmp_path / "flag", 1.0)
    wait_for(tmp_path / "flag")
    two = slow(tmp_path / "w", tmp_path / "flag2", 1.0)
    said = [p.communicate(timeout=30)[0].split() for p in (one, two)]
    assert said == [["False", "False", "whole"], ["True", "True", "whole"]]
    assert not (tmp_path / "flag2").exists()  # the second never began it


def test_a_damaged_result_is_computed_again(tmp_path: Path) -> None:
    events: list[Event] = []
    with Workspace(tmp_path, on_event=events.append) as workspace:
        first = make(workspace)
        first.path("out.txt").write_text("truncated by somebody")
        again = make(workspace)
    assert not again.hit and again.path("out.txt").read_text() == "x"
    assert any("damaged" in e.text for e in events)


def test_cancel_stops_at_the_next_safe_point_and_keeps_finished_stages(tmp_path: Path) -> None:
    def endless(stage: Stage) -> None:
        while True:
            stage.progress(0.5, "working")
            time.sleep(0.01)

    with Workspace(tmp_path) as workspace:
        make(workspace)
        threading.Timer(0.1, workspace.cancel).start()
        began = time.monotonic()
        with pytest.raises(Canceled):
            workspace.stage("endless", version=1, inputs={}, params={}, compute=endless)
        assert time.monotonic() - began < 1.0
    with Workspace(tmp_path) as workspace:
        assert make(workspace).hit


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def full(stage: Stage) -> None:
        (stage.folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with Workspace(tmp_path) as workspace, pytest.raises(StorageError, match=r"disk is full.*MB free.*cache prune"):
        workspace.stage("make", version=1, inputs={}, params={}, compute=full)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_branches_run_side_by_side_and_a_failure_stops_the_other(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        meeting = threading.Barrier(2, timeout=10)
        assert workspace.parallel(lambda: meeting.wait() >= 0, lambda: meeting.wait() >= 0) == [True, True]

        def fails() -> None:
            raise VividCoverError("the first failure")

        def patient() -> None:
            for _ in range(1000):
                workspace.check()
                time.sleep(0.01)

        began = time.monotonic()
        with pytest.raises(VividCoverError, match="the first failure"):
            workspace.parallel(patient, fails)
        assert time.monotonic() - began < 2.0
        workspace.check()  # the workspace itself was not canceled


def test_progress_tells_the_whole_and_the_rest(tmp_path: Path) -> None:
    events: list[Event] = []
    with Workspace(tmp_path, on_event=events.append) as workspace:
        workspace.expect({"make": 10.0, "later": 30.0})
        make(workspace)
    assert [e.kind for e in events] == ["start", "done"]
    assert events[-1].overall == pytest.approx(0.25) and events[-1].overall_eta == pytest.approx(30.0)


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        for i in range(4):
            make(workspace, "x" * 1000, name=f"n{i}")
            os.utime(workspace.results[-1].folder / "stage.json", (i, i))
    with Workspace(tmp_path) as workspace:
        assert workspace.prune(2500) == 2000
        assert [e["name"] for e in workspace.entries()] == ["n2", "n3"]


def test_a_prune_never_takes_what_a_living_run_has_used(tmp_path: Path) -> None:
    with Workspace(tmp_path) as living:
        make(living, name="mine")
        with Workspace(tmp_path) as other:
            make(other, name="theirs")
        assert Workspace(tmp_path).prune(0) == 1
        assert [e["name"] for e in living.entries()] == ["mine"]
    assert Workspace(tmp_path).prune(0) == 1


def test_what_goes_while_the_cache_is_listed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run's portrait writes, renames and removes files all the time."""
    work = tmp_path / "portraits" / "theirs"
    work.mkdir(parents=True)
    (work / "latents.0").write_bytes(b"x" * 100)
    real = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((where, dirs, [*files, "gone"]) for where, dirs, files in real(top)))
    with Workspace(tmp_path) as workspace:
        assert [(e["name"], e["bytes"]) for e in workspace.entries()] == [("portrait as drawn", 100)]


def test_publish_replaces_in_one_step_and_names_a_folder_it_may_not_write(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target.bin"
    source.write_bytes(b"1" * 1000)
    assert sha256_file(publish(source, target)) == sha256_file(source)
    assert [p.name for p in target.parent.iterdir()] == ["target.bin"]
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"May not write x in .*file"):
        publish(source, tmp_path / "file" / "x")


def test_what_a_stage_records_is_readable(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        folder = make(workspace, a=1).folder
    record = json.loads((folder / "stage.json").read_text())
    assert record["name"] == "make" and record["params"] == {"a": 1} and set(record["files"]) == {"out.txt"}


def test_a_replaced_file_or_one_in_a_folder_changes_the_stamp(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    first = stamp(folder), stamp(folder / "config.json")
    assert first == (stamp(folder), stamp(folder / "config.json"))
    (folder / "config.json").write_text("{ }")
    assert stamp(folder) != first[0] and stamp(folder / "config.json") != first[1]
    (folder / "vae" / "weights").write_text("x")
    assert stamp(folder) not in (first[0], stamp(tmp_path / "nothing"))
