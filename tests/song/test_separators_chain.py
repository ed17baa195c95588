"""The separators in a row: what is sung, what stays, and which nets serve when the user has not said which."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from vividcover import weights
from vividcover.errors import Canceled, EngineError, ParameterError, WeightsError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.separators import chain, known, mdx, roformer_files
from vividcover.song.separators.chain import Options, best_available, choose, separate_song
from vividcover.workspace import Silent

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.insert(0, str(ORACLES))

import make_mdx as oracle  # noqa: E402
import tiny_mdx  # noqa: E402
from seeded import fill, shapes_of  # noqa: E402

MDX = ("uvr_mdx_voc_ft", "uvr_mdx_kara_2", "uvr_mdx_reverb_hq")
Shelf = Callable[..., Callable[[str], Path]]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A resolver of tiny MDX nets for the names that are given; the published numbers stand back for theirs."""
    tiny = {name: mdx.MdxConfig(**tiny_mdx.SMALL) for name in MDX}
    monkeypatch.setattr(mdx, "MODELS", tiny)
    files = {name: tiny_mdx.make(tmp_path / f"{name}.onnx", seed=seed) for seed, name in enumerate(MDX)}

    def make(*names: str) -> Callable[[str], Path]:
        def path(name: str) -> Path:
            if name not in names:
                raise WeightsError(f"{name} is not here.")
            return files[name]

        return path

    return make


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_pcm(tmp_path / "song.wav", oracle.song(1.5))


