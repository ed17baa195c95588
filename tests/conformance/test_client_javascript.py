"""The JavaScript client, replicate 1.4.0 on node, over HTTPS: all that it can ask for, and each of its quirks.

What it does stands in javascript.mjs, by the case's name.
"""

from __future__ import annotations

import base64
import json
import time
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
from ground import HELLO, LORA_TRAINER, MANY, PNG, SMALL, Ground, Script, told


@pytest.fixture
def js(javascript: Script) -> Script:
    javascript.environment |= {"TRAINER": LORA_TRAINER, "SMALL": json.dumps(SMALL)}
    return javascript


def test_run_waits_and_gives_the_output(js: Script) -> None:
    assert js("run") == [["hello there, Jo", " (2)"], ["hello there, Jo"]]


def test_run_that_outlasts_the_wait_is_polled_to_its_end(js: Script) -> None:
    """The client takes every blocking answer but `starting` for the final one."""
    done = js("outlasts")
    assert done["output"] == ["hello there, world"]
    assert (done["seen"][0], done["seen"][-1]) == ("starting", "succeeded")


def test_a_polled_run_shows_its_progress(js: Script) -> None:
    done = js("polled")
    assert done["output"] == ["hello there, world"]
    assert done["seen"][0][0] == "starting"
    assert done["seen"][-1] == ["succeeded", {"percentage": 1, "current": 100, "total": 100}]
    assert any(progress and 0 < progress["percentage"] < 1 for _, progress in done["seen"])


def test_created_and_waited_for_it_has_no_null_but_output_and_error(js: Script) -> None:
    done = js("created")
    assert done["made"]["status"] == "starting"
    assert {key for key, value in done["made"].items() if value is None} == {"output", "error"}
    assert {key for key, value in done["run"].items() if value is None} == {"error"}
    assert all(done["run"]["urls"].values())


def test_failures_come_as_errors_with_the_servers_words(js: Script) -> None:
    failed, wrong, stranger = js("fails")
    assert failed["message"].startswith("Prediction failed: It was asked to fail")
    assert wrong["status"] == 422 and "Input validation failed" in wrong["message"] and "repeat" in wrong["message"]
    assert stranger["status"] == 401 and "You did not pass a valid authentication token" in stranger["message"]


def test_a_cancel_without_a_body_ends_the_run(js: Script) -> None:
    assert js("canceled")["run"]["status"] == "canceled"


def test_a_run_whose_caller_gave_up_is_canceled(js: Script, ground: Ground) -> None:
    done = js("given_up")
    until = time.monotonic() + 5
    with ground.http() as http:
        while (status := http.get(f"/v1/predictions/{done['id']}").json()["status"]) != "canceled":
            assert time.monotonic() < until, (status, done)
            time.sleep(0.05)


def test_a_blob_of_200_mb_is_an_input_and_fills_no_memory(
    js: Script, large: tuple[Path, str], uploaded: Callable[[], None]
) -> None:
    assert js("large", path=str(large[0])) == ["hello there, large"]
    uploaded()


def test_files_come_with_their_metadata_as_a_part_of_their_own(js: Script, photos: Path) -> None:
    done = js("files", path=str(photos))
    assert done["bare"]["name"].startswith("buffer_") and done["bare"]["metadata"] == {}
    assert done["bare"]["size"] == done["named"]["size"] == photos.stat().st_size
    assert (done["named"]["name"], done["named"]["metadata"]) == ("mine.zip", {"album": "first"})
    assert done["got"] == done["named"] and done["named"]["id"] in done["listed"]
    assert done["deleted"] is True and done["after"]["status"] == 404


def test_a_buffer_trains_a_version_that_runs_at_once_by_every_name(js: Script, photos: Path) -> None:
    done = js("trained", zip=str(photos))
    first, training = done["first"], done["training"]
    assert "output" not in first and first["input"]["input_images"].startswith("https://"), "the Buffer became a file"
    assert training["status"] == "succeeded", training
    assert done["asPrediction"]["output"] == training["output"], "a training is found among predictions too"
    assert training["output"]["version"].startswith("jo/portraits:") and training["id"] in done["listed"]
    assert training["output"]["weights"].startswith("https://")
    for picture in done["pictures"]:
        assert picture["kind"] == "FileOutput" and picture["link"] == picture["text"]
        assert picture["link"].startswith("https://") and picture["link"].endswith(".png")
    contents = {picture["content"] for picture in done["pictures"]}
    assert len(contents) == 1 and base64.b64decode(contents.pop()).startswith(PNG)
    assert done["blob"]["size"] > 1000
    assert done["plain"][0].startswith("https://")


