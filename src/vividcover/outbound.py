"""Requests to links that strangers gave: webhooks, and looks at inputs before they are fetched.

A name is resolved once and every one of its addresses is checked; the connection then goes to such an address itself,
so that a name which changes its answer in between (DNS rebinding) gains nothing. A redirect is a request like any
other: it is checked again. What may be reached although it is private is named by the operator's `private_hosts`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx

from vividcover.errors import LinkError
from vividcover.song import guard

if TYPE_CHECKING:
    from vividcover.song.guard import Endpoint

PRIVATE = "Only addresses on the public internet are reached. The operator can name others: VIVIDCOVER_PRIVATE_HOSTS."
RESOLVE_SECONDS = 10.0
PROBE_SECONDS = 3.0
MAX_REDIRECTS = 8
AGENT = "vividcover"
GONE = (404, 410)


def check_link(link: str, allow: Collection[Endpoint] = ()) -> None:
    """What can be said without asking any name. Raises `LinkError`: no http(s) link, a private address, an odd port."""
    try:
        guard.check_link(link, allow)
    except LinkError as error:
        # the other hints are written for somebody who could give a file instead
        hint = PRIVATE if error.hint == guard.PUBLIC_ONLY else "Give a link that begins with https:// or http://."
        raise LinkError(error.message, hint) from None
    try:
        httpx.URL(link)
    except httpx.InvalidURL as error:
        raise LinkError(f"The link “{guard.show(link)}” is malformed: {error}.", "Copy it once more.") from None


async def check_target(link: str, allow: Collection[Endpoint] = ()) -> None:
    """Raises `LinkError` for a link that is malformed or leads, today, to a private address.

    A name that cannot be resolved passes: it may be there when it is needed, and it is checked again then.
    """
    check_link(link, allow)
    url = httpx.URL(link)
    try:
        await addresses_of(url.host, _port(url), allow)
    except Unresolved:
        return


async def probe(link: str, allow: Collection[Endpoint] = (), timeout: float = PROBE_SECONDS) -> None:
    """Looks whether something is behind a link, redirects followed, without reading it.

    Raises `LinkError` for a private address at any hop, a name that does not exist, a host that answers nothing, 404
    and 410. A site that is slow or refuses strangers passes: whoever fetches it has more time and other means.
    """
    check_link(link, allow)
    try:
        async with (
            asyncio.timeout(timeout),
            client(allow, timeout, follow_redirects=True) as http,
            http.stream("GET", link) as response,
        ):
            if response.status_code in GONE:
                raise LinkError(
                    f"Nothing is behind {guard.show(link)}: its site answers {response.status_code}.",
                    "Check the link in a browser.",
                )
    except httpx.TooManyRedirects:
        raise LinkError(f"The link {guard.show(link)} is redirected without end.", "Use another link.") from None
    except (TimeoutError, httpx.TimeoutException):
        return
    except httpx.ConnectError as error:
        raise LinkError(
            f"The site of {guard.show(link)} cannot be reached: {error}.", "Check the link in a browser."
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL):
        return


class Unresolved(LinkError):
    """A name that has no address, at least now."""


async def addresses_of(host: str, port: int, allow: Collection[Endpoint] = ()) -> list[str]:
    """The addresses of a host, each checked. Raises `LinkError` when one of them is private, `Unresolved`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise Unresolved(f"The site {host} is not found: {_why(error)}.", "Check the link.") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    for address in addresses:
        if not _permitted(host, address, port, allow):
            raise LinkError(f"The site {host} is at the private address {address}.", PRIVATE)
    return addresses


def client(allow: Collection[Endpoint], timeout: float, *, follow_redirects: bool = False) -> httpx.AsyncClient:
    """An HTTP client that reaches public addresses only. Raises `LinkError` where httpx would connect."""
    return httpx.AsyncClient(
        transport=Guarded(allow), timeout=timeout, trust_env=False, follow_redirects=follow_redirects,
        max_redirects=MAX_REDIRECTS, headers={"User-Agent": AGENT},
    )  # fmt: skip


class Guarded(httpx.AsyncBaseTransport):
    """Connects to the address that was checked; the certificate is still judged by the name."""

    def __init__(self, allow: Collection[Endpoint] = ()) -> None:
        self._allow = frozenset(allow)
        # no connection is kept: one to an address would serve every name there, whoever's certificate was shown
        self._inner = httpx.AsyncHTTPTransport(
            verify=certificates(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        check_link(str(url), self._allow)
        addresses = await addresses_of(url.host, _port(url), self._allow)
        for number, address in enumerate(addresses, 1):
            pinned = httpx.Request(
                request.method, url.copy_with(host=address), headers=request.headers, stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )  # fmt: skip
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise Unresolved(f"The site {url.host} has no address.", "Check the link.")

    async def aclose(self) -> None:
        await self._inner.aclose()


@lru_cache
def certificates() -> ssl.SSLContext:
    """The system's authorities (and those of SSL_CERT_FILE), with certifi's: a bare container has none."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _permitted(host: str, address: str, port: int, allow: Collection[Endpoint]) -> bool:
    if (host, port) in allow or (address, port) in allow:
        return True
    try:
        return guard.sane_port(port) and guard.is_public(ipaddress.ip_address(address))
    except ValueError:
        return False


def _why(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error or "no answer")
