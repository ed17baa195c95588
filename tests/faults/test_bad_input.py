"""Whatever a user hands over, the answer says what was wrong and what to do: no traceback, no half result."""

from __future__ import annotations

import json
import shutil
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vividcover.cli import build

RATE = 44_100


def call(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(build(), [str(w) for w in words])
    assert "Traceback" not in done.stderr and done.exit_code not in (1, 70), done.stderr
    return done.exit_code, done.stdout, done.stderr


def sound(path: Path, seconds: float, rate: int = RATE, channels: int = 1, level: float = 0.3) -> Path:
    t = np.arange(int(seconds * rate)) / rate
    tone = level * np.sin(2 * np.pi * 220 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t)) / 1.5
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((tone * 32767).astype("<i2")[:, None], channels, 1).tobytes())
    return path


def text(path: Path) -> Path:
    path.write_text("this is not music\n" * 50)
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def three_hours(path: Path) -> Path:
    """A real WAV of 3 h, 8 kHz, 8 bit; its samples are a hole in the file."""
    size = 3 * 3600 * 8000
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", size
    )
    with path.open("wb") as file:
        file.write(head)
        file.truncate(44 + size)
    return path


def cut_short(path: Path) -> Path:
    whole = sound(path.with_name("whole.wav"), 3.0).read_bytes()
    path.write_bytes(whole[:60])
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("song.mp3", text, "song.mp3"), ("song.wav", empty, "empty"), ("song.wav", lambda p: sound(p, 0.5), "0.5"),
        ("song.wav", lambda p: sound(p, 5, level=0), "silen"), ("song.wav", three_hours, "30"),
        ("song.wav", cut_short, "song.wav"),
    ],
    ids=["text renamed .mp3", "0 bytes", "0.5 s", "silence", "3 h", "cut off after the header"],
)  # fmt: skip
def test_a_song_that_cannot_be_covered(
    home: Path, tmp_path: Path, name: str, make: Callable[[Path], Path], said: str
) -> None:
    song = make(tmp_path / name)
    status, _, error = call("song", "cover", song, "--voice", "vivi", "-o", tmp_path / "out.wav")
    assert status == 2, error
    assert said in error and error.count("Error:") == 1, error
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48_000, 6)], ids=["8 kHz mono", "5.1"])
def test_an_unusual_song_is_covered_all_the_same(home: Path, tmp_path: Path, rate: int, channels: int) -> None:
    song = sound(tmp_path / "song.wav", 2.0, rate, channels)
    status, _, error = call("song", "cover", song, "--voice", "vivi", "-o", tmp_path / "out.wav")
    assert status == 0, error
    with wave.open(str(tmp_path / "out.wav")) as made:
        assert made.getnframes() == 2 * RATE and made.getnchannels() == 2


