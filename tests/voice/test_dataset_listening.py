"""What a data set's makers hear: voices and other sounds, rooms, the same sound twice, and other people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from vividcover.song.codec import decode, encode
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.voice import duplicates, reverb, slicing, speakers, vad
from vividcover.voice.dataset import Options, make_dataset
from vividcover.workspace import Reporter, Silent

SAMPLE = Path(__file__).parents[2] / "sample"
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Audio]:
    """The sample singer's clips: 13 spoken, 3 sung."""
    path = tmp_path_factory.mktemp("clips") / "x.wav"
    found = []
    for source in sorted((SAMPLE / "voice").glob("*.flac")):
        decode(source, path, channels=1)
        found.append(read_pcm(path)[0][0])
    return found


@pytest.fixture(scope="module")
def speech(clips: list[Audio]) -> Audio:
    return np.concatenate(clips[:5])


def noise(count: int, seed: int = 1) -> Audio:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def room(seconds: float) -> Audio:
    """An impulse response: the direct sound, and as much room, dying away by 60 dB in `seconds`."""
    count = round(1.2 * seconds * RATE)
    tail = noise(count, 3) * np.exp(-6.9 * np.arange(count) / RATE / seconds)
    tail /= np.sqrt((tail**2).sum())
    tail[0] = 1
    return tail.astype(np.float32)


def somebody_else(clip: Audio) -> Audio:
    """The clip through a vocal tract a fifth longer, and as much lower and slower."""
    return soxr.resample(clip, RATE, round(1.22 * RATE))


# --- voice activity ------------------------------------------------------------------------------------------------


def heard(samples: Audio, tmp_path: Path) -> float:
    """Of what is loud, the share that is called voice."""
    path = write_pcm(tmp_path / "x.wav", samples)
    quiet = slicing.measure(path, Silent()).quiet
    voice = vad.listen(path, quiet, Silent())
    assert voice.shape == quiet.shape
    return float((voice & ~quiet).sum() / max(1, (~quiet).sum()))


def test_speech_and_song_are_voice(clips: list[Audio], tmp_path: Path) -> None:
    assert all(heard(clip, tmp_path) > 0.99 for clip in (*clips[:4], *clips[13:]))


@pytest.mark.parametrize("kind", ["white", "pink"])
def test_a_voice_in_noise_is_still_voice(kind: str, clips: list[Audio], tmp_path: Path) -> None:
    other = noise(len(clips[0]))
    if kind == "pink":
        spectrum = np.fft.rfft(other)
        other = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(other)).astype(np.float32)
    assert heard(clips[0] + other * np.float32(clips[0].std() / other.std() * 10 ** (-10 / 20)), tmp_path) > 0.9


@pytest.mark.parametrize("kind", ["hiss", "typing", "beeps", "applause", "hum"])
def test_what_is_no_voice_is_not_called_one(kind: str, tmp_path: Path) -> None:
    count = 8 * RATE
    time, hiss = np.arange(count) / RATE, noise(count)
    if kind == "typing":
        made = np.zeros(count)
        for start in np.random.default_rng(2).integers(0, count - 900, 50):
            made[start : start + 800] += hiss[:800] * np.exp(-np.arange(800) / 100)
    elif kind == "beeps":
        made = np.sin(2 * np.pi * 1000 * time) * (np.sin(4 * np.pi * time) > 0)
    elif kind == "applause":
        made = hiss * (1 + 0.5 * np.sin(2 * np.pi * 7 * time))
    elif kind == "hum":
        made = np.sin(2 * np.pi * 50 * time) + 0.05 * hiss
    else:
        made = hiss
    assert heard((0.2 * made).astype(np.float32), tmp_path) < 0.05


