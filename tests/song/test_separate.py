"""Taking songs apart: what holds for every song, on the sample's true stems and on mixes made from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
import pyworld
import soxr
from numpy.typing import NDArray

from vividcover.errors import Canceled, ParameterError
from vividcover.song.pcm import RATE, PcmReader, read_pcm, write_pcm
from vividcover.song.separate import CORE, Separation, separate
from vividcover.song.separation import melody, stft
from vividcover.workspace import Silent

SAMPLE = Path(__file__).resolve().parents[2] / "sample"
Audio = NDArray[np.float32]  # [2, n]


@lru_cache
def _stem(name: str) -> Audio:
    with av.open(str(SAMPLE / "song" / name)) as container:
        frames = [f.to_ndarray() for f in container.decode(audio=0)]
        planar = container.streams.audio[0].format.is_planar
    whole = np.concatenate(frames if planar else [f.reshape(-1, 2).T for f in frames], axis=1)
    return (whole / np.float32(32768 if whole.dtype == np.int16 else 2**31)).astype(np.float32)


def stems(start: float = 2.0, seconds: float = 7.0) -> tuple[Audio, Audio]:
    """True vocals and instrumental of a part of the sample song."""
    part = slice(int(start * RATE), int((start + seconds) * RATE))
    return _stem("vocals.flac")[:, part].copy(), _stem("instrumental.flac")[:, part].copy()


def si_sdr(truth: Audio, estimate: Audio) -> float:
    t, e = truth.ravel().astype(float), estimate.ravel().astype(float)
    gain = (t @ e) / (t @ t)
    return float(10 * np.log10(gain**2 * (t @ t) / np.sum((e - gain * t) ** 2)))


def sdr(truth: Audio, estimate: Audio) -> float:
    return float(10 * np.log10(np.sum(truth.astype(float) ** 2) / np.sum((estimate.astype(float) - truth) ** 2)))


def take_apart(folder: Path, song: Audio, **options: object) -> tuple[Audio, Audio, Separation]:
    write_pcm(folder / "song.wav", song)
    result = separate(folder / "song.wav", folder / "parts", **options)  # type: ignore[arg-type]
    return read_pcm(result.vocals)[0], read_pcm(result.instrumental)[0], result


def delayed(mono: Audio, milliseconds: float) -> Audio:
    return np.roll(mono, int(milliseconds * RATE / 1000))


def raised(mono: Audio, semitones: float) -> Audio:
    """A crude harmony: the same line, faster and higher, stretched back by overlapping pieces."""
    ratio, size = 2 ** (semitones / 12), 2048
    window = np.hanning(size).astype(np.float32)
    out = np.zeros(len(mono) + size, np.float32)
    for at in range(0, len(mono) - 2 * size, size // 2):
        piece = np.interp(at + np.arange(size) * ratio, np.arange(len(mono)), mono)
        out[at : at + size] += window * piece.astype(np.float32)
    return out[: len(mono)]


def cases() -> Iterator[tuple[str, Audio, Audio]]:
    vocals, band = stems()
    voice = vocals.mean(0)
    yield "centred", vocals, band
    yield "mono", np.stack([voice, voice]), np.stack([band.mean(0)] * 2)
    yield "off centre", np.stack([1.3 * voice, 0.5 * voice]), band
    yield "hard left", np.stack([1.4 * voice, 0 * voice]), band
    yield "doubled wide", np.stack([delayed(voice, 11), delayed(voice, 17)]), band
    up, down = raised(voice, 4), raised(voice, -5)
    yield "wide harmonies", np.stack([voice + up, voice + down]), band
    yield "quiet", vocals * np.float32(0.003), band * np.float32(0.003)
    echo = sum(0.5 * 0.7**k * np.stack([delayed(voice, 43 * k), delayed(voice, 53 * k)]) for k in range(1, 8))
    yield "reverberant", (vocals + echo).astype(np.float32), band
    spectrum = [np.fft.rfft(x) for x in (vocals, band)]
    for s in spectrum:
        s[:, int(3600 / RATE * vocals.shape[1]) :] = 0
    yield "8 kHz", *(np.fft.irfft(s, vocals.shape[1]).astype(np.float32) for s in spectrum)


CASES = {name: (vocals, band) for name, vocals, band in cases()}


@pytest.mark.parametrize("name", CASES)
def test_vocals_and_instrumental_are_better_than_the_mixture_and_sum_to_it(name: str, tmp_path: Path) -> None:
    vocals, band = CASES[name]
    song = vocals + band
    sung, played, result = take_apart(tmp_path, song)
    assert np.abs(sung + played - song).max() < 1e-6 * np.abs(song).max() + 1e-9
    more = 0 if name == "wide harmonies" else 1  # dB; harmonies as loud as these are mostly left with the lead
    assert si_sdr(vocals, sung) > si_sdr(vocals, song) + more, result
    assert sdr(band, played) > sdr(band, song) + 1, result


def sung_at(mono: Audio, semitones: float) -> Audio:
    """The same voice on other notes."""
    x = soxr.resample(mono, RATE, 22_050).astype(float)
    pitch, times = pyworld.dio(x, 22_050)
    envelope, noise = pyworld.cheaptrick(x, pitch, times, 22_050), pyworld.d4c(x, pitch, times, 22_050)
    y = pyworld.synthesize(pitch * 2 ** (semitones / 12), envelope, noise, 22_050)
    again = soxr.resample(y, 22_050, RATE)
    return np.pad(again, (0, len(mono)))[: len(mono)].astype(np.float32)


@lru_cache
def with_harmonies() -> tuple[Audio, Audio, Audio]:
    """Lead in the middle, harmonies beside it, the band."""
    vocals, band = stems()
    voice = vocals.mean(0)
    return np.stack([voice, voice]), np.stack([delayed(sung_at(voice, 4), 9), delayed(sung_at(voice, -5), 15)]), band


def test_a_lead_in_the_middle_is_told_from_harmonies_beside_it(tmp_path: Path) -> None:
    lead, beside, band = with_harmonies()
    song = lead + beside + band
    sung, played, result = take_apart(tmp_path, song)
    assert result.backing == tmp_path / "parts" / "backing.wav"
    backing = read_pcm(result.backing)[0]
    assert np.abs(sung + backing + played - song).max() < 1e-6 * np.abs(song).max()
    assert si_sdr(lead, sung) > si_sdr(lead, sung + backing) + 2, result
    assert si_sdr(beside, backing) > si_sdr(beside, sung + backing), result
    assert si_sdr(lead + beside, sung + backing) > si_sdr(lead + beside, song)


@pytest.mark.parametrize("case", ["one voice", "nobody in the middle", "one channel"])
def test_without_a_lead_and_others_there_are_no_backing_vocals(case: str, tmp_path: Path) -> None:
    lead, beside, band = with_harmonies()
    song = {"one voice": lead + band, "nobody in the middle": beside + band}.get(
        case, (lead + beside + band).mean(0)[None]
    )
    _, _, result = take_apart_channels(tmp_path, song)
    assert result.backing is None and not (tmp_path / "parts" / "backing.wav").exists()


def test_the_sample_song_is_taken_apart_better_than_the_prototype_did(tmp_path: Path) -> None:
    vocals, band = stems(0, 18)
    sung, played, _ = take_apart(tmp_path, vocals + band)
    assert si_sdr(vocals, sung) > 5.5  # the mixture: 0.9; centre, comb and band-pass: 4
    assert sdr(band, played) > 5.5


def test_the_vocals_are_quiet_where_nobody_sings(tmp_path: Path) -> None:
    vocals, band = stems(0, 8)  # 2.5 s of introduction
    sung, _, _ = take_apart(tmp_path, vocals + band)
    intro, verse = sung[:, : 2 * RATE], sung[:, 3 * RATE :]
    assert np.square(intro).mean() < 0.06 * np.square(verse).mean()


def test_a_silent_song_stays_silent(tmp_path: Path) -> None:
    sung, played, result = take_apart(tmp_path, np.zeros((2, 2 * RATE), np.float32))
    assert result.recipe == "silence"
    assert not sung.any() and not played.any()


@pytest.mark.parametrize("room", [False, True])
def test_a_voice_alone_is_passed_through(room: bool, tmp_path: Path) -> None:
    vocals, _ = stems()
    if room:
        vocals = vocals + 0.3 * np.stack([delayed(vocals[1], 31), delayed(vocals[0], 47)])
    sung, played, result = take_apart(tmp_path, vocals)
    assert result.recipe == "a-cappella", result
    assert np.array_equal(sung, vocals) and not played.any()


def test_a_song_without_a_voice_keeps_its_instrumental(tmp_path: Path) -> None:
    _, band = stems(0, 14)
    sung, played, result = take_apart(tmp_path, band)
    assert result.recipe == "instrumental", result
    assert not sung.any() and np.array_equal(played, band)


def test_a_short_passage_of_singing_is_not_taken_for_a_song_without_a_voice(tmp_path: Path) -> None:
    vocals, band = stems(0, 26)
    vocals[:, : 18 * RATE] = 0
    vocals[:, 23 * RATE :] = 0
    sung, _, result = take_apart(tmp_path, vocals + band)
    assert result.recipe != "instrumental", result
    assert si_sdr(vocals, sung) > si_sdr(vocals, vocals + band) + 1


def test_the_instrumental_recipe_leaves_no_vocals_and_another_one_is_kept_without_a_voice(tmp_path: Path) -> None:
    _, band = stems(0, 6)
    (tmp_path / "asked").mkdir()
    (tmp_path / "kept").mkdir()
    sung, played, _ = take_apart(tmp_path / "asked", band, recipe="instrumental")
    assert not sung.any() and np.array_equal(played, band)
    assert take_apart(tmp_path / "kept", band, recipe="stereo")[2].recipe == "stereo"


def test_the_search_for_the_melody_can_be_stopped() -> None:
    def refuse() -> None:
        raise Canceled()

    with pytest.raises(Canceled):
        melody.track(np.ones((2000, melody.PITCHES), np.float32), refuse)


def test_the_result_does_not_depend_on_threads_and_says_why(tmp_path: Path) -> None:
    song = np.concatenate([sum(stems(2, 8)), sum(stems(10, 7.5))], axis=1)  # two blocks
    reporter = Silent()
    (tmp_path / "one").mkdir()
    one = take_apart(tmp_path / "one", song, threads=1, reporter=reporter)
    (tmp_path / "three").mkdir()
    three = take_apart(tmp_path / "three", song, threads=3)
    assert np.array_equal(one[0], three[0]) and np.array_equal(one[1], three[1])
    assert one[2].recipe in reporter.notes[0] and one[2].why in reporter.notes[0]


def test_blocks_are_joined_without_a_seam(tmp_path: Path) -> None:
    song = np.concatenate([sum(stems(2, 10)), sum(stems(12, 10))], axis=1)
    sung, _, _ = take_apart(tmp_path, song)
    joint, reach = CORE * stft.HOP, RATE // 2
    assert song.shape[1] > joint + 2 * reach
    around = slice(joint - reach, joint + reach)
    assert np.abs(np.diff(sung[:, around])).max() < np.abs(np.diff(song[:, around])).max()  # no step that is not sung
    share = [
        np.abs(sung[:, a : a + reach]).mean() / np.abs(song[:, a : a + reach]).mean() for a in (joint - reach, joint)
    ]
    assert 0.4 < share[0] / share[1] < 2.5


def test_a_short_clip_and_a_single_channel_work(tmp_path: Path) -> None:
    vocals, band = stems(3, 1.0)
    song = (vocals + band).mean(0)[None]
    sung, played, _ = take_apart_channels(tmp_path, song)
    assert sung.shape == played.shape == song.shape
    assert np.abs(sung + played - song).max() < 1e-6


def take_apart_channels(folder: Path, song: Audio) -> tuple[Audio, Audio, Separation]:
    write_pcm(folder / "song.wav", song)
    result = separate(folder / "song.wav", folder / "parts")
    with PcmReader(result.vocals) as sung, PcmReader(result.instrumental) as played:
        assert sung.channels == played.channels == song.shape[0]
        return sung.all(), played.all(), result


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    write_pcm(tmp_path / "song.wav", np.zeros((2, RATE), np.float32))
    with pytest.raises(ParameterError, match="karaoke"):
        separate(tmp_path / "song.wav", tmp_path / "parts", recipe="karaoke")


def test_it_stops_within_a_second_when_canceled_and_leaves_no_thread(tmp_path: Path) -> None:
    class Impatient(Silent):
        began = time.monotonic()

        def check(self) -> None:
            if time.monotonic() > self.began + 0.5:
                raise Canceled()

        def progress(self, fraction: float, text: str = "") -> None:
            self.check()

    vocals, band = stems(2, 20)
    write_pcm(tmp_path / "song.wav", np.tile(vocals + band, 2))
    reporter = Impatient()
    reporter.began = time.monotonic()
    with pytest.raises(Canceled):
        separate(tmp_path / "song.wav", tmp_path / "parts", reporter=reporter)
    assert time.monotonic() < reporter.began + 2.5  # half a second of work, a second to stop, a busy machine
    assert not [t for t in threading.enumerate() if t.name.startswith("separate")]


def test_the_melody_of_a_clean_tone_is_followed_through_vibrato_and_an_octave_is_not_mistaken() -> None:
    t = np.arange(3 * RATE) / RATE
    pitch = 220 * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 16)).astype(np.float32)
    strength = melody.salience(np.abs(stft.analyse(tone[None])[0]))
    found = melody.refine(strength, melody.track(strength / strength.max(), lambda: None))
    assert np.abs(1200 * np.log2(found[5:-5] / 220)).max() < 75


def test_frames_put_together_again_are_the_signal() -> None:
    signal = np.random.default_rng(1).standard_normal((2, stft.span(0, 40)[1])).astype(np.float32)
    again = stft.synthesise(stft.analyse(signal))
    inside = slice(stft.SIZE, -stft.SIZE)
    assert np.abs(again - signal)[:, inside].max() < 1e-5
