"""LoRAs by the names that people give them: files, links, hubs; and what is said when one cannot be had."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vividcover.errors import EngineError, LinkError, ModelFileError, NotFoundError, ParameterError, VividCoverError
from vividcover.image.flux.sources import Plan, Tokens, bring, choose, plan

TOKENS = Tokens(hub="hf_secret", civitai="civ_secret", replicate="r8_secret")
VERSION = "4ab8" * 16


class Site:
    """Answers by link; a number is an HTTP status. Notes what was asked with which headers."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers, self.asked = answers, list[tuple[str, Mapping[str, str]]]()

    def __call__(self, link: str, folder: Path, headers: Mapping[str, str]) -> Path:
        from vividcover.song._fetch_why import status_error

        self.asked.append((link, headers))
        answer = self.answers.get(link, 404)
        if isinstance(answer, int):
            raise status_error(link, answer)
        path = folder / (link.rsplit("/", 1)[-1].split("?")[0] + f".{len(self.asked)}")
        path.write_bytes(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        return path


HUB = "https://huggingface.co"
LISTING = f"{HUB}/api/models/o/m/revision/main?blobs=true"


@pytest.mark.parametrize(
    ("reference", "url", "site"),
    [
        ("o/m", LISTING, "Hugging Face"),
        ("huggingface.co/o/m", LISTING, "Hugging Face"),
        ("https://hf.co/o/m/tree/v2", f"{HUB}/api/models/o/m/revision/v2?blobs=true", "Hugging Face"),
        ("huggingface.co/o/m/a b.safetensors", f"{HUB}/o/m/resolve/main/a%20b.safetensors", "Hugging Face"),
        (f"{HUB}/o/m/blob/r1/x/l.safetensors", f"{HUB}/o/m/resolve/r1/x/l.safetensors", "Hugging Face"),
        (f"{HUB}/o/m/resolve/r1/l.safetensors?download=true", f"{HUB}/o/m/resolve/r1/l.safetensors", "Hugging Face"),
        ("civitai.com/models/618692", "https://civitai.com/api/v1/models/618692", "Civitai"),
        ("https://civitai.com/models/6/name?modelVersionId=7", "https://civitai.com/api/v1/models/6", "Civitai"),
        ("urn:air:flux1:lora:civitai:618692@7", "https://civitai.com/api/v1/models/618692", "Civitai"),
        ("https://civitai.com/api/download/models/7", "https://civitai.com/api/download/models/7", "Civitai"),
        (f"o/m/{VERSION}", f"https://replicate.com/o/m/versions/{VERSION}/_weights", "Replicate"),
        (f"o/m:{VERSION}", f"https://replicate.com/o/m/versions/{VERSION}/_weights", "Replicate"),
        ("replicate.com/o/m", "https://replicate.com/o/m/_weights", "Replicate"),
        ("https://replicate.com/o/m/_weights", "https://replicate.com/o/m/_weights", "Replicate"),
        ("https://replicate.delivery/x/trained_model.tar", "https://replicate.delivery/x/trained_model.tar", "the web"),
    ],
)  # fmt: skip
def test_every_way_to_name_a_lora_leads_to_its_site(reference: str, url: str, site: str) -> None:
    found = plan(reference, TOKENS)
    assert (found.url, found.site) == (url, site)
    token = {"Hugging Face": "hf_secret", "Civitai": "civ_secret", "Replicate": "r8_secret", "the web": ""}[site]
    assert found.headers == ({"Authorization": f"Bearer {token}"} if token else {})
    assert "secret" not in repr(found) + repr(TOKENS)


@pytest.mark.parametrize(
    ("reference", "error", "said"),
    [
        ("vivi", ParameterError, "names no LoRA"),
        ("a/b/c/d", ParameterError, "names no LoRA"),
        ("", ParameterError, "names no LoRA"),
        ("ftp://example.com/x.safetensors", LinkError, "not http or https"),
        ("http://169.254.169.254/latest/x.safetensors", LinkError, "private address"),
        ("https://user:word@example.com/x.safetensors", LinkError, "user name or password"),
        ("huggingface.co/datasets/o/m", LinkError, "something else than one LoRA"),
        ("civitai.com/articles/1", LinkError, "something else than one LoRA"),
        ("urn:air:sdxl:lora:civitai:1@2", ModelFileError, "made for sdxl"),
    ],
)
def test_what_names_no_lora_is_refused_before_anything_is_asked(
    reference: str, error: type[VividCoverError], said: str
) -> None:
    with pytest.raises(error, match=said) as failure:
        plan(reference, TOKENS)
    assert failure.value.hint


def hub(*names: str, **more: Any) -> dict[str, Any]:
    return {"siblings": [{"rfilename": name} for name in (".gitattributes", "README.md", *names)], **more}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["my.safetensors"], "my.safetensors"),
        (["lora.safetensors", "other.safetensors"], "lora.safetensors"),
        (["me.safetensors", "me_000000250.safetensors", "me_000000500.safetensors"], "me.safetensors"),
        (["me.safetensors", "me_emb.safetensors"], "me.safetensors"),
        (["me.safetensors", "checkpoints/a.safetensors"], "me.safetensors"),
        (["weights/me.safetensors"], "weights/me.safetensors"),
    ],
)
def test_of_a_repository_the_lora_is_taken_and_nothing_beside_it(tmp_path: Path, names: list[str], chosen: str) -> None:
    listing = hub(*names, cardData={"instance_prompt": "VIVI"})
    site = Site({LISTING: listing, f"{HUB}/o/m/resolve/main/{chosen}": b"weights"})
    path = bring("o/m", tmp_path, tokens=TOKENS, fetch=site)
    assert path.read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == [path]
    assert [headers for _, headers in site.asked] == [{"Authorization": "Bearer hf_secret"}] * 2
    assert choose(plan("o/m"), json.dumps(listing).encode()).trigger == "VIVI"


