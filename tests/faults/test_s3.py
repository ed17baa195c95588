"""Everything on S3, and no two processes that share a folder: a server and workers as on machines of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live import Live, live
from run_making import kill, stage_rows, until, worker
from vividcover.archives import write_zip
from vividcover.settings import settings
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database
from vividcover.store.tables import shared_stages

TRAINER = "ostris/flux-dev-lora-trainer"
CONSENT = {"Vividcover-Consent": "Vivi does not exist."}


@pytest.fixture
def server(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setenv("VIVIDCOVER_ARTIFACTS", bucket)
    monkeypatch.setenv("VIVIDCOVER_DATABASE", f"sqlite:///{tmp_path / 'shared.db'}")
    settings.cache_clear()
    with live(tmp_path / "server", "--workers", "0") as running:
        yield running


@pytest.fixture
def database(server: Live) -> Iterator[Database]:
    database = Database(settings().database_url)
    yield database
    database.close()


def upload(http: httpx.Client, file: Path) -> str:
    answer = http.post("/v1/files", files={"content": (file.name, file.read_bytes())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["urls"]["get"])


def create(http: httpx.Client, path: str, **body: Any) -> str:
    answer = http.post(path, json=body, headers=CONSENT)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def over(http: httpx.Client, kind: str, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        run: dict[str, Any] = http.get(f"/v1/{kind}/{run_id}").json()
        return run if run["status"] in ("succeeded", "failed", "canceled") else None

    run = until(look, 180)
    assert run["status"] == "succeeded", (run["error"], run["logs"])
    return run


def shared(database: Database) -> int:
    with database.read() as db:
        return len(db.execute(shared_stages.select()).all())


def test_uploads_runs_trainings_and_what_they_trained(
    server: Live, database: Database, sample: Path, tmp_path: Path
) -> None:
    voice, photos = (
        write_zip(tmp_path / f"{what}.zip", {path.name: path for path in sorted((sample / what).glob(kind))[:3]})
        for what, kind in (("voice", "*.flac"), ("photos", "*.jpg"))
    )
    with server.client(server.token()) as http:
        with worker(VIVIDCOVER_HOME=str(tmp_path / "one")) as first:
            link = upload(http, voice)
            input = {"youtube_url": link, "audio_name": "vivi"}
            made = over(http, "predictions", create(
                http, "/v1/models/zsxkib/create-rvc-dataset/predictions", input=input
            ))  # fmt: skip
            whole = httpx.get(made["output"])
            assert whole.status_code == 200 and whole.content[:2] == b"PK"
            part = httpx.get(made["output"], headers={"Range": "bytes=100-299"})
            assert (part.status_code, part.content) == (206, whole.content[100:300])
            assert part.headers["content-range"] == f"bytes 100-299/{len(whole.content)}"
            assert httpx.get(made["output"], headers={"Range": "bytes=-7"}).content == whole.content[-7:]

            # a worker dies in the midst of a run, and its machine with it
            pieces = create(http, "/v1/models/vividcover/hello/predictions", input={"repeat": 4, "seconds": 0.5})
            known = shared(database)
            until(lambda: shared(database) >= known + 2 and len(stage_rows(database, pieces)) >= 2)
            kill(first.pid)
        before = stage_rows(database, pieces)
        trained = create(
            http, f"/v1/models/{TRAINER}/versions/latest/trainings", destination="alice/vivi",
            input={"input_images": upload(http, photos), "trigger_word": "VIVI"},
        )  # fmt: skip
        with worker(VIVIDCOVER_HOME=str(tmp_path / "two")) as second:
            assert len(over(http, "predictions", pieces)["output"]) == 4
            assert stage_rows(database, pieces)[: len(before)] == before, "it went on after the last finished stage"
            until(lambda: http.get(f"/v1/trainings/{trained}").json()["status"] == "processing")
            time.sleep(0.3)
            kill(second.pid)
        with worker(VIVIDCOVER_HOME=str(tmp_path / "three")):
            version = over(http, "trainings", trained)["output"]["version"]
            input = {"prompt": "VIVI on a stage", "width": 256, "height": 256}
            drawn = over(http, "predictions", create(http, "/v1/predictions", version=version, input=input))
            assert httpx.get(drawn["output"][0]).headers["content-type"] == "image/webp"
            weights = http.get(f"/v1/trainings/{trained}").json()["output"]["weights"]
    elsewhere = Artifacts(settings().artifacts, tmp_path / "a new cache")
    sha = _sha(weights, database)
    assert elsewhere.path(sha).stat().st_size == elsewhere.size(sha) > 10_000
    assert not any(tmp_path.glob("*/artifacts/blobs")), "nothing lies in a folder for good"


def _sha(link: str, database: Database) -> str:
    from vividcover.store.tables import files

    with database.read() as db:
        found = db.execute(files.select().where(files.c.id == link.split("/outputs/")[1].split("/")[0])).one()
    return str(found.sha256)
