"""The Python client to come, replicate 2.0.0b4, over HTTPS: all that it can ask for, and each of its quirks.

What it does stands in python_2.py, by the case's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ground import HELLO, LORA_TRAINER, MANY, PNG, SMALL, Ground, Script, told
from standardwebhooks import Webhook


@pytest.fixture
def py(python_2: Script) -> Script:
    python_2.environment |= {"TRAINER": LORA_TRAINER, "SMALL": json.dumps(SMALL)}
    return python_2


def test_run_waits_and_gives_the_output(py: Script) -> None:
    assert py("run") == [["hello there, Pia", " (2)"], ["hello there, Pia"]]


def test_run_that_outlasts_the_wait_is_polled_to_its_end(py: Script) -> None:
    """The client takes every blocking answer but `starting` for the final one."""
    assert py("outlasts") == ["hello there, world"]


def test_created_and_waited_for_it_has_no_null_but_output_and_error(py: Script) -> None:
    made, run = py("created")
    assert (made["status"], run["status"], run["output"]) == ("starting", "succeeded", ["hello there, Pia"])
    assert {key for key, value in made.items() if value is None} == {"output", "error"}
    assert {key for key, value in run.items() if value is None} == {"error"}


def test_refusals_come_as_the_errors_of_their_status(py: Script) -> None:
    failed, wrong, missing, stranger = py("fails")
    assert failed["kind"] == "ModelError" and "It was asked to fail" in failed["message"]
    assert (wrong["kind"], wrong["body"]["title"]) == ("UnprocessableEntityError", "Input validation failed")
    assert missing["kind"] == "NotFoundError"
    assert stranger["kind"] == "AuthenticationError"


def test_a_cancel_ends_the_run(py: Script) -> None:
    assert py("canceled") == "canceled"


def test_a_file_of_200_mb_is_an_input_and_fills_no_memory(
    py: Script, large: tuple[Path, str], uploaded: Callable[[], None]
) -> None:
    assert py("large", path=str(large[0])) == ["hello there, large"]
    uploaded()


def test_files_come_with_bracketed_metadata_or_without_even_a_name(py: Script, photos: Path) -> None:
    """What an input has is uploaded as `upload`, of no kind: the server looks into it."""
    done = py("files", path=str(photos))
    made, bare = done["made"], done["bare"]
    assert (made["name"], made["content_type"]) == ("mine.zip", "application/zip")
    assert made["metadata"] == {"album": "first", "number": "2"} or made["metadata"] == {"album": "first", "number": 2}
    assert (bare["name"], bare["content_type"]) == ("upload", "application/zip")
    assert done["got"] == made and made["id"] in done["listed"]
    assert done["after"]["kind"] == "NotFoundError"


def test_a_file_inside_the_request_is_taken_out_and_kept_as_a_file(py: Script, sample: Path, ground: Ground) -> None:
    recording = sample / "voice" / "voice_01.flac"
    with ground.http() as http:
        assert http.get(py("inside", path=str(recording)) + "/download").content == recording.read_bytes()


def test_a_training_makes_a_version_that_runs_at_once_by_every_name(py: Script, photos: Path) -> None:
    done = py("trained", zip=str(photos))
    training = done["training"]
    assert (done["first"], training["status"]) == ("starting", "succeeded")
    assert training["output"]["version"].startswith("pia/portraits:") and training["id"] in done["listed"]
    for kind, link, start, size in done["pictures"]:
        assert kind == "FileOutput" and link.startswith("https://") and link.endswith(".png")
        assert bytes.fromhex(start) == PNG and size == done["pictures"][0][3]
    assert done["plain"].startswith("https://")


def test_use_reads_the_schema_joins_text_and_downloads_files(py: Script, photos: Path, sample: Path) -> None:
    done = py("used", zip=str(photos), voice=str(sample / "voice" / "voice_01.flac"))
    assert done["hello"] == "hello there, Pia (2)"
    assert done["pieces"] == ["hello there, Pia", " (2)", " (3)"]
    assert bytes.fromhex(done["start"]) == PNG and done["name"].endswith(".png")
    assert done["link"].endswith("/" + done["name"]) and done["chained"] == done["link"]
    assert done["fails"]["kind"] == "ModelError"


def test_a_stream_which_is_polled_gives_the_pieces(py: Script) -> None:
    assert "".join(py("streamed")) == "hello there, one\ntwo (2)"


def test_a_training_can_be_canceled(py: Script, photos: Path) -> None:
    assert py("never", zip=str(photos)) == "canceled"


def test_pages_are_followed_by_their_links_as_they_are(py: Script) -> None:
    done = py("pages")
    assert len(done["runs"]) == len(set(done["runs"])) >= MANY
    assert {HELLO, "zsxkib/sonic", "replicate/train-rvc-model"} <= set(done["models"])


def test_search_takes_the_text_as_json(py: Script) -> None:
    found, other, query = py("search")
    assert "zsxkib/realistic-voice-cloning" in found and "zsxkib/realistic-voice-cloning" in other
    assert query == "voice cloning"


def test_models_are_made_changed_and_deleted_and_one_without_versions_cannot_run(py: Script) -> None:
    done = py("made")
    assert None not in done["model"].values() and "latest_version" not in done["model"]
    assert done["changed"]["description"] == "Now." and done["readme"] == "# Empty"
    assert done["unversioned"]["kind"] in ("NotFoundError", "UnprocessableEntityError")
    assert done["gone"]["kind"] == "NotFoundError"


def test_a_deleted_version_is_202(py: Script, photos: Path) -> None:
    assert py("deleted", zip=str(photos)) == [202, []]


def test_a_refusal_that_stays_one_is_not_asked_for_again(py: Script, photos: Path) -> None:
    refused, asked = py("conflict", zip=str(photos))
    assert refused["kind"] == "ConflictError" and "pia/deployed" in refused["body"]["detail"]
    assert asked == ["DELETE"], "x-should-retry: false"


def test_a_webhook_is_signed_by_the_standard(py: Script, ground: Ground) -> None:
    """The client itself checks none."""
    made = py("webhook", url=ground.receiver.url("/python-2"))
    headers, body = told(ground.receiver, "/python-2")
    assert Webhook(made["key"]).verify(body, headers)["id"] == made["id"]


def test_account_collections_and_deployments(py: Script) -> None:
    done = py("others")
    assert {"type", "username"} <= set(done["account"]) and None not in done["account"].values()
    assert done["output"] == ["hello there, Deb"] and "py2-greeter" in done["listed"]
    assert done["changed"]["current_release"]["configuration"]["max_instances"] == 2
    assert done["gone"]["kind"] == "NotFoundError" and isinstance(done["collections"], list)
