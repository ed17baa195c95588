"""Weights from the web: whole or absent, resumed, checked, and clear words when they cannot be had. A real server."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme

from vividcover import weights
from vividcover.errors import Canceled, NotFoundError, StorageError, WeightsError
from vividcover.settings import settings
from vividcover.weights import download
from vividcover.workspace import Silent
from weights_making import DATA, cut, running, serve, status


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., weights.Net]:
    """Makes a registry of one net of `DATA` at the given addresses."""

    def make(*addresses: str, **changes: Any) -> weights.Net:
        net = weights.Net(
            "toy", "deep/toy.bin", "a toy", weights.Url(addresses[0], addresses[1:]), "", len(DATA),
            hashlib.sha256(DATA).hexdigest(), "MIT", "a note",
        )  # fmt: skip
        net = replace(net, **changes)
        monkeypatch.setattr(weights, "REGISTRY", {"toy": net})
        return net

    return make


def left(folder: Path) -> list[str]:
    """The files in a folder, but for the lock and the list of hashes."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name not in (".pull.lock", weights.STAMPS))


def test_a_file_comes_through_a_redirect_and_only_once(toy: Any, tmp_path: Path) -> None:
    with running(status(302, "/elsewhere/toy.bin"), serve) as site:
        toy(f"{site.base}/toy.bin")
        (file,) = weights.pull(["toy"], tmp_path)
        assert file == tmp_path / "deep" / "toy.bin" and file.read_bytes() == DATA
        assert weights.pull(["toy"], tmp_path) == [file]
        assert [path for path, _ in site.asked] == ["/toy.bin", "/elsewhere/toy.bin"]
    assert weights.path("toy", tmp_path) == file and left(tmp_path) == ["toy.bin"]


def test_a_cut_connection_is_taken_up_where_it_broke(toy: Any, tmp_path: Path) -> None:
    with running(cut, serve) as site:
        toy(f"{site.base}/toy.bin")
        (file,) = weights.pull(["toy"], tmp_path)
        asked = site.asked[1][1]
        assert asked.startswith("bytes=") and 0 < int(asked[6:-1]) <= len(DATA) // 2
    assert file.read_bytes() == DATA


def test_what_a_killed_pull_has_brought_is_not_fetched_again(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".toy.bin.partial").write_bytes(DATA[:200_000])
    with running(serve) as site:
        toy(f"{site.base}/toy.bin")
        (file,) = weights.pull(["toy"], tmp_path)
        assert site.asked == [("/toy.bin", "bytes=200000-")]
    assert file.read_bytes() == DATA and left(tmp_path) == ["toy.bin"]


def test_a_server_that_knows_no_ranges_starts_anew(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".toy.bin.partial").write_bytes(DATA[:200_000])
    with running(lambda request: serve(request, ranges=False)) as site:
        toy(f"{site.base}/toy.bin", size=0)  # nor is the size known
        (file,) = weights.pull(["toy"], tmp_path)
    assert file.read_bytes() == DATA


def test_a_beginning_of_something_else_is_thrown_away(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".toy.bin.partial").write_bytes(b"x" * 200_000)
    with running(serve) as site:
        toy(f"{site.base}/toy.bin")
        (file,) = weights.pull(["toy"], tmp_path)
        assert [asked for _, asked in site.asked] == ["bytes=200000-", ""]
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA), 0])
def test_other_bytes_are_refused_and_nothing_stays(toy: Any, tmp_path: Path, size: int) -> None:
    with running(lambda request: serve(request, bytes(len(DATA)))) as site:
        toy(f"{site.base}/toy.bin", size=size)
        with pytest.raises(WeightsError, match="not used") as caught:
            weights.pull(["toy"], tmp_path)
    assert str(tmp_path / "deep" / "toy.bin") in caught.value.hint
    assert left(tmp_path) == [] and weights.verify(tmp_path) == {"toy": "missing"}


def test_a_page_in_place_of_the_file_is_refused_before_it_is_read(toy: Any, tmp_path: Path) -> None:
    with running(lambda request: serve(request, b"<html>Log in to this network</html>")) as site:
        toy(f"{site.base}/toy.bin")
        with pytest.raises(WeightsError, match="offers 35 bytes"):
            weights.pull(["toy"], tmp_path)


