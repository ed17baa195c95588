"""What test_client_python_2.py lets replicate 2.0.0b4 do: `python python_2.py CASE {"given": …}`.

A case returns what the test looks at; it is printed as JSON. It runs in a process of its own: the two majors of the
client have one name.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import replicate
from replicate import APIStatusError, DefaultHttpxClient, Replicate

HELLO = "vividcover/hello"
DONE = ("succeeded", "failed", "canceled")
client = Replicate()  # REPLICATE_BASE_URL, with /v1, and REPLICATE_API_TOKEN


def refusal(asked: Any) -> dict[str, Any]:
    try:
        asked()
    except APIStatusError as error:
        return {"kind": type(error).__name__, "status": error.status_code, "body": error.body}
    except Exception as error:
        return {"kind": type(error).__name__, "message": str(error)}
    raise AssertionError("it was not refused")


def train(zip: str, destination: str) -> Any:
    """The client uploads nothing for trainings, and knows no `version="owner/name:id"`."""
    owner, name, version = os.environ["TRAINER"].replace(":", "/").split("/")
    file = client.files.create(content=Path(zip).read_bytes())
    training = client.trainings.create(
        model_owner=owner, model_name=name, version_id=version, destination=destination,
        input={"input_images": file.urls.get, "trigger_word": "VIVI"},
    )  # fmt: skip
    first = training.status
    while training.status not in DONE:
        time.sleep(0.3)
        training = client.trainings.get(training_id=training.id)
    return first, training


def small(**changes: Any) -> dict[str, Any]:
    return json.loads(os.environ["SMALL"]) | changes


def run() -> Any:
    version = client.models.get(model_owner="vividcover", model_name="hello").latest_version
    return [
        client.run(HELLO, input={"text": "Pia", "repeat": 2}),
        client.run(f"{HELLO}:{version.id}", input={"text": "Pia"}),
    ]


def outlasts() -> Any:
    return client.run(HELLO, input={"seconds": 2.3}, wait=1)


def created() -> Any:
    made = client.models.predictions.create(model_owner="vividcover", model_name="hello", input={"text": "Pia"})
    return made.to_dict(), client.predictions.wait(made.id).to_dict()


def fails() -> Any:
    return [
        refusal(lambda: client.run(HELLO, input={"fail": True})),
        refusal(lambda: client.run(HELLO, input={"repeat": "many"})),
        refusal(lambda: client.predictions.get(prediction_id="0" * 26)),
        refusal(lambda: Replicate(bearer_token="r8_wrong").account.get()),
    ]


def canceled() -> Any:
    made = client.models.predictions.create(model_owner="vividcover", model_name="hello", input={"seconds": 60})
    while client.predictions.get(prediction_id=made.id).status != "processing":
        time.sleep(0.05)
    client.predictions.cancel(prediction_id=made.id)
    return client.predictions.wait(made.id).status


def large(path: str) -> Any:
    with Path(path).open("rb") as file:
        return client.run(HELLO, input={"text": "large", "attachment": file})


def files(path: str) -> Any:
    content = Path(path).read_bytes()
    made = client.files.create(
        content=content, filename="mine.zip", type="application/zip", metadata={"album": "first", "number": 2}
    )
    bare = client.files.create(content=content)
    listed = [file.id for file in client.files.list()]
    got = client.files.get(file_id=made.id)
    client.files.delete(file_id=made.id)
    return {
        "made": made.to_dict(), "bare": bare.to_dict(), "got": got.to_dict(), "listed": listed,
        "after": refusal(lambda: client.files.get(file_id=made.id)),
    }  # fmt: skip


def inside(path: str) -> Any:
    version = client.models.get(model_owner="zsxkib", model_name="create-rvc-dataset").latest_version.id
    with Path(path).open("rb") as file:
        made = client.predictions.create(version=version, input={"youtube_url": file}, file_encoding_strategy="base64")
    client.predictions.cancel(prediction_id=made.id)
    return made.input["youtube_url"]


def trained(zip: str) -> Any:
    first, training = train(zip, "pia/portraits")
    version = training.output.version
    pictures = []
    for reference in (version, f"pia/portraits:{version}", "pia/portraits"):
        (picture,) = client.run(reference, input=small(seed=7))
        pictures.append([type(picture).__name__, picture.url, picture.read()[:8].hex(), len(b"".join(picture))])
    (plain,) = client.run("pia/portraits", input=small(seed=7), use_file_output=False)
    return {
        "first": first, "training": training.to_dict(), "pictures": pictures, "plain": plain,
        "listed": [one.id for one in client.trainings.list()],
    }  # fmt: skip


def used(zip: str, voice: str) -> Any:
    """`use()`, which reads the schema, and downloads without a token and without following redirects."""
    train(zip, "pia/portraits")
    hello = replicate.use(HELLO)
    (path,) = replicate.use("pia/portraits")(**small(seed=7))
    with Path(voice).open("rb") as file:  # what one made is another's input: the link goes, not the file
        chained = replicate.use("zsxkib/sonic").create(image=path, audio=file)
    chained_input = client.predictions.get(prediction_id=chained._prediction.id).input
    client.predictions.cancel(prediction_id=chained._prediction.id)
    pieces = list(replicate.use(HELLO, streaming=True)(text="Pia", repeat=3, seconds=0.7))
    return {
        "hello": hello(text="Pia", repeat=2), "pieces": pieces, "name": Path(path).name,
        "start": Path(path).read_bytes()[:8].hex(), "link": replicate.get_path_url(path),
        "chained": chained_input["image"], "fails": refusal(lambda: hello(fail=True)),
    }  # fmt: skip


def streamed() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it polls
        return list(client.stream(HELLO, input={"text": "one\ntwo", "repeat": 2}))


def never(zip: str) -> Any:
    busy = client.models.predictions.create(model_owner="vividcover", model_name="hello", input={"seconds": 60})
    owner, name, version = os.environ["TRAINER"].replace(":", "/").split("/")
    file = client.files.create(content=Path(zip).read_bytes())
    made = client.trainings.create(
        model_owner=owner, model_name=name, version_id=version, destination="pia/never",
        input={"input_images": file.urls.get},
    )  # fmt: skip
    stopped = client.trainings.cancel(training_id=made.id)
    client.predictions.cancel(prediction_id=busy.id)
    client.predictions.wait(busy.id)
    return stopped.status


def pages() -> Any:
    return {
        "runs": [run.id for run in client.predictions.list()],
        "models": [f"{model.owner}/{model.name}" for model in client.models.list()],
    }


def search() -> Any:
    found = [f"{model.owner}/{model.name}" for model in client.models.search(body="voice cloning")]
    other = client.search(query="voice cloning", limit=3)
    return [found, [f"{one.model.owner}/{one.model.name}" for one in other.models], other.query]


def made() -> Any:
    sku = client.hardware.list()[0].sku
    model = client.models.create(owner="pia", name="empty", visibility="private", hardware=sku)
    changed = client.models.update(model_owner="pia", model_name="empty", description="Now.", readme="# Empty")
    readme = client.models.readme.get(model_owner="pia", model_name="empty")
    unversioned = refusal(lambda: replicate.use("pia/empty")(text="x"))
    client.models.delete(model_owner="pia", model_name="empty")
    gone = refusal(lambda: client.models.get(model_owner="pia", model_name="empty"))
    return {
        "model": model.to_dict(), "changed": changed.to_dict(), "readme": readme, "gone": gone,
        "unversioned": unversioned,
    }  # fmt: skip


def deleted(zip: str) -> Any:
    _, training = train(zip, "pia/deleted")
    place = {"model_owner": "pia", "model_name": "deleted"}
    version = training.output.version.partition(":")[2]
    answer = client.models.versions.with_raw_response.delete(version_id=version, **place)
    return answer.status_code, [one.id for one in client.models.versions.list(**place)]


def conflict(zip: str) -> Any:
    """How often the client asks for what cannot be: it repeats even a POST, unless it is told not to."""
    asked: list[str] = []
    counting = Replicate(
        http_client=DefaultHttpxClient(event_hooks={"request": [lambda request: asked.append(request.method)]})
    )
    _, training = train(zip, "pia/deployed")
    version = training.output.version.partition(":")[2]
    deployed = client.deployments.create(
        name="holder", model="pia/deployed", version=version, hardware=client.hardware.list()[0].sku, min_instances=0,
        max_instances=1,
    )  # fmt: skip
    refused = refusal(lambda: counting.models.delete(model_owner="pia", model_name="deployed"))
    client.deployments.delete(deployment_owner=deployed.owner, deployment_name="holder")
    return refused, asked


def throttled() -> Any:
    asked: list[int] = []
    hooks = {"response": [lambda response: asked.append(response.status_code)]}
    impatient = Replicate(max_retries=0, http_client=DefaultHttpxClient(event_hooks=hooks))
    return refusal(lambda: impatient.run(HELLO, input={})), asked


def webhook(url: str) -> Any:
    made = client.models.predictions.create(
        model_owner="vividcover", model_name="hello", input={}, webhook=url, webhook_events_filter=["completed"]
    )
    return {"id": made.id, "key": client.webhooks.default.secret.get().key}


def plain(zip: str) -> Any:
    with Path(zip).open("rb") as file:
        output = client.run("zsxkib/create-rvc-dataset", input={"youtube_url": file, "audio_name": "pia"})
    with Path(zip).open("rb") as file:
        path = replicate.use("zsxkib/create-rvc-dataset")(youtube_url=file, audio_name="pia")
    return {"output": output, "start": Path(path).read_bytes()[:2].decode(), "name": Path(path).name}


def others() -> Any:
    version = client.models.get(model_owner="vividcover", model_name="hello").latest_version.id
    made = client.deployments.create(
        name="py2-greeter", model=HELLO, version=version, hardware=client.hardware.list()[0].sku, min_instances=0,
        max_instances=1,
    )  # fmt: skip
    place = {"deployment_owner": made.owner, "deployment_name": made.name}
    run = client.predictions.wait(client.deployments.predictions.create(**place, input={"text": "Deb"}).id)
    changed = client.deployments.update(**place, max_instances=2)
    listed = [one.name for one in client.deployments.list()]
    client.deployments.delete(**place)
    collections = [client.collections.get(collection_slug=one.slug).to_dict() for one in client.collections.list()]
    return {
        "account": client.account.get().to_dict(), "made": made.to_dict(), "output": run.output,
        "changed": changed.to_dict(), "listed": listed, "collections": collections,
        "gone": refusal(lambda: client.deployments.get(**place)),
    }  # fmt: skip


if __name__ == "__main__":
    assert replicate.__version__ == "2.0.0-beta.4" or replicate.__version__.startswith("2."), replicate.__version__
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2])), default=str))
