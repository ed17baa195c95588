"""The neural image behind the API, with real parts: a server, its worker, the official client, a tiny FLUX."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from replicate.client import Client

from eyes_making import eyes_folder, smallest_flux_folder
from flux_making import tiny_photos
from live import Live, live
from run_making import family, kill
from vividcover.catalog import loras
from vividcover.catalog.contract import Context
from vividcover.settings import Settings
from vividcover.workspace import Workspace

CONSENT = "A ball cannot object."
NEURAL = {"vividcover-engine": "neural"}
OURS: dict[str, Any] = {"hf_token": "hf_of-the-operator", "civitai_token": "civitai-of-the-operator"}
OVER = ("succeeded", "failed", "canceled")
LEARNING = {"steps": 4, "resolution": "64", "lora_rank": 2, "learning_rate": 0.05, "text_length": 64}
DRAWING = {
    "prompt": "BALL on stage", "aspect_ratio": "custom", "width": 256, "height": 256, "num_inference_steps": 2,
    "text_length": 64, "seed": 3, "output_format": "png",
}  # fmt: skip
TRAINERS = {
    "ostris": "ostris/flux-dev-lora-trainer:4ffd32160efd92e956d39c5338a9b8fbafca58e03f791f6d8011f3e20e8ea6fa",
    "fast": "replicate/fast-flux-trainer:8b10794665aed907bb98a1a5324cd1d3a8bea0e9b31e65210967fb9c9e2e08ed",
}


@dataclass
class Place:
    """The server, and what its callers have: a client of each kind, photos of a ball, models of it."""

    server: Live
    client: Client
    http: httpx.Client
    bfl: httpx.Client
    photos: bytes  # a zip
    picture: bytes  # a PNG of 256 px
    models: dict[str, Any]  # trainings by the trainer's name

    def training(self, input: dict[str, Any], destination: str = "ann/any", trainer: str = "ostris") -> dict[str, Any]:
        """One that was just asked for."""
        owner, _, version = TRAINERS[trainer].partition(":")
        photos = {"input_images": self.link(self.photos, "photos.zip")}
        return self.asked(
            f"/v1/models/{owner}/versions/{version}/trainings",
            {"input": photos | LEARNING | input, "destination": destination},
        )  # fmt: skip

    def prediction(self, version: str, **input: Any) -> dict[str, Any]:
        return self.asked("/v1/predictions", {"version": version, "input": DRAWING | input})

    def asked(self, where: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(where, json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def seen(self, run: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(run["urls"]["get"]).raise_for_status().json())

    def over(self, run: dict[str, Any]) -> dict[str, Any]:
        return self.until(run, lambda seen: seen["status"] in OVER)

    def until(self, run: dict[str, Any], found: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        end = time.monotonic() + 90
        while not found(seen := self.seen(run)):
            assert time.monotonic() < end and (seen["status"] not in OVER), (
                seen["status"],
                seen["error"],
                seen["logs"],
            )
            time.sleep(0.05)
        return seen

    def link(self, content: bytes, name: str) -> str:
        """Of an uploaded file."""
        sent = self.http.post("/v1/files", files={"content": (name, content)}).raise_for_status()
        return str(sent.json()["urls"]["get"])

    def got(self, link: str) -> bytes:
        return self.http.get(link).raise_for_status().content

    def result(self, order: httpx.Response) -> tuple[dict[str, Any], list[float]]:
        """(BFL's answer when a task is over, the progress until then)."""
        assert order.status_code == 200, order.text
        seen: list[float] = []
        while (told := self.bfl.get(order.json()["polling_url"]).json())["status"] == "Pending":
            seen.append(told["progress"])
            time.sleep(0.05)
        return told, seen


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with one worker, and two image models that the official client has trained on it."""
    folder = tmp_path_factory.mktemp("live")
    photos = tiny_photos(folder / "photos", 3, side=256)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    edges = smallest_flux_folder(128)
    files = {
        "flux-dev": smallest_flux_folder(64), "flux-fill": smallest_flux_folder(384), "flux-canny": edges,
        "flux-depth": edges, **eyes_folder(),
    }  # fmt: skip
    own = json.dumps({name: str(path) for name, path in files.items()})
    with live(folder / "home", weight_files=own, weights_dir=str(folder / "none"), threads="1", **OURS) as server:
        token = server.token("read write train", "--consent", CONSENT)
        headers = NEURAL | {"x-key": token}
        with (
            server.client(token) as http,
            httpx.Client(base_url=f"{server.url}/bfl/v1", headers=headers, timeout=60) as bfl,
        ):
            http.headers.update(NEURAL)
            client = Client(api_token=token, base_url=server.url, headers=NEURAL)
            picture = (photos / "photo0.png").read_bytes()
            yield Place(server, client, http, bfl, packed.getvalue(), picture, trained(client, packed.getvalue()))


def trained(client: Client, photos: bytes) -> dict[str, Any]:
    """By both trainers, with the official client, as its users write it."""
    wanted = {
        "ostris": {"trigger_word": "BALL", **LEARNING},
        "fast": {"trigger_word": "CUBE", "lora_type": "subject", "training_steps": 12},
    }
    made = {}
    for name, input in wanted.items():
        training = client.trainings.create(
            version=TRAINERS[name], input={"input_images": io.BytesIO(photos), **input}, destination=f"ann/{name}"
        )
        while training.status not in OVER:
            time.sleep(0.1)
            training.reload()
        made[name] = training
    return made


def pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def png(values: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(out, "PNG")
    return out.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


# --- the official client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "word", "rank"), [("ostris", "BALL", 2), ("fast", "CUBE", 16)])
def test_the_official_client_trains_a_lora_into_a_version_of_its_own(
    place: Place, name: str, word: str, rank: int
) -> None:
    training = place.models[name]
    assert training.status == "succeeded", (training.error, training.logs)
    assert "engine: neural (asked for)" in training.logs and "100/100" in training.logs
    assert "Non-Commercial" in training.logs, "what may be done with it is said at the training"
    assert training.output["version"].startswith(f"ann/{name}:")
    metrics = place.http.get(f"/v1/trainings/{training.id}").json()["metrics"]
    assert 0 < metrics["predict_time"] <= metrics["total_time"]
    with tarfile.open(fileobj=io.BytesIO(place.got(training.output["weights"]))) as tar:
        files = [member for member in tar.getnames() if member.endswith(".safetensors")]
        card = json.loads(tar.extractfile("model.json").read())  # type: ignore[union-attr]
    assert files == ["output/flux_train_replicate/lora.safetensors"]
    told = (card["kind"], card["engine"], card["trigger_word"], card["rank"], card["consent"])
    assert told == ("vividcover-image", "neural", word, rank, CONSENT)


def test_the_trained_version_draws_and_other_models_of_the_account_are_worn_with_it(place: Place) -> None:
    version = place.models["ostris"].output["version"]
    two = place.client.run(version, DRAWING | {"num_outputs": 2})
    plain, other = (pixels(place.got(one)) for one in two)
    assert plain.shape == (256, 256, 3) and (plain != other).any()

    def drawn(**more: Any) -> tuple[Any, str]:
        done = place.over(place.prediction(version, **more))
        assert done["status"] == "succeeded", (done["error"], done["logs"])
        return pixels(place.got(done["output"][0])), done["logs"]

    again, said = drawn()
    assert (again == plain).all() and "Non-Commercial" in said, "each run says what may be done with its pictures"
    both, _ = drawn(extra_lora="ann/fast", extra_lora_scale=0.5)
    listed, _ = drawn(more_loras="ann/fast@0.5")
    assert (both != plain).any() and (listed == both).all(), "by owner/name, one or a list of them"
    exact = place.models["fast"].output["version"].replace(":", "/")
    assert (drawn(extra_lora=exact, extra_lora_scale=0.5)[0] == both).all(), "by owner/name/version"
    many, said = drawn(more_loras="ann/fast@0.5, ann/ostris@0.5")
    assert (many != both).any() and "ann/ostris" in said, ("two that answer to the same word are named", said)
    left = png(np.repeat([[255] * 128 + [0] * 128], 256, axis=0))
    masked, _ = drawn(lora_mask=place.link(left, "left.png"))
    assert (masked != plain).any() and (masked != drawn(lora_scale=0)[0]).any()


# --- BFL's API ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finetunes(place: Place) -> dict[str, str]:
    """lora and full → the id of a fine-tune."""
    return {kind: finetuned(place, kind) for kind in ("lora", "full")}


def finetuned(place: Place, kind: str) -> str:
    body = {
        "file_data": text(place.photos), "finetune_comment": "a ball", "mode": "product", "trigger_word": "BALL",
        "iterations": 100, "finetune_type": kind, "lora_rank": 16, "priority": "speed",
    }  # fmt: skip
    told, progress = place.result(place.bfl.post("/finetune", json=body))
    assert told["status"] == "Ready" and told["progress"] == 1, told
    assert progress == sorted(progress) and all(0 <= share < 1 for share in progress)  # how many were seen is chance
    return str(told["result"]["finetune_id"])


def test_finetunes_of_both_types_are_ready_and_listed(place: Place, finetunes: dict[str, str]) -> None:
    assert set(place.bfl.get("/my_finetunes").json()["finetunes"]) >= set(finetunes.values())
    for kind, id in finetunes.items():
        told = place.bfl.get("/finetune_details", params={"finetune_id": id}).json()["finetune_details"]
        assert (told["finetune_type"], told["status"], told["trigger_word"]) == (kind, "Ready", "BALL")


def test_all_five_kinds_of_pictures_are_drawn_and_the_strength_counts(place: Place, finetunes: dict[str, str]) -> None:
    def drawn(name: str, **order: Any) -> Any:
        wish = {"finetune_id": finetunes["lora"], "prompt": "BALL", "seed": 5, "output_format": "png"} | order
        told, _ = place.result(place.bfl.post(f"/{name}", json=wish))
        assert told["status"] == "Ready", told
        assert (told["result"]["seed"], told["result"]["prompt"]) == (5, "BALL")
        return pixels(httpx.get(told["result"]["sample"]).content)

    small: dict[str, Any] = {"width": 256, "height": 288, "steps": 2}
    none, one, two = (drawn("flux-pro-finetuned", finetune_strength=strength, **small) for strength in (0, 1, 2))
    assert none.shape == (288, 256, 3) and (none != one).any() and (one != two).any()
    full = drawn("flux-pro-finetuned", finetune_id=finetunes["full"], finetune_strength=1, **small)
    assert (full != none).any() and (full != one).any()
    guided = drawn("flux-pro-finetuned", finetune_strength=1, image_prompt=text(place.picture), **small)
    assert (guided != one).any()
    picture = text(place.picture)
    for name in ("flux-pro-1.0-depth-finetuned", "flux-pro-1.0-canny-finetuned"):
        assert drawn(name, control_image=picture, steps=15).shape == (256, 256, 3)
    mask = np.zeros((256, 256), np.uint8)
    mask[:, :96] = 255
    filled = drawn("flux-pro-1.0-fill-finetuned", image=picture, mask=text(png(mask)), steps=15)
    ground = pixels(place.picture)
    assert (filled[:, 97:] == ground[:, 97:]).all() and (filled[:, :95] != ground[:, :95]).any()
    large = drawn("flux-pro-1.1-ultra-finetuned", aspect_ratio="21:9")
    assert large.shape[0] * large.shape[1] > 4e6


def test_what_the_checkers_object_to_is_not_given_out(place: Place, finetunes: dict[str, str]) -> None:
    order = {"finetune_id": finetunes["lora"], "prompt": "BALL", "width": 256, "height": 256, "steps": 2}
    told, _ = place.result(place.bfl.post("/flux-pro-finetuned", json=order | {"safety_tolerance": 1}))
    assert told["status"] == "Error" and "held back by nsfw-detector" in told["result"]["error"]
    done = place.over(place.prediction(place.models["ostris"].output["version"], num_outputs=2, safety_tolerance=0))
    assert done["status"] == "failed" and "All 2 pictures were held back" in done["error"] and not done.get("output")


def test_a_finetune_that_is_deleted_draws_no_more(place: Place, finetunes: dict[str, str]) -> None:
    id = finetunes["full"]
    assert place.bfl.post("/delete_finetune", json={"finetune_id": id}).json()["deleted_finetune_id"] == id
    assert id not in place.bfl.get("/my_finetunes").json()["finetunes"]
    assert place.bfl.post("/flux-pro-finetuned", json={"finetune_id": id}).status_code == 404


# --- what goes wrong ----------------------------------------------------------------------------------------------


def zipped(*sides: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, side in enumerate(sides):
            archive.writestr(f"{number}.png", png(np.full((side, side, 3), 50 * number)))
    return out.getvalue()


def of_another_base() -> bytes:
    """A LoRA of Stable Diffusion 1.5, by its names and shapes."""
    from safetensors.numpy import save

    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    up, down = np.zeros((320, 4), np.float32), np.zeros((4, 320), np.float32)
    return bytes(save({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}))


def test_a_training_that_cannot_be_done_fails_with_what_to_mend(place: Place) -> None:
    for input, said in (
        ({"input_images": place.link(zipped(20, 30), "small.zip")}, "None of the 2 pictures"),
        ({"layers_to_optimize_regex": "no_such_layer"}, "no_such_layer"),
        ({"resolution": "7"}, "resolution"),
        ({"hf_repo_id": "ann/ball"}, "no token for Hugging Face"),
        ({"wandb_api_key": "w" * 40}, "pip install wandb"),
    ):
        done = place.over(place.training(input))
        assert done["status"] == "failed" and not done.get("output"), done["logs"]
        assert said in done["error"], done["error"]
        assert "Traceback" not in done["logs"]
    none = place.http.get("/v1/models/ann/any/versions").json()["results"]
    assert none == [], "nothing was learnt"


def test_a_lora_of_another_net_is_refused_by_its_name(place: Place) -> None:
    link = place.link(of_another_base(), "sd15.safetensors")
    body = {"version": place.models["ostris"].output["version"], "input": DRAWING | {"extra_lora": link}}
    answer = place.http.post("/v1/predictions", json=body)
    told = place.over(answer.json()) if answer.status_code == 201 else answer.json()
    assert told["status"] in ("failed", 422)
    assert "Stable Diffusion" in str(told.get("error") or told["detail"])


def test_a_training_that_is_canceled_ends_at_once_and_one_whose_process_is_killed_goes_on_where_it_was(
    place: Place,
) -> None:
    wish = {"steps": 800, "trigger_word": "LONG"}
    run = place.training(wish)
    place.until(run, lambda seen: re.search(r"\| (1[5-9]|[2-9]\d)/100", seen["logs"] or ""))  # it learns
    asked = time.monotonic()
    place.http.post(run["urls"]["cancel"])
    assert place.over(run)["status"] == "canceled"
    assert time.monotonic() - asked < 3

    again = place.training(wish, "ann/again")
    place.until(again, lambda seen: going_on(seen["logs"]))
    kill(runner(place.server))
    done = place.over(again)
    assert done["status"] == "succeeded", (done["error"], done["logs"])
    before, _, after = done["logs"].partition("Taken up again")
    assert going_on(after) >= going_on(before) > 1
    with tarfile.open(fileobj=io.BytesIO(place.got(done["output"]["weights"]))) as tar:
        assert json.loads(tar.extractfile("model.json").read())["steps"] == 800  # type: ignore[union-attr]


def going_on(logs: str | None) -> int:
    """The step that a training goes on at; 0 for one that began."""
    found = re.search(r"Going on at step (\d+)", logs or "")
    return int(found[1]) if found else 0


def runner(server: Live) -> int:
    """The process that carries out the run: of the worker's children the one with torch in it."""
    found = [pid for pid in family(server.process.pid) if b"vividcover.runs.runner\0" in cmdline(pid)]
    return max(found, key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# --- secrets ------------------------------------------------------------------------------------------------------


def test_keys_of_other_services_are_neither_shown_nor_kept(place: Place) -> None:
    keys = {"hf_token": "hf_very-own-secret", "wandb_api_key": "wandb-very-own-secret"}
    failed = place.over(place.training(keys | {"hf_repo_id": "ann/ball"}))
    assert failed["status"] == "failed", "W&B is not installed here"
    done = place.over(place.training({"hf_token": keys["hf_token"], "trigger_word": "KEYS"}))
    assert done["status"] == "succeeded", (done["error"], done["logs"])
    answers = [json.dumps(failed), json.dumps(done), place.http.get("/v1/trainings").text]
    answers.append(place.http.get("/v1/models/ann/any/versions").text)
    files = [p for p in place.server.home.rglob("*") if p.is_file() and ".db" not in p.name]
    kept = [place.server.log.read_bytes(), *(path.read_bytes() for path in files)]
    for secret in (*keys.values(), *OURS.values()):
        assert not any(secret in answer for answer in answers)
        assert not any(secret.encode() in content for content in kept)
    with sqlite3.connect(place.server.home / "vividcover.db") as db:
        rows = "".join(str(row) for (table,) in tables(db) for row in db.execute(f'SELECT * FROM "{table}"'))
    assert len(rows) > 10_000
    for secret in (*keys.values(), *OURS.values()):
        assert secret not in rows


def tables(db: Any) -> list[tuple[str]]:
    return list(db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))


@pytest.mark.parametrize("on_a_server", [True, False])
def test_a_strangers_reference_is_never_looked_up_with_the_operators_tokens(
    on_a_server: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vividcover.image.flux import sources

    asked = []

    def bring(reference: str, folder: Path, *, tokens: sources.Tokens, **_: Any) -> Path:
        asked.append((tokens.hub, tokens.civitai))
        path = folder / "lora.safetensors"
        path.write_bytes(of_another_base())
        return path

    monkeypatch.setattr(sources, "bring", bring)
    place = Settings(home=tmp_path, **OURS)
    nothing = (lambda _: None) if on_a_server else None
    for reference in ("huggingface.co/ann/ball", "https://civitai.com/models/123"):
        with Workspace(tmp_path / "cache") as workspace:
            loras.brought(reference, Context(workspace, place, resolve=nothing))
    assert asked == [("", "") if on_a_server else tuple(OURS.values())] * 2