# --- the room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "low", "high"), [(0.3, 0.2, 0.45), (0.5, 0.4, 0.65), (0.8, 0.65, 1.1), (1.2, 0.9, 1.6)]
)
def test_the_room_is_told_from_the_recording(
    seconds: float, low: float, high: float, speech: Audio, tmp_path: Path
) -> None:
    path = write_pcm(tmp_path / "x.wav", 0.3 * fftconvolve(speech, room(seconds))[: len(speech)])
    found = reverb.seconds(reverb.measure(path, Silent()))
    assert found is not None and low < found < high


def test_a_dry_voice_has_little_room_and_of_too_little_nothing_is_said(speech: Audio, tmp_path: Path) -> None:
    dry = reverb.seconds(reverb.measure(write_pcm(tmp_path / "x.wav", speech), Silent()))
    assert dry is not None and dry < 0.5
    for few in (np.zeros(0, np.float32), speech[: RATE // 10], np.zeros(3 * RATE, np.float32)):
        assert reverb.seconds(reverb.measure(write_pcm(tmp_path / "x.wav", few), Silent())) is None


# --- the same sound twice ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(clips: list[Audio]) -> duplicates.Known:
    found = duplicates.Known()
    for clip in clips:
        bits = duplicates.fingerprint(clip, RATE)
        assert found.find(bits) is None  # no clip is taken for another
        found.add(bits)
    return found


@pytest.mark.parametrize("how", ["level", "mp3", "cut", "8 kHz", "noise"])
def test_the_same_sound_is_found_again(how: str, known: duplicates.Known, clips: list[Audio], tmp_path: Path) -> None:
    for number in (0, 4, 14 if how != "noise" else 9):
        clip = clips[number]
        if how == "level":
            other = 0.05 * clip
        elif how == "mp3":
            encode(write_pcm(tmp_path / "x.wav", clip), tmp_path / "x.mp3", format="mp3")
            decode(tmp_path / "x.mp3", tmp_path / "y.wav", channels=1)
            other = read_pcm(tmp_path / "y.wav")[0][0]
        elif how == "cut":
            other = clip[RATE + 1234 :]
        elif how == "8 kHz":
            other = soxr.resample(soxr.resample(clip, RATE, 8000), 8000, RATE)
        else:
            other = clip + noise(len(clip)) * np.float32(0.1 * clip.std())
        assert known.find(duplicates.fingerprint(other, RATE)) == number


def test_silence_and_moments_are_nobodys_double(known: duplicates.Known) -> None:
    known.add(duplicates.fingerprint(np.zeros(RATE, np.float32), RATE))
    for nothing in (np.zeros(0, np.float32), np.zeros(2 * RATE, np.float32), noise(RATE // 10)):
        assert known.find(duplicates.fingerprint(nothing, RATE)) is None


# --- other people --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hers(clips: list[Audio]) -> list[speakers.Heard]:
    return [speakers.hear(clip, RATE) for clip in clips]


def test_one_person_speaking_and_singing_is_one_person(hers: list[speakers.Heard]) -> None:
    assert speakers.strangers(hers) == []
    assert [clip.sung for clip in hers] == [False] * 13 + [True] * 3


def test_through_other_microphones_and_rooms_it_is_still_her(clips: list[Audio], hers: list[speakers.Heard]) -> None:
    changed = [
        speakers.hear(fftconvolve(clips[0], room(0.3))[: len(clips[0])].astype(np.float32), RATE),
        speakers.hear(clips[2] + noise(len(clips[2])) * np.float32(0.1 * clips[2].std()), RATE),
        speakers.hear(np.diff(clips[4], prepend=0) + 0.2 * clips[4], RATE),  # brighter
    ]
    assert speakers.strangers([*hers[5:13], *changed]) == []


def test_another_persons_clip_is_found_wherever_it_is(clips: list[Audio], hers: list[speakers.Heard]) -> None:
    strange = speakers.hear(somebody_else(clips[3]), RATE)
    for place in (0, 4, 9):
        assert speakers.strangers([*hers[4:13][:place], strange, *hers[4:13][place:]]) == [place]


def test_of_too_little_nobody_is_called_a_stranger(clips: list[Audio], hers: list[speakers.Heard]) -> None:
    strange = speakers.hear(somebody_else(clips[3]), RATE)
    blip = speakers.hear(clips[0][: RATE // 2], RATE)
    nothing = speakers.hear(np.zeros(0, np.float32), RATE)
    silent = speakers.hear(np.zeros(RATE, np.float32), RATE)
    for few in ([], [strange], [hers[0], strange], [blip, nothing, silent], [nothing] * 5):
        assert speakers.strangers(few) == []


# --- together ------------------------------------------------------------------------------------------------------


def test_a_data_set_leaves_out_what_is_no_voice_and_names_another_person(clips: list[Audio], tmp_path: Path) -> None:
    pause = np.zeros(RATE, np.float32)
    applause = np.float32(0.1) * noise(6 * RATE)
    parts = [*clips[:7], pause, applause, pause, *clips[7:9]]
    talk = write_pcm(tmp_path / "talk.wav", np.concatenate(parts))
    guest = write_pcm(tmp_path / "guest.wav", somebody_else(np.concatenate(clips[9:11])))
    report = make_dataset([talk, guest], tmp_path / "o.zip", name="v", isolate=False)
    assert 5.0 < report["rejected_seconds"]["no voice in it"] < 6.5
    assert {clip["file"] for clip in report["other_voices"]} == {"guest.wav"}
    assert any("guest.wav at 0:00" in text and "another person" in text for text in report["advice"])
    assert report["clips"] == sum(line["clips"] for line in report["recordings"])  # it is left to people to decide
    anything = make_dataset([talk], tmp_path / "p.zip", name="v", options=Options(False, voice_only=False))
    assert "no voice in it" not in anything["rejected_seconds"]


class Halver:
    """A separator of nothing: the voice is half of what it hears, the other stem is noise."""

    name, rate = "halver", RATE

    def __init__(self, *stems: str) -> None:
        self.stems = stems

    def separate(
        self, song: Path, folder: Path, *, reporter: Reporter | None = None, span: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        samples, rate = read_pcm(song)
        rest = 0.1 * noise(samples.size).reshape(samples.shape)
        made = {stem: samples / 2 if stem in ("dry", "vocals") else rest for stem in self.stems}
        return {stem: write_pcm(folder / f"{stem}.wav", made[stem], rate) for stem in self.stems}


def test_the_room_is_taken_off_where_there_is_one_and_that_is_asked_for(speech: Audio, tmp_path: Path) -> None:
    near = write_pcm(tmp_path / "near.wav", speech)
    hall = write_pcm(tmp_path / "hall.wav", 0.2 * fftconvolve(speech[::-1], room(1.3))[: len(speech)])
    plain = make_dataset([near, hall], tmp_path / "a.zip", name="v", isolate=False)
    assert any("hall.wav is echoing" in text for text in plain["advice"])
    options = Options(False, dereverb=Halver("dry", "room"))
    reporter = Silent()
    dried = make_dataset([near, hall], tmp_path / "b.zip", name="v", options=options, reporter=reporter)
    lines = {line["file"]: line for line in dried["recordings"]}
    assert not lines["near.wav"]["dereverbed"] and lines["hall.wav"]["dereverbed"]
    assert any("hall.wav has" in note and "its room is taken off" in note for note in reporter.notes)
    assert not any("echoing" in text for text in dried["advice"])
    everything = Options(False, dereverb=Halver("room", "dry"), dereverb_where="all")
    both = make_dataset([near], tmp_path / "c.zip", name="v", options=everything)
    assert both["recordings"][0]["dereverbed"] and both["usable_seconds"] > 15


def test_a_given_separator_takes_the_voice_out_of_music(speech: Audio, tmp_path: Path) -> None:
    source = write_pcm(tmp_path / "a.wav", speech)
    report = make_dataset(
        [source], tmp_path / "o.zip", name="v", options=Options(True, separator=Halver("vocals", "instrumental"))
    )
    assert report["recordings"][0]["isolated"] and report["usable_seconds"] > 15
