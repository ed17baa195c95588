"""Why a link could not be fetched, in words: from status codes, exceptions of HTTP libraries, and yt-dlp's messages."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator

from vividcover.errors import LinkError, StorageError, VividCoverError
from vividcover.song.guard import PUBLIC_ONLY, Refused, show

UPLOAD = "download it yourself in the browser and give the file."
LOGIN = f"Use --cookies FILE with the cookies of your browser (Netscape format), or {UPLOAD}"
ELSEWHERE = f"Check that it opens in a browser; then try again later, or {UPLOAD}"

STATUS = {
    401: ("asks for a login (401)", LOGIN),
    402: ("asks for payment (402)", f"If it is yours, {UPLOAD}"),
    403: ("refuses to hand this out to programs, or asks for a login (403)", LOGIN),
    404: ("has nothing there (404 Not Found)", "Check the link for typing errors."),
    407: ("stands behind a proxy that asks for a login (407)", "Check the proxy."),
    410: ("has removed it (410 Gone)", "Use another link."),
    429: ("says that there were too many requests (429)", f"Wait some minutes and try again, or {UPLOAD}"),
    451: ("may not show it for legal reasons (451)", "Use another link."),
}

YT_DLP = (  # pattern in yt-dlp's message, what it means, what to do; the first that fits
    (r"\bDRM\b", "is protected against copying (DRM)", "Use another source."),
    (
        r"in your country|geo.?restrict|geo.?block|not available (from|in) your (location|region)",
        "may not be played in this country",
        f"Use another link, or {UPLOAD}",
    ),
    (
        r"sign in|log ?in\b|logged.in|--cookies|private (video|account)|is private|confirm your age|age.restrict|"
        r"members.only|join this channel|not a bot|authenticat|password|registered users|account|subscri",
        "asks for a login",
        LOGIN,
    ),
    (r"premieres? in|live event will begin|is_upcoming|offline", "has not begun yet", "Come back when it is over."),
    (
        r"Requested format is not available|No video formats found|challenge|nsig|signature",
        "gave no audio that can be downloaded",
        f"Sites change often: update with `pip install -U yt-dlp`; YouTube needs `vividcover[youtube]`; or {UPLOAD}",
    ),
    (r"no longer available|unavailable|has been removed|been terminated|does not exist|not available|not found",
     "is not available", "Check that it plays in a browser, or use another link."),
)  # fmt: skip


def status_error(link: str, status: int) -> LinkError:
    """For an HTTP status that is not a success."""
    site = show(link)
    if status in STATUS:
        what, hint = STATUS[status]
        return LinkError(f"The site {what}: {site}", hint)
    if status >= 500:
        return LinkError(f"The site has a problem of its own ({status}): {site}", ELSEWHERE)
    return LinkError(f"The site answered with status {status}: {site}", ELSEWHERE)


def explain(error: BaseException, link: str, refused: list[str], *, login: bool = False) -> VividCoverError:
    """The error to show for whatever went wrong while fetching; `login` says that cookies were given already."""
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, VividCoverError):
            return one
    if refused or any(isinstance(one, Refused) for one in chain):
        how = refused[-1] if refused else next(str(one) for one in chain if isinstance(one, Refused))
        return LinkError(f"The link {show(link)} leads to a private address: {how}.", PUBLIC_ONLY)
    for one in chain:
        if found := _network(one, link):
            return found
    return _site(chain, link, login)


def _network(error: BaseException, link: str) -> VividCoverError | None:
    """For failures below HTTP: names, routes, TLS, time, disk."""
    site = show(link)
    if isinstance(error, socket.gaierror):
        return LinkError(f"The site's name cannot be found: {site}", "Check the spelling, and the internet connection.")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or "not trusted"
        return LinkError(f"The site's certificate is not valid ({reason}): {site}", f"Check the clock, or {UPLOAD}")
    if isinstance(error, ssl.SSLError):
        return LinkError(
            f"No secure connection (TLS) could be made: {site}", "Check whether it is http:// or https://."
        )
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return LinkError(f"The site stopped answering: {site}", ELSEWHERE)
    if isinstance(error, ConnectionRefusedError):
        return LinkError(f"Nobody answers there (connection refused): {site}", "Check the link and its port.")
    if isinstance(error, ConnectionError):
        return LinkError(f"The connection broke: {site}", ELSEWHERE)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL):
        return LinkError(f"The site cannot be reached (no route): {site}", "Check the internet connection.")
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return StorageError("The disk is full: the download could not be written.", "Free some space and try again.")
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return status_error(link, status)
    if type(error).__name__ in ("RemoteProtocolError", "IncompleteRead"):
        return LinkError(f"The connection ended in the middle of the download: {site}", ELSEWHERE)
    return None


def _site(chain: list[BaseException], link: str, login: bool) -> LinkError:
    """For what yt-dlp says about a page."""
    text = _clean(str(chain[0]))
    if any(type(one).__name__ == "UnsupportedError" for one in chain):
        return not_audio(link, "a web page (text/html)")
    for pattern, what, hint in YT_DLP:
        if re.search(pattern, text, re.IGNORECASE):
            if hint == LOGIN and login:
                hint = f"The cookies did not help; export them again from a browser where it plays, or {UPLOAD}"
            return LinkError(f"The site {what}: {show(link)} ({text})", hint)
    return LinkError(f"{show(link)} could not be fetched ({text}).", ELSEWHERE)


def not_audio(link: str, what: str) -> LinkError:
    return LinkError(
        f"The link {show(link)} is {what}, not audio.",
        f"Give a link to the song itself or to a page that yt-dlp knows, or {UPLOAD}",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything that caused it, as Python, urllib (`reason`) and yt-dlp (`exc_info`) keep it."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        info = getattr(one, "exc_info", None)
        waiting += [getattr(one, name, None) for name in ("orig_msg", "reason", "cause", "__cause__", "__context__")]
        waiting += list(info) if isinstance(info, tuple) else []


def _clean(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).removeprefix("ERROR: ")
    text = re.split(r"; please report this issue|\. Use --cookies|\. See +https", text)[0]
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "…"
