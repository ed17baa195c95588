"""Any audio or video file → working PCM.

The stages of the path, each a small function or class below:

    packets ─► frames ─► Timeline (gaps become silence) ─► downmix ─► soxr ─► PcmWriter

Encoder delay ("priming") and end padding are taken off by FFmpeg's decoders, from the LAME/Xing header (mp3), the edit
list (m4a), the pre-skip and the last granule position (opus), so decode(encode(x)) begins and ends where x does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.errors import AudioError, NotFoundError, StorageError
from vividcover.song.aside import aside
from vividcover.song.pcm import RATE, PcmReader, PcmWriter, Signal
from vividcover.workspace import Reporter, Silent

BLOCK = 1 << 16  # samples handled at a time
GAP = 0.05  # s: a jump of the timestamps beyond this is a gap; less is rounding (webm counts in milliseconds)
LONGEST_GAP = 60.0  # s: beyond this, timestamps are broken rather than sound missing
LOUDEST = 16.0  # full scale = 1; floating-point files may go above 1, beyond +24 dBFS they are faulty
SILENCE_DB = -60.0  # dBFS peak; below it a recording holds nothing to work with
NARROW = 16_000  # Hz; below this rate the top of a voice is missing
MAX_ERRORS = 2_000  # undecodable packets after which a file is given up
DEMUXERS = (
    "wav,w64,aiff,caf,au,mp3,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,avi,mpegts,mpeg,flv,asf,"
    "ac3,eac3,amr,ape,wv,tta,dts,mpegvideo,swf,nut,rm,dsf"
)  # files only: no playlist (m3u8, concat, …) that could name other files or addresses
SQRT_HALF = math.sqrt(0.5)
# ITU-R BS.775-3 table 2: how much of each channel goes to (left, right). The LFE channel is left out, as there.
DOWNMIX = {
    "FL": (1.0, 0.0), "FR": (0.0, 1.0), "FC": (SQRT_HALF, SQRT_HALF), "LFE": (0.0, 0.0), "LFE2": (0.0, 0.0),
    "BL": (SQRT_HALF, 0.0), "BR": (0.0, SQRT_HALF), "SL": (SQRT_HALF, 0.0), "SR": (0.0, SQRT_HALF),
    "BC": (0.5, 0.5), "FLC": (1.0, 0.0), "FRC": (0.0, 1.0), "DL": (1.0, 0.0), "DR": (0.0, 1.0),
    "WL": (1.0, 0.0), "WR": (0.0, 1.0),
}  # fmt: skip
BY_COUNT = {
    3: ("FL", "FR", "FC"), 4: ("FL", "FR", "BL", "BR"), 5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}  # fmt: skip  # what the channels are where a file does not say (order of WAVEFORMATEXTENSIBLE)


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
    with _opened(Path(path)) as (container, stream):
        return _info(Path(path), container, stream)


def read_tags(path: Path) -> dict[str, str]:
    """The tags of an audio or video file, of the container and its audio track together; keys in lower case."""
    with _opened(Path(path)) as (container, stream):
        tags = {**stream.metadata, **container.metadata}
    return {str(k).lower(): str(v) for k, v in tags.items()}


def decode(
    path: Path, out: Path, *, rate: int = RATE, channels: int = 2, min_seconds: float = 1.0,
    max_seconds: float = 1800.0, reporter: Reporter | None = None,
) -> MediaInfo:  # fmt: skip
    """Any audio file, or the best audio track of a video file → PCM at `rate` Hz with 1 or 2 `channels`.

    Mono is duplicated, surround downmixed by ITU-R BS.775 (scaled so that it cannot clip), stereo averaged where
    `channels` is 1. What cannot be decoded in the middle becomes silence of the same length. Raises `AudioError` for
    text, empty files, no audio track, encrypted audio, less than `min_seconds`, more than `max_seconds`.
    """
    path, reporter = Path(path), reporter or Silent()
    with _opened(path) as (container, stream):
        info = _info(path, container, stream)
        if info.seconds > max_seconds and _really_longer(path, max_seconds):
            raise _too_long(path, info.seconds, max_seconds)
        with aside(out) as part, PcmWriter(part, rate, channels) as writer:
            source = _Source(path, container, stream, reporter)
            sink = _Sink(writer)
            for block, names, source_rate in source.blocks():
                sink.write(block, names, source_rate)
                seconds = writer.frames / rate
                if seconds > max_seconds:
                    raise _too_long(path, seconds, max_seconds)
                reporter.progress(min(seconds / info.seconds, 0.99) if info.seconds else 0.0, "decoding")
            sink.finish()
            _check_result(path, writer.frames / rate, info.seconds, min_seconds, source.failed, sink, reporter)
            if sink.rate and sink.rate < NARROW:
                reporter.note(f"{path.name} is sampled at {sink.rate} Hz only, so the result will sound dull.")
    reporter.progress(1.0, "decoded")
    return replace(info, seconds=writer.frames / rate, peak=20 * math.log10(max(sink.peak, 1e-10)))


def level(pcm: Path) -> float:
    """Peak of a working file in dBFS (-200 for digital silence)."""
    with PcmReader(Path(pcm)) as file:
        peak = max((float(np.abs(b).max(initial=0.0)) for b in file.blocks(BLOCK)), default=0.0)
    return 20 * math.log10(max(peak, 1e-10))


def is_silent(pcm: Path) -> bool:
    """True when a working file's peak is below -60 dBFS: there is nothing in it to work with."""
    return level(pcm) < SILENCE_DB


