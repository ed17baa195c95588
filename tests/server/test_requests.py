"""What the server answers to whoever asks badly, or asks for what is not theirs: 4xx problems, never a 500."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from server_making import Api, problem, token_of
from vividcover.store import accounts, tables
from vividcover.store.database import now

HELLO = {"version": "vividcover/hello", "input": {}}


def test_a_request_needs_a_token_of_this_server(api: Api) -> None:
    body = problem(api.open.get("/v1/predictions"), 401)
    assert body["title"] == "Unauthenticated"
    problem(api.as_("r8_" + "x" * 40).get("/v1/account"), 401)
    problem(api.open.get("/v1/account", headers={"Authorization": "Basic eHg6eHg="}), 401)


def test_the_older_form_of_the_header_is_accepted(api: Api) -> None:
    token = api.http.headers["Authorization"].partition(" ")[2]
    answer = api.open.get("/v1/account", headers={"Authorization": f"Token {token}"})
    assert answer.json() == {"type": "user", "username": api.user, "name": api.user}


def test_a_revoked_token_is_refused_within_a_second(api: Api) -> None:
    import time

    token = token_of(api.state.database, api.user)
    client = api.as_(token)
    assert client.get("/v1/account").status_code == 200
    accounts.revoke(api.state.database, accounts.find_token(api.state.database, token)["id"])
    time.sleep(1.1)
    problem(client.get("/v1/account"), 401)


def test_a_token_does_only_what_its_scopes_allow(api: Api) -> None:
    reader = api.as_(token_of(api.state.database, api.user, ("read",)))
    assert reader.get("/v1/predictions").status_code == 200
    assert "'write'" in problem(reader.post("/v1/predictions", json=HELLO), 403)["detail"]
    problem(reader.post("/v1/files", files={"content": b"x"}), 403)
    writer = api.as_(token_of(api.state.database, api.user, ("read", "write")))
    trainer = api.http.get("/v1/models/replicate/fast-flux-trainer").json()["latest_version"]["id"]
    path = f"/v1/models/replicate/fast-flux-trainer/versions/{trainer}/trainings"
    problem(writer.post(path, json={"destination": f"{api.user}/m", "input": {}}), 403)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b'{"version": 1e999}', 400), (b'{"version": NaN}', 400), (b"\xff\xfe", 400), (b"[" * 99_999, 400),
        (b'{"version": "\\u0000", "input": {}}', 400), (b'{"version": "\\ud800", "input": {}}', 400), (b"[]", 422),
        (b"", 422), (b'"x"', 422), (b'{"version": 5, "input": {}}', 422), (b'{"version": "x", "input": []}', 422),
        (b'{"version": "x", "input": null}', 422), (b'{"version": "", "input": {}}', 422),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(api: Api, body: bytes, status: int) -> None:
    problem(api.http.post("/v1/predictions", content=body), status)


@pytest.mark.parametrize(
    "version",
    ["nobody/nothing", "vividcover/hello:" + "0" * 64, "f" * 64, "x", "a/b/c", "../..", "a/b:zz"],
)
def test_an_unknown_version_is_refused(api: Api, version: str) -> None:
    body = problem(api.http.post("/v1/predictions", json={"version": version, "input": {}}), 422)
    assert body["title"] == "Invalid version or not permitted"


def test_every_wrong_input_is_named_with_its_reason(api: Api) -> None:
    wrong = {"text": "", "repeat": 1001, "seconds": "soon", "fail": {}}
    body = problem(api.http.post("/v1/predictions", json={**HELLO, "input": wrong}), 422)
    assert {one["field"] for one in body["invalid_fields"]} == set(wrong)
    assert body["title"] == "Input validation failed"
    assert "- repeat: input should be less than or equal to 1000, not 1001\n" in body["detail"]
    missing = problem(api.http.post("/v1/models/zsxkib/sonic/predictions", json={"input": {}}), 422)
    assert "- image: is required\n" in missing["detail"]


def test_a_number_stands_for_its_text_and_null_for_not_given(api: Api) -> None:
    answer = api.http.post("/v1/predictions", json={**HELLO, "input": {"text": 5, "repeat": None, "seconds": "0.0"}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["input"]["text"] == "5"


@pytest.mark.parametrize("text", ["soon", "-5s", "4s", "1", "", "5 parsecs", "1e3s", "٣٠s"])
def test_a_duration_that_is_none_is_refused(api: Api, text: str) -> None:
    headers = {"Cancel-After": text.encode()}
    answer = api.http.post("/v1/predictions", json=HELLO, headers=headers)
    assert answer.status_code == (422 if text else 201)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("90s", 90), ("5m", 300), ("1h30m45s", 5445)])
def test_a_duration_sets_the_deadline(api: Api, text: str, seconds: float) -> None:
    run = api.http.post("/v1/predictions", json=HELLO, headers={"Cancel-After": text}).json()
    with api.state.database.read() as db:
        row = db.execute(sa.select(tables.runs).where(tables.runs.c.id == run["id"])).mappings().one()
    assert row["deadline"] - row["created_at"] == pytest.approx(seconds, abs=0.5)


def test_aborted_is_told_only_to_clients_that_know_it(api: Api) -> None:
    old = {"User-Agent": "replicate-python/1.0.7"}
    run = api.http.post("/v1/predictions", json=HELLO, headers={"Cancel-After": "5s"}).json()
    asked_by_old = api.http.post("/v1/predictions", json=HELLO, headers={"Cancel-After": "5s", **old}).json()
    with api.state.database.write() as db:
        rows = dict(db.execute(sa.select(tables.runs.c.id, tables.runs.c.aborts)).all())  # type: ignore[arg-type]
        db.execute(sa.update(tables.runs).where(tables.runs.c.id == run["id"]).values(status="aborted"))
    assert (rows[run["id"]], rows[asked_by_old["id"]]) == (True, False)
    assert api.http.get(f"/v1/predictions/{run['id']}").json()["status"] == "aborted"
    assert api.http.get(f"/v1/predictions/{run['id']}", headers=old).json()["status"] == "canceled"
    shown = api.http.get("/v1/predictions", headers=old).json()["results"]
    assert {one["status"] for one in shown} == {"canceled", "starting"}


@pytest.mark.parametrize(
    "link", ["ftp://example.com/x", "not a link", "http://127.0.0.1:9/", "http://2130706433/", "http://[::1]/",
             "http://0x7f.1/", "http://169.254.169.254/latest/meta-data", "https://user:pass@example.com/"],
)  # fmt: skip
def test_a_webhook_that_must_not_be_called_is_refused(api: Api, link: str) -> None:
    body = problem(api.http.post("/v1/predictions", json={**HELLO, "webhook": link}), 422)
    assert body["invalid_fields"][0]["field"] == "webhook"


def test_a_webhook_is_kept_with_its_filter(api: Api) -> None:
    link = "https://example.com/hook?id=7"
    body = {**HELLO, "webhook": link, "webhook_events_filter": ["completed", "start"]}
    run = api.http.post("/v1/predictions", json=body).json()
    assert (run["webhook"], run["webhook_events_filter"]) == (link, ["start", "completed"])
    body = {**HELLO, "webhook_completed": link}
    assert api.http.post("/v1/predictions", json=body).json()["webhook_events_filter"] == ["completed"]
    problem(api.http.post("/v1/predictions", json={**HELLO, "webhook": link, "webhook_events_filter": ["end"]}), 422)


def test_another_accounts_run_is_as_if_it_were_not_there(api: Api) -> None:
    run = api.http.post("/v1/predictions", json=HELLO).json()["id"]
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/logs"), ("DELETE", "")):
        foreign = problem(api.bob.request(method, f"/v1/predictions/{run}{path}"), 404)
        assert foreign == problem(api.bob.request(method, f"/v1/predictions/{'0' * 26}{path}"), 404)
    assert api.bob.get("/v1/predictions").json()["results"] == []
    assert api.http.get(f"/v1/predictions/{run}").json()["status"] == "starting"
    problem(api.http.get(f"/v1/trainings/{run}"), 404)  # a prediction is no training


def test_pages_lead_through_all_runs_forward_and_back(api: Api) -> None:
    ids = [api.http.post("/v1/predictions", json=HELLO).json()["id"] for _ in range(3)]
    with api.state.database.write() as db:  # the rest as rows: older, all of one moment
        row = dict(db.execute(sa.select(tables.runs).where(tables.runs.c.id == ids[0])).mappings().one())
        rows = [{**row, "id": f"{n:026d}", "stream_key": None, "created_at": 1e9} for n in range(230)]
        db.execute(sa.insert(tables.runs), rows)
    page = api.http.get("/v1/predictions").json()
    assert page["previous"] is None and len(page["results"]) == 100
    assert [one["id"] for one in page["results"][:3]] == ids[::-1]
    seen, pages = [one["id"] for one in page["results"]], [page]
    while page["next"]:
        assert page["next"].startswith(f"{api.url}/v1/predictions?cursor=")
        page = api.http.get(page["next"]).json()
        pages.append(page)
        seen += [one["id"] for one in page["results"]]
    assert [len(p["results"]) for p in pages] == [100, 100, 33] and len(set(seen)) == 233
    back = api.http.get(page["previous"]).json()
    assert back["results"] == pages[1]["results"]
    first = api.http.get(back["previous"]).json()
    assert (first["results"], first["previous"]) == (pages[0]["results"], None)


def test_lists_are_cut_by_time(api: Api) -> None:
    api.http.post("/v1/predictions", json=HELLO)
    for query, count in (("created_after=2020-01-01T00:00:00Z", 1), ("created_before=2020-01-01T00:00:00+02:00", 0),
                         ("created_after=2020-01-01", 1), ("source=web", 0)):  # fmt: skip
        assert len(api.http.get(f"/v1/predictions?{query}").json()["results"]) == count, query
    for query in ("created_after=yesterday", "created_before=9999-99-99", "source=mars"):
        problem(api.http.get(f"/v1/predictions?{query}"), 422)
    for cursor in ("x", "bm9uZQ==", "WzAsMSwyLDNd", "WzAsIlx1MDAwMCIsMl0="):
        problem(api.http.get(f"/v1/predictions?cursor={cursor}"), 400)


def test_a_training_that_is_refused_leaves_no_model_behind(api: Api) -> None:
    flux = api.http.get("/v1/models/replicate/fast-flux-trainer").json()["latest_version"]["id"]
    path = f"/v1/models/replicate/fast-flux-trainer/versions/{flux}/trainings"
    problem(api.http.post(path, json={"destination": f"{api.user}/m", "input": {"input_images": "nowhere"}}), 422)
    problem(api.http.post(path, json={"destination": "nonsense", "input": {"input_images": "data:,x"}}), 422)
    problem(api.http.post(path, json={"input": {}}), 422)
    hello = api.http.get("/v1/models/vividcover/hello").json()["latest_version"]["id"]
    path = f"/v1/models/vividcover/hello/versions/{hello}/trainings"
    assert (
        "no training" in problem(api.http.post(path, json={"destination": f"{api.user}/m", "input": {}}), 422)["detail"]
    )
    problem(api.http.get(f"/v1/models/{api.user}/m"), 404)


def test_training_needs_the_consent_of_whoever_is_trained(api: Api) -> None:
    mute = api.as_(token_of(api.state.database, api.user, consent=""))
    body = {"input": {"dataset_zip": "https://example.com/x.zip"}}
    path = "/v1/models/replicate/train-rvc-model/predictions"
    assert "consent" in problem(mute.post(path, json=body), 403)["detail"]
    words = {"Vividcover-Consent": "It is my own voice."}
    answer = mute.post(path, json={"input": {"dataset_zip": "nowhere"}}, headers=words)
    assert "not a link" in problem(answer, 422)["detail"]  # past the consent, to the next thing that is wrong


def test_too_many_requests_are_told_when_to_come_back(serve: Callable[..., Api]) -> None:
    api = serve(creates_per_minute=2)
    for left in ("1", "0"):
        answer = api.http.post("/v1/predictions", json=HELLO)
        assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (201, left)
    answer = api.http.post("/v1/predictions", json=HELLO)
    assert "Request was throttled" in problem(answer, 429)["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert api.bob.post("/v1/predictions", json=HELLO).status_code == 201


def test_a_budget_that_is_spent_is_402(api: Api) -> None:
    database = api.state.database
    account = accounts.get_account(database, api.user)["id"]
    token, row = accounts.create_token(database, account, budget_usd=1.0)
    with database.write() as db:
        db.execute(sa.insert(tables.usage).values(
            account_id=account, token_id=row["id"], model="a/b", device="cpu", engine="classic", seconds=1.0, bytes=1,
            usd=1.0, at=now(),
        ))  # fmt: skip
    problem(api.as_(token).post("/v1/predictions", json=HELLO), 402)
    assert api.as_(token).get("/v1/predictions").json()["results"] == []


def test_links_are_those_by_which_the_client_came(serve: Callable[..., Api]) -> None:
    api = serve()
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "api.example.com"}
    run = api.http.post("/v1/predictions", json=HELLO, headers=proxied).json()
    assert run["urls"]["get"] == f"https://api.example.com/v1/predictions/{run['id']}"
    odd = {"X-Forwarded-Host": 'evil"><script>', "X-Forwarded-Proto": "javascript"}
    assert api.http.get(f"/v1/predictions/{run['id']}", headers=odd).json()["urls"]["get"].startswith(api.url)
    fixed = serve(public_url="https://vivid.example/base/")
    run = fixed.http.post("/v1/predictions", json=HELLO).json()
    assert run["urls"]["stream"].startswith("https://vivid.example/base/v1/streams/")


def test_browsers_may_ask_and_unknown_paths_are_problems(api: Api) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,prefer,content-type"}  # fmt: skip
    answer = api.open.options("/v1/predictions", headers=asked)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
    assert "prefer" in answer.headers["access-control-allow-headers"].lower()
    problem(api.http.get("/v1/nothing"), 404)
    problem(api.http.put("/v1/predictions"), 405)


def test_the_short_way_and_the_long_way_through_the_app_answer_the_same(api: Api) -> None:
    run = api.http.post("/v1/predictions", json=HELLO).json()["id"]
    for method, path, body in (
        ("GET", f"/v1/predictions/{run}", None), ("GET", f"/v1/predictions/{'0' * 26}", None),
        ("POST", "/v1/predictions", {"version": "x"}), ("POST", "/v1/models/nobody/nothing/predictions", {}),
        ("POST", "/v1/models/zsxkib/sonic/predictions", {"input": {}}),
    ):  # fmt: skip
        short = api.http.request(method, path, json=body)
        long = api.http.request(method, path, json=body, headers={"Origin": "https://app.example"})
        assert (short.status_code, short.json()) == (long.status_code, long.json())
        assert long.headers["access-control-allow-origin"] == "*"


def test_the_small_pages_need_no_token_and_nothing_from_elsewhere(api: Api) -> None:
    assert api.open.get("/").json()["api"] == f"{api.url}/v1"
    assert api.open.get("/healthz").json()["status"] == "ok"
    page = api.open.get("/docs").text
    assert "/v1/predictions/{prediction_id}" in page and "<script" not in page and "src=" not in page
    spec = api.open.get("/openapi.json").json()
    names = [op["operationId"] for path in spec["paths"].values() for op in path.values()]
    assert len(names) == len(set(names))
    assert "&lt;b&gt;" in api.open.get("/p/<b>").text
    json.dumps(spec)


def test_search_finds_models_by_their_words(api: Api) -> None:
    found = api.http.get("/v1/search", params={"query": "voice"}).json()
    assert found["query"] == "voice" and found["models"][0]["metadata"]["score"] > 0
    assert "voice" in [one["slug"] for one in found["collections"]]
    assert len(api.http.get("/v1/search", params={"query": "o", "limit": "1"}).json()["models"]) == 1
    for bad in ({}, {"query": " "}, {"query": "x", "limit": "0"}, {"query": "x", "limit": "many"}):
        problem(api.http.get("/v1/search", params=bad), 400)
    assert {"sku", "name"} <= set(api.http.get("/v1/hardware").json()[0])
