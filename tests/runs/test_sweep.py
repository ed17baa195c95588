"""Files go when their time is over, and never while somebody needs them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from run_making import add, row, told
from vividcover.runs import leases
from vividcover.runs.sweep import sweep
from vividcover.settings import settings
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database, now
from vividcover.store.tables import files, models, versions


@pytest.fixture
def artifacts() -> Artifacts:
    return Artifacts.of(settings())


def put(artifacts: Artifacts, words: str) -> str:
    """An artifact that was put long ago."""
    with artifacts.put_stream() as writer:
        writer.write(words.encode())
        sha = writer.commit().sha256
    os.utime(artifacts.path(sha), (0, 0))
    return sha


def a_file(database: Database, sha: str, keep: float | None) -> None:
    with database.write() as db:
        db.execute(
            sa.insert(files).values(
                id=f"{sha[:20]}{keep or 0:.0f}"[:26], account_id="alice", sha256=sha, md5="", name="f",
                content_type="text/plain", bytes=1, metadata={}, created_at=now(),
                expires_at=None if keep is None else now() + keep,
            )
        )  # fmt: skip


def test_expired_files_go_and_their_artifacts_with_them(database: Database, artifacts: Artifacts) -> None:
    gone, kept, shared = (put(artifacts, words) for words in ("gone", "kept", "shared"))
    a_file(database, gone, -1)
    a_file(database, kept, None)
    a_file(database, shared, -1)
    a_file(database, shared, 100)  # the same bytes, in another file that has not expired
    assert sweep(database, artifacts) == (2, 1)
    assert [artifacts.exists(sha) for sha in (gone, kept, shared)] == [False, True, True]
    assert sweep(database, artifacts) == (0, 0)


def test_a_run_whose_outputs_expired_says_so(database: Database, artifacts: Artifacts) -> None:
    run_id = add(database)
    claim = leases.claim_one(database, "w")
    assert claim is not None
    made = {"sha256": put(artifacts, "made"), "md5": "", "bytes": 4, "name": "out.txt"}
    with database.write() as db:
        leases.say(db, claim, [("preview", "a look at it"), ("log", "done\n")])
        leases.finish(db, claim, leases.Outcome("succeeded", files=[made]), keep_seconds=0.01)
    time.sleep(0.02)
    assert sweep(database, artifacts) == (1, 1)
    assert (told(database, run_id, "preview"), told(database, run_id)) == ([], ["done\n"])
    assert row(database, run_id)["data_removed"] and row(database, run_id)["status"] == "succeeded"


def test_what_an_open_run_or_a_version_needs_stays(database: Database, artifacts: Artifacts) -> None:
    asked, weights, trained = (put(artifacts, words) for words in ("input", "weights", "trained"))
    add(database, files={"link": {"sha256": asked, "name": "song.mp3"}}, weights=weights)
    with database.write() as db:
        db.execute(
            sa.insert(models).values(
                id="m", owner="alice", name="vivi", visibility="private", run_count=0, created_at=now()
            )
        )
        db.execute(
            sa.insert(versions).values(
                id="v", model_id="m", number=1, serves="vividcover/flux-lora", weights=trained, created_at=now()
            )
        )
    assert sweep(database, artifacts) == (0, 0)
    assert all(artifacts.exists(sha) for sha in (asked, weights, trained))


def test_what_was_put_a_moment_ago_may_get_its_row_yet(database: Database, tmp_path: Path) -> None:
    artifacts, source = Artifacts.of(settings()), tmp_path / "fresh"
    source.write_text("fresh")
    sha = artifacts.put_file(source)
    assert sweep(database, artifacts) == (0, 0) and artifacts.exists(sha)
