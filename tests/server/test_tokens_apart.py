"""Two tokens, and nothing of the other's to be seen: runs, files, private models, deliveries, usage."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from live import Live, live


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("apart") / "home") as running:
        yield running


def _things(http: httpx.Client, name: str) -> dict[str, str]:
    """A run, a file and a private model, by the paths that show them."""
    wanted = {"version": "vividcover/hello", "input": {"text": name}}
    run = http.post("/v1/predictions", json=wanted, headers={"Prefer": "wait"}).json()
    file = http.post("/v1/files", files={"content": ("a.txt", name.encode())}).json()
    model = {"owner": name, "name": "mine", "visibility": "private", "hardware": "cpu"}
    assert http.post("/v1/models", json=model).status_code == 201
    return {
        "run": f"/v1/predictions/{run['id']}", "logs": f"/v1/predictions/{run['id']}/logs",
        "file": f"/v1/files/{file['id']}", "model": f"/v1/models/{name}/mine",
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["read write train", "read write train admin"])
def test_a_token_sees_nothing_of_anothers(server: Live, scope: str) -> None:
    owner = "one" if "admin" not in scope else "three"
    with server.client(server.token(scope)) as one, server.client(server.token(scope)) as two:
        things = _things(one, owner)
        for path in things.values():
            assert one.get(path).status_code == 200, path
            foreign = two.get(path)
            assert foreign.status_code == 404, path
            assert foreign.json() == two.get(path[:-6] + "000000").json() | {"detail": foreign.json()["detail"]}
        assert two.post(f"{things['run']}/cancel").status_code == 404
        assert two.delete(things["file"]).status_code == 404
        assert two.delete(things["model"]).status_code == 404
        for listing in ("/v1/predictions", "/v1/files", "/v1/trainings", "/v1/webhooks/deliveries"):
            assert two.get(listing).json()["results"] == [], listing
        listed = [f"{m['owner']}/{m['name']}" for m in two.get("/v1/models").json()["results"]]
        assert f"{owner}/mine" not in listed
        taken = {"owner": owner, "name": "other", "visibility": "private", "hardware": "cpu"}
        assert two.post("/v1/models", json=taken).status_code in (403, 404)


def test_tokens_of_one_account_share(server: Live) -> None:
    server.run("account", "create", "band")
    with server.client(server.token("read write", "--account", "band")) as one:
        path = _things(one, "band")["run"]
    with server.client(server.token("read", "--account", "band")) as two:
        assert two.get(path).status_code == 200
