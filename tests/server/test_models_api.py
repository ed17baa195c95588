"""Models and versions over HTTP: made, listed, found, changed, promoted, compared, forked, shown, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server_making import Api, token_of
from vividcover.catalog.pins import PINS
from vividcover.cover import models as catalog
from vividcover.runs import leases
from vividcover.runs.leases import Outcome
from vividcover.store.tables import runs

OSTRIS = "ostris/flux-dev-lora-trainer"
PHOTO = Path(__file__).parents[2] / "sample" / "photos" / "02.jpg"


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    """A server of each test's own: which models there are, and which run is next, is what is looked at here."""
    return serve()


@pytest.fixture
def photos(tmp_path: Path) -> bytes:
    """A zip of one photo."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(PHOTO, "02.jpg")
    return (tmp_path / "photos.zip").read_bytes()


@pytest.fixture
def me(api: Api, photos: bytes) -> Iterator[list[str]]:
    """Alice's model alice/me with three trained versions: their ids, oldest first."""
    yield [train(api, photos, steps=steps, trigger_word="ALX") for steps in (500, 1000, 1500)]


def upload(api: Api, content: bytes, name: str = "photos.zip") -> str:
    answer = api.http.post("/v1/files", files={"content": (name, content)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["urls"]["get"])


def train(api: Api, photos: bytes, destination: str = "alice/me", **values: Any) -> str:
    """A training that a worker has finished; the version's id."""
    answer = api.http.post(
        f"/v1/models/{OSTRIS}/versions/{PINS[OSTRIS][-1]}/trainings",
        json={"destination": destination, "input": {"input_images": upload(api, photos), **values}},
    )
    assert answer.status_code == 201, answer.text
    return work(api, answer.json()["id"])


def work(api: Api, run_id: str, content: bytes = b"weights", name: str = "trained_model.tar") -> str:
    """What a worker does with the next run, without the work; of a training the version that it made."""
    claim = leases.claim_one(api.state.database, "w", warm=None)
    assert claim is not None and claim.id == run_id
    with api.state.artifacts.put_stream() as writer:
        writer.write(content + run_id.encode())
        blob = writer.commit()
    file = {"sha256": blob.sha256, "md5": blob.md5, "bytes": blob.bytes, "name": name}
    with api.state.database.write() as db:
        row = leases.finish(
            db, claim, Outcome("succeeded", files=[file], engine="classic", details={"engine": "classic"})
        )
    return str((row["output"] or {}).get("version", "")).rpartition(":")[2]


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def refused(answer: httpx.Response, status: int, words: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status and words in answer.json()["detail"]


def test_every_shipped_model_is_listed_with_its_schema_and_its_usual_version(api: Api) -> None:
    found, page = {}, ok(api.http.get("/v1/models"))
    while True:
        found |= {f"{one['owner']}/{one['name']}": one for one in page["results"]}
        if page["next"] is None:
            break
        page = ok(api.http.get(page["next"]))
    assert set(found) == set(catalog())
    for name, one in found.items():
        schemas = one["latest_version"]["openapi_schema"]["components"]["schemas"]
        assert schemas["Input"]["properties"] and schemas["Output"]
        assert one["visibility"] == "public" and one["is_official"] and None not in one.values()
        assert one["url"] == f"{api.url}/{name}"
        if name in PINS:
            assert one["latest_version"]["id"] == PINS[name][-1]
    assert ok(api.http.get(f"/v1/models/{OSTRIS}"))["latest_version"] == found[OSTRIS]["latest_version"]


def test_a_version_is_got_by_its_id_its_beginning_and_as_clients_put_an_output_into_a_path(api: Api) -> None:
    version = PINS[OSTRIS][-1]
    for written in (version, version[:8], f"{OSTRIS}:{version}", "latest"):
        assert ok(api.http.get(f"/v1/models/{OSTRIS}/versions/{written}"))["id"] == version
    listed = ok(api.http.get(f"/v1/models/{OSTRIS}/versions"))["results"]
    assert [one["id"] for one in listed] == list(reversed(PINS[OSTRIS]))
    for one in listed:
        assert one["cog_version"] and one["openapi_schema"]["components"]["schemas"]["TrainingOutput"]
    for nothing in ("0" * 64, "newest", "a/b/c", "%00", "é"):
        refused(api.http.get(f"/v1/models/{OSTRIS}/versions/{nothing}"), 404)


def test_a_model_is_made_as_the_clients_make_it_changed_and_deleted(api: Api) -> None:
    told = {"owner": "yourusername", "name": "flux-custom-style", "visibility": "private", "description": "1970s food"}
    made = ok(api.http.post("/v1/models", json=told | {"hardware": "gpu-t4"}), 201)
    assert made["description"] == "1970s food" and "latest_version" not in made
    where = "/v1/models/yourusername/flux-custom-style"
    refused(api.http.post("/v1/models", json=told), 422, "already exists")
    refused(api.bob.get(where), 404)
    refused(api.bob.patch(where, json={"description": "mine"}), 404)
    refused(api.bob.post("/v1/models", json=told | {"name": "other"}), 403)
    changed = ok(
        api.http.patch(where, json={"readme": "# Food", "github_url": "https://x.y/z", "visibility": "public"})
    )
    assert changed["github_url"] == "https://x.y/z" and changed["visibility"] == "public"
    assert api.bob.get(f"{where}/readme").text == "# Food"
    refused(api.bob.patch(where, json={"description": "mine"}), 403)
    refused(api.bob.delete(where), 403)
    assert api.http.delete(where).status_code == 204
    refused(api.http.get(where), 404)


def test_a_model_that_cannot_be_is_refused_with_the_field(api: Api) -> None:
    right = {"owner": "alice", "name": "x", "visibility": "private"}
    for wrong in (
        {"name": "a b"}, {"name": ""}, {"owner": "../x"}, {"visibility": "secret"}, {"github_url": "javascript:x"},
        {"name": "n" * 65}, {"description": 7}, {"owner": None}, {"cover_image_url": "ftp://x"}, {"hardware": "h" * 40},
    ):  # fmt: skip
        refused(api.http.post("/v1/models", json=right | wrong), 422)
    ok(api.http.post("/v1/models", json=right), 201)


def test_shipped_models_are_changed_by_nobody_but_an_admin_and_never_deleted(api: Api) -> None:
    where = f"/v1/models/{OSTRIS}"
    refused(api.http.patch(where, json={"description": "mine"}), 403)
    refused(api.http.delete(where), 403)
    with api.as_(token_of(api.state.database, "root", ("admin",))) as admin:
        refused(admin.delete(where), 403)
        refused(admin.delete(f"{where}/versions/{PINS[OSTRIS][-1]}"), 403)


def test_search_takes_the_text_as_each_client_sends_it_and_finds_trigger_words(api: Api, me: list[str]) -> None:
    for body, kind in (
        (b"ALX", "text/plain"), (b'"ALX"', "text/plain"), (b'"alx"', "application/json"), (b"me ALX", "")
    ):  # fmt: skip
        answer = api.http.request("QUERY", "/v1/models", content=body, headers={"content-type": kind} if kind else {})
        assert [one["name"] for one in ok(answer)["results"]] == ["me"]
        assert ok(api.bob.request("QUERY", "/v1/models", content=body))["results"] == []
    names = [one["name"] for one in ok(api.http.request("QUERY", "/v1/models", content=b"sonic"))["results"]]
    assert names[0] == "sonic"
    for nothing in (b"%", b"_ _", b"\x00\xff", b"'; drop table models", b"\\"):
        assert ok(api.http.request("QUERY", "/v1/models", content=nothing)) is not None


def test_a_training_makes_a_version_with_its_story_and_a_model_without_one_says_so(api: Api, me: list[str]) -> None:
    one = ok(api.http.get(f"/v1/models/alice/me/versions/{me[0]}"))
    story = one["vividcover"]
    assert (story["number"], story["trigger_word"], story["engine"]) == (1, "ALX", "classic")
    assert story["training_input"]["steps"] == 500 and len(story["dataset_sha256"]) == 64
    assert story["trainer"] == f"{OSTRIS}:{PINS[OSTRIS][-1]}" and story["consent"] == "All agreed."
    ok(api.http.post("/v1/models", json={"owner": "alice", "name": "empty", "visibility": "private"}), 201)
    refused(api.http.post("/v1/models/alice/empty/predictions", json={"input": {"prompt": "x"}}), 404, "no version yet")


def test_promote_rollback_and_latest_agree(api: Api, me: list[str]) -> None:
    where = "/v1/models/alice/me"

    def runs_now() -> str:
        shown = ok(api.http.get(where))["latest_version"]["id"]
        assert ok(api.http.get(f"{where}/versions/latest"))["id"] == shown
        asked = ok(api.http.post(f"{where}/predictions", json={"input": {"prompt": "ALX"}}), 201)
        assert asked["version"] == shown
        return str(shown)

    assert runs_now() == me[2]
    assert ok(api.http.post(f"{where}/rollback"))["latest_version"]["id"] == me[1]
    assert runs_now() == me[1]
    ok(api.http.post(f"{where}/rollback"))
    assert runs_now() == me[0]
    refused(api.http.post(f"{where}/rollback"), 422, "no version before")
    ok(api.http.post(f"{where}/promote", json={"version": me[1][:10]}))
    assert runs_now() == me[1]
    ok(api.http.post(f"{where}/promote", json={}))
    assert runs_now() == me[2]
    refused(api.bob.post(f"{where}/promote", json={}), 404)
    refused(api.http.post(f"{where}/promote", json={"version": PINS[OSTRIS][-1]}), 404)


def test_a_version_that_is_deleted_no_longer_runs_and_the_one_before_does(api: Api, me: list[str]) -> None:
    assert api.http.delete(f"/v1/models/alice/me/versions/{me[2]}").status_code == 202
    refused(api.http.get(f"/v1/models/alice/me/versions/{me[2]}"), 404)
    refused(api.http.post("/v1/predictions", json={"version": me[2], "input": {"prompt": "x"}}), 422)
    assert ok(api.http.get("/v1/models/alice/me"))["latest_version"]["id"] == me[1]


def test_what_a_deployment_uses_is_not_deleted(api: Api, me: list[str]) -> None:
    body = {
        "name": "d", "model": "alice/me", "version": me[0], "hardware": "cpu", "min_instances": 0, "max_instances": 1
    }  # fmt: skip
    ok(api.http.post("/v1/deployments", json=body))
    refused(api.http.delete(f"/v1/models/alice/me/versions/{me[0]}"), 409, f"deployment {api.user}/d")
    refused(api.http.delete("/v1/models/alice/me"), 409)


def test_the_changelog_has_what_was_said_at_training_and_afterwards(api: Api, me: list[str], photos: bytes) -> None:
    newest = train(api, photos, changelog="twelve more photos")
    ok(api.http.patch(f"/v1/models/alice/me/versions/{me[0]}", json={"changelog": "first try"}))
    told = ok(api.http.get("/v1/models/alice/me/changelog"))["results"]
    assert [one["version"] for one in told] == [newest, *reversed(me)]
    assert [one["changelog"] for one in told] == ["twelve more photos", "", "", "first try"]
    assert [one["promoted"] for one in told] == [True, False, False, False]


def test_a_comparison_shares_the_calls_and_shows_how_each_does(api: Api, me: list[str]) -> None:
    where = "/v1/models/alice/me"
    set_ = ok(api.http.put(f"{where}/traffic", json={"versions": {me[0]: 3, me[1][:12]: 1}}))["versions"]
    assert (set_[me[0]]["share"], set_[me[1]]["share"]) == (0.75, 0.25)
    used = [ok(api.http.post(f"{where}/predictions", json={"input": {"prompt": "x"}}), 201) for _ in range(24)]
    assert {one["version"] for one in used} == {me[0], me[1]}
    work(api, used[0]["id"], name="out.webp")
    seen = ok(api.http.get(f"{where}/traffic"))["versions"]
    assert sum(one["runs"] for one in seen.values()) == 24
    assert seen[used[0]["version"]]["succeeded"] == 1 and seen[used[0]["version"]]["mean_seconds"] >= 0
    for wrong in ({me[0]: 0}, {me[0]: -1}, {me[0]: "x"}, {"0" * 64: 1}):
        assert api.http.put(f"{where}/traffic", json={"versions": wrong}).status_code in (404, 422)
    assert ok(api.http.put(f"{where}/traffic", json={"versions": {}}))["versions"].keys() == seen.keys()
    assert ok(api.http.post(f"{where}/predictions", json={"input": {"prompt": "x"}}), 201)["version"] == me[2]


def test_examples_are_shown_with_the_model_to_whoever_may_see_it(api: Api, me: list[str]) -> None:
    where = "/v1/models/alice/me"
    run = ok(api.http.post(f"{where}/predictions", json={"input": {"prompt": "ALX at sea"}}), 201)
    refused(api.http.post(f"{where}/examples", json={"prediction": run["id"]}), 422, "finished")
    work(api, run["id"], PHOTO.read_bytes(), "out.jpg")
    shown = ok(api.http.post(f"{where}/examples", json={"prediction": run["id"]}), 201)
    assert shown["input"]["prompt"] == "ALX at sea"
    refused(api.bob.get(f"{where}/examples"), 404)
    ok(api.http.patch(where, json={"visibility": "public"}))
    (seen,) = ok(api.bob.get(f"{where}/examples"))["results"]
    assert api.open.get(seen["output"][0]).status_code == 200, "the link works for everybody"
    assert ok(api.bob.get(where))["default_example"]["id"] == run["id"]
    assert [one["name"] for one in ok(api.bob.get("/v1/collections/flux-fine-tunes"))["models"]] == ["me"]
    refused(api.bob.get(f"/v1/predictions/{run['id']}"), 404)
    refused(api.bob.post(f"{where}/examples", json={"prediction": run["id"]}), 403)
    assert api.http.delete(f"{where}/examples/{run['id']}").status_code == 204
    assert "default_example" not in ok(api.bob.get(where))
    refused(api.http.delete(f"{where}/examples/{run['id']}"), 404)


def test_a_fork_trains_by_the_recipe_with_changes_and_the_photos_stay_their_owners(api: Api, me: list[str]) -> None:
    where = f"/v1/models/alice/me/versions/{me[0]}/fork"
    forked = ok(api.http.post(where, json={"destination": "alice/me2", "input": {"steps": 2000}}), 201)
    assert forked["input"]["steps"] == 2000 and forked["input"]["trigger_word"] == "ALX"
    with api.state.database.read() as db:
        row = db.execute(sa.select(runs).where(runs.c.id == forked["id"])).mappings().one()
    assert row["files"][forked["input"]["input_images"]]["sha256"], "the same photos"
    version = work(api, forked["id"])
    (told,) = ok(api.http.get("/v1/models/alice/me2/changelog"))["results"]
    assert told["version"] == version and f"alice/me:{me[0]}" in told["changelog"] and "steps" in told["changelog"]
    refused(api.bob.post(where, json={"destination": "bob/me"}), 404)
    ok(api.http.patch("/v1/models/alice/me", json={"visibility": "public"}))
    refused(api.bob.post(where, json={"destination": "bob/me"}), 422, "input_images")
    photos = api.bob.post("/v1/files", files={"content": ("p.zip", api_zip())}).json()["urls"]["get"]
    theirs = ok(api.bob.post(where, json={"destination": "bob/me", "input": {"input_images": photos}}), 201)
    assert theirs["input"]["trigger_word"] == "ALX" and theirs["input"]["steps"] == 500
    refused(api.http.post(f"/v1/models/{OSTRIS}/versions/latest/fork", json={"destination": "alice/x"}), 404, "recipe")


def api_zip() -> bytes:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.write(PHOTO, "02.jpg")
    return out.getvalue()


def test_collections_hold_models_that_exist(api: Api) -> None:
    listed = ok(api.http.get("/v1/collections"))["results"]
    assert "flux-fine-tunes" in [one["slug"] for one in listed]
    for one in listed:
        got = ok(api.http.get(f"/v1/collections/{one['slug']}"))
        assert got["models"] or one["slug"] == "flux-fine-tunes"
    refused(api.http.get("/v1/collections/none"), 404)
    found = ok(api.http.get("/v1/search", params={"query": "image trainer"}))
    assert [one["slug"] for one in found["collections"]] == ["image-trainers"]
    assert set(found["collections"][0]["models"]) <= set(catalog())


def test_pages_of_models_are_walked_both_ways_in_the_order_that_was_asked_for(api: Api) -> None:
    for number in range(27):
        told = {"owner": "alice", "name": f"m{number:02}", "visibility": "private"}
        ok(api.http.post("/v1/models", json=told), 201)
    first = ok(api.http.get("/v1/models", params={"sort_by": "model_created_at", "sort_direction": "desc"}))
    second = ok(api.http.get(first["next"]))
    names = [one["name"] for one in first["results"] + second["results"]]
    assert len(names) == len(set(names)) and names[:3] == ["m26", "m25", "m24"]
    assert ok(api.http.get(second["previous"]))["results"] == first["results"]
    refused(api.http.get("/v1/models", params={"sort_by": "luck"}), 422)
    assert len(ok(api.bob.get("/v1/models"))["results"]) == len(catalog())
