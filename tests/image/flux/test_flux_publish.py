"""A trained LoRA on Hugging Face: the real client, against a hub that speaks its protocol on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lora_making
from vividcover.errors import Canceled, EngineError, ForbiddenError, NotFoundError, ParameterError, VividCoverError
from vividcover.image.flux.config import DEV, targets
from vividcover.image.flux.lorafile import Lora, Pair, read_lora
from vividcover.image.flux.package import card, write_package
from vividcover.image.flux.publish import contents, model_card, publish
from vividcover.workspace import Silent

LAYER = "transformer_blocks.0.attn.to_q"
TOKEN = "hf_the_secret"


class Hub:
    """Repositories by name; what was uploaded and committed. `status`: path prefix → what to answer instead."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.spoil = False  # keep something else than what was sent
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                path = self.path.split("?")[0]
                hub.tokens |= {self.headers.get("Authorization")} if not path.startswith("/store/") else set()
                failed = next((code for start, code in hub.status.items() if path.startswith(start)), 0)
                code, answer = (failed, {"error": "as asked"}) if failed else hub.answer(self.command, path, body)
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if code == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path.startswith("/store/"):
            self.stored[path.removeprefix("/store/")] = body + b"!" * self.spoil
            return 200, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.repositories[name] = {"private": bool(private), "files": {}}
            return 200, {"url": f"{self.url}/{name}", "name": name}
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2]).removesuffix(".git")
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        if path == f"/api/models/{name}":
            return 200, {"id": name, "private": self.repositories[name]["private"], "siblings": []}
        if "/preupload/" in path:
            modes = [{"path": f["path"], "shouldIgnore": False, "uploadMode": "lfs" if "safetensors" in f["path"] else
                      "regular"} for f in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            links = [{**one, "actions": {"upload": {"href": f"{self.url}/store/{one['oid']}"}}}
                     for one in json.loads(body)["objects"]]  # fmt: skip
            return 200, {"transfer": "basic", "objects": links}
        if "/commit/" in path:
            return self.commit(name, body)
        if "/paths-info/" in path:
            data = self.repositories[name]["files"]["lora.safetensors"]
            lfs = {"size": len(data), "oid": hashlib.sha256(data).hexdigest(), "pointerSize": 10}
            return 200, [{"type": "file", "path": "lora.safetensors", "size": len(data), "oid": "x", "lfs": lfs}]
        return 500, {"error": f"{method} {path}"}

    def commit(self, name: str, body: bytes) -> tuple[int, Any]:
        files = self.repositories[name]["files"]
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/abc123", "commitOid": "abc123", "success": True}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # plain uploads, which we can listen to
    found = Hub()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    target = targets(DEV)[LAYER]
    generator = torch.Generator().manual_seed(0)
    pair = Pair(torch.randn(2, target.inputs, generator=generator) * 0.1,
                torch.randn(target.outputs, 2, generator=generator) * 0.1, 2.0)  # fmt: skip
    about = card(
        "vivi", trigger_word="VIVI", type="subject", consent="I, Jane Doe, am the person", base="dev", rank=2, steps=30,
        licence="FLUX.1 [dev] <Non-Commercial>", commercial=False, dataset_sha256="00",
    )  # fmt: skip
    captions = {"a.jpg": "VIVI at home, 5 Some Street"}
    return write_package(
        tmp_path / "vivi.tar", Lora({LAYER: pair}), about, captions, "steps: 30\n", {"0.png": b"\x89PNG sample"}
    )


def test_it_is_uploaded_privately_and_checked_after_it_arrived(hub: Hub, package: Path) -> None:
    done = publish(package, "me/vivi", TOKEN, endpoint=hub.url)
    there = hub.repositories["me/vivi"]
    assert (done.url, done.revision, done.private, there["private"]) == (f"{hub.url}/me/vivi", "abc123", True, True)
    assert set(done.files) == set(there["files"]) == {"README.md", "config.yaml", "images/0.png", "lora.safetensors"}
    assert read_lora(there["files"]["lora.safetensors"]).rank == 2
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert b'load_lora_weights("me/vivi"' in there["files"]["README.md"]


def test_what_is_private_stays_here(hub: Hub, package: Path) -> None:
    publish(package, "me/vivi", TOKEN, endpoint=hub.url)
    everything = b"".join(hub.repositories["me/vivi"]["files"].values())
    for secret in (b"Jane Doe", b"Some Street", TOKEN.encode()):
        assert secret not in everything
    assert [name for name in contents(package, samples=False) if name.startswith("images/")] == []


def test_it_is_public_only_where_that_is_said_and_never_by_way_of_a_public_repository(hub: Hub, package: Path) -> None:
    assert not publish(package, "me/open", TOKEN, private=False, endpoint=hub.url).private
    before = dict(hub.repositories["me/open"]["files"])
    with pytest.raises(ParameterError, match="is public, and nothing was uploaded"):
        publish(package, "me/open", TOKEN, endpoint=hub.url)
    assert hub.repositories["me/open"]["files"] == before
    publish(package, "me/shut", TOKEN, endpoint=hub.url)
    notes = Silent()
    assert publish(package, "me/shut", TOKEN, private=False, endpoint=hub.url, reporter=notes).private
    assert "stays so until you change it" in notes.notes[0]


@pytest.mark.parametrize(
    ("where", "status", "error", "said"),
    [
        ("/api/models/", 401, EngineError, "refuses the token: as asked"),
        ("/api/repos/create", 403, ForbiddenError, "may not write to me"),
        ("/api/models/me/vivi/preupload", 403, ForbiddenError, "may not write to me"),
        ("/me/vivi.git/info/lfs", 402, EngineError, "answered 402"),
        ("/api/models/me/vivi/commit", 409, EngineError, "answered 409"),
    ],
)
def test_a_refusal_of_the_hub_is_an_error_and_nothing_is_committed(
    hub: Hub, package: Path, where: str, status: int, error: type[VividCoverError], said: str
) -> None:
    hub.status[where] = status
    with pytest.raises(error, match=said) as failure:
        publish(package, "me/vivi", TOKEN, endpoint=hub.url)
    assert failure.value.hint
    assert TOKEN not in str(failure.value)
    assert hub.repositories.get("me/vivi", {"files": {}})["files"] == {}


def test_what_arrived_broken_is_noticed(hub: Hub, package: Path) -> None:
    hub.spoil = True
    with pytest.raises(EngineError, match="is not what was sent"):
        publish(package, "me/vivi", TOKEN, endpoint=hub.url)


def test_a_canceled_upload_leaves_the_repository_as_it_was(hub: Hub, package: Path) -> None:
    class Stopping(Silent):
        def check(self) -> None:
            if hub.stored:  # the LoRA is up, the commit is not
                raise Canceled()

    with pytest.raises(Canceled):
        publish(package, "me/vivi", TOKEN, endpoint=hub.url, reporter=Stopping())
    assert hub.repositories["me/vivi"]["files"] == {}


def test_without_a_token_a_name_or_a_network_nothing_is_tried(package: Path) -> None:
    with pytest.raises(EngineError, match="needs a token") as failure:
        publish(package, "me/vivi", "")
    assert "VIVIDCOVER_HF_TOKEN" in failure.value.hint
    for name in ("vivi", "me/vivi/x", "me/../x", "https://huggingface.co/me/vivi"):
        with pytest.raises(ParameterError, match="no repository's name"):
            publish(package, name, TOKEN)
    with pytest.raises(EngineError, match="upload to Hugging Face failed"):
        publish(package, "me/vivi", TOKEN, endpoint="http://127.0.0.1:9")


def test_the_model_card_says_what_a_reader_needs_and_cannot_be_written_over_by_a_name() -> None:
    text = model_card({"name": "a\n---\nb <img src=x>", "trigger_word": "VIVI", "base": "schnell"}, ["images/0.png"])
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    values = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in front.splitlines())}
    assert values["license"] == "apache-2.0"
    assert values["base_model"] == "black-forest-labs/FLUX.1-schnell"
    assert (values["instance_prompt"], values["widget"][0]["output"]) == ("VIVI", {"url": "images/0.png"})
    assert "# a --- b &lt;img src=x>" in body
    assert "Apache-2.0" in body
    dev = model_card({"name": "x"}, [])
    assert 'license_name: "flux-1-dev-non-commercial-license"' in dev
    assert "Non-Commercial" in dev


def test_what_was_trained_on_a_flux_of_ones_own_is_published_as_it_is(tmp_path: Path) -> None:
    about = card("own", trigger_word="OWN1", type="style", consent="", base="dev", rank=4, steps=1, licence="mine",
                 commercial=None, dataset_sha256="")  # fmt: skip
    tar = write_package(tmp_path / "own.tar", lora_making.lora(), about, {}, config=lora_making.TINY)
    assert read_lora(contents(tar)["lora.safetensors"], lora_making.TINY).rank == 4


def test_a_lora_of_others_can_be_published_too(tmp_path: Path, package: Path) -> None:
    (tmp_path / "bare.safetensors").write_bytes(contents(package)["lora.safetensors"])
    files = contents(tmp_path / "bare.safetensors")
    assert set(files) == {"README.md", "lora.safetensors"}
    assert b"VIVI" in files["README.md"]  # the file itself says its trigger word


def test_an_owner_that_the_hub_does_not_know_is_named(hub: Hub, package: Path) -> None:
    hub.status["/api/repos/create"] = 404
    with pytest.raises(NotFoundError, match="nobody"):
        publish(package, "nobody/vivi", TOKEN, endpoint=hub.url)
