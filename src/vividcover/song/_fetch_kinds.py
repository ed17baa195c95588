"""What a download is, by its first bytes; what the site says about it comes second."""

from __future__ import annotations

MEDIA = (  # offset, bytes, suffix
    (0, b"ID3", ".mp3"),
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"\x1a\x45\xdf\xa3", ".webm"),
    (4, b"ftyp", ".m4a"),
    (8, b"WAVE", ".wav"),
    (8, b"AVI ", ".avi"),
    (8, b"AIFF", ".aiff"),
    (8, b"AIFC", ".aiff"),
    (0, b"caff", ".caf"),
    (0, b".snd", ".au"),
    (0, b"#!AMR", ".amr"),
    (0, b"wvpk", ".wv"),
    (0, b"MAC ", ".ape"),
    (0, b"FLV\x01", ".flv"),
    (0, b"\x30\x26\xb2\x75", ".wma"),
    (0, b"\x00\x00\x01\xba", ".mpg"),
)
OTHER = (
    (0, b"PK\x03\x04", "a zip file", ".zip"),
    (0, b"PK\x05\x06", "a zip file", ".zip"),
    (0, b"%PDF", "a PDF", ".pdf"),
    (0, b"\x89PNG", "a picture", ".png"),
    (0, b"\xff\xd8\xff", "a picture", ".jpg"),
    (0, b"GIF8", "a picture", ".gif"),
    (8, b"WEBP", "a picture", ".webp"),
    (0, b"\x1f\x8b", "a gzip archive", ".gz"),
    (0, b"Rar!", "a RAR archive", ".rar"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", ".7z"),
)
SUFFIXES = (*(suffix for _, _, suffix in MEDIA), ".aac", ".ts", ".mp4", ".mov", ".mkv", ".opus", ".oga", ".aif")
PAGE = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
PLAYLIST_TYPES = ("mpegurl", "dash+xml", "vnd.ms-sstr", "scpls")


def looks_like_media(path: str) -> bool:
    """Whether a link's path ends like an audio or video file: worth a plain download before asking yt-dlp."""
    return path.lower().endswith(SUFFIXES)


def kind_of(head: bytes, declared: str) -> tuple[str, str]:
    """("media" | "page" | "playlist" | "a picture" … | "unknown", suffix) of the first bytes and a Content-Type."""
    for offset, magic, suffix in MEDIA:
        if head[offset : offset + len(magic)] == magic:
            return "media", suffix
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF and head[:3] != b"\xff\xd8\xff":
        return "media", ".aac" if head[1] & 0x06 == 0 else ".mp3"  # frame sync of MPEG audio: layer bits 0 are ADTS
    if head[:1] == b"G" and head[188:189] == b"G":
        return "media", ".ts"
    for offset, magic, what, suffix in OTHER:
        if head[offset : offset + len(magic)] == magic:
            return what, suffix
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if start.startswith(b"#extm3u") or b"<mpd" in start or any(name in declared for name in PLAYLIST_TYPES):
        return "playlist", ""
    if start.startswith(PAGE) or b"<html" in start or declared in ("text/html", "application/xhtml+xml"):
        return "page", ""
    if declared.startswith("image/"):
        return "a picture", ""
    if head and (declared.startswith("text/") or declared == "application/json"):
        return "text", ""
    return "unknown", ""
