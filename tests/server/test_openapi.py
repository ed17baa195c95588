"""Whatever is sent to any endpoint that our OpenAPI document names, the server does not fail; on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from server_making import Api, made


def test_no_request_of_schemathesis_makes_the_server_fail(
    serve: Callable[..., Api], database_url: str, tmp_path: Path
) -> None:
    api = serve(database=database_url)
    token = api.http.headers["Authorization"]
    (tmp_path / "schemathesis.toml").write_text(real_things(api), encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run",
         f"{api.url}/openapi.json", "-H",
         f"Authorization: {token}", "-H", f"x-key: {token.split()[1]}", "--checks", "not_a_server_error", "-n", "3",
         "--phases", "coverage,fuzzing", "--seed", "7", "--no-color", "--workers", "2"],
        capture_output=True, text=True, timeout=280, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert "No issues" in done.stdout or " passed" in done.stdout, done.stdout[-2000:]
    assert api.http.get("/v1/account").status_code == 200


def real_things(api: Api) -> str:
    """A configuration in which the parameters of paths name what is there, so that most requests get past a 404."""
    model = {"owner": api.user, "name": "mine", "visibility": "private", "hardware": "cpu"}
    assert api.http.post("/v1/models", json=model).status_code == 201
    run = api.http.post("/v1/predictions", json={"version": "vividcover/hello", "input": {}}).json()
    api.http.post(f"/v1/predictions/{run['id']}/cancel")  # or its stream would never end
    file = api.http.post("/v1/files", files={"content": b"x"}).json()
    link = made(api, b"y" * 100, "out.png").rsplit("/", 3)
    made_with = {
        "owner": api.user, "name": "mine", "version": run["version"], "version_id": run["version"], "id": run["id"],
        "prediction_id": run["id"], "training_id": run["id"], "run_id": run["id"], "file_id": file["id"],
        "key": run["urls"]["stream"].rpartition("/")[2], "slug": "voice",
    }  # fmt: skip
    outputs = {"file_id": link[1], "signature": link[2], "name": link[3]}
    lines = ["[parameters]", *(f'{name} = "{value}"' for name, value in made_with.items())]
    lines += ["[[operations]]", 'include-path = "/outputs/{file_id}/{signature}/{name}"']
    lines += [f'parameters.{name} = "{value}"' for name, value in outputs.items()]
    return "\n".join(lines) + "\n"


def test_runs_files_and_pages_are_the_same_on_either_database(serve: Callable[..., Api], database_url: str) -> None:
    api = serve(database=database_url)
    ids = [
        api.http.post("/v1/predictions", json={"version": "vividcover/hello", "input": {}}).json()["id"] for _ in "ab"
    ]
    assert [run["id"] for run in api.http.get("/v1/predictions").json()["results"]] == ids[::-1]
    assert api.http.post(f"/v1/predictions/{ids[0]}/cancel").json()["status"] == "canceled"
    assert api.http.get(f"/v1/predictions/{ids[0]}").json()["metrics"]["total_time"] >= 0
    with api.open.stream("GET", api.http.get(f"/v1/predictions/{ids[0]}").json()["urls"]["stream"]) as stream:
        assert "canceled" in stream.read().decode()
    file = api.http.post("/v1/files", files={"content": b"x"}, data={"metadata": '{"a": "\\u00e9"}'}).json()
    assert api.http.get(file["urls"]["get"]).json()["metadata"] == {"a": "é"}
    assert api.bob.get(file["urls"]["get"]).status_code == 404
