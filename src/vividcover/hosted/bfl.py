"""Fine-tunes and their pictures on BFL's API, or on a server that speaks it (ours does, under /bfl).

Facts: docs.bfl.ai, API of 2025: header `x-key`; POST answers with an id and a `polling_url`; GET get_result until the
status is Ready. BFL has since closed its own fine-tuning, so an address that still offers it must be set.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vividcover.errors import Canceled, EngineError
from vividcover.hosted.remote import PASSING, Answer, Memory, download, patiently, pause, refusal
from vividcover.workspace import Reporter

POLL = 1.0  # seconds
WAITING = ("Pending", "Task not found")  # a task is not found for a moment after it was made
LOST_AFTER = 30  # looks at a task that stays "not found"


@dataclass(frozen=True, slots=True)
class Site:
    """A place that speaks BFL's API. `url` without /v1."""

    key: str
    url: str
    max_bytes: int


def finetune(archive: Path, values: Mapping[str, Any], site: Site, *, memory: Memory, reporter: Reporter) -> Answer:
    """Trains from a zip of 1 to 20 pictures. `Answer.trained` is the finetune's id; it brings no file."""
    known = memory.recall()
    identifier = known.get("id", "")
    if not identifier:
        body = {"file_data": base64.b64encode(archive.read_bytes()).decode(), **values}
        identifier = str(_post(site, "/v1/finetune", body, reporter)["finetune_id"])
        memory.keep(id=identifier)
    try:
        _until_ready(site, f"{_base(site)}/v1/get_result", identifier, reporter)
    except Canceled:
        with contextlib.suppress(Exception):
            _post(site, "/v1/delete_finetune", {"finetune_id": identifier}, reporter)
        memory.forget()
        raise
    memory.forget()
    return Answer(identifier, "", trained=identifier)


def picture(
    endpoint: str, values: Mapping[str, Any], site: Site, folder: Path, *, memory: Memory, reporter: Reporter
) -> Answer:
    """One picture from a fine-tune. `endpoint`: for example "flux-pro-finetuned"."""
    known = memory.recall()
    if not known:
        asked = _post(site, f"/v1/{endpoint}", values, reporter)
        known = {"id": str(asked["id"]), "polling_url": str(asked.get("polling_url") or "")}
        memory.keep(**known)
    where = known["polling_url"] if _trusted(site, known["polling_url"]) else f"{_base(site)}/v1/get_result"
    result = _until_ready(site, where, known["id"], reporter)
    file = download(str(result["sample"]), folder, max_bytes=site.max_bytes, reporter=reporter)
    memory.forget()
    return Answer(known["id"], "", files=[file])


def _base(site: Site) -> str:
    return site.url.rstrip("/").removesuffix("/v1")


def _trusted(site: Site, link: str) -> bool:
    """Whether the key may be sent there: the site itself, or another of BFL's own hosts."""
    host, own = urlsplit(link).hostname or "", urlsplit(site.url).hostname
    return bool(link) and (host == own or (link.startswith("https://") and host.endswith(".bfl.ai")))


def _until_ready(site: Site, where: str, identifier: str, reporter: Reporter) -> dict[str, Any]:
    lost = 0
    while True:
        answer = _get(site, where, {} if "id=" in where else {"id": identifier}, reporter)
        status = str(answer.get("status", ""))
        if status == "Ready":
            return dict(answer.get("result") or {})
        lost += status == "Task not found"
        if status not in WAITING or lost > LOST_AFTER:
            raise EngineError(
                f"{site.url}: the task {identifier} ended as {status!r}.", str(answer.get("result") or "")
            )
        reporter.progress(float(answer.get("progress") or 0.0), status)
        pause(POLL, reporter)


def _post(site: Site, path: str, body: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    import httpx
    from tenacity import retry_if_exception_type

    def send() -> httpx.Response:
        return httpx.post(_base(site) + path, json=dict(body), headers={"x-key": site.key}, timeout=120)

    sure = retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout))  # cannot have been received
    return _read(_sent(send, sure, site, reporter), site)


def _get(site: Site, url: str, query: Mapping[str, str], reporter: Reporter) -> dict[str, Any]:
    import httpx
    from tenacity import retry_if_exception_type

    def send() -> httpx.Response:
        answer = httpx.get(url, params=dict(query) or None, headers={"x-key": site.key}, timeout=60)
        if answer.status_code in PASSING:
            answer.raise_for_status()
        return answer

    may_pass = retry_if_exception_type((httpx.TransportError, httpx.HTTPStatusError))
    return _read(_sent(send, may_pass, site, reporter), site)


def _sent(send: Any, retry: Any, site: Site, reporter: Reporter) -> Any:
    import httpx

    try:
        return patiently(send, retry, reporter)
    except httpx.HTTPError as error:
        raise EngineError(f"{site.url} cannot be reached: {error}.", "Run it again to continue.") from error


def _read(answer: Any, site: Site) -> dict[str, Any]:
    """The JSON of an answer. Raises `EngineError` for a refused key or a failing site, `InputError` for values."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.status_code < 400 and isinstance(body, dict):
        return body
    said = str(body.get("detail", body) if isinstance(body, dict) else body)[:500]
    raise refusal(answer.status_code, said, site.url, "VIVIDCOVER_BFL_KEY")