@pytest.mark.parametrize(
    "kind", ["text", "empty zip", "corrupt zip", "zip slip", "zip bomb", "no audio inside", "silence"]
)
def test_recordings_that_teach_no_voice(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clips.zip"
    good = sound(tmp_path / "a.wav", 12.0).read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == "zip slip":
            archive.writestr("../../evil.wav", good)
        elif kind == "zip bomb":
            archive.writestr("a.wav", bytes(300_000_000))
        elif kind == "no audio inside":
            archive.writestr("readme.txt", "hello")
        elif kind == "silence":
            archive.write(sound(tmp_path / "s.wav", 40, level=0), "s.wav")
        elif kind == "corrupt zip":
            archive.writestr("a.wav", good)
    if kind == "corrupt zip":
        data = bytearray(path.read_bytes())
        data[200:400] = bytes(200)
        path.write_bytes(data)
    if kind == "text":
        text(path)
    status, _, error = call("voice", "train", path, "--name", "x", "--consent", "mine")
    assert status == 2, error
    assert "Error:" in error and len(error.splitlines()) >= 2
    assert not (tmp_path / "evil.wav").exists() and not (tmp_path.parent / "evil.wav").exists()
    assert json.loads(call("voice", "list", "--json")[1]) == []


def test_too_little_recording_says_how_much_there_was_and_what_is_needed(sample: Path, tmp_path: Path) -> None:
    status, _, error = call("voice", "train", sample / "voice" / "voice_02.flac", "--name", "x", "--consent", "mine")
    assert status == 2 and " s" in error and "30" in error, error


def faces(sample: Path, folder: Path, kind: str) -> Path:
    folder.mkdir()
    with Image.open(sample / "photos" / "01.jpg") as photo:
        photo.load()
        small = photo.resize((512, 682))
    if kind == "no face":
        Image.effect_noise((512, 512), 60).convert("RGB").save(folder / "a.jpg")
    elif kind == "tiny":
        photo.resize((48, 64)).save(folder / "a.jpg")
    elif kind == "text":
        text(folder / "a.jpg")
    elif kind == "empty folder":
        pass
    elif kind == "huge":
        Image.new("1", (20_000, 10_000)).save(folder / "a.png")
    elif kind == "two faces":
        both = Image.new("RGB", (1024, 682))
        both.paste(small, (0, 0))
        both.paste(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (512, 0))
        both.save(folder / "a.jpg")
    elif kind == "CMYK":
        small.convert("CMYK").save(folder / "a.jpg")
    elif kind == "turned by EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6
        small.transpose(Image.Transpose.ROTATE_90).save(folder / "a.jpg", exif=exif)
    elif kind == "animated":
        small.save(folder / "a.gif", save_all=True, append_images=[small.rotate(3)])
    elif kind == "alpha":
        small.putalpha(200)
        small.save(folder / "a.png")
    elif kind == "one photo":
        small.save(folder / "a.jpg")
    return folder


@pytest.mark.parametrize("kind", ["no face", "tiny", "text", "empty folder", "huge"])
def test_photos_that_show_nobody(sample: Path, tmp_path: Path, kind: str) -> None:
    photos = faces(sample, tmp_path / "photos", kind)
    status, _, error = call("image", "train", photos, "--name", "x", "--consent", "mine")
    assert status == 2, error
    assert "Error:" in error and ("a." in error or kind == "empty folder"), error
    assert json.loads(call("image", "list", "--json")[1]) == []


@pytest.mark.parametrize("kind", ["two faces", "CMYK", "turned by EXIF", "animated", "alpha", "one photo"])
def test_odd_photos_are_used_all_the_same(sample: Path, tmp_path: Path, kind: str) -> None:
    photos = faces(sample, tmp_path / "photos", kind)
    status, _, error = call("image", "train", photos, "--name", "x", "--consent", "mine")
    assert status == 0, error
    assert [row["name"] for row in json.loads(call("image", "list", "--json")[1])] == ["x"]


@pytest.mark.parametrize(
    "link",
    ["http://127.0.0.1:9/song.mp3", "http://[::1]:9/song.mp3", "http://localhost/song.mp3", "http://169.254.169.254/latest",
     "http://2130706433/song.mp3", "http://10.0.0.1/a.mp3", "ftp://example.com/a.mp3"],
)  # fmt: skip
def test_links_to_private_places_are_refused(tmp_path: Path, link: str) -> None:
    status, _, error = call("song", "separate", link, "-o", tmp_path / "stems")
    assert status in (2, 3), error
    assert "Error:" in error and not (tmp_path / "stems").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--index-rate", "1.5"), ("--reverb-size", "-1"), ("--pitch-change-all", "99"), ("--filter-radius", "8"),
     ("--protect", "0.6"), ("--output-format", "mid"), ("--pitch-change", "up")],
)  # fmt: skip
def test_values_out_of_range_are_refused_before_any_work(
    home: Path, clip: Path, tmp_path: Path, option: str, value: str
) -> None:
    status, _, error = call("song", "cover", clip, "--voice", "vivi", option, value, "-o", tmp_path / "out.wav")
    assert status == 2 and value in error
    assert not any(tmp_path.glob("out*")) and not (home / "cache" / "stages").exists()


def test_a_still_without_a_face_is_refused_with_advice(home: Path, clip: Path, tmp_path: Path) -> None:
    Image.effect_noise((512, 512), 60).convert("RGB").save(tmp_path / "noise.png")
    status, _, error = call(
        "cover", clip, "--voice", "vivi", "--still", tmp_path / "noise.png", "-o", tmp_path / "c.mp4"
    )
    assert status == 2 and "face" in error, error
    assert not (tmp_path / "c.mp4").exists()


def test_a_model_of_another_kind_is_called_what_it_is(home: Path, clip: Path, tmp_path: Path) -> None:
    image = home / "images" / "vivi.tar"
    status, _, error = call("song", "cover", clip, "--voice", image, "-o", tmp_path / "o.wav")
    assert status == 2 and "not a voice" in error, error
    shutil.copy(home / "voices" / "vivi.zip", tmp_path / "broken.zip")
    with (tmp_path / "broken.zip").open("r+b") as file:
        file.truncate(2000)
    status, _, error = call("song", "cover", clip, "--voice", tmp_path / "broken.zip", "-o", tmp_path / "o.wav")
    assert status == 2 and "broken.zip" in error, error
