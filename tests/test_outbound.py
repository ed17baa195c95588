"""Requests to strangers' links: public addresses only, whatever a name, a spelling or a redirect says."""

from __future__ import annotations

import asyncio
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from vividcover import outbound
from vividcover.errors import LinkError

Resolve = Callable[..., Awaitable[list[Any]]]


class Site:
    """A real HTTP server on a loopback address, at `localhost` too. `answers`: path → status, headers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        self.seen: list[tuple[str, str]] = []  # path, Host header
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append((self.path, self.headers["Host"]))
                status, headers = site.answers.get(self.path, (200, {}))
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.allow = frozenset({("127.0.0.1", self.port)})
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def names(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """From now on these names (`_` stands for a dot) are at these addresses, a list after the other; who was asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(str(host))
        answers = hosts.get(str(host).replace(".", "_"))
        if answers is None:
            return real(host, port, *args, **kwargs)
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [info for one in address.split() for info in real(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def refused(link: str, allow: frozenset[tuple[str, int]] = frozenset()) -> str:
    with pytest.raises(LinkError) as caught:
        asyncio.run(outbound.probe(link, allow))
    return str(caught.value)


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1/", "http://localhost/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/",
        "http://0.0.0.0/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/",
        "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://10.0.0.8/", "http://192.168.1.1:8080/",
        "http://100.64.0.1/", "http://[fd00::1]/", "http://[fe80::1]/",
    ],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_reached(link: str) -> None:
    assert "private address" in refused(link)
    with pytest.raises(LinkError, match="private address"):
        asyncio.run(outbound.check_target(link))


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("ftp://example.com/", "not http or https"), ("file:///etc/passwd", "not http or https"), ("", "not http"),
        ("http://example.com:22/", "port 22"), ("http://user:secret@example.com/", "user name or password"),
        ("http:///x", "names no site"), ("http://exa mple.com/", "spaces"), ("http://[::1", "malformed"),
        ("http://010.8.8.8/", "malformed: Invalid IPv4"), ("https://" + "a" * 5000, "characters long"),
    ],
)  # fmt: skip
def test_what_is_no_link_of_the_web_is_refused_in_words(link: str, why: str) -> None:
    for check in (outbound.check_target, outbound.probe):
        with pytest.raises(LinkError, match=why) as caught:
            asyncio.run(check(link))
        assert caught.value.hint and "secret" not in str(caught.value)


def test_a_redirect_to_a_private_address_is_not_followed(site: Site) -> None:
    site.answers["/away"] = (302, {"Location": "http://169.254.169.254/latest/"})
    inner = Site()
    site.answers["/inside"] = (307, {"Location": f"http://127.0.0.1:{inner.port}/secret"})
    assert "169.254.169.254" in refused(f"http://127.0.0.1:{site.port}/away", site.allow)
    assert "127.0.0.1" in refused(f"http://127.0.0.1:{site.port}/inside", site.allow)
    assert inner.seen == []
    inner.close()


def test_a_name_that_changes_its_answer_is_reached_where_it_was_checked_or_not_at_all(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a public address while it is checked, a private one a moment later."""
    asked = names(monkeypatch, rebind_test=["8.8.8.8", "127.0.0.1"])
    with pytest.raises((LinkError, httpx.HTTPError, TimeoutError)):
        asyncio.run(asyncio.wait_for(_get(f"http://rebind.test:{site.port}/"), 0.5))
    assert asked.count("rebind.test") == 1, "it is asked once, so there is no second answer to use"
    assert site.seen == []
    assert "private address 127.0.0.1" in refused(f"http://rebind.test:{site.port}/")
    assert site.seen == []


async def _get(link: str, allow: frozenset[tuple[str, int]] = frozenset()) -> httpx.Response:
    async with outbound.client(allow, 5.0) as http:
        return await http.get(link)


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, mixed_test=["8.8.8.8 10.0.0.1"])
    with pytest.raises(LinkError, match=r"mixed\.test is at the private address 10\.0\.0\.1"):
        asyncio.run(outbound.check_target("https://mixed.test/hook"))


def test_what_the_operator_names_is_reached_by_address_and_by_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, receiver_test=["127.0.0.1"])
    for link, allow in (
        (f"http://127.0.0.1:{site.port}/a", site.allow),
        (f"http://receiver.test:{site.port}/b", site.allow),
        (f"http://receiver.test:{site.port}/c", frozenset({("receiver.test", site.port)})),
    ):
        asyncio.run(outbound.probe(link, allow))
    assert site.seen == [
        ("/a", f"127.0.0.1:{site.port}"), ("/b", f"receiver.test:{site.port}"), ("/c", f"receiver.test:{site.port}"),
    ]  # fmt: skip
    assert "private" in refused(f"http://receiver.test:{site.port + 1}/", site.allow)


def test_a_name_that_is_not_there_yet_may_be_a_target_but_not_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "not known")))
    asyncio.run(outbound.check_target("https://later.test/hook"))
    assert "later.test is not found: not known" in refused("https://later.test/song.mp3")


def test_what_is_gone_or_answers_nothing_is_said_and_what_is_slow_passes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f"http://127.0.0.1:{site.port}"
    site.answers |= {"/gone": (410, {}), "/no": (404, {}), "/login": (403, {}), "/broken": (500, {})}
    site.answers["/round"] = (302, {"Location": "/round"})
    assert "answers 410" in refused(f"{here}/gone", site.allow) and "answers 404" in refused(f"{here}/no", site.allow)
    assert "without end" in refused(f"{here}/round", site.allow)
    for path in ("/login", "/broken"):
        asyncio.run(outbound.probe(here + path, site.allow))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        asyncio.run(outbound.probe(f"http://127.0.0.1:{port}/", {("127.0.0.1", port)}, timeout=0.2))
        assert time.monotonic() - began < 2
    assert "cannot be reached" in refused(f"http://127.0.0.1:{port}/", frozenset({("127.0.0.1", port)}))


def test_a_certificate_is_judged_by_the_name_and_not_by_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.test").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    site = Site(tls)
    names(monkeypatch, hooks_test=["127.0.0.1"], other_test=["127.0.0.1"])
    outbound.certificates.cache_clear()
    link = f"https://hooks.test:{site.port}/"
    assert "self-signed" in refused(link, site.allow) or "unable to get local issuer" in refused(link, site.allow)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    outbound.certificates.cache_clear()
    assert asyncio.run(_get(link, site.allow)).status_code == 200
    with pytest.raises(httpx.ConnectError, match=r"other\.test|ostname mismatch"):
        asyncio.run(_get(f"https://other.test:{site.port}/", site.allow))
    outbound.certificates.cache_clear()
    site.close()
