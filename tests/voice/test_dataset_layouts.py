"""Data sets and piles of recordings in every layout that people have them in."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vividcover.archives import write_zip
from vividcover.errors import AudioError
from vividcover.song.codec import decode, encode
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.voice.dataset import examine
from vividcover.voice.recordings import open_dataset

SAMPLE = Path(__file__).parents[2] / "sample"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Clips of the sample singer, by format."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for number, kind in enumerate(("wav", "mp3", "flac", "m4a", "ogg"), 1):
        decode(SAMPLE / f"voice/voice_0{number}.flac", folder / "x.wav", channels=2)
        encode(folder / "x.wav", folder / f"x.{kind}", format=kind)
        made[kind] = (folder / f"x.{kind}").read_bytes()
    return made


def packed(**files: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return data.getvalue()


LAYOUTS = {
    "the seed's": {f"dataset/Ana/split_{number}.wav": "wav" for number in (10, 2, 1)},
    "flat": {"a.wav": "wav", "b.WAV": "wav"},
    "a folder of a name, compressed": {f"Ana/take 1.{kind}": kind for kind in ("mp3", "m4a", "flac", "ogg")},
    "folders in folders": {"backup/2024/ana/monday/a.mp3": "mp3", "backup/2024/ana/tuesday/a.mp3": "mp3"},
    "packed on a mac": {"Ana/a.wav": "wav", "__MACOSX/Ana/._a.wav": "text", "Ana/.DS_Store": "text"},
    "with texts beside": {
        "wavs/LJ001-0001.wav": "wav", "metadata.csv": "text", "README.md": "text", "wavs/LJ001-0001.lab": "text",
        "cover.jpg": "text", "model/ana.pth": "text", "added_IVF256.index": "text",
    },
    "an rvc project's": {"logs/ana/0_gt_wavs/0_0.wav": "wav", "logs/ana/3_feature768/0_0.npy": "text"},
    "names that say nothing": {"ana/recording": "wav", "ana/voice.bin": "mp3", "ana/notes": "text"},
    "a zip per session": {"monday.zip": "zip", "tuesday.zip": "zip", "c.wav": "wav"},
    "two people": {"dataset/Ana/split_0.wav": "wav", "dataset/Ben/split_0.wav": "mp3"},
}  # fmt: skip
COUNTS = dict(zip(LAYOUTS, (3, 2, 4, 2, 1, 1, 1, 2, 3, 2), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_from_a_zip_and_from_a_folder(
    layout: str, clips: dict[str, bytes], tmp_path: Path
) -> None:
    content = clips | {"text": b"not audio at all", "zip": packed(**{"Ana/one.mp3": clips["mp3"], "notes.txt": b"x"})}
    files = {name: content[kind] for name, kind in LAYOUTS[layout].items()}
    archive = write_zip(tmp_path / "set.zip", files)
    found = open_dataset(archive, tmp_path / "unpacked")
    assert len(found) == COUNTS[layout] == len(set(found))
    for path in found:
        decode(path, tmp_path / "x.wav", channels=1)
    if "zip" not in LAYOUTS[layout].values():
        for name, data in files.items():
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(data)
        assert len(open_dataset(tmp_path / "folder", tmp_path / "unused")) == COUNTS[layout]


def test_the_numbers_in_names_count_as_numbers(clips: dict[str, bytes], tmp_path: Path) -> None:
    files = {f"dataset/Ana/split_{n}.wav": clips["wav"] for n in (10, 9, 100, 1)}
    found = open_dataset(write_zip(tmp_path / "a.zip", files), tmp_path / "b")
    assert [path.stem for path in found] == ["split_1", "split_9", "split_10", "split_100"]


def test_too_many_zips_in_a_zip_are_refused(tmp_path: Path) -> None:
    inner = packed(**{"a.txt": b"1"})
    archive = write_zip(tmp_path / "a.zip", {f"{n}.zip": inner for n in range(51)})
    with pytest.raises(AudioError, match="51 zips in the zip"):
        open_dataset(archive, tmp_path / "b")


# --- examine: any set gets a report --------------------------------------------------------------------------------


def voice(tmp_path: Path, numbers: range) -> np.ndarray:
    parts = []
    for number in numbers:
        decode(SAMPLE / f"voice/voice_{number:02d}.flac", tmp_path / "v.wav", channels=1)
        parts.append(read_pcm(tmp_path / "v.wav")[0][0])
    return np.concatenate(parts)


def test_a_good_set_is_reported_on(tmp_path: Path) -> None:
    files = {}
    for number in range(1, 9):
        write_pcm(tmp_path / "c.wav", voice(tmp_path, range(number, number + 1)))
        files[f"dataset/vivi/split_{number}.wav"] = (tmp_path / "c.wav").read_bytes()
    report = examine([write_zip(tmp_path / "set.zip", files)])
    assert report["trainable"] and report["missing_seconds"] == 0 and report["clips"] == 8
    assert report["usable_seconds"] > 30 and report["other_voices"] == [] and report["name"] == "set"
    assert report["snr_db"] > 25 and report["clip_seconds"]["longest"] < 15
    assert len(report["recordings"]) == 8


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1.5, 4.0])
def test_a_short_set_is_no_failure_and_says_what_to_add(seconds: float, tmp_path: Path) -> None:
    source = write_pcm(tmp_path / "a.wav", voice(tmp_path, range(1, 2))[: int(seconds * RATE)])
    report = examine([source])
    assert not report["enough"] and not report["trainable"]
    assert report["missing_seconds"] == pytest.approx(30 - report["usable_seconds"], abs=0.06)
    assert "training wants at least 30 s" in report["advice"][0]


@pytest.mark.parametrize("kind", ["silence", "dc", "clipped", "noise", "8 kHz", "96 kHz stereo", "broken"])
def test_an_odd_set_is_no_failure(kind: str, tmp_path: Path) -> None:
    speech, path = voice(tmp_path, range(1, 3)), tmp_path / "odd.wav"
    draw = np.random.default_rng(1)
    if kind == "silence":
        write_pcm(path, np.zeros(5 * RATE))
    elif kind == "dc":
        write_pcm(path, np.full(5 * RATE, 0.3))
    elif kind == "clipped":
        write_pcm(path, np.clip(40 * speech, -1, 1))
    elif kind == "noise":
        write_pcm(path, 0.1 * draw.standard_normal(8 * RATE))
    elif kind == "8 kHz":
        write_pcm(path, speech[::5][: 10 * 8820], 8820)
    elif kind == "96 kHz stereo":
        write_pcm(path, np.repeat(np.repeat(speech, 2)[None], 2, axis=0), 2 * RATE)
    else:
        path.write_bytes(os.urandom(20_000))
    report = examine([path])
    usable = {"8 kHz", "96 kHz stereo"}
    assert (report["usable_seconds"] > 5) == (kind in usable)
    reasons = {piece["reason"] for piece in report["recordings"][0]["rejected"]}
    said = {"silence": "silence", "clipped": "clipped (recorded too loud)", "noise": "no voice in it"}
    assert said.get(kind, "") in {"", *reasons}
