"""No way from a stranger's link to private addresses, by redirect, DNS or odd spelling.

The process that fetches (`song/_fetch_child.py`) calls `install` before it opens anything. From then on

- every name that Python resolves is resolved once, every one of its addresses is checked, and a single private one
  refuses the name;
- every connection that Python opens is checked again where it is opened (an audit hook, PEP 578, which cannot be
  removed): it must be to a literal, public address and to a port of the web. So what was checked is what is connected
  to: a name that changes its answer in between (DNS rebinding) gains nothing, nor does 127.1, 0x7f000001, 2130706433;
- no program is started (it would bring its own sockets), except deno, which yt-dlp runs without network permission.

`allow` is for tests and for an operator's own storage: exact (address, port) pairs, which the operator's setting
`private_hosts` names. No link and no page can set it.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890); RFC 6052 (NAT64), RFC 4380 (Teredo), RFC 3056
(6to4), RFC 4291 (IPv4-mapped); ports that browsers block: WHATWG Fetch, "bad port".
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vividcover.errors import LinkError

Endpoint = tuple[str, int]  # (address as text, port)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # everything else is local, multicast, mapped or unassigned …
PRIVATE_V6 = tuple(  # … and these are not hosts of the web either
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments, with Teredo, which embeds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, embeds an IPv4 address
        "3fff::/20",  # documentation
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how IPv6-only networks reach IPv4: judged by the address inside

WEB_PORTS = (80, 443)  # and everything from 1024 up, except these
BAD_PORTS = frozenset((1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697,
                       10080))  # fmt: skip
MAX_LINK = 4096  # characters
PROGRAMS = frozenset(("deno", "deno.exe"))
STARTS = frozenset(("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"))

PUBLIC_ONLY = "For safety only addresses on the public internet are fetched. Download it yourself and give the file."


class Refused(OSError):
    """A connection that the guard did not allow. An OSError, so that every HTTP library hands it on."""


def is_public(address: Address) -> bool:
    """Whether an address is a host on the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in PRIVATE_V4)
    if address in NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.scope_id is not None or address not in PUBLIC_V6:
        return False
    return not any(address in block for block in PRIVATE_V6)


def literal(host: str) -> Address | None:
    """The address that a host spells, in any way that a resolver understands without asking (0x7f.1, 2130706433)."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if re.fullmatch(r"[0-9a-fA-FxX.]+", host) else None
    except OSError:
        return None


def sane_port(port: int) -> bool:
    return (port in WEB_PORTS or 1024 <= port <= 65535) and port not in BAD_PORTS


def check_link(link: str, allow: Collection[Endpoint] = ()) -> SplitResult:
    """The parts of an acceptable http(s) link. Raises `LinkError` for what can be refused without asking any name."""
    shown = show(link)
    if len(link) > MAX_LINK:
        raise LinkError(f"The link is {len(link)} characters long.", "Give a shorter link.")
    if re.search(r"[\s\x00-\x1f\x7f\\]", link):
        raise LinkError(f"The link “{shown}” contains spaces, control characters or backslashes.", "Copy it once more.")
    if "__youtubedl_smuggle" in link:  # how yt-dlp's readers pass orders to each other
        raise LinkError(f"The link “{shown}” carries orders for yt-dlp.", "Remove the part after the #.")
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError as error:
        raise LinkError(f"The link “{shown}” is malformed: {error}.", "Copy it once more.") from error
    if parts.scheme not in ("http", "https"):
        raise LinkError(f"The link “{shown}” is not http or https.", "Give a web link, or the path of a file.")
    if not parts.hostname:
        raise LinkError(f"The link “{shown}” names no site.", "Copy it once more, beginning with https://.")
    if "@" in parts.netloc:
        raise LinkError(
            f"The link to {parts.hostname} contains a user name or password.",
            "Remove the part before the @; for sites that ask for a login use --cookies FILE.",
        )
    port = port if port is not None else (443 if parts.scheme == "https" else 80)
    if (parts.hostname, port) in allow:
        return parts
    if not sane_port(port):
        raise LinkError(f"The link “{shown}” uses port {port}, which is not a port of the web.", PUBLIC_ONLY)
    address = literal(parts.hostname)
    if address is not None and not is_public(address):
        raise LinkError(f"The link “{shown}” leads to the private address {address}.", PUBLIC_ONLY)
    return parts


def show(link: str) -> str:
    """A link for messages: printable, short, without what may be secret after the ?."""
    link = re.sub(r"//[^/@]*@", "//", link.split("?")[0].split("#")[0])
    link = "".join(character if character.isprintable() else "?" for character in link)
    return link if len(link) <= 120 else link[:117] + "…"


class Guard:
    """The checks of one process. `refused` keeps what was turned away, for the error message."""

    def __init__(
        self, allow: Collection[Endpoint] = (), resolve: Callable[..., list[tuple[Any, ...]]] = socket.getaddrinfo
    ) -> None:
        self._allow = frozenset((str(ipaddress.ip_address(host)), int(port)) for host, port in allow)
        self._resolve = resolve
        self.refused: list[str] = []

    def permits(self, host: object, port: object) -> bool:
        """Whether a connection to this literal address and port may be opened."""
        if not isinstance(host, str) or not isinstance(port, int):
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False  # a name: it would be resolved behind our back
        return (str(address), port) in self._allow or (sane_port(port) and is_public(address))

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        """`socket.getaddrinfo` that refuses a name with any address that may not be connected to."""
        answers = self._resolve(host, port, *args, **kwargs)
        for answer in answers:
            self._demand(answer[4], f"{_text(host)} is at")
        return answers

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """The last look, where the interpreter itself opens a connection or starts a program."""
        if event == "socket.connect":
            self._demand(args[1], "it leads to")
        elif event in ("socket.sendto", "socket.sendmsg", "socket.bind") or event in STARTS:
            raise Refused(f"{event} is not allowed while fetching")
        elif event == "subprocess.Popen":
            program = Path(_text(args[0] or args[1][0])).name.lower()
            if program not in PROGRAMS:
                raise Refused(f"starting {program} is not allowed while fetching")

    def _demand(self, address: Any, how: str) -> None:
        host, port = address[:2] if isinstance(address, tuple) and len(address) >= 2 else (address, None)
        if not self.permits(host, port):
            shown = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
            self.refused.append(f"{how} {shown}")
            raise Refused(f"{how} {shown}, which is not on the public internet")

    def install(self) -> None:
        """Puts the guard into this process, for good."""
        socket.getaddrinfo = self.getaddrinfo
        sys.addaudithook(self.audit)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
