"""Links: what is fetched, what is refused, and that no way leads to private addresses."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vividcover.errors import Canceled, LinkError, NotFoundError, ParameterError
from vividcover.song import _fetch_child, _fetch_pages
from vividcover.song.fetch import FetchLimits, fetch_file, fetch_media, is_link
from vividcover.song.guard import Guard, Refused, check_link, is_public, literal
from vividcover.workspace import Silent

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]
LIMITS = FetchLimits(max_bytes=3_000_000, max_seconds=60.0, timeout=60.0)


class Server:
    """A real HTTP server on a loopback address; `pages` maps a path to what happens there."""

    def __init__(self, host: str) -> None:
        self.pages: dict[str, Answer] = {}
        self.seen: list[str] = []
        pages, seen = self.pages, self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                pages.get(self.path.split("?")[0], lambda h: h.send_error(404))(self)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None: ...

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *args: object) -> None: ...  # the client hung up, as it should

        self._server = Quiet((host, 0), Handler)
        self.port = int(self._server.server_address[1])
        self.at = (host, self.port)
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Server]:
    server = Server("127.0.0.1")
    yield server
    server.close()


@pytest.fixture
def secret() -> Iterator[list[Server]]:
    """Two services that no link may reach, on both loopback addresses."""
    servers = [Server("127.0.0.1"), Server("::1") if socket.has_dualstack_ipv6() else Server("127.0.0.1")]
    servers[1].url = f"http://[::1]:{servers[1].port}"
    for server in servers:
        server.pages["/audio.wav"] = give(wav(), "audio/wav")
    yield servers
    for server in servers:
        server.close()


def give(body: bytes, kind: str = "", **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        if kind:
            handler.send_header("Content-Type", kind)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def go(to: str, status: int = 302) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def pour(kind: str, block: bytes, pause: float = 0.0) -> Answer:
    """Never ends."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        while True:
            handler.wfile.write(block)
            time.sleep(pause)

    return answer


def wav(seconds: float = 1.0) -> bytes:
    import io
    import wave

    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.sin(np.arange(int(8000 * seconds)) * 0.3) * 9000).astype("<i2").tobytes())
    return out.getvalue()


def refuse(site: Server, path: str, folder: Path, limits: FetchLimits = LIMITS) -> LinkError:
    """Fetches what must fail; nothing may be left in the folder."""
    with pytest.raises(LinkError) as caught:
        fetch_media(site.url + path, folder, limits=limits, allow=frozenset({site.at}))
    assert list(folder.iterdir()) == []
    assert caught.value.hint
    return caught.value


# --- what is fetched -------------------------------------------------------------------------------------------------


def test_a_link_to_audio_comes_out_byte_for_byte_with_its_title(site: Server, tmp_path: Path) -> None:
    site.pages["/music/My%20Song.wav"] = give(wav(), "audio/wav")
    fetched = fetch_media(
        site.url + "/music/My%20Song.wav?token=1", tmp_path, limits=LIMITS, allow=frozenset({site.at})
    )
    assert (fetched.title, fetched.how, fetched.path) == ("My Song", "direct", tmp_path / "download.wav")
    assert fetched.path.read_bytes() == wav()
    assert list(tmp_path.iterdir()) == [fetched.path]


def test_a_redirect_to_an_allowed_place_is_followed_and_the_sites_own_name_is_used(
    site: Server, tmp_path: Path
) -> None:
    site.pages["/go"] = go("/a.bin")
    site.pages["/a.bin"] = give(wav(), "", Content_Disposition='attachment; filename="../Lied.wav"')
    fetched = fetch_media(site.url + "/go", tmp_path, limits=LIMITS, allow=frozenset({site.at}))
    assert fetched.title == "_Lied" and fetched.path.parent == tmp_path


