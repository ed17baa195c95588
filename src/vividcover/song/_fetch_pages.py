"""Pages that yt-dlp understands: YouTube first, and many more. Runs inside the fetching process only.

Held to Python's own sockets, so that the guard sees every connection: the handlers of curl_cffi, requests and
websockets are kept out, no external downloader, no ffmpeg, no plugins, no cache on disk, no proxy but an explicit one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.errors import LinkError
from vividcover.song.guard import show

if TYPE_CHECKING:
    from vividcover.song._fetch_child import Job

FOREIGN = ("curl_cffi", "requests", "websockets")  # optional libraries of yt-dlp that would open connections themselves
PROTOCOLS = "[protocol~='^(https?|m3u8_native|http_dash_segments)$']"  # what yt-dlp downloads without other programs
FORMAT = f"bestaudio{PROTOCOLS}/best{PROTOCOLS}"
SOCKET_TIMEOUT = 30  # seconds
ALL = 10_000  # more entries than a list says it has


def _yt_dlp() -> Any:
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    for name in FOREIGN:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails, so its handler is not there
    import yt_dlp

    return yt_dlp


def knows(link: str) -> bool:
    """Whether yt-dlp has a reader for this very site (not only its generic one)."""
    extractors = _yt_dlp().extractor.gen_extractor_classes()
    return any(one.suitable(link) for one in extractors if one.IE_NAME != "generic")


def fetch_page(
    job: Job, progress: Callable[[int, int | None], None], say: Callable[[dict[str, Any]], None]
) -> dict[str, str]:
    """The best audio behind a page; of a list its first item, with a note. Raises what yt-dlp raises, `LinkError`."""
    library = _yt_dlp()
    log = _Log()
    with library.YoutubeDL(_options(job, progress, log)) as downloader:
        handlers = set(downloader._request_director.handlers)
        if handlers - {"Urllib"}:
            raise RuntimeError(f"yt-dlp has request handlers that the guard cannot see: {handlers}")
        info = downloader.extract_info(job.link, download=True)
    if info and info.get("_type") in ("playlist", "multi_video"):
        entries = [entry for entry in info.get("entries") or [] if entry]
        if not entries:
            raise LinkError(f"The link {show(job.link)} is an empty list.", "Give the link of one song.")
        count = info.get("playlist_count") or 0
        info = entries[0]
        if count != 1:
            say({"note": f"The link is a list of {count or 'several'}: took the first, “{info.get('title')}”."})
    files = [Path(one["filepath"]) for one in (info or {}).get("requested_downloads") or [] if one.get("filepath")]
    if not files or not files[0].exists():
        reason = f" ({log.last})" if log.last else ""
        raise LinkError(f"Nothing could be downloaded from {show(job.link)}{reason}.", "Use another link.")
    return {
        "path": str(files[0]),
        "title": str(info.get("title") or "") if info else "",
        "how": f"yt-dlp:{(info or {}).get('extractor_key') or 'Generic'}",
    }


def _options(job: Job, progress: Callable[[int, int | None], None], log: _Log) -> dict[str, Any]:
    def accept(info: dict[str, Any], *, incomplete: bool) -> None:
        _refuse_unfit(job, info)

    def hook(status: dict[str, Any]) -> None:
        done = int(status.get("downloaded_bytes") or 0)
        total = status.get("total_bytes")
        progress(done, int(total) if total else None)

    options: dict[str, Any] = {
        "format": FORMAT,
        "outtmpl": {"default": str(Path(job.folder) / "download.%(ext)s")},
        "match_filter": accept,
        "progress_hooks": [hook],
        "noplaylist": True, "playlist_items": "1", "lazy_playlist": True,
        "max_filesize": job.max_bytes,
        "socket_timeout": SOCKET_TIMEOUT, "retries": 2, "fragment_retries": 2, "extractor_retries": 1,
        "proxy": job.proxy or "",  # "": straight, whatever the environment says
        "hls_prefer_native": True, "fixup": "never", "postprocessors": [], "nopart": True, "updatetime": False,
        "cachedir": False, "logger": log, "noprogress": True, "quiet": True, "color": "never", "geo_bypass": False,
    }  # fmt: skip
    if job.cookies:  # yt-dlp writes the cookies back when it ends: into a copy
        copy = Path(job.folder) / "cookies.txt"
        shutil.copyfile(job.cookies, copy)
        options["cookiefile"] = str(copy)
    return options


def _refuse_unfit(job: Job, info: dict[str, Any]) -> None:
    """Raises for what must not be downloaded, before it is. `info` may still lack some of its fields."""
    title = f"“{info['title']}”" if info.get("title") else f"What is behind {show(job.link)}"
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        raise LinkError(f"{title} is a live stream, which has no end.", "Wait until it is over, or use a recording.")
    seconds = info.get("duration")
    if seconds and seconds > job.max_seconds:
        raise LinkError(
            f"{title} lasts {seconds / 60:.0f} min; songs may last {job.max_seconds / 60:.0f} min at most.",
            "Use a shorter one, or raise VIVIDCOVER_MAX_SONG_SECONDS.",
        )
    size = info.get("filesize")
    if size and size > job.max_bytes:
        raise LinkError(
            f"{title} is {size / 1e6:.0f} MB; at most {job.max_bytes / 1e6:.0f} MB are fetched.",
            "Use a shorter recording, or raise VIVIDCOVER_MAX_DOWNLOAD_BYTES.",
        )


class _Log:
    """Keeps the last thing that yt-dlp warned about, for the message when nothing comes of it."""

    def __init__(self) -> None:
        self.last = ""

    def debug(self, text: str) -> None:
        if re.search(r"larger than max-filesize", text):
            self.last = "the file is larger than the limit"

    info = debug

    def warning(self, text: str) -> None:
        self.last = " ".join(text.split())[:200]

    error = warning