def named(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_main_vocals_backing_and_instrumental_sum_to_the_song(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Options("uvr_mdx_voc_ft", "uvr_mdx_kara_2", None)
    story = separate_song(song, out, options, weights=shelf(*MDX), device="cpu")
    assert named(out) == ["backing.wav", "instrumental.wav", "vocals.wav"]
    total = sum(read_pcm(out / name)[0] for name in named(out))
    np.testing.assert_allclose(total, read_pcm(song)[0], atol=1e-6)
    assert story["nets"] == ["uvr_mdx_voc_ft", "uvr_mdx_kara_2"] and story["options"]["dereverb"] is None


def test_the_room_is_taken_off_the_main_vocals_alone(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    for name, dereverb in (("wet", None), ("dry", "uvr_mdx_reverb_hq")):
        options = Options("uvr_mdx_voc_ft", "uvr_mdx_kara_2", dereverb)
        separate_song(song, tmp_path / name, options, weights=shelf(*MDX), device="cpu")
    for stem in ("backing.wav", "instrumental.wav"):
        assert (tmp_path / "wet" / stem).read_bytes() == (tmp_path / "dry" / stem).read_bytes()
    wet, dry = (read_pcm(tmp_path / name / "vocals.wav")[0] for name in ("wet", "dry"))
    assert np.abs(wet - dry).max() > 0.01


def test_vocals_alone_can_be_asked_for(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    separate_song(song, tmp_path / "out", Options("uvr_mdx_voc_ft", None, None), weights=shelf(*MDX), device="cpu")
    assert named(tmp_path / "out") == ["instrumental.wav", "vocals.wav"]


def test_original_is_the_published_chain(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    story = separate_song(song, tmp_path / "out", Options("original"), weights=shelf(*MDX), device="cpu")
    assert story["nets"] == list(MDX)
    assert story["options"]["mode"] == "parity" and story["options"]["denoise"] is True
    net = mdx.MdxNet(shelf(*MDX)(MDX[0]), mdx.MODELS[MDX[0]], denoise=True)
    first = mdx.MdxSeparator("x", net, "vocals", "instrumental", "parity").separate(song, tmp_path / "one")
    assert first["instrumental"].read_bytes() == (tmp_path / "out" / "instrumental.wav").read_bytes()


def test_a_torch_net_serves_like_any_other(
    shelf: Shelf, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        roformer_files.KNOWN["vocals-mel"], mel_bands=12, dim=16, depth=1, heads=2, dim_head=8, mask_depth=1,
        n_fft=512, hop=128, chunk=128 * 100,
    )  # fmt: skip
    monkeypatch.setitem(roformer_files.KNOWN, "vocals-mel", config)
    values = fill(shapes_of(roformer_files.build(config)))
    torch.save({name: torch.from_numpy(value) for name, value in values.items()}, tmp_path / "mel.ckpt")
    heard, options = Silent(), Options("mel_band_roformer_vocals", None, None)
    story = separate_song(
        song,
        tmp_path / "out",
        options,
        weights=lambda _: tmp_path / "mel.ckpt",
        device="cpu",
        threads=1,
        reporter=heard,
    )
    assert story["recipe"] == "mel_band_roformer_vocals"
    assert any("without a GPU" in note for note in heard.notes)
    total = sum(read_pcm(tmp_path / "out" / name)[0] for name in ("vocals.wav", "instrumental.wav"))
    np.testing.assert_allclose(total, read_pcm(song)[0], atol=1e-6)


# which nets -----------------------------------------------------------------------------------------------------------


def test_auto_takes_what_is_here_and_says_what_it_leaves_out(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    heard = Silent()
    story = separate_song(
        song, tmp_path / "out", weights=shelf("uvr_mdx_voc_ft", "uvr_mdx_reverb_hq"), device="cpu", reporter=heard
    )
    assert story["nets"] == ["uvr_mdx_voc_ft", "uvr_mdx_reverb_hq"]
    assert any("backing vocals stay" in note for note in heard.notes)


def test_options_with_every_auto_resolved_are_their_own_choice(shelf: Shelf) -> None:
    here = shelf("uvr_mdx_voc_ft", "uvr_mdx_kara_2")
    chosen = choose(Options(), here, "cpu")
    assert chosen == Options("uvr_mdx_voc_ft", "uvr_mdx_kara_2", None)
    assert choose(chosen, here, "cpu") == chosen


def test_without_any_weights_the_error_names_the_commands(shelf: Shelf) -> None:
    with pytest.raises(WeightsError, match="--group mdx"):
        choose(Options(), shelf(), "cpu")
    with pytest.raises(WeightsError, match="uvr_mdx_voc_ft"):
        separate_song(Path("none.wav"), Path(), Options("uvr_mdx_voc_ft", None, None), weights=shelf(), device="cpu")


@pytest.mark.parametrize("options", [Options("spleeter"), Options(karaoke="htdemucs"), Options(dereverb="spleeter")])
def test_an_unknown_separator_is_answered_with_those_that_there_are(shelf: Shelf, options: Options) -> None:
    with pytest.raises(ParameterError, match="Choose auto, or one of: "):
        choose(options, shelf(*MDX), "cpu")


def test_the_best_separator_is_another_one_without_a_gpu(tmp_path: Path) -> None:
    assert best_available(tmp_path) == []
    for name in ("mel_band_roformer_vocals", "bs_roformer_317", "htdemucs_ft_vocals", "uvr_mdx_voc_ft"):
        net = weights.net(name)
        with (tmp_path / net.file).open("wb") as file:
            file.truncate(net.size)  # a hole of that size
    quick = ["htdemucs_ft", "uvr_mdx_voc_ft"]
    assert best_available(tmp_path, "mps") == ["mel_band_roformer_vocals", "bs_roformer_317", *quick]
    assert best_available(tmp_path, "cpu") == [*quick, "mel_band_roformer_vocals", "bs_roformer_317"]


def test_every_known_separator_has_weights_numbers_and_a_stage() -> None:
    for name, item in known.KNOWN.items():
        assert item.name == name and item.weights in weights.REGISTRY
        table = {"mdx": mdx.MODELS, "roformer": roformer_files.KNOWN, "demucs": {"": None}}[item.kind]
        assert item.config in table
        if item.kind == "roformer":
            assert item.answers in roformer_files.KNOWN[item.config].answers


def test_what_is_missing_is_said_before_the_work_begins(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="reverb"):
        separate_song(song, tmp_path / "out", Options("original"), weights=shelf(*MDX[:2]), device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_onnxruntime_cannot_use_is_said_or_refused(
    shelf: Shelf, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="onnxruntime"):
        separate_song(song, tmp_path / "out", Options("original"), weights=shelf(*MDX), device="cuda")
    with pytest.raises(WeightsError):  # auto does not choose what cannot serve there
        choose(Options(), shelf(*MDX), "cuda")
    monkeypatch.setattr(chain, "_gpu", lambda device: True)  # a machine with a GPU, and device auto
    heard = Silent()
    separate_song(song, tmp_path / "out", Options(MDX[0], None, None), weights=shelf(*MDX), reporter=heard)
    assert any("runs on the CPU" in note for note in heard.notes)


def test_a_second_call_into_the_same_folder_leaves_nothing_of_the_first(
    shelf: Shelf, song: Path, tmp_path: Path
) -> None:
    for karaoke in ("uvr_mdx_kara_2", None):
        separate_song(song, tmp_path / "out", Options(MDX[0], karaoke, None), weights=shelf(*MDX), device="cpu")
    assert named(tmp_path / "out") == ["instrumental.wav", "vocals.wav"]


# progress and canceling -----------------------------------------------------------------------------------------------


def test_progress_goes_from_nothing_to_all_and_never_back(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            seen.append(fraction)

    separate_song(song, tmp_path / "out", Options("original"), weights=shelf(*MDX), device="cpu", reporter=Watching())
    assert seen == sorted(seen) and 0 < seen[0] < 0.5 and seen[-1] == 1.0


def test_a_canceled_chain_leaves_nothing_between_the_stages(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    class Stopping(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            if "kara" in text:
                raise Canceled()

    with pytest.raises(Canceled):
        separate_song(
            song, tmp_path / "out", Options("original"), weights=shelf(*MDX), device="cpu", reporter=Stopping()
        )
    assert named(tmp_path / "out") == []


def test_the_song_itself_is_never_touched(shelf: Shelf, song: Path, tmp_path: Path) -> None:
    before = song.read_bytes()
    separate_song(song, song.parent, Options("original"), weights=shelf(*MDX), device="cpu")
    assert song.read_bytes() == before
    assert chain.STAGES == ("vocals", "karaoke", "dereverb")
