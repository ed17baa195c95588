"""Prism stands between the second major of the Python client and this server, and compares every request and every
answer with Replicate's own OpenAPI document (replicate-openapi.json: SOURCES.md)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ground import CLIENTS, HERE, LORA_TRAINER, Ground, Script

from live import free_port

SPECIFICATION = HERE / "replicate-openapi.json"
PRISM = CLIENTS / "js" / "node_modules" / "@stainless-api" / "prism-cli" / "dist" / "index.js"
UNSUPPORTED = {"query /models"}  # prism knows no such method; each client's test of its search asks it


@pytest.fixture
def proxy(ground: Ground, javascript: Script, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, log) of prism before the server."""
    port, log = free_port(), tmp_path / "prism.log"
    words = [javascript.command[0], str(PRISM), "proxy", "--errors", str(SPECIFICATION), f"{ground.url}/v1",
             "-p", str(port), "-h", "127.0.0.1"]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=os.environ | ground.environment, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while b"Prism is listening" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_every_operation_keeps_to_replicates_own_description(
    ground: Ground, python_2: Script, proxy: tuple[str, Path], photos: Path
) -> None:
    url, log = proxy
    script = Script([python_2.command[0], str(HERE / "everything.py")],
                    python_2.environment | {"REPLICATE_BASE_URL": url}, python_2.folder)  # fmt: skip
    wrong = script("all", zip=str(photos), upstream=f"{ground.url}/v1", trainer=LORA_TRAINER)
    said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
    assert wrong == [], "\n".join(wrong)
    assert [line for line in said.splitlines() if "VALIDATOR" in line or "iolation" in line] == []

    asked = {f"{method} {path}" for method, path in re.findall(r"\[HTTP SERVER\] (\w+) (/\S*)", said)}
    operations = {
        f"{method} {path}"
        for path, methods in json.loads(SPECIFICATION.read_text())["paths"].items()
        for method in methods
    }
    never = {one for one in operations if not any(_is(one, request) for request in asked)}
    assert never == UNSUPPORTED


def _is(operation: str, request: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation), request) is not None


def test_prism_does_find_what_is_wrong(proxy: tuple[str, Path], ground: Ground) -> None:
    """A request that the document forbids never reaches the server."""
    headers = {"Authorization": f"Bearer {ground.token}"}
    answer = httpx.post(f"{proxy[0]}/predictions", json={"input": {}}, headers=headers, timeout=30)
    assert answer.status_code == 422 and "version" in answer.text
