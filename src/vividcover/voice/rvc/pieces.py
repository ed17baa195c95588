"""The song as the networks hear it, and the pieces it goes through them in.

Everything counts in frames of 10 ms: 160 samples at 16 kHz. `Song` is the vocals as 16 kHz mono without rumble, kept
in a file beside the work so that memory does not grow with the song. `spans` are where there is sound; each is cut, at
its quietest places, into pieces that the feature network and the text encoder see whole, with CONTEXT around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from vividcover.errors import StorageError
from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter

RATE, HOP = 16_000, 160  # Hz; samples per frame
RUMBLE = signal.butter(5, 48, "high", fs=RATE)  # numerator, denominator: what RVC takes off below 48 Hz
SETTLED = RATE  # samples after which nothing of the filter's past is left (it falls below 1e-9 in 0.2 s)
BLOCK = 10 * RATE  # samples filtered at a time
HOLD = 25  # frames of silence that still belong to the sound before and after them: tails, breath
FADE = 3  # frames over which the output comes and goes at the ends of a span
PIECE, SEARCH = 1000, 250  # frames between two cuts, about; and around that, where the quietest place is looked for
CONTEXT = 100  # frames on either side that are heard and thrown away
QUIET = 1e-10  # power below which a level is not told apart from silence

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Span:
    """Frames start … stop with sound in them, one after the other sung without a break."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


class Song:
    """The vocals at 16 kHz, mono, high-passed. `samples` [N] lie in `path`; `seconds` and `frames` tell the length."""

    def __init__(self, vocals: PcmReader, path: Path, reporter: Reporter) -> None:
        self.path = path
        self.length = round(vocals.frames * RATE / vocals.rate)
        raw = path.with_suffix(".raw")
        try:
            _resample(vocals, raw, self.length, reporter)
            self._high_pass(raw, reporter)
        except OSError as error:
            raise StorageError(f"The song could not be prepared in {path.parent}: {error}.", "Is the disk full?") from (
                error
            )
        finally:
            raw.unlink(missing_ok=True)
        self.samples: NDArray[np.float32] = (
            np.memmap(path, np.float32, "c", shape=(self.length,)) if self.length else np.zeros(0, np.float32)
        )

    @property
    def frames(self) -> int:
        return -(-self.length // HOP)

    def read(self, start: int, count: int) -> Array:
        """Samples from `start`, mirrored at both ends of the song as in RVC (silence if it is one sample long)."""
        if self.length < 2:
            return np.zeros(count, np.float32)
        return np.array(self.samples[mirrored(np.arange(start, start + count), self.length)])

    def power(self) -> Array:
        """Mean square of every frame [frames]."""
        cells = [np.zeros(0, np.float32)]
        for start in range(0, self.length, BLOCK):
            part = np.asarray(self.samples[start : start + BLOCK], np.float32)
            part = np.pad(part, (0, -len(part) % HOP))
            cells.append(np.mean(part.reshape(-1, HOP) ** 2, axis=1, dtype=np.float32))
        return np.concatenate(cells)

    def _high_pass(self, raw: Path, reporter: Reporter) -> None:
        """Both ways, so that nothing moves in time; in blocks with what settles the filter around them."""
        source = np.memmap(raw, np.float32, "r", shape=(self.length,)) if self.length else np.zeros(0, np.float32)
        with self.path.open("wb") as out:
            for start in range(0, self.length, BLOCK):
                reporter.check()
                low, high = max(start - SETTLED, 0), min(start + BLOCK + SETTLED, self.length)
                filtered = high_passed(np.asarray(source[low:high]))
                out.write(filtered[start - low : start - low + BLOCK].astype("<f4").tobytes())

    def close(self) -> None:
        self.samples = np.zeros(0, np.float32)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Song:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _resample(vocals: PcmReader, out: Path, length: int, reporter: Reporter) -> None:
    """The vocals as `length` samples of 16 kHz mono, raw float32, into `out`."""
    resampler = soxr.ResampleStream(vocals.rate, RATE, 1, dtype="float32", quality="VHQ")
    written = 0
    with out.open("wb") as file:
        for block in vocals.blocks(1 << 18):
            reporter.check()
            part = resampler.resample_chunk(np.ascontiguousarray(block.mean(0)))[: length - written]
            file.write(part.astype("<f4").tobytes())
            written += len(part)
        part = resampler.resample_chunk(np.zeros(0, np.float32), last=True)[: length - written]
        file.write(part.astype("<f4").tobytes())
        file.write(bytes(4 * (length - written - len(part))))


def high_passed(samples: Array) -> NDArray[np.float64]:
    """Without what lies below 48 Hz, forwards and backwards. What is too short to filter stays as it is."""
    if len(samples) <= 3 * len(RUMBLE[0]):
        return samples.astype(np.float64)
    return np.asarray(signal.filtfilt(*RUMBLE, samples), np.float64)


def mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places before the beginning or past the end, reflected into 0 … length-1."""
    period = max(2 * (length - 1), 1)
    places = places % period
    return np.minimum(places, period - places)


# --- where there is sound --------------------------------------------------------------------------------------------


def spans(power: Array, gate_db: float) -> list[Span]:
    """Where the level is above the gate (dB of full scale), with HOLD frames around. `power` [T], see `Song.power`."""
    loud = 10 * np.log10(uniform_filter1d(power.astype(np.float64), 3, mode="constant") + QUIET) > gate_db
    if gate_db <= -10 * np.log10(1 / QUIET):
        loud[:] = True
    held = np.pad(maximum_filter1d(loud.astype(np.int8), 2 * HOLD + 1, mode="constant"), 1)
    edges = np.flatnonzero(np.diff(held))
    return [Span(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2])]


def opening(places: Span, start: int, stop: int, last: int, hop: int) -> Array | None:
    """Gain [(stop-start)*hop] of the output in frames start … stop of a span; None where it is 1 all over.

    At the song's own beginning and end (frame `last`) nothing is faded.
    """
    fade_in, fade_out = places.start > 0, places.stop < last
    inside = (start >= places.start + FADE or not fade_in) and (stop <= places.stop - FADE or not fade_out)
    if inside:
        return None
    now = start + (np.arange((stop - start) * hop) + 0.5) / hop
    gain = np.ones(len(now))
    if fade_in:
        gain = np.minimum(gain, (now - places.start) / FADE)
    if fade_out:
        gain = np.minimum(gain, (places.stop - now) / FADE)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(gain, 0, 1)), np.float32)


def pieces(span: Span, power: Array) -> Iterator[Span]:
    """A span cut where it is quietest, into PIECE frames or so each. The cuts hang on nothing but the sound."""
    smooth = uniform_filter1d(power[span.start : span.stop].astype(np.float64), 9)
    start = 0
    while span.frames - start > PIECE + 2 * SEARCH:
        low = start + PIECE - SEARCH
        cut = (low + int(np.argmin(smooth[low : low + 2 * SEARCH]))) // 2 * 2  # features come every other frame
        yield Span(span.start + start, span.start + cut)
        start = cut
    yield Span(span.start + start, span.stop)
