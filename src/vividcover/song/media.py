"""What a media file is, before anything is decoded; and every way in which it can be none.

Files are opened by FFmpeg's demuxers for single files only: a playlist could name other files, or addresses.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from vividcover.errors import AudioError, NotFoundError, StorageError

HEAD = 4096  # bytes looked at before a demuxer sees them
TAIL = 1 << 16  # bytes at the end, for an Ogg file's last page
OGG_LAST_PAGE = 4  # flag in a page's header (RFC 3533 section 6)
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what streaming writers leave in a RIFF header
SILENCE_DB = -60.0  # dBFS peak; below it a recording holds nothing to work with
ENCRYPTED = ("drms", "enca", "encv", "drmi")  # sample entries of protected MP4 tracks (ISO/IEC 14496-12 section 8.12)
DEMUXERS = (
    "wav,w64,aiff,caf,au,mp3,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,avi,mpegts,mpeg,flv,asf,"
    "ac3,eac3,amr,ape,wv,tta,dts,nut,rm,dsf"
)
USE = "Use wav, mp3, flac, ogg, opus, m4a, aiff, webm, mp4, mkv or mov; if it plays elsewhere, export it anew."


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file is: `seconds` long, `rate` Hz and `channels` of its audio track, names of codec and container.

    `probe` tells the header's word; `decode` tells what was really there, and `peak` in dBFS (nan when only probed).
    """

    seconds: float
    rate: int
    channels: int
    codec: str
    container: str
    title: str = ""
    peak: float = math.nan

    @property
    def silent(self) -> bool:
        """True when nothing above -60 dBFS was decoded."""
        return self.peak < SILENCE_DB


def probe(path: Path) -> MediaInfo:
    """What the file's header says. Raises `AudioError` for what is no audio, `NotFoundError` for no file."""
    with opened(Path(path)) as (container, stream):
        return describe(container, stream)


def read_tags(path: Path) -> dict[str, str]:
    """The tags of an audio or video file, of the container and its audio track together; keys in lower case."""
    with opened(Path(path)) as (container, stream):
        return _tags(container, stream)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, best audio stream), or the error that says why not."""
    look(path)
    try:
        container = av.open(
            str(path.absolute()), metadata_errors="replace",
            container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
        )  # fmt: skip
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"{path.name} is not an audio or video file that can be read, or it is damaged at its beginning.", USE
        ) from error
    with container:
        yield container, _best_stream(path, container)


def _best_stream(path: Path, container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None and container.streams.audio:
        stream = container.streams.audio[0]
    if stream is None:
        raise AudioError(f"{path.name} has no audio track.", "Choose a file with sound in it.")
    context: Any = stream.codec_context
    if str(getattr(context, "codec_tag", "")).strip("\0") in ENCRYPTED:
        raise AudioError(
            f"{path.name} is encrypted (DRM) and cannot be decoded.", "Use a file without copy protection."
        )
    if not context or not context.sample_rate or not context.channels:
        raise AudioError(f"{path.name} has an audio track that cannot be decoded: damaged or of an unknown kind.", USE)
    return stream


def look(path: Path) -> None:
    """What can be said without a decoder: missing, a folder, unreadable, empty, text."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path.") from None
    except IsADirectoryError:
        raise AudioError(f"{path} is a folder, not an audio file.", "Name one file.") from None
    except PermissionError:
        raise StorageError(f"May not read {path}.", "Change its permissions, or copy it.") from None
    if not head:
        raise AudioError(f"{path.name} is empty (0 bytes).", "It was probably not copied or downloaded whole.")
    if _is_text(head):
        page = b"<html" in head.lower() or b"<!doctype" in head.lower()
        what = "a web page" if page else "a text file"
        raise AudioError(f"{path.name} is {what}, not audio.", "Choose the audio file itself.")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character may be cut at the end of what was read
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f\ufeff" for c in text)


def describe(container: Any, stream: Any) -> MediaInfo:
    seconds = 0.0
    if stream.duration is not None and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    context = stream.codec_context
    return MediaInfo(
        max(seconds, 0.0), int(context.sample_rate), int(context.channels), str(context.name),
        str(container.format.name), _tags(container, stream).get("title", ""),
    )  # fmt: skip


def _tags(container: Any, stream: Any) -> dict[str, str]:
    return {str(k).lower(): str(v) for k, v in {**stream.metadata, **container.metadata}.items()}


def really_longer(path: Path, limit: float) -> bool:
    """Counts packets without decoding them: an mp3 header's duration may be only a guess from the first frame."""
    with opened(path) as (container, stream):
        seconds = 0.0
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                seconds += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
                if seconds > limit:
                    return True
    return False


def cut_off(path: Path) -> bool:
    """True when a WAV or Ogg file ends before its own end mark: their headers' durations do not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            promised = struct.unpack("<I", head[4:8])[0]
            return promised not in UNKNOWN_SIZES and size < promised + 8
        if head[:4] == b"OggS":
            file.seek(max(size - TAIL, 0))
            tail = file.read()
            last = tail.rfind(b"OggS")
            return last < 0 or last + 5 >= len(tail) or not tail[last + 5] & OGG_LAST_PAGE
    return False
