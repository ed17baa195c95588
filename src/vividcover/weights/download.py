"""Files from the web: resumed where they were cut off, hashed as they arrive, and there whole or not at all.

    with httpx.Client(…): fetch(net, folder, progress)      # folder/<file>, or an error that says what to do

What has arrived lies beside the file as `.<name>.partial`, and the next pull goes on from there. The hash decides
what a file is, so a mirror, or a proxy that answers with a page of its own, cannot slip something else in. Where nobody
has published a hash, the hub's own counts: it names a large file's sha256, and a small one's git hash, as it sends it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx

from vividcover.errors import StorageError, WeightsError
from vividcover.files import storage_errors
from vividcover.settings import settings
from vividcover.weights.sources import Net, Url, endpoint

CHUNK = 1 << 18  # bytes
TRIES = 4  # in a row that bring not a byte, before the next address
PAUSE = 1.0  # seconds before the first further try; twice as long before each next one
TIMEOUT = httpx.Timeout(30.0, connect=15.0)  # seconds without a byte
LIMIT = 4 << 30  # bytes of a file whose size nobody has published; of a large network's, eight times as many
SPARE = 64 << 20  # bytes that must stay free on the disk
AGENT = "vividcover"
TOKENS = "https://huggingface.co/settings/tokens"
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that another try may not meet
Progress = Callable[[int, int], None]  # bytes that are here, bytes in all (0: not known)


class Stopped(Exception):
    """The user wants to stop; what has arrived stays for the next time."""


class Failure(Exception):
    """An address cannot serve the file. `again`: another try may bring it; `status`: what it answered."""

    def __init__(self, why: str, again: bool = False, status: int = 0) -> None:
        super().__init__(why)
        self.again, self.status = again, status


class Absent(WeightsError):
    """Nobody has the file."""


def fetch(wanted: Net, folder: Path, progress: Progress, stop: threading.Event) -> Path:
    """Fetches one net into `folder`, from the first address that serves it.

    Raises `WeightsError` (nobody serves it, or what they serve is something else), `StorageError`, `Stopped`.
    """
    assert isinstance(wanted.source, Url)
    target = folder / wanted.file
    part = _part(target)
    failures, statuses = [], set()
    with storage_errors(wanted.file, folder):
        target.parent.mkdir(parents=True, exist_ok=True)
    for address in wanted.source.addresses():
        try:
            _patiently(address, wanted, part, progress, stop)
        except Failure as failure:
            failures.append(f"{httpx.URL(address).host}: {failure}")
            statuses.add(failure.status)
            continue
        with storage_errors(wanted.file, folder):
            part.replace(target)
        return target
    hint = let_in(wanted, folder) if statuses & {401, 403} and wanted.gated else by_hand(wanted, folder)
    error = Absent if statuses == {404} else WeightsError
    raise error(f"The weights {wanted.name!r} could not be fetched ({'; '.join(failures)}).", hint)


def let_in(wanted: Net, folder: Path) -> str:
    """How to be let into a repository whose licence has to be accepted first."""
    steps = (
        f"Log in to Hugging Face and accept the licence on {wanted.gated}; make a token that may read at {TOKENS}; "
        f"set VIVIDCOVER_HF_TOKEN (or HF_TOKEN) to it; run `vividcover weights pull {wanted.name}` again."
    )
    if settings().hf_token:
        steps = (
            f"The token in VIVIDCOVER_HF_TOKEN (or HF_TOKEN) is not let in. Accept the licence on {wanted.gated} with "
            f"the account that it belongs to; at {TOKENS} see that it is valid and may read gated repositories."
        )
    return f"{steps} Or lay the file here by hand: {folder / wanted.file}."


def by_hand(wanted: Net, folder: Path) -> str:
    """What to do on a machine that cannot reach the source."""
    assert isinstance(wanted.source, Url)
    target = folder / wanted.file
    return (
        f"Check the network and run `vividcover weights pull {wanted.name}` again: it goes on where it was. "
        f"Or download {wanted.source.page} on any machine and lay it here as {target}."
    )


def _patiently(address: str, wanted: Net, part: Path, progress: Progress, stop: threading.Event) -> None:
    """Tries an address until the file is whole, or until `TRIES` tries in a row have brought nothing."""
    idle = 0
    while True:
        before = _size(part)
        try:
            _attempt(address, wanted, part, progress, stop)
            return
        except Failure as failure:
            idle = 0 if _size(part) > before else idle + 1
            if not failure.again or idle >= TRIES:
                raise
        if stop.wait(min(30.0, PAUSE * 2 ** max(0, idle - 1))):
            raise Stopped


def _attempt(address: str, wanted: Net, part: Path, progress: Progress, stop: threading.Event) -> None:
    """One request. Leaves `part` whole and checked, or raises `Failure`."""
    digest, have = _begun(part, stop)
    earlier, expected = have, wanted.sha256
    if wanted.size and have > wanted.size:  # something else
        part.unlink()
        digest, have = hashlib.sha256(), 0
    if not have or digest.hexdigest() != wanted.sha256:  # else an earlier pull was stopped just before the end
        try:
            with (
                httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client,
                client.stream("GET", address, headers=_headers(address, wanted, have)) as answer,
            ):
                if not _continues(answer, address, have, part):
                    digest, have = hashlib.sha256(), 0
                expected = expected or _told(answer)
                have = _receive(answer, wanted, part, have, digest, progress, stop)
        except httpx.HTTPError as error:
            raise Failure(_said(error), again=not isinstance(error, httpx.TooManyRedirects)) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise Failure(str(error)) from error
    if wanted.size and have < wanted.size:
        raise Failure(f"the connection ended after {have:,} of {wanted.size:,} bytes", again=True)
    found = digest.hexdigest()
    if found != _sha256(expected, part, found):
        part.unlink(missing_ok=True)
        why = f"what came has sha256 {found[:12]}…, not {expected[:12]}…: not used"
        raise Failure(why, again=earlier > 0)  # perhaps what an earlier pull had left was at fault: once more, anew
    if _begun(part, stop)[0].hexdigest() != found:  # what lies on the disk is what counts
        part.unlink(missing_ok=True)
        raise Failure("the file on the disk is not what came: another pull wrote to it", again=True)


def _headers(address: str, wanted: Net, have: int) -> dict[str, str]:
    """The user's token goes to the hub alone, and only for what asks for it; httpx drops it where that leads on."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    token = settings().hf_token if wanted.gated and address.startswith(f"{endpoint()}/") else ""
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def _told(answer: httpx.Response) -> str:
    """The hash that the hub names for a file that nobody else has published one of: sha256, git's, or none."""
    for name in ("x-linked-etag", "etag"):
        for hop in (*answer.history, answer):
            value: str = hop.headers.get(name, "").removeprefix("W/").strip('"').lower()
            if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", value):
                return value
    return ""


