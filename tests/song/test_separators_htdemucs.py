"""HTDemucs against golden values of the published program, and published files of either kind."""

from __future__ import annotations

import json
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vividcover.errors import Canceled, ModelFileError, ParameterError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.separators import demucs
from vividcover.song.separators.contract import NetSeparator
from vividcover.song.separators.htdemucs import HTDemucsConfig
from vividcover.workspace import Silent

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.insert(0, str(ORACLES))

import make_htdemucs as oracle  # noqa: E402
from seeded import fill, shapes_of  # noqa: E402

GOLDEN = dict(np.load(ORACLES / "golden_htdemucs.npz"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def filled(kwargs: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    net = demucs.build(demucs.config_of((), kwargs))
    return {name: torch.from_numpy(value) for name, value in fill(shapes_of(net), seed).items()}


def published(path: Path, kwargs: dict[str, Any], seed: int, klass: str = "HTDemucs", **more: Any) -> Path:
    """A file as the published program writes it, with the program's own class named in it, in half precision."""
    home = ModuleType("demucs.htdemucs")
    kind = type(klass, (), {"__module__": "demucs.htdemucs"})
    setattr(home, klass, kind)
    before = {name: sys.modules.get(name) for name in ("demucs", "demucs.htdemucs")}
    sys.modules |= {"demucs": ModuleType("demucs"), "demucs.htdemucs": home}
    try:
        state = more.pop("state", None) or filled(kwargs, seed)
        package = {"klass": kind, "args": (), "kwargs": kwargs, "state": state, "training_args": {"dset": {"a": 1}}}
        torch.save(package | more, path)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("demucs")
    return [published(folder / f"{seed}.th", oracle.TINY, seed) for seed in (1, 2)]


def worst(found: np.ndarray, golden: str) -> float:
    kept = found[..., :: oracle.STRIDE]
    assert kept.shape == GOLDEN[golden].shape
    return float(np.abs(kept - GOLDEN[golden]).max())


# --- the network ---------------------------------------------------------------------------------------------------


def test_it_answers_what_the_published_network_answers(files: list[Path]) -> None:
    net = demucs.read(files[0])
    mix = torch.from_numpy(oracle.mixture(4000))[None]
    assert worst(net(mix)[0].numpy(), "tiny") < 1e-6
    assert worst(net(mix[..., :2500])[0].numpy(), "short") < 1e-6


def test_without_a_bottleneck_and_with_the_branches_looking_at_each_other_first_too(tmp_path: Path) -> None:
    net = demucs.read(published(tmp_path / "six.th", oracle.SIX, 1))
    assert worst(net(torch.from_numpy(oracle.mixture(4000))[None])[0].numpy(), "six") < 1e-6


@pytest.mark.parametrize(("name", "kwargs"), [("full", oracle.FULL), ("full_six", oracle.FULL_SIX)])
def test_at_full_size_names_and_shapes_are_the_published_ones(name: str, kwargs: dict[str, Any]) -> None:
    shapes = shapes_of(demucs.build(demucs.config_of((), kwargs)))
    assert [len(shapes), sum(int(np.prod(shape)) for shape in shapes.values())] == list(GOLDEN[f"{name}_count"])
    assert oracle.digest(shapes) == str(GOLDEN[f"{name}_digest"])


def test_the_defaults_are_htdemucs() -> None:
    assert demucs.config_of((), oracle.FULL) == HTDemucsConfig()
    assert HTDemucsConfig().samples == 343_980


# --- a whole song --------------------------------------------------------------------------------------------------


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_pcm(tmp_path / "song.wav", oracle.mixture(11_000), 8000)


def separated(net: Any, song: Path, folder: Path) -> np.ndarray:
    found = NetSeparator("htdemucs", net).separate(song, folder)
    return np.stack([read_pcm(found[stem])[0] for stem in net.stems])


def test_a_song_is_cut_and_joined_as_the_program_does(files: list[Path], song: Path, tmp_path: Path) -> None:
    assert worst(separated(demucs.load(files[:1]), song, tmp_path / "a"), "song") < 2e-6
    moved = demucs.load(files[:1], shift=oracle.OFFSET)
    assert worst(separated(moved, song, tmp_path / "b"), "shifted") < 2e-6


def test_a_bag_answers_by_its_weights(files: list[Path], song: Path, tmp_path: Path) -> None:
    bag = demucs.load(files, weights=[[1, 0, 0.5], [0, 1, 1.5]])
    assert worst(separated(bag, song, tmp_path / "bag"), "bag") < 2e-6


def test_of_a_bag_only_the_nets_that_a_wanted_stem_needs_are_read(files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.th"
    broken.write_bytes(b"not read")
    mix = oracle.mixture(4000)[None]
    net = demucs.load([files[0], broken], weights=[[1, 1, 0], [0, 0, 1]], stems=("vocals",))
    assert net.stems == ("vocals",)
    assert np.abs(net(mix)[0, 0, :, :: oracle.STRIDE] - GOLDEN["tiny"][1]).max() < 1e-6
    with pytest.raises(ModelFileError):
        demucs.load([files[0], broken], weights=[[1, 1, 0], [0, 0, 1]], stems=("other",))


def test_a_batch_answers_as_one_by_one(files: list[Path]) -> None:
    net = demucs.load(files[:1], batch=2)
    mixes = np.stack([oracle.mixture(4000), oracle.mixture(4000)[::-1]])
    assert np.abs(net(mixes) - np.concatenate([net(mixes[:1]), net(mixes[1:])])).max() < 1e-6


def test_bfloat16_is_close(files: list[Path]) -> None:
    mix = oracle.mixture(4000)[None]
    full, half = demucs.load(files[:1])(mix), demucs.load(files[:1], dtype=torch.bfloat16)(mix)
    assert 1e-12 < np.square(half - full).sum() / np.square(full).sum() < 10**-3.5  # 35 dB


def test_a_call_under_way_can_be_ended(files: list[Path]) -> None:
    net = demucs.load(files[:1])
    entered = threading.Event()
    failures: list[BaseException] = []
    mix = oracle.mixture(4000)[None]

    def endless() -> None:
        try:
            while True:
                entered.set()
                net(mix)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=endless, daemon=True)
    thread.start()
    entered.wait()
    for _ in range(200):  # a stop between two calls is for the call that is over
        net.stop()
        thread.join(0.01)
        if not thread.is_alive():
            break
    assert isinstance(failures[0], Canceled)


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_safetensors_file_is_read_as_its_twin(files: list[Path], tmp_path: Path) -> None:
    kwargs = oracle.TINY | {"segment": {"_type": "fraction", "numerator": 1, "denominator": 2}}
    path = tmp_path / "twin.safetensors"
    meta = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs)}
    save_file(filled(oracle.TINY, 1), str(path), meta)
    assert demucs.read(path).config == demucs.read(files[0]).config
    assert all(torch.equal(a, b) for a, b in zip(demucs.read(path).parameters(), demucs.read(files[0]).parameters()))


def test_half_precision_weights_are_computed_with_in_full(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in filled(oracle.TINY, 1).items()}
    net = demucs.read(published(tmp_path / "half.th", oracle.TINY, 1, state=state))
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert worst(net(torch.from_numpy(oracle.mixture(4000))[None])[0].numpy(), "tiny") < 2e-3


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"cac": False}, "cac = False"),
        ({"t_emb": "cape"}, "t_emb = 'cape'"),
        ({"t_sparse_self_attn": True}, "t_sparse_self_attn"),
        ({"surprise": 3}, "surprise = 3"),
        ({"norm_starts": 1}, "norms"),
        ({"multi_freqs": [0.5]}, "bands of their own"),
        ({"channels": "many"}, "channels = 'many'"),
        ({"channels": 8.5}, "channels = 8.5"),
        ({"t_heads": 5}, "5 heads for 24 channels"),
        ({"depth": 10**9}, "depth = 1000000000"),
        ({"segment": "soon"}, "segments of 'soon'"),
        ({"segment": -1}, "segments of -1"),
        ({"sources": "vocals"}, "sources 'vocals'"),
    ],
)
def test_what_is_not_served_is_refused_by_name(tmp_path: Path, kwargs: dict[str, Any], said: str) -> None:
    path = published(tmp_path / "odd.th", oracle.TINY | kwargs, 1, state={"a": torch.zeros(1)})
    with pytest.raises(ModelFileError, match=said):
        demucs.read(path)


