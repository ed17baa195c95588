"""What the hosted engine asks of another machine, and what it gets back. Knows no models, only names and values."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from vividcover.errors import EngineError, InputError, LinkError, VividCoverError
from vividcover.workspace import Reporter

T = TypeVar("T")
PATIENCE = 300.0  # seconds for which a site that does not answer is asked again
PASSING = (429, 500, 502, 503, 504)  # statuses that may be others in a moment
CHUNK = 1 << 20  # bytes
TICK = 0.1  # seconds between two looks at the cancel flag


@dataclass(frozen=True, slots=True)
class Order:
    """One run on another machine. Paths in `input` are uploaded."""

    model: str  # owner/name
    version: str  # pinned id; "": the latest
    input: Mapping[str, Any]
    training: bool = False
    destination: str = ""  # of a training, owner/name; "": one of our own choice in the account behind the token


@dataclass
class Answer:
    """What came back: files (downloaded) or a text, and what it took."""

    id: str
    version: str
    files: list[Path] = field(default_factory=list)
    text: str = ""
    trained: str = ""  # owner/name:id of the version that a training made
    seconds: float | None = None  # of the device, as the site says
    link: str = ""  # to the run, for a person
    notes: list[str] = field(default_factory=list)

    def story(self) -> dict[str, Any]:
        """For the stage's memory and the provenance record."""
        return {
            "files": [f.name for f in self.files], "text": self.text,
            "hosted": {
                "id": self.id, "version": self.version, "trained": self.trained, "seconds": self.seconds,
                "link": self.link,
            },
        }  # fmt: skip


class Memory:
    """The id of a run that was ordered, kept until its answer is here: a crash in between does not pay twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, **what: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps(what), encoding="utf-8")
        aside.replace(self.path)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def refusal(status: int, said: str, url: str, secret: str, what: str = "") -> VividCoverError:
    """The error for a site's answer of 400 or more. `secret`: the setting with the key; `what`: whose order it was."""
    where = f"{what} on {url}" if what else url
    if status in (401, 403):
        return EngineError(f"{url} refused the {secret.rpartition('_')[2].lower()}: {said}", f"Set {secret} anew.")
    if status == 402:
        return EngineError(f"{url} wants to be paid first: {said}", "Look at the account's billing page.")
    if status in (400, 404, 413, 422):
        return InputError(f"{where} refused the order: {said}", "Change the values it names.")
    return EngineError(f"{url} failed ({status}): {said}", "Try again later; what was finished is kept.")


def pause(seconds: float, reporter: Reporter) -> None:
    """Sleeps, and raises `Canceled` within a tenth of a second."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        reporter.check()
        time.sleep(min(TICK, left))


def download(url: str, folder: Path, *, max_bytes: int, reporter: Reporter) -> Path:
    """An output, under its own name in `folder`. The token is not sent along: outputs may lie with somebody else.

    Raises `LinkError` for more than `max_bytes`, `EngineError` when the site fails for minutes.
    """
    import httpx
    from tenacity import retry_if_exception

    def passing(error: BaseException) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code in PASSING
        return isinstance(error, httpx.TransportError)

    name = Path(unquote(urlsplit(url).path)).name or "output"
    target = folder / name
    for number in range(2, 1000):
        if not target.exists():
            break
        target = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"

    def fetch() -> Path:
        part, got = folder / f".{target.name}.part", 0
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer, part.open("wb") as file:
            answer.raise_for_status()
            for piece in answer.iter_bytes(CHUNK):
                reporter.check()
                got += len(piece)
                if got > max_bytes:
                    raise LinkError(f"The output {name} is larger than {max_bytes} bytes.", "Raise the limit.")
                file.write(piece)
        part.replace(target)
        return target

    try:
        return patiently(fetch, retry_if_exception(passing), reporter)
    except httpx.HTTPError as error:
        raise EngineError(
            f"The output {name} could not be downloaded: {error}.", "Run it again to continue."
        ) from error
    finally:
        (folder / f".{target.name}.part").unlink(missing_ok=True)


def patiently(work: Callable[[], T], retry: Any, reporter: Reporter) -> T:
    """`work()`, again and again with growing pauses while `retry` says that its failure may pass."""
    from tenacity import Retrying, stop_after_delay, wait_random_exponential

    def sleep(seconds: float) -> None:
        pause(seconds, reporter)

    pauses = wait_random_exponential(multiplier=0.5, max=20)
    again = Retrying(retry=retry, stop=stop_after_delay(PATIENCE), wait=pauses, reraise=True, sleep=sleep)
    return again(work)