def test_outputs_and_streams_are_read_without_the_token(js: Script, photos: Path) -> None:
    asked = js("without_auth", zip=str(photos))
    assert ["/v1/models", True] in asked and asked[-1] == "done"
    tokens = [one[1] for one in asked[:-1] if one[0] in ("/outputs", "/v1/streams")]
    assert tokens == [False, False], asked


def test_a_training_can_be_canceled(js: Script, photos: Path) -> None:
    assert js("never", zip=str(photos))["status"] == "canceled"


def test_a_stream_keeps_lines_and_ends_with_done(js: Script) -> None:
    heard = js("streamed")
    assert [e["data"] for e in heard if e["event"] == "output"] == ["hello there, one\ntwo\n\nthree", " (2)"]
    assert "".join(e["text"] for e in heard) == "hello there, one\ntwo\n\nthree (2)", "logs are no text of it"
    assert (heard[-1]["event"], heard[-1]["data"]) == ("done", "{}")
    assert len({e["id"] for e in heard}) == len(heard)


def test_a_stream_of_a_failing_run_throws_with_the_reason(js: Script) -> None:
    assert "It was asked to fail" in js("streamed_failure")["message"]


def test_pages_are_followed_by_their_links_as_they_are(js: Script) -> None:
    done = js("pages")
    ids = [one for page in done["ids"] for one in page]
    assert len(done["ids"][0]) == 100 and len(ids) == len(set(ids)) >= MANY
    assert {HELLO, "zsxkib/sonic", "replicate/train-rvc-model"} <= set(done["models"])


def test_search_takes_the_text_in_quotes(js: Script) -> None:
    """The client makes JSON of it, and calls it text/plain."""
    assert "zsxkib/realistic-voice-cloning" in js("search")


def test_a_model_is_made_without_hardware(js: Script) -> None:
    done = js("made")
    assert done["made"] == done["got"] and done["same"]
    assert (done["made"]["owner"], done["made"]["name"], done["made"]["visibility"]) == ("jo", "empty", "private")
    assert None not in done["made"].values()


def test_a_webhook_is_signed_as_the_client_checks_it(js: Script, ground: Ground) -> None:
    """The client takes what follows the secret's last underscore."""
    made = js("webhook", url=ground.receiver.url("/javascript?job=7"))
    headers, body = told(ground.receiver, "/javascript?job=7")
    assert made["id"] in body
    assert js("validate", headers=headers, body=body, secret=made["key"]) == [True, False, True]


def test_a_token_that_the_client_sends_by_mistake_is_neither_shown_nor_kept(js: Script, ground: Ground) -> None:
    done = js("leaking")
    assert done["leaked"] == ground.token, "the client has mended this: drop the test"
    assert done["output"] == ["hello there, world"], "its input never arrives"
    with ground.http() as http:
        run = http.get("/v1/predictions").json()["results"][0]
        assert ground.token not in json.dumps(run) and run["input"] == {}
        assert "auth" in http.get(f"/v1/predictions/{run['id']}/logs").text, "the key is named, its value is not"
    assert ground.kept(ground.token) == []


def test_a_file_that_could_not_be_uploaded_comes_inside_the_request(js: Script, tmp_path: Path, ground: Ground) -> None:
    """A small one: at some 100 kB the client's own stack overflows."""
    recording = tmp_path / "silence.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    link = js("fallback", path=str(recording))
    with ground.http() as http:
        assert http.get(f"{link}/download").content == recording.read_bytes()


def test_account_hardware_collections_and_deployments(js: Script) -> None:
    done = js("others")
    assert {"type", "username", "name"} <= set(done["account"]) and None not in done["account"].values()
    assert isinstance(done["hardware"], list) and done["hardware"][0]["sku"]
    assert done["output"] == ["hello there, Deb"] and "js-greeter" in done["listed"] and done["deleted"] is True
    assert done["changed"]["current_release"]["configuration"]["max_instances"] == 2 and done["got"] == done["changed"]
