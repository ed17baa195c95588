"""Nets that are folders, repositories that ask for leave, and files whose hash nobody has published."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from vividcover import weights
from vividcover.errors import ParameterError, StorageError, WeightsError
from vividcover.settings import settings
from vividcover.weights import download
from vividcover.weights.sources import tree
from weights_making import DATA, Answer, Site, running, serve, status

HERE = "https://huggingface.co/someone/nets"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def folder_net(monkeypatch: pytest.MonkeyPatch) -> Callable[..., weights.Net]:
    """Makes a registry of one net that is a folder of a large file with a hash and a small one without."""

    def make(*parts: weights.Part, **changes: Any) -> weights.Net:
        source = weights.Tree("someone/nets", "c" * 40, parts)
        net = replace(tree("toy", "a toy", source, "MIT", "a note", True, "voice"), **changes)
        monkeypatch.setattr(weights, "REGISTRY", {"toy": net})
        return net

    return make


SMALL = b'{"a": 1}'
LARGE = weights.Part("net/model.safetensors", len(DATA), hashlib.sha256(DATA).hexdigest())


def files(**contents: bytes) -> Answer:
    """Serves files by their last name, each with its git hash; 404 for others."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        name = request.path.rsplit("/", 1)[1].partition(".")[0]
        if name not in contents:
            status(404)(request)
            return
        request.send_response(200)
        request.send_header("ETag", f'"{git_hash(contents[name])}"')
        request.send_header("Content-Length", str(len(contents[name])))
        request.end_headers()
        request.wfile.write(contents[name])

    return answer


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def at_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Site, str], None]:
    def stand(site: Site, token: str = "") -> None:
        monkeypatch.setenv("HF_ENDPOINT", site.base)
        monkeypatch.setenv("HF_TOKEN", token)
        settings.cache_clear()

    return stand


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    yield
    settings.cache_clear()


def test_a_net_that_is_a_folder_comes_file_by_file_and_only_once(folder_net: Any, at_hub: Any, tmp_path: Path) -> None:
    folder_net(LARGE, weights.Part("config.json"))
    with running(files(model=DATA, config=SMALL)) as site:
        at_hub(site)
        assert weights.pull(["toy"], tmp_path) == [tmp_path / "toy"] == weights.pull(["toy"], tmp_path)
        assert len(site.asked) == 2 and all(f"/someone/nets/resolve/{'c' * 40}/" in path for path, _ in site.asked)
    assert weights.path("toy", tmp_path) == tmp_path / "toy" and weights.has("toy", tmp_path)
    assert (tmp_path / "toy/net/model.safetensors").read_bytes() == DATA
    assert (tmp_path / "toy/config.json").read_bytes() == SMALL


def test_a_folder_with_a_file_missing_is_missing_and_only_that_file_is_fetched(
    folder_net: Any, at_hub: Any, tmp_path: Path
) -> None:
    folder_net(LARGE, weights.Part("config.json"))
    with running(files(model=DATA, config=SMALL)) as site:
        at_hub(site)
        weights.pull(["toy"], tmp_path)
        (tmp_path / "toy/net/model.safetensors").unlink()
        assert not weights.has("toy", tmp_path) and weights.verify(tmp_path) == {"toy": "missing"}
        weights.pull(["toy"], tmp_path)
        assert [path.rsplit("/", 1)[1] for path, _ in site.asked][2:] == ["model.safetensors"]


def test_a_file_without_a_published_hash_must_be_what_the_hub_says_and_stay_it(
    folder_net: Any, at_hub: Any, tmp_path: Path
) -> None:
    folder_net(weights.Part("config.json"))

    def lying(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("ETag", f'"{git_hash(b"something else")}"')
        request.send_header("Content-Length", str(len(SMALL)))
        request.end_headers()
        request.wfile.write(SMALL)

    with running(lying) as site:
        at_hub(site)
        with pytest.raises(WeightsError, match="not used"):
            weights.pull(["toy"], tmp_path)
    with running(files(config=SMALL)) as site:
        at_hub(site)
        weights.pull(["toy"], tmp_path)
    (tmp_path / "toy/config.json").write_bytes(b'{"a": 2}')
    with pytest.raises(WeightsError, match=r"config\.json is not the file it should be"):
        weights.path("toy", tmp_path)


def test_a_large_file_without_a_published_hash_is_known_by_the_one_that_the_hub_names(
    folder_net: Any, at_hub: Any, tmp_path: Path
) -> None:
    folder_net(weights.Part("model.bin"))

    def elsewhere(told: bytes) -> Answer:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("X-Linked-ETag", f'"{hashlib.sha256(told).hexdigest()}"')
            request.send_header("Location", "/cdn/model.bin")
            request.send_header("Content-Length", "0")
            request.end_headers()

        return answer

    with running(elsewhere(b"other"), serve) as site:
        at_hub(site)
        with pytest.raises(WeightsError, match="not used"):
            weights.pull(["toy"], tmp_path)
    with running(elsewhere(DATA), serve) as site:
        at_hub(site)
        weights.pull(["toy"], tmp_path)
    assert weights.verify(tmp_path) == {"toy": "ok"}


def test_what_a_repository_may_lack_is_not_missed(folder_net: Any, at_hub: Any, tmp_path: Path) -> None:
    folder_net(weights.Part("config.json"), weights.Part("merges.txt", optional=True))
    with running(files(config=SMALL)) as site:
        at_hub(site)
        weights.pull(["toy"], tmp_path)
    assert weights.verify(tmp_path) == {"toy": "ok"} and weights.has("toy", tmp_path)
    folder_net(weights.Part("config.json"), weights.Part("model.safetensors"))
    with running(files(config=SMALL)) as site:
        at_hub(site)
        with pytest.raises(WeightsError, match="answers 404"):
            weights.pull(["toy"], tmp_path)


def test_all_that_is_to_come_must_fit_on_the_disk_before_the_first_byte_is_fetched(
    folder_net: Any, at_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_net(LARGE, weights.Part("more.safetensors", 24 * 10**9, "0" * 64))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 20 * 10**9))  # type: ignore[attr-defined]
    with running(files(model=DATA)) as site:
        at_hub(site)
        with pytest.raises(StorageError, match=r"toy need 24\.0 GB more in .* 20\.0 GB are free"):
            weights.pull(["toy"], tmp_path)
        assert site.asked == []


