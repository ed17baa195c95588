"""Promises of song/mix.py: everything in time, as loud as asked, never clipped, and dry of what is not in it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import RATE, SAMPLE, error_db, lag, music, tone

from vividcover.errors import AudioError, Canceled, NotFoundError, ParameterError
from vividcover.song.codec import decode
from vividcover.song.loudness import measure
from vividcover.song.mix import MixSettings, mix
from vividcover.song.pcm import PcmReader, read_pcm, write_pcm
from vividcover.workspace import Silent

DRY = {"reverb_wetness": 0.0, "reverb_dryness": 0.5}  # what Freeverb calls 0.5 is a gain of 1


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight seconds of the sample song's own parts."""
    folder = tmp_path_factory.mktemp("parts")
    out = {}
    for name in ("vocals", "instrumental"):
        decode(SAMPLE / f"{name}.flac", folder / "whole.wav")
        with PcmReader(folder / "whole.wav") as file:
            out[name] = write_pcm(folder / f"{name}.wav", file.read(8 * RATE, 8 * RATE + 123))
    return out


def mixed(
    tmp_path: Path, vocals: Path, backing: Path | None, instrumental: Path | None, **settings: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    report = mix(vocals, backing, instrumental, tmp_path / "mix.wav", MixSettings(**settings))
    assert [p.name for p in tmp_path.glob(".*")] == []  # nothing left lying about
    return read_pcm(tmp_path / "mix.wav")[0], report


def test_a_mix_is_as_loud_as_asked_as_long_as_the_song_and_never_clips(parts: dict[str, Path], tmp_path: Path) -> None:
    for wanted in (-14.0, -9.0):
        y, report = mixed(tmp_path, parts["vocals"], None, parts["instrumental"], loudness=wanted)
        assert y.shape == (2, 8 * RATE + 123)
        found = measure(tmp_path / "mix.wav")
        assert found.integrated == pytest.approx(wanted, abs=0.5)
        assert found.true_peak <= -1.0
        assert report["loudness"] == pytest.approx(found.integrated, abs=0.01)
        assert report["true_peak"] == pytest.approx(found.true_peak, abs=0.01)
        assert report["gain"] >= wanted - report["loudness_before"] - 0.01
    assert report["limiter_reduction"] > 0


def test_the_isolated_vocals_hold_nothing_of_the_instrumental(parts: dict[str, Path], tmp_path: Path) -> None:
    alone, report = mixed(tmp_path, parts["vocals"], None, None)
    assert report["parts"] == ["vocals"]
    voice, _ = read_pcm(parts["vocals"])
    other, _ = read_pcm(parts["instrumental"])
    correlation = np.corrcoef(alone[0], other[0])[0, 1] - np.corrcoef(voice[0], other[0])[0, 1]
    assert abs(correlation) < 0.05


def test_where_nobody_sings_the_isolated_vocals_are_silent(tmp_path: Path) -> None:
    x = np.zeros((2, 6 * RATE), np.float32)
    x[:, 2 * RATE : 3 * RATE] = music(1.0)
    y, _ = mixed(tmp_path, write_pcm(tmp_path / "v.wav", x), None, None)
    assert not y[:, : 2 * RATE - 500].any()
    assert not y[:, 5 * RATE :].any()


def test_everything_stays_in_time_to_the_sample(tmp_path: Path) -> None:
    x = music(4.0)
    vocals = write_pcm(tmp_path / "v.wav", x * np.float32(0.1))  # below the compressor's threshold
    nothing = write_pcm(tmp_path / "n.wav", np.zeros_like(x))
    instrumental = write_pcm(tmp_path / "i.wav", x)
    for one in ((vocals, None, None), (nothing, instrumental, None), (nothing, None, instrumental)):
        y, _ = mixed(tmp_path, *one, loudness=None, **DRY)
        assert lag(x, y) == 0
        assert y.shape == x.shape


def test_levels_are_the_seeds_and_changes_are_in_db(tmp_path: Path) -> None:
    x = tone(1000, 3.0, 0.1)
    one = write_pcm(tmp_path / "one.wav", x)
    nothing = write_pcm(tmp_path / "none.wav", np.zeros_like(x))

    def level(y: np.ndarray) -> float:
        middle = slice(RATE, 2 * RATE)
        return 20 * math.log10(np.abs(y[0, middle]).max() / np.abs(x[0, middle]).max())

    quietest, _ = mixed(tmp_path, nothing, None, one, loudness=None, instrumental_volume_change=-120.0)
    assert level(quietest) == pytest.approx(-127, abs=0.1)
    for change in (0.0, 3.0, -10.0):
        v, _ = mixed(tmp_path, one, None, None, loudness=None, main_vocals_volume_change=change, **DRY)
        b, _ = mixed(tmp_path, nothing, one, None, loudness=None, backup_vocals_volume_change=change)
        i, _ = mixed(tmp_path, nothing, None, one, loudness=None, instrumental_volume_change=change)
        assert [level(v), level(b), level(i)] == pytest.approx([change - 4, change - 6, change - 7], abs=0.02)


def test_reverb_is_on_the_main_vocals_only(tmp_path: Path) -> None:
    x = np.zeros((2, 3 * RATE), np.float32)
    x[:, RATE] = 0.5
    click = write_pcm(tmp_path / "click.wav", x)
    nothing = write_pcm(tmp_path / "none.wav", np.zeros_like(x))
    wet, _ = mixed(tmp_path, click, None, None, loudness=None, reverb_size=0.8, reverb_wetness=1.0)
    dry, _ = mixed(tmp_path, nothing, click, click, loudness=None, reverb_size=0.8, reverb_wetness=1.0)
    assert np.abs(wet[:, RATE + 2_000 :]).max() > 1e-4
    assert not dry[:, RATE + 1 :].any()


def test_a_silent_song_stays_silent(tmp_path: Path) -> None:
    silence = write_pcm(tmp_path / "s.wav", np.zeros((2, 2 * RATE)))
    reporter = Silent()
    report = mix(silence, silence, silence, tmp_path / "mix.wav", MixSettings(), reporter=reporter)
    assert not read_pcm(tmp_path / "mix.wav")[0].any()
    assert report["loudness"] is None and report["gain"] == 0.0
    assert "silent" in reporter.notes[0]


def test_a_whisper_is_not_blown_up_without_end(tmp_path: Path) -> None:
    x = tone(1000, 3.0, 10 ** (-58 / 20))
    _, report = mixed(tmp_path, write_pcm(tmp_path / "v.wav", x), None, None)
    assert report["gain"] <= 24.0


def test_loudness_none_leaves_the_level_but_still_never_clips(tmp_path: Path) -> None:
    x = write_pcm(tmp_path / "x.wav", music(3.0) * np.float32(0.3))
    nothing = write_pcm(tmp_path / "n.wav", np.zeros((2, 3 * RATE), np.float32))
    y, report = mixed(tmp_path, nothing, None, x, loudness=None)
    assert report["gain"] == 0.0
    assert error_db(read_pcm(x)[0] * 10 ** (-7 / 20), y) < -100
    _, report = mixed(tmp_path, nothing, None, x, loudness=None, instrumental_volume_change=40.0)
    assert report["true_peak"] <= -1.0


def test_a_mono_instrumental_is_put_in_the_middle(tmp_path: Path) -> None:
    x = music(2.0)
    nothing = write_pcm(tmp_path / "n.wav", np.zeros_like(x))
    y, _ = mixed(tmp_path, nothing, None, write_pcm(tmp_path / "m.wav", x[:1]))
    assert np.array_equal(y[0], y[1])
    y, _ = mixed(tmp_path, write_pcm(tmp_path / "v.wav", x[:1]), None, None)
    assert y.shape == x.shape


def test_a_key_change_moves_every_part_and_keeps_the_length(tmp_path: Path) -> None:
    a, b, c = (write_pcm(tmp_path / f"{f}.wav", tone(f, 2.0, 0.1)) for f in (220, 550, 1000))

    def peaks(**how: Any) -> set[int]:
        y, _ = mixed(tmp_path, a, b, c, reverb_wetness=0.0, **how)
        assert y.shape == (2, 2 * RATE)
        spectrum = np.abs(np.fft.rfft(y[0] * np.hanning(2 * RATE)))
        return {f for f in (220, 330, 550, 825, 1000, 1500) if spectrum[2 * f - 4 : 2 * f + 5].max() > 300}

    fifth = 12 * math.log2(1.5)
    assert peaks() == {220, 550, 1000}
    assert peaks(pitch_change_all=fifth) == {330, 825, 1500}
    assert peaks(pitch_change_all=fifth, vocals_in_key=True) == {220, 825, 1500}


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    vocals = write_pcm(tmp_path / "v.wav", tone(seconds=3.0))
    short = write_pcm(tmp_path / "s.wav", tone(seconds=2.0))
    other = write_pcm(tmp_path / "r.wav", tone(seconds=3.0, rate=48_000), 48_000)
    empty = write_pcm(tmp_path / "e.wav", np.zeros((2, 0)))
    out = tmp_path / "mix.wav"
    with pytest.raises(AudioError, match=r"instrumental part is 2\.00 s long, but the vocals are 3\.00 s"):
        mix(vocals, None, short, out, MixSettings())
    with pytest.raises(AudioError, match="48000 Hz"):
        mix(vocals, other, None, out, MixSettings())
    with pytest.raises(AudioError, match="empty"):
        mix(empty, None, None, out, MixSettings())
    with pytest.raises(NotFoundError, match="backing"):
        mix(vocals, tmp_path / "gone.wav", None, out, MixSettings())
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("reverb_size", 1.2), ("pitch_change_all", 13.0), ("true_peak", 1.0), ("loudness", 3.0),
     ("main_vocals_volume_change", math.nan)],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=name):
        MixSettings(**{name: value})


