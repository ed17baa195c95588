"""Recordings become a data set: the layout, what is left out and why, and what is said about it."""

from __future__ import annotations

import hashlib
import io
import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vividcover.archives import write_zip
from vividcover.errors import ArchiveError, AudioError, Canceled, NotFoundError, ParameterError
from vividcover.song.codec import decode
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.voice import music, slicing
from vividcover.voice.dataset import make_dataset
from vividcover.voice.recordings import open_dataset
from vividcover.workspace import Silent

SAMPLE = Path(__file__).parents[2] / "sample"
Audio = NDArray[np.float32]


def load(path: Path, tmp_path: Path) -> Audio:
    decode(path, tmp_path / "loaded.wav", channels=1)
    return read_pcm(tmp_path / "loaded.wav")[0][0]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Audio:
    """25 s of the sample singer speaking, with her own pauses."""
    folder = tmp_path_factory.mktemp("speech")
    return np.concatenate([load(SAMPLE / f"voice/voice_0{i}.flac", folder) for i in range(1, 5)])[: 25 * RATE]


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Audio:
    return load(SAMPLE / "song/instrumental.flac", tmp_path_factory.mktemp("band"))[: 25 * RATE]


def silence(seconds: float) -> Audio:
    return np.zeros(round(seconds * RATE), np.float32)


def record(path: Path, *parts: Audio) -> Path:
    return write_pcm(path, np.concatenate(parts))


def clips_of(archive: Path) -> dict[str, Audio]:
    found = {}
    with zipfile.ZipFile(archive) as zipped:
        for name in zipped.namelist():
            with wave.open(io.BytesIO(zipped.read(name))) as file:
                assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 44_100)
                found[name] = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    return found


# --- the data set ----------------------------------------------------------------------------------------------------


def test_the_zip_has_the_seeds_layout_and_the_clips_hold_the_voice(speech: Audio, tmp_path: Path) -> None:
    source = record(tmp_path / "memo.wav", silence(3), speech[: 12 * RATE], silence(4), speech[12 * RATE :], silence(2))
    report = make_dataset([source], tmp_path / "out" / "dataset_vivi.zip", name="vivi")
    clips = clips_of(tmp_path / "out" / "dataset_vivi.zip")
    assert list(clips) == [f"dataset/vivi/split_{i}.wav" for i in range(report["clips"])]
    assert report["clips"] == 2  # she never pauses for half a second
    assert all(12.0 <= len(clip) / RATE <= 14.1 for clip in clips.values())  # half a second of silence at either end
    held = sum(len(clip) for clip in clips.values()) / RATE
    assert report["usable_seconds"] <= held < 29.0 and 20.0 < report["usable_seconds"] <= 25.5
    assert report["rejected_seconds"]["silence"] > 8.0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["dataset_vivi.zip"]


def test_quiet_recordings_are_lifted_and_loud_ones_lowered_to_one_level(speech: Audio, tmp_path: Path) -> None:
    quiet = record(tmp_path / "quiet.wav", speech[: 12 * RATE] * 0.02)
    loud = record(tmp_path / "loud.wav", speech[12 * RATE :] / np.abs(speech).max())
    make_dataset([quiet, loud], tmp_path / "out.zip", name="v")
    levels = [20 * np.log10(np.sqrt(np.mean(clip**2))) for clip in clips_of(tmp_path / "out.zip").values()]
    assert max(levels) - min(levels) < 4.0 and -27.0 < min(levels) < max(levels) < -18.0


