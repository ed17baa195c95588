"""Trained models: found by name, path or link; anything else is called what it is."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from vividcover.archives import write_zip
from vividcover.catalog import shelf
from vividcover.catalog.contract import Context
from vividcover.errors import ModelFileError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Workspace

CARD = {"kind": "vividcover-voice", "engine": "classic", "format": 1, "name": "me", "consent": "mine"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Workspace(tmp_path / "cache"), Settings(home=tmp_path / "home"))


def test_a_shelved_voice_is_found_by_name_and_by_path(context: Context, tmp_path: Path) -> None:
    model = write_zip(tmp_path / "m.zip", {"model.json": json.dumps(CARD).encode()})
    path = shelf.shelve("voice", "me", model, context.settings)
    assert shelf.take("voice", "me", context).path == path
    assert shelf.take("voice", str(model), context).card["consent"] == "mine"
    assert [t.name for t in shelf.listed("voice", context.settings)] == ["me"]
    assert context.materials[0]["consent"] == "mine"


def test_an_unknown_name_gets_the_nearest_one(context: Context, tmp_path: Path) -> None:
    shelf.shelve(
        "voice", "vivienne", write_zip(tmp_path / "m.zip", {"model.json": json.dumps(CARD).encode()}), context.settings
    )
    with pytest.raises(NotFoundError, match=r"no voice named 'viviene'.*Did you mean vivienne"):
        shelf.take("voice", "viviene", context)


@pytest.mark.parametrize("files", [{"me.pth": b"x", "added_me.index": b"x"}, {"sub/me.pth": b"x", "readme": b"x"}])
def test_a_voice_that_others_published_is_the_neural_engines(
    context: Context, tmp_path: Path, files: dict[str, bytes]
) -> None:
    published = write_zip(tmp_path / "MrKrabs.zip", files)
    assert shelf.take("voice", str(published), context).card["engine"] == "neural"
    assert shelf.engine_of("voice", str(published), context) == (
        "neural", "the voice 'MrKrabs' is an RVC model, which the neural engine reads",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"lora.safetensors": b"x"}, "is a FLUX LoRA"),
        ({"dataset/me/split_0.wav": b"x"}, "is a dataset, not yet a model"),
        ({"readme": b"x"}, r"has no model\.json; it holds readme"),
        ({"model.json": b"{"}, r"damaged model\.json"),
        ({"model.json": b'{"kind": "vividcover-image"}'}, "'vividcover-image', not a voice"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(
    context: Context, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    with pytest.raises(ModelFileError, match=said):
        shelf.take("voice", str(write_zip(tmp_path / "m.zip", files)), context)


def test_a_text_file_and_a_truncated_tar_are_not_models(context: Context, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(ModelFileError, match="is not a trained image model"):
        shelf.take("image", str(tmp_path / "note.txt"), context)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.json"), io.BytesIO())
    (tmp_path / "empty.tar").write_bytes(buffer.getvalue())
    with pytest.raises(ModelFileError, match=r"empty\.tar"):
        shelf.take("image", str(tmp_path / "empty.tar"), context)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a b"])
def test_names_cannot_leave_the_shelf(name: str) -> None:
    with pytest.raises(ParameterError, match="cannot be a name"):
        shelf.check_name(name)