def test_the_sound_of_a_page_is_found_by_yt_dlp(site: Server, tmp_path: Path) -> None:
    site.pages["/page"] = give(b"<!doctype html><title>Vivi live</title><audio src='/s.wav'></audio>", "text/html")
    site.pages["/s.wav"] = give(wav(), "audio/wav")
    reporter = Silent()
    fetched = fetch_media(site.url + "/page", tmp_path, limits=LIMITS, allow=frozenset({site.at}), reporter=reporter)
    assert fetched.path.read_bytes() == wav()
    assert fetched.how.startswith("yt-dlp:") and "Vivi live" in fetched.title


def test_of_several_pieces_on_a_page_the_first_is_taken_with_a_note(site: Server, tmp_path: Path) -> None:
    site.pages["/page"] = give(
        b"<html><title>Two</title><audio src='/s.wav'></audio><audio src='/t.wav'></audio></html>", "text/html"
    )
    site.pages["/s.wav"] = site.pages["/t.wav"] = give(wav(), "audio/wav")
    reporter = Silent()
    fetched = fetch_media(site.url + "/page", tmp_path, limits=LIMITS, allow=frozenset({site.at}), reporter=reporter)
    assert fetched.path.exists() and "took the first" in reporter.notes[0]
    assert "/t.wav" not in site.seen


def test_a_playlist_of_segments_is_joined_without_other_programs(site: Server, tmp_path: Path) -> None:
    parts = [bytes([0xFF, 0xF1, 0x50, 0x80, 0x02, 0x1F, 0xFC]) + bytes([i]) * 9 for i in range(3)]  # ADTS frames
    names = "".join(f"#EXTINF:1,\n/{i}.aac\n" for i in range(3))
    playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{names}#EXT-X-ENDLIST\n"
    site.pages["/song.m3u8"] = give(playlist.encode(), "application/vnd.apple.mpegurl")
    for i, part in enumerate(parts):
        site.pages[f"/{i}.aac"] = give(part, "audio/aac")
    fetched = fetch_media(site.url + "/song.m3u8", tmp_path, limits=LIMITS, allow=frozenset({site.at}))
    assert fetched.path.read_bytes() == b"".join(parts)


def test_a_file_keeps_its_name_without_its_paths(site: Server, tmp_path: Path) -> None:
    site.pages["/v/model.zip"] = give(b"PK\x05\x06" + bytes(18), "application/zip")
    fetched = fetch_file(site.url + "/v/model.zip", tmp_path, limits=LIMITS, allow=frozenset({site.at}))
    assert fetched.path == tmp_path / "model.zip" and fetched.title == "model"