def test_the_same_recordings_give_the_same_bytes(speech: Audio, tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        source = record(tmp_path / "memo.wav", speech)
        os.utime(source, (1_000_000_000 + number, 1_000_000_000))
        make_dataset([source], tmp_path / f"{number}.zip", name="vivi")
        digests.add(hashlib.sha256((tmp_path / f"{number}.zip").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_files_folders_and_zips_may_be_mixed_and_doubles_count_once(speech: Audio, tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    one = record(folder / "one.wav", speech[: 11 * RATE])
    (folder / "notes.txt").write_text("not audio")
    (folder / ".hidden.wav").write_bytes(b"RIFF")
    two = record(tmp_path / "two.wav", speech[11 * RATE :])
    packed = write_zip(tmp_path / "p.zip", {"__MACOSX/._two.wav": b"x", "My takes/two.wav": two, "again.wav": one})
    with_lead = record(tmp_path / "other-file-same-sound.wav", speech[: 11 * RATE])
    with with_lead.open("ab") as file:
        file.write(b"\0\0\0\0")  # other bytes, same sound
    reporter = Silent()
    report = make_dataset([tmp_path / "folder", packed, with_lead], tmp_path / "o.zip", name="v", reporter=reporter)
    assert [line["file"] for line in report["recordings"]] == [
        "one.wav", "again.wav", "two.wav", "other-file-same-sound.wav",
    ]  # fmt: skip
    assert 20 < report["usable_seconds"] < 25.5
    reasons = [piece["reason"] for line in report["recordings"] for piece in line["rejected"]]
    assert "the same file as one.wav" in reasons and "the same sound as in one.wav" in reasons


def test_a_bad_recording_among_good_ones_is_left_out_with_its_reason(speech: Audio, tmp_path: Path) -> None:
    good = record(tmp_path / "good.wav", speech)
    (tmp_path / "bad.mp3").write_text("these are words, renamed to mp3 " * 100)
    mute = record(tmp_path / "mute.wav", silence(12))
    reporter = Silent()
    report = make_dataset([tmp_path / "bad.mp3", mute, good], tmp_path / "o.zip", name="v", reporter=reporter)
    assert report["clips"] > 0
    assert any("bad.mp3" in note and "Left out" in note for note in reporter.notes)
    assert any("mute.wav contains only silence" in note for note in reporter.notes)


def test_what_was_recorded_too_loud_is_left_out_and_said(speech: Audio, tmp_path: Path) -> None:
    shouted = np.clip(speech / np.abs(speech).max() * 8, -1, 1) * 0.9
    report = make_dataset(
        [record(tmp_path / "a.wav", speech), record(tmp_path / "b.wav", shouted)], tmp_path / "o.zip", name="v"
    )
    loud = report["rejected_seconds"]["clipped (recorded too loud)"]
    assert loud > 15 and any("turn the microphone down" in text for text in report["advice"])
    assert report["recordings"][0]["clips"] > 0 and report["recordings"][1]["clips"] == 0


def test_noise_is_measured_and_advice_given(speech: Audio, tmp_path: Path) -> None:
    hiss = np.random.default_rng(1).standard_normal(len(speech)).astype(np.float32) * speech.std() * 0.4
    report = make_dataset([record(tmp_path / "a.wav", speech + hiss)], tmp_path / "o.zip", name="v")
    assert report["snr_db"] < 15.0 and any("quiet room" in text for text in report["advice"])
    clean = make_dataset([record(tmp_path / "b.wav", speech)], tmp_path / "p.zip", name="v")
    assert clean["snr_db"] > 25.0
    usable = f"{clean['usable_seconds']:.0f} s usable"
    assert clean["advice"] == [f"{usable}; training wants at least 30 s, and 10 min would be good."]


# --- music -----------------------------------------------------------------------------------------------------------


def test_the_voice_is_taken_out_of_music_only_where_there_is_music(speech: Audio, band: Audio, tmp_path: Path) -> None:
    mixed = speech + band[: len(speech)] * np.float32(0.7 * speech.std() / band.std())
    talk, song = record(tmp_path / "talk.wav", speech), record(tmp_path / "song.wav", mixed)
    reporter = Silent()
    report = make_dataset([talk, song], tmp_path / "o.zip", name="v", reporter=reporter)
    lines = {line["file"]: line for line in report["recordings"]}
    assert not lines["talk.wav"]["music"] and not lines["talk.wav"]["isolated"]
    assert lines["song.wav"]["music"] and lines["song.wav"]["isolated"] and lines["song.wav"]["usable_seconds"] > 10
    assert any("song.wav seems to have music" in note for note in reporter.notes)
    untouched = make_dataset([song], tmp_path / "p.zip", name="v", isolate=False)
    assert not untouched["recordings"][0]["isolated"]
    asked = make_dataset([record(tmp_path / "s.wav", speech[: 11 * RATE])], tmp_path / "q.zip", name="v", isolate=True)
    assert asked["recordings"][0]["isolated"] and asked["usable_seconds"] > 10


def test_of_a_talk_with_a_jingle_only_the_jingle_is_left_out(speech: Audio, band: Audio, tmp_path: Path) -> None:
    jingle = band * np.float32(speech.std() / band.std())
    source = record(tmp_path / "show.wav", speech, speech[::-1], silence(1), jingle)
    report = make_dataset([source], tmp_path / "o.zip", name="v")
    line = report["recordings"][0]
    assert line["music"] and not line["isolated"]
    assert 20 < report["rejected_seconds"]["music"] < 26 and report["usable_seconds"] > 40


@pytest.mark.parametrize("kind", ["white", "hum", "room"])
def test_noise_is_not_taken_for_music(speech: Audio, kind: str) -> None:
    draw = np.random.default_rng(2)
    if kind == "white":
        noise = draw.standard_normal(len(speech))
    elif kind == "hum":
        time = np.arange(len(speech)) / RATE
        noise = np.sum([np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 12)], axis=0)
    else:
        noise = np.convolve(draw.standard_normal(len(speech)), np.ones(40) / 40, mode="same")
    noisy = speech + (noise / noise.std() * speech.std() * 0.25).astype(np.float32)
    measured = music.background(noisy, RATE)
    assert measured is not None and not measured.is_music()


def test_the_band_alone_and_the_whole_song_are_music_the_singer_alone_is_not(tmp_path: Path) -> None:
    for name, expected in (("instrumental.flac", True), ("song.ogg", True), ("vocals.flac", False)):
        decode(SAMPLE / "song" / name, tmp_path / "x.wav", channels=1)
        assert music.detect(tmp_path / "x.wav", Silent()).music is expected, name


# --- slicing ---------------------------------------------------------------------------------------------------------


def track(*stretches: tuple[float, float]) -> slicing.Track:
    """A made-up recording: (seconds, dBFS) one after the other."""
    power = np.concatenate([np.full(round(s / slicing.HOP), 10 ** (db / 10), np.float32) for s, db in stretches])
    return slicing.Track(power, 0.5, len(power) * slicing.HOP)


def test_clips_are_cut_at_silences_after_five_seconds_and_keep_half_a_second_of_them() -> None:
    spans = slicing.cut(track((2, -90), (3, -20), (0.6, -90), (3, -20), (2, -90), (6, -20), (3, -90)))
    assert [(span.start, span.end, span.voiced) for span in spans] == [(150, 910, 600), (1010, 1710, 600)]


def test_a_breath_does_not_cut_and_a_level_is_relative_to_the_recording() -> None:
    assert [(s.start, s.end) for s in slicing.cut(track((6, -20), (0.4, -90), (6, -20)))] == [(0, 1240)]
    assert [(s.start, s.end) for s in slicing.cut(track((6, -60), (2, -85), (6, -60)))] == [(0, 650), (750, 1400)]


def test_what_never_pauses_is_cut_where_it_is_quietest() -> None:
    spans = slicing.cut(track((20, -20), (0.1, -30), (29, -20)))
    assert [(s.start, s.end, s.voiced) for s in spans] == [(0, 2000, 2000), (2000, 4910, 2910)]
    assert all(500 <= s.end - s.start <= 3000 for s in slicing.cut(track((100, -20))))


def test_every_voiced_moment_is_in_exactly_one_clip() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        made = track(*((float(draw.uniform(0.1, 9)), float(draw.choice([-20, -22, -95]))) for _ in range(20)))
        covered = np.zeros(len(made.power), int)
        for span in slicing.cut(made):
            assert 0 < span.end - span.start <= slicing.MAX_LENGTH and 0 < span.voiced <= span.end - span.start
            covered[span.start : span.end] += 1
        assert covered.max() <= 1
        assert covered[~made.quiet].min(initial=1) == 1


def test_clipping_is_found_after_resampling_too_and_not_where_there_is_none(speech: Audio) -> None:
    import soxr

    shouted = np.clip(speech / np.abs(speech).max() * 5, -1, 1)
    assert slicing.crowding(speech) < 1.0
    assert slicing.crowding(shouted) > 2.0
    assert slicing.crowding(soxr.resample(shouted, 48_000, 44_100)) > 2.0
    assert slicing.crowding(silence(1)) == 0.0


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_too_little_voice_says_how_much_there_was_and_what_is_needed(speech: Audio, tmp_path: Path) -> None:
    source = record(tmp_path / "a.wav", speech[: 4 * RATE], silence(8))
    with pytest.raises(AudioError, match=r"Only [34]\.\d s of usable voice in 12\.0 s .*8\.\d s silence") as caught:
        make_dataset([source], tmp_path / "o.zip", name="v")
    assert "at least 10 s" in caught.value.hint and "30 s to 30 min" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_silence_a_short_file_and_text_have_their_own_messages(tmp_path: Path) -> None:
    mute = record(tmp_path / "mute.wav", silence(20))
    with pytest.raises(AudioError, match=r"contain only silence"):
        make_dataset([mute], tmp_path / "o.zip", name="v")
    blip = record(tmp_path / "blip.wav", silence(0.2))
    with pytest.raises(AudioError, match=r"blip.wav is 0.20 s long"):
        make_dataset([blip], tmp_path / "o.zip", name="v")
    (tmp_path / "t.mp3").write_text("words " * 500)
    with pytest.raises(AudioError, match=r"t.mp3"):
        make_dataset([tmp_path / "t.mp3"], tmp_path / "o.zip", name="v")
    with pytest.raises(AudioError, match="No recordings"):
        make_dataset([], tmp_path / "o.zip", name="v")


def test_a_zip_without_audio_says_what_it_holds(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "docs.zip", {"a.txt": b"1", "b.txt": b"2", "c.pdf": b"3"})
    with pytest.raises(AudioError, match=r"No audio found in docs.zip: it holds 2 × .txt, 1 × .pdf"):
        make_dataset([archive], tmp_path / "o.zip", name="v")
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:40])
    with pytest.raises(ArchiveError, match="cut short"):
        make_dataset([tmp_path / "cut.zip"], tmp_path / "o.zip", name="v")
    with pytest.raises(NotFoundError):
        make_dataset([tmp_path / "missing"], tmp_path / "o.zip", name="v")


def test_names_cannot_leave_the_folder(speech: Audio, tmp_path: Path) -> None:
    source, reporter = record(tmp_path / "a.wav", speech), Silent()
    report = make_dataset([source], tmp_path / "o.zip", name="../../etc/Ana María", reporter=reporter)
    assert report["name"] == "etc_Ana_María" and "etc_Ana_María" in reporter.notes[0]
    assert all(name.startswith("dataset/etc_Ana_María/split_") for name in clips_of(tmp_path / "o.zip"))
    for name in ("", "..", "///"):
        with pytest.raises(ParameterError):
            make_dataset([source], tmp_path / "o.zip", name=name)


def test_canceling_leaves_nothing_behind(speech: Audio, tmp_path: Path) -> None:
    class Impatient(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            if "cutting" in text:
                raise Canceled()

    source = record(tmp_path / "a.wav", speech)
    with pytest.raises(Canceled):
        make_dataset([source], tmp_path / "o.zip", name="v", reporter=Impatient())
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_progress_never_goes_back(speech: Audio, tmp_path: Path) -> None:
    class Watch(Silent):
        seen: list[float] = []  # noqa: RUF012

        def progress(self, fraction: float, text: str = "") -> None:
            self.seen.append(fraction)

    reporter = Watch()
    sources = [record(tmp_path / "a.wav", speech), record(tmp_path / "b.wav", speech[RATE:])]
    make_dataset(sources, tmp_path / "o.zip", name="v", reporter=reporter)
    assert reporter.seen == sorted(reporter.seen) and reporter.seen[-1] == 1.0


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_data_set_opens_in_the_order_of_its_numbers_from_any_wrapping(tmp_path: Path) -> None:
    names = {f"dataset/vivi/split_{i}.wav": b"RIFF" for i in (0, 1, 2, 10, 11)}
    inner = write_zip(tmp_path / "inner.zip", names)
    outer = write_zip(tmp_path / "outer.zip", {"download/inner.zip": inner})
    for number, archive in enumerate((inner, outer)):
        files = open_dataset(archive, tmp_path / str(number))
        assert [path.stem for path in files] == ["split_0", "split_1", "split_2", "split_10", "split_11"]
    assert [path.stem for path in open_dataset(tmp_path / "0", tmp_path / "unused")] == [
        "split_0", "split_1", "split_2", "split_10", "split_11",
    ]  # fmt: skip
    assert open_dataset(files[0], tmp_path / "unused") == [files[0]]