def test_leave_that_is_missing_is_explained_with_the_page_where_it_is_given(
    folder_net: Any, at_hub: Any, tmp_path: Path
) -> None:
    folder_net(LARGE, gated=HERE)
    with running(status(401)) as site:
        at_hub(site)
        with pytest.raises(WeightsError, match="answers 401") as caught:
            weights.pull(["toy"], tmp_path)
        assert HERE in caught.value.hint and "VIVIDCOVER_HF_TOKEN" in caught.value.hint
        at_hub(site, "hf_wrong")
        with pytest.raises(WeightsError, match="401") as caught:
            weights.pull(["toy"], tmp_path)
        assert "token in VIVIDCOVER_HF_TOKEN (or HF_TOKEN) is not let in" in caught.value.hint
        assert "hf_wrong" not in caught.value.hint + str(caught.value)
    with pytest.raises(WeightsError) as caught:
        weights.path("toy", tmp_path)
    assert HERE in caught.value.hint


def test_the_token_goes_to_the_hub_alone_and_only_for_what_asks_for_it(
    folder_net: Any, at_hub: Any, tmp_path: Path
) -> None:
    heard: list[str] = []

    def listening(answer: Answer) -> Answer:
        def listen(request: BaseHTTPRequestHandler) -> None:
            heard.append(request.headers.get("Authorization", ""))
            answer(request)

        return listen

    with running(listening(serve)) as cdn, running(listening(status(302, f"{cdn.base}/model.bin"))) as site:
        at_hub(site, "hf_mine")
        folder_net(LARGE, gated=HERE)
        weights.pull(["toy"], tmp_path / "a")
        folder_net(LARGE)
        weights.pull(["toy"], tmp_path / "b")
    assert heard == ["Bearer hf_mine", "", "", ""]


def test_a_user_may_name_a_folder_of_their_own_where_the_net_is_one(
    folder_net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEIGHT_FILES", f'{{"toy": "{tmp_path}"}}')
    settings.cache_clear()
    folder_net(LARGE)
    assert weights.path("toy", tmp_path / "w") == tmp_path and weights.has("toy")
    folder_net(LARGE, source=weights.Url("http://127.0.0.1:9/toy.bin"))
    with pytest.raises(WeightsError, match="no such file"):
        weights.path("toy", tmp_path / "w")
    folder_net(LARGE, source=weights.Url("http://127.0.0.1:9/toy.bin"), either=True)
    assert weights.path("toy", tmp_path / "w") == tmp_path


# FLUX.1's licences -----------------------------------------------------------------------------------------------


def test_flux_dev_is_not_for_commercial_use_and_what_is_said_depends_on_what_is_done() -> None:
    training = weights.licence_of("dev", doing="training")
    painting = weights.licence_of("flux-dev")
    assert training.commercial is painting.commercial is False
    assert "non-commercial purposes only" in training.text and "non-commercial purposes only" in painting.text
    assert "Derivative" in training.text and "any purpose, commercial too" in painting.text
    assert "bfl.ai" in training.text


def test_flux_schnell_is_for_any_use_until_a_lora_of_dev_is_worn_on_it() -> None:
    alone = weights.licence_of("schnell")
    worn = weights.licence_of("schnell", trained_on="dev")
    assert alone.commercial is True and alone.name == "Apache-2.0"
    assert worn.commercial is False and "stays under that model's licence" in worn.text
    assert weights.licence_of("schnell", doing="training").commercial is True


def test_several_models_of_one_licence_are_named_together() -> None:
    note = weights.licence_of("fill", "redux", "fill")
    assert note.text.startswith("FLUX.1 Fill [dev] and FLUX.1 Redux [dev], each is under")
    with pytest.raises(ParameterError, match="'pony'"):
        weights.licence_of("pony")


def test_every_part_of_a_folder_is_pinned_to_a_commit_and_what_is_large_by_its_hash() -> None:
    for net in weights.REGISTRY.values():
        if isinstance(net.source, weights.Tree):
            assert len(net.source.revision) == 40 and all(len(revision) == 40 for _, revision in net.source.mirrors)
            assert all(len(part.sha256) in (0, 64) for part in net.source.parts)
            assert all(part.sha256 for part in net.source.parts if part.size > 10**9)
            assert len({part.path for part in net.source.parts}) == len(net.source.parts)


def test_what_asks_for_leave_names_the_page_and_nothing_that_is_not_free_has_a_way_round_it() -> None:
    for net in weights.REGISTRY.values():
        if net.gated:
            assert net.gated.startswith("https://huggingface.co/")
            assert net.commercial or not (net.source.mirrors if not isinstance(net.source, weights.Wheel) else ())


def test_the_models_of_flux_state_the_same_in_the_table_as_when_they_are_used() -> None:
    for name in ("dev", "schnell", "fill", "canny", "depth", "redux"):
        net, note = weights.net(f"flux-{name}"), weights.licence_of(name)
        assert net.commercial is note.commercial and note.name in (net.licence, net.licence_note.partition(":")[0])
