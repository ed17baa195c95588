"""BS- and Mel-Band RoFormer against golden values of the public code, and other people's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.separators import roformer_files as files
from vividcover.song.separators.contract import NetSeparator
from vividcover.song.separators.roformer import Roformer, RoformerConfig, mel_coverage

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.insert(0, str(ORACLES))

import make_roformer as oracle  # noqa: E402
from seeded import fill, shapes_of  # noqa: E402

GOLDEN = dict(np.load(ORACLES / "golden_roformer.npz"))
STEMS = {"bs": ["vocals", "other"], "mel": ["vocals", "other"]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def described(kwargs: dict[str, Any], target: str | None = None, chunk: int = 6016) -> dict[str, Any]:
    """What the yaml beside such a file says, parsed."""
    return {
        "audio": {"chunk_size": chunk, "sample_rate": 8000, "hop_length": 441},
        "model": dict(kwargs),
        "training": {"instruments": ["vocals", "other"], "target_instrument": target, "batch_size": 4},
        "inference": {"num_overlap": 4},
    }


CONFIGS = {
    "bs": files.config_of(described(oracle.BS, chunk=6000)),
    "mel": files.config_of(described(oracle.MEL, "vocals")),
}


def state(config: RoformerConfig) -> dict[str, torch.Tensor]:
    net = Roformer(config)
    values = {name: torch.from_numpy(value) for name, value in fill(shapes_of(net), 1).items()}
    return values | {name: value for name, value in net.state_dict().items() if name.endswith("rotary_embed.freqs")}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("roformer")
    for name, config in CONFIGS.items():
        torch.save(state(config), folder / f"{name}.ckpt")
    return {name: folder / f"{name}.ckpt" for name in CONFIGS}


# --- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bs", "mel"])
def test_it_answers_what_the_public_code_answers(name: str, checkpoints: dict[str, Path]) -> None:
    net = files.read(checkpoints[name], CONFIGS[name])
    answer = net(torch.from_numpy(oracle.mixture(oracle.SAMPLES[name]))[None])[0].numpy()
    golden = GOLDEN[name]
    kept = answer[..., :: oracle.STRIDE][..., : golden.shape[-1]]
    assert kept.shape == golden.shape
    assert np.abs(kept - golden).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "known"),
    [("mel", "vocals-mel"), ("mel", "karaoke-mel"), ("mel", "dereverb-mel"), ("bs", "vocals-bs-317"),
     ("bs", "vocals-bs-368"), ("bs_dereverb", "dereverb-bs")],
)  # fmt: skip
def test_at_full_size_names_and_shapes_are_the_published_ones(name: str, known: str) -> None:
    shapes = shapes_of(files.build(files.KNOWN[known]))
    assert [len(shapes), sum(int(np.prod(shape)) for shape in shapes.values())] == list(GOLDEN[f"{name}_count"])
    assert oracle.digest(shapes) == str(GOLDEN[f"{name}_digest"])


def test_the_mel_bands_cover_the_bins_that_the_published_ones_do() -> None:
    covered = mel_coverage(60, 2048, 44_100)
    assert list(covered.sum(axis=1)) == list(GOLDEN["mel_bins"])
    assert list(np.nonzero(covered)[1]) == list(GOLDEN["mel_first"])


def test_silence_stays_silence(checkpoints: dict[str, Path]) -> None:
    net = files.read(checkpoints["mel"], CONFIGS["mel"])
    assert not net(torch.zeros(1, 2, 6016)).any()


def test_a_result_without_a_constant_part_can_be_asked_for(checkpoints: dict[str, Path]) -> None:
    config = files.config_of(described(oracle.MEL | {"zero_dc": True}, "vocals"))
    mix = torch.from_numpy(oracle.mixture(6016))[None] + 0.2
    with_dc = files.read(checkpoints["mel"], CONFIGS["mel"])(mix)
    without = files.read(checkpoints["mel"], config)(mix)
    assert abs(float(without[..., 1000:-1000].mean())) < 0.2 * abs(float(with_dc[..., 1000:-1000].mean()))


# --- a whole song --------------------------------------------------------------------------------------------------


def test_a_song_of_any_length_is_separated_and_its_rest_adds_up(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    net = files.load(checkpoints["mel"], CONFIGS["mel"], batch=3)
    assert net.stems == ("vocals",)
    song = oracle.mixture(20_011)
    found = NetSeparator("mel", net, rest="instrumental").separate(
        write_pcm(tmp_path / "song.wav", song, 8000), tmp_path / "out"
    )
    vocals, rest = (read_pcm(found[stem])[0] for stem in ("vocals", "instrumental"))
    assert vocals.shape == song.shape
    assert np.abs(vocals + rest - song).max() < 1e-6
    assert np.abs(vocals).max() > 0.01


def test_chunks_that_do_not_overlap_are_put_side_by_side(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    net = files.load(checkpoints["bs"], CONFIGS["bs"], overlaps=1)
    song = oracle.mixture(12_000)
    found = NetSeparator("bs", net).separate(write_pcm(tmp_path / "song.wav", song, 8000), tmp_path / "out")
    halves = np.concatenate([net(song[None, :, :6000]), net(song[None, :, 6000:])], axis=-1)[0]
    assert np.abs(read_pcm(found["other"])[0] - halves[1]).max() < 1e-6


# --- other people's files ------------------------------------------------------------------------------------------


YAML = """audio: {{chunk_size: 352800, sample_rate: 44100}}
model:
  dim: 512
  depth: 12
  stereo: true
  num_stems: 1
  time_transformer_depth: 1
  freq_transformer_depth: 1
  freqs_per_bands: !!python/tuple
{bands}
  stft_hop_length: 441
  stft_n_fft: 2048
