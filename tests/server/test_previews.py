"""Early looks at a video in the making: the newest is kept, shown to whoever owns the run, and gone with its data."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from server_making import Api
from vividcover.runs import leases
from vividcover.runs.leases import Outcome
from vividcover.runs.runner import Runner
from vividcover.store.tables import events


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    return serve()


def look(shade: int) -> str:
    """What a worker hears of a preview, from the child's own words."""
    told: list[str] = []

    class Child(Runner):
        def say(self, what: str, **more: object) -> None:
            told.append(json.dumps(more))

    Child(0, 0).preview(0.25, np.full((700, 900, 3), shade, np.uint8))
    return told[0]


def test_the_newest_look_is_shown_to_its_owner_and_gone_with_the_runs_data(api: Api) -> None:
    run = api.http.post("/v1/models/vividcover/hello/predictions", json={"input": {"text": "x"}}).json()
    where = f"/v1/predictions/{run['id']}/preview"
    assert api.http.get(where).status_code == 404
    claim = leases.claim_one(api.state.database, "w", warm=None)
    assert claim is not None and claim.id == run["id"]
    for shades in ((10,), (60, 200)):
        with api.state.database.write() as db:
            leases.say(db, claim, [("preview", look(shade)) for shade in shades])
    answer = api.http.get(where)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert answer.headers["content-type"] == "image/jpeg" and picture.size == (512, 398)
        assert np.abs(np.asarray(picture).astype(int) - 200).max() < 4
        assert b"trainedAlgorithmicMedia" in picture.info["xmp"]
    with api.state.database.read() as db:
        count = sa.select(sa.func.count()).where(events.c.run_id == run["id"], events.c.kind == "preview")
        assert db.scalar(count) == 1
    assert (api.open.get(where).status_code, api.bob.get(where).status_code) == (401, 404)
    with api.state.database.write() as db:
        leases.finish(db, claim, Outcome("succeeded", text="x", engine="classic"), [])
    assert api.http.get(where).status_code == 200 and "jpeg" not in api.http.get(f"/v1/predictions/{run['id']}").text
    assert api.http.delete(f"/v1/predictions/{run['id']}").status_code == 204
    assert api.http.get(where).status_code == 404


@pytest.mark.parametrize("status", ["canceled", "failed"])
def test_a_look_at_what_never_became_a_video_goes_with_the_run(api: Api, status: Any) -> None:
    run = api.http.post("/v1/models/vividcover/hello/predictions", json={"input": {"text": "x"}}).json()
    claim = leases.claim_one(api.state.database, "w", warm=None)
    assert claim is not None
    with api.state.database.write() as db:
        leases.say(db, claim, [("preview", look(1))])
    assert api.http.get(f"/v1/predictions/{run['id']}/preview").status_code == 200
    with api.state.database.write() as db:
        leases.finish(db, claim, Outcome(status), [])
    assert api.http.get(f"/v1/predictions/{run['id']}/preview").status_code == 404


def test_a_look_at_nothing_that_exists_is_not_found(api: Api) -> None:
    assert api.http.get("/v1/predictions/nothing/preview").status_code == 404
    assert base64.b64decode(json.loads(look(1))["jpeg"])[:2] == b"\xff\xd8"
