"""A song's vocals in the trained voice: the melody stays, the timbre moves, the length is exact, silence is silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.errors import AudioError, Canceled, ParameterError
from vividcover.song.codec import decode
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.voice.classic import f0
from vividcover.voice.classic.convert import Conversion, choose_pitch, convert, cut_frames
from vividcover.voice.classic.features import FRAME, envelope, frame_count
from vividcover.voice.classic.model import load
from vividcover.voice.classic.train import train
from vividcover.workspace import Silent

SAMPLE = Path(__file__).parents[2] / "sample"
START, LENGTH = 7 * RATE, 9 * RATE + 123  # two lines and a gap of the sample song; a length of no round number
Array = NDArray[np.float32]


def pitch_of(mono: Array) -> Array:
    strength, level = f0.strengths(mono, RATE, frame_count(len(mono)), FRAME)
    return f0.track(*f0.candidates(strength), level)


def colour(mono: Array) -> Array:
    """Mean log bands of the voiced frames, without loudness."""
    pitch = pitch_of(mono)
    mean = envelope(mono, pitch)[pitch > 0].mean(0)
    return np.asarray(mean - mean.mean())


@pytest.fixture(scope="module")
def vivi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learnt once for all files of tests about this engine."""
    out = tmp_path_factory.getbasetemp() / "classic_vivi.zip"
    if not out.exists():
        clips = [SAMPLE / "voice" / f"voice_{number:02d}.flac" for number in (1, 3, 4)]
        train([*clips, SAMPLE / "voice" / "voice_15_sung.flac"], out, name="vivi", consent="Vivi does not exist.")
    return out


@pytest.fixture(scope="module")
def vocals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("song")
    decode(SAMPLE / "song" / "vocals.flac", folder / "whole.wav")
    whole, _ = read_pcm(folder / "whole.wav")
    return write_pcm(folder / "vocals.wav", whole[:, START : START + LENGTH])


@pytest.fixture(scope="module")
def sung(vivi: Path, vocals: Path) -> tuple[Array, dict]:  # type: ignore[type-arg]
    out = vocals.with_name("sung.wav")
    report = convert(vocals, vivi, out, Conversion(), threads=2)
    return read_pcm(out)[0], report


def test_the_length_and_the_channels_are_those_of_the_vocals(sung: tuple[Array, dict], vocals: Path) -> None:  # type: ignore[type-arg]
    assert sung[0].shape == (2, LENGTH)
    assert np.isfinite(sung[0]).all()
    assert 0.2 < sung[0].std() / read_pcm(vocals)[0].std() < 3


def test_the_melody_stays(sung: tuple[Array, dict], vocals: Path) -> None:  # type: ignore[type-arg]
    before, after = pitch_of(read_pcm(vocals)[0].mean(0)), pitch_of(sung[0].mean(0))
    both = (before > 0) & (after > 0)
    assert both.sum() > 0.9 * (before > 0).sum()
    cents = np.abs(1200 * np.log2(after[both] / before[both]))
    assert np.median(cents) < 30
    assert np.mean(cents > 600) < 0.01


def test_an_octave_up_is_the_melody_an_octave_up(vivi: Path, vocals: Path, tmp_path: Path) -> None:
    line = write_pcm(tmp_path / "line.wav", read_pcm(vocals)[0][:, : 4 * RATE])
    report = convert(line, vivi, tmp_path / "up.wav", Conversion(pitch_change="male-to-female"))
    before, after = pitch_of(read_pcm(line)[0].mean(0)), pitch_of(read_pcm(tmp_path / "up.wav")[0].mean(0))
    both = (before > 0) & (after > 0)
    assert report["semitones"] == 12
    assert both.sum() > 0.8 * (before > 0).sum()
    assert np.median(np.abs(1200 * np.log2(after[both] / before[both]) - 1200)) < 30
    power = np.abs(np.fft.rfft(read_pcm(tmp_path / "up.wav")[0].mean(0))) ** 2
    low = np.fft.rfftfreq(4 * RATE, 1 / RATE) < 0.8 * 2 * np.percentile(before[both], 5)
    assert power[low].sum() < 0.01 * power.sum()  # no rumble is left where the notes were


def test_the_timbre_moves_towards_the_voice(sung: tuple[Array, dict], vocals: Path, tmp_path: Path) -> None:  # type: ignore[type-arg]
    decode(SAMPLE / "voice" / "voice_12.flac", tmp_path / "held_out.wav")
    wanted = colour(read_pcm(tmp_path / "held_out.wav")[0].mean(0))
    before = np.sqrt(np.mean((colour(read_pcm(vocals)[0].mean(0)) - wanted) ** 2))
    after = np.sqrt(np.mean((colour(sung[0].mean(0)) - wanted) ** 2))
    assert after < 0.75 * before