# --- no way to private addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1/a.mp3", "http://127.1/a.mp3", "http://2130706433/a.mp3", "http://0x7f000001/a.mp3",
        "http://0177.0.0.1/a.mp3", "http://0/a.mp3", "http://[::1]/a.mp3", "http://[::ffff:127.0.0.1]/a.mp3",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://10.0.0.1/", "http://169.254.169.254/latest",
        "http://[fd00::1]/", "http://[fe80::1]/", "http://100.64.0.1/", "http://224.0.0.1/", "http://user@example.com/",
        "http://example.com:22/", "http://example.com:6667/", "ftp://example.com/a.mp3", "file:///etc/passwd",
        "http://", "http://exa mple.com/", "http://example.com\\@127.0.0.1/", "http://example.com:99999/",
        "https://example.com/#__youtubedl_smuggle=%7B%7D",
    ],
)  # fmt: skip
def test_such_a_link_is_refused_before_anything_is_opened(link: str, tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        fetch_media(link, tmp_path / "never", limits=LIMITS)
    assert caught.value.hint and not (tmp_path / "never").exists()


def test_a_token_goes_to_the_links_own_site_and_not_to_where_it_redirects(site: Server, tmp_path: Path) -> None:
    other = Server("127.0.0.1")
    heard: dict[str, str | None] = {}

    def noting(name: str, answer: Answer) -> Answer:
        def noted(handler: http.server.BaseHTTPRequestHandler) -> None:
            heard[name] = handler.headers["Authorization"]
            answer(handler)

        return noted

    site.pages["/lora"] = noting("first", go("/again"))
    site.pages["/again"] = noting("same site", go(f"{other.url}/x.safetensors"))
    other.pages["/x.safetensors"] = noting("elsewhere", give(b"weights"))
    fetched = fetch_file(
        f"{site.url}/lora", tmp_path, limits=LIMITS, allow=frozenset({site.at, other.at}),
        headers={"Authorization": "Bearer secret"},
    )  # fmt: skip
    other.close()
    assert fetched.path.read_bytes() == b"weights"
    assert heard == {"first": "Bearer secret", "same site": "Bearer secret", "elsewhere": None}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused(
    site: Server, secret: list[Server], tmp_path: Path, status: int
) -> None:
    for server in secret:
        site.pages["/hop.mp3"] = go("/hop2.mp3", status)
        site.pages["/hop2.mp3"] = go(server.url + "/audio.wav", status)
        error = refuse(site, "/hop.mp3", tmp_path)
        assert "private address" in error.message
        assert server.seen == []


def test_names_that_mean_this_machine_are_refused(site: Server, secret: list[Server], tmp_path: Path) -> None:
    for host in ("localhost", "127.1", "2130706433", "0x7f.1"):
        site.pages["/hop.mp3"] = go(f"http://{host}:{secret[0].port}/audio.wav")
        assert "private address" in refuse(site, "/hop.mp3", tmp_path).message
    with pytest.raises(LinkError, match="private address"):
        fetch_media(f"http://localhost:{secret[0].port}/audio.wav", tmp_path, limits=LIMITS)
    assert secret[0].seen == []


def test_a_page_cannot_send_yt_dlp_to_a_private_address(site: Server, secret: list[Server], tmp_path: Path) -> None:
    for number, server in enumerate(secret):
        page = f"<html><title>t</title><audio src='{server.url}/audio.wav'></audio></html>"
        site.pages[f"/page{number}"] = give(page.encode(), "text/html")
        assert "private address" in refuse(site, f"/page{number}", tmp_path).message
    site.pages["/list"] = give(f"#EXTM3U\n#EXTINF:5,\n{secret[0].url}/audio.wav\n#EXT-X-ENDLIST\n".encode(),
                               "application/vnd.apple.mpegurl")  # fmt: skip
    assert "private address" in refuse(site, "/list", tmp_path).message
    site.pages["/meta"] = give(
        f"<html><meta http-equiv='refresh' content='0; url={secret[0].url}/audio.wav'></html>".encode(), "text/html"
    )
    refuse(site, "/meta", tmp_path)
    assert secret[0].seen == secret[1].seen == []


def test_no_environment_variable_opens_a_way(
    secret: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, secret[0].url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(LinkError):
        fetch_media("http://vividcover.invalid/audio.wav", tmp_path, limits=LIMITS)
    assert secret[0].seen == []


def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """DNS rebinding: public when checked, private when connected to. In a process of its own: a guard is for good."""
    script = """
import socket, sys
from vividcover.song.guard import Guard, Refused
answers = [("93.184.216.34", 80), ("127.0.0.1", 80), ("::1", 80, 0, 0)]
def fake(host, port, *args, **kwargs):
    address = answers.pop(0)
    return [(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]
guard = Guard(resolve=fake)
guard.install()
assert socket.getaddrinfo("evil.example", 80)[0][4][0] == "93.184.216.34"
import urllib.request, httpx
for attempt in (lambda: urllib.request.urlopen("http://evil.example/"), lambda: httpx.get("http://evil.example/")):
    try:
        attempt()
    except Exception as error:
        assert "not on the public internet" in str(error), error
    else:
        sys.exit("connected")
assert len(guard.refused) == 2 and not answers, guard.refused
for address in (("localhost", 80), ("127.0.0.1", 80), ("8.8.8.8", 22)):
    try:
        socket.socket().connect(address)
    except Refused:
        continue
    sys.exit(f"connected to {address}")
for attempt in (
    lambda: socket.socket(socket.AF_UNIX).connect("/run/docker.sock"),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53)),
    lambda: __import__("subprocess").run(["curl", "http://127.0.0.1"]),
    lambda: __import__("os").system("true"),
):
    try:
        attempt()
    except Refused:
        continue
    sys.exit("not refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_a_name_whose_every_address_may_be_reached_is_fetched(site: Server, tmp_path: Path) -> None:
    site.pages["/a.wav"] = give(wav(), "audio/wav")
    site.pages["/page"] = give(b"<html><title>t</title><audio src='/a.wav'></audio></html>", "text/html")
    script = f"""
import pathlib, socket
from vividcover.song import _fetch_child as child
from vividcover.song.guard import Guard
child.say = print
def fake(host, port, *args, **kwargs): return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
Guard(allow={{{site.at!r}}}, resolve=fake).install()
for number, path in enumerate(("/a.wav", "/page")):
    folder = pathlib.Path({str(tmp_path)!r}) / str(number)
    folder.mkdir()
    link = "http://song.example:{site.port}" + path
    print(child.fetch(child.Job(link, str(folder), True, 10**6, 600.0, None, None, ())))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in sorted(tmp_path.rglob("download.wav"))] == [wav(), wav()]


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    def fake(host: object, port: int, *args: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("10.0.0.7", port))]

    with pytest.raises(Refused, match=r"evil.example is at 10.0.0.7:443"):
        Guard(resolve=fake).getaddrinfo("evil.example", 443)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("8.8.8.8", True), ("2606:2800:220:1::", True), ("64:ff9b::808:808", True),
        ("0.0.0.0", False), ("127.255.0.1", False), ("10.1.2.3", False), ("172.31.0.1", False), ("172.32.0.1", True),
        ("192.168.1.1", False), ("100.127.0.1", False), ("100.128.0.1", True), ("169.254.169.254", False),
        ("198.18.0.1", False), ("255.255.255.255", False), ("239.1.1.1", False), ("::", False), ("::1", False),
        ("::ffff:8.8.8.8", False), ("::127.0.0.1", False), ("64:ff9b::a00:1", False), ("64:ff9b:1::808:808", False),
        ("2001:0:4136:e378::1", False), ("2002:808:808::1", False), ("fc00::1", False), ("fe80::1%2", False),
        ("fec0::1", False), ("ff02::1", False), ("2001:db8::1", False), ("3fff::1", False), ("100::1", False),
    ],
)  # fmt: skip
def test_addresses_are_told_apart_as_the_registries_say(address: str, public: bool) -> None:
    parsed = literal(address)
    assert parsed is not None and is_public(parsed) is public