training:
  instruments: [vocals, other]
  target_instrument: vocals
"""


def test_a_published_yaml_gives_the_numbers_that_stand_here(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(YAML.format(bands="\n".join(f"  - {n}" for n in files.BANDS)))
    assert files.read_config(path) == files.KNOWN["vocals-bs-317"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "cannot be read"),
        ("- 1\n- 2\n", "no parts audio"),
        ("audio: 3\nmodel: 4\ntraining: 5\n", "no parts audio"),
        ("x: !!python/object/apply:os.system ['true']\n", "cannot be read"),
        (YAML.format(bands="  - 3"), "cover 3 of 1025"),
        (YAML.format(bands="  - x"), "'x'"),
    ],
)
def test_a_yaml_of_another_kind_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=said):
        files.read_config(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"linear_transformer_depth": 1}, "linear_transformer_depth = 1"),
        ({"stereo": False}, "one channel"),
        ({"stft_win_length": 400}, "window of 400"),
        ({"num_bands": 500}, "500 mel bands"),
        ({"num_bands": 0}, "neither num_bands"),
        ({"dim_head": 7}, "out of range"),
        ({"dim": None}, "no number"),
        ({"depth": 10**9}, "out of range"),
        ({"skip_connection": True}, "skip_connection"),
    ],
)
def test_what_is_not_served_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        files.config_of(described(oracle.MEL | changes, "vocals"))
    with pytest.raises(ModelFileError, match="target 'drums'"):
        files.config_of(described(oracle.MEL, "drums"))


def test_without_pyyaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(EngineError, match="PyYAML"):
        files.read_config(tmp_path / "a.yaml")


def test_weights_in_a_box_or_in_half_precision_are_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    config = CONFIGS["mel"]
    boxed = {"state_dict": {f"module.{name}": value.half() for name, value in state(config).items()}, "epoch": 3}
    torch.save(boxed, tmp_path / "boxed.ckpt")
    mix = torch.from_numpy(oracle.mixture(6016))[None]
    difference = files.read(tmp_path / "boxed.ckpt", config)(mix) - files.read(checkpoints["mel"], config)(mix)
    assert float(difference.abs().max()) < 1e-3


def test_weights_of_another_net_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"bs\.ckpt does not hold the weights of this network"):
        files.read(checkpoints["bs"], CONFIGS["mel"])
    torch.save({"epoch": 3}, tmp_path / "none.ckpt")
    with pytest.raises(ModelFileError, match="`epoch`"):
        files.read(tmp_path / "none.ckpt", CONFIGS["mel"])
    with pytest.raises(ParameterError, match="17 overlaps"):
        files.load(checkpoints["mel"], CONFIGS["mel"], overlaps=17)


def test_bfloat16_is_close(checkpoints: dict[str, Path]) -> None:
    for name, mix in ((name, oracle.mixture(oracle.SAMPLES[name])[None]) for name in CONFIGS):
        full = files.load(checkpoints[name], CONFIGS[name])(mix)
        half = files.load(checkpoints[name], CONFIGS[name], dtype=torch.bfloat16)(mix)
        assert 1e-12 < np.square(half - full).sum() / np.square(full).sum() < 10**-3.5  # 35 dB
