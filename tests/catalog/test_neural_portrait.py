"""The neural portrait in the catalog: Sonic animates a still, alone and in a cover; what it lacks is said first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from neural_making import contentvec, use
from neural_making import voice as voice_zip
from sonic_making import tiny_sonic_files
from vividcover import sdk
from vividcover.catalog import animating
from vividcover.catalog.contract import Context
from vividcover.catalog.sonic import OURS, Sonic, SonicInput
from vividcover.errors import Canceled, EngineError, ImageError, NotFoundError, ParameterError
from vividcover.settings import settings
from vividcover.song import codec
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.weights import licence_of_portrait
from vividcover.workspace import Event, Workspace

STILL = Path(__file__).parents[2] / "sample" / "photos" / "01.jpg"
SONG = Path(__file__).parents[2] / "sample" / "song" / "song.ogg"
SECONDS = 0.12  # one frame of the network
FAST: dict[str, Any] = {"inference_steps": 5, "min_resolution": 256, "seed": 3, "straight_windows": True}


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny random nets, and one thread: tests run beside each other."""
    monkeypatch.setenv("VIVIDCOVER_THREADS", "1")
    use(monkeypatch, **{name.replace("-", "_"): path for name, path in tiny_sonic_files().items()})


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A hum that swells and fades."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    hum = 0.4 * np.sin(2 * np.pi * 220 * time) * np.sin(np.pi * time / SECONDS)
    return write_pcm(tmp_path / "voice.wav", np.stack([hum, hum]).astype(np.float32), RATE)


def context_of(tmp_path: Path, engine: Any = "neural", **more: Any) -> Context:
    return Context(Workspace(tmp_path / "cache"), settings(), engine, **more)


def look(video: Path) -> tuple[tuple[int, int], int, float, str]:
    """(size, frames, seconds of sound, the comment inside)"""
    with av.open(str(video)) as file:
        picture, sound = file.streams.video[0], file.streams.audio[0]
        seconds = float((sound.duration or 0) * (sound.time_base or 0))
        comment = file.metadata["comment"]
        count = sum(1 for _ in file.decode(picture))
        return (picture.width, picture.height), count, seconds, comment


def test_the_published_inputs_come_first_as_they_are_published_and_ours_after_them() -> None:
    fields = SonicInput.model_json_schema()["properties"]
    published = {
        "image": (None, None, None), "audio": (None, None, None), "dynamic_scale": (1.0, 0.5, 2.0),
        "min_resolution": (512, 256, 1024), "inference_steps": (25, 5, 50), "keep_resolution": (False, None, None),
        "seed": (None, None, None),
    }  # fmt: skip
    assert list(fields)[: len(published)] == list(published) and set(fields) == {*published, *OURS}
    for name, told in published.items():
        assert (fields[name].get("default"), fields[name].get("minimum"), fields[name].get("maximum")) == told, name


def test_a_still_sings_with_the_voice_and_the_record_says_what_made_it_and_what_is_allowed(
    voice: Path, tmp_path: Path
) -> None:
    made = sdk.make_portrait(STILL, voice, output=tmp_path / "sung.mp4", renderer="sonic", **FAST)
    size, frames, seconds, comment = look(made.path)
    assert size == (256, 256) and abs(frames - 25 * SECONDS) <= 1 and abs(seconds - SECONDS) < 0.05
    assert "AI-generated" in comment and "trainedAlgorithmicMedia" in comment and '"seed": 3' in comment
    record = made.record
    assert (record["engine"], record["engine_why"]) == ("neural", "the renderer sonic was asked for")
    assert record["seed"] == 3
    report = record["details"]["portrait"]
    assert (report["renderer"], report["steps"], report["seed"]) == ("sonic", 5, 3)
    told = record["licences"]
    assert not told["commercial_use"] and "sonic-unet" in told["because"]
    assert {"sonic-unet", "svd-xt", "whisper-tiny", "rife"} <= {net["name"] for net in told["nets"]}
    assert licence_of_portrait().text in record["notes"], "said before the work, too"


