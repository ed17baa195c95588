"""Where somebody sings is known well enough to rest in between, and no sung note is taken for a rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.portrait.sonic.activity import Meter, activity_of, idle_spans, video_frames
from vividcover.song.codec import decode
from vividcover.song.pcm import read_pcm

SONG = Path(__file__).parents[3] / "sample" / "song"
RATE, FRAME = 16_000, 1280  # Hz; samples of a frame of the network
Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def stems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, Samples]:
    """The sample song's vocals and its band, 16 kHz mono, equally loud."""
    folder = tmp_path_factory.mktemp("stems")
    read = []
    for name in ("vocals", "instrumental"):
        decode(SONG / f"{name}.flac", folder / name, rate=RATE, channels=1)
        read.append(read_pcm(folder / name)[0][0])
    length = min(map(len, read))
    vocals, band = (samples[:length] for samples in read)
    return vocals, band * np.float32(np.std(vocals) / np.std(band))


def sung_in(samples: Samples) -> NDArray[np.bool_]:
    meter = Meter()
    for block in np.array_split(samples.astype(np.float32), 7):  # blocks of any size
        meter.hear(block)
    return activity_of(meter.levels(), len(samples) // FRAME)


def decibels(level: float) -> np.float32:
    return np.float32(10 ** (level / 20))


def tone(seconds: float, level: float = -12.0) -> Samples:
    time = np.arange(round(seconds * RATE)) / RATE
    return (decibels(level) * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def rest(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.mark.parametrize("bleed", [None, -40.0, -25.0, -15.0])
def test_every_note_of_the_song_is_sung_whatever_comes_through(
    stems: tuple[Samples, Samples], bleed: float | None
) -> None:
    vocals, band = stems
    sung = sung_in(vocals if bleed is None else vocals + decibels(bleed) * band)
    for line in json.loads((SONG / "song.json").read_text())["lines"]:
        for start, length, _ in line["notes"]:
            assert sung[int(start * 12.5) : int((start + length) * 12.5)].all(), line["lyric"]


@pytest.mark.parametrize("bleed", [-40.0, -30.0, -25.0, -20.0])
@pytest.mark.parametrize("volume", [0.0, -30.0])
def test_an_instrumental_is_a_rest_although_the_band_comes_through(
    stems: tuple[Samples, Samples], bleed: float, volume: float
) -> None:
    vocals, band = stems[0], decibels(bleed) * stems[1]
    song = np.concatenate((vocals + band, band[: 20 * RATE], vocals + band))
    spans = idle_spans(sung_in(decibels(volume) * song))
    assert spans[0][0] == 0  # the song has an intro
    start, stop = max(spans, key=lambda span: span[1] - span[0])
    first, last = len(vocals) / FRAME, (len(vocals) + 20 * RATE) / FRAME
    assert first <= start < first + 12
    assert last - 12 < stop <= last + 2.609 * 12.5  # the second time round, nobody sings for 2.6 s


def test_nobody_sings_in_silence_or_in_hiss() -> None:
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(10 * RATE)
    for samples in (rest(10.0), hiss.astype(np.float32)):
        assert not sung_in(samples).any()
        assert idle_spans(sung_in(samples)) == [(0, 125)]


def test_a_held_note_is_one_phrase_to_its_soft_end() -> None:
    fading = tone(6.0) * decibels(1) * np.logspace(0, -1.4, 6 * RATE).astype(np.float32)  # 28 dB softer at its end
    sung = sung_in(np.concatenate((rest(4.0), tone(4.0), fading, rest(6.0))))
    assert sung[50:170].all()
    (_, first), (last, end) = idle_spans(sung)
    assert (first in (44, 45), last > 170, end) == (True, True, 250)


def test_lips_part_before_the_tone_and_close_after_it() -> None:
    sung = sung_in(np.concatenate((rest(4.0), tone(2.0), rest(4.0))))
    frames = sung.nonzero()[0]
    assert frames[0] in (50 - 6, 50 - 5)  # 0.4 s before
    assert frames[-1] in (74 + 8, 75 + 8)  # 0.64 s after
    assert len(frames) == frames[-1] - frames[0] + 1


def test_a_breath_is_no_rest_and_a_click_is_no_song() -> None:
    breath = sung_in(np.concatenate((tone(3.0), rest(1.5), tone(3.0))))
    assert breath.all()
    click = sung_in(np.concatenate((tone(3.0), rest(4.0), tone(0.06), rest(4.0), tone(3.0))))
    ((start, stop),) = idle_spans(click)
    assert (abs(start - 3 * 12.5 - 8), abs(stop - 11.06 * 12.5 + 5)) < (2, 2)


def test_rumble_is_not_a_voice() -> None:
    time = np.arange(10 * RATE) / RATE
    rumble = (0.05 * np.sin(2 * np.pi * 30 * time)).astype(np.float32)
    sung = sung_in(rumble + np.concatenate((tone(3.0), rest(7.0))))
    assert not sung[48:].any()


def test_short_rests_are_left_out() -> None:
    sung = np.ones(100, bool)
    sung[10:40] = sung[60:70] = False
    assert idle_spans(sung) == [(10, 40)]
    assert idle_spans(sung, shortest=10) == [(10, 40), (60, 70)]
    assert idle_spans(np.zeros(30, bool)) == [(0, 30)]
    assert idle_spans(np.zeros(0, bool)) == []


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 1), (0.1, 2), (4.0, 100), (29.896, 747), (420.02, 10_500)])
def test_the_video_is_as_long_as_the_sound(seconds: float, frames: int) -> None:
    assert video_frames(seconds) == frames
    assert abs(frames / 25 - seconds) <= 1 / 25
