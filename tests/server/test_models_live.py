"""Trained for real, by a worker: the guide's own lines through the official client, and a trainer that is run."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import httpx
import replicate

from live import Live

PHOTOS = Path(__file__).parents[2] / "sample" / "photos"


def photos(folder: Path) -> Path:
    path = folder / "training-images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("01.jpg", "02.jpg", "03.jpg"):
            archive.write(PHOTOS / name, name)
    return path


def test_the_guides_training_and_what_it_trained_run_as_printed(running: Live, tmp_path: Path) -> None:
    client = replicate.Client(api_token=running.token(), base_url=running.url)
    model = client.models.create(
        owner="yourusername", name="flux-custom-style", visibility="private", hardware="gpu-t4",
        description="Custom FLUX.1 fine-tuned on vintage 1970s cookbook photography",
    )  # fmt: skip
    with photos(tmp_path).open("rb") as images:
        training = client.trainings.create(
            version="ostris/flux-dev-lora-trainer:4ffd32160efd92e956d39c5338a9b8fbafca58e03f791f6d8011f3e20e8ea6fa",
            input={
                "input_images": images, "steps": 1000, "trigger_word": "VINTG70S", "lora_type": "style",
                "learning_rate": 0.0001, "autocaptioning": True, "hf_token": "hf_secret",
                "hf_repo_id": "yourusername/flux-vintage-70s",
            },
            destination=f"{model.owner}/{model.name}",
        )  # fmt: skip
    while training.status not in ["succeeded", "failed", "canceled"]:
        time.sleep(0.2)
        training.reload()
    assert training.status == "succeeded" and training.output, training.error
    assert "hf_secret" not in f"{training.logs}{training.input}"
    output = client.run(
        f"yourusername/flux-custom-style:{training.output['version']}",
        input={
            "prompt": "A delicious chocolate cake, styled as VINTG70s, food photography", "num_inference_steps": 28,
            "guidance_scale": 7.5, "model": "dev", "width": 1024, "height": 1024,
        },
    )  # fmt: skip
    assert isinstance(output, list) and httpx.get(str(output[0])).headers["content-type"] == "image/webp"
    latest = client.models.get("yourusername/flux-custom-style").latest_version
    assert latest is not None and training.output["version"].endswith(latest.id)


def test_a_trainer_that_is_run_gives_an_id_that_makes_pictures(http: httpx.Client, tmp_path: Path) -> None:
    def run(name: str, **input: object) -> str:
        answer = http.post(
            f"/v1/models/black-forest-labs/{name}/predictions", json={"input": input}, headers={"Prefer": "wait"}
        )
        assert answer.json()["status"] == "succeeded", answer.text
        return str(answer.json()["output"])

    images = http.post("/v1/files", files={"content": photos(tmp_path).read_bytes()}).json()["urls"]["get"]
    finetune = run("flux-pro-trainer", input_images=images, mode="style", trigger_word="VIVI", training_steps=300)
    drawn = run("flux-pro-finetuned", prompt="VIVI", finetune_id=finetune, aspect_ratio="custom", width=256, height=256)
    assert httpx.get(drawn).content[:3] == b"\xff\xd8\xff"