def test_the_allowance_is_for_one_address_and_port_only() -> None:
    guard = Guard(allow={("127.0.0.1", 8000)})
    assert guard.permits("127.0.0.1", 8000)
    for host, port in (("127.0.0.1", 8001), ("127.0.0.2", 8000), ("localhost", 8000), ("::1", 8000)):
        assert not guard.permits(host, port)
    with pytest.raises(LinkError):
        check_link("http://127.0.0.1:8001/", frozenset({("127.0.0.1", 8000)}))


def test_yt_dlp_has_no_handler_that_the_guard_cannot_see() -> None:
    script = (
        "import sys\nfrom vividcover.song._fetch_pages import _yt_dlp\n"
        "with _yt_dlp().YoutubeDL({'quiet': True}) as d: assert set(d._request_director.handlers) == {'Urllib'}\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 0


# --- what goes wrong, each with its own message ----------------------------------------------------------------------


def test_a_missing_page_says_404(site: Server, tmp_path: Path) -> None:
    assert "404" in refuse(site, "/nothing.mp3", tmp_path).message


@pytest.mark.parametrize(("status", "words"), [(401, "login"), (403, "login"), (429, "too many"), (503, "of its own")])
def test_statuses_are_put_into_words(site: Server, tmp_path: Path, status: int, words: str) -> None:
    site.pages["/x.mp3"] = lambda handler: handler.send_error(status)
    assert words in refuse(site, "/x.mp3", tmp_path).message


def test_a_page_without_sound_is_called_a_web_page(site: Server, tmp_path: Path) -> None:
    site.pages["/page.mp3"] = give(b"<!DOCTYPE html><html><title>Hi</title><p>Nothing here</html>", "text/html")
    assert "is a web page (text/html), not audio" in refuse(site, "/page.mp3", tmp_path).message
    with pytest.raises(LinkError, match="web page"):
        fetch_file(site.url + "/page.mp3", tmp_path, limits=LIMITS, allow=frozenset({site.at}))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"just words", "text/plain", "is text (text/plain), not audio"),
        (b"\x89PNG\r\n\x1a\n", "image/png", "is a picture (image/png), not audio"),
        (b"%PDF-1.7", "application/pdf", "is a PDF"),
        (b"PK\x03\x04", "application/zip", "is a zip file"),
        (b"", "audio/mpeg", "empty file (0 bytes)"),
    ],
)
def test_what_is_no_audio_is_called_by_its_name(
    site: Server, tmp_path: Path, body: bytes, kind: str, words: str
) -> None:
    site.pages["/x.mp3"] = give(body, kind)
    assert words in refuse(site, "/x.mp3", tmp_path).message


