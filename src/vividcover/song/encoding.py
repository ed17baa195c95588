"""Working PCM → a file for people, and PCM + silent video → mp4; with tags, and the same bytes every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.errors import AudioError, NotFoundError, ParameterError, StorageError
from vividcover.files import aside
from vividcover.song.pcm import PcmReader, Signal
from vividcover.workspace import Reporter, Silent

BLOCK = 1 << 15  # samples handled at a time
DITHER_SEED = 0
BITEXACT = {"fflags": "+bitexact"}  # no random serial numbers, no library versions
QUALITY_STEP = 118  # FFmpeg's FF_QP2LAMBDA: "global_quality" counts in these


# The tags that a container has fields for, where it has no room for others: RIFF INFO, and iTunes' list in MP4.
RIFF_TAGS = frozenset(("title", "artist", "comment", "album", "genre", "date", "copyright", "encoded_by", "track"))
MP4_TAGS = frozenset(
    ("title", "artist", "comment", "album", "album_artist", "composer", "genre", "date", "copyright", "description",
     "synopsis", "lyrics", "grouping")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """How one output format is made. `rate` is forced where the codec knows no other."""

    muxer: str
    codec: str
    sample: str  # FFmpeg's name of the sample format handed to the codec
    bit_rate: int = 0  # bit/s; 0 = the codec is lossless or has its own measure
    rate: int = 0  # Hz; 0 = that of the PCM
    options: Mapping[str, str] = field(default_factory=dict)  # of the codec
    container: Mapping[str, str] = field(default_factory=dict)  # of the muxer
    tags: frozenset[str] | None = None  # that it has fields for; None = any


FASTSTART = {"movflags": "+faststart", "movie_timescale": "44100"}  # header first; lengths exact to the sample
FORMATS: Mapping[str, Format] = {
    "wav": Format("wav", "pcm_s16le", "s16", tags=RIFF_TAGS),
    "mp3": Format("mp3", "libmp3lame", "fltp", 320_000),
    "flac": Format("flac", "flac", "s32", options={"bits_per_raw_sample": "24"}),
    # the wheel holds FFmpeg's own Vorbis encoder only: here at its best setting, 250 kbit/s
    "ogg": Format("ogg", "vorbis", "fltp", options={
        "strict": "experimental", "flags": "+qscale+bitexact", "global_quality": str(10 * QUALITY_STEP),
    }),
    "m4a": Format("ipod", "aac", "fltp", 256_000, container=FASTSTART, tags=MP4_TAGS),
    "opus": Format("opus", "libopus", "flt", 192_000, rate=48_000),
}  # fmt: skip


def encode(
    pcm: Path, out: Path, *, format: str, tags: Mapping[str, str] | None = None, reporter: Reporter | None = None
) -> None:
    """Writes a working file as wav (16 bit, dithered), mp3 320k, flac (24 bit), ogg, m4a (AAC 256k) or opus 192k.

    `tags` are written into the file; those that the format has no field for become lines of its comment. The same
    samples and tags give the same bytes. Raises `ParameterError` for another format, `StorageError` for a full disk.
    """
    if format not in FORMATS:
        raise ParameterError(f"Unknown audio format {format!r}.", f"Use one of: {', '.join(FORMATS)}.")
    how, reporter = FORMATS[format], reporter or Silent()
    with (
        _readable(pcm) as source, aside(Path(out)) as part, _writing(),
        av.open(str(part), "w", format=how.muxer, container_options={**BITEXACT, **how.container}) as container,
    ):  # fmt: skip
        container.metadata.update(fitting(tags or {}, how.tags))
        stream = _add_audio(container, how, source)
        for packet in _audio_packets(stream, how, source, reporter):
            container.mux(packet)
    reporter.progress(1.0, "encoded")


def mux(
    video: Path, pcm: Path, out: Path, *, tags: Mapping[str, str] | None = None, reporter: Reporter | None = None
) -> None:
    """Copies the video track of `video` unchanged and adds `pcm` as AAC 256k, into an mp4 that starts playing at once.

    Tags as in `encode`. Raises `AudioError` when `video` is no video, `NotFoundError` when it is not there.
    """
    how, reporter = FORMATS["m4a"], reporter or Silent()
    options = {**BITEXACT, **FASTSTART}
    with (
        _readable(pcm) as source, _video(Path(video)) as (picture, pictures), aside(Path(out)) as part, _writing(),
        av.open(str(part), "w", format="mp4", container_options=options) as container,
    ):  # fmt: skip
        container.metadata.update(fitting(tags or {}, how.tags))
        track = container.add_stream_from_template(pictures)
        sound = _add_audio(container, how, source)
        for packet in _in_order(picture.demux(pictures), _audio_packets(sound, how, source, reporter)):
            if packet.stream is pictures:
                packet.stream = track
            container.mux(packet)
    reporter.progress(1.0, "muxed")


def tag(source: Path, out: Path, tags: Mapping[str, str]) -> None:
    """Writes `source` (sound in any of our formats, or an mp4) to `out` with `tags` inside; its tracks stay untouched.

    The same file and tags give the same bytes. Raises `AudioError` when `source` is no media file.
    """
    how = FORMATS.get(out.suffix.lower().removeprefix("."), FORMATS["m4a"])
    muxer, options = ("mp4", FASTSTART) if how is FORMATS["m4a"] else (how.muxer, {})
    try:
        opened = av.open(str(source.absolute()))
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"{source.name} is not a media file that can be read.", "Make it again.") from error
    with (
        opened, aside(Path(out)) as part, _writing(),
        av.open(str(part), "w", format=muxer, container_options={**BITEXACT, **options}) as container,
    ):  # fmt: skip
        container.metadata.update(fitting(tags, how.tags))
        tracks = {stream.index: container.add_stream_from_template(stream) for stream in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:  # the empty packets at the end have none
                packet.stream = tracks[packet.stream.index]
                container.mux(packet)


def fitting(tags: Mapping[str, str], fields: frozenset[str] | None) -> dict[str, str]:
    """The tags that there are fields for; the others as "key: value" lines at the end of the comment.

    "encoder" becomes "encoded_by": FFmpeg keeps the first for itself.
    """
    tags = {"encoded_by" if k == "encoder" else k: v for k, v in tags.items() if v}
    if fields is None:
        return dict(tags)
    kept = {k: v for k, v in tags.items() if k in fields}
    others = [f"{k}: {v}" for k, v in tags.items() if k not in fields]
    comment = "\n".join([*([kept["comment"]] if "comment" in kept else []), *others])
    return kept | ({"comment": comment} if comment else {})


def _readable(pcm: Path) -> PcmReader:
    if not Path(pcm).is_file():
        raise NotFoundError(f"There is no file {pcm}.", "Check the path.")
    source = PcmReader(Path(pcm))
    if not source.frames:
        source.close()
        raise AudioError(f"{Path(pcm).name} holds no sound (0 s).", "Decode or mix it again.")
    return source


@contextlib.contextmanager
def _video(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its first video track that is no cover picture)."""
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", "Check the path.")
    try:
        container = av.open(str(path.absolute()))
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"{path.name} is not a video that can be read.", "Make the portrait again.") from error
    with container:
        if not container.streams.video:
            raise AudioError(f"{path.name} has no video track.", "Give the portrait's video.")
        yield container, container.streams.video[0]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """FFmpeg's errors when writing, other than the disk's own, as ours."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise StorageError(f"Could not write the file: {error}.", "Try another format or folder.") from error


def _add_audio(container: Any, how: Format, source: PcmReader) -> Any:
    rate = how.rate or source.rate
    layout = _layout(how, source)
    stream = container.add_stream(how.codec, rate=rate, options={"flags": "+bitexact", **how.options})
    stream.codec_context.layout = layout
    stream.codec_context.format = how.sample
    stream.codec_context.time_base = Fraction(1, rate)
    if how.bit_rate:
        stream.codec_context.bit_rate = how.bit_rate
    return stream


def _layout(how: Format, source: PcmReader) -> str:
    """FFmpeg's own Vorbis encoder knows two channels and nothing else."""
    return "mono" if source.channels == 1 and how.codec != "vorbis" else "stereo"


