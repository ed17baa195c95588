"""The calls that the published pages print, with their values, in code of our own (snippets/), run by the real clients.

Nothing in it is changed but what its reader must change: the address and the token (which the environment gives to
Python), and the pages' own placeholders.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ground import CLIENTS, HERE, Ground, Script

from vividcover.catalog import shelf

TERMINAL = ("succeeded", "failed", "canceled")
HOSTED = "https://api.replicate.com"
# What the pages take for granted. One line of them no client knows: its trainings have no `metrics`, here or there.
PRELUDE = """
import replicate, time
from replicate.training import Training
Training.metrics = property(lambda training: {"completed_steps": 0})
wait, time.sleep = time.sleep, lambda seconds: wait(seconds / 20)
"""
# The page calls the client's functions with one object, which no published version takes: it is taken apart here.
AS_THE_CLIENT_WANTS_IT = """
import Real from "real-replicate";
export default class Replicate extends Real {
  constructor(options) {
    super({ ...options, baseUrl: process.env.REPLICATE_BASE_URL + "/v1" });
    const { create: model } = this.models;
    const { create: training } = this.trainings;
    this.models.create = ({ owner, name, ...rest }) => model(owner, name, rest);
    this.trainings.create = ({ version, ...rest }) => training(...version.split(/[/:]/), rest);
  }
}
"""


def snippet(name: str, placeholders: Mapping[str, str]) -> str:
    text = (HERE / "snippets" / f"{name}.txt").read_text(encoding="utf-8")
    for old, new in placeholders.items():
        assert old in text
        text = text.replace(old, new)
    return text


def python(text: str, ground: Ground, folder: Path) -> str:
    """What the code printed."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + text], env=os.environ | ground.environment, cwd=folder, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def curl(text: str, ground: Ground) -> dict[str, Any]:
    """What the command line printed."""
    assert shutil.which("curl"), "this test runs the pages' curl commands: install curl"
    done = subprocess.run(
        ["sh", "-c", text], env=os.environ | ground.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def upload(ground: Ground, path: Path) -> str:
    with ground.http() as http, path.open("rb") as file:
        return str(http.post("/v1/files", files={"content": (path.name, file)}).json()["urls"]["get"])


def test_the_page_on_fine_tuning_in_python_makes_trains_and_runs_a_model(
    ground: Ground, photos: Path, tmp_path: Path
) -> None:
    from PIL import Image

    said = python(snippet("flux_training.py", {"PHOTOS.zip": str(photos)}), ground, tmp_path)
    assert "made: flux-custom-style yourusername" in said and "begun: starting" in said
    assert "learnt: yourusername/flux-custom-style:" in said
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (1024, 1024)
    with ground.http() as http:
        training = http.get("/v1/trainings").json()["results"][0]
        assert training["input"]["hf_token"] == "[redacted]", "a secret of another service is not shown"
        logs = http.get(f"/v1/trainings/{training['id']}/logs").text
        assert "autocaptioning" in logs and "steps=1000" in logs, "what is not honoured is named"
    schnell = snippet("schnell.py", {"OWNER/MODEL:VERSION": training["output"]["version"]})
    assert ".webp" in python(schnell + "print(output[0])", ground, tmp_path)


def test_the_page_on_fine_tuning_in_javascript_starts_a_training(
    ground: Ground, javascript: Script, photos: Path, tmp_path: Path
) -> None:
    modules = tmp_path / "page" / "node_modules"
    (modules / "replicate").mkdir(parents=True)
    (modules / "replicate" / "package.json").write_text('{"type": "module", "main": "index.js"}')
    (modules / "replicate" / "index.js").write_text(AS_THE_CLIENT_WANTS_IT)
    (modules / "real-replicate").symlink_to(CLIENTS / "js" / "node_modules" / "replicate")
    (tmp_path / "page" / "page.mjs").write_text(snippet("flux_training.mjs", {}))
    shutil.copy(photos, tmp_path / "page" / "PHOTOS.zip")
    done = subprocess.run(
        [javascript.command[0], "page.mjs"], env=os.environ | ground.environment, cwd=tmp_path / "page",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, _, link = done.stdout.strip().partition(": ")
    with ground.http() as http:
        training = http.get(link).json()
        assert said == "begun" and training["input"]["trigger_word"] == "BRNDSTYL"
        assert http.post(training["urls"]["cancel"]).status_code == 200


def test_the_call_with_one_object_fails_in_the_javascript_client_itself(
    ground: Ground, javascript: Script, tmp_path: Path
) -> None:
    """So it does against Replicate. When this fails, the page runs as it is, and the test above can be simpler."""
    (tmp_path / "page.mjs").write_text(snippet("flux_training.mjs", {}))
    done = subprocess.run(
        [javascript.command[0], "page.mjs"], env=os.environ | ground.environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "TypeError" in done.stderr and "models.js" in done.stderr


def test_the_curl_commands_of_the_trainers_page_train_and_look(ground: Ground, photos: Path) -> None:
    filled = {"PHOTOS": upload(ground, photos), "TRIGGER": "UNIQ", HOSTED: ground.url}
    training = curl(snippet("fast_flux_trainer.sh", filled), ground)
    assert (training["status"], training["model"]) == ("starting", "replicate/fast-flux-trainer")
    look = snippet("training_status.sh", {"TRAINING": training["id"], HOSTED: ground.url})
    until = time.monotonic() + 120
    while (found := curl(look, ground))["status"] not in TERMINAL:
        assert time.monotonic() < until
        time.sleep(0.5)
    assert found["status"] == "succeeded", found
    assert found["output"]["version"].startswith("your-username/your-model-name:")


def test_the_page_on_voices_trains_a_voice_from_a_link(ground: Ground, sample: Path, tmp_path: Path) -> None:
    """It gives a number where the model wants a text (batch_size)."""
    dataset = tmp_path / "dataset.zip"
    with zipfile.ZipFile(dataset, "w") as archive:
        for number, clip in enumerate(sorted((sample / "voice").glob("*.flac"))[:6]):
            archive.write(clip, f"dataset/vivi/split_{number}.flac")
    link = python(snippet("train_rvc_model.py", {"DATASET": upload(ground, dataset)}), ground, tmp_path).strip()
    with ground.http() as http:
        (tmp_path / "voice.zip").write_bytes(http.get(link).content)
    assert shelf.card(tmp_path / "voice.zip", "voice")["engine"] == "classic"