def test_an_endless_stream_stops_at_the_limit_of_bytes(site: Server, tmp_path: Path) -> None:
    site.pages["/radio.mp3"] = pour("audio/mpeg", b"ID3" + bytes(65_536))
    assert "does not end; at most 3.0 MB" in refuse(site, "/radio.mp3", tmp_path).message


def test_an_endless_page_stops_too(site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/page"] = pour("text/html", b"<html>" + b"<p>and on" * 10_000, 0.001)
    began = time.monotonic()
    refuse(site, "/page", tmp_path, FetchLimits(10**9, 60.0, 2.0))
    assert time.monotonic() - began < 10.0


def test_a_slow_stream_stops_at_the_limit_of_time(site: Server, tmp_path: Path) -> None:
    site.pages["/slow.mp3"] = pour("audio/mpeg", b"ID3" + bytes(7), 0.1)
    began = time.monotonic()
    error = refuse(site, "/slow.mp3", tmp_path, FetchLimits(10**9, 60.0, 2.0))
    assert "longer than 2 s" in error.message and time.monotonic() - began < 8.0


def test_a_file_announced_as_too_large_is_not_even_begun(site: Server, tmp_path: Path) -> None:
    site.pages["/big.mp3"] = give(b"ID3", "audio/mpeg", Content_Length="4000000")
    assert "is 4.0 MB; at most 3.0 MB" in refuse(site, "/big.mp3", tmp_path).message


def test_a_download_that_breaks_off_never_appears(site: Server, tmp_path: Path) -> None:
    site.pages["/cut.wav"] = give(wav(), "audio/wav", Content_Length=str(len(wav()) + 1000))
    assert "ended in the middle" in refuse(site, "/cut.wav", tmp_path).message


def test_live_radio_is_refused_by_its_name(site: Server, tmp_path: Path) -> None:
    site.pages["/radio.mp3"] = give(b"ID3", "audio/mpeg", icy_name="Radio Vivi", Content_Length="")
    assert "live radio" in refuse(site, "/radio.mp3", tmp_path).message


def test_running_in_a_circle_ends(site: Server, tmp_path: Path) -> None:
    site.pages["/a.mp3"], site.pages["/b.mp3"] = go("/b.mp3"), go("/a.mp3")
    assert "redirected more than" in refuse(site, "/a.mp3", tmp_path).message


def test_a_name_that_does_not_exist_and_a_closed_port_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"name cannot be found"):
        fetch_media("http://nobody.invalid/a.mp3", tmp_path, limits=LIMITS)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(LinkError, match="refused"):
            fetch_media(
                f"http://127.0.0.1:{port}/a.mp3", tmp_path, limits=LIMITS, allow=frozenset({("127.0.0.1", port)})
            )


