"""The neural voice in the catalog: an RVC model sings a song, alone and in a cover; what is missing is said first."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from neural_making import contentvec, use, voice
from vividcover import sdk
from vividcover.catalog.contract import Context
from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloning
from vividcover.errors import EngineError, ModelFileError, VividCoverError
from vividcover.settings import settings
from vividcover.song import codec
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.workspace import Workspace

SECONDS = 3
SONG = Path(__file__).parents[2] / "sample" / "song"


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    return {
        "contentvec": contentvec(folder / "contentvec.safetensors"),
        "voice": voice(folder / "Anna.zip"), "other": voice(folder / "Ben.zip", seed=5),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside each other: threads that wait for each other's cores cost more than they bring."""
    monkeypatch.setenv("VIVIDCOVER_THREADS", "1")
    settings.cache_clear()


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """A little of the sample song, with singing in it."""
    codec.decode(SONG / "song.ogg", tmp_path / "whole.wav", max_seconds=600)
    signal, rate = read_pcm(tmp_path / "whole.wav")
    start = len(signal[0]) // 3
    return write_pcm(tmp_path / "song.wav", signal[:, start : start + SECONDS * rate], rate)


def singing(song: Path, model: Path, **more: object) -> dict[str, object]:
    return {
        "song_input": str(song), "custom_rvc_model_download_url": str(model), "pitch_detection_algorithm": "pm",
        "output_format": "wav", **more,
    }  # fmt: skip


