"""`vividcover weights …`: what there is and what it allows in one look, fetched by name or group, checked on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vividcover import weights
from vividcover.cli import build
from vividcover.settings import settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A weights folder of its own, empty."""
    monkeypatch.setenv("VIVIDCOVER_WEIGHTS_DIR", str(tmp_path / "weights"))
    settings.cache_clear()
    yield tmp_path / "weights"
    settings.cache_clear()


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(build(), ["weights", *words])
    return done.exit_code, done.stdout, done.stderr


def laid(folder: Path, data: bytes, default: bool = True) -> weights.Net:
    """A net that lies in the folder already."""
    source, sha256 = weights.Url("https://127.0.0.1:9/toy.bin"), hashlib.sha256(data).hexdigest()
    net = weights.Net(
        "toy", "toy.bin", "a toy", source, "", len(data), sha256, "MIT", "mine", True, ("voice",), default
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / net.file).write_bytes(data)
    return net


def test_the_list_fits_a_terminal_and_shows_size_licence_and_commercial_use(folder: Path) -> None:
    status, out, _ = call("list")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 1 + len(weights.REGISTRY)
    assert max(len(line.rstrip()) for line in lines) <= 80
    (rmvpe,) = [line.split() for line in lines if line.startswith("rmvpe ")]
    assert rmvpe == ["rmvpe", "missing", "181.2", "MIT", "yes", "voice"]
    assert any(line.split()[-2:] == ["unstated", "mdx"] for line in lines)


def test_a_group_is_listed_alone_and_an_unknown_one_is_named(folder: Path) -> None:
    assert len(call("list", "--group", "mdx")[1].splitlines()) == 1 + 3
    status, _, said = call("list", "--group", "tea")
    assert status == 2 and "'tea'" in said and "separation" in said


def test_rows_for_scripts_have_everything(folder: Path) -> None:
    rows = {row["name"]: row for row in json.loads(call("list", "--json")[1])}
    assert rows["rmvpe"]["size"] == 181_184_272 and rows["rmvpe"]["commercial"] is True
    assert rows["uvr_mdx_voc_ft"]["commercial"] is None and rows["face_landmark"]["groups"] == ["face"]


def test_one_net_is_shown_with_its_address_hash_and_place(folder: Path) -> None:
    status, out, _ = call("show", "rmvpe")
    assert status == 0 and "huggingface.co" in out and str(folder / "rmvpe.pt") in out and "6d62215f43" in out
    status, _, said = call("show", "nose")
    assert status == 3 and "'nose'" in said


def test_pulling_what_lies_there_fetches_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "REGISTRY", {"toy": laid(folder, b"a net")})
    for words in ([], ["toy"], ["--group", "voice"]):
        status, out, _ = call("pull", "--json", *words)
        assert status == 0 and [row["state"] for row in json.loads(out)] == ["ok"]


def test_a_pull_without_a_network_says_how_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = laid(folder, b"a net")
    (folder / net.file).unlink()
    monkeypatch.setattr(weights, "REGISTRY", {"toy": net})
    from vividcover.weights import download

    monkeypatch.setattr(download, "PAUSE", 0.01)
    status, out, said = call("pull", "toy", "--json")
    assert status == 5 and json.loads(out)["error"]["code"] == "weights-missing"
    assert net.source.page in said and str(folder / net.file) in said  # type: ignore[union-attr]


def test_verify_fails_for_a_damaged_net_and_not_for_one_that_was_never_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = laid(folder, b"a net", default=False)
    monkeypatch.setattr(weights, "REGISTRY", {"toy": net})
    assert call("verify")[0] == 0
    (folder / net.file).write_bytes(b"a nit")
    status, out, said = call("verify")
    assert status == 5 and "changed" in out and "toy is changed" in said and "pull toy" in said
    (folder / net.file).unlink()
    assert call("verify")[0] == 0


def test_verify_fails_where_the_classic_engine_lacks_a_net(folder: Path) -> None:
    status, _, said = call("verify")
    assert status == 5 and "face_landmark is missing" in said and "rmvpe" not in said