def test_seed_0_is_a_seed_and_early_looks_change_nothing(voice: Path, tmp_path: Path) -> None:
    seen: list[tuple[float, Any]] = []
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice), **FAST, "seed": 0}
    plain = Sonic().run(values, context_of(tmp_path))
    assert plain.input["seed"] == 0 and plain.details["portrait"]["seed"] == 0
    watched = Sonic().run(
        values | {"preview_every": 2},
        context_of(tmp_path / "other", on_preview=lambda share, rgb: seen.append((share, rgb.copy()))),
    )
    assert len(seen) >= 2 and [share for share, _ in seen] == sorted(share for share, _ in seen)
    assert seen[0][1].shape == (256, 256, 3) and (seen[0][1] != seen[-1][1]).any()
    assert watched.path.read_bytes() == plain.path.read_bytes()


def test_a_drawn_seed_is_told_and_makes_the_same_again(voice: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice)} | {k: v for k, v in FAST.items() if k != "seed"}
    drawn = Sonic().run(values, context_of(tmp_path))
    again = Sonic().run(values | {"seed": drawn.input["seed"]}, context_of(tmp_path / "other"))
    assert again.path.read_bytes() == drawn.path.read_bytes()


def test_kept_resolution_is_that_of_the_piece_around_the_face(voice: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice), **FAST, "keep_resolution": True}
    kept = Sonic().run(values, context_of(tmp_path))
    left, top, right, bottom = kept.details["portrait"]["crop"]
    assert look(kept.path)[0] == ((right - left) // 2 * 2, (bottom - top) // 2 * 2)


def test_fast_takes_its_speed_ups_one_by_one_and_a_name_that_is_none_is_refused_before_any_work(
    voice: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {
        "image": str(STILL), "audio": str(voice), **FAST, "mode": "fast"
    }  # fmt: skip
    chosen = values | {"speedups": "schedule, guidance"}
    done = Sonic().run(chosen, context_of(tmp_path))
    assert done.details["portrait"]["options"]["speedups"] == ("schedule", "guidance")
    for wrong, said in (
        ({"speedups": "warp"}, "no speed-up 'warp'"), ({"mode": "exact", "speedups": "schedule"}, "mode=exact has no"),
    ):  # fmt: skip
        fresh = context_of(tmp_path / "fresh")
        with pytest.raises(ParameterError, match=said):
            Sonic().run(values | wrong, fresh)
        assert not fresh.workspace.results, "nothing was decoded, fetched or loaded for it"


def test_a_canceled_portrait_goes_on_where_it_stood_and_is_the_same(voice: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice), **FAST}
    whole = Sonic().run(values, context_of(tmp_path / "whole"))
    stopped = context_of(tmp_path)

    def half(event: Event) -> None:
        if event.stage == "portrait/animate" and event.kind == "progress" and (event.fraction or 0) > 0.5:
            stopped.workspace.cancel()

    stopped.workspace.on_event = half
    with pytest.raises(Canceled):
        Sonic().run(values, stopped)
    begun = list((tmp_path / "cache" / "portraits").glob("*/"))
    assert len(begun) == 1 and any(path.is_file() for path in begun[0].rglob("*"))
    assert Sonic().run(values, context_of(tmp_path)).path.read_bytes() == whole.path.read_bytes()


def test_another_size_and_smoother_pictures_are_shown_from_what_was_drawn(voice: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice), **FAST}
    sizes = {look(Sonic().run(values, context_of(tmp_path)).path)[0]}
    for more in ({"keep_resolution": True}, {"smooth_decoding": True}, {"paste_back": True}):
        again = context_of(tmp_path)
        sizes.add(look(Sonic().run(values | more, again).path)[0])
        assert "unet" not in again.loaded["sonic"][1].loaded(), "the network was not even opened"
    assert len(sizes) == 3
    other = context_of(tmp_path)
    Sonic().run(values | {"seed": 4}, other)
    assert "unet" in other.loaded["sonic"][1].loaded()


