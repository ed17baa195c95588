"""A trained image model's file: what was written is read, and anything else is called what it is."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vividcover.errors import ModelFileError
from vividcover.image.classic.modelfile import read_model, write_model


def tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def card(**changes: Any) -> bytes:
    return json.dumps({"kind": "vividcover-image", "engine": "classic", "format": 1} | changes).encode()


def test_what_is_written_is_read_and_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        write_model(tmp_path / name, {"trigger_word": "VIVI"}, {"b/2.npy": b"two", "a.png": b"one"})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    model = read_model(tmp_path / "one.tar")
    assert (model.info["trigger_word"], model.files) == ("VIVI", {"a.png": b"one", "b/2.npy": b"two"})


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"lora__safetensors": b"x"}, "of the engine 'neural', not classic"),
        ({"readme": b"x"}, r"has no model\.json"),
        ({"model__json": b"{"}, r"damaged model\.json"),
        ({"model__json": card(kind="vividcover-voice")}, "'vividcover-voice', not an image"),
        ({"model__json": card(engine="hosted")}, "of the engine 'hosted', not classic"),
        ({"model__json": card(format=9)}, "has format 9; this version reads format 1"),
        ({"model__json": card()} | {f"f{number}": b"" for number in range(300)}, "too large"),
    ],
)
def test_another_tar_is_called_what_it_is(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_model(tar(tmp_path / "m.tar", **members))


def test_what_is_no_tar_or_not_there_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "note.tar").write_text("hello")
    with pytest.raises(ModelFileError, match="is not a trained image model"):
        read_model(tmp_path / "note.tar")
    for path in (tmp_path, tmp_path / "nowhere.tar"):
        with pytest.raises(ModelFileError, match="There is no image model at"):
            read_model(path)
    write_model(tmp_path / "whole.tar", {}, {"z.npy": b"x" * 5000})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:4000])
    with pytest.raises(ModelFileError, match="is damaged"):
        read_model(tmp_path / "cut.tar")
