"""Stems of one's own: what is missing is what the others leave of the song, and what does not fit is said."""

from pathlib import Path

import numpy as np
import pytest

from vividcover.errors import AudioError
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.stems import completed

RATE = 44_100


def sounds(seconds: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Vocals and band [2, N]."""
    noise = np.random.default_rng(7)
    count = int(seconds * RATE)
    return noise.normal(0, 0.1, (2, count)).astype(np.float32), noise.normal(0, 0.05, (2, count)).astype(np.float32)


@pytest.mark.parametrize(("given", "missing"), [("vocals_stem", "instrumental"), ("instrumental_stem", "vocals")])
def test_the_missing_stem_is_what_the_given_one_leaves(tmp_path: Path, given: str, missing: str) -> None:
    vocals, band = sounds()
    song = write_pcm(tmp_path / "song.wav", vocals + band)
    stem = write_pcm(tmp_path / "stem.wav", vocals if given == "vocals_stem" else band)
    report = completed(song, {given: stem}, tmp_path / "out")
    assert report["derived"] == [missing]
    found = read_pcm(tmp_path / "out" / f"{missing}.wav")[0]
    np.testing.assert_allclose(found, band if missing == "instrumental" else vocals, atol=1e-6)
    expected = 10 * np.log10(np.square(found).sum() / np.square(vocals + band).sum())
    assert report["left_db"][missing] == pytest.approx(expected, abs=0.1)


def test_all_three_stems_are_taken_as_they_are_and_cut_to_the_songs_length(tmp_path: Path) -> None:
    vocals, band = sounds()
    song = write_pcm(tmp_path / "song.wav", vocals + band)
    files = {
        "vocals_stem": write_pcm(tmp_path / "v.wav", vocals[:1]),  # mono, as many stems are
        "instrumental_stem": write_pcm(tmp_path / "i.wav", np.pad(band, ((0, 0), (0, 9000)))),
        "backup_vocals_stem": write_pcm(tmp_path / "b.wav", vocals[:, :-9000]),
    }
    assert completed(song, files, tmp_path / "out")["derived"] == []
    for name in ("vocals", "instrumental", "backing"):
        assert read_pcm(tmp_path / "out" / f"{name}.wav")[0].shape == vocals.shape
    np.testing.assert_array_equal(read_pcm(tmp_path / "out" / "instrumental.wav")[0], band)


def test_stems_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    vocals, band = sounds()
    song = write_pcm(tmp_path / "song.wav", vocals + band)
    slow = write_pcm(tmp_path / "slow.wav", vocals, 22_050)
    short = write_pcm(tmp_path / "short.wav", vocals[:, :10_000])
    whole = write_pcm(tmp_path / "whole.wav", vocals)
    for given, said in (
        ({"vocals_stem": slow}, "22050 Hz, the song at 44100"),
        ({"vocals_stem": short}, r"0\.23 s long, but the song 1\.50 s"),
        ({"backup_vocals_stem": whole}, "do not say where the lead is"),
    ):
        with pytest.raises(AudioError, match=said):
            completed(song, given, tmp_path / "out")