def test_a_published_voice_sings_a_song_and_both_calls_of_a_cover_share_separation_and_conversion(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    context = Context(Workspace(tmp_path / "cache"), settings())
    full = RealisticVoiceCloning().run(singing(song, nets["voice"]), context)
    assert (full.engine, full.why) == ("neural", "the voice 'Anna' is an RVC model, which the neural engine reads")
    assert "No weights for separation are here: the classic recipe takes the song apart." in full.notes
    assert "contentvec" in full.nets
    alone = RealisticVoiceCloning().run(
        singing(song, nets["voice"], instrumental_volume_change=-80, reverb_wetness=0, reverb_dryness=1),
        Context(context.workspace, settings()),
    )
    assert {s.name: s.hit for s in alone.stages} == {
        "song/decode": True, "song/separate": True, "voice/convert-neural": True, "song/vocals-alone": False,
        "song/encode": False,
    }  # fmt: skip
    for result in (full, alone):
        signal, rate = read_pcm(result.parts["pcm"])
        assert signal.shape[1] == SECONDS * rate
        assert np.abs(signal).max() > 0.05


def test_every_option_of_the_voice_changes_what_is_sung(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    context = Context(Workspace(tmp_path / "cache"), settings())
    sung: dict[str, bytes] = {}
    for name, more in {
        "plain": {}, "formants": {"formant_shift": 3}, "notes": {"autotune": 1}, "index": {"index_rate": 0},
        "interpolated": {"unvoiced": "interpolate"}, "tracker": {"pitch_detection_algorithm": "harvest"},
        "loudness": {"rms_mix_rate": 1}, "mixed": {"blend_voice": str(nets["other"]), "blend": 0.5},
        "key": {"pitch_change_all": 2}, "octave": {"pitch_change": "female-to-male"},
    }.items():  # fmt: skip
        values = singing(song, nets["voice"], separator="none", **more)
        result = RealisticVoiceCloning().run(values, context)
        assert not result.not_honoured
        sung[name] = result.parts["vocals"].read_bytes()
    assert len(set(sung.values())) == len(sung)


def test_a_cover_takes_a_neural_voice_and_a_classic_face(
    nets: dict[str, Path], song: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    made = sdk.make_cover(
        song, voice=nets["voice"], image="vivi", output=tmp_path / "cover.mp4", home=home, seed=1, width=256,
        height=256, pitch_detection_algorithm="pm",
    )  # fmt: skip
    assert made.path.stat().st_size > 10_000
    assert made.record["engine"] == "neural"
    assert made.record["details"]["engines"] == {"still": "classic", "song": "neural", "portrait": "classic"}


def test_what_the_neural_engine_lacks_is_said_before_any_work(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEIGHTS_DIR", str(tmp_path / "empty"))
    settings.cache_clear()
    for engine in ("auto", "neural"):
        context = Context(Workspace(tmp_path / "cache"), settings(), engine)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match=r"eights are missing: contentvec, rmvpe \(vividcover weights pull"):
            RealisticVoiceCloning().run(singing(song, nets["voice"]) | {"pitch_detection_algorithm": "rmvpe"}, context)
        assert not context.workspace.results


def test_the_classic_engine_says_whose_voice_it_cannot_read(nets: dict[str, Path], song: Path, tmp_path: Path) -> None:
    context = Context(Workspace(tmp_path / "cache"), settings(), "classic")
    with pytest.raises(VividCoverError, match="neural"):
        RealisticVoiceCloning().run(singing(song, nets["voice"]), context)


def test_a_zip_without_a_voice_inside_is_called_what_it_is(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    context = Context(Workspace(tmp_path / "cache"), settings())
    with pytest.raises(ModelFileError, match="system"):
        RealisticVoiceCloning().run(singing(song, bad, separator="none"), context)
    shutil.copy(nets["contentvec"], tmp_path / "not-a-voice.pth")
    with pytest.raises(ModelFileError):
        RealisticVoiceCloning().run(singing(song, tmp_path / "not-a-voice.pth", separator="none"), context)


def test_a_voice_is_learnt_and_sings_and_more_epochs_go_on_from_there(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    home, clips = tmp_path / "home", sorted((SONG.parent / "voice").glob("*.flac"))[:1]
    learning = {
        "name": "vivi", "consent": "Vivi does not exist.", "home": home, "engine": "neural", "small": True,
        "f0method": "pm", "batch_size": "4",
    }  # fmt: skip
    first = sdk.train_voice(clips, epoch=1, **learning)
    assert first.record["engine"] == "neural"
    assert first.record["details"]["report"]["epochs"] == 1
    more = sdk.train_voice(clips, epoch=2, **learning)
    assert more.record["details"]["report"]["epochs"] == 2
    assert any("Going on at epoch 2" in note for note in more.result.notes)
    with sdk.session(home=home) as session:
        kept = [e for e in session.workspace.entries() if e["name"] == "training"]
        assert len(kept) == 1 and kept[0]["bytes"] > 100_000
        with FileLock(f"{kept[0]['folder']}.lock"):
            session.workspace.prune(0)
            assert kept[0]["folder"].exists()  # somebody is training there
        session.workspace.prune(0)
        assert not kept[0]["folder"].exists()
    with zipfile.ZipFile(more.path) as archive:
        names = set(archive.namelist())
    assert {"vivi.pth", "total_fea.npy", "model.json"} < names
    assert any(n.startswith("added_") for n in names)
    sung = sdk.convert_song(
        song, voice="vivi", home=home, output=tmp_path / "sung.flac", output_format="flac", separator="none",
        pitch_detection_algorithm="pm",
    )  # fmt: skip
    assert sung.record["engine"] == "neural"
    assert sung.result.materials[0]["consent"] == "Vivi does not exist."


def test_several_recordings_are_sung_by_one_loaded_voice(
    nets: dict[str, Path], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, contentvec=nets["contentvec"])
    second = shutil.copy(song, tmp_path / "second.wav")
    options = {"pitch_detection_algorithm": "pm", "pitch_change": "no-change"}
    with sdk.session(home=tmp_path / "home") as session:
        made = sdk.convert_voices_in(session, [song, second], str(nets["voice"]), tmp_path / "out", options)
        assert len(session.context().loaded) == 2  # the voice, and which one it is
    assert [path.name for path in made.files] == ["song.wav", "second.wav"]
    assert all(path.with_name(f"{path.name}.json").exists() for path in made.files)
    with sdk.session(home=tmp_path / "home") as session, pytest.raises(VividCoverError, match="both become song"):
        sdk.convert_voices_in(session, [song, song], str(nets["voice"]), tmp_path / "out", options)
