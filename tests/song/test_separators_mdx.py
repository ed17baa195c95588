"""MDX-Net against golden values of the published program, and what ONNX files can be that they should not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from vividcover.errors import AudioError, EngineError, ModelFileError, ParameterError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.separators.mdx import MODELS, MdxConfig, MdxNet, MdxSeparator
from vividcover.song.separators.stft import Stft

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.insert(0, str(ORACLES))

import make_mdx as oracle  # noqa: E402
import tiny_mdx  # noqa: E402

GOLDEN = dict(np.load(ORACLES / "golden_mdx.npz"))
TINY = MdxConfig(**tiny_mdx.SMALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mdx.make(tmp_path_factory.mktemp("nets") / "tiny.onnx")


@pytest.mark.parametrize(("size", "hop", "frames"), [(2048, 1024, 16), (7680, 1024, 9), (1200, 300, 21)])
def test_spectra_are_those_of_torch(size: int, hop: int, frames: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, hop * (frames - 1))).astype(np.float32)
    stft, window = Stft(size, hop), torch.hann_window(size)
    theirs = torch.stft(torch.from_numpy(x.reshape(6, -1)), size, hop, window=window, return_complex=True)
    ours = stft.forward(x)
    assert ours.dtype == np.complex64 and ours.shape == (3, 2, size // 2 + 1, frames)
    np.testing.assert_allclose(ours.reshape(6, -1, frames), theirs.numpy(), atol=2e-4)
    kept = ours[:, :, : size // 3]
    np.testing.assert_array_equal(stft.forward(x, size // 3), kept)
    padded = torch.nn.functional.pad(torch.from_numpy(kept.reshape(6, -1, frames)), (0, 0, 0, stft.bins - size // 3))
    back = torch.istft(padded, size, hop, window=window).numpy().reshape(x.shape)
    np.testing.assert_allclose(stft.inverse(kept, x.shape[-1]), back, atol=1e-5)
    np.testing.assert_allclose(stft.inverse(ours, x.shape[-1]), x, atol=1e-5)


@pytest.mark.parametrize("case", oracle.CASES)
def test_parity_mode_is_the_published_program(case: str, tiny: Path, tmp_path: Path) -> None:
    seconds, denoise, memory = oracle.CASES[case]
    song = write_pcm(tmp_path / "song.wav", oracle.song(seconds))
    net = MdxNet(tiny, TINY, denoise=denoise)
    separator = MdxSeparator("tiny", net, "main", "rest", "parity", parts=2 if memory >= 8 else 1)
    for stem, file in separator.separate(song, tmp_path / "out").items():
        found, expected = read_pcm(file)[0], GOLDEN[f"{case}_{stem}"]
        assert found.shape[1] == GOLDEN[f"{case}_length"]
        np.testing.assert_allclose(found[:, :: oracle.EVERY], expected, atol=1e-4)


def test_overlapping_chunks_sum_to_the_song(tiny: Path, tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", oracle.song(2.2))
    files = MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "instrumental").separate(song, tmp_path)
    vocals, instrumental = (read_pcm(files[stem])[0] for stem in ("vocals", "instrumental"))
    np.testing.assert_allclose(vocals + instrumental, read_pcm(song)[0], atol=1e-6)
    assert np.abs(vocals).max() > 0.1


def test_overlapping_chunks_leave_no_clicks_where_the_published_program_does(tiny: Path, tmp_path: Path) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 110 * np.arange(8 * 13_312) / 44_100)
    song = write_pcm(tmp_path / "song.wav", np.stack([wave, -wave]))
    step = {}
    for mode in ("overlap", "parity"):
        separator = MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "rest", mode, parts=1)
        vocals = read_pcm(separator.separate(song, tmp_path / mode)["vocals"])[0]
        joints = 13_312 * np.arange(1, 8)  # of the published program
        step[mode] = np.abs(vocals[:, joints] - 2 * vocals[:, joints - 1] + vocals[:, joints - 2]).max()
    assert step["overlap"] < 0.2 * step["parity"]


def test_a_mono_song_gives_mono_stems(tiny: Path, tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", oracle.song(1.0)[:1])
    for mode in ("overlap", "parity"):
        files = MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "rest", mode).separate(song, tmp_path / mode)
        assert [read_pcm(file)[0].shape for file in files.values()] == [(1, 44_100)] * 2


@pytest.mark.parametrize("samples", [1, 100, 44_099])
def test_songs_of_any_length_keep_it(tiny: Path, tmp_path: Path, samples: int) -> None:
    song = write_pcm(tmp_path / "song.wav", oracle.song(1.0)[:, :samples])
    for mode in ("overlap", "parity"):
        files = MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "rest", mode).separate(song, tmp_path / mode)
        assert [read_pcm(file)[0].shape[1] for file in files.values()] == [samples] * 2


@pytest.mark.parametrize("mode", ["overlap", "parity"])
def test_silence_stays_silence(tiny: Path, tmp_path: Path, mode: str) -> None:
    """Up to what the net's biases make of it."""
    song = write_pcm(tmp_path / "song.wav", np.zeros((2, 50_000), np.float32))
    files = MdxSeparator("tiny", MdxNet(tiny, TINY, denoise=True), "vocals", "rest", mode).separate(song, tmp_path)
    assert all(np.abs(read_pcm(file)[0]).max() < 1e-6 for file in files.values())


def test_a_song_of_another_rate_is_refused(tiny: Path, tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", oracle.song(0.5), 48_000)
    for mode in ("overlap", "parity"):
        with pytest.raises(AudioError, match="48000"):
            MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "rest", mode).separate(song, tmp_path)


def test_a_file_that_is_no_onnx_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"<html>Not found</html>")
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        MdxNet(tmp_path / "net.onnx", TINY)


def test_another_models_file_is_refused_before_it_is_run(tiny: Path) -> None:
    with pytest.raises(ModelFileError, match="3072"):
        MdxNet(tiny, MODELS["uvr_mdx_voc_ft"])


def test_wrong_settings_are_named(tiny: Path) -> None:
    with pytest.raises(ParameterError, match="overlap"):
        MdxNet(tiny, TINY, overlap=1.0)
    with pytest.raises(ParameterError, match="'mean'"):
        MdxSeparator("tiny", MdxNet(tiny, TINY), "vocals", "rest", "mean")  # type: ignore[arg-type]


def test_a_gpu_that_onnxruntime_cannot_use_is_an_error_and_not_a_slow_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="CPU only"):
        MdxNet(tiny, TINY, device="cuda:0")


def test_the_published_models_have_the_published_numbers() -> None:
    assert MODELS["uvr_mdx_reverb_hq"].chunk == 1024 * 511
    assert replace(MODELS["uvr_mdx_voc_ft"]).compensate == 1.021


def test_a_call_that_is_stopped_ends_and_the_net_can_be_called_again(tmp_path: Path) -> None:
    net = MdxNet(tiny_mdx.make(tmp_path / "tiny.onnx", seed=3), TINY)
    net.stop()  # nothing is under way
    one = net(np.ones((1, 2, TINY.chunk), np.float32))
    net.stop()
    assert (net(np.ones((1, 2, TINY.chunk), np.float32)) == one).all()
