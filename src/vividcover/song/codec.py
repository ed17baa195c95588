"""Audio in and out of the program: any file → working PCM, working PCM → any format, PCM + video → mp4.

    info = decode(Path("song.mp3"), Path("song.wav"))
    encode(Path("mix.wav"), Path("mix.m4a"), format="m4a", tags={"title": "Paint the Sky"})
    mux(Path("portrait.mp4"), Path("mix.wav"), Path("cover.mp4"), tags={"title": "Paint the Sky"})
    tag(Path("mix.wav"), Path("parts/mix.wav"), {"comment": "AI-generated"})

All of it through PyAV (FFmpeg's libraries inside a wheel: no ffmpeg program is called), in blocks, so that memory does
not grow with the song's length. The work is in `media.py`, `decoding.py` and `encoding.py`; this is the front door.
"""

from __future__ import annotations

from vividcover.song.decoding import decode, is_silent, level
from vividcover.song.encoding import FORMATS, encode, mux, tag
from vividcover.song.media import MediaInfo, probe, read_tags

__all__ = ["FORMATS", "MediaInfo", "decode", "encode", "is_silent", "level", "mux", "probe", "read_tags", "tag"]