def test_the_gap_between_phrases_is_no_louder_than_it_was(sung: tuple[Array, dict], vocals: Path) -> None:  # type: ignore[type-arg]
    before = read_pcm(vocals)[0]
    level = np.array([before[:, s : s + 4410].std() for s in range(0, LENGTH - 4410, 4410)])
    quiet = int(level.argmin())
    assert sung[0][:, quiet * 4410 : (quiet + 1) * 4410].std() <= level[quiet] + 1e-6


def test_the_same_bytes_with_one_worker_as_with_two(
    vivi: Path, vocals: Path, tmp_path: Path, sung: tuple[Array, dict]  # type: ignore[type-arg]
) -> None:  # fmt: skip
    convert(vocals, vivi, tmp_path / "one.wav", Conversion(), threads=1)
    assert (tmp_path / "one.wav").read_bytes() == vocals.with_name("sung.wav").read_bytes()


def test_a_silent_song_stays_silent(vivi: Path, tmp_path: Path) -> None:
    write_pcm(tmp_path / "silent.wav", np.zeros((2, 3 * RATE + 5)))
    reporter = Silent()
    report = convert(tmp_path / "silent.wav", vivi, tmp_path / "out.wav", Conversion(), reporter=reporter)
    out, _ = read_pcm(tmp_path / "out.wav")
    assert out.shape == (2, 3 * RATE + 5)
    assert not out.any()
    assert report["song_f0_hz"] is None
    assert any("No singing" in note for note in reporter.notes)


@pytest.mark.parametrize(
    ("song", "semitones"), [(110.0, 12.0), (125.0, 12.0), (200.0, 0.0), (260.0, 0.0), (420.0, -12.0)]
)
def test_auto_takes_the_octave_nearest_to_the_voice(vivi: Path, song: float, semitones: float) -> None:
    voice = load(vivi)  # a woman who speaks at about 180 Hz
    pitch = np.where(np.arange(500) % 50 == 0, 0, song).astype(np.float32)  # held notes
    assert choose_pitch("auto", pitch, voice)[0] == semitones
    assert choose_pitch("female-to-male", pitch, voice)[0] == -12
    assert choose_pitch(3.5, pitch, voice)[0] == 3.5


def test_speech_is_not_raised_to_the_octave_of_a_voice_learnt_from_singing(vivi: Path) -> None:
    voice = load(vivi)
    own = voice.card["f0_hz"]["median"]
    sings = replace(voice, card={**voice.card, "sung": 1.0})
    notes = np.full(500, own / 1.5, np.float32)
    wandering = (own / 1.5 * 2 ** (0.25 * np.sin(np.arange(500) / 8))).astype(np.float32)
    assert choose_pitch("auto", wandering, sings)[0] == 0  # he would sing higher than he speaks
    assert choose_pitch("auto", notes, sings)[0] == 12


def test_blocks_are_cut_where_nobody_sings() -> None:
    pitch = np.full(6000, 200, np.float32)
    for pause in (900, 1950, 2850, 4000, 5100):
        pitch[pause : pause + 40] = 0
    cuts = cut_frames(pitch, np.zeros(6000, np.float32))
    assert cuts[0] == 0
    assert cuts[-1] == 6000
    assert all(pitch[cut] == 0 for cut in cuts[1:-1])
    assert max(np.diff(cuts)) <= 1600


@pytest.mark.parametrize(
    "settings",
    [
        Conversion(index_rate=1.5), Conversion(filter_radius=8), Conversion(rms_mix_rate=-0.1),
        Conversion(protect=0.6), Conversion(pitch_change=40.0), Conversion(pitch_change="up"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: Conversion, vivi: Path, vocals: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        convert(vocals, vivi, tmp_path / "out.wav", settings)


def test_vocals_at_another_rate_are_refused(vivi: Path, tmp_path: Path) -> None:
    write_pcm(tmp_path / "slow.wav", np.zeros((2, 16_000)), 16_000)
    with pytest.raises(AudioError, match="16000"):
        convert(tmp_path / "slow.wav", vivi, tmp_path / "out.wav", Conversion())


def test_what_was_asked_for_in_vain_is_named(vivi: Path, tmp_path: Path) -> None:
    short = write_pcm(tmp_path / "short.wav", np.zeros((2, RATE)))
    report = convert(short, vivi, tmp_path / "out.wav", Conversion(pitch_detection_algorithm="mangio-crepe"))
    assert any("mangio-crepe" in line for line in report["not_honoured"])


class Stopping(Silent):
    def progress(self, fraction: float, text: str = "") -> None:
        if fraction > 0.2:
            raise Canceled


def test_it_can_be_canceled(vivi: Path, vocals: Path, tmp_path: Path) -> None:
    with pytest.raises(Canceled):
        convert(vocals, vivi, tmp_path / "out.wav", Conversion(), reporter=Stopping())
