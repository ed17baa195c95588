"""Finished stages survive their machine: a worker with another data folder goes on from the last of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from run_making import add, finished, kill, opened, row, stage_rows, told, until, worker
from vividcover.errors import StorageError
from vividcover.runs.shared import SharedStages, of
from vividcover.runs.sweep import sweep
from vividcover.settings import Settings, settings
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database
from vividcover.store.tables import runs, shared_stages
from vividcover.workspace import Event, Stage, StageResult, Workspace

PIECES, SECONDS = 4, 0.4  # stages of a run, and how long each takes
INPUT = {"repeat": PIECES, "seconds": SECONDS}


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """Beside the data folders, as on a disk that machines share."""
    monkeypatch.setenv("VIVIDCOVER_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("VIVIDCOVER_SHARE_STAGES", "true")
    settings.cache_clear()
    return Artifacts.of(settings())


def blobs(artifacts: Artifacts) -> list[Path]:
    return sorted(artifacts.root.glob("blobs/*/*"))


def shared(database: Database) -> list[str]:
    with database.read() as db:
        return list(db.execute(sa.select(shared_stages.c.key)).scalars())


def compute(stage: Stage) -> None:
    (stage.folder / "voice.wav").write_bytes(b"sung" * 1000)
    (stage.folder / "empty").touch()
    stage.meta["gain"] = 0.5


def made(workspace: Workspace, way: Callable[[Stage], None] = compute) -> StageResult:
    return workspace.stage("song/sing", version=1, inputs={}, params={}, compute=way)


def never(_: Stage) -> None:
    raise AssertionError("it was there")


def test_a_worker_on_another_machine_goes_on_after_the_last_finished_stage(
    database: Database, artifacts: Artifacts, tmp_path: Path
) -> None:
    with worker(VIVIDCOVER_HOME=str(tmp_path / "one")) as first:
        run_id = add(database, input=INPUT)
        until(lambda: len(stage_rows(database, run_id)) >= 2 and len(shared(database)) >= 2)
        kill(first.pid)
    before = stage_rows(database, run_id)
    assert row(database, run_id)["status"] == "processing" and 2 <= len(before) < PIECES
    with worker(VIVIDCOVER_HOME=str(tmp_path / "two")):
        until(lambda: "Taken up again; finished stages are kept.\n" in told(database, run_id))
        assert row(database, run_id)["status"] == "processing", "it is told as it happens, not at the end"
        over = finished(database, run_id, 60)
    assert over["status"] == "succeeded" and len(over["output"]["items"]) == PIECES
    after = stage_rows(database, run_id)
    assert after[: len(before)] == before and len(after) == PIECES, "no stage was done twice"
    assert told(database, run_id).count("hello/piece: from the cache\n") >= len(before)
    assert {one["fence"] for one in after[len(before) :]} == {over["fence"] - 1}


def test_without_a_shared_store_nothing_is_written_beside_the_cache(tmp_path: Path) -> None:
    with opened(settings().database_url) as database, worker():
        assert finished(database, add(database, input=INPUT | {"seconds": 0.1}))["status"] == "succeeded"
        assert shared(database) == [] and blobs(Artifacts.of(settings())) == []


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({}, False),
        ({"artifacts": "/mnt/artifacts"}, False),
        ({"artifacts": "s3://bucket/prefix"}, True),
        ({"database": "postgresql://db/vividcover"}, True),
        ({"database": "postgresql://db/vividcover", "share_stages": False}, False),
        ({"share_stages": True}, True),
    ],
)
def test_stages_are_shared_where_several_machines_are_likely_or_when_asked(given: dict[str, str], shares: bool) -> None:
    assert Settings(**given).shares_stages is shares
    assert (of(Settings(**given), Artifacts("unused")) is not None) is shares


def test_a_stage_comes_whole_with_what_it_remembers_and_takes_no_second_place_on_the_disk(
    database: Database, artifacts: Artifacts, tmp_path: Path
) -> None:
    store = SharedStages(database.url, artifacts)
    here = Workspace(tmp_path / "one", shared=store)
    first = made(here)
    until(lambda: shared(database) == [first.key])
    there = Workspace(tmp_path / "two", shared=SharedStages(database.url, artifacts))
    again = made(there, never)
    assert (again.hit, again.meta, again.files, again.seconds) == (
        True, {"gain": 0.5}, first.files, pytest.approx(first.seconds, abs=0.001)
    )  # fmt: skip
    assert again.path("voice.wav").read_bytes() == b"sung" * 1000 and again.path("empty").read_bytes() == b""
    assert again.folder.is_relative_to(tmp_path / "two")
    assert first.path("voice.wav").samefile(again.path("voice.wav"))
    assert made(there, never).hit, "the next time it is in its own cache"


def test_a_stage_that_has_gone_from_the_shared_store_is_made_again_and_shared_again(
    database: Database, artifacts: Artifacts, tmp_path: Path
) -> None:
    first = made(Workspace(tmp_path / "one", shared=SharedStages(database.url, artifacts)))
    until(lambda: shared(database) == [first.key])
    for blob in blobs(artifacts):
        blob.unlink()
    again = made(Workspace(tmp_path / "two", shared=SharedStages(database.url, artifacts)))
    assert not again.hit and again.files == first.files
    with database.write() as db:
        db.execute(sa.delete(shared_stages))
    third = made(Workspace(tmp_path / "two", shared=SharedStages(database.url, artifacts)), never)
    assert third.hit, "from the second machine's own cache, which offers it"
    until(lambda: shared(database) == [first.key] and len(blobs(artifacts)) == 2)


def test_a_damaged_one_is_made_again(database: Database, artifacts: Artifacts, tmp_path: Path) -> None:
    first = made(Workspace(tmp_path / "one", shared=SharedStages(database.url, artifacts)))
    until(lambda: shared(database) == [first.key])
    for blob in blobs(artifacts):
        blob.write_bytes(b"x")
    again = made(Workspace(tmp_path / "two", shared=SharedStages(database.url, artifacts)))
    assert not again.hit and again.path("voice.wav").read_bytes() == b"sung" * 1000


def test_a_store_that_cannot_be_asked_costs_a_notice_and_the_work(tmp_path: Path) -> None:
    class Away:
        def get(self, key: str, folder: Path) -> bool:
            raise StorageError("The bucket is away.", "Wait.")

        def put(self, key: str, folder: Path) -> None: ...

    said: list[Event] = []
    assert not made(Workspace(tmp_path, said.append, shared=Away())).hit
    assert any(one.kind == "note" and "The bucket is away." in one.text for one in said)
    assert not list((tmp_path / "tmp").iterdir())


def test_shared_stages_go_when_their_time_is_over_unless_an_open_run_needs_them(
    database: Database, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_STAGE_KEEP_SECONDS", "0")
    with worker(VIVIDCOVER_HOME=str(tmp_path / "one")) as process:
        run_id = add(database, input=INPUT)
        until(lambda: len(stage_rows(database, run_id)) >= 1 and len(shared(database)) >= 1)
        kill(process.pid)
    needed = {stage["key"] for stage in stage_rows(database, run_id)}
    loose = made(Workspace(tmp_path / "two", shared=SharedStages(database.url, artifacts)))
    until(lambda: loose.key in shared(database))
    for blob in blobs(artifacts):
        os.utime(blob, (0, 0))
    kept = len(blobs(artifacts)) - 2
    settings.cache_clear()
    assert sweep(database, artifacts) == (0, 2), "the files of the stage that no open run has"
    assert needed & set(shared(database)) and loose.key not in shared(database) and len(blobs(artifacts)) == kept
    with database.write() as db:
        db.execute(sa.update(runs).values(status="canceled"))
    sweep(database, artifacts)
    assert shared(database) == [] and blobs(artifacts) == []
    assert loose.path("voice.wav").read_bytes() == b"sung" * 1000, "the cache has its own name for the file"
