"""What stands in a run's input: files are found and looked at before a run is made, and refused with the reason."""

from __future__ import annotations

import base64
import io
import stat
import struct
import threading
import wave
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server_making import Api, made, problem, upload
from vividcover.store import tables

SONIC, TRAINER = "zsxkib/sonic", "replicate/train-rvc-model"


@pytest.fixture(scope="module")
def photo(sample: Path) -> bytes:
    return (sample / "photos" / "01.jpg").read_bytes()


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A second of a rising tone, as WAV."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", (n * n // 50) % 20000 - 10000) for n in range(8000)))
    return out.getvalue()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def data(content: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def create(http: httpx.Client, model: str, **input: Any) -> httpx.Response:
    return http.post(f"/v1/models/{model}/predictions", json={"input": input})


def runs_of(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.http.get("/v1/predictions").json()["results"]
    return found


def row_of(api: Api, run_id: str) -> dict[str, Any]:
    with api.state.database.read() as db:
        return dict(db.execute(sa.select(tables.runs).where(tables.runs.c.id == run_id)).mappings().one())


def test_a_file_comes_uploaded_inside_the_request_or_as_an_output(api: Api, photo: bytes, sound: bytes) -> None:
    uploaded = upload(api.http, photo, "upload")["urls"]["get"]
    run = create(api.http, SONIC, image=uploaded, audio=data(sound, "audio/wav")).json()
    assert run["input"]["image"] == uploaded
    assert run["input"]["audio"].startswith(f"{api.url}/v1/files/")  # what came inside became a file, not a long text
    assert api.http.get(run["input"]["audio"]).json()["content_type"] == "audio/x-wav"
    files = row_of(api, run["id"])["files"]
    assert [api.state.artifacts.path(f["sha256"]).read_bytes() for f in files.values()] == [photo, sound]
    output = made(api, photo, "still.jpg")
    run = create(api.http, SONIC, image=output, audio=f"{run['input']['audio']}/download").json()
    assert set(row_of(api, run["id"])["files"]) == set(run["input"].values())


def test_a_buffer_of_javascript_is_a_file(api: Api, photo: bytes, sound: bytes) -> None:
    buffer = {"type": "Buffer", "data": list(photo)}
    run = create(api.http, SONIC, image=buffer, audio=data(sound)).json()
    assert api.http.get(run["input"]["image"]).json()["content_type"] == "image/jpeg"
    for wrong in ([256], ["x"], [-1], []):
        answer = create(api.http, SONIC, image={"type": "Buffer", "data": wrong}, audio=data(sound))
        assert problem(answer, 422)["invalid_fields"][0]["field"] == "image"


def test_the_server_knows_its_files_by_whatever_name_it_is_called(api: Api, photo: bytes, sound: bytes) -> None:
    link = upload(api.http, photo)["urls"]["get"].replace("127.0.0.1", "localhost")
    assert create(api.http, SONIC, image=link, audio=data(sound)).status_code == 201


def test_the_server_knows_its_files_behind_a_proxy_that_serves_it_below_a_folder(
    serve: Callable[..., Api], photo: bytes, sound: bytes
) -> None:
    api = serve(public_url="https://example.com/vivid")
    link = upload(api.http, photo)["urls"]["get"]
    assert link.startswith("https://example.com/vivid/v1/files/")
    run = create(api.http, SONIC, image=link, audio=data(sound)).json()
    assert len(row_of(api, run["id"])["files"]) == 2
    missing = link.replace(link.rpartition("/")[2], "0" * 26)
    problem(create(api.http, SONIC, image=missing, audio=data(sound)), 422)


def test_the_engine_is_chosen_by_a_header(api: Api) -> None:
    for engine, status in (("classic", 201), ("steam", 422)):
        answer = api.http.post(
            "/v1/predictions", json={"version": "vividcover/hello", "input": {}}, headers={"Vividcover-Engine": engine}
        )
        assert answer.status_code == status
    assert row_of(api, runs_of(api)[0]["id"])["engine"] == "classic"


def test_files_of_others_and_files_that_are_not_there_are_refused(api: Api, photo: bytes, sound: bytes) -> None:
    mine, theirs = upload(api.http, photo)["urls"]["get"], upload(api.bob, photo)["urls"]["get"]
    gone = upload(api.http, photo)
    api.http.delete(f"/v1/files/{gone['id']}")
    output = made(api, photo, "still.jpg")
    parts = output.split("/")
    for link in (
        theirs, gone["urls"]["get"], f"{api.url}/v1/files/{'0' * 26}", f"{api.url}/v1/nothing",
        "/".join([*parts[:-2], "A" * 32, parts[-1]]), made(api, photo, "old.jpg", expires_at=1.0),
        f"{mine}/../../account", "file:///etc/passwd", "/etc/passwd", "vivi", "", "data:image/png;base64,%%%",
        "data:image/png;base64,", "data:,",
    ):  # fmt: skip
        body = problem(create(api.http, SONIC, image=link, audio=data(sound)), 422)
        assert [one["field"] for one in body["invalid_fields"]] == ["image"], link
    assert runs_of(api) == []


@pytest.mark.parametrize(
    "link",
    ["http://127.0.0.1/x.png", "http://localhost/x.png", "http://10.0.0.1/", "http://2130706433/x", "http://0x7f000001/",
     "http://0177.0.0.1/", "http://127.1/", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://[fe80::1%25eth0]/",
     "http://[64:ff9b::7f00:1]/", "http://169.254.169.254/latest/meta-data/", "http://0/", "https://u:p@example.com/x",
     "http://example.com:22/x", "http://\u2460\u2461\u2466.0.0.1/"],
)  # fmt: skip
def test_a_link_into_a_private_network_is_refused(api: Api, sound: bytes, link: str) -> None:
    body = problem(create(api.http, SONIC, image=link, audio=data(sound)), 422)
    assert [one["field"] for one in body["invalid_fields"]] == ["image"]
    assert runs_of(api) == []


@pytest.fixture
def site() -> Iterator[tuple[str, list[str]]]:
    """A web server: /ok answers, /away redirects to a private port of this machine. (address, paths asked for)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response({"/ok": 200, "/gone": 404}.get(self.path, 302))
            self.send_header("Location", "http://127.0.0.1:9/secret" if self.path == "/away" else "/round")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_link_is_followed_to_where_it_really_leads(
    serve: Callable[..., Api], site: tuple[str, list[str]], sound: bytes
) -> None:
    place, asked = site
    api = serve(private_hosts=[place])
    assert create(api.http, SONIC, image=f"http://{place}/ok", audio=data(sound)).status_code == 201
    for path, why in (("/away", "port"), ("/gone", "404"), ("/round", "redirected without end")):
        body = problem(create(api.http, SONIC, image=f"http://{place}{path}", audio=data(sound)), 422)
        assert why in body["detail"], body
    assert "/ok" in asked and "/secret" not in asked


def test_a_file_that_is_something_else_is_refused_with_what_it_is(api: Api, photo: bytes, sound: bytes) -> None:
    page = b"<!doctype html><title>Not found</title>"
    for image, audio, wrong in (
        (sound, sound, "image"), (page, sound, "image"), (photo[:3000], sound, "image"), (photo, photo, "audio"),
        (photo, page, "audio"), (photo, b"\0" * 5000, "audio"), (zipped(a_dot_png=photo), sound, "image"),
    ):  # fmt: skip
        body = problem(create(api.http, SONIC, image=data(image), audio=data(audio)), 422)
        assert [one["field"] for one in body["invalid_fields"]] == [wrong], body
    assert api.http.get("/v1/files").json()["results"] == []  # nothing of what was sent is kept


def symlink() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("voice.wav")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def test_a_zip_that_is_a_trap_is_refused_before_it_is_opened(api: Api, photo: bytes, sound: bytes) -> None:
    bomb = zipped(a_dot_wav=b"\0" * (200 << 20))
    nested = zipped(a_dot_zip=zipped(a_dot_wav=sound), b_dot_txt=b"x")
    slip = zipped(**{"..__..__evil_dot_wav": sound})
    broken = zipped(a_dot_wav=sound)[:-30]
    for archive, why in (
        (bomb, "zip bomb"), (slip, "outside of the archive"), (symlink(), "a link"), (nested, "another archive"),
        (broken, "cut short"), (zipped(), "holds no files"), (zipped(a_dot_jpg=photo), "holds no recordings"),
        (b"Rar!\x1a\x07" + b"\0" * 99, "not a zip"),
    ):  # fmt: skip
        body = problem(create(api.http, TRAINER, dataset_zip=data(archive)), 422)
        assert why in body["detail"], body
    good = zipped(dataset__vivi__split_0_dot_wav=sound)
    assert create(api.http, TRAINER, dataset_zip=data(good)).status_code == 201
    assert len(runs_of(api)) == 1


def test_photos_to_train_on_are_looked_at_too(api: Api, photo: bytes, sound: bytes) -> None:
    version = api.http.get("/v1/models/replicate/fast-flux-trainer").json()["latest_version"]["id"]
    path = f"/v1/models/replicate/fast-flux-trainer/versions/{version}/trainings"

    def train(archive: bytes) -> httpx.Response:
        body = {"destination": f"{api.user}/face", "input": {"input_images": data(archive)}}
        return api.http.post(path, json=body)

    assert "holds no photos" in problem(train(zipped(a_dot_wav=sound)), 422)["detail"]
    training = train(zipped(a_dot_jpg=photo)).json()
    assert training["status"] == "starting" and "output" not in training and set(training["urls"]) >= {"get", "cancel"}
    assert training["urls"]["get"].endswith(f"/v1/trainings/{training['id']}")
    assert api.http.get(f"/v1/predictions/{training['id']}").json()["id"] == training["id"]
    assert [t["id"] for t in api.http.get("/v1/trainings").json()["results"]] == [training["id"]]
    assert api.http.post(f"/v1/trainings/{training['id']}/cancel").json()["status"] == "canceled"


def test_a_trained_model_is_named_and_must_be_one(api: Api, photo: bytes) -> None:
    prompt = {"prompt": "TOK on stage"}
    for weights, why in (
        ("nobody/nothing", "no model"), ("zsxkib/sonic", "not a trained model"),
        (data(photo), "not a trained image model"),
    ):  # fmt: skip
        answer = create(api.http, "vividcover/flux-lora", replicate_weights=weights, **prompt)
        assert why in problem(answer, 422)["detail"], answer.text


def test_secrets_of_other_services_are_not_shown(api: Api, photo: bytes) -> None:
    version = api.http.get("/v1/models/ostris/flux-dev-lora-trainer").json()["latest_version"]["id"]
    given = {"input_images": data(zipped(a_dot_jpg=photo)), "hf_token": "hf_secret", "wandb_api_key": "wandb_secret"}
    answer = api.http.post(
        f"/v1/models/ostris/flux-dev-lora-trainer/versions/{version}/trainings",
        json={"destination": f"{api.user}/face", "input": given},
    )
    assert answer.status_code == 201 and "secret" not in answer.text.replace(version, ""), answer.text
    assert "secret" not in api.http.get(answer.json()["urls"]["get"]).text
