"""Files that go in and come out: the forms that clients send, limits, ranges, and links that need no token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_making import Api, made, problem, upload

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def kept(api: Api) -> set[str]:
    """Every file in the artifacts' folder."""
    return {path.name for path in api.state.artifacts.root.rglob("*") if path.is_file()}


def test_a_file_is_described_as_the_strictest_client_wants_it(api: Api) -> None:
    file = upload(api.http, b"hello", "a.txt")
    required = "id name content_type size etag checksums metadata created_at expires_at urls"
    assert set(required.split()) <= set(file) and None not in file.values()
    assert file["checksums"] == {
        "sha256": hashlib.sha256(b"hello").hexdigest(),
        "md5": hashlib.md5(b"hello").hexdigest(),
    }
    assert (file["name"], file["size"], file["content_type"]) == ("a.txt", 5, "text/plain")
    assert api.http.get(file["urls"]["get"]).json() == file
    assert api.http.get("/v1/files").json()["results"] == [file]
    assert api.http.get(f"{file['urls']['get']}/download").content == b"hello"
    assert api.http.delete(f"/v1/files/{file['id']}").status_code == 204
    problem(api.http.get(file["urls"]["get"]), 404)


@pytest.mark.parametrize(
    ("parts", "metadata", "name"),
    [
        ({"content": ("photo.png", PNG, "image/png"), "metadata": (None, '{"a": 1}')}, {"a": 1}, "photo.png"),
        ({"content": ("upload", PNG, "application/octet-stream")}, {}, "upload"),
        ({"content": ("blob_17", PNG, "application/octet-stream"), "metadata": ("blob", b"{}", "application/json")}, {},
         "blob_17"),
        ({"content": ("upload", PNG), "filename": (None, "me.png"), "type": (None, "image/png"),
          "metadata[a]": (None, "1"), "metadata[b]": (None, "x")}, {"a": "1", "b": "x"}, "me.png"),
    ],
    ids=["python 1.x", "python 2.x, in an input", "javascript", "python 2.x, files.create"],
)  # fmt: skip
def test_the_forms_of_the_official_clients_are_read(
    api: Api, parts: dict[str, Any], metadata: dict[str, Any], name: str
) -> None:
    file = api.http.post("/v1/files", files=parts).json()
    assert (file["metadata"], file["name"], file["content_type"], file["size"]) == (
        metadata,
        name,
        "image/png",
        len(PNG),
    )


def test_the_file_may_stand_anywhere_in_the_form_and_look_like_its_boundary(api: Api) -> None:
    content = b"\r\n--x\r\n--xy--\r\n" * 50_000 + b"\r\n--x"
    head = b'--xyz\r\nContent-Disposition: form-data; name="type"\r\n\r\ntext/plain\r\n'
    body = head + b'--xyz\r\nContent-Disposition: form-data; name="content"; filename="../../e\xc3\xa9 v.txt"\r\n\r\n'
    answer = api.http.post(
        "/v1/files", content=body + content + b"\r\n--xyz--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=xyz"},
    )  # fmt: skip
    assert answer.json()["checksums"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer.json()["name"] == "eé v.txt"


def test_what_is_no_file_is_refused_and_nothing_stays(api: Api) -> None:
    before = kept(api)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n'
    problem(api.http.post("/v1/files", files={"content": ("empty.png", b"")}), 422)
    problem(api.http.post("/v1/files", files={"other": b"x"}), 422)
    problem(api.http.post("/v1/files", json={"content": "x"}), 422)
    problem(api.http.post("/v1/files", content=b"garbage", headers=form), 400)
    problem(api.http.post("/v1/files", content=part + b"cut short", headers=form), 400)
    problem(api.http.post("/v1/files", content=b"--b\r\n" + b"A: " + b"x" * 3_000_000, headers=form), 400)
    problem(api.http.post("/v1/files", files={"content": b"x"}, data={"type": "y" * 3_000_000}), 413)
    problem(api.http.post("/v1/files", files={"content": b"x"}, data={"metadata": "[1]"}), 422)
    problem(api.http.post("/v1/files", files={"content": b"x"}, data={"metadata": '{"a": 1e999}'}), 422)
    assert kept(api) == before and api.http.get("/v1/files").json()["results"] == []


def test_an_upload_that_is_announced_too_large_is_refused_before_it_is_sent(serve: Callable[..., Api]) -> None:
    api = serve(max_upload_bytes=1_000_000)
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: {api.http.headers['Authorization']}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {2 << 30}\r\n\r\n".encode()
        )  # not a byte of the two gigabytes follows
        answer = wire.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413") and "Files must be less than 1 MB" in answer
    assert kept(api) == set()