# --- opening, and what can be wrong with a file -------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, best audio stream), or the error that says why not."""
    _look(path)
    try:
        container = av.open(
            str(path), metadata_errors="replace",
            container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
        )  # fmt: skip
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"{path.name} is not an audio or video file that can be read, or it is damaged at its beginning.",
            "Use wav, mp3, flac, ogg, opus, m4a, aiff, webm, mp4, mkv or mov; if it plays elsewhere, export it anew.",
        ) from error
    with container:
        stream = container.streams.best("audio")
        if stream is None and container.streams.audio:
            stream = container.streams.audio[0]
        if stream is None:
            raise AudioError(f"{path.name} has no audio track.", "Choose a file with sound in it.")
        tag = str(getattr(stream.codec_context, "codec_tag", "")).strip("\0")
        if tag in ("drms", "enca", "encv"):
            raise AudioError(
                f"{path.name} is encrypted (DRM) and cannot be decoded.", "Use a file without copy protection."
            )
        context: Any = stream.codec_context
        if not context or not context.sample_rate:
            raise AudioError(f"{path.name} has an audio track that cannot be decoded.", "Export it as wav or mp3.")
        yield container, stream


def _look(path: Path) -> None:
    """What can be said without a decoder: missing, a folder, unreadable, empty, text."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
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


def _info(path: Path, container: Any, stream: Any) -> MediaInfo:
    seconds = 0.0
    if stream.duration is not None and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    context: Any = stream.codec_context
    tags = {str(k).lower(): str(v) for k, v in {**stream.metadata, **container.metadata}.items()}
    return MediaInfo(
        max(seconds, 0.0), int(context.sample_rate), int(context.channels), str(context.name),
        str(container.format.name), tags.get("title", ""),
    )  # fmt: skip


def _really_longer(path: Path, limit: float) -> bool:
    """Counts packets without decoding them: an mp3 header's duration may be only a guess from the first frame."""
    with _opened(path) as (container, stream):
        seconds = 0.0
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                seconds += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
                if seconds > limit:
                    return True
    return False