def _audio_packets(stream: Any, how: Format, source: PcmReader, reporter: Reporter) -> Iterator[Any]:
    rate = how.rate or source.rate
    layout = _layout(how, source)
    noise = np.random.default_rng(DITHER_SEED)
    position = 0
    for block in _resampled(source, rate):
        if layout == "stereo" and len(block) == 1:
            block = np.repeat(block, 2, axis=0)
        frame = av.AudioFrame.from_ndarray(_as_frame(block, how.sample, noise), format=how.sample, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
        position += block.shape[1]
        reporter.progress(min(position / rate / source.seconds, 0.99), "encoding")
        yield from stream.encode(frame)
    yield from _cut_at(Fraction(position, rate), stream.encode(None))


def _cut_at(end: Fraction, packets: Iterable[Any]) -> Iterator[Any]:
    """A codec's last packets are padded to its frame size; what lies behind `end` (s) is not to be played."""
    for packet in packets:
        if packet.pts is not None and packet.size:  # an empty one brings FLAC's final header
            left = round(end / packet.time_base) - packet.pts
            if left <= 0:
                continue
            packet.duration = min(packet.duration, left)
        yield packet


def _resampled(source: PcmReader, rate: int) -> Iterator[Signal]:
    if rate == source.rate:
        yield from source.blocks(BLOCK)
        return
    resampler = soxr.ResampleStream(source.rate, rate, source.channels, dtype="float32", quality="VHQ")
    for start in range(0, source.frames, BLOCK):
        count = min(BLOCK, source.frames - start)
        chunk = np.ascontiguousarray(source.read(start, count).T)
        done = resampler.resample_chunk(chunk, last=start + count == source.frames)
        if done.size:
            yield done.reshape(-1, source.channels).T


def _as_frame(block: Signal, sample: str, noise: np.random.Generator) -> NDArray[Any]:
    """A block [channels, samples] in the layout of the sample format: planar, or [1, channels × samples]."""
    if sample == "fltp":
        return np.ascontiguousarray(block)
    interleaved = block.T.reshape(1, -1)
    if sample == "s16":
        return dithered(interleaved, noise)
    if sample == "s32":  # 24 bits in the upper part of 32
        steps = np.clip(np.rint(interleaved.astype(np.float64) * 2**23), -(2**23), 2**23 - 1)
        return (steps.astype(np.int32) << 8).astype(np.int32)
    return np.ascontiguousarray(interleaved)


def dithered(signal: Signal, noise: np.random.Generator) -> NDArray[np.int16]:
    """Float ±1 → 16 bit with triangular dither of ±1 step (Lipshitz, Wannamaker, Vanderkooy 1992); digital silence
    stays digital silence."""
    steps = signal.astype(np.float64) * 32768
    triangle = noise.random(signal.shape, np.float32) - noise.random(signal.shape, np.float32)
    steps = np.where(signal == 0, 0.0, np.rint(steps + triangle))
    return np.clip(steps, -32768, 32767).astype(np.int16)


def _in_order(video: Iterator[Any], audio: Iterator[Any]) -> Iterator[Any]:
    """Packets of both tracks by time, so that the muxer has to keep none of them waiting."""
    sides = [video, audio]
    heads = [next(side, None) for side in sides]
    while any(h is not None for h in heads):
        times = [_time(h) if h is not None else float("inf") for h in heads]
        first = times.index(min(times))
        head = heads[first]
        heads[first] = next(sides[first], None)
        if head is not None and head.dts is not None:
            yield head


def _time(packet: Any) -> float:
    return float(packet.dts * packet.time_base) if packet.dts is not None else -1.0
