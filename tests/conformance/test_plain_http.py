"""The three clients without TLS: all of it works, but outputs are plain links, not the clients' file objects."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ground import HELLO, Ground, Script, served
from replicate.client import Client


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with served(tmp_path_factory.mktemp("plain") / "home", tls=False, runs=0) as made:
        yield made


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "recordings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for clip in sorted((sample / "voice").glob("*.flac"))[:2]:
            archive.write(clip, clip.name)
    return path


def check(output: object, ground: Ground) -> None:
    """A link that anybody who has it may read."""
    assert isinstance(output, str) and output.startswith(f"{ground.url}/outputs/") and output.endswith(".zip")
    answer = httpx.get(output)
    assert (answer.status_code, answer.content[:2]) == (200, b"PK")


def test_the_python_client(clients: Ground, recordings: Path) -> None:
    client = Client()
    with recordings.open("rb") as file:
        check(client.run("zsxkib/create-rvc-dataset", {"youtube_url": file, "audio_name": "ann"}), clients)
    assert [str(event) for event in client.stream(HELLO, input={}) if event.event.value == "output"]


def test_the_javascript_client(javascript: Script, ground: Ground, recordings: Path) -> None:
    done = javascript("plain", zip=str(recordings))
    check(done["output"], ground)
    assert done["heard"][-1] == "done"


def test_the_second_major_of_the_python_client_whose_use_downloads_all_the_same(
    python_2: Script, ground: Ground, recordings: Path
) -> None:
    done = python_2("plain", zip=str(recordings))
    check(done["output"], ground)
    assert (done["start"], done["name"]) == ("PK", "dataset_pia.zip")