def test_a_server_that_never_ends_does_not_fill_the_disk(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LIMIT", len(DATA))

    def flood(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(DATA)

    with running(flood) as site:
        for size in (0, len(DATA)):
            toy(f"{site.base}/toy.bin", size=size)
            with pytest.raises(WeightsError, match="sends more than 300,000 bytes"):
                weights.pull(["toy"], tmp_path)
    assert left(tmp_path) == []


def test_a_pull_that_was_stopped_just_before_the_end_asks_nobody(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".toy.bin.partial").write_bytes(DATA)
    toy("http://127.0.0.1:9/toy.bin", size=0)
    assert weights.pull(["toy"], tmp_path)[0].read_bytes() == DATA


def test_a_mirror_serves_what_the_first_address_has_lost(toy: Any, tmp_path: Path) -> None:
    with running(status(404)) as gone, running(serve) as mirror:
        toy(f"{gone.base}/toy.bin", f"{mirror.base}/copy.bin")
        (file,) = weights.pull(["toy"], tmp_path)
    assert file.read_bytes() == DATA and len(gone.asked) == 1


def test_a_file_that_nobody_has_names_the_status_and_the_way_by_hand(toy: Any, tmp_path: Path) -> None:
    with running(status(404)) as site:
        net = toy(f"{site.base}/toy.bin")
        with pytest.raises(WeightsError, match="answers 404") as caught:
            weights.pull(["toy"], tmp_path)
    assert net.source.page in caught.value.hint and str(tmp_path / net.file) in caught.value.hint


def test_a_busy_server_is_asked_again_but_not_for_ever(toy: Any, tmp_path: Path) -> None:
    with running(status(503), status(429), serve) as site:
        toy(f"{site.base}/toy.bin")
        assert weights.pull(["toy"], tmp_path)[0].read_bytes() == DATA
    with running(status(503)) as site:
        toy(f"{site.base}/toy.bin", file="other.bin")
        with pytest.raises(WeightsError, match="answers 503"):
            weights.pull(["toy"], tmp_path)
        assert len(site.asked) == download.TRIES


def test_without_a_network_the_error_says_so(toy: Any, tmp_path: Path) -> None:
    toy("http://127.0.0.1:9/toy.bin")
    with pytest.raises(WeightsError, match="could not be fetched") as caught:
        weights.pull(["toy"], tmp_path)
    assert "Check the network" in caught.value.hint


def test_the_hub_may_stand_elsewhere(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(serve) as site:
        monkeypatch.setenv("HF_ENDPOINT", f"{site.base}/hub/")
        toy("https://huggingface.co/someone/net/resolve/abc/toy.bin")
        weights.pull(["toy"], tmp_path)
        assert site.asked[0][0] == "/hub/someone/net/resolve/abc/toy.bin"


def test_an_address_with_encryption_may_not_lead_to_one_without(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with running(serve) as bare, running(status(302, f"{bare.base}/toy.bin"), serve, context=context) as site:
        toy(f"{site.base}/toy.bin")
        with pytest.raises(WeightsError, match="without encryption"):
            weights.pull(["toy"], tmp_path / "w")
        weights.pull(["toy"], tmp_path / "w")  # and with encryption all the way it comes
    assert weights.verify(tmp_path / "w") == {"toy": "ok"}


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with running(serve) as site:
        toy(f"{site.base}/toy.bin")
        with pytest.raises(StorageError, match="1 MB are free"):
            weights.pull(["toy"], tmp_path)
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_is_an_error_of_storage_and_the_rest_comes_later(toy: Any, tmp_path: Path) -> None:
    with running(serve) as site:
        toy(f"{site.base}/toy.bin")
        limited = (
            "import resource, hashlib; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "from vividcover import weights\n"
            f"net = weights.Net('toy', 'deep/toy.bin', '', weights.Url('{site.base}/toy.bin'), '', {len(DATA)},"
            f" '{hashlib.sha256(DATA).hexdigest()}', 'MIT', '')\n"
            "weights.REGISTRY = {'toy': net}\n"
            f"weights.pull(['toy'], __import__('pathlib').Path({str(tmp_path)!r}))"
        )
        done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
        assert "StorageError: The disk is full" in done.stderr
        assert left(tmp_path) == [".toy.bin.partial"]
        (file,) = weights.pull(["toy"], tmp_path)
        assert site.asked[1][1] == "bytes=100000-"
    assert file.read_bytes() == DATA


class Impatient(Silent):
    """Wants to stop a moment after the first bytes have been reported."""

    def __init__(self) -> None:
        super().__init__()
        self.until, self.said = float("inf"), ""

    def progress(self, fraction: float, text: str = "") -> None:
        if text.startswith("fetching toy") and not self.said:
            self.until, self.said = time.monotonic() + 0.3, text
        self.check()

    def check(self) -> None:
        if time.monotonic() > self.until:
            raise Canceled()


def test_stopping_does_not_wait_for_a_network_that_has_gone_silent(toy: Any, tmp_path: Path) -> None:
    over = threading.Event()

    def stall(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(DATA)))
        request.end_headers()
        request.wfile.write(DATA[: 3 << 16])
        request.wfile.flush()
        over.wait(20)

    with running(stall, serve) as site:
        toy(f"{site.base}/toy.bin")
        reporter = Impatient()
        with pytest.raises(Canceled):
            weights.pull(["toy"], tmp_path, reporter=reporter)
        assert time.monotonic() - reporter.until < 1.0
        over.set()
        assert weights.pull(["toy"], tmp_path)[0].read_bytes() == DATA


def test_two_pulls_at_once_fetch_a_file_once(toy: Any, tmp_path: Path) -> None:
    def slowly(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        serve(request)

    with running(slowly) as site:
        toy(f"{site.base}/toy.bin")
        threads = [threading.Thread(target=weights.pull, args=(["toy"], tmp_path)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(site.asked) == 1
    assert weights.verify(tmp_path) == {"toy": "ok"}


# files laid by hand ----------------------------------------------------------------------------------------------


def test_a_file_laid_by_hand_is_as_good_as_a_pulled_one(toy: Any, tmp_path: Path) -> None:
    net = toy("http://127.0.0.1:9/toy.bin")
    assert not weights.has("toy", tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / net.file).write_bytes(DATA)
    assert weights.has("toy", tmp_path)
    assert weights.path("toy", tmp_path) == tmp_path / net.file
    assert weights.pull(["toy"], tmp_path) == [tmp_path / net.file]


def test_a_large_file_is_hashed_once_until_it_changes(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = weights.sha256_file
    monkeypatch.setattr(weights, "sha256_file", lambda file: hashed.append(file) or real(file))
    monkeypatch.setattr(weights, "LARGE", 1000)
    net = toy("http://127.0.0.1:9/toy.bin")
    file = tmp_path / net.file
    file.parent.mkdir()
    file.write_bytes(DATA)
    for _ in range(3):
        assert weights.path("toy", tmp_path) == file
    assert len(hashed) == 1
    file.write_bytes(bytes(len(DATA)))  # the same size
    os.utime(file, ns=(1, 1))
    with pytest.raises(WeightsError, match="sha256"):
        weights.path("toy", tmp_path)
    file.write_bytes(DATA)
    assert weights.verify(tmp_path) == {"toy": "ok"} == weights.verify(tmp_path)
    assert len(hashed) == 4  # `verify` trusts no list


def test_a_user_may_name_files_of_their_own(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy("http://127.0.0.1:9/toy.bin")
    own = tmp_path / "mine.bin"
    monkeypatch.setenv("VIVIDCOVER_WEIGHT_FILES", f'{{"toy": "{own}"}}')
    settings.cache_clear()
    try:
        with pytest.raises(WeightsError, match=r"mine\.bin"):
            weights.path("toy", tmp_path)
        with pytest.raises(WeightsError, match=r"mine\.bin"):
            weights.pull(["toy"], tmp_path)
        own.write_bytes(b"another net")
        assert weights.path("toy", tmp_path) == own == weights.pull(["toy"], tmp_path)[0]
        assert weights.verify(tmp_path) == {"toy": "own"} and weights.Shelf(tmp_path).has("toy")
    finally:
        settings.cache_clear()


def test_a_missing_net_names_the_command_with_its_name_and_size(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights pull rmvpe` once \(181 MB\)"):
        weights.path("rmvpe", tmp_path)
    with pytest.raises(NotFoundError, match="'rmvp'"):
        weights.pull(["rmvp"], tmp_path)
