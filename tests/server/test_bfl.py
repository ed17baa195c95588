"""BFL's fine-tuning API: its fields and ranges, its errors, and that a task is a run of the catalog like any other."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server_making import Api, token_of
from vividcover.catalog.contract import validated
from vividcover.cover import get
from vividcover.runs import leases
from vividcover.runs.leases import Outcome
from vividcover.server.bfl_bodies import PICTURES, nearest
from vividcover.store import accounts

PHOTO = (Path(__file__).parents[2] / "sample" / "photos" / "02.jpg").read_bytes()
# The fields of each order, as docs.bfl.ai gave them: name → (default, low, high). None: no such bound.
PUBLISHED: dict[str, dict[str, tuple[Any, Any, Any]]] = {
    "finetune": {
        "iterations": (300, 100, 1000), "learning_rate": (None, 1e-6, 5e-3), "trigger_word": ("TOK", None, None),
        "captioning": (True, None, None), "priority": ("quality", None, None), "finetune_type": ("full", None, None),
        "lora_rank": (32, None, None),
    },
    "flux-pro-finetuned": {
        "finetune_strength": (1.1, 0, 2), "steps": (40, 1, 50), "guidance": (2.5, 1.5, 5), "prompt": ("", None, None),
        "width": (1024, 256, 1440), "height": (768, 256, 1440), "prompt_upsampling": (False, None, None),
        "seed": (None, None, None), "safety_tolerance": (2, 0, 6), "output_format": ("jpeg", None, None),
    },
    "flux-pro-1.1-ultra-finetuned": {
        "finetune_strength": (1.2, 0, 2), "prompt": ("", None, None), "aspect_ratio": ("16:9", None, None),
        "safety_tolerance": (2, 0, 6), "image_prompt_strength": (0.1, 0, 1), "output_format": ("jpeg", None, None),
    },
    "flux-pro-1.0-depth-finetuned": {"steps": (50, 15, 50), "guidance": (15, 1, 100), "safety_tolerance": (2, 0, 6)},
    "flux-pro-1.0-canny-finetuned": {"steps": (50, 15, 50), "guidance": (30, 1, 100), "safety_tolerance": (2, 0, 6)},
    "flux-pro-1.0-fill-finetuned": {"steps": (50, 15, 50), "guidance": (60, 1.5, 100), "safety_tolerance": (2, 0, 6)},
}  # fmt: skip


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    return serve(private_hosts=["127.0.0.1:9"])


@pytest.fixture
def bfl(api: Api) -> Iterator[httpx.Client]:
    """Asks as BFL's clients do."""
    key = token_of(api.state.database, api.user)
    with httpx.Client(base_url=f"{api.url}/bfl/v1", headers={"x-key": key}, timeout=30) as client:
        yield client


def pictures() -> str:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("02.jpg", PHOTO)
    return base64.b64encode(out.getvalue()).decode()


def order(**changes: Any) -> dict[str, Any]:
    return {"file_data": pictures(), "finetune_comment": "vivi", "mode": "character", "trigger_word": "VIVI"} | changes


def work(api: Api, outcome: Outcome | None = None, content: bytes = b"weights", name: str = "trained_model.tar") -> str:
    """What a worker does with the next run, without the work; the run's id."""
    claim = leases.claim_one(api.state.database, "w", warm=None)
    assert claim is not None
    with api.state.artifacts.put_stream() as writer:
        writer.write(content)
        blob = writer.commit()
    file = {"sha256": blob.sha256, "md5": blob.md5, "bytes": blob.bytes, "name": name}
    with api.state.database.write() as db:
        done = outcome or Outcome("succeeded", files=[file], engine="classic")
        leases.finish(db, claim, done, [("log", "Using seed: 77\n")])
    return claim.id


def trained(api: Api, bfl: httpx.Client) -> str:
    """A finished fine-tune."""
    answer = bfl.post("/finetune", json=order())
    assert answer.status_code == 200, answer.text
    work(api, content=vivi(api))
    return str(answer.json()["finetune_id"])


def vivi(api: Api) -> bytes:
    """An image model that can be told from other files."""
    from vividcover.image.classic.modelfile import write_model

    out = api.state.settings.home / "vivi.tar"
    write_model(out, {"name": "vivi"}, {})
    return out.read_bytes()


