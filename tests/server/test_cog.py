"""Every model can leave as a cog package, and the packages say what the catalog says."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from vividcover.cover import models
from vividcover.server.cog import export

CASES = sorted(models())


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _holds(fields: Any, signature: inspect.Signature, extra: set[str]) -> None:
    given = {k: v for k, v in signature.parameters.items() if k != "self"}
    assert set(given) == set(fields) | extra
    for name, field in fields.items():
        shown = given[name].default
        assert shown.default == (None if field.is_required() else field.default), name
        bounds = {type(m).__name__.lower(): m for m in field.metadata}
        assert shown.ge == getattr(bounds.get("ge"), "ge", None), name
        assert shown.le == getattr(bounds.get("le"), "le", None), name


@pytest.mark.parametrize("name", CASES)
def test_a_package_says_what_the_catalog_says(name: str, tmp_path: Path) -> None:
    model = models()[name]
    written = export(model, tmp_path)
    runner = _module(tmp_path / "run.py").Runner
    asked = {"consent"} if model.needs_consent else set()
    _holds(model.Input.model_fields, inspect.signature(runner.run), asked)
    if model.TrainingInput:
        train = _module(tmp_path / "train.py").train
        _holds(model.TrainingInput.model_fields, inspect.signature(train), {"consent"})
    schema = json.loads((tmp_path / ".cog" / "openapi_schema.json").read_text())["components"]["schemas"]
    assert set(schema["Input"]["properties"]) == set(model.Input.model_fields) | asked
    assert all(path.is_file() for path in written)


def test_cog_serves_an_exported_model(tmp_path: Path) -> None:
    export(models()["vividcover/hello"], tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COG_PREDICT_TYPE_STUB": "run.py:Runner", "PORT": str(port),
    }  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
            cwd=tmp_path, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _until_ready(client, tmp_path / "log")
            answer = _asked(client, {"text": "cog", "repeat": 2}).json()
            assert (answer["status"], answer["output"]) == ("succeeded", ["hello there, cog", " (2)"])
            refused = _asked(client, {"repeat": 100_000})
            assert refused.status_code == 422
            failed = _asked(client, {"fail": True}).json()
            assert failed["status"] == "failed"
            assert "asked to fail" in failed["error"]
    finally:
        server.terminate()
        server.wait(timeout=20)


def _asked(client: httpx.Client, input: dict[str, Any]) -> httpx.Response:
    """A prediction; cog takes a moment after an answer until it takes the next one."""
    for _ in range(100):
        answer = client.post("/predictions", json={"input": input})
        if "At capacity" not in answer.text:
            break
        time.sleep(0.1)
    return answer


def _until_ready(client: httpx.Client, log: Path) -> None:
    for _ in range(300):
        try:
            if client.get("/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())
