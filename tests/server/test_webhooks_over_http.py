"""Webhooks and usage as a client of the server meets them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import replicate

from live import Live, live
from receiver import Receiver
from run_making import children_of, kill, until
from server_making import Api
from vividcover.store import accounts

RUN = {"version": "vividcover/hello", "input": {"text": "you", "repeat": 2}}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    prices = json.dumps({"second:vividcover/hello": 2.0})
    with live(
        tmp_path_factory.mktemp("hooks") / "home", private_hosts=json.dumps([receiver.at]), prices=prices
    ) as server:
        yield server


def test_what_arrives_is_what_get_shows_and_the_official_client_accepts_it(server: Live, receiver: Receiver) -> None:
    token = server.token()
    client = replicate.Client(api_token=token, base_url=server.url)
    made = client.predictions.create(
        **RUN, webhook=receiver.url("/a?user=7"), webhook_events_filter=["start", "output", "completed"]
    )
    until(lambda: "succeeded" in receiver.statuses("/a?user=7"), 30)
    messages = [message for message in receiver.got if message[0]["path"] == "/a?user=7"]
    for headers, body in messages:
        client.webhooks.validate(
            headers=headers, body=body.decode(), secret=client.webhooks.default.secret(), tolerance=60
        )
    first, *_, last = [json.loads(body) for _, body in messages]
    assert (first["id"], first["status"], first["output"]) == (made.id, "processing", None)
    with server.client(token) as http:
        assert last == http.get(f"/v1/predictions/{made.id}").json()
    assert last["output"] == ["hello there, you", " (2)"] and last["urls"]["get"].startswith(server.url)


def test_a_delivery_is_logged_and_made_again_on_demand(server: Live, receiver: Receiver) -> None:
    receiver.answers["/b"] = [410, 200]
    with server.client(server.token()) as http:
        run = http.post(
            "/v1/predictions", json=RUN | {"webhook": receiver.url("/b"), "webhook_events_filter": ["completed"]}
        )

        def given_up() -> object:
            found = http.get("/v1/webhooks/deliveries", params={"run": run.json()["id"], "state": "failed"}).json()
            return found["results"] and found["results"][0]

        shown = until(given_up, 30)
        assert isinstance(shown, dict)
        assert shown["status"] == 410 and shown["event"] == "completed" and shown["url"] == receiver.url("/b")
        link = f"/v1/webhooks/deliveries/{shown['id']}"
        assert http.post(f"{link}/redeliver").status_code == 202
        sent = until(lambda: (seen := http.get(link).json())["state"] == "sent" and seen)
        assert [one["status"] for one in sent["log"]] == [410, 200]
    listed = json.loads(server.run("webhooks", "list", "--run", run.json()["id"], "--json"))
    assert [(one["id"], one["state"], one["last"]) for one in listed] == [(shown["id"], "sent", "HTTP 200")]
    assert [one["status"] for one in json.loads(server.run("webhooks", "log", shown["id"], "--json"))] == [410, 200]
    server.run("webhooks", "redeliver", shown["id"])
    until(lambda: len(receiver.bodies("/b")) == 3)
    assert len({h["webhook-id"] for h, _ in receiver.got if h["path"] == "/b"}) == 1


def test_a_server_that_is_killed_while_it_sends_sends_it_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers["/d"] = [lambda: time.sleep(1.5) or 500, 200]  # type: ignore[func-returns-value]
    allowed = json.dumps([receiver.at])
    with live(tmp_path / "home", private_hosts=allowed, webhook_seconds="2") as server:
        token = server.token()
        with server.client(token) as http:
            hook = {"webhook": receiver.url("/d"), "webhook_events_filter": ["completed"]}
            run = http.post("/v1/predictions", json=RUN | hook, headers={"Prefer": "wait"}).json()
        until(lambda: receiver.bodies("/d"), 20)
        (web,) = (pid for pid in children_of(server.process.pid) if "vividcover.runs.web" in command(pid))
        kill(web)
        until(lambda: len(receiver.bodies("/d")) == 2, 30)
        with server.client(token) as http:
            sent = until(lambda: (seen := http.get("/v1/webhooks/deliveries").json()["results"][0])["done_at"] and seen)
    messages = [(headers["webhook-id"], body) for headers, body in receiver.got if headers["path"] == "/d"]
    assert len(set(messages)) == 1 and (sent["state"], sent["run"]) == ("sent", run["id"])


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_another_account_sees_neither_deliveries_nor_usage_nor_the_secret(server: Live, receiver: Receiver) -> None:
    server.run("account", "create", "stranger")
    with (
        server.client(server.token()) as http,
        server.client(server.token("read write", "--account", "stranger")) as stranger,
    ):
        http.post("/v1/predictions", json=RUN | {"webhook": receiver.url("/c")}, headers={"Prefer": "wait"})
        (delivery, *_) = http.get("/v1/webhooks/deliveries").json()["results"]
        assert stranger.get("/v1/webhooks/deliveries").json() == {"results": []}
        link = f"/v1/webhooks/deliveries/{delivery['id']}"
        for answer in (
            stranger.get(link),
            stranger.post(f"{link}/redeliver"),
            stranger.get("/v1/webhooks/deliveries/msg_x"),
        ):
            assert answer.status_code == 404
        assert stranger.get("/v1/usage").json()["total"]["runs"] == 0
        everybody = stranger.get("/v1/usage", params={"everybody": True}).json()
        assert everybody["total"]["runs"] == 0, "only an admin token sees everybody's"
        keys = {one.get("/v1/webhooks/default/secret").json()["key"] for one in (http, stranger)}
        assert len(keys) == 2


def test_usage_is_told_to_the_client_and_at_the_command_line(server: Live) -> None:
    with server.client(server.token()) as http:
        run = RUN | {"input": {"seconds": 0.3}}  # reports are in milliseconds
        http.post("/v1/predictions", json=run, headers={"Prefer": "wait"}).raise_for_status()
        told = http.get("/v1/usage", params={"by": "model"}).json()
        assert told["results"][0]["model"] == "vividcover/hello" and told["currency"] == "USD"
        assert told["total"]["usd"] == pytest.approx(2 * told["total"]["seconds"], rel=0.05)
        assert told["since"].endswith("-01T00:00:00.000Z")
        assert http.get("/v1/usage", params={"since": "2100-01-01"}).json()["total"]["runs"] == 0
    printed = json.loads(server.run("usage", "--by", "model", "--json"))
    assert printed["total"]["runs"] >= told["total"]["runs"] and printed["rows"][0]["model"] == "vividcover/hello"
    assert "vividcover/hello" in server.run("usage")


@pytest.mark.parametrize("query", [{"by": "moon"}, {"since": "yesterday"}, {"until": "99999999-01-01"}])
def test_a_question_about_usage_that_makes_no_sense_is_refused(api: Api, query: dict[str, str]) -> None:
    answer = api.http.get("/v1/usage", params=query)
    assert answer.status_code == 422 and next(iter(query)) in answer.json()["detail"]


def test_the_budgets_that_apply_are_shown(api: Api) -> None:
    accounts.change_account(api.state.database, api.user, budget_usd=12.5)
    (budget,) = api.http.get("/v1/usage").json()["budgets"]
    assert budget == {"of": "account", "name": api.user, "budget_usd": 12.5, "used_usd": 0.0, "held_usd": 0.0}


def created_at_once(api: Api, token: str, body: dict[str, object], count: int = 30) -> list[httpx.Response]:
    with api.as_(token) as http, ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: http.post("/v1/predictions", json=body), range(count)))


def test_a_budget_lets_exactly_as_many_runs_pass_as_it_pays_for(api: Api) -> None:
    """30 pictures at 0.03 USD, asked for at once, under 0.30 USD."""
    database = api.state.database
    accounts.change_account(database, api.user, budget_usd=0.30)
    token, _ = accounts.create_token(database, accounts.get_account(database, api.user)["id"])
    answers = created_at_once(api, token, {"version": "vividcover/flux-lora", "input": {"prompt": "a singer"}})
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [402] * 20
    refused = next(answer for answer in answers if answer.status_code == 402).json()
    assert refused["status"] == 402 and "0.30 USD are held by open runs" in refused["detail"]
    (budget,) = api.http.get("/v1/usage").json()["budgets"]
    assert (budget["used_usd"], budget["held_usd"]) == (0.0, 0.3)


def test_a_rate_limit_lets_exactly_as_many_runs_pass_as_it_says(api: Api) -> None:
    database = api.state.database
    account = accounts.get_account(database, api.user)["id"]
    token, _ = accounts.create_token(database, account, rate_per_minute=7)
    answers = created_at_once(api, token, RUN)
    assert sorted(answer.status_code for answer in answers) == [201] * 7 + [429] * 23
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["detail"].startswith("Request was throttled. Your rate limit resets in ~")
    assert api.http.post("/v1/predictions", json=RUN).status_code == 201, "another token is not held up"


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/webhooks/deliveries", "/v1/webhooks/default/secret"])
def test_nothing_of_it_is_there_without_a_token(api: Api, path: str) -> None:
    assert api.open.get(path).status_code == 401


def test_a_private_target_is_refused_when_the_run_is_made(api: Api, tmp_path: Path) -> None:
    for link in ("http://localhost/", "http://169.254.169.254/x", "http://0x7f000001/", "http://[::ffff:10.0.0.1]/"):
        answer: httpx.Response = api.http.post("/v1/predictions", json=RUN | {"webhook": link})
        assert answer.status_code == 422 and "private address" in answer.json()["detail"], link
        assert answer.headers["content-type"] == "application/problem+json"
    assert api.http.get("/v1/predictions").json()["results"] == []