def test_fields_defaults_and_ranges_are_the_published_ones(api: Api) -> None:
    paths = api.open.get("/openapi.json").json()["paths"]
    needed = {
        "finetune": {"file_data", "finetune_comment", "mode"}, "flux-pro-1.0-depth-finetuned": {"control_image"},
        "flux-pro-1.0-canny-finetuned": {"control_image"}, "flux-pro-1.0-fill-finetuned": {"image"},
    }  # fmt: skip
    for name, published in PUBLISHED.items():
        schema = paths[f"/bfl/v1/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for field, (default, low, high) in published.items():
            told = schema["properties"][field]
            flat = told | next((one for one in told.get("anyOf", ()) if "minimum" in one), {})
            assert told.get("default") == default, (name, field)
            if low is not None:
                assert (flat["minimum"], flat["maximum"]) == (low, high), (name, field)
        assert set(schema["required"]) == needed.get(name, set()) | ({"finetune_id"} if name != "finetune" else set())
        assert {"webhook_url", "webhook_secret"} <= set(schema["properties"])


@pytest.mark.parametrize("name", PICTURES)
def test_whatever_an_order_may_hold_fits_the_catalogs_model(name: str) -> None:
    kind = PICTURES[name]
    link = {"control_image": "QUJD", "image": "QUJD", "image_prompt": "QUJD", "mask": "QUJD"}
    for values in (
        {}, {"safety_tolerance": 0, "guidance": 1.5, "finetune_strength": 0}, {"safety_tolerance": 6, "guidance": 5,
        "finetune_strength": 2, "seed": 7, "prompt": "on stage", "output_format": "png", "prompt_upsampling": True,
        "width": 1440, "height": 256, "aspect_ratio": "9:21"},
    ):  # fmt: skip
        body = kind.model_validate({"finetune_id": "x", **link, **values})
        model = get(kind.serves)
        input = validated(model.name, model.Input, body.inputs("VIVI"))
        assert input.prompt == values.get("prompt", "VIVI")


def test_the_progress_of_a_task_is_the_last_that_its_worker_told(api: Api, bfl: httpx.Client) -> None:
    asked = bfl.post("/finetune", json=order()).json()
    claim = leases.claim_one(api.state.database, "w", warm=None)
    assert claim is not None
    for told, shown in (({"fraction": 0.5, "overall": 0.25}, 0.25), ({"fraction": 0.75, "overall": None}, 0.75)):
        with api.state.database.write() as db:
            leases.say(db, claim, [("progress", json.dumps({"stage": "image/learn", **told}))])
        assert bfl.get(asked["polling_url"]).json()["progress"] == shown


def test_a_finetune_is_trained_looked_at_used_and_deleted(api: Api, bfl: httpx.Client) -> None:
    asked = bfl.post("/finetune", json=order(iterations=150, lora_rank=16)).json()
    finetune = asked["finetune_id"]
    assert bfl.get(asked["polling_url"]).json() == {"id": finetune, "status": "Pending", "result": None, "progress": 0}
    refused = bfl.post("/flux-pro-finetuned", json={"finetune_id": finetune})
    assert refused.status_code == 404 and "it is starting" in refused.json()["detail"]
    run = work(api, content=vivi(api))
    ready = bfl.get("/get_result", params={"id": finetune}).json()
    assert (ready["status"], ready["result"]["finetune_id"], ready["progress"]) == ("Ready", finetune, 1)
    assert bfl.get("/my_finetunes").json() == {"finetunes": [finetune]}
    details = bfl.get("/finetune_details", params={"finetune_id": finetune}).json()["finetune_details"]
    assert (details["finetune_comment"], details["mode"], details["trigger_word"]) == ("vivi", "character", "VIVI")
    assert (details["iterations"], details["lora_rank"]) == (150, 16)
    seen = api.http.get(f"/v1/trainings/{run}").json()
    assert seen["output"]["version"] == ready["result"]["version"]
    assert seen["model"] == "black-forest-labs/flux-pro-trainer"

    drawn = bfl.post("/flux-pro-finetuned", json={"finetune_id": finetune, "width": 512, "height": 256}).json()
    prediction = api.http.get(f"/v1/predictions/{drawn['id']}").json()
    assert prediction["input"] == {
        "prompt": "VIVI", "finetune_id": finetune, "finetune_strength": 1.1, "output_format": "jpg",
        "aspect_ratio": "custom", "width": 512, "height": 256,
    }  # fmt: skip
    work(api, content=PHOTO, name="still.jpg")
    result = bfl.get(drawn["polling_url"]).json()["result"]
    assert httpx.get(result["sample"]).content == PHOTO
    assert (result["prompt"], result["seed"]) == ("VIVI", 77)

    gone = bfl.post("/delete_finetune", json={"finetune_id": finetune}).json()
    assert (gone["status"], gone["deleted_finetune_id"]) == ("success", finetune)
    assert bfl.get("/my_finetunes").json() == {"finetunes": []}
    assert bfl.post("/flux-pro-finetuned", json={"finetune_id": finetune}).status_code == 404
    assert httpx.get(ready["result"]["weights"]).status_code == 404, "what it learnt is gone"


def test_the_same_finetune_serves_replicates_model_of_that_name(api: Api, bfl: httpx.Client) -> None:
    finetune = trained(api, bfl)
    where = "/v1/models/black-forest-labs/flux-pro-finetuned/predictions"
    asked = {"prompt": "A formula one VIVI car", "finetune_id": finetune, "aspect_ratio": "3:2"}
    assert api.http.post(where, json={"input": asked}).status_code == 201
    for other in ("no-such", "0" * 64, "zsxkib/sonic"):
        refused = api.http.post(where, json={"input": asked | {"finetune_id": other}})
        assert refused.status_code == 422 and refused.json()["invalid_fields"][0]["field"] == "finetune_id"
    assert api.bob.post(where, json={"input": asked}).status_code == 422, "it is not bob's"


def test_a_trainer_that_is_run_gives_a_finetune_id(api: Api, bfl: httpx.Client) -> None:
    photos = api.http.post("/v1/files", files={"content": ("p.zip", base64.b64decode(pictures()))}).json()
    asked = api.http.post(
        "/v1/models/black-forest-labs/flux-pro-trainer/predictions",
        json={"input": {"input_images": photos["urls"]["get"], "trigger_word": "VIVI", "training_steps": 300}},
    )
    assert asked.status_code == 201, asked.text
    model = {"sha256": api.state.artifacts.put_file(api.state.settings.home / "vivi.tar") if vivi(api) else ""}
    kept = model | {"md5": "0" * 32, "bytes": 9, "name": "trained_model.tar"}
    work(api, Outcome("succeeded", text="anything", trained=kept, details={"trigger_word": "VIVI"}))
    finetune = api.http.get(f"/v1/predictions/{asked.json()['id']}").json()["output"]
    assert bfl.get("/my_finetunes").json() == {"finetunes": [finetune]}
    assert bfl.post("/flux-pro-finetuned", json={"finetune_id": finetune}).status_code == 200


def test_nobody_sees_or_uses_another_accounts_finetunes(api: Api, bfl: httpx.Client) -> None:
    finetune = trained(api, bfl)
    drawn = bfl.post("/flux-pro-finetuned", json={"finetune_id": finetune}).json()["id"]
    theirs = {"x-key": api.bob.headers["Authorization"].removeprefix("Bearer ")}
    with httpx.Client(base_url=bfl.base_url, headers=theirs) as bob:
        for id in (finetune, drawn, "0" * 26, "x"):
            answer = bob.get("/get_result", params={"id": id})
            assert (answer.status_code, answer.json()["status"]) == (404, "Task not found")
        assert bob.get("/my_finetunes").json() == {"finetunes": []}
        assert bob.get("/finetune_details", params={"finetune_id": finetune}).status_code == 404
        assert bob.post("/delete_finetune", json={"finetune_id": finetune}).status_code == 404
        assert bob.post("/flux-pro-finetuned", json={"finetune_id": finetune}).status_code == 404


def test_errors_have_the_form_that_bfls_have(api: Api, bfl: httpx.Client) -> None:
    wrong = bfl.post("/flux-pro-finetuned", json={"finetune_id": "x", "steps": 99, "width": 1000, "seed": "s"})
    assert wrong.status_code == 422
    assert [one["loc"] for one in wrong.json()["detail"]] == [["body", "seed"], ["body", "steps"], ["body", "width"]]
    assert all(one["msg"] and one["type"] for one in wrong.json()["detail"])
    assert bfl.get("/get_result").json()["detail"][0]["loc"] == ["query", "id"]
    for key in ({}, {"x-key": "r8_nobody"}):
        answer = httpx.get(f"{bfl.base_url}my_finetunes", headers=key)
        assert answer.status_code == 403 and isinstance(answer.json()["detail"], str)
    assert bfl.post("/flux-pro-finetuned", content=b"{").status_code == 400


def test_bad_orders_are_refused_at_once_and_leave_nothing(api: Api, bfl: httpx.Client) -> None:
    text = base64.b64encode(b"not a zip").decode()
    for changes in (
        {"file_data": ""}, {"file_data": "%%%"}, {"file_data": text}, {"file_data": "QQ"}, {"mode": "face"},
        {"iterations": 99}, {"learning_rate": 1}, {"lora_rank": 8}, {"trigger_word": "two words"},
        {"webhook_url": "http://10.0.0.1/x"}, {"webhook_url": "file:///etc/passwd"}, {"finetune_comment": None},
    ):  # fmt: skip
        answer = bfl.post("/finetune", json=order(**changes))
        assert answer.status_code == 422, (changes, answer.text)
    assert bfl.get("/my_finetunes").json() == {"finetunes": []}
    assert api.http.get("/v1/trainings").json()["results"] == []
    assert api.http.get("/v1/files").json()["results"] == []
    finetune = trained(api, bfl)
    for name, more in (
        ("flux-pro-1.0-fill-finetuned", {"image": text}), ("flux-pro-1.0-depth-finetuned", {"control_image": text}),
        ("flux-pro-1.0-canny-finetuned", {}), ("flux-pro-1.1-ultra-finetuned", {"aspect_ratio": "5:1"}),
        ("flux-pro-finetuned", {"image_prompt": text}), ("flux-pro-finetuned", {"prompt": "x" * 2001}),
    ):  # fmt: skip
        answer = bfl.post(f"/{name}", json={"finetune_id": finetune, **more})
        assert answer.status_code == 422, (name, answer.text)
    assert api.http.get("/v1/predictions").json()["results"] == []


def test_training_asks_for_consent_in_words(api: Api) -> None:
    key = token_of(api.state.database, api.user, consent="")
    answer = httpx.post(f"{api.url}/bfl/v1/finetune", json=order(), headers={"x-key": key})
    assert answer.status_code == 403 and "consent" in answer.json()["detail"]
    said = {"x-key": key, "Vividcover-Consent": "I am the person in the photos."}
    assert httpx.post(f"{api.url}/bfl/v1/finetune", json=order(), headers=said).status_code == 200


def test_a_failed_task_says_why(api: Api, bfl: httpx.Client) -> None:
    asked = bfl.post("/finetune", json=order()).json()
    work(api, Outcome("failed", error="no face in 02.jpg"))
    seen = bfl.get(asked["polling_url"]).json()
    assert (seen["status"], seen["result"]) == ("Error", {"error": "no face in 02.jpg"})


def test_a_webhook_is_told_as_get_result_tells_it(api: Api, bfl: httpx.Client) -> None:
    hook = {"webhook_url": "http://127.0.0.1:9/done", "webhook_secret": "mine"}
    asked = bfl.post("/finetune", json=order(**hook)).json()
    assert (asked["status"], asked["webhook_url"]) == ("Pending", hook["webhook_url"])
    run = work(api)
    outgoing = api.state.outgoing
    assert outgoing is not None
    with api.state.database.read() as db:
        from vividcover.runs import states

        row = states.get(db, run)
        assert row is not None and row["webhook_secret"] == "mine"
        told = outgoing.present(db, row)
    assert told == bfl.get(asked["polling_url"]).json()


def test_a_ratio_that_cannot_be_drawn_becomes_the_nearest() -> None:
    assert [nearest(ratio) for ratio in ("16:9", "2:1", "1:2", "100:99", "7:3")] == [
        "16:9", "16:9", "9:16", "1:1", "21:9"
    ]  # fmt: skip


def test_an_order_beyond_the_budget_keeps_no_pictures(api: Api, bfl: httpx.Client) -> None:
    accounts.change_account(api.state.database, api.user, budget_usd=0.0)
    answer = bfl.post("/finetune", json=order())
    assert answer.status_code == 402, answer.text
    assert api.http.get("/v1/files").json()["results"] == []
    assert bfl.get("/my_finetunes").json() == {"finetunes": []}
