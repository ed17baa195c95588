"""Every operation of Replicate's API by replicate 2.0.0b4, through a proxy that checks each request and each answer.

`python everything.py {"zip": …, "upstream": …}`; prints what went wrong as a JSON list. Run by test_prism.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replicate import APIStatusError, Replicate

client = Replicate(max_retries=0)
wrong: list[str] = []
HELLO = {"model_owner": "vividcover", "model_name": "hello"}
MINE = {"model_owner": "prism", "model_name": "mine"}
SMALL = {"prompt": "VIVI on stage", "aspect_ratio": "custom", "width": 256, "height": 256}


def tried(what: str, call: Callable[[], Any]) -> Any:
    """The answer; what the proxy finds wrong with it is kept."""
    try:
        return call()
    except APIStatusError as error:
        wrong.append(f"{what}: {error.status_code} {json.dumps(error.body)[:600]}")
    return None


def over(get: Callable[[], Any]) -> Any:
    """The run when it has ended; every look at it is checked too."""
    while (run := tried("look", get)) is not None and run.status in ("starting", "processing"):
        time.sleep(0.3)
    return run


def predictions() -> None:
    version = client.models.get(**HELLO).latest_version.id
    for reference in (version, f"vividcover/hello:{version}", "vividcover/hello"):
        tried(f"create {reference}", lambda r=reference: client.predictions.create(version=r, input={}))
    tried("wait", lambda: client.predictions.create(version=version, input={}, prefer="wait=5"))
    slow = tried("slow", lambda: client.predictions.create(version=version, input={"seconds": 30}, prefer="wait=1"))
    tried("look", lambda: client.predictions.get(prediction_id=slow.id))
    tried("cancel", lambda: client.predictions.cancel(prediction_id=slow.id))
    over(lambda: client.predictions.get(prediction_id=slow.id))
    failing = tried("fail", lambda: client.predictions.create(version=version, input={"fail": True}))
    over(lambda: client.predictions.get(prediction_id=failing.id))
    bound = tried("bound", lambda: client.predictions.create(version=version, input={}, cancel_after="1m"))
    over(lambda: client.predictions.get(prediction_id=bound.id))
    tried("of a model", lambda: client.models.predictions.create(**HELLO, input={}, prefer="wait"))
    tried("list", lambda: client.predictions.list())


def files() -> None:
    """Text, since the proxy spoils the bytes of anything else."""
    content = b"some words"
    file = tried("files.create", lambda: client.files.create(content=content, filename="a.txt", metadata={"a": 1}))
    tried("files.get", lambda: client.files.get(file_id=file.id))
    tried("files.list", lambda: client.files.list())
    owner, expiry = client.account.get().username, int(time.time()) + 600
    told = f"{owner} {file.id} {expiry}".encode()
    signature = base64.b64encode(hmac.new(SECRET.encode(), told, hashlib.sha256).digest()).decode()
    got = tried(
        "files.download",
        lambda: client.files.download(file_id=file.id, owner=owner, expiry=expiry, signature=signature).read(),
    )
    if got != content:
        wrong.append("files.download: other bytes")
    tried("files.delete", lambda: client.files.delete(file_id=file.id))


def trainings(zip: str) -> None:
    link = upstream.client.files.create(content=Path(zip).read_bytes()).urls.get
    owner, name, version = TRAINER.replace(":", "/").split("/")
    place = {"model_owner": owner, "model_name": name, "version_id": version, "destination": "prism/mine"}
    photos = {"input_images": link, "trigger_word": "VIVI"}
    training = tried("trainings.create", lambda: client.trainings.create(**place, input=photos))
    over(lambda: client.trainings.get(training_id=training.id))
    other = tried("trainings.create", lambda: client.trainings.create(**place, input=photos))
    tried("trainings.cancel", lambda: client.trainings.cancel(training_id=other.id))
    over(lambda: client.trainings.get(training_id=other.id))
    tried("trainings.list", lambda: client.trainings.list())
    made = tried("run", lambda: client.models.predictions.create(**MINE, input=SMALL, prefer="wait"))
    upstream.post("/models/prism/mine/examples", {"prediction": made.id})
    upstream.patch("/models/prism/mine", {"default_example": made.id})


def models() -> None:
    sku = tried("hardware", lambda: client.hardware.list())[0].sku
    links = dict.fromkeys(("github_url", "paper_url", "license_url", "cover_image_url"), "https://example.com/x")
    tried("models.create", lambda: client.models.create(owner="prism", name="mine", visibility="private", hardware=sku))
    tried(
        "models.create",
        lambda: client.models.create(owner="prism", name="other", visibility="public", hardware=sku, **links),
    )
    tried("models.update", lambda: client.models.update(**MINE, readme="# Mine", description="Mine."))
    tried("models.get", lambda: client.models.get(**MINE))


def models_again() -> None:
    """Now that there is a version with an example."""
    tried("models.get", lambda: client.models.get(**MINE))
    tried("models.list", lambda: client.models.list())
    tried("models.list", lambda: client.models.list(sort_by="model_created_at", sort_direction="asc"))
    tried("examples", lambda: client.models.examples.list(**MINE))
    tried("readme", lambda: client.models.readme.get(**MINE))
    versions = tried("versions.list", lambda: client.models.versions.list(**MINE))
    version = next(iter(versions)).id
    tried("versions.get", lambda: client.models.versions.get(**MINE, version_id=version))
    tried("search", lambda: client.search(query="mine", limit=5))
    tried("versions.delete", lambda: client.models.versions.delete(**MINE, version_id=version))
    tried("models.delete", lambda: client.models.delete(model_owner="prism", model_name="other"))
    slugs = [one.slug for one in tried("collections.list", lambda: client.collections.list())]
    for slug in slugs:
        tried("collections.get", lambda s=slug: client.collections.get(collection_slug=s))


def deployments() -> None:
    version = client.models.get(**HELLO).latest_version.id
    place = {"deployment_owner": client.account.get().username, "deployment_name": "proxied"}
    tried(
        "deployments.create",
        lambda: client.deployments.create(
            name="proxied", model="vividcover/hello", version=version, hardware=client.hardware.list()[0].sku,
            min_instances=0, max_instances=1,
        ),
    )  # fmt: skip
    tried("deployments.get", lambda: client.deployments.get(**place))
    tried("deployments.list", lambda: client.deployments.list())
    tried("deployments.update", lambda: client.deployments.update(**place, max_instances=2))
    tried("deployments.run", lambda: client.deployments.predictions.create(**place, input={}, prefer="wait"))
    tried("deployments.delete", lambda: client.deployments.delete(**place))


class Upstream:
    """What is our own is asked without the proxy, which knows Replicate's operations only."""

    def __init__(self, url: str) -> None:
        self.client = Replicate(base_url=url)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(path, body=body, cast_to=object)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.patch(path, body=body, cast_to=object)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    upstream, TRAINER = Upstream(given["upstream"]), given["trainer"]
    SECRET = upstream.client.get("/files/default/secret", cast_to=object)["key"]
    tried("account", lambda: client.account.get())
    tried("secret", lambda: client.webhooks.default.secret.get())
    try:
        predictions()
        models()
        files()
        trainings(given["zip"])
        models_again()
        deployments()
    except Exception:  # what follows from an answer that was refused above
        wrong.append(traceback.format_exc())
    print(json.dumps(wrong))
