"""A link → a file: audio links, pages that yt-dlp understands, and plain files.

    fetched = fetch_media("https://www.youtube.com/watch?v=…", folder, limits=limits, reporter=stage)
    fetched.path, fetched.title

The work is done by a child process (`_fetch_child.py`) behind a guard that lets it reach the public internet only
(`guard.py`). This side waits for it, hands its progress on, kills it and its whole group on cancel or when time is up,
and moves the file to its final name when it is whole.

Proxies: a proxy resolves names itself, so behind one the guard cannot see where a connection ends. Those of the
environment are therefore not used; `proxy=` uses one, and says so in a note.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vividcover import errors
from vividcover.errors import LinkError, NotFoundError, VividCoverError
from vividcover.song._fetch_child import Job
from vividcover.song.guard import Endpoint, check_link, show
from vividcover.workspace import Reporter, Silent, storage_errors

POLL = 0.1  # seconds between two looks at the cancel flag
NOBODY: frozenset[Endpoint] = frozenset()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy")
LEAKS = ("SSLKEYLOGFILE",)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much one fetch may take: bytes of the file, seconds of media (as the page says), seconds in all."""

    max_bytes: int = 2 << 30
    max_seconds: float = 1800.0
    timeout: float = 900.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file. `title` as the site calls it, `source` the link, `how` "direct" or "yt-dlp:Youtube" …"""

    path: Path
    title: str
    source: str
    how: str


def is_link(text: str) -> bool:
    """Whether this is a link rather than a path: it begins with a scheme and //. Only http and https can be fetched."""
    return re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def fetch_media(
    link: str,
    folder: Path,
    *,
    limits: FetchLimits,
    cookies: Path | None = None,
    reporter: Reporter | None = None,
    proxy: str | None = None,
    allow: frozenset[Endpoint] = NOBODY,
) -> Fetched:
    """Audio or video from a link: a file as it is, or the best audio behind a page. Not decoded here.

    `cookies`: a Netscape cookies file for sites that ask for a login. `allow`: see `guard.py`.
    Raises `LinkError`, `StorageError`, `NotFoundError` (no cookies file), `Canceled`.
    """
    if cookies is not None and not cookies.is_file():
        raise NotFoundError(f"There is no cookies file {cookies}.", "Check the path given with --cookies.")
    return _fetch(link, folder, True, limits, cookies, reporter or Silent(), proxy, allow)


def fetch_file(
    link: str,
    folder: Path,
    *,
    limits: FetchLimits,
    reporter: Reporter | None = None,
    proxy: str | None = None,
    allow: frozenset[Endpoint] = NOBODY,
    headers: Mapping[str, str] | None = None,
) -> Fetched:
    """One plain file (zip, picture, model) from a link, under the name that the site gives it.

    `headers` (a token) are sent to the link's own site only, not to where it redirects.
    """
    return _fetch(link, folder, False, limits, None, reporter or Silent(), proxy, allow, headers)


def _fetch(
    link: str, folder: Path, media: bool, limits: FetchLimits, cookies: Path | None, reporter: Reporter,
    proxy: str | None, allow: frozenset[Endpoint], headers: Mapping[str, str] | None = None,
) -> Fetched:  # fmt: skip
    link, folder = link.strip(), Path(folder)
    check_link(link, allow)
    if proxy:
        allow = allow | _proxy_endpoints(proxy)
        reporter.note(f"Fetching through the proxy {show(proxy)}: it decides which addresses can be reached.")
    aside = folder / f".fetch-{uuid.uuid4().hex}"
    try:
        with storage_errors("the download", folder):
            aside.mkdir(parents=True)
            job = Job(
                link, str(aside), media, limits.max_bytes, limits.max_seconds,
                str(cookies) if cookies else None, proxy, tuple(sorted(allow)), dict(headers or {}),
            )  # fmt: skip
            done = _Child(job).wait(limits.timeout, reporter)
            whole, title = Path(done["path"]), done["title"]
            name = "download" + whole.suffix if media else _file_name(title, whole.suffix)
            whole.replace(folder / name)
        return Fetched(folder / name, _shown_title(title), link, done["how"])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _file_name(title: str, suffix: str) -> str:
    """The site's own name for a file, safe to use here; the suffix by what is inside, if that was recognised."""
    name = title.lstrip(".") or "download"
    return name if not suffix or name.lower().endswith(suffix) else name + suffix


def _shown_title(title: str) -> str:
    """The title without a file's suffix, characters that cannot be shown, and endless length."""
    shown = "".join(character if character.isprintable() else " " for character in title)
    return re.sub(r"\.\w{2,4}$", "", " ".join(shown.split()))[:200] or "download"


def _proxy_endpoints(proxy: str) -> frozenset[Endpoint]:
    parts = urlsplit(proxy)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.ParameterError(f"The proxy “{show(proxy)}” is not an http address.", "Use http://host:port.")
    port = parts.port or 8080
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LinkError(f"The proxy {parts.hostname} cannot be found.", "Check its name.") from error
    return frozenset((str(answer[4][0]), port) for answer in found)


class _Child:
    """The fetching process, as its parent sees it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vividcover.song._fetch_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env=_environment(os.environ),
        )  # fmt: skip
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def wait(self, timeout: float, reporter: Reporter) -> dict[str, str]:
        """What the child found. Whatever happens, it is gone afterwards."""
        deadline = time.monotonic() + timeout
        try:
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):  # it died already; the reader says so
                self.process.stdin.write(json.dumps(asdict(self.job)).encode() + b"\n")
                self.process.stdin.flush()
            while True:
                reporter.check()
                if time.monotonic() > deadline:
                    raise LinkError(
                        f"Fetching {show(self.job.link)} took longer than {timeout:.0f} s and was stopped.",
                        "Try again when the site is faster, raise VIVIDCOVER_DOWNLOAD_TIMEOUT, or download it yourself "
                        "and give the file.",
                    )
                with contextlib.suppress(queue.Empty):
                    if (done := self._handle(self.lines.get(timeout=POLL), reporter)) is not None:
                        return done
        finally:
            self._kill()

    def _handle(self, line: dict[str, Any] | None, reporter: Reporter) -> dict[str, str] | None:
        if line is None:
            raise LinkError(
                f"Fetching {show(self.job.link)} ended unexpectedly (exit status {self.process.wait()}).",
                "Try again; if it stays so, download it yourself and give the file.",
            )
        if "done" in line:
            return dict(line["done"])
        if "error" in line:
            kind, message, hint = line["error"]
            raise _ERRORS.get(kind, VividCoverError)(message, hint)
        if "note" in line:
            reporter.note(line["note"])
        if "progress" in line:
            done, total = line["progress"]
            of = f" of {total / 1e6:.1f}" if total else ""
            reporter.progress(min(1.0, done / (total or self.job.max_bytes)), f"{done / 1e6:.1f}{of} MB")
        return None

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.process.returncode is not None:
                pass  # waited for already: its number may belong to somebody else by now
            elif hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads its own session: whatever it started goes too
            else:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()


_ERRORS: Mapping[str, type[VividCoverError]] = {
    one.__name__: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, VividCoverError)
}


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: the caller's without proxies and without a file that would collect TLS keys.

    Programs beside our interpreter come first: deno, if the extra `youtube` brought it.
    """
    kept = {key: value for key, value in environ.items() if key.lower() not in PROXIES and key not in LEAKS}
    return kept | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), environ.get("PATH", os.defpath)))}