def _sha256(expected: str, part: Path, found: str) -> str:
    """The sha256 that the file should have, where `expected` is one, git's hash of its bytes, or nothing."""
    if len(expected) != 40:
        return expected or found
    with storage_errors(part.name, part.parent):
        data = part.read_bytes()  # what is not large: the hub keeps large files outside of git
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return found if blob == expected else expected


def _begun(part: Path, stop: threading.Event) -> tuple[hashlib._Hash, int]:
    """The hash and the number of the bytes that an earlier pull has brought."""
    digest, have = hashlib.sha256(), 0
    with storage_errors(part.name, part.parent):
        try:
            with part.open("rb") as file:
                while chunk := file.read(CHUNK):
                    if stop.is_set():
                        raise Stopped
                    digest.update(chunk)
                    have += len(chunk)
        except FileNotFoundError:
            pass
    return digest, have


def _continues(answer: httpx.Response, address: str, have: int, part: Path) -> bool:
    """Whether the answer goes on from byte `have`; False: it starts anew. Raises `Failure` for any other answer."""
    bare = [hop.url.host for hop in (*answer.history, answer) if hop.url.scheme != "https"]
    if address.startswith("https://") and bare:
        raise Failure(f"it leads to {bare[0]} without encryption")
    if answer.status_code == 416:  # there is nothing after `have`: what lies here is no beginning of this file
        part.unlink(missing_ok=True)
        raise Failure("it has fewer bytes than have already come", again=True)
    if answer.status_code in (401, 403):
        raise Failure(f"lets nobody in without leave (answers {answer.status_code})", status=answer.status_code)
    if answer.status_code not in (200, 206):
        raise Failure(f"answers {answer.status_code}", answer.status_code in PASSING, answer.status_code)
    begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if answer.status_code == 206 and begins != str(have):
        part.unlink(missing_ok=True)
        raise Failure(f"sends another part than was asked for ({answer.headers.get('Content-Range')})", again=True)
    return have > 0 and answer.status_code == 206


def _receive(
    answer: httpx.Response, wanted: Net, part: Path, have: int, digest: hashlib._Hash, progress: Progress,
    stop: threading.Event,
) -> int:  # fmt: skip
    """Writes what comes after the first `have` bytes; returns how many there are now."""
    length = answer.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else wanted.size
    if wanted.size and total and total != wanted.size:
        raise Failure(f"offers {total:,} bytes, where {wanted.size:,} were published")
    limit = wanted.size or LIMIT * (8 if wanted.either else 1)
    _room(part.parent, total - have, wanted)
    with storage_errors(wanted.file, part.parent), part.open("ab" if have else "wb") as file:
        for chunk in answer.iter_raw():
            if stop.is_set():
                raise Stopped
            file.write(chunk)
            file.flush()  # a pull that was stopped may still hang here: it must have nothing left to write
            digest.update(chunk)
            have += len(chunk)
            progress(have, total)
            if have > limit:
                part.unlink()
                raise Failure(f"sends more than {limit:,} bytes")
    if total and have < total:
        raise Failure(f"the connection ended after {have:,} of {total:,} bytes", again=True)
    return have


def _room(folder: Path, needed: int, wanted: Net) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise StorageError(
            f"The weights {wanted.name!r} need {needed / 1e6:.0f} MB more in {folder}; {free / 1e6:.0f} MB are free.",
            "Free some space, or set VIVIDCOVER_WEIGHTS_DIR to a folder on a larger disk.",
        )


def partial(target: Path) -> int:
    """Bytes of a file that an earlier pull has brought."""
    return _size(_part(target))


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _said(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout):
        return "does not answer"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection was cut"
    return str(error) or type(error).__name__