def test_progress_only_goes_forward_and_a_cancel_leaves_nothing(parts: dict[str, Path], tmp_path: Path) -> None:
    class Watcher(Silent):
        def __init__(self, stop: float) -> None:
            super().__init__()
            self.seen, self.stop = [0.0], stop

        def progress(self, fraction: float, text: str = "") -> None:
            self.seen.append(fraction)
            if fraction > self.stop:
                raise Canceled()

    whole = Watcher(2.0)
    settings = MixSettings(loudness=-8.0, pitch_change_all=1.0)
    mix(parts["vocals"], None, parts["instrumental"], tmp_path / "mix.wav", settings, reporter=whole)
    assert whole.seen == sorted(whole.seen)
    assert whole.seen[-1] == 1.0
    (tmp_path / "mix.wav").unlink()
    for stop in (0.2, 0.7, 0.9):
        with pytest.raises(Canceled):
            mix(parts["vocals"], None, parts["instrumental"], tmp_path / "mix.wav", settings, reporter=Watcher(stop))
        assert list(tmp_path.iterdir()) == []


def test_the_same_parts_give_the_same_bytes(parts: dict[str, Path], tmp_path: Path) -> None:
    mixed(tmp_path, parts["vocals"], None, parts["instrumental"])
    first = (tmp_path / "mix.wav").read_bytes()
    mixed(tmp_path, parts["vocals"], None, parts["instrumental"])
    assert (tmp_path / "mix.wav").read_bytes() == first


def test_mixing_costs_less_than_eight_hundredths_of_the_songs_time(parts: dict[str, Path], tmp_path: Path) -> None:
    best = math.inf
    for _ in range(2):
        began = time.process_time()
        mixed(tmp_path, parts["vocals"], parts["instrumental"], parts["instrumental"])
        best = min(best, time.process_time() - began)
    assert best / 8.0 < 0.08
