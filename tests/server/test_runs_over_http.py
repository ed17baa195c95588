"""Predictions as clients make them, on a server with a worker."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from live import Live

HELLO = "vividcover/hello"


def create(http: httpx.Client, input: dict[str, Any], **headers: str) -> httpx.Response:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return http.post("/v1/predictions", json={"version": HELLO, "input": input}, headers=sent)


def over(http: httpx.Client, run_id: str, kind: str = "predictions") -> dict[str, Any]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        run: dict[str, Any] = http.get(f"/v1/{kind}/{run_id}").json()
        if run["status"] in ("succeeded", "failed", "canceled", "aborted"):
            return run
        time.sleep(0.05)
    raise AssertionError(run)


def test_a_blocking_run_answers_with_its_output(http: httpx.Client) -> None:
    answer = create(http, {"text": "Bob", "repeat": 2}, Prefer="wait")
    run = answer.json()
    assert answer.status_code == 201, run
    assert answer.headers["preference-applied"] == "wait=60"
    assert (run["status"], run["output"], run["error"]) == ("succeeded", ["hello there, Bob", " (2)"], None)
    assert run["metrics"]["predict_time"] <= run["metrics"]["total_time"]
    assert len(run["id"]) == 26 and len(run["version"]) == 64 and run["model"] == HELLO


@pytest.mark.parametrize(
    ("asked", "applied"),
    [("wait", "wait=60"), ("wait=5", "wait=5"), ("wait=99", "wait=60"), ("respond-async, wait=7", "wait=7"),
     ("wait=0", None), ("respond-async", None), ("waiting", None)],
)  # fmt: skip
def test_how_long_to_wait_is_read_leniently(http: httpx.Client, asked: str, applied: str | None) -> None:
    answer = create(http, {}, Prefer=asked)
    assert (answer.status_code, answer.headers.get("preference-applied")) == (201, applied)


def test_a_wait_that_ends_first_says_starting(http: httpx.Client) -> None:
    answer = create(http, {"seconds": 3}, Prefer="wait=1")
    run = answer.json()
    assert (answer.status_code, run["status"], run["output"]) == (202, "starting", None), run
    assert answer.headers["preference-applied"] == "wait=1"
    http.post(f"/v1/predictions/{run['id']}/cancel")


def test_without_prefer_the_answer_comes_at_once_and_has_no_null_but_output_and_error(http: httpx.Client) -> None:
    answer = create(http, {"seconds": 0.3})
    run = answer.json()
    assert (answer.status_code, run["status"]) == (201, "starting")
    assert {key for key, value in run.items() if value is None} == {"output", "error"}
    assert all(isinstance(link, str) and link.startswith(str(http.base_url)) for link in run["urls"].values())
    assert over(http, run["id"])["output"] == ["hello there, world"]
    assert http.get(f"/v1/predictions/{run['id']}/logs").text == over(http, run["id"])["logs"]


def test_a_run_that_fails_says_why_in_words(http: httpx.Client) -> None:
    run = create(http, {"fail": True}, Prefer="wait").json()
    assert (run["status"], run["output"]) == ("failed", None)
    assert run["error"].startswith("It was asked to fail.")


def test_what_the_model_does_not_know_is_left_out_and_named_in_the_logs(http: httpx.Client) -> None:
    run = create(http, {"text": "x", "auth": "secret-of-the-client", "fetch": {}}, Prefer="wait").json()
    assert run["status"] == "succeeded"
    assert run["input"] == {"text": "x"}
    assert "left out: auth, fetch" in run["logs"] and "secret-of-the-client" not in str(run)


def test_logs_have_lines_from_which_clients_read_the_progress(http: httpx.Client) -> None:
    run = create(http, {"seconds": 0.5}, Prefer="wait").json()
    assert any("%|" in line and "| " in line and "/" in line for line in run["logs"].splitlines()), run["logs"]


def test_a_running_run_is_canceled_within_a_second_and_stays_so(http: httpx.Client) -> None:
    run = create(http, {"seconds": 30}).json()
    while http.get(f"/v1/predictions/{run['id']}").json()["status"] != "processing":
        time.sleep(0.02)
    began = time.monotonic()
    assert http.post(f"/v1/predictions/{run['id']}/cancel").json()["status"] == "canceled"
    ended = over(http, run["id"])
    assert ended["status"] == "canceled" and time.monotonic() - began < 3  # 1 s, and a busy machine's patience
    assert http.post(f"/v1/predictions/{run['id']}/cancel").json()["completed_at"] == ended["completed_at"]


def test_a_run_that_waits_in_the_line_is_canceled_at_once(http: httpx.Client) -> None:
    first, second = (create(http, {"seconds": 20}).json() for _ in range(2))
    assert http.post(f"/v1/predictions/{second['id']}/cancel").json()["status"] == "canceled"
    http.post(f"/v1/predictions/{first['id']}/cancel")
    assert over(http, first["id"])["status"] == "canceled"


def test_a_run_past_its_deadline_is_stopped(http: httpx.Client) -> None:
    answer = create(http, {"seconds": 60}, Cancel_After="5s", Prefer="wait=20")
    run = answer.json()
    assert (answer.status_code, run["status"]) == (201, "canceled"), run
    assert run["deadline"] > run["created_at"]


def test_what_a_run_was_given_said_and_made_can_be_removed(http: httpx.Client) -> None:
    run = create(http, {"text": "private"}, Prefer="wait").json()
    path = f"/v1/predictions/{run['id']}"
    assert http.delete(path).status_code == 204
    left = http.get(path).json()
    assert (left["data_removed"], left["input"], left["output"], left["logs"]) == (True, {}, None, "")
    assert left["status"] == "succeeded" and "private" not in http.get("/v1/predictions").text
    assert [event["event"] for event in read_events(http, run["urls"]["stream"])] == ["done"]
    going = create(http, {"seconds": 20}).json()
    assert http.delete(f"/v1/predictions/{going['id']}").status_code == 409
    http.post(f"/v1/predictions/{going['id']}/cancel")


def read_events(http: httpx.Client, link: str, **headers: str) -> list[dict[str, str]]:
    """Every event of a stream, until the server ends it."""
    events, event = [], dict[str, str]()
    with httpx.stream("GET", link, headers=headers, timeout=30) as answer:  # without a token, as JavaScript does
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if not line and event:
                events.append(event)
                event = {}
            elif line:
                key, _, value = line.partition(": ")
                event[key] = event[key] + "\n" + value if key in event else value
    return events


def test_a_stream_tells_every_piece_and_the_end_each_with_an_id(http: httpx.Client) -> None:
    run = create(http, {"text": "two\nlines", "repeat": 3, "seconds": 0.1}).json()
    events = read_events(http, run["urls"]["stream"])
    assert all(event["id"] for event in events)
    assert [e["data"] for e in events if e["event"] == "output"] == ["hello there, two\nlines", " (2)", " (3)"]
    assert {e["event"] for e in events} == {"output", "logs", "done"}
    assert (events[-1]["event"], events[-1]["data"]) == ("done", "{}")


def test_a_stream_goes_on_after_the_last_event_that_was_heard(http: httpx.Client) -> None:
    run = create(http, {"repeat": 4}, Prefer="wait").json()
    link = run["urls"]["stream"]
    whole = read_events(http, link)
    assert read_events(http, link, **{"Last-Event-ID": whole[1]["id"]}) == whole[2:]
    assert read_events(http, link, **{"Last-Event-ID": whole[-1]["id"]}) == []
    assert read_events(http, link, **{"Last-Event-ID": "never heard of"}) == whole


def test_a_stream_says_how_a_run_went_wrong(http: httpx.Client) -> None:
    failed = read_events(http, create(http, {"fail": True}).json()["urls"]["stream"])
    assert [e["event"] for e in failed[-2:]] == ["error", "done"]
    assert "It was asked to fail." in failed[-2]["data"] and failed[-1]["data"] == '{"reason": "error"}'
    run = create(http, {"seconds": 30}).json()
    http.post(f"/v1/predictions/{run['id']}/cancel")
    assert read_events(http, run["urls"]["stream"])[-1]["data"] == '{"reason": "canceled"}'


def test_a_stream_that_nobody_was_given_is_not_there(http: httpx.Client, running: Live) -> None:
    answer = httpx.get(f"{running.url}/v1/streams/{'0' * 52}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("form", ["{model}", "{model}:{id}", "{id}", "{model}:latest", "{model}:{model}:{id}"])
def test_a_version_is_named_in_any_of_its_ways(http: httpx.Client, form: str) -> None:
    latest = http.get(f"/v1/models/{HELLO}").json()["latest_version"]["id"]
    named = form.format(model=HELLO, id=latest)
    answer = http.post("/v1/predictions", json={"version": named, "input": {}})
    assert (answer.status_code, answer.json().get("version")) == (201, latest), answer.text


def test_a_model_and_a_deployment_run_without_a_version(http: httpx.Client) -> None:
    body = {"input": {"text": "there"}}
    run = http.post(f"/v1/models/{HELLO}/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert run["output"] == ["hello there, there"]
    made = {"name": "d1", "model": HELLO, "version": run["version"], "hardware": "cpu", "min_instances": 0,
            "max_instances": 1}  # fmt: skip
    deployment = http.post("/v1/deployments", json=made).json()
    path = f"/v1/deployments/{deployment['owner']}/{deployment['name']}"
    run = http.post(f"{path}/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert (run["status"], run["deployment"]) == ("succeeded", f"{deployment['owner']}/d1"), run
    changed = http.patch(path, json={"max_instances": 3}).json()["current_release"]
    assert (changed["number"], changed["configuration"]["max_instances"]) == (2, 3)
    assert [d["name"] for d in http.get("/v1/deployments").json()["results"]] == ["d1"]
    assert http.post("/v1/deployments", json=made).status_code == 409
    assert http.delete(path).status_code == 204 and http.get(path).status_code == 404


def test_sixteen_wait_at_once_and_each_gets_its_own(http: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(create, http, {"text": str(n)}, Prefer="wait") for n in range(48)]
        outputs = [one.result().json()["output"] for one in asked]
    assert outputs == [[f"hello there, {n}"] for n in range(48)]
