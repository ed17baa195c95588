"""Recordings become a training set; what cannot be used is said, with how many minutes there are and what to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import singers
import torch
from training import nano

from vividcover.errors import AudioError
from vividcover.voice.rvc.data import TrainingSet
from vividcover.voice.rvc.live import write_wav
from vividcover.voice.rvc.mel import spectrogram
from vividcover.voice.rvc.prepare import prepare, windows
from vividcover.voice.rvc.tuning import coarse
from vividcover.workspace import Silent

CONFIG = nano("v2", 32_000)


def made(folder: Path, *sounds: np.ndarray, rate: int = 32_000, features: Any = None, reporter: Any = None,
         fingerprint: str = "") -> TrainingSet:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_wav(folder / f"{number}.wav", sound, rate) for number, sound in enumerate(sounds)]
    return prepare(
        files, folder / "set", CONFIG, features=features or singers.content(), pitch=singers.pitch,
        reporter=reporter, fingerprint=fingerprint,
    )  # fmt: skip


def voice(seconds: float, rate: int = 32_000, seed: int = 1) -> np.ndarray:
    return singers.sing(singers.LOW, seconds, rate, seed)


def test_windows_are_three_seconds_and_share_a_little() -> None:
    assert list(windows(9 * 1000, 1000)) == [(0, 3000), (2700, 5700), (5400, 8400), (8100, 9000)]
    assert list(windows(3300, 1000)) == [(0, 3300)]
    assert list(windows(3301, 1000)) == [(0, 3000), (2700, 3301)]
    assert list(windows(500, 1000)) == [(0, 500)]


def test_a_set_holds_every_window_with_its_content_and_pitch(tmp_path: Path) -> None:
    clips = made(tmp_path, voice(10.0), voice(4.0, seed=5))
    own = [clip for clip in clips.clips if not clip.mute]
    assert len(own) >= 5
    assert sum(clip.mute for clip in clips.clips) == 1  # one in ten, two at most
    assert clips.report["minutes"] == pytest.approx(14 / 60, abs=0.02)
    assert clips.report["f0_hz"]["median"] == pytest.approx(110, rel=0.1)
    for clip in own:
        sound = clips.wave[clip.wave : clip.wave + clip.samples]
        assert 0.6 < np.abs(sound).max() < 0.95  # 0.9 · 0.75 + a quarter of what it was
        assert abs(2 * clip.rows - clip.frames) <= 4
    mute = clips.clips[-1]
    assert mute.mute
    assert not clips.wave[mute.wave :].any()
    assert not clips.f0[mute.f0 :].any()
    assert clips.content().shape == (sum(clip.rows for clip in own), 768)


def test_a_batch_is_what_the_recipe_feeds_the_networks(tmp_path: Path) -> None:
    clips = made(tmp_path, voice(5.0))
    batch = clips.batch([0, 1], CONFIG, seed=3, epoch=2)
    lengths = [clip.usable(CONFIG.hop) for clip in clips.clips[:2]]
    assert batch.lengths.tolist() == lengths
    assert len(set(lengths)) == 2
    clip, length = clips.clips[1], lengths[1]
    sound = torch.from_numpy(clips.wave[clip.wave : clip.wave + clip.samples].copy())
    rows = torch.from_numpy(clips.features[clip.features : clip.features + clip.rows].copy())
    assert torch.equal(batch.features[1, :length], rows.repeat_interleave(2, dim=0)[:length])
    assert torch.equal(batch.wave[1, 0, : length * CONFIG.hop], sound[: length * CONFIG.hop])
    assert torch.equal(batch.spec[1, :, :length], spectrogram(sound[None], CONFIG.n_fft, CONFIG.hop)[0, :, :length])
    assert batch.pitch is not None
    assert batch.f0 is not None
    assert batch.pitch[1, :length].tolist() == coarse(clips.f0[clip.f0 : clip.f0 + length]).tolist()
    for padded in (batch.features, batch.f0, batch.spec.mT, batch.noise.mT):
        assert not padded[1, length:].any()
    assert all(0 <= s <= n - CONFIG.segment_frames for s, n in zip(batch.starts.tolist(), lengths))
    without = clips.batch([0], CONFIG, seed=3, epoch=2, pitch=False)
    assert without.pitch is None
    assert torch.equal(without.noise[0], batch.noise[0, :, : lengths[0]])  # drawn for the clip, not for its place
    assert not torch.equal(clips.batch([0], CONFIG, seed=3, epoch=3).noise, without.noise)


def test_one_clip_of_one_second_can_be_learnt_from_and_the_report_says_what_to_add(tmp_path: Path) -> None:
    reporter = Silent()
    clips = made(tmp_path, voice(1.0), reporter=reporter)
    assert (clips.report["clips"], len(clips)) == (1, 2)
    assert clips.report["minutes"] == pytest.approx(1 / 60, abs=0.005)
    assert "1 s of usable voice. It will not sound like much: record 3 minutes at least" in reporter.notes[0]
    batch = clips.batch([0, 1], CONFIG, seed=1, epoch=0)
    assert torch.isfinite(batch.spec).all()


def test_a_clip_shorter_than_a_training_segment_is_followed_by_silence(tmp_path: Path) -> None:
    clips = made(tmp_path, voice(0.25))
    assert clips.clips[0].usable(CONFIG.hop) >= CONFIG.segment_frames
    batch = clips.batch([0], CONFIG, seed=1, epoch=0)
    assert int(batch.starts) + CONFIG.segment_frames <= int(batch.lengths)


def test_silence_is_refused_with_how_many_minutes_are_usable(tmp_path: Path) -> None:
    silent = np.zeros(5 * 32_000, np.float32)
    with pytest.raises(AudioError, match=r"hold only silence: 0\.0 minutes are usable.*3 minutes of speech"):
        made(tmp_path, silent, silent)


def test_recordings_that_cannot_be_used_are_said_and_the_others_are(tmp_path: Path) -> None:
    reporter = Silent()
    (tmp_path / "notes.wav").write_text("these are not sounds")
    write_wav(tmp_path / "voice.wav", voice(4.0), 32_000)
    clips = prepare(
        [tmp_path / "notes.wav", tmp_path / "voice.wav"], tmp_path / "set", CONFIG, features=singers.content(),
        pitch=singers.pitch, reporter=reporter,
    )  # fmt: skip
    assert clips.report["unreadable"] == ["notes.wav"]
    assert any("notes.wav" in note and "Left out" in note for note in reporter.notes)
    with pytest.raises(AudioError, match=r"notes\.wav"):
        prepare([tmp_path / "notes.wav"], tmp_path / "other", CONFIG, features=singers.content(), pitch=singers.pitch)


def test_content_that_is_not_a_number_is_left_out_and_counted(tmp_path: Path) -> None:
    whole = singers.content()

    def now_and_then(sound: np.ndarray) -> np.ndarray:
        found = whole(sound)
        found[0, 3, 5] = np.nan  # the first of those that are found together
        return found

    reporter = Silent()
    clips = made(tmp_path / "some", voice(12.0), features=now_and_then, reporter=reporter)
    assert any("not a number" in note and "left out" in note for note in reporter.notes)
    assert np.isfinite(clips.content()).all()
    assert clips.report["minutes"] < 11 / 60

    def never(sound: np.ndarray) -> np.ndarray:
        return np.full_like(whole(sound), np.nan)

    with pytest.raises(AudioError, match=r"not a number\)\): 0\.0 minutes are usable"):
        made(tmp_path / "none", voice(4.0), features=never)


@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_recordings_of_any_rate_are_taken(tmp_path: Path, rate: int) -> None:
    clips = made(tmp_path, voice(3.0, rate), rate=rate)
    assert clips.report["minutes"] == pytest.approx(3 / 60, abs=0.01)


def test_a_set_that_is_there_is_not_made_again_and_a_broken_one_is(tmp_path: Path) -> None:
    first = made(tmp_path, voice(4.0), fingerprint="a")

    def unwanted(sound: np.ndarray) -> np.ndarray:
        raise AssertionError("listened again")

    again = made(tmp_path, voice(4.0), fingerprint="a", features=unwanted)
    assert again.clips == first.clips
    with (tmp_path / "set" / "wave.f32").open("r+b") as file:
        file.truncate(1000)
    assert made(tmp_path, voice(4.0), fingerprint="a").clips == first.clips
    with pytest.raises(AssertionError, match="listened again"):
        made(tmp_path, voice(4.0), fingerprint="b", features=unwanted)
