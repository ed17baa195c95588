"""Without TLS: small outputs come as data: links, of which the official client makes files too."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import httpx
import replicate
import sqlalchemy as sa

from live import live
from run_making import new_run
from server_making import Api
from vividcover.archives import write_zip
from vividcover.runs import states
from vividcover.server.embed import KEPT
from vividcover.store import accounts
from vividcover.store.database import now
from vividcover.store.tables import files, runs

PICTURE = b"\x89PNG, so to say"


def made(api: Api, data: bytes, name: str = "out.png") -> str:
    """A run that has made a file; its id."""
    database = api.state.database
    with api.state.artifacts.put_stream() as writer:
        writer.write(data)
        blob = writer.commit()
    account = accounts.get_account(database, api.user)["id"]
    with database.write() as db:
        run_id = str(states.enqueue(db, new_run(account_id=account, output_shape="file"))["id"])
        file_id = f"f{run_id[1:]}"
        db.execute(
            sa.insert(files).values(
                id=file_id, account_id=account, run_id=run_id, sha256=blob.sha256, md5=blob.md5, name=name,
                content_type="image/png", bytes=blob.bytes, metadata={}, created_at=now(),
            )
        )  # fmt: skip
        output = {"files": [{"id": file_id, "name": name}]}
        db.execute(sa.update(runs).where(runs.c.id == run_id).values(status="succeeded", output=output))
    return run_id


def output(api: Api, run_id: str, **headers: str) -> str:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return str(api.http.get(f"/v1/predictions/{run_id}", headers=sent).json()["output"])


def test_a_small_output_is_its_own_link_and_a_large_one_has_one(serve: Callable[..., Api]) -> None:
    api = serve(data_uri_bytes=len(PICTURE))
    small, large = made(api, PICTURE), made(api, PICTURE + b"x")
    for _ in range(2):
        assert output(api, small) == f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    link = output(api, large)
    assert link.startswith("http://") and httpx.get(link).content == PICTURE + b"x"


def test_who_comes_by_https_gets_links_and_so_does_everybody_where_it_is_not_asked_for(
    serve: Callable[..., Api], api: Api
) -> None:
    asked = serve(data_uri_bytes=1000)
    assert output(asked, made(asked, PICTURE), X_Forwarded_Proto="https").startswith("https://")
    assert output(api, made(api, PICTURE)).startswith("http://")


def test_what_has_expired_is_not_in_a_link_and_few_are_remembered(serve: Callable[..., Api]) -> None:
    api = serve(data_uri_bytes=1000)
    run_id = made(api, PICTURE)
    with api.state.database.write() as db:
        db.execute(sa.update(files).values(expires_at=now() - 1))
    assert output(api, run_id).startswith("http://")
    for number in range(KEPT + 3):
        assert output(api, made(api, f"{number}".encode())).startswith("data:")
    assert api.state.embed is not None and len(api.state.embed._made) == KEPT


def test_the_official_client_reads_it_without_tls(sample: Path, tmp_path: Path) -> None:
    clips = sorted((sample / "voice").glob("*.flac"))[:3]
    with live(tmp_path / "home", data_uri_bytes="50000000") as server:
        client = replicate.Client(api_token=server.token(), base_url=server.url)
        voice = write_zip(tmp_path / "voice.zip", {clip.name: clip for clip in clips})
        with voice.open("rb") as file:
            made = client.run("zsxkib/create-rvc-dataset", input={"youtube_url": file, "audio_name": "vivi"})
        assert made.read()[:2] == b"PK"
