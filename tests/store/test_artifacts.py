"""Artifacts: whole or not there, the same in a folder and in a bucket."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vividcover.errors import NotFoundError, ParameterError, StorageError
from vividcover.store.artifacts import Artifacts

DATA = b"one artifact, " * 40_000  # 560 kB: several chunks
SHA = hashlib.sha256(DATA).hexdigest()
Make = Callable[[str], Artifacts]


@pytest.fixture(params=["folder", "bucket"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """`make(cache)`: a store; with another name, another machine's view of the same one."""
    if request.param == "folder":
        return lambda cache: Artifacts(tmp_path / "artifacts")
    url = request.getfixturevalue("bucket")
    return lambda cache: Artifacts(url, tmp_path / cache)


def everything(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_put_is_found_under_its_hash(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(DATA)
    blob = make("here").keep(source)
    assert (blob.sha256, blob.md5, blob.bytes) == (SHA, hashlib.md5(DATA).hexdigest(), len(DATA))
    elsewhere = make("another machine")
    assert elsewhere.exists(SHA) and elsewhere.size(SHA) == len(DATA)
    assert elsewhere.path(SHA).read_bytes() == DATA
    assert make("here").put_file(source) == SHA, "a second time is no mistake"


def test_a_file_whose_hash_is_known_is_taken_in_without_a_copy_of_it_here(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(DATA)
    for _ in range(2):
        make("here").adopt(source, SHA)
        assert make("another machine").path(SHA).read_bytes() == DATA
    here = [path.stat().st_ino for path in (tmp_path / "here", tmp_path / "artifacts") for path in everything(path)]
    assert set(here) <= {source.stat().st_ino} and not list(tmp_path.glob("*/tmp/*"))
    source.unlink()
    assert make("a third").path(SHA).read_bytes() == DATA
    with pytest.raises(FileNotFoundError):
        make("here").adopt(source, "f" * 64)


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 1), (5, 300_000), (559_999, None), (7, 7)])
def test_any_range_can_be_read(make: Make, start: int, end: int | None) -> None:
    with make("here").put_stream() as writer:
        writer.write(DATA)
        writer.commit()
    assert b"".join(make("another machine").open(SHA, start, end)) == DATA[start:end]


def test_a_write_that_is_given_up_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    artifacts = make("here")
    with pytest.raises(RuntimeError), artifacts.put_stream() as writer:
        writer.write(DATA)
        raise RuntimeError("the client hung up")
    with artifacts.put_stream() as writer:
        writer.write(DATA)
    assert not artifacts.exists(SHA)
    assert everything(tmp_path) == []


def test_what_is_not_there_is_an_error_that_says_so(make: Make) -> None:
    artifacts = make("here")
    for ask in (artifacts.path, artifacts.open, artifacts.size):
        with pytest.raises(NotFoundError, match=f"no artifact {SHA}"):
            ask(SHA)
    assert not artifacts.exists(SHA)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "/" + "a" * 63])
def test_only_a_hash_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="is not the name of an artifact"):
        Artifacts(tmp_path).path(name)


def test_a_sweep_takes_what_is_dead_and_old_and_nothing_else(make: Make) -> None:
    artifacts = make("here")
    kept = {}
    for name in ("live", "dead"):
        with artifacts.put_stream() as writer:
            writer.write(name.encode())
            kept[name] = writer.commit().sha256
    assert artifacts.sweep(set(), older_than=3600) == 0, "what is young may get its row in a moment"
    assert artifacts.sweep({kept["live"]}, older_than=-1) >= 1
    assert make("another machine").exists(kept["live"])
    assert not make("another machine").exists(kept["dead"])


def test_putting_again_makes_young_again(tmp_path: Path) -> None:
    artifacts, source = Artifacts(tmp_path / "a"), tmp_path / "source"
    source.write_bytes(DATA)
    place = artifacts.path(artifacts.put_file(source))
    os.utime(place, (0, 0))
    artifacts.put_file(source)
    assert artifacts.sweep(set(), older_than=3600) == 0
    os.utime(place, (0, 0))
    assert artifacts.sweep(set(), older_than=3600) == 1


@pytest.mark.parametrize("make", ["bucket"], indirect=True)
def test_a_local_copy_of_a_bucket_goes_when_nobody_has_asked_for_it_for_a_day(make: Make) -> None:
    artifacts = make("here")
    with artifacts.put_stream() as writer:
        writer.write(DATA)
        writer.commit()
    copy = artifacts.path(SHA)
    os.utime(copy, (time.time() - 7200,) * 2)
    artifacts.sweep({SHA}, older_than=3600)
    assert copy.exists()
    os.utime(copy, (0, 0))
    artifacts.path(SHA)
    artifacts.sweep({SHA}, older_than=3600)
    assert copy.exists(), "it was asked for a moment ago"
    os.utime(copy, (0, 0))
    artifacts.sweep({SHA}, older_than=3600)
    assert not copy.exists() and artifacts.path(SHA).read_bytes() == DATA


def test_leftovers_of_killed_writers_are_swept_after_a_day(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    for name, age in (("fresh", 60), ("old", 100_000)):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        (tmp_path / "tmp" / name).touch()
        os.utime(tmp_path / "tmp" / name, (time.time() - age,) * 2)
    artifacts.sweep(set(), older_than=0)
    assert [path.name for path in everything(tmp_path)] == ["fresh"]


def test_a_bucket_that_cannot_be_reached_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    artifacts = Artifacts("s3://unreachable/prefix", tmp_path)
    with pytest.raises(StorageError, match=r"bucket s3://unreachable/prefix failed"):
        artifacts.exists(SHA)


def test_a_bucket_url_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="s3://"):
        Artifacts("s3://", tmp_path)