def test_what_peft_saved_is_fetched_with_the_file_that_holds_its_scale(tmp_path: Path) -> None:
    listing, at = hub("adapter_model.safetensors", "adapter_config.json"), f"{HUB}/o/m/resolve/main"
    site = Site({LISTING: listing, f"{at}/adapter_model.safetensors": b"weights",
                 f"{at}/adapter_config.json": {"r": 4, "lora_alpha": 8}})  # fmt: skip
    path = bring("o/m", tmp_path, fetch=site)
    assert (path.name, path.read_bytes()) == ("adapter_model.safetensors", b"weights")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 8
    with pytest.raises(NotFoundError, match=r"no o/m with a file 'adapter_config\.json'"):
        bring("o/m", tmp_path, fetch=Site({key: site.answers[key] for key in list(site.answers)[:2]}))


def test_a_file_that_is_not_the_one_that_the_site_lists_is_not_kept(tmp_path: Path) -> None:
    right = hashlib.sha256(b"weights").hexdigest()
    listed = {"siblings": [{"rfilename": "x.safetensors", "lfs": {"sha256": right, "size": 7}}]}
    model = civitai()
    model["modelVersions"][0]["files"][1]["hashes"] = {"SHA256": right.upper()}
    answers = {LISTING: listed, "https://civitai.com/api/v1/models/5": model}
    links = [f"{HUB}/o/m/resolve/main/x.safetensors", "https://civitai.com/api/download/models/8"]
    for reference, link in zip(("o/m", "civitai.com/models/5"), links, strict=True):
        bring(reference, tmp_path, fetch=Site({**answers, link: b"weights"})).unlink()
        with pytest.raises(LinkError, match="not the file that it lists"):
            bring(reference, tmp_path, fetch=Site({**answers, link: b"wrights"}))
        assert list(tmp_path.iterdir()) == []


def test_a_repository_of_several_loras_or_none_is_refused_with_their_names(tmp_path: Path) -> None:
    for names, said in (
        (["a.safetensors", "b.safetensors"], r"2 LoRAs \(a.safetensors, b.safetensors\)"),
        ([], "no .saf"),
    ):
        with pytest.raises(ModelFileError, match=said) as failure:
            bring("o/m", tmp_path, fetch=Site({LISTING: hub(*names)}))
        assert "huggingface.co/o" in failure.value.hint
    assert list(tmp_path.iterdir()) == []


def civitai(base: str = "Flux.1 D", kind: str = "LORA", link: str = "https://civitai.com/api/download/models/8") -> Any:
    files = [{"type": "Training Data", "name": "x.zip", "downloadUrl": "https://civitai.com/api/download/models/9"},
             {"type": "Model", "name": "v.safetensors", "downloadUrl": link, "primary": True}]  # fmt: skip
    versions = [{"id": 8, "baseModel": base, "files": files, "trainedWords": ["VIVI"]},
                {"id": 7, "baseModel": "SDXL 1.0", "files": files}]  # fmt: skip
    return {"name": "Vivi", "type": kind, "modelVersions": versions}


def test_of_a_civitai_model_the_newest_version_for_flux_is_taken(tmp_path: Path) -> None:
    api = "https://civitai.com/api/v1/models/5"
    site = Site({api: civitai(), "https://civitai.com/api/download/models/8": b"weights"})
    assert bring("civitai.com/models/5", tmp_path, tokens=TOKENS, fetch=site).read_bytes() == b"weights"
    assert choose(plan("civitai.com/models/5"), json.dumps(civitai()).encode()).trigger == "VIVI"
    with pytest.raises(ModelFileError, match=r"a LORA for SDXL 1\.0, not a LoRA for FLUX\.1"):
        bring("civitai.com/models/5?modelVersionId=7", tmp_path, fetch=site)
    with pytest.raises(NotFoundError, match="no such version of Vivi"):
        bring("civitai.com/models/5?modelVersionId=6", tmp_path, fetch=site)
    with pytest.raises(ModelFileError, match="a Checkpoint for Flux"):
        bring("civitai.com/models/5", tmp_path, fetch=Site({api: civitai(kind="Checkpoint")}))