def test_files_that_are_no_htdemucs_are_refused(tmp_path: Path) -> None:
    state = {"a": torch.zeros(1)}
    with pytest.raises(ModelFileError, match="quantized"):
        demucs.read(published(tmp_path / "q.th", oracle.TINY, 1, state=state | {"__quantized": True}))
    torch.save({"state": state}, tmp_path / "plain.th")
    with pytest.raises(ModelFileError, match="not an HTDemucs file"):
        demucs.read(tmp_path / "plain.th")
    missing = filled(oracle.TINY, 1)
    del missing["freq_emb.embedding.weight"]
    with pytest.raises(ModelFileError, match=r"missing: freq_emb\.embedding\.weight"):
        demucs.read(published(tmp_path / "m.th", oracle.TINY, 1, state=missing))


def test_a_file_that_would_run_a_program_is_not_opened(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    torch.save({"klass": Bad(), "kwargs": {}, "state": {}}, tmp_path / "bad.th")
    with pytest.raises(ModelFileError, match="could run a program"):
        demucs.read(tmp_path / "bad.th")
    assert not (tmp_path / "run").exists()


def test_wrong_settings_are_named(files: list[Path]) -> None:
    with pytest.raises(ParameterError, match="no stem 'guitar'"):
        demucs.load(files[:1], stems=("guitar",))
    with pytest.raises(ParameterError, match="Weights of"):
        demucs.load(files, weights=[[1, 1, 1]])
    with pytest.raises(ParameterError, match="overlap"):
        demucs.load(files[:1], overlap=1.0)
    with pytest.raises(ParameterError, match="shift of 22051"):
        demucs.chunks(HTDemucsConfig(segment=Fraction(2)), shift=22_051)
    with pytest.raises(ParameterError, match="GPU"):
        demucs.load(files[:1], dtype=torch.float16)


def test_cancelling_a_song_ends_it(files: list[Path], song: Path, tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise Canceled()

    with pytest.raises(Canceled):
        NetSeparator("htdemucs", demucs.load(files[:1])).separate(song, tmp_path / "out", reporter=Impatient())
