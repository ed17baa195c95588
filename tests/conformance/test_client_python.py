"""The Python client of most people, replicate 1.0.7, over HTTPS: all that it can ask for, and each of its quirks."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import replicate
from ground import HELLO, LORA_TRAINER, MANY, PNG, SMALL, Ground, told
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.stream import ServerSentEvent
from replicate.webhook import Webhooks


@pytest.fixture
def client(clients: Ground) -> Client:
    """Found as the module-level functions find it: by REPLICATE_BASE_URL and REPLICATE_API_TOKEN."""
    return Client()


def slow(client: Client, seconds: float = 60.0) -> Any:
    """A prediction that is being worked on."""
    made = client.predictions.create(client.models.get(HELLO).latest_version, {"seconds": seconds})
    while made.status != "processing":
        time.sleep(0.05)
        made.reload()
    return made


def test_run_waits_and_gives_the_output(client: Client) -> None:
    assert client.run(HELLO, {"text": "Ann", "repeat": 2}) == ["hello there, Ann", " (2)"]
    version = client.models.get(HELLO).latest_version
    assert version is not None
    by_version = client.run(f"{HELLO}:{version.id}", {"text": "Ann", "repeat": 2})
    assert list(by_version) == ["hello there, Ann", " (2)"], "an iterator, as the schema says"


def test_run_that_outlasts_the_wait_is_polled_to_its_end_and_is_never_none(client: Client) -> None:
    """The client takes every blocking answer but `starting` for the final one."""
    assert client.run(HELLO, {"seconds": 2.1}, wait=1) == ["hello there, world"]


def test_a_wait_that_the_client_forgets_to_send_is_answered_at_once(client: Client) -> None:
    """It drops `wait` where `model` is given."""
    made = client.predictions.create(model=HELLO, input={"seconds": 0.25}, wait=True)
    assert made.status == "starting"
    made.wait()
    assert (made.status, made.output) == ("succeeded", ["hello there, world"])


def test_created_and_polled_it_starts_makes_progress_and_ends(client: Client) -> None:
    made = client.predictions.create(client.models.get(HELLO).latest_version, {"seconds": 1})
    seen, progress = {made.status}, []
    assert made.output is None and made.error is None and made.started_at is None
    while made.status not in ("succeeded", "failed", "canceled"):
        time.sleep(0.1)
        made.reload()
        seen.add(made.status)
        progress.append(made.progress)
    assert seen == {"starting", "processing", "succeeded"}
    assert made.progress is not None and (made.progress.percentage, made.progress.current) == (1.0, made.progress.total)
    assert made.metrics is not None and 0.9 < made.metrics["predict_time"] < made.metrics["total_time"] + 0.01
    assert made.created_at <= made.started_at < made.completed_at


def test_output_grows_while_a_run_goes_on(client: Client) -> None:
    made = client.predictions.create(client.models.get(HELLO).latest_version, {"seconds": 0.7, "repeat": 3})
    pieces = [(piece, made.status) for piece in made.output_iterator()]
    assert [piece for piece, _ in pieces] == ["hello there, world", " (2)", " (3)"]
    assert pieces[0][1] == "processing", "the first is there before the last"


def test_a_run_that_fails_raises_with_the_reason_as_text(client: Client) -> None:
    with pytest.raises(ModelError, match="It was asked to fail") as error:
        client.run(HELLO, {"fail": True})
    assert isinstance(error.value.prediction.error, str)


def test_a_wrong_input_raises_with_title_detail_and_status(client: Client) -> None:
    with pytest.raises(ReplicateError) as error:
        client.run(HELLO, {"repeat": "many"})
    assert (error.value.status, error.value.title) == (422, "Input validation failed")
    assert error.value.detail is not None and error.value.detail.startswith("- repeat:")
    with pytest.raises(ReplicateError) as error:
        client.predictions.get("0" * 26)
    assert error.value.status == 404


def test_a_wrong_token_is_401_in_the_apis_words(clients: Ground) -> None:
    with pytest.raises(ReplicateError) as error:
        Client(api_token="r8_wrong").accounts.current()
    assert (error.value.status, error.value.title) == (401, "Unauthenticated")
    assert error.value.detail == "You did not pass a valid authentication token"


def test_a_cancel_ends_the_run_and_again_changes_nothing(client: Client) -> None:
    made = slow(client)
    made.cancel()
    made.wait()
    assert (made.status, made.output) == ("canceled", None)
    ended = made.completed_at
    made.cancel()
    assert (made.status, made.completed_at) == ("canceled", ended)


def test_it_never_hears_of_aborted_which_would_break_it(client: Client, clients: Ground) -> None:
    """A run that another client bounded, and that no worker took in time."""
    first = slow(client, 30)
    with clients.http() as http:
        sent = {"Cancel-After": "5s", "User-Agent": "another/1"}
        made = http.post("/v1/predictions", json={"version": HELLO, "input": {}}, headers=sent).json()
        until = time.monotonic() + 20
        while (status := http.get(f"/v1/predictions/{made['id']}").json()["status"]) == "starting":
            assert time.monotonic() < until
            time.sleep(0.2)
    assert status == "aborted"
    assert client.predictions.get(made["id"]).status == "canceled"
    assert made["id"] in {one.id for one in client.predictions.list()}
    first.cancel()


def test_a_file_of_200_mb_is_an_input_and_fills_no_memory(
    client: Client, large: tuple[Path, str], uploaded: Callable[[], None]
) -> None:
    with large[0].open("rb") as file:
        assert client.run(HELLO, {"text": "large", "attachment": file}) == ["hello there, large"]
    uploaded()


def test_files_have_every_field_that_the_client_demands(client: Client, photos: Path) -> None:
    made = client.files.create(photos, metadata={"album": "first"})
    assert (made.name, made.content_type, made.size) == ("photos.zip", "application/zip", photos.stat().st_size)
    assert made.metadata == {"album": "first"} and made.etag and set(made.checksums) == {"sha256", "md5"}
    assert client.files.get(made.id) == made
    assert made.id in {one.id for one in client.files.list()}
    assert client.files.create(io.BytesIO(b"nameless")).name == "file"
    assert client.files.delete(made.id) is True
    with pytest.raises(ReplicateError) as error:
        client.files.get(made.id)
    assert error.value.status == 404


def train(client: Client, photos: Path, destination: str) -> Any:
    with photos.open("rb") as file:
        training = client.trainings.create(
            version=LORA_TRAINER, input={"input_images": file, "trigger_word": "VIVI"}, destination=destination
        )
    assert training.status == "starting" and training.output is None
    while training.status not in ("succeeded", "failed", "canceled"):
        time.sleep(0.3)
        training.reload()
    assert training.status == "succeeded", training.error
    return training


def test_a_training_makes_a_version_that_runs_at_once_by_every_name(client: Client, photos: Path) -> None:
    """`output["version"]` is `owner/name:id`; callers put it behind `owner/name:` once more."""
    training = train(client, photos, "ann/portraits")
    name, _, version = training.output["version"].partition(":")
    assert name == "ann/portraits" == client.trainings.get(training.id).destination and len(version) == 64
    assert training.id in {one.id for one in client.trainings.list()}
    assert FileOutput(training.output["weights"], client).read()[257:262] == b"ustar"

    outputs = [
        client.run(reference, SMALL | {"seed": 7})
        for reference in (
            training.output["version"], f"ann/portraits:{training.output['version']}", "ann/portraits",
        )
    ]  # fmt: skip
    pictures = [next(iter(output)).read() for output in outputs]
    latest = client.predictions.create(version="ann/portraits:latest", input=SMALL | {"seed": 7})
    latest.wait()
    pictures.append(FileOutput(latest.output[0], client).read())
    assert pictures[0].startswith(PNG) and len(set(pictures)) == 1


def test_latest_which_the_client_sends_without_the_name_is_refused_with_what_to_do(client: Client) -> None:
    with pytest.raises(ReplicateError, match="run owner/name, which is its latest") as error:
        client.run(f"{HELLO}:latest", {})
    assert error.value.status == 422
    made = client.predictions.create(version=f"{HELLO}:latest", input={})
    made.wait()
    assert made.status == "succeeded"


def test_output_files_are_file_outputs_that_read_in_one_request(client: Client, clients: Ground, photos: Path) -> None:
    """Links begin with https:, answer 200 themselves, and their last part is a name."""
    train(client, photos, "ann/outputs")
    (made,) = client.run("ann/outputs", SMALL)
    assert isinstance(made, FileOutput)
    assert made.url.startswith(clients.url + "/outputs/") and made.url.endswith(".png")
    assert b"".join(made) == made.read() and made.read().startswith(PNG)
    assert asyncio.run(made.aread()) == made.read()
    stranger = Client(api_token="r8_of_somebody_else")
    assert FileOutput(made.url, stranger).read() == made.read(), "the link is enough, whatever token comes with it"
    (plain,) = client.run("ann/outputs", SMALL, use_file_output=False)
    assert plain.startswith("https://")


def test_what_one_model_made_is_the_next_ones_input_by_its_link(
    client: Client, clients: Ground, photos: Path, sample: Path
) -> None:
    training = train(client, photos, "ann/chained")
    weights = training.output["weights"]
    (picture,) = client.run("vividcover/flux-lora", SMALL | {"seed": 7, "replicate_weights": weights})
    assert picture.read() == next(iter(client.run("ann/chained", SMALL | {"seed": 7}))).read()
    sung = client.predictions.create(
        model="zsxkib/sonic", input={"image": picture.url, "audio": sample / "voice" / "voice_01.flac"}
    )
    assert sung.status == "starting" and sung.input is not None
    assert sung.input["image"] == picture.url and sung.input["audio"].startswith(clients.url + "/v1/files/")
    sung.cancel()


def test_a_file_inside_the_request_is_taken_out_and_kept_as_a_file(
    client: Client, clients: Ground, sample: Path
) -> None:
    recording = sample / "voice" / "voice_01.flac"
    made = client.predictions.create(
        client.models.get("zsxkib/create-rvc-dataset").latest_version, {"youtube_url": recording.open("rb")},
        file_encoding_strategy="base64",
    )  # fmt: skip
    made.cancel()
    assert made.input is not None and made.input["youtube_url"].startswith(clients.url + "/v1/files/")
    assert client._client.get(made.input["youtube_url"] + "/download").content == recording.read_bytes()


def test_a_training_can_be_canceled(client: Client, photos: Path) -> None:
    busy = slow(client)
    training = client.trainings.create(
        version=LORA_TRAINER, input={"input_images": photos.open("rb")}, destination="ann/never"
    )
    training.cancel()
    assert (training.status, client.trainings.get(training.id).status) == ("canceled", "canceled")
    busy.cancel()
    busy.wait()


def test_a_stream_gives_every_event_with_its_id_and_lines_stay_lines(client: Client) -> None:
    heard = list(client.stream(HELLO, input={"text": "one\ntwo\n\nthree", "repeat": 2, "seconds": 0.1}))
    kinds = ServerSentEvent.EventType
    assert all(event.id for event in heard), "it drops events without one"
    assert [str(e) for e in heard if e.event == kinds.OUTPUT] == ["hello there, one\ntwo\n\nthree", " (2)"]
    assert "".join(e.data for e in heard if e.event == kinds.LOGS)
    assert (heard[-1].event, heard[-1].data) == (kinds.DONE, "{}")


def test_a_stream_of_files_gives_file_outputs(client: Client, photos: Path) -> None:
    train(client, photos, "ann/streamed")
    heard = [event.data for event in client.stream("ann/streamed", input=SMALL) if event.event.value == "output"]
    assert len(heard) == 1 and isinstance(heard[0], FileOutput) and heard[0].read().startswith(PNG)


def test_a_stream_of_a_failing_run_raises_with_the_reason(client: Client) -> None:
    with pytest.raises(RuntimeError, match="It was asked to fail"):
        list(client.stream(HELLO, input={"fail": True}))


def test_pages_are_followed_by_their_links_as_they_are(client: Client, clients: Ground) -> None:
    first = client.predictions.list()
    assert len(first) == 100 and first.previous is None
    assert first.next is not None and first.next.startswith(clients.url + "/v1/predictions?cursor=")
    pages = list(replicate.paginate(client.predictions.list))
    ids = [one.id for page in pages for one in page]
    assert len(ids) == len(set(ids)) >= MANY
    back = client.predictions.list(pages[1].previous)
    assert [one.id for one in back] == [one.id for one in pages[0]]


def test_search_takes_the_bare_text(client: Client) -> None:
    found = client.models.search("voice cloning")
    assert "zsxkib/realistic-voice-cloning" in {model.id for model in found}
    assert not client.models.search('nothing "is" called that')


def test_models_are_made_read_and_deleted(client: Client) -> None:
    made = client.models.create(
        owner="ann", name="empty", visibility="private", hardware="gpu-t4", description="Nothing yet."
    )
    assert (made.id, made.description, made.latest_version) == ("ann/empty", "Nothing yet.", None)
    assert client.models.get("ann/empty") == made
    assert "ann/empty" in {model.id for page in replicate.paginate(client.models.list) for model in page}
    assert client.models.delete("ann", "empty") is True
    with pytest.raises(ReplicateError):
        client.models.get("ann/empty")


def test_versions_have_the_schema_that_the_client_reads(client: Client) -> None:
    model = client.models.get(HELLO)
    (version,) = model.versions.list()
    assert model.versions.get(version.id) == version == model.latest_version
    output = version.openapi_schema["components"]["schemas"]["Output"]
    assert (output["type"], output["x-cog-array-type"]) == ("array", "iterator")
    assert tuple(map(int, version.cog_version.split("."))) >= (0, 3, 9), "older ones' arrays are taken for iterators"


def test_a_deleted_version_is_202_which_the_client_calls_false(client: Client, photos: Path) -> None:
    version = train(client, photos, "ann/deleted").output["version"].partition(":")[2]
    versions = client.models.get("ann/deleted").versions
    assert [one.id for one in versions.list()] == [version]
    assert versions.delete(version) is False
    assert not versions.list()


def test_a_webhook_is_signed_as_the_client_checks_it(client: Client, clients: Ground) -> None:
    """It wants a secret with exactly one underscore."""
    secret = client.webhooks.default.secret()
    assert secret.key.count("_") == 1
    made = client.predictions.create(
        model=HELLO, input={"repeat": 2}, webhook=clients.receiver.url("/python?job=7"),
        webhook_events_filter=["completed"],
    )  # fmt: skip
    headers, body = told(clients.receiver, "/python?job=7")
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=60)
    assert made.id in body
    with pytest.raises(ValueError, match="signature"):
        Webhooks.validate(headers=headers, body=body + " ", secret=secret)


def test_a_training_tells_its_webhook_the_version(client: Client, clients: Ground, photos: Path) -> None:
    with photos.open("rb") as file:
        client.trainings.create(
            version=LORA_TRAINER, input={"input_images": file, "trigger_word": "VIVI"}, destination="ann/told",
            webhook=clients.receiver.url("/training"), webhook_events_filter=["start", "completed"],
        )  # fmt: skip
    headers, body = told(clients.receiver, "/training", timeout=90)
    Webhooks.validate(headers=headers, body=body, secret=client.webhooks.default.secret())
    assert json.loads(body)["output"]["version"].startswith("ann/told:")
    assert clients.receiver.statuses("/training") == ["processing", "succeeded"]


def test_the_older_name_of_the_webhook_still_tells_the_end(client: Client, clients: Ground) -> None:
    client.predictions.create(model=HELLO, input={}, webhook_completed=clients.receiver.url("/older"))
    told(clients.receiver, "/older")
    assert clients.receiver.statuses("/older") == ["succeeded"]


def test_account_hardware_and_collections_are_there(client: Client) -> None:
    account = client.accounts.current()
    assert account.username and account.name and account.type in ("user", "organization")
    assert {hardware.sku for hardware in client.hardware.list()}
    for collection in client.collections.list():
        assert client.collections.get(collection.slug).models is not None


def test_deployments_are_made_run_changed_and_deleted(client: Client) -> None:
    version = client.models.get(HELLO).latest_version
    assert version is not None
    sku = client.hardware.list()[0].sku
    made = client.deployments.create(
        name="greeter", model=HELLO, version=version.id, hardware=sku, min_instances=0, max_instances=1
    )
    assert made.current_release is not None and made.current_release.number == 1
    assert made.current_release.created_by is not None and made.current_release.created_by.username == made.owner
    run = made.predictions.create(input={"text": "Deb"})
    run.wait()
    assert run.output == ["hello there, Deb"]
    forgetful = client.predictions.create(deployment=f"{made.owner}/{made.name}", input={"seconds": 0.2}, wait=True)
    assert forgetful.status == "starting", "it drops `wait` where `deployment` is given"
    full = f"{made.owner}/{made.name}"
    assert client.deployments.get(full).name == "greeter"
    changed = client.deployments.update(made.owner, made.name, max_instances=2)
    assert changed.current_release is not None and changed.current_release.configuration.max_instances == 2
    assert "greeter" in {one.name for one in client.deployments.list()}
    assert client.deployments.delete(made.owner, made.name) is True


def test_a_default_example_is_a_whole_prediction(client: Client, clients: Ground, photos: Path) -> None:
    """The client refuses a model whose example lacks a field."""
    train(client, photos, "ann/shown")
    made = client.predictions.create(model="ann/shown", input=SMALL)
    made.wait()
    with clients.http() as http:
        http.post("/v1/models/ann/shown/examples", json={"prediction": made.id}).raise_for_status()
        http.patch("/v1/models/ann/shown", json={"default_example": made.id}).raise_for_status()
    example = client.models.get("ann/shown").default_example
    assert example is not None and (example.id, example.output) == (made.id, made.output)


def test_it_works_asynchronously_too(client: Client) -> None:
    async def ask() -> Any:
        made = await client.predictions.async_create(model=HELLO, input={"text": "async"})
        await made.async_wait()
        heard = [str(event) async for event in await client.async_stream(HELLO, input={"text": "a\nb"})]
        pages = [page async for page in replicate.async_paginate(client.predictions.async_list)]
        return made.output, await client.async_run(HELLO, {"text": "async"}), "".join(heard), sum(map(len, pages))

    created, ran, streamed, count = asyncio.run(ask())
    assert created == ran == ["hello there, async"]
    assert streamed == "hello there, a\nb" and count >= MANY