def test_a_cancel_at_the_last_moment_takes_nothing_of_what_was_done(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(tmp_path)

    def drawn(who: Any, inputs: Any, out: Path, settings: Any, options: Any, work: Path, *_: Any) -> dict[str, Any]:
        (work / "latents").write_bytes(b"hours")
        out.write_bytes(b"a video")
        context.workspace.cancel()
        return {}

    monkeypatch.setattr(animating, "_performed", drawn)
    with pytest.raises(Canceled):
        Sonic().run({"image": str(STILL), "audio": str(voice), **FAST}, context)
    assert [path.read_bytes() for path in (tmp_path / "cache" / "portraits").glob("*/latents")] == [b"hours"]


def test_a_picture_without_a_face_is_refused_and_nothing_is_left(voice: Path, tmp_path: Path) -> None:
    Image.new("RGB", (512, 512), "teal").save(tmp_path / "wall.png")
    with pytest.raises(ImageError, match="No face was found"):
        sdk.make_portrait(tmp_path / "wall.png", voice, output=tmp_path / "none.mp4", engine="neural", **FAST)
    assert not (tmp_path / "none.mp4").exists()


def test_without_a_gpu_auto_takes_the_classic_engine_and_says_why(voice: Path, tmp_path: Path) -> None:
    done = Sonic().run({"image": str(STILL), "audio": str(voice), **FAST, "mode": "fast"}, context_of(tmp_path, "auto"))
    assert done.engine == "classic" and "no GPU was found" in done.why
    assert {one.parameter for one in done.not_honoured} == {"inference_steps", "mode", "straight_windows"}


def test_what_is_missing_is_named_with_the_command_that_gets_it(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name.replace("-", "_"): path for name, path in tiny_sonic_files().items() if name != "rife"}
    use(monkeypatch, **files)
    with pytest.raises(EngineError, match=r"eights are missing: rife \(vividcover weights pull rife\)"):
        Sonic().run({"image": str(STILL), "audio": str(voice)}, context_of(tmp_path))
    use(monkeypatch, **files, rife=tmp_path / "flownet.pkl")
    with pytest.raises(EngineError, match=r"says .*flownet.pkl for rife, and there is nothing that it could be"):
        Sonic().run({"image": str(STILL), "audio": str(voice)}, context_of(tmp_path))
    use(monkeypatch, **{**tiny_named(), "svd_xt": STILL})
    with pytest.raises(EngineError, match="for svd-xt, and there is a file where a folder is needed"):
        Sonic().run({"image": str(STILL), "audio": str(voice)}, context_of(tmp_path))


def tiny_named() -> dict[str, Path]:
    return {name.replace("-", "_"): path for name, path in tiny_sonic_files().items()}


def test_a_renderer_that_is_none_or_belongs_to_another_engine_is_refused(voice: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"image": str(STILL), "audio": str(voice), **FAST}
    with pytest.raises(NotFoundError, match="no renderer 'puppet'"):
        Sonic().run(values | {"renderer": "puppet"}, context_of(tmp_path, "auto"))
    with pytest.raises(ParameterError, match="belongs to the classic engine"):
        Sonic().run(values | {"renderer": "classic"}, context_of(tmp_path))
    with pytest.raises(ParameterError, match="belongs to the neural engine"):
        Sonic().run(values | {"renderer": "sonic"}, context_of(tmp_path, "classic"))


def test_a_cover_by_the_neural_engine_has_the_face_put_back_into_the_whole_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name.replace("-", "_"): path for name, path in tiny_sonic_files().items()}
    use(monkeypatch, contentvec=contentvec(tmp_path / "contentvec.safetensors"), **files)
    codec.decode(SONG, tmp_path / "whole.wav", max_seconds=600)
    signal, rate = read_pcm(tmp_path / "whole.wav")
    start = len(signal[0]) // 3
    song = write_pcm(tmp_path / "song.wav", signal[:, start : start + rate], rate)
    made = sdk.make_cover(
        song, voice=voice_zip(tmp_path / "Anna.zip"), still=str(STILL), output=tmp_path / "cover.mp4", seed=1,
        engine="neural", separator="classic", pitch_detection_algorithm="pm", portrait_mode="fast", portrait_steps=5,
        portrait_resolution=256,
    )  # fmt: skip
    assert made.record["details"]["engines"] == {"still": "given", "song": "neural", "portrait": "neural"}
    report = made.record["details"]["portrait"]
    assert report["options"]["straight"] and report["options"]["smooth_decoding"] and report["steps"] == 5
    with Image.open(STILL) as still:
        assert look(made.path)[0] == tuple(side // 2 * 2 for side in still.size)
    assert not made.record["licences"]["commercial_use"]
    assert json.loads((tmp_path / "cover.json").read_text())["digital_source_type"].endswith("trainedAlgorithmicMedia")
