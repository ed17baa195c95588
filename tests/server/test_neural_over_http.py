"""The neural voice behind the API: learnt from an upload, sung by, canceled, and refused with the reason."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live import live
from neural_making import contentvec, voice
from vividcover.song import codec
from vividcover.song.pcm import read_pcm, write_pcm

SAMPLE = Path(__file__).parents[2] / "sample"
NEURAL = {"vividcover-engine": "neural"}
QUICK = {"pitch_detection_algorithm": "pm", "separator": "none", "output_format": "wav"}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    song = codec.decode(SAMPLE / "song" / "vocals.flac", folder / "whole.wav", max_seconds=600)
    signal, rate = read_pcm(folder / "whole.wav")
    begin = int(song.seconds / 3) * rate
    return {
        "contentvec": contentvec(folder / "contentvec.safetensors"), "voice": voice(folder / "Anna.zip"),
        "song": write_pcm(folder / "song.wav", signal[:, begin : begin + 2 * rate], rate),
    }  # fmt: skip


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, nets: dict[str, Path]) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("neural") / "home"
    files = json.dumps({"contentvec": str(nets["contentvec"])})
    with live(home, weight_files=files, threads="1") as server, server.client(server.token()) as client:
        yield client


def upload(http: httpx.Client, path: Path, data: bytes | None = None) -> str:
    sent = {"content": (path.name, data if data is not None else path.read_bytes())}
    return str(http.post("/v1/files", files=sent).raise_for_status().json()["urls"]["get"])


def over(http: httpx.Client, model: str, input: dict[str, Any], **headers: str) -> dict[str, Any]:
    """A run to its end."""
    answer = http.post(f"/v1/models/{model}/predictions", json={"input": input}, headers=headers)
    assert answer.status_code == 201, answer.text
    run, until = answer.json(), time.monotonic() + 120
    while run["status"] not in ("succeeded", "failed", "canceled") and time.monotonic() < until:
        time.sleep(0.2)
        run = http.get(run["urls"]["get"]).json()
    return dict(run)


def test_a_voice_is_learnt_from_an_upload_and_sings(http: httpx.Client, nets: dict[str, Path]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(SAMPLE / "voice" / "voice_01.flac", "dataset/anna/split_0.flac")
    dataset = upload(http, Path("dataset_anna.zip"), packed.getvalue())
    learning = {"dataset_zip": dataset, "epoch": 1, "batch_size": "4", "f0method": "pm", "small": True}
    trained = over(http, "replicate/train-rvc-model", learning, **NEURAL)
    assert trained["status"] == "succeeded", trained["logs"]
    assert "engine: neural (asked for)" in trained["logs"]
    given = {"song_input": upload(http, nets["song"]), "custom_rvc_model_download_url": trained["output"], **QUICK}
    sung = over(http, "zsxkib/realistic-voice-cloning", given)
    assert sung["status"] == "succeeded", sung["logs"]
    assert "the neural engine trained the voice" in sung["logs"]
    assert len(http.get(sung["output"]).content) > 2 * 44_100 * 2


def test_a_published_voice_sings_as_zip_and_as_bare_file(http: httpx.Client, nets: dict[str, Path]) -> None:
    song = upload(http, nets["song"])
    with zipfile.ZipFile(nets["voice"]) as archive:
        bare = archive.read("Anna.pth")
    for file in (upload(http, nets["voice"]), upload(http, Path("Anna.pth"), bare)):
        sung = over(
            http, "zsxkib/realistic-voice-cloning", {"song_input": song, "custom_rvc_model_download_url": file, **QUICK}
        )
        assert sung["status"] == "succeeded", sung["logs"]
        assert "is an RVC model, which the neural engine reads" in sung["logs"]


def test_a_run_whose_weights_are_missing_fails_with_the_command_that_fetches_them(
    http: httpx.Client, nets: dict[str, Path]
) -> None:
    given = {"song_input": upload(http, nets["song"]), "custom_rvc_model_download_url": upload(http, nets["voice"])}
    failed = over(http, "zsxkib/realistic-voice-cloning", given | QUICK | {"pitch_detection_algorithm": "crepe"})
    assert failed["status"] == "failed"
    assert "vividcover weights pull crepe-full" in failed["error"]


def test_a_hostile_file_runs_nothing_and_is_named(http: httpx.Client, nets: dict[str, Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = (
        b"\x80\x02cos\nsystem\nX" + len(f"touch {mark}").to_bytes(4, "little") + f"touch {mark}".encode() + b"\x85R."
    )
    given = {
        "song_input": upload(http, nets["song"]),
        "custom_rvc_model_download_url": upload(http, Path("x.pth"), hostile),
    }
    failed = over(http, "zsxkib/realistic-voice-cloning", given | QUICK)
    assert failed["status"] == "failed"
    assert "system" in failed["error"] and not mark.exists()


def test_a_training_is_gone_within_a_second_of_being_canceled(http: httpx.Client) -> None:
    dataset = upload(http, SAMPLE / "voice" / "voice_02.flac")
    learning = {"dataset_zip": dataset, "epoch": 10_000, "batch_size": "2", "f0method": "pm", "small": True}
    run = http.post("/v1/models/replicate/train-rvc-model/predictions", json={"input": learning}, headers=NEURAL).json()
    until = time.monotonic() + 90
    while "| 15/100" not in (run["logs"] or "") and run["status"] != "failed" and time.monotonic() < until:
        time.sleep(0.2)
        run = http.get(run["urls"]["get"]).json()
    assert run["status"] == "processing" and "| 15/100" in run["logs"], run["logs"]  # prepared, and learning
    asked = time.monotonic()
    http.post(run["urls"]["cancel"])
    while run["status"] == "processing":
        time.sleep(0.05)
        run = http.get(run["urls"]["get"]).json()
    assert run["status"] == "canceled"
    assert time.monotonic() - asked < 3  # one second, and what a busy machine adds