def test_an_upload_whose_sender_hangs_up_leaves_nothing(
    serve: Callable[..., Api], caplog: pytest.LogCaptureFixture
) -> None:
    api = serve()
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: {api.http.headers['Authorization']}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n'.encode()
            + b"x" * 3_000_000
        )
        until = time.monotonic() + 10
        while not kept(api) and time.monotonic() < until:
            time.sleep(0.01)
        assert kept(api)  # it is being written
    while kept(api) and time.monotonic() < until:
        time.sleep(0.01)
    assert kept(api) == set()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_upload_of_unknown_length_is_stopped_where_it_grows_too_large(serve: Callable[..., Api]) -> None:
    api = serve(max_upload_bytes=1_500_000)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n'
        for _ in range(40):
            sent += 1 << 20
            yield b"x" * (1 << 20)

    answer = api.http.post("/v1/files", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    problem(answer, 413)
    assert kept(api) == set()


def test_an_account_keeps_no_more_than_its_share(serve: Callable[..., Api]) -> None:
    api = serve(max_account_bytes=1000)
    first = upload(api.http, b"x" * 900)
    problem(api.http.post("/v1/files", files={"content": b"y" * 200}), 413)
    data = "data:image/png;base64," + base64.b64encode(b"z" * 200).decode()
    body = {"input": {"image": data, "audio": data}}
    problem(api.http.post("/v1/models/zsxkib/sonic/predictions", json=body), 413)
    upload(api.bob, b"y" * 200)
    api.http.delete(f"/v1/files/{first['id']}")
    upload(api.http, b"y" * 200)


def test_another_accounts_file_is_as_if_it_were_not_there(api: Api) -> None:
    file = upload(api.http, b"mine")
    for method, path in (("GET", ""), ("GET", "/download"), ("DELETE", "")):
        problem(api.bob.request(method, f"/v1/files/{file['id']}{path}"), 404)
    assert api.http.get(file["urls"]["get"]).status_code == 200


def test_a_download_link_is_signed_by_the_account_and_ends(api: Api) -> None:
    file = upload(api.http, b"for you")
    secret = api.http.get("/v1/files/default/secret").json()["key"]

    def link(expiry: int, owner: str = api.user, secret: str = secret) -> dict[str, str]:
        told = f"{owner} {file['id']} {expiry}".encode()
        signature = base64.b64encode(hmac.new(secret.encode(), told, hashlib.sha256).digest()).decode()
        return {"owner": owner, "expiry": str(expiry), "signature": signature}

    path, soon = f"/v1/files/{file['id']}/download", int(time.time()) + 60
    assert api.open.get(path, params=link(soon)).content == b"for you"
    foreign = api.bob.get("/v1/files/default/secret").json()["key"]
    for params in (
        link(int(time.time()) - 1), link(soon, "somebody"), link(soon, secret=foreign),
        {**link(soon), "expiry": "9" * 30}, {**link(soon), "expiry": str(soon + 1)}, {**link(soon), "signature": "é"},
    ):  # fmt: skip
        problem(api.open.get(path, params=params), 404)
    problem(api.open.get(path), 401)


@pytest.fixture
def output(api: Api) -> tuple[str, bytes]:
    """The link of a file that a run made, and its content."""
    content = bytes(range(256)) * 4000
    return made(api, content, "still image.png"), content


def test_an_output_is_read_by_whoever_has_its_link(api: Api, output: tuple[str, bytes]) -> None:
    link, content = output
    assert link.endswith("/still%20image.png")
    answer = api.open.get(link)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "image/png" and answer.headers["content-length"] == str(len(content))
    head = api.open.head(link)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    assert api.open.get(link, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=1000-", 1000, None), ("bytes=-100", -100, None), ("bytes=5-5", 5, 6),
     ("bytes=1023990-9999999", 1023990, None)],
)  # fmt: skip
def test_a_part_of_an_output_is_answered_as_such(
    api: Api, output: tuple[str, bytes], asked: str, start: int, end: int | None
) -> None:
    link, content = output
    answer = api.open.get(link, headers={"Range": asked})
    first = start % len(content)
    assert (answer.status_code, answer.content) == (206, content[start:end])
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(content)}"


def test_a_part_that_is_not_there_is_416_and_an_odd_range_gets_the_whole(api: Api, output: tuple[str, bytes]) -> None:
    link, content = output
    for asked in ("bytes=1024000-", "bytes=-0", "bytes=9-5"):
        answer = api.open.get(link, headers={"Range": asked})
        problem(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{len(content)}"
    for asked in ("bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=-"):
        assert api.open.get(link, headers={"Range": asked}).content == content
    changed = {"Range": "bytes=0-1", "If-Range": '"another"'}
    assert api.open.get(link, headers=changed).status_code == 200


def test_a_link_with_another_signature_or_of_an_expired_file_opens_nothing(api: Api, output: tuple[str, bytes]) -> None:
    link, _ = output
    base, _, (id, signature, name) = link.partition("/outputs/")[0], "", link.rsplit("/", 3)[1:]
    other = made(api, b"another", "b.png").rsplit("/", 3)[1]
    for path in (f"{id}/{'A' * 32}/{name}", f"{id}/{signature[:-1]}/{name}", f"{other}/{signature}/{name}",
                 f"{id}/é/{name}", f"{id.upper()}/{signature}/{name}"):  # fmt: skip
        problem(api.open.get(f"{base}/outputs/{path}"), 404)
    problem(api.open.get(made(api, b"old", "old.png", expires_at=1.0)), 404)


def test_large_files_go_through_without_filling_the_memory(api: Api) -> None:
    block = hashlib.sha256(b"block").digest() * 32768  # 1 MiB
    total, digest = 96, hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="content"; filename="big.bin"\r\n\r\n'
        for _ in range(total):
            digest.update(block)
            yield block
        yield b"\r\n--b--\r\n"

    forget_peak()
    before = peak()
    answer = api.http.post("/v1/files", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.json()["size"] == total << 20 and answer.json()["checksums"]["sha256"] == digest.hexdigest()
    assert peak() - before < 48 << 20  # bytes; the client runs in this process too


def peak() -> int:
    """Bytes of memory that this process has had at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
