"""The process that fetches: one job in on stdin, lines of JSON out, then its end.

Run by `song/fetch.py` as `python -P -m vividcover.song._fetch_child`. It puts up the guard before it opens anything,
ends itself (and what it started) when its parent is gone, and limits its memory and the size of the files it writes.
Lines out: {"progress": [bytes, bytes in all or null, text]}, {"note": text}, {"done": {path, title, how}},
{"error": [class, message, hint]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from vividcover.errors import LinkError, VividCoverError
from vividcover.song._fetch_kinds import kind_of, looks_like_media
from vividcover.song._fetch_why import explain, not_audio, status_error
from vividcover.song.guard import Endpoint, Guard, check_link, show

if TYPE_CHECKING:
    import httpx

CHUNK = 1 << 16  # bytes
HEAD = 1 << 12  # bytes looked at to tell what a file is
MAX_REDIRECTS = 8
SILENCE = 30.0  # seconds without a byte after which a site has stopped answering
MEMORY = 700 << 20  # bytes that this process may hold: a page is read whole by yt-dlp, and a page may be endless
PACE = 0.2  # seconds between two lines of progress
AGENT = "Mozilla/5.0 (compatible; vividcover)"


@dataclass(frozen=True, slots=True)
class Job:
    """What the parent asks for. `media`: audio or video, pages too; otherwise one plain file.

    `headers` (a token) go to the link's own site only, never to where it redirects.
    """

    link: str
    folder: str
    media: bool
    max_bytes: int
    max_seconds: float
    cookies: str | None
    proxy: str | None
    allow: tuple[Endpoint, ...]
    headers: dict[str, str] = field(default_factory=dict)


class Progress:
    """Counts bytes against the limit, and says how many at most every `PACE` seconds."""

    def __init__(self, job: Job) -> None:
        self.job, self._said = job, 0.0

    def __call__(self, done: int, total: int | None) -> None:
        if max(done, total or 0) > self.job.max_bytes:
            raise too_big(self.job, max(done, total or 0), announced=done <= self.job.max_bytes)
        if time.monotonic() - self._said >= PACE:
            self._said = time.monotonic()
            say({"progress": [done, total]})


def too_big(job: Job, size: int, *, announced: bool) -> LinkError:
    what = f"is {size / 1e6:.1f} MB" if announced else "does not end"
    return LinkError(
        f"What is behind {show(job.link)} {what}; at most {job.max_bytes / 1e6:.1f} MB are fetched.",
        "Use a shorter recording, or raise VIVIDCOVER_MAX_DOWNLOAD_BYTES.",
    )


def fetch(job: Job) -> dict[str, str]:
    """Does the job. Returns path, title and how; raises whatever the libraries raise."""
    if job.media and not looks_like_media(urlsplit(job.link).path):
        from vividcover.song import _fetch_pages as pages  # yt-dlp takes a moment to load

        if pages.knows(job.link):
            return pages.fetch_page(job, Progress(job), say)
    found = fetch_direct(job, Progress(job))
    if found is None:  # a page or a playlist
        from vividcover.song import _fetch_pages as pages

        return pages.fetch_page(job, Progress(job), say)
    return found


def fetch_direct(job: Job, progress: Callable[[int, int | None], None]) -> dict[str, str] | None:
    """A plain download, every redirect checked. None when media was asked for and it is a page or a playlist."""
    import httpx

    cookies = _cookies(job.cookies)
    with httpx.Client(
        trust_env=False, verify=_certificates(), proxy=job.proxy, cookies=cookies, timeout=SILENCE,
        follow_redirects=False, headers={"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
    ) as client:  # fmt: skip
        link = direct_link(job.link)
        home = _origin(link)
        for _ in range(MAX_REDIRECTS + 1):
            check_link(link, job.allow)
            with client.stream("GET", link, headers=job.headers if _origin(link) == home else None) as response:
                if response.has_redirect_location:
                    link = urljoin(link, response.headers["location"])
                    continue
                if response.status_code >= 400:
                    raise status_error(link, response.status_code)
                return _receive(job, response, progress)
    raise LinkError(f"The link {show(job.link)} was redirected more than {MAX_REDIRECTS} times.", "Use another link.")


def _origin(link: str) -> tuple[str, str]:
    """Scheme, host and port: what a secret that is sent to a site is meant for."""
    parts = urlsplit(link)
    return parts.scheme, parts.netloc.lower()


def _receive(job: Job, response: httpx.Response, progress: Callable[[int, int | None], None]) -> dict[str, str] | None:
    link, declared = str(response.url), response.headers.get("content-type", "").split(";")[0].strip().lower()
    if any(name.startswith("icy-") for name in response.headers):
        raise LinkError(f"The link {show(link)} is a live radio stream, which has no end.", "Give a recording.")
    length = response.headers.get("content-length", "")
    total = int(length) if length.isdigit() and "content-encoding" not in response.headers else None
    progress(0, total)
    chunks, head, done = response.iter_bytes(CHUNK), b"", 0
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD:
            break
    kind, suffix = kind_of(head, declared)
    if job.media and kind in ("page", "playlist"):
        return None
    _check_kind(job, link, kind, declared, head)
    title = _title(response, link)
    path = Path(job.folder) / ("download" + (suffix or Path(title).suffix[:16]))
    with path.open("xb") as file:
        done = file.write(head)
        progress(done, total)
        for chunk in chunks:
            done += file.write(chunk)
            progress(done, total)
    if not done:
        raise LinkError(f"The link {show(link)} gave an empty file (0 bytes).", "Use another link.")
    return {"path": str(path), "title": title, "how": "direct"}


def _check_kind(job: Job, link: str, kind: str, declared: str, head: bytes) -> None:
    if not head:
        raise LinkError(f"The link {show(link)} gave an empty file (0 bytes).", "Use another link.")
    if kind == "page":
        raise LinkError(
            f"The link {show(link)} is a web page (text/html), not a file.",
            "Copy the address of the download button itself, or download it yourself and give the file.",
        )
    if job.media and kind not in ("media", "unknown"):
        raise not_audio(link, f"{kind} ({declared})" if declared else kind)


def direct_link(link: str) -> str:
    """The download behind the viewer page of two sites where models and recordings are often kept."""
    parts = urlsplit(link)
    if parts.hostname == "huggingface.co" and "/blob/" in parts.path:
        return link.replace("/blob/", "/resolve/", 1)
    if parts.hostname in ("www.dropbox.com", "dropbox.com") and "dl=0" in parts.query:
        return link.replace("dl=0", "dl=1", 1)
    return link


def _title(response: httpx.Response, link: str) -> str:
    """The name of the file as the site calls it: Content-Disposition (RFC 6266), else the end of the link."""
    header = Message()
    header["content-disposition"] = response.headers.get("content-disposition", "")
    name = header.get_filename() or unquote(urlsplit(link).path.rpartition("/")[2]) or urlsplit(link).hostname or ""
    name = re.sub(r'[\x00-\x1f\x7f/\\<>:"|?*]', "_", name).strip(" .")
    return name[:120] or "download"


def _cookies(path: str | None) -> Any:
    if path is None:
        return None
    from http.cookiejar import LoadError, MozillaCookieJar

    jar = MozillaCookieJar(path)
    try:
        jar.load(ignore_discard=True, ignore_expires=True)
    except (LoadError, UnicodeDecodeError) as error:
        raise LinkError(
            f"{Path(path).name} is not a cookies file in Netscape format.",
            "Export it with a browser extension such as “Get cookies.txt LOCALLY”.",
        ) from error
    for cookie in jar:
        if cookie.expires == 0:  # how browsers' exports write a cookie of the session
            cookie.expires, cookie.discard = None, True
    return jar


def _certificates() -> Any:
    """The system's certificates and certifi's: a company's own authority works, and so does a bare container."""
    import ssl

    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