def _too_long(path: Path, seconds: float, limit: float) -> AudioError:
    return AudioError(
        f"{path.name} is longer than {limit / 60:g} minutes ({_clock(seconds)}).",
        "Cut the part you want, or raise VIVIDCOVER_MAX_SONG_SECONDS.",
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _check_result(
    path: Path, seconds: float, promised: float, min_seconds: float, failed: int, sink: _Sink, reporter: Reporter
) -> None:
    """The errors and notes about what came out of the decoder."""
    if seconds == 0:
        raise AudioError(
            f"Nothing could be decoded from {path.name}: it is damaged, empty or not audio.", "Export it as wav or mp3."
        )
    short = promised - seconds > max(1.0, 0.02 * promised)
    if seconds < min_seconds:
        cut = f"; its header promises {promised:.2f} s, so it is cut off" if short else ""
        raise AudioError(
            f"{path.name} is {seconds:.2f} s long; at least {min_seconds:g} s are needed{cut}.", "Use a longer piece."
        )
    if short:
        reporter.note(f"{path.name} is cut off: {_clock(seconds)} of {_clock(promised)} could be decoded.")
    if failed:
        reporter.note(f"{path.name} is damaged: {failed} pieces could not be decoded and are silent.")
    if sink.broken:
        reporter.note(f"{path.name} holds {sink.broken} samples that are no numbers or far too loud; they were mended.")


# --- from packets to samples --------------------------------------------------------------------------------------


class _Source:
    """Decodes a track into blocks `[channels, samples]`, with the channels' names and the rate in Hz."""

    def __init__(self, path: Path, container: Any, stream: Any, reporter: Reporter) -> None:
        self.path, self.container, self.stream, self.reporter = path, container, stream, reporter
        self.failed = 0  # packets that could not be decoded
        self._origin: float | None = None  # s, timestamp of the first sample
        self._position = 0.0  # s emitted so far

    def blocks(self) -> Iterator[tuple[Signal, tuple[str, ...], int]]:
        for frame in self._frames():
            if not frame.samples:
                continue
            names = _channel_names(frame)
            rate = int(frame.sample_rate)
            for silence in self._gap(frame, len(names), rate):
                yield silence, names, rate
            yield _samples(frame), names, rate
            self._position += frame.samples / rate

    def _frames(self) -> Iterator[Any]:
        for packet in self._packets():
            self.reporter.check()
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._fail(error)
                continue
            yield from frames

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:  # the reader can go on behind what it could not read
                self._fail(error)
                packets = self.container.demux(self.stream)
                continue
            yield packet

    def _fail(self, error: Exception) -> None:
        self.failed += 1
        if self.failed > MAX_ERRORS:
            raise AudioError(
                f"{self.path.name} is damaged: {self.failed} pieces could not be decoded.", "Use another copy."
            ) from error

    def _gap(self, frame: Any, channels: int, rate: int) -> Iterator[Signal]:
        """Silence where the timestamps say that something is missing before this frame."""
        if frame.pts is None or frame.time_base is None:
            return
        time = float(frame.pts * frame.time_base)
        if self._origin is None:
            self._origin = time
        missing = time - self._origin - self._position
        if missing < -GAP or missing > LONGEST_GAP:
            self._origin = time - self._position  # the clock was set anew: go on from here
        elif missing > GAP:
            count = round(missing * rate)
            self._position += count / rate
            while count > 0:
                yield np.zeros((channels, min(count, BLOCK)), np.float32)
                count -= BLOCK


def _channel_names(frame: Any) -> tuple[str, ...]:
    names = tuple(str(c.name) for c in frame.layout.channels)
    if len(names) > 2 and not all(n in DOWNMIX for n in names):
        return BY_COUNT.get(len(names), tuple(f"?{i}" for i in range(len(names))))
    return names


def _samples(frame: Any) -> Signal:
    """A decoded frame as float32 [channels, samples], full scale ±1, whatever its sample format."""
    array: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype == np.uint8:
        return np.asarray((array.astype(np.float32) - 128) / 128, np.float32)
    if array.dtype.kind == "i":
        return np.asarray(array / float(-np.iinfo(array.dtype).min), np.float32)
    return array.astype(np.float32)


# --- from samples to the working format ---------------------------------------------------------------------------


def downmix_matrix(names: tuple[str, ...], channels: int) -> NDArray[np.float32]:
    """[channels, len(names)]: ITU-R BS.775 to stereo, each row scaled by the same factor so that no sum exceeds 1."""
    if len(names) == 1:
        stereo = np.ones((2, 1))
    elif len(names) == 2:
        stereo = np.eye(2)
    elif all(n in DOWNMIX for n in names):
        stereo = np.array([DOWNMIX[n] for n in names]).T
        stereo = stereo / max(stereo.sum(1).max(), 1.0)
    else:  # more channels than any layout names: all of them, equally, on both sides
        stereo = np.full((2, len(names)), 1 / len(names))
    mixed = stereo if channels == 2 else stereo.mean(0, keepdims=True)
    return np.asarray(mixed, np.float32)


class _Sink:
    """Mends, downmixes and resamples blocks and writes them. A change of rate or layout midway is followed."""

    def __init__(self, writer: PcmWriter) -> None:
        self.writer = writer
        self.peak, self.broken, self.rate = 0.0, 0, 0
        self._names: tuple[str, ...] = ()
        self._resampler: Any = None
        self._pending: list[Signal] = []

    def write(self, block: Signal, names: tuple[str, ...], rate: int) -> None:
        if (names, rate) != (self._names, self.rate):
            self.finish()
            self._names, self.rate = names, rate
            self._matrix = downmix_matrix(names, self.writer.channels)
            if rate != self.writer.rate:
                self._resampler = soxr.ResampleStream(
                    rate, self.writer.rate, self.writer.channels, dtype="float32", quality="VHQ"
                )
        self._pending.append(block)
        if sum(b.shape[1] for b in self._pending) >= BLOCK:
            self._drain()

    def finish(self) -> None:
        """Writes what is still inside the resampler."""
        self._drain(last=True)
        self._resampler = None

    def _drain(self, last: bool = False) -> None:
        blocks, self._pending = self._pending, []
        if not blocks and not (last and self._resampler is not None):
            return
        if blocks:
            signal = self._matrix @ self._mend(np.concatenate(blocks, axis=1))
        else:
            signal = np.zeros((self.writer.channels, 0), np.float32)
        if self._resampler is not None:
            interleaved = np.ascontiguousarray(signal.T)
            signal = self._resampler.resample_chunk(interleaved, last=last).reshape(-1, self.writer.channels).T
        self.peak = max(self.peak, float(np.abs(signal).max(initial=0.0)))
        self.writer.write(signal)

    def _mend(self, block: Signal) -> Signal:
        good = np.abs(block) <= LOUDEST  # False for nan too
        if good.all():
            return block
        self.broken += int(good.size - np.count_nonzero(good))
        finite = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        return np.clip(finite, -LOUDEST, LOUDEST)
