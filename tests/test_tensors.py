"""Files of tensors: read without running what a stranger put in, written whole or not at all."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover import tensors
from vividcover.errors import EngineError, ModelFileError, ParameterError, StorageError
from vividcover.tensors import (
    Inert,
    check_keys,
    metadata_of,
    pick_device,
    pick_dtype,
    read_tensors,
    seeded,
    write_tensors,
    write_torch,
)

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2, dtype=torch.float16)}


def same(found, wanted=None):
    wanted = wanted or STATE
    return found.keys() == wanted.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in wanted.items()
    )


# --- reading -------------------------------------------------------------------------------------------------------


def test_every_way_in_which_torch_writes_is_read(tmp_path):
    write_torch(tmp_path / "zip.pth", STATE)
    torch.save(STATE, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(collections.OrderedDict(STATE), tmp_path / "ordered.pth")
    torch.save({k: torch.nn.Parameter(v) for k, v in STATE.items()}, tmp_path / "parameters.pth")
    write_tensors(tmp_path / "safe.safetensors", STATE)
    write_tensors(tmp_path / "misnamed.pth", STATE)  # what a file is, not what it is called
    with zipfile.ZipFile(tmp_path / "zip.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", 8) as packed:
        for entry in plain.namelist():  # somebody else's archiver has compressed it
            packed.writestr(entry, plain.read(entry))
    for path in sorted(tmp_path.iterdir()):
        assert same(read_tensors(path)), path.name
        assert same(read_tensors(path.read_bytes())), path.name
        assert same(read_tensors(path, mapped=True)), path.name


def test_a_mapped_file_is_not_read_until_its_numbers_are_wanted(tmp_path):
    write_torch(tmp_path / "large.pth", {"a": torch.ones(50_000_000)})
    told = subprocess.run(
        [sys.executable, "-c", MAPPED, str(tmp_path / "large.pth")], capture_output=True, text=True, check=True
    )
    read, mapped = map(int, told.stdout.split())
    assert read > 180_000_000 > 20_000_000 > mapped


MAPPED = """
import os, sys, torch
from pathlib import Path
from vividcover.tensors import read_tensors
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
path = Path(sys.argv[1])
read_tensors(path, mapped=True)
start = held()
mapped = read_tensors(path, mapped=True)
middle = held()
whole = read_tensors(path)
print(held() - middle, middle - start)
"""


def test_metadata_comes_back(tmp_path):
    write_tensors(tmp_path / "a.safetensors", STATE, {"made": "of straw"})
    assert metadata_of(tmp_path / "a.safetensors") == {"made": "of straw"}
    assert metadata_of(write_torch(tmp_path / "b.pth", STATE)) == {}


class Hostile:
    def __reduce__(self):
        return os.system, ("touch {folder}/was-run",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_a_program_is_refused_and_named(tmp_path, new_format):
    path, ran = tmp_path / "voice.pth", tmp_path / "was-run"
    Hostile.__reduce__ = lambda self: (os.system, (f"touch {ran}",))
    torch.save({"weight": STATE, "extra": Hostile()}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelFileError, match=r"voice.pth was not opened: .*posix.system.* run a program") as caught:
        read_tensors(path)
    assert "safetensors" in caught.value.hint
    assert not ran.exists()


def test_a_harmless_class_that_we_do_not_know_is_refused_by_name(tmp_path):
    torch.save({"when": pytest.Item}, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match=r"_pytest\.nodes\.Item"):
        read_tensors(tmp_path / "a.pth")


def test_classes_that_checkpoints_name_become_inert(tmp_path):
    content = {"args": argparse.Namespace(rate=40000), "model": STATE, "loss": np.float64(3.5)}
    torch.save(content, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    assert isinstance(found["args"], Inert)
    assert found["args"].state == {"rate": 40000}
    assert same(found["model"])


def test_a_caller_may_name_further_classes(tmp_path):
    torch.save({"path": datetime.timedelta(3), "model": STATE}, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match=r"datetime\.timedelta"):
        read_tensors(tmp_path / "a.pt")
    assert isinstance(read_tensors(tmp_path / "a.pt", inert=["datetime.timedelta"])["path"], Inert)
    with pytest.raises(ModelFileError, match=r"datetime\.timedelta"):  # for that one call
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["zip.pth", "legacy.pth", "a.safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_a_file_that_was_cut_short_is_called_that(tmp_path, kind, part):
    path, state = tmp_path / kind, {"a": torch.randn(5000), "b": torch.randn(300)}
    if kind == "a.safetensors":
        write_tensors(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelFileError, match=kind) as caught:
        read_tensors(path)
    assert "get it again" in caught.value.hint


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_never_gives_a_traceback(tmp_path, seed):
    random = np.random.default_rng(seed)
    path = tmp_path / "voice.pth"
    torch.save({"weight": STATE, "f0": 1}, path, _use_new_zipfile_serialization=seed % 2 == 0)
    data = bytearray(path.read_bytes())
    for where in random.integers(0, len(data), 12):
        data[where] = random.integers(0, 256)
    path.write_bytes(data)
    try:
        read_tensors(path)
    except ModelFileError as error:
        assert error.hint


def photos():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for number in range(5):
            archive.writestr(f"photos/{number}.jpg", b"\xff\xd8\xff")
    return held.getvalue()


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty"),
        (bytes(4096), "empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 57\n", "Git LFS pointer"),
        (b"IwFl" + bytes(100), "faiss index"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(50), "audio/x-wav"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png"),
        (photos(), r"a zip archive of 5 other files \(photos/0.jpg, photos/1.jpg, photos/2.jpg, …\)"),
        (pickle.dumps([1, 2]), "cannot be read as a file of weights"),
        (b"hello world, this is no model", "cannot be read as a file of weights"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, content, said):
    path = tmp_path / "voice.pth"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_tensors(path)
    assert "voice.pth" in caught.value.message
    assert caught.value.hint


def test_a_program_of_torchscript_is_not_run(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(name, b"x")
    with pytest.raises(ModelFileError, match="TorchScript"):
        read_tensors(tmp_path / "a.pt")


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(80_000_000))
    with pytest.raises(ModelFileError, match="many times its size"):
        read_tensors(tmp_path / "a.pt")


def test_a_list_is_not_named_tensors_and_a_missing_file_is_missing(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ModelFileError, match="holds a list"):
        read_tensors(tmp_path / "list.pt")
    with pytest.raises(ModelFileError, match="There is no file"):
        read_tensors(tmp_path / "no.pt")


# --- into a network --------------------------------------------------------------------------------------------------


def test_a_state_that_fits_is_loaded_and_one_that_does_not_is_told_apart():
    layer = torch.nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    check_keys(layer, good, "The net")
    assert torch.equal(layer.weight.detach(), torch.ones(2, 3))
    bad = {"weight": torch.ones(4, 3), "beta": torch.ones(1)}
    with pytest.raises(
        ModelFileError, match=r"The net .*missing: bias; not known: beta;  ?weight is \[4, 3\], not \[2, 3\]"
    ):
        check_keys(layer, bad, "The net")
    with pytest.raises(ModelFileError, match="no tensor: bias"):
        check_keys(layer, {"weight": torch.ones(2, 3), "bias": "zero"}, "The net")
    assert torch.equal(layer.weight.detach(), torch.ones(2, 3)), "nothing was loaded"


def test_long_lists_of_names_are_cut():
    net = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(9))
    with pytest.raises(ModelFileError, match=r"missing: 0.weight, 0.bias, 1.weight and 15 more"):
        check_keys(net, {}, "The net")


# --- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def disk_of(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [write_torch, write_tensors])
@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, write, size):
    path = tmp_path / "a.bin"
    write(path, STATE)
    before = path.read_bytes()
    with disk_of(size), pytest.raises(StorageError, match="The disk is full"):
        write(path, {"a": torch.randn(100_000)})
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("write", [write_torch, write_tensors])
def test_the_same_content_is_the_same_bytes(tmp_path, write):
    assert write(tmp_path / "a", STATE).read_bytes() == write(tmp_path / "b", STATE).read_bytes()


def test_what_is_no_fault_of_the_disk_is_not_called_that(tmp_path):
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        write_torch(tmp_path / "a.pt", {"f": lambda: None})
    assert not list(tmp_path.iterdir())


def test_slices_and_gpu_layouts_are_written_as_plain_tensors(tmp_path):
    big = torch.randn(50, 40)
    write_tensors(tmp_path / "a.safetensors", {"a": big[:, 3], "b": big.T})
    found = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(found["a"], big[:, 3])
    assert torch.equal(found["b"], big.T)


# --- devices, seeds --------------------------------------------------------------------------------------------------


def test_devices_and_number_formats_by_name():
    cpu = pick_device("cpu")
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    assert pick_dtype(cpu) == torch.float32
    assert pick_dtype(cpu, "bf16") == torch.bfloat16
    with pytest.raises(ParameterError, match="'tpu'"):
        pick_device("tpu")
    with pytest.raises(ParameterError, match="'int8'"):
        pick_dtype(cpu, "int8")
    with pytest.raises(ParameterError, match="not for a CPU"):
        pick_dtype(cpu, "fp16")


def test_a_device_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no cuda device"):
        pick_device("cuda")


def test_the_same_seed_gives_the_same_numbers():
    assert torch.equal(torch.randn(5, generator=seeded(3)), torch.randn(5, generator=seeded(3)))
    assert not torch.equal(torch.randn(5, generator=seeded(3)), torch.randn(5, generator=seeded(4)))


def test_without_torch_the_reason_and_the_remedy_are_said(monkeypatch):
    assert tensors.available() == ""
    monkeypatch.setattr(tensors.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    assert "needs torch" in tensors.available()
    with pytest.raises(EngineError, match="needs torch") as caught:
        tensors.require()
    assert "pip install 'vividcover[neural]'" in caught.value.hint


def test_asking_whether_the_engine_is_there_does_not_import_torch():
    program = "import sys, vividcover.tensors as t; t.available(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parent).returncode == 0


def test_the_same_tensors_and_metadata_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key {i}": f"“text” {i}\n\t\x01/" for i in range(12)}
    files = [tensors.write_tensors(tmp_path / f"{i}.safetensors", {"x": torch.arange(3.0)}, metadata) for i in range(4)]
    assert len({file.read_bytes() for file in files}) == 1
    assert tensors.metadata_of(files[0]) == metadata
    assert torch.equal(tensors.read_tensors(files[0])["x"], torch.arange(3.0))
