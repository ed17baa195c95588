"""A voice is learnt from recordings, twice the same; what cannot be learnt from is refused with the reason."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vividcover.archives import write_zip
from vividcover.errors import AudioError, ConsentError, ModelFileError, NotFoundError
from vividcover.song.pcm import RATE, write_pcm
from vividcover.voice.classic.model import load
from vividcover.voice.classic.train import train

SAMPLE = Path(__file__).parents[2] / "sample"
CARD = b'{"kind": "vividcover-voice", "engine": "classic", "format": 1}'
CLIPS = [SAMPLE / "voice" / f"voice_{number:02d}.flac" for number in (1, 3, 4)] + [
    SAMPLE / "voice" / "voice_15_sung.flac"
]


@pytest.fixture(scope="module")
def vivi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learnt once for all files of tests about this engine."""
    out = tmp_path_factory.getbasetemp() / "classic_vivi.zip"
    if not out.exists():
        train(CLIPS, out, name="vivi", consent="Vivi does not exist.")
    return out


def test_the_model_says_whose_voice_it_is_and_what_it_was_made_from(vivi: Path) -> None:
    with zipfile.ZipFile(vivi) as archive:
        card = json.loads(archive.read("model.json"))
    assert (card["kind"], card["engine"], card["format"]) == ("vividcover-voice", "classic", 1)
    assert (card["name"], card["consent"], card["clips"]) == ("vivi", "Vivi does not exist.", 4)
    assert 0.3 < card["minutes_used"] < card["minutes_heard"] < 0.5
    assert 150 < card["f0_hz"]["median"] < 230
    assert any("Only" in warning for warning in card["warnings"])  # under 30 s
    assert vivi.stat().st_size < 40e6


def test_the_same_recordings_give_the_same_bytes_with_one_worker_as_with_two(vivi: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    train(CLIPS, again, name="vivi", consent="Vivi does not exist.", threads=1)
    assert again.read_bytes() == vivi.read_bytes()


def test_without_consent_nothing_is_learnt(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="vivi"):
        train(CLIPS, tmp_path / "v.zip", name="vivi", consent="  ")
    assert not (tmp_path / "v.zip").exists()


def test_too_little_voice_is_refused_with_how_much_there_was(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"Only 4\.\d s of voice in 4\.\d s.*At least 10 s.*30 s"):
        train(CLIPS[3:], tmp_path / "v.zip", name="v", consent="yes")


def test_silence_and_noise_are_refused_each_in_its_own_words(tmp_path: Path) -> None:
    silent = write_pcm(tmp_path / "silent.wav", np.zeros((1, 12 * RATE)))
    noise = np.random.default_rng(0).standard_normal((1, 12 * RATE)).astype(np.float32) * 0.05
    noisy = write_pcm(tmp_path / "noisy.wav", noise)
    with pytest.raises(AudioError, match="silen"):
        train([silent], tmp_path / "v.zip", name="v", consent="yes")
    with pytest.raises(AudioError, match=r"No voice|Only \d"):
        train([noisy], tmp_path / "v.zip", name="v", consent="yes")


def test_one_unreadable_recording_among_good_ones_would_become_a_warning_but_alone_is_an_error(tmp_path: Path) -> None:
    text = tmp_path / "words.mp3"
    text.write_text("This is not audio, only words in a file with the wrong name.\n" * 20)
    with pytest.raises(AudioError, match=r"words\.mp3"):
        train([text], tmp_path / "v.zip", name="v", consent="yes")


def test_a_file_that_is_no_classic_voice_is_named_for_what_it_is(tmp_path: Path, vivi: Path) -> None:
    voice = b'{"kind": "vividcover-voice", '
    for number, (files, says) in enumerate((
        ({"me.pth": b"x", "added.index": b"y"}, "'neural' engine"),
        ({"archive/data.pkl": b"x"}, "'neural' engine"),
        ({"dataset/me/split_0.wav": b"x"}, "dataset"),
        ({"model.json": b'{"kind": "vividcover-image"}'}, "vividcover-image"),
        ({"model.json": voice + b'"engine": "neural"}'}, "neural"),
        ({"model.json": voice + b'"engine": "classic", "format": 1}'}, "damaged"),
        ({"model.json": b"{"}, "damaged"),
    )):  # fmt: skip
        with pytest.raises(ModelFileError, match=says):
            load(write_zip(tmp_path / f"{number}.zip", files))
    garbage = tmp_path / "garbage.zip"
    garbage.write_bytes(b"\x00\x01\x02 nothing")
    with pytest.raises(ModelFileError, match="not a zip"):
        load(garbage)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(vivi.read_bytes()[:-5000])
    with pytest.raises(ModelFileError):
        load(cut)
    with pytest.raises(NotFoundError):
        load(tmp_path / "absent.zip")


def test_a_pickle_inside_a_model_is_never_opened(tmp_path: Path, vivi: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(vivi) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["frames.npy"] = buffer.getvalue()
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(ModelFileError, match="damaged"):
        load(bad)