# --- the process ----------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_answers: Any = None


def say(line: dict[str, Any]) -> None:
    with _lock:
        _answers.write(json.dumps(line).encode() + b"\n")
        _answers.flush()


def _end() -> None:
    """Ends this process and, where it leads a group of its own, whatever it started."""
    with contextlib.suppress(OSError, AttributeError):
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _watch_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    _end()


def _watch_memory(job: Job) -> None:
    """Ends the process when it holds too much. Linux only; elsewhere the limits on bytes and time remain."""
    memory = Path("/proc/self/statm")
    if not memory.exists():
        return
    while int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < MEMORY:
        time.sleep(0.1)
    _fail(LinkError(f"The page {show(job.link)} does not end.", "Use another link."))
    _end()


def _limit_files(job: Job) -> None:
    """No file may grow past the limit, whichever library writes it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (job.max_bytes + (1 << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _fail(error: VividCoverError) -> None:
    say({"error": [type(error).__name__, error.message, error.hint]})


def main() -> None:
    global _answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the answers
    data = json.loads(sys.stdin.buffer.readline())
    job = Job(**{**data, "allow": tuple((host, port) for host, port in data["allow"])})
    threading.Thread(target=_watch_parent, daemon=True).start()
    threading.Thread(target=_watch_memory, args=(job,), daemon=True).start()
    _limit_files(job)
    guard = Guard(job.allow)
    guard.install()
    try:
        say({"done": fetch(job)})
    except Exception as error:
        _fail(explain(error, job.link, guard.refused, login=job.cookies is not None))
    _answers.close()
    os._exit(0)


if __name__ == "__main__":
    main()
