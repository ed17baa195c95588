"""The product: photos, recordings and a song in, a cover video out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vividcover import provenance, sdk
from vividcover.errors import ParameterError, StorageError
from vividcover.workspace import Event, sha256_file

WISH: dict[str, Any] = {"prompt": "VIVI on stage performing", "width": 256, "height": 256, "seed": 3}


def decoded(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [frames, height, width], sound [samples])."""
    with av.open(str(video)) as file:
        frames = np.stack([f.to_ndarray(format="gray") for f in file.decode(video=0)])
    with av.open(str(video)) as file:
        sound = np.concatenate([f.to_ndarray().mean(0) for f in file.decode(audio=0)])
    return frames, sound


@pytest.fixture(scope="module")
def made(trained: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[sdk.Made, Path, list[Event]]:
    """One cover, with its data folder and its story."""
    folder = tmp_path_factory.mktemp("cover")
    shutil.copytree(trained, folder / "home")
    events: list[Event] = []
    cover = sdk.make_cover(
        clip, voice="vivi", image="vivi", output=folder / "cover.mp4", parts=folder / "parts", home=folder / "home",
        on_event=events.append, **WISH,
    )  # fmt: skip
    return cover, folder, events


def test_a_cover_has_both_streams_the_songs_length_and_is_neither_silent_nor_black(made: Any) -> None:
    frames, sound = decoded(made[0].path)
    assert frames.shape == (100, 256, 256)  # 4 s at 25 fps
    assert abs(len(sound) / 44_100 - 4.0) < 0.03
    assert np.sqrt(np.mean(sound**2)) > 0.02
    assert frames.mean((1, 2)).min() > 8
    assert np.abs(np.diff(frames.astype(float), axis=0)).mean() > 0.1


def test_one_separation_and_one_conversion_serve_both_mixes(made: Any) -> None:
    begun = [e.stage for e in made[2] if e.kind == "start"]
    for stage in ("song/decode", "song/separate", "voice/convert", "song/mix", "song/vocals-alone", "portrait/render"):
        assert begun.count(stage) == 1, stage


def test_the_record_tells_what_made_it(made: Any) -> None:
    story = json.loads((made[1] / "cover.json").read_text())
    assert story["ai_generated"] and story["model"] == "vividcover/cover" and story["engine"] == "classic"
    assert story["seed"] == 3 and story["parameters"]["prompt"] == WISH["prompt"]
    assert {i["sha256"] for i in story["inputs"].values()} and len(story["inputs"]["song"]["sha256"]) == 64
    assert {m["kind"]: m["consent"] for m in story["models"]}.keys() == {"voice", "image"}
    assert all(m["consent"] for m in story["models"])
    assert {n["name"] for n in story["licences"]["nets"]} and story["licences"]["commercial_use"]
    assert {s["name"] for s in story["stages"]} >= {"song/separate", "voice/convert", "portrait/render", "cover/join"}
    assert story["versions"]["vividcover"] and story["outputs"]["cover.mp4"]


def test_the_mark_is_inside_the_video_and_the_still(made: Any) -> None:
    from PIL import Image

    with av.open(str(made[0].path)) as file:
        assert "AI-generated" in file.metadata["comment"]
    with Image.open(made[1] / "parts" / "still.png") as still:
        assert "AI-generated" in still.info["Comment"]


def test_each_part_has_a_record_and_what_is_synthetic_the_mark_inside(made: Any) -> None:
    folder = made[1] / "parts"
    files = {p.name for p in folder.iterdir() if p.suffix != ".json"}
    assert files == {"still.png", "portrait.mp4", "mix.wav", "vocals.wav", "instrumental.wav"}
    for name in sorted(files):
        story = json.loads(provenance.record_path(folder / name).read_text())
        assert story["outputs"] == {name: sha256_file(folder / name)} and story["part"] == Path(name).stem
        assert story["ai_generated"] is (name != "instrumental.wav") and story["inputs"] == made[0].record["inputs"]
    for name in ("portrait.mp4", "mix.wav", "vocals.wav"):
        with av.open(str(folder / name)) as file:
            assert "AI-generated" in file.metadata["comment"] and "vividcover/cover" in file.metadata["comment"]
    working = made[0].result.parts["mix"]
    assert read_samples(folder / "mix.wav") == read_samples(working)  # marked, and else untouched


def read_samples(path: Path) -> bytes:
    with av.open(str(path)) as file:
        return b"".join(bytes(packet) for packet in file.demux() if packet.size)


def test_the_same_cover_again_comes_from_the_cache_and_is_the_same(made: Any) -> None:
    events: list[Event] = []
    again = sdk.make_cover(
        made[0].record["inputs"]["song"]["source"], voice="vivi", image="vivi", output=made[1] / "again.mp4",
        parts=made[1] / "again", home=made[1] / "home", on_event=events.append, **WISH,
    )  # fmt: skip
    assert {e.kind for e in events} == {"hit", "note"}
    assert [e.text for e in events if e.kind == "note"] != []  # what a cached stage had to say is said again
    assert set(again.record["notes"]) == set(made[0].record["notes"])
    assert sha256_file(again.path) == sha256_file(made[0].path)
    for part in (p for p in (made[1] / "parts").iterdir() if p.suffix != ".json"):
        assert sha256_file(made[1] / "again" / part.name) == sha256_file(part), part.name


def test_another_data_folder_gives_the_same_frames_and_samples(
    made: Any, home: Path, clip: Path, tmp_path: Path
) -> None:
    other = sdk.make_cover(clip, voice="vivi", image="vivi", output=tmp_path / "c.mp4", home=home, **WISH)
    assert sha256_file(other.path) == sha256_file(made[0].path)


def test_another_number_of_cores_gives_the_same_bytes(made: Any, home: Path, clip: Path, tmp_path: Path) -> None:
    words = ["cover", clip, "--voice", "vivi", "--image", "vivi", "-q", "-o", tmp_path / "c.mp4"]
    wish = [w for k, v in WISH.items() for w in (f"--{k}", v)]
    for count in ("1", "3"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VIVIDCOVER_THREADS")
        environment = os.environ | dict.fromkeys(names, count)
        environment["VIVIDCOVER_HOME"] = str(home)
        program = Path(sys.executable).with_name("vividcover")
        subprocess.run([str(w) for w in (program, *words, *wish)], env=environment, check=True, capture_output=True)
        assert sha256_file(tmp_path / "c.mp4") == sha256_file(made[0].path), f"with {count}"
        shutil.rmtree(home / "cache")


def test_another_prompt_keeps_the_song(made: Any, clip: Path) -> None:
    events: list[Event] = []
    wish = WISH | {"prompt": "VIVI in a neon club"}
    sdk.make_cover(
        clip,
        voice="vivi",
        image="vivi",
        output=made[1] / "other.mp4",
        home=made[1] / "home",
        on_event=events.append,
        **wish,
    )
    assert {e.stage for e in events if e.kind == "start"} == {"image/still", "portrait/render", "cover/join"}


def test_a_picture_of_ones_own_can_be_the_still(home: Path, clip: Path, sample: Path, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(sample / "photos" / "01.jpg") as photo:
        photo.resize((320, 426)).save(tmp_path / "me.png")
    made = sdk.make_cover(
        clip, voice="vivi", still=str(tmp_path / "me.png"), output=tmp_path / "c.mp4", parts=tmp_path, home=home,
        seed=1, portrait_steps=9, portrait_processes=2,
    )  # fmt: skip
    assert {n["parameter"] for n in made.record["not_honoured"]} == {"portrait_steps", "portrait_processes"}
    assert decoded(made.path)[0].shape == (100, 426, 320)
    assert not made.record["licences"]["commercial_use"] and "given as still" in made.record["licences"]["because"]
    assert json.loads((tmp_path / "still.png.json").read_text())["ai_generated"] is False  # it is the user's own


def test_a_song_in_two_formats_has_two_records(home: Path, clip: Path, tmp_path: Path) -> None:
    for name in ("s.mp3", "s.flac"):
        sdk.convert_song(clip, voice="vivi", output=tmp_path / name, output_format=name[2:], home=home)
    for name in ("s.mp3", "s.flac"):
        story = json.loads((tmp_path / f"{name}.json").read_text())
        assert story["outputs"] == {name: sha256_file(tmp_path / name)}


def test_what_cannot_be_honoured_is_named_in_the_result(home: Path, clip: Path, tmp_path: Path) -> None:
    made = sdk.convert_song(
        clip,
        voice="vivi",
        output=tmp_path / "s.mp3",
        home=home,
        pitch_detection_algorithm="mangio-crepe",
        crepe_hop_length=64,
    )
    assert {n["parameter"] for n in made.record["not_honoured"]} == {"pitch_detection_algorithm", "crepe_hop_length"}


def test_words_that_the_engine_has_no_picture_for_are_not_honoured_also_from_the_cache(
    home: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        made = sdk.generate_image(
            "vivi", "VIVI in a flurbo club", output=tmp_path / "a.png", home=home, output_format="png",
            aspect_ratio="custom", width=256, height=256, seed=1, lora_scale=0.5,
        )  # fmt: skip
        refused = {(n["parameter"], n["value"]) for n in made.record["not_honoured"]}
        assert refused == {("prompt", "flurbo"), ("lora_scale", "0.5")}
        assert any("flurbo" in note for note in made.record["notes"])


def test_an_output_never_replaces_its_own_input(home: Path, clip: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(clip.read_bytes())
    with pytest.raises(ParameterError, match="is this input"):
        sdk.convert_song(song, voice="vivi", output=song, output_format="wav", home=home)
    assert song.read_bytes() == clip.read_bytes()


def test_an_output_of_another_kind_is_refused_before_any_work(home: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"would hold \.mp3 data"):
        sdk.convert_song(clip, voice="vivi", output=tmp_path / "s.wav", home=home)
    with pytest.raises(ParameterError, match=r"has no suffix"):
        sdk.make_portrait("no.jpg", "no.wav", output=tmp_path / "portrait", home=home)
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "file" / "p.mp4", Path("/proc/p.mp4")):
        with pytest.raises(StorageError, match="May not write"):
            sdk.make_portrait("no.jpg", "no.wav", output=nowhere, home=home)


def test_a_separated_song_is_not_called_ai_generated(home: Path, clip: Path, tmp_path: Path) -> None:
    made = sdk.separate_song(clip, tmp_path / "stems", home=home)
    assert not made.record["ai_generated"] and not made.record["mark"]
    assert set(made.record["outputs"]) == {"vocals.wav", "instrumental.wav"}


def test_threads_of_one_program_may_begin_at_the_same_time(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: sdk.writable(tmp_path / "home"), range(400)))
    assert list((tmp_path / "home").iterdir()) == []
