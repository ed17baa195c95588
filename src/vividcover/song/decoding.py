"""Any audio or video file → working PCM.

The stages of the path, each a small function or class below:

    packets ─► frames ─► mended ─► timeline (gaps become silence) ─► downmix ─► soxr ─► PcmWriter

Encoder delay ("priming") and end padding are taken off by FFmpeg's decoders, from the LAME/Xing header (mp3), the edit
list (m4a), the pre-skip and the last granule position (opus); the last AAC frame is cut at the track's duration here.
So decode(encode(x)) begins and ends where x does, in every format (tests/song/test_codec.py).

soxr resamples, not FFmpeg: measured from 48 to 44.1 kHz, a tone at 23 kHz comes back at -157 dB instead of -27 dB, the
error on a 1 kHz tone is -151 dB instead of -109 dB, at about the same cost (0.8 ms per second and channel).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.errors import AudioError
from vividcover.files import aside
from vividcover.song.media import SILENCE_DB, USE, MediaInfo, cut_off, describe, opened, really_longer
from vividcover.song.pcm import RATE, PcmReader, PcmWriter, Signal
from vividcover.workspace import Reporter, Silent

BLOCK = 1 << 16  # samples handled at a time
GAP = 0.05  # s: a jump of the timestamps beyond this is a gap; less is rounding (webm counts in milliseconds)
LONGEST_GAP = 60.0  # s: beyond this, timestamps are broken rather than sound missing
PADDING = 4096  # samples: what a last frame may hold behind the track's end; more, and the header is wrong
LOUDEST = 4.0  # full scale = 1; floating-point files may go above 1, beyond +12 dBFS they are faulty
MOST_FAULTY = 0.01  # share of faulty samples with which a file is still worth mending
EXACT = ("flac", "mov", "wav", "aiff")  # containers whose headers know the track's duration
NARROW = 16_000  # Hz; below this rate the top of a voice is missing
MAX_CHANNELS = 8  # more in a planar frame are not safe to touch (PyAV reads beyond the end)
MAX_ERRORS = 2_000  # undecodable packets after which a file is given up
SETTLED = 3  # frames in a row of another rate or layout, before it is believed
SQRT_HALF = math.sqrt(0.5)
# ITU-R BS.775-3 table 2: how much of each channel goes to (left, right). The LFE channel is left out, as there.
DOWNMIX = {
    "FL": (1.0, 0.0), "FR": (0.0, 1.0), "FC": (SQRT_HALF, SQRT_HALF), "LFE": (0.0, 0.0), "LFE2": (0.0, 0.0),
    "BL": (SQRT_HALF, 0.0), "BR": (0.0, SQRT_HALF), "SL": (SQRT_HALF, 0.0), "SR": (0.0, SQRT_HALF),
    "BC": (0.5, 0.5), "FLC": (1.0, 0.0), "FRC": (0.0, 1.0), "DL": (1.0, 0.0), "DR": (0.0, 1.0),
    "WL": (1.0, 0.0), "WR": (0.0, 1.0),
}  # fmt: skip
BY_COUNT = {  # what the channels are where a file does not say (order of WAVEFORMATEXTENSIBLE)
    3: ("FL", "FR", "FC"), 4: ("FL", "FR", "BL", "BR"), 5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}  # fmt: skip


def decode(
    path: Path, out: Path, *, rate: int = RATE, channels: int = 2, min_seconds: float = 1.0,
    max_seconds: float = 1800.0, reporter: Reporter | None = None,
) -> MediaInfo:  # fmt: skip
    """Any audio file, or the best audio track of a video file → PCM at `rate` Hz with 1 or 2 `channels`.

    Mono is duplicated, surround downmixed by ITU-R BS.775 (scaled so that it cannot clip), stereo averaged where
    `channels` is 1. What cannot be decoded in the middle becomes silence of the same length. Raises `AudioError` for
    text, empty files, no audio track, encrypted audio, less than `min_seconds`, more than `max_seconds`; a file that
    is cut off, damaged or of low quality is decoded, with a note.
    """
    path, reporter = Path(path), reporter or Silent()
    with opened(path) as (container, stream):
        info = describe(container, stream)
        if info.seconds > max_seconds and really_longer(path, max_seconds):
            raise _too_long(path, info.seconds, max_seconds)
        with aside(out) as part, PcmWriter(part, rate, channels) as writer:
            source = _Source(path, container, stream, info, reporter)
            sink = _Sink(writer)
            for block, names, source_rate in source.blocks():
                sink.write(block, names, source_rate)
                seconds = writer.frames / rate
                if seconds > max_seconds:
                    raise _too_long(path, seconds, max_seconds)
                reporter.progress(min(seconds / info.seconds, 0.99) if info.seconds else 0.0, "decoding")
            sink.finish()
            _check_result(path, writer.frames / rate, info.seconds, min_seconds, source, sink, reporter)
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


# --- what is said about the result --------------------------------------------------------------------------------


def _too_long(path: Path, seconds: float, limit: float) -> AudioError:
    return AudioError(
        f"{path.name} is longer than {_clock(limit)} (at least {_clock(seconds)}).",
        "Cut out the part you want, or raise VIVIDCOVER_MAX_SONG_SECONDS.",
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _check_result(
    path: Path, seconds: float, promised: float, min_seconds: float, source: _Source, sink: _Sink, reporter: Reporter
) -> None:
    """The errors and notes about what came out of the decoder."""
    if seconds == 0:
        raise AudioError(f"Nothing could be decoded from {path.name}: it is damaged, empty or not audio.", USE)
    if sink.faulty > MOST_FAULTY * sink.seen:
        raise AudioError(
            f"{path.name} holds {100 * sink.faulty / sink.seen:.0f} % samples that are no numbers, or far beyond full "
            "scale.", "Export it again as 16 or 24 bit wav, or as floating point between -1 and 1.",
        )  # fmt: skip
    lenient = max(1.0, 0.02 * promised)  # a header's duration may be a guess, or that of the pictures
    short = promised - seconds > (0.1 if source.container.format.name.startswith(EXACT) else lenient)
    if seconds < min_seconds:
        cut = f"; its header promises {promised:.2f} s, so it is cut off" if short else ""
        raise AudioError(
            f"{path.name} is {seconds:.2f} s long; at least {min_seconds:g} s are needed{cut}.", "Use a longer piece."
        )
    if short:
        reporter.note(f"{path.name} is cut off: {_clock(seconds)} of {_clock(promised)} could be decoded.")
    elif cut_off(path):
        reporter.note(f"{path.name} is cut off: its end is missing; {_clock(seconds)} could be decoded.")
    elif source.missing > 0:
        reporter.note(f"{path.name} is damaged: {source.missing:.2f} s could not be decoded and are silent.")
    elif source.failed:
        reporter.note(f"{path.name} is damaged: {source.failed} pieces could not be decoded.")
    if sink.faulty:
        reporter.note(f"{path.name} holds {sink.faulty} samples that are no numbers, or far too loud; they are silent.")
    if sink.rate < NARROW:
        reporter.note(f"{path.name} is sampled at {sink.rate} Hz only: its quality is limited, and it will sound dull.")


# --- from packets to samples --------------------------------------------------------------------------------------


class _Source:
    """Decodes a track into blocks `[channels, samples]`, with the channels' names and the rate in Hz.

    `failed` counts packets that could not be decoded, `missing` the seconds of silence put in for what is not there.
    """

    def __init__(self, path: Path, container: Any, stream: Any, info: MediaInfo, reporter: Reporter) -> None:
        self.path, self.container, self.stream, self.reporter = path, container, stream, reporter
        self.failed, self.missing = 0, 0.0
        self._decoder: Any = stream.codec_context
        self._untimed = info.container in ("mp3", "aac")  # no timestamps: they are counted from the packets
        self._mean = 0.0  # bytes in a good packet
        self._excess = 0.0  # lost packets not accounted for yet, less than one
        self._origin: float | None = None  # s, timestamp of the first sample
        self._position = 0.0  # s emitted so far
        self._end = round(info.seconds * info.rate) if info.container.startswith("mov") else 0  # samples; 0 = unknown

    def blocks(self) -> Iterator[tuple[Signal, tuple[str, ...], int]]:
        """Everything, with the padding behind the track's end cut off."""
        emitted = 0
        behind: list[tuple[Signal, tuple[str, ...], int]] = []  # what lies behind the promised end
        for block, names, rate in self._blocks():
            count = block.shape[1]
            if self._end and emitted + count > self._end and rate == self.stream.codec_context.sample_rate:
                keep = max(self._end - emitted, 0)
                behind.append((block[:, keep:], names, rate))
                block = block[:, :keep]
                if sum(b.shape[1] for b, _, _ in behind) > PADDING:  # the header was wrong: it goes on
                    self._end = 0
                    yield block, names, rate
                    yield from behind
                    continue
            emitted += count
            if block.shape[1]:
                yield block, names, rate

    def _blocks(self) -> Iterator[tuple[Signal, tuple[str, ...], int]]:
        for frame in self._believed(self._frames()):
            names, rate = _channel_names(frame), int(frame.sample_rate)
            for silence in self._gap(frame, len(names), rate):
                yield silence, names, rate
            yield _samples(frame), names, rate
            self._position += frame.samples / rate

    def _believed(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Drops frames of another rate or layout that do not last: a decoder reading damaged bytes makes them up."""
        current: Any = None
        doubtful: list[Any] = []
        for frame in frames:
            kind = (frame.sample_rate, frame.layout.name)
            if current in (None, kind):
                current, self.failed = kind, self.failed + len(doubtful)
                doubtful = []
                yield frame
                continue
            if doubtful and (doubtful[-1].sample_rate, doubtful[-1].layout.name) != kind:
                self.failed += len(doubtful)
                doubtful = []
            doubtful.append(frame)
            if len(doubtful) == SETTLED:
                current = kind
                yield from doubtful
                doubtful = []

    def _frames(self) -> Iterator[Any]:
        for packet in self._packets():
            self.reporter.check()
            try:
                frames = [frame for frame in self._decoder.decode(packet) if frame.samples]
                if any(f.format.is_planar and len(f.layout.channels) > MAX_CHANNELS for f in frames):
                    raise av.error.InvalidDataError(0, "more channels than there are")
            except av.error.FFmpegError as error:
                self._fail(error, packet)
                continue
            if packet.size and frames:
                self._mean += (packet.size - self._mean) * (0.05 if self._mean else 1.0)
            yield from frames

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except IndexError as error:  # damage that looks like another track, which PyAV does not know
                self._fail(error)
                return
            except av.error.FFmpegError as error:  # the reader can go on behind what it could not read
                self._fail(error)
                packets = self.container.demux(self.stream)
                continue
            yield packet

    def _fail(self, error: Exception, packet: Any = None) -> None:
        self.failed += 1
        if self.failed > MAX_ERRORS:
            raise AudioError(
                f"{self.path.name} is damaged: {self.failed} pieces could not be decoded.", "Use another copy."
            ) from error
        if self._decoder.name == "aac":  # it believes a damaged packet's number of channels for ever: begin anew
            fresh = av.CodecContext.create(self._decoder.codec, "r")
            fresh.extradata = self._decoder.extradata
            self._decoder = fresh
        if self._untimed and self._mean and packet is not None and packet.duration and self._origin is not None:
            # the parser takes all bytes up to the next header for one packet: count the packets that were in there
            self._excess += packet.size / self._mean - 1
            more, self._excess = divmod(self._excess, 1)
            self._origin -= more * float(packet.duration * packet.time_base)

    def _gap(self, frame: Any, channels: int, rate: int) -> Iterator[Signal]:
        """Silence where the timestamps say that something is missing before this frame."""
        if frame.pts is None or self.stream.time_base is None:
            return
        time = float(frame.pts * self.stream.time_base)
        if self._origin is None:
            self._origin = time
        missing = time - self._origin - self._position
        if missing < -GAP or missing > LONGEST_GAP:
            self._origin = time - self._position  # the clock was set anew: go on from here
        elif missing > GAP or (self.failed and missing > 0.5 * frame.samples / rate):
            count = round(missing * rate)
            self._position += count / rate
            self.missing += count / rate
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
    """Mends, downmixes and resamples blocks and writes them. A change of rate or layout midway is followed.

    `seen` and `faulty` count samples of the source, `rate` is the source's in Hz, `peak` is that of what was written.
    """

    def __init__(self, writer: PcmWriter) -> None:
        self.writer = writer
        self.peak, self.faulty, self.seen, self.rate = 0.0, 0, 0, 0
        self._names: tuple[str, ...] = ()
        self._resampler: Any = None
        self._pending: list[Signal] = []
        self._count = 0  # samples pending

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
        self._count += block.shape[1]
        if self._count >= BLOCK:
            self._drain()

    def finish(self) -> None:
        """Writes what is still inside the resampler."""
        self._drain(last=True)
        self._resampler = None

    def _drain(self, last: bool = False) -> None:
        blocks, self._pending, self._count = self._pending, [], 0
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
        self.seen += good.size
        if good.all():
            return block
        self.faulty += int(good.size - np.count_nonzero(good))
        return np.where(good, block, np.float32(0.0))