@pytest.mark.parametrize("link", ["http://civitai.com/x", "https://evil.example/x.safetensors", ""])
def test_a_sites_answer_cannot_send_the_token_elsewhere(tmp_path: Path, link: str) -> None:
    site = Site({"https://civitai.com/api/v1/models/5": civitai(link=link)})
    with pytest.raises(ModelFileError, match="no file to download"):
        bring("civitai.com/models/5", tmp_path, tokens=TOKENS, fetch=site)
    assert len(site.asked) == 1


def test_a_site_that_wants_a_token_is_named_with_the_setting_that_holds_it(tmp_path: Path) -> None:
    gated = Site({LISTING: 401})
    with pytest.raises(EngineError, match=r"Hugging Face asks for a token before it hands out o/m") as failure:
        bring("o/m", tmp_path, fetch=gated)
    assert "VIVIDCOVER_HF_TOKEN" in failure.value.hint
    assert "huggingface.co/o/m" in failure.value.hint
    with pytest.raises(EngineError, match="refuses o/m with the token"):
        bring("o/m", tmp_path, tokens=TOKENS, fetch=gated)
    with pytest.raises(EngineError, match="Civitai asks for a token") as failure:
        bring("civitai.com/models/5", tmp_path, fetch=Site({"https://civitai.com/api/v1/models/5": 403}))
    assert "VIVIDCOVER_CIVITAI_TOKEN" in failure.value.hint
    with pytest.raises(NotFoundError, match=r"Hugging Face has no o/m, or it is private"):
        bring("o/m", tmp_path, fetch=Site({}))
    with pytest.raises(LinkError, match="429"):
        bring("o/m", tmp_path, fetch=Site({LISTING: 429}))


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"{",
        b"{}",
        b"5",
        b'{"siblings": 5, "modelVersions": 5}',
        b'{"siblings": [5]}',
        b'{"modelVersions": [{"baseModel": "Flux.1 D", "files": [{"type": "Model", "name": "a.tar", "hashes": [],'
        b'"downloadUrl": "https://civitai.com/x"}]}], "siblings": [{"rfilename": ["a"]}]}',
        b"\xff",
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(tmp_path: Path, answer: bytes) -> None:
    for reference, api in (("o/m", LISTING), ("civitai.com/models/5",) * 2):
        link = api if "://" in api else "https://civitai.com/api/v1/models/5"
        with pytest.raises((LinkError, ModelFileError, NotFoundError)):
            bring(reference, tmp_path, fetch=Site({link: answer}))
    assert list(tmp_path.iterdir()) == []


def test_a_file_here_is_taken_as_it_is_and_a_missing_one_is_not_looked_for_on_the_web(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x")
    site = Site({})
    assert bring(str(tmp_path / "a.safetensors"), tmp_path, fetch=site) == tmp_path / "a.safetensors"
    for missing in (str(tmp_path / "b.safetensors"), "models/b.tar", "out/models/b.safetensors"):
        with pytest.raises(NotFoundError, match="There is no file"):
            bring(missing, tmp_path, fetch=site)
    assert site.asked == []


def test_a_data_link_is_the_file_itself(tmp_path: Path) -> None:
    for body, suffix in ((b"PK\x03\x04", ".zip"), (b"\x02" + b"\0" * 7 + b"{}", ".safetensors"), (b"any", ".tar")):
        link = f"data:application/x-tar;base64,{base64.b64encode(body).decode()}"
        path = bring(link, tmp_path)
        assert (path.suffix, path.read_bytes()) == (suffix, body)
    for broken in ("data:application/x-tar;base64", "data:;base64,????"):
        with pytest.raises(LinkError, match="data: link"):
            bring(broken, tmp_path)


def test_any_link_to_a_file_goes_through_the_guarded_fetcher(tmp_path: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"weights")

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    port = server.server_address[1]
    link = f"http://127.0.0.1:{port}/vivi.safetensors"
    path = bring(link, tmp_path, allow=frozenset({("127.0.0.1", int(port))}))
    assert (path.name, path.read_bytes()) == ("vivi.safetensors", b"weights")
    with pytest.raises(LinkError, match="private address"):
        bring(link, tmp_path)
    server.shutdown()
    server.server_close()


def test_a_plan_says_what_it_would_ask_for() -> None:
    assert plan("o/m") == Plan("Hugging Face", LISTING, "o/m", True, {}, "", "main")
