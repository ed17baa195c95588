"""A voice is found in whatever people have: zips of every layout, folders, bare files; what is none is named."""

import io
import json
import sys
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rvc_making import voice_file

from vividcover.errors import ModelFileError, NotFoundError
from vividcover.voice.rvc.opening import open_model


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    return voice_file(tmp_path_factory.mktemp("voice") / "Anna.pth").read_bytes()


def index_bytes(width=768, count=50):
    made = faiss.IndexFlatL2(width)
    made.add(np.random.default_rng(0).standard_normal((count, width), dtype=np.float32))
    return faiss.serialize_index(made).tobytes()


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_files_are_found_in_any_folder_of_a_zip(pth, tmp_path):
    layouts = (
        {"Anna.pth": pth, "added_IVF1_Flat_Anna_v2.index": index_bytes(), "total_fea.npy": b"x"},
        {"Anna (RVC)/weights/Anna.pth": pth, "Anna (RVC)/logs/Anna/Added_x.INDEX": index_bytes(), "readme.txt": b""},
        {
            "__MACOSX/._Anna.pth": b"junk",
            "a/b/c/Anna.pth": pth,
            "a/trained_x.index": b"",
            "a/added_x.index": index_bytes(),
        },
    )
    for number, files in enumerate(layouts):
        model = open_model(zipped(tmp_path / f"{number}.zip", files))
        assert model.name == "Anna" and model.file.version == "v2" and len(model.index) == 50


def test_a_folder_and_a_bare_file_with_its_index_beside_it_will_do(pth, tmp_path):
    (tmp_path / "Anna.pth").write_bytes(pth)
    (tmp_path / "added_IVF1_Flat_nprobe_1_Anna_v2.index").write_bytes(index_bytes())
    (tmp_path / "added_IVF1_Flat_nprobe_1_Ben_v2.index").write_bytes(index_bytes(count=9))
    bare = open_model(tmp_path / "Anna.pth")
    assert len(bare.index) == 50 and "beside the voice" in bare.notes[0]
    assert open_model(tmp_path).index is not None
    assert open_model(tmp_path / "Anna.pth", with_index=False).index is None


def test_a_checkpoint_of_the_training_is_taken_only_where_there_is_no_voice(pth, tmp_path):
    other = io.BytesIO()
    torch.save({"model": {"discriminators.0.weight": torch.zeros(3)}}, other)
    model = open_model(zipped(tmp_path / "v.zip", {"D_2333333.pth": other.getvalue() * 2, "Anna.pth": pth}))
    assert model.file.kind == "voice"


def test_our_card_names_the_voice_and_its_range(pth, tmp_path):
    card = {"kind": "vividcover-voice", "engine": "neural", "name": "Anna B", "f0_hz": {"median": 210.0}}
    model = open_model(zipped(tmp_path / "v.zip", {"x.pth": pth, "model.json": json.dumps(card)}))
    assert (model.name, model.card["f0_hz"]["median"]) == ("Anna B", 210.0)
    strange = open_model(zipped(tmp_path / "s.zip", {"x.pth": pth, "model.json": '{"epochs": 3}'}))
    assert (strange.name, strange.card) == ("x", {})


def test_what_is_no_voice_is_named(pth, tmp_path):
    critics = io.BytesIO()
    torch.save({"model": {"discriminators.0.weight": torch.zeros(3)}}, critics)
    classic = json.dumps({"kind": "vividcover-voice", "engine": "classic"})
    image = json.dumps({"kind": "vividcover-image", "engine": "neural"})
    for files, said in (
        ({"dataset/anna/split_0.wav": b""}, "holds no RVC voice"),
        ({"model.json": classic, "frames.npy": b""}, "'classic' engine"),
        ({"model.json": image, "a.safetensors": b""}, "kind 'vividcover-image'"),
        ({"D_100.pth": critics.getvalue()}, "critics"),
        ({"a.pth": pth, "trained_IVF.index": faiss.serialize_index(faiss.IndexFlatL2(768)).tobytes()}, "trained_"),
        ({"a.pth": pth, "added_IVF.index": index_bytes(256)}, "this voice needs 768"),
        ({"a.pth": pth[:2000]}, "cannot be read"),
    ):
        with pytest.raises(ModelFileError, match=said):
            open_model(zipped(tmp_path / "v.zip", files))
    with pytest.raises(NotFoundError):
        open_model(tmp_path / "nothing.zip")
    (tmp_path / "song.mp3").write_bytes(b"ID3" + bytes(100))
    with pytest.raises(ModelFileError):
        open_model(tmp_path / "song.mp3")
