"""Recordings → a training set: cut at silences, cut into windows of 3 s, levelled; content and pitch of each window.

    clips = prepare(recordings, folder, config, features=contentvec, pitch=rmvpe, reporter=stage)

RVC's published recipe, with three differences: nothing is dropped without a line in the report, a recording is read in
blocks (memory does not grow with its length), and the mute clips that teach a voice to be silent are made here.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from vividcover.errors import AudioError, InputError
from vividcover.song.codec import decode
from vividcover.song.pcm import PcmReader, PcmWriter
from vividcover.voice.classic.f0 import sung_share
from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.data import SetWriter, TrainingSet
from vividcover.workspace import Reporter, Silent

Array = NDArray[np.float32]
Features = Callable[[Array], Array]  # 16 kHz [B, N] → [B, T, C] at 50 Hz
Pitch = Callable[[Array], Array]  # 16 kHz [N] → Hz [T] at 100 Hz, 0 where nothing is voiced

HEARD = 16_000  # Hz, at which content and pitch are found
CUTOFF, ORDER = 48.0, 5  # Hz; of the high-pass
HOP, THRESHOLD = 0.015, -42.0  # s; dBFS of 60 ms below which it is silent
LEAST_SILENCE, LEAST_LENGTH, KEPT_SILENCE = 0.4, 1.5, 0.5  # s: of silence, before a cut, kept at a cut
WINDOW, OVERLAP = 3.0, 0.3  # s of a clip, and that two neighbours share
LOUDEST = 2.5  # full scale; a window above is broken
LEVEL, BLEND = 0.9, 0.75  # peak that a window is brought to, and how far
QUIETEST = 1e-3  # full scale; a window below holds nothing
SHORTEST = 0.1  # s of a window
LONGEST = 3 * 3600.0  # s of a recording
MUTE, MUTES = 3.0, 2  # s of a mute clip, and how many there are at most
AT_ONCE = 8  # windows of one length whose content is found together
POOR, FAIR, GOOD = 30.0, 180.0, 600.0  # s of usable voice


@dataclass
class Report:
    """What became of the recordings. Seconds; `dropped` maps a reason to seconds."""

    heard: float = 0.0
    usable: float = 0.0
    recordings: int = 0
    dropped: dict[str, float] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    f0: list[Array] = field(default_factory=list)

    def drop(self, reason: str, seconds: float) -> None:
        if seconds > 0:
            self.dropped[reason] = round(self.dropped.get(reason, 0.0) + seconds, 3)

    def to_json(self, clips: int) -> dict[str, Any]:
        pitch = np.concatenate([*self.f0, np.zeros(0, np.float32)])
        voiced = pitch[pitch > 0]
        share = len(voiced) / max(len(pitch), 1)
        low, median, high = np.percentile(voiced, [5, 50, 95]) if len(voiced) else (0.0, 0.0, 0.0)
        return {
            "recordings": self.recordings, "clips": clips, "unreadable": self.unreadable,
            "minutes_heard": round(self.heard / 60, 3), "minutes": round(self.usable / 60, 3),
            "minutes_voiced": round(share * self.usable / 60, 3), "dropped_seconds": self.dropped,
            "f0_hz": {"low": round(float(low), 2), "median": round(float(median), 2), "high": round(float(high), 2)}
            if len(voiced) else None,
            "sung": round(float(sung_share(pitch)), 3),
            "advice": self.advice(share * self.usable),
        }  # fmt: skip

    def advice(self, voiced: float) -> list[str]:
        """What would make the voice better."""
        said = []
        for limit, text in ((POOR, "It will not sound like much: record 3 minutes at least"),
                            (FAIR, "It will be rough: 3 minutes are better, 10 are good"),
                            (GOOD, "10 minutes are better")):  # fmt: skip
            if self.usable < limit:
                said.append(f"{_time(self.usable)} of usable voice. {text}, in a quiet room, without music.")
                break
        if self.usable > 1 and voiced < 0.2 * self.usable:
            said.append(f"Only {_time(voiced)} of it have a pitch: is it whispered, or noise?")
        return said

    def fail(self) -> AudioError:
        why = "; ".join(f"{seconds:.1f} s {reason}" for reason, seconds in self.dropped.items())
        if set(self.dropped) == {"silent"}:
            return AudioError(
                f"The {self.recordings} recording(s) ({self.heard:.1f} s) hold only silence: 0.0 minutes are usable.",
                "Check the microphone, and record at least 3 minutes of speech or singing.",
            )
        return AudioError(
            f"None of the {self.heard:.1f} s of recordings can be used{f' ({why})' if why else ''}: "
            "0.0 minutes are usable.",
            "Record at least 3 minutes of speech or singing, in a quiet room, without music.",
        )


def prepare(
    recordings: Sequence[Path], folder: Path, config: RvcConfig, *, features: Features, pitch: Pitch,
    fingerprint: str = "", speakers: Sequence[int] = (), reporter: Reporter | None = None,
) -> TrainingSet:  # fmt: skip
    """Writes the training set of audio files into `folder`, or opens the one that is there with this `fingerprint`.

    `speakers`: whose each recording is, for a voice of several people. Unreadable files are noted and left out; raises
    `AudioError` when nothing can be used (its text says why and how many minutes there are), `Canceled`.
    """
    reporter = reporter or Silent()
    if fingerprint and (found := _found(folder, fingerprint)) is not None:
        reporter.note(f"The training set of {len(found)} clips is there already.")
        return found
    writer = SetWriter(folder, config.features)
    report, failures = Report(), list[InputError]()
    listener = _Listener(writer, config, features, pitch, report)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            for number, recording in enumerate(recordings):
                said = f"listening to {recording.name}"
                reporter.progress(number / len(recordings), said)
                try:
                    pcm, powers = _filtered(recording, Path(work), config.rate, reporter)
                except InputError as error:
                    failures.append(error)
                    report.unreadable.append(recording.name)
                    reporter.note(f"{error.message} Left out.")
                    continue
                speaker = speakers[number] if speakers else 0
                for done, clip, new in _clips(pcm, powers, report):
                    reporter.progress((number + done) / len(recordings), said)
                    listener.add(f"{number}_{recording.stem}", clip, new, speaker)
                listener.flush()
                report.recordings += 1
        if not writer.clips:
            raise failures[0] if len(failures) == len(recordings) == 1 else report.fail()
        listener.add_mutes()
        story = report.to_json(sum(not clip.mute for clip in writer.clips))
    finally:
        writer.stop()
    for text in (*story["advice"], *_dropped(report)):
        reporter.note(text)
    return writer.close(fingerprint, story)


def _found(folder: Path, fingerprint: str) -> TrainingSet | None:
    try:
        found = TrainingSet.open(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.fingerprint == fingerprint else None


def _dropped(report: Report) -> Iterator[str]:
    for reason, seconds in report.dropped.items():
        if reason != "silent" and seconds >= 0.1:
            yield f"{_time(seconds)} left out: {reason}."


def _filtered(recording: Path, work: Path, rate: int, reporter: Reporter) -> tuple[Path, NDArray[np.float64]]:
    """Decoded to mono at `rate` without what lies below a voice, and the sum of squares of each HOP."""
    raw, pcm, hop = work / "raw.wav", work / "clean.wav", round(rate * HOP)
    decode(recording, raw, rate=rate, channels=1, min_seconds=0.0, max_seconds=LONGEST)
    filter_ = butter(ORDER, CUTOFF, "highpass", fs=rate, output="sos")
    state = np.zeros((len(filter_), 2))
    powers = [np.zeros(0)]
    with PcmReader(raw) as source, PcmWriter(pcm, rate, 1) as out:
        for block in source.blocks(1000 * hop):
            reporter.check()
            clean, state = sosfilt(filter_, block[0].astype(np.float64), zi=state)
            out.write(clean.astype(np.float32))
            padded = np.pad(clean, (0, -len(clean) % hop)).reshape(-1, hop)
            powers.append(np.square(padded).sum(axis=1))
    raw.unlink()
    return pcm, np.concatenate(powers)


def _clips(pcm: Path, powers: NDArray[np.float64], report: Report) -> Iterator[tuple[float, Array, float]]:
    """How far the recording is done; each window of it that can be used, at its level; how many s of it are new."""
    with PcmReader(pcm) as reader:
        rate, hop = reader.rate, round(reader.rate * HOP)
        report.heard += reader.seconds
        spans = [(a * hop, min(b * hop, reader.frames)) for a, b in spans_of(loudness(powers, hop), rate)]
        report.drop("silent", max(reader.frames - sum(b - a for a, b in spans), 0) / rate)
        for low, high in spans:
            for number, (a, b) in enumerate(windows(high - low, rate)):
                new = max(b - a - (round(OVERLAP * rate) if number else 0), 0) / rate  # s that the last one had not
                window = reader.read(low + a, b - a)[0]
                peak = float(np.abs(window).max(initial=0.0))
                if reason := _fault(peak, len(window) / rate):
                    report.drop(reason, new)
                    continue
                report.usable += new
                yield (low + b) / reader.frames, window * np.float32(LEVEL * BLEND / peak + 1 - BLEND), new


def _fault(peak: float, seconds: float) -> str:
    if seconds < SHORTEST:
        return "too short"
    if not math.isfinite(peak) or peak > LOUDEST:
        return "far too loud"
    return "silent" if peak < QUIETEST else ""


class _Listener:
    """Finds content and pitch of clips; clips of the same length together, since most are as long as a window."""

    def __init__(self, writer: SetWriter, config: RvcConfig, features: Features, pitch: Pitch, report: Report) -> None:
        self.writer, self.config, self.features, self.pitch, self.report = writer, config, features, pitch, report
        self.waiting: list[tuple[str, Array, Array, float, int]] = []

    def add(self, name: str, wave: Array, seconds: float = 0.0, speaker: int = 0) -> None:
        """wave [N] at the voice's rate, `seconds` of it new. One that is shorter than a training segment is followed
        by silence."""
        wave = np.pad(wave, (0, max(self.config.segment + 2 * self.config.hop - len(wave), 0)))
        heard = soxr.resample(wave, self.config.rate, HEARD).astype(np.float32)
        if self.waiting and (len(self.waiting[0][2]) != len(heard) or len(self.waiting) == AT_ONCE):
            self.flush()
        self.waiting.append((name, wave, heard, seconds, speaker))

    def flush(self, mute: bool = False) -> None:
        if not self.waiting:
            return
        content = self.features(np.stack([heard for _, _, heard, _, _ in self.waiting]))
        for (name, wave, heard, seconds, speaker), found in zip(self.waiting, content):
            f0 = np.zeros(len(heard) // 160 + 1, np.float32) if mute else self.pitch(heard)
            if not np.isfinite(found).all() or not np.isfinite(f0).all():
                self.report.drop("no content or pitch to be found (not a number)", seconds)
                self.report.usable -= seconds
                continue
            if not mute:
                self.report.f0.append(f0)
            self.writer.add(f"{name}_{len(self.writer.clips)}", wave, found, f0, speaker=speaker, mute=mute)
        self.waiting = []

    def add_mutes(self) -> None:
        """Silence, for one clip in ten or two in all: without it a voice hums in the pauses."""
        for _ in range(min(MUTES, math.ceil(len(self.writer.clips) / 10))):
            self.add("mute", np.zeros(round(MUTE * self.config.rate), np.float32))
        self.flush(mute=True)


# --- where to cut ---------------------------------------------------------------------------------------------------


def loudness(powers: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """Root mean square of 60 ms around every HOP, of the sums of squares of each."""
    padded = np.concatenate((np.zeros(2), powers, np.zeros(3)))
    return np.sqrt(np.convolve(padded, np.ones(4), mode="valid")[: len(powers) + 1] / (4 * hop))


def spans_of(level: NDArray[np.float64], rate: int) -> list[tuple[int, int]]:
    """(start, end) in hops of what lies between silences that are long enough to cut at.

    A cut lies where it is quietest; of a long silence, what is more than half a second from a voice is left out.
    """
    hop = round(rate * HOP) / rate
    least, length, kept = (round(seconds / hop) for seconds in (LEAST_SILENCE, LEAST_LENGTH, KEPT_SILENCE))
    total, begin = len(level), 0
    spans: list[tuple[int, int]] = []

    def quietest(low: int, high: int) -> int:
        return low + int(np.argmin(level[low : high + 1]))

    for start, end in _silences(level < 10 ** (THRESHOLD / 20)):
        size = end - start
        if end == total:
            if size >= least:
                spans.append((begin, quietest(start, min(total, start + kept))))
                begin = total
            continue
        leading = start == 0 and end > kept
        if not leading and (size < least or end - begin < length):
            continue
        left = quietest(start, min(start + kept, end))
        right = quietest(max(end - kept, start), end)
        if size <= kept:
            left = right = quietest(start, end)
        elif size <= 2 * kept and start > 0:
            middle = quietest(end - kept, start + kept)
            left, right = min(left, middle), max(right, middle)
        if start > 0:
            spans.append((begin, left))
        begin = right
    if begin < total:
        spans.append((begin, total))
    return [(a, b) for a, b in spans if b > a]


def _silences(quiet: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def windows(samples: int, rate: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the windows of a span: WINDOW long, OVERLAP shared, the last one up to that much longer."""
    start = number = 0
    while samples - start > (WINDOW + OVERLAP) * rate:
        yield start, start + int(WINDOW * rate)
        number += 1
        start = int(rate * (WINDOW - OVERLAP) * number)
    yield start, samples


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