def test_youtube_without_internet_says_that_its_name_cannot_be_found(tmp_path: Path) -> None:
    """The site's own reader of yt-dlp, with a resolver that knows nothing."""
    script = f"""
import socket
def nothing(*args, **kwargs): raise socket.gaierror(-2, "Name or service not known")
from vividcover.song import _fetch_child as child
from vividcover.song.guard import Guard
child.say = print
guard = Guard(resolve=nothing)
guard.install()
job = child.Job("https://www.youtube.com/watch?v=dQw4w9WgXcQ", {str(tmp_path)!r}, True, 10**6, 600.0, None, None, ())
try:
    child.fetch(job)
except Exception as error:
    print(repr(child.explain(error, job.link, guard.refused)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "The site's name cannot be found: https://www.youtube.com/watch" in done.stdout, done.stdout + done.stderr


def test_a_certificate_that_is_not_trusted_is_called_so() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    assert "certificate is not valid (self-signed" in _fetch_child.explain(error, "https://example.com/", []).message


def test_broken_tls_is_called_so(site: Server, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="TLS"):
        fetch_media(site.url.replace("http", "https"), tmp_path, limits=LIMITS, allow=frozenset({site.at}))


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        (
            "[youtube] x: Sign in to confirm you’re not a bot. Use --cookies-from-browser",
            "asks for a login",
            "--cookies",
        ),
        ("[youtube] x: Private video. Sign in if you've been granted access", "asks for a login", "give the file"),
        ("[youtube] x: Sign in to confirm your age. This video may be inappropriate", "asks for a login", "--cookies"),
        ("[youtube] x: Video unavailable", "is not available", "browser"),
        (
            "[youtube] x: The uploader has not made this video available in your country",
            "this country",
            "give the file",
        ),
        ("[youtube] x: Requested format is not available", "no audio that can be downloaded", "update"),
        ("[spotify] DRM protected", "protected against copying", "another"),
        ("[youtube] x: This live event will begin in 3 hours", "not begun", "over"),
    ],
)
def test_what_yt_dlp_says_is_put_into_words(said: str, words: str, hint: str) -> None:
    from yt_dlp.utils import DownloadError

    error = _fetch_child.explain(DownloadError("ERROR: " + said), "https://www.youtube.com/watch?v=x", [])
    assert isinstance(error, LinkError) and words in error.message and hint in error.hint


def test_cookies_that_did_not_help_are_not_asked_for_again() -> None:
    from yt_dlp.utils import DownloadError

    error = _fetch_child.explain(
        DownloadError("Sign in to confirm"), "https://www.youtube.com/watch?v=x", [], login=True
    )
    assert "export them again" in error.hint


def test_long_and_live_videos_are_refused_before_they_are_downloaded() -> None:
    job = _fetch_child.Job("https://youtu.be/x", "", True, 10**6, 600.0, None, None, ())
    with pytest.raises(LinkError, match=r"“Talk” lasts 180 min; songs may last 10 min"):
        _fetch_pages._refuse_unfit(job, {"title": "Talk", "duration": 10_800})
    with pytest.raises(LinkError, match="live stream"):
        _fetch_pages._refuse_unfit(job, {"title": "News", "live_status": "is_live"})
    with pytest.raises(LinkError, match="is 5 MB"):
        _fetch_pages._refuse_unfit(job, {"title": "Film", "filesize": 5_000_000})
    _fetch_pages._refuse_unfit(job, {"title": "Song", "duration": 200, "filesize": 999_999})


def test_a_cookies_file_is_sent_and_one_that_is_none_is_told(site: Server, tmp_path: Path) -> None:
    sent: list[str | None] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        sent.append(handler.headers.get("Cookie"))
        give(wav(), "audio/wav")(handler)

    site.pages["/mine.wav"] = answer
    jar, out = tmp_path / "cookies.txt", tmp_path / "out"
    jar.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tlogin\tyes\n")
    fetch_media(site.url + "/mine.wav", out, limits=LIMITS, cookies=jar, allow=frozenset({site.at}))
    assert sent == ["login=yes"]
    jar.write_text("hello")
    with pytest.raises(LinkError, match="not a cookies file"):
        fetch_media(site.url + "/mine.wav", out, limits=LIMITS, cookies=jar, allow=frozenset({site.at}))
    with pytest.raises(NotFoundError):
        fetch_media(site.url + "/mine.wav", out, limits=LIMITS, cookies=tmp_path / "no", allow=frozenset({site.at}))


def test_a_proxy_is_used_only_when_asked_for_and_with_a_note(site: Server, tmp_path: Path) -> None:
    site.pages["http://song.invalid/a.wav"] = give(wav(), "audio/wav")
    reporter = Silent()
    fetched = fetch_media("http://song.invalid/a.wav", tmp_path, limits=LIMITS, proxy=site.url, reporter=reporter)
    assert fetched.path.read_bytes() == wav() and "through the proxy" in reporter.notes[0]
    with pytest.raises(ParameterError):
        fetch_media("http://song.invalid/a.wav", tmp_path, limits=LIMITS, proxy="socks5://127.0.0.1:9")


# --- the child process -----------------------------------------------------------------------------------------------


def test_canceling_stops_within_a_second_and_leaves_nothing(site: Server, tmp_path: Path) -> None:
    site.pages["/slow.mp3"] = pour("audio/mpeg", b"ID3" + bytes(7), 0.05)

    class Impatient(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            self.since = time.monotonic()
            raise Canceled()

    reporter = Impatient()
    with pytest.raises(Canceled):
        fetch_media(site.url + "/slow.mp3", tmp_path, limits=LIMITS, allow=frozenset({site.at}), reporter=reporter)
    assert time.monotonic() - reporter.since < 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_child_whose_parent_is_killed_ends_itself(site: Server, tmp_path: Path) -> None:
    begun = threading.Event()
    hung_up = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        begun.set()
        try:
            pour("audio/mpeg", b"ID3" + bytes(7), 0.02)(handler)
        except OSError:
            hung_up.set()

    site.pages["/slow.mp3"] = answer
    script = (
        "import sys\nfrom pathlib import Path\nfrom vividcover.song.fetch import FetchLimits, fetch_media\n"
        f"fetch_media({site.url + '/slow.mp3'!r}, Path({str(tmp_path)!r}), limits=FetchLimits(10**9, 60, 60), "
        f"allow=frozenset({{{site.at!r}}}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert begun.wait(30)
    parent.kill()
    parent.wait()
    assert hung_up.wait(3)


def test_a_child_that_holds_too_much_memory_says_so_and_ends() -> None:
    """yt-dlp reads a page whole, and a page may be endless."""
    script = """
