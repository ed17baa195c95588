"""From recordings to the zip: what is in it, who can read it, and that a second call goes on or does nothing."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import singers
import torch
from training import nano

from vividcover.errors import AudioError, ModelFileError, StorageError, WeightsError
from vividcover.trained import read_card
from vividcover.voice.rvc import package, train
from vividcover.voice.rvc.checkpoint import read_voice_file, synthesizer
from vividcover.voice.rvc.index import Index
from vividcover.voice.rvc.train import TrainOptions, train_voice
from vividcover.workspace import Silent

OPTIONS = TrainOptions(sample_rate="32k", epochs=2, batch_size=4, small=True, precision="fp32", threads=1)


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "tiny", nano)


class Nothing:
    """No weights at all."""

    def path(self, name: str) -> Path:
        raise WeightsError(f"The weights {name!r} are not here.", f"Run `vividcover weights pull {name}`.")


def trained(folder: Path, recordings: Path, options: TrainOptions = OPTIONS, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"ears": singers.ears, "reporter": Silent(), **more}
    return train_voice(
        recordings, folder / "ana.zip", options, weights=Nothing(), work=folder / "work", consent="It is my own voice.",
        name="ana", **given,
    )  # fmt: skip


def test_the_zip_holds_what_rvc_programs_read_and_a_card(tmp_path: Path) -> None:
    recordings = singers.write_recordings(tmp_path / "voice", singers.LOW, 2, 4.0, 32_000, seed=1)
    song = singers.write_recordings(tmp_path / "song", singers.HIGH, 1, 2.0, 16_000, seed=2) / "split_0.wav"
    card = trained(tmp_path, recordings, replace(OPTIONS, sample=song))
    with zipfile.ZipFile(tmp_path / "ana.zip") as archive:
        names = archive.namelist()
        index_name = next(name for name in names if name.endswith(".index"))
        assert sorted(names) == sorted(["ana.pth", "model.json", "total_fea.npy", index_name])
        assert index_name.startswith("added_IVF")
        assert json.loads(archive.read("model.json")) == card
        voice = read_voice_file(archive.read("ana.pth"))
        index = Index.read(archive.read(index_name), dimension=768)
        features = np.load(io.BytesIO(archive.read("total_fea.npy")))
    assert (voice.version, voice.config.rate, voice.f0, voice.info) == ("v2", 32_000, True, "2epoch")
    assert len(index) == len(features)
    sound = synthesizer(voice).infer(
        torch.from_numpy(features[None, :20]), torch.ones(1, 20, dtype=torch.long), torch.full((1, 20), 110.0),
        torch.tensor([0]),
    )  # fmt: skip
    assert sound.shape == (1, 1, 20 * 320)
    assert torch.isfinite(sound).all()
    wanted = {
        "kind": "vividcover-voice", "engine": "neural", "name": "ana", "consent": "It is my own voice.", "epochs": 2,
        "version": "v2", "sample_rate": 32_000, "f0": True, "clips": 4,
    }  # fmt: skip
    assert {key: card[key] for key in wanted} == wanted
    assert card["minutes"] == pytest.approx(8 / 60, abs=0.02)
    assert card["f0_hz"]["low"] < card["f0_hz"]["median"] < card["f0_hz"]["high"]
    assert card["losses"]["mel"] > 0
    assert len(card["dataset_sha256"]) == 64
    assert "usable voice" in card["warnings"][0]
    assert read_card(tmp_path / "ana.zip", "voice", "") == card
    assert list((tmp_path / "work").glob("training-*/samples/sample_e0002.wav"))  # the other's recording, sung


def test_a_second_call_gives_the_same_bytes_and_learns_nothing_anew(tmp_path: Path) -> None:
    recordings = singers.write_recordings(tmp_path / "voice", singers.LOW, 1, 4.0, 32_000, seed=1)
    trained(tmp_path, recordings)
    first = (tmp_path / "ana.zip").read_bytes()
    trained(tmp_path, recordings, ears=lambda: pytest.fail("listened again"))
    assert (tmp_path / "ana.zip").read_bytes() == first
    trained(tmp_path / "elsewhere", recordings)
    assert (tmp_path / "elsewhere" / "ana.zip").read_bytes() == first


def test_one_second_of_voice_makes_a_voice_with_a_flat_index(tmp_path: Path) -> None:
    recordings = singers.write_recordings(tmp_path / "voice", singers.LOW, 1, 0.7, 32_000, seed=1)
    card = trained(tmp_path, recordings)
    assert card["minutes"] < 0.02
    with zipfile.ZipFile(tmp_path / "ana.zip") as archive:
        assert "added_Flat_ana_v2.index" in archive.namelist()


def test_silence_leaves_no_zip_and_says_how_much_is_usable(tmp_path: Path) -> None:
    from vividcover.voice.rvc.live import write_wav

    (tmp_path / "voice").mkdir()
    write_wav(tmp_path / "voice" / "a.wav", np.zeros(64_000, np.float32), 32_000)
    with pytest.raises(AudioError, match=r"0\.0 minutes are usable"):
        trained(tmp_path, tmp_path / "voice")
    assert not (tmp_path / "ana.zip").exists()


def test_missing_weights_are_said_before_any_work(tmp_path: Path) -> None:
    recordings = singers.write_recordings(tmp_path / "voice", singers.LOW, 1, 1.0, 32_000, seed=1)
    with pytest.raises(WeightsError, match="pretrained_v2_f0G40k"):
        trained(tmp_path, recordings, TrainOptions(sample_rate="40k"))
    with pytest.raises(WeightsError, match="contentvec"):
        trained(tmp_path, recordings, replace(OPTIONS, f0method="pm"), ears=None)
    assert not list(tmp_path.glob("work/training-*"))


def test_pretrained_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    recordings = singers.write_recordings(tmp_path / "voice", singers.LOW, 1, 1.0, 32_000, seed=1)
    wrong = tmp_path / "wrong.pth"
    torch.save({"model": {"discriminators.0.convs.0.bias": torch.zeros(1)}}, wrong)
    with pytest.raises(ModelFileError, match="critics"):
        trained(tmp_path, recordings, replace(OPTIONS, pretrained=(wrong, wrong)))


def test_a_full_disk_leaves_no_half_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "v.pth").write_bytes(b"x")
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(StorageError, match="disk is full"):
        package.write_package(
            tmp_path / "ana.zip", name="ana", voice=tmp_path / "v.pth", index=tmp_path / "v.pth",
            features=np.zeros((1, 2), np.float32), card={},
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.pth"]
