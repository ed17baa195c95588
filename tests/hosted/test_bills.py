"""A run whose work another server does is billed by what that server says that it took, not by how long we waited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from live import Live
from run_making import add, finished, opened, told, worker
from vividcover.archives import write_zip
from vividcover.runs import leases
from vividcover.settings import settings
from vividcover.store import tables
from vividcover.store.database import Database

DATASET = "zsxkib/create-rvc-dataset"
PRICE = 10.0  # USD per second there: enough to see in a fraction of a second


@pytest.fixture
def database(server: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("VIVIDCOVER_REPLICATE_URL", server.url)
    monkeypatch.setenv("VIVIDCOVER_REPLICATE_TOKEN", server.token())
    monkeypatch.setenv("VIVIDCOVER_PRICES", f'{{"second:hosted": {PRICE}, "second:cpu": 1000}}')
    settings.cache_clear()
    with opened(settings().database_url) as database:
        yield database


def bills(database: Database) -> list[dict[str, Any]]:
    with database.read() as db:
        return [dict(row) for row in db.execute(sa.select(tables.usage).order_by(tables.usage.c.id)).mappings()]


def test_the_seconds_and_the_price_are_the_other_sides(
    server: Live, database: Database, sample: Path, tmp_path: Path
) -> None:
    clips = {clip.name: clip for clip in sorted((sample / "voice").glob("*.flac"))[:3]}
    voice = write_zip(tmp_path / "voice.zip", clips).read_bytes()
    with server.client(settings().replicate_token) as http:
        link = http.post("/v1/files", files={"content": ("voice.zip", voice)}).json()["urls"]["get"]
        order = {"serves": DATASET, "model": DATASET, "input": {"youtube_url": link}, "output_shape": "file"}
        with worker():
            first = add(database, **order)
            assert finished(database, first)["status"] == "succeeded", told(database, first)
            again = finished(database, add(database, **order))
        took = http.get("/v1/predictions").json()["results"][0]["metrics"]["predict_time"]
    paid, free = bills(database)
    assert (paid["engine"], paid["seconds"]) == ("hosted", pytest.approx(took, abs=0.002))
    assert paid["usd"] == pytest.approx(took * PRICE, abs=0.02)
    assert again["status"] == "succeeded" and (free["usd"], free["seconds"]) == (0, 0), "the answer was here already"


def test_what_an_attempt_that_died_has_paid_is_counted_once(database: Database) -> None:
    done = {"name": "hosted/zsxkib/sonic", "key": "k" * 64, "seconds": 9.0, "spent": {"seconds": 3.0, "usd": 30.0}}
    more = done | {"key": "l" * 64, "spent": {"seconds": 1.5, "usd": 15.0}}
    add(database)
    first = leases.claim_one(database, "one")
    assert first is not None
    with database.write() as db:
        leases.record_stage(db, first, {**done, "hit": False})
        leases.release(db, first)
    second = leases.claim_one(database, "two")
    assert second is not None
    with database.write() as db:
        leases.record_stage(db, second, {**done, "hit": True})
        leases.record_stage(db, second, {**more, "hit": False})
        leases.record_stage(db, second, {**done, "name": "hosted/mark", "key": "m" * 64, "hit": False, "spent": None})
        leases.finish(db, second, leases.Outcome("failed", "afterwards"))
    (bill,) = bills(database)
    assert (bill["usd"], bill["seconds"]) == (45.0, 4.5), "also of a run that failed in the end"


def test_of_a_service_that_does_not_say_what_it_took_our_own_seconds_are_counted(database: Database) -> None:
    add(database, serves="black-forest-labs/flux-pro-finetuned")
    claim = leases.claim_one(database, "one", warm=None)
    assert claim is not None
    with database.write() as db:
        told = {"name": "hosted/bfl/flux-pro-finetuned", "key": "k" * 64, "hit": False, "seconds": 2.0, "spent": None}
        leases.record_stage(db, claim, told)
        leases.finish(db, claim, leases.Outcome("succeeded", text="x", engine="hosted"))
    (bill,) = bills(database)
    assert bill["seconds"] > 0 and bill["usd"] == pytest.approx(PRICE * bill["seconds"])