import time
from vividcover.song import _fetch_child as child
child.say, child.MEMORY = lambda line: print(line, flush=True), 200 << 20
import threading
job = child.Job("https://example.com/endless", "", True, 1, 1.0, None, None, ())
threading.Thread(target=child._watch_memory, args=(job,)).start()
page = []
for _ in range(50):
    page.append(b"x" * (8 << 20))
    time.sleep(0.02)
time.sleep(5)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "https://example.com/endless does not end" in done.stdout


def test_links_and_paths_are_told_apart() -> None:
    assert is_link("https://youtu.be/x") and is_link(" HTTP://EXAMPLE.COM/a.mp3") and is_link("file:///etc/passwd")
    assert not is_link("song.mp3") and not is_link("C:\\song.mp3") and not is_link("/tmp/http:/x")


def test_viewer_pages_of_file_stores_become_the_file() -> None:
    direct = _fetch_child.direct_link
    assert direct("https://huggingface.co/a/b/blob/main/v.zip") == "https://huggingface.co/a/b/resolve/main/v.zip"
    assert direct("https://www.dropbox.com/s/x/v.zip?dl=0") == "https://www.dropbox.com/s/x/v.zip?dl=1"
    assert direct("https://example.com/blob/v.zip") == "https://example.com/blob/v.zip"
