"""Runs on Replicate, or on a server like it, through Replicate's own client.

    answer = carry_out(Order("zsxkib/sonic", "", {"image": Path("vivi.jpg"), "audio": Path("sung.wav")}), site, folder,
                       memory=Memory(path), reporter=stage)

Files are uploaded, outputs downloaded at once (they vanish there after an hour), a cancel is passed on, the run's logs
become progress. A pinned version that is gone is replaced by the model's latest, with a notice. Only what cannot have
been received is ordered again; whatever was ordered is waited for, also by the next process after a crash.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vividcover.errors import Canceled, EngineError
from vividcover.hosted.remote import PASSING, Answer, Memory, Order, download, patiently, pause, refusal
from vividcover.workspace import Reporter

DONE = ("succeeded", "failed", "canceled", "aborted")
POLLS = (0.25, 0.5, 1.0, 2.0, 3.0)  # seconds between two looks, the last one from then on
DESTINATION = "vividcover-trained"  # where trainings go when no destination is given


@dataclass(frozen=True, slots=True)
class Site:
    """A place that speaks Replicate's API. `url` without /v1."""

    token: str
    url: str
    max_bytes: int


def carry_out(order: Order, site: Site, folder: Path, *, memory: Memory, reporter: Reporter) -> Answer:
    """Orders a run, or takes up the one that `memory` knows, and waits for it.

    Raises `EngineError` (token refused, no credit, site down, run failed), `InputError` (values refused), `Canceled`.
    """
    from replicate.exceptions import ReplicateError

    client = _client(site)
    try:
        job, notes = _found_or_ordered(client, order, site, memory, reporter)
        try:
            _wait(client, job, reporter)
        except (Canceled, KeyboardInterrupt):
            with contextlib.suppress(Exception):
                job.cancel()
            memory.forget()
            raise
        return _answer(client, job, order, site, folder, notes, memory, reporter)
    except ReplicateError as error:
        memory.forget()
        said = str(error.detail or error.title or error)
        raise refusal(error.status or 0, said, site.url, "VIVIDCOVER_REPLICATE_TOKEN", order.model) from error


def _client(site: Site) -> Any:
    try:
        from replicate.client import Client
    except ImportError:
        raise EngineError(
            "The hosted engine needs Replicate's client.", "Install it: pip install 'vividcover[hosted]'."
        ) from None
    return Client(api_token=site.token, base_url=site.url.rstrip("/").removesuffix("/v1"))


def _passing() -> Any:
    """Failures that may pass: no connection, 429 and 5xx."""
    import httpx
    from replicate.exceptions import ReplicateError
    from tenacity import retry_if_exception

    def passing(error: BaseException) -> bool:
        if isinstance(error, ReplicateError):
            return error.status in PASSING
        return isinstance(error, httpx.TransportError)

    return retry_if_exception(passing)


def _not_received() -> Any:
    """Failures after which an order cannot have been taken: asking again cannot pay twice."""
    import httpx
    from replicate.exceptions import ReplicateError
    from tenacity import retry_if_exception

    def lost(error: BaseException) -> bool:
        if isinstance(error, ReplicateError):
            return error.status == 429
        return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)

    return retry_if_exception(lost)


def _found_or_ordered(
    client: Any, order: Order, site: Site, memory: Memory, reporter: Reporter
) -> tuple[Any, list[str]]:
    from replicate.exceptions import ReplicateError

    jobs = client.trainings if order.training else client.predictions
    if known := memory.recall():
        try:
            job = patiently(lambda: jobs.get(known["id"]), _passing(), reporter)
            reporter.note(f"{order.model}: taking up the run {known['id']} that was ordered before")
            return job, []
        except ReplicateError as error:
            if error.status != 404:
                raise
            memory.forget()
    input = {key: _uploaded(client, value, reporter) for key, value in order.input.items()}
    notes: list[str] = []
    version = order.version or _latest(client, order, reporter)
    destination = (order.destination or _own_destination(client, reporter)) if order.training else ""
    try:
        job = _ordered(client, order, version, destination, input, reporter)
    except ReplicateError as error:
        if error.status not in (404, 422) or not order.version or "version" not in str(error.detail).lower():
            raise
        version = _latest(client, order, reporter)
        notes.append(f"{order.model}: the version {order.version[:12]} is gone; its latest, {version[:12]}, was used")
        reporter.note(notes[-1])
        job = _ordered(client, order, version, destination, input, reporter)
    memory.keep(id=job.id)
    return job, notes


def _ordered(
    client: Any, order: Order, version: str, destination: str, input: dict[str, Any], reporter: Reporter
) -> Any:
    def create() -> Any:
        if order.training:
            return client.trainings.create(version=f"{order.model}:{version}", input=input, destination=destination)
        if not version:
            return client.models.predictions.create(order.model, input=input)
        return client.predictions.create(version=version, input=input)

    return patiently(create, _not_received(), reporter)


def _uploaded(client: Any, value: Any, reporter: Reporter) -> Any:
    if not isinstance(value, Path):
        return value
    reporter.progress(0.0, f"uploading {value.name}")
    return patiently(lambda: client.files.create(value), _passing(), reporter).urls["get"]


def _latest(client: Any, order: Order, reporter: Reporter) -> str:
    """The id of a model's latest version; "" of one that has no versions ("official" ones)."""
    model = patiently(lambda: client.models.get(order.model), _passing(), reporter)
    return str(model.latest_version.id) if model.latest_version else ""


def _own_destination(client: Any, reporter: Reporter) -> str:
    """A private model in the account behind the token, made when it is not there yet."""
    from replicate.exceptions import ReplicateError

    owner = patiently(lambda: client.accounts.current(), _passing(), reporter).username
    try:
        patiently(lambda: client.models.get(owner, DESTINATION), _passing(), reporter)
    except ReplicateError as error:
        if error.status != 404:
            raise
        client.models.create(owner, DESTINATION, visibility="private", hardware="cpu")
    return f"{owner}/{DESTINATION}"


def _wait(client: Any, job: Any, reporter: Reporter) -> None:
    looks = 0
    while job.status not in DONE:
        pause(POLLS[min(looks, len(POLLS) - 1)], reporter)
        looks += 1
        patiently(job.reload, _passing(), reporter)
        progress = getattr(job, "progress", None)
        said = (job.logs or "").rstrip().rpartition("\n")[2][-80:]
        reporter.progress(progress.percentage if progress else 0.0, said or job.status)


def _answer(
    client: Any, job: Any, order: Order, site: Site, folder: Path, notes: list[str], memory: Memory, reporter: Reporter
) -> Answer:
    if job.status != "succeeded":
        memory.forget()
        raise EngineError(
            f"{order.model} on {site.url} {job.status}: {job.error or 'no reason was given'}.",
            f"Its logs: {(job.logs or '').strip()[-300:] or 'empty'}",
        )
    seconds = (getattr(job, "metrics", None) or {}).get("predict_time")
    links = getattr(job, "urls", None) or {}
    answer = Answer(
        job.id, str(job.version), seconds=seconds, link=links.get("web") or links.get("get", ""), notes=notes
    )
    outputs = job.output
    if order.training:
        version = str((outputs or {}).get("version", ""))
        answer.trained = version if "/" in version else f"{job.destination or order.destination}:{version}"
        outputs = (outputs or {}).get("weights")
    for one in outputs if isinstance(outputs, list) else [outputs]:
        link = str(getattr(one, "url", one))
        if link.startswith(("http://", "https://")):
            answer.files.append(download(link, folder, max_bytes=site.max_bytes, reporter=reporter))
        else:
            answer.text += link
    memory.forget()
    return answer
