"""Recordings of a person → a data set: clean clips of their voice, in the seed's layout, with a report.

    report = make_dataset([Path("interview.mp4"), Path("memos.zip")], Path("dataset_ana.zip"), name="ana")

Each recording is decoded to mono, its music taken out if it has any (`music.py`, `song/separate.py`), brought to an
even level, cut at its silences (`slicing.py`), and its clips are judged one by one. Memory does not grow with length.
The zip holds `dataset/<name>/split_<i>.wav`, 16 bit, 44.1 kHz, mono; the same recordings give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import unicodedata
import uuid
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vividcover.archives import write_zip
from vividcover.errors import AudioError, InputError, ParameterError
from vividcover.song.codec import decode
from vividcover.song.pcm import RATE, PcmReader
from vividcover.song.separate import separate
from vividcover.voice import music, slicing
from vividcover.voice.music import Verdict
from vividcover.voice.recordings import gather
from vividcover.voice.slicing import HOP, Span, Track
from vividcover.workspace import Reporter, Silent, storage_errors

Isolate = Literal["auto"] | bool

MAX_SECONDS = 3 * 3600.0  # of one recording
MIN_RECORDING = 0.5  # s; shorter files are not looked at
MIN_VOICED = 1.0  # s of sound in a clip
MAX_CROWDING = 1.5  # see `slicing.crowding`: about 5 dB too loud
SILENCE = -60.0  # dBFS of the highest sample, below which a recording is silent
NEEDED = 10.0  # s of usable voice that a data set must have
TRAINABLE, GOOD, ENOUGH = 30.0, 600.0, 1800.0  # s: training wants, is good with, gains nothing beyond
LOW_SNR = 15.0  # dB, below which a recording is called noisy


@dataclass
class _Recording:
    """One recording's line in the report."""

    file: str
    seconds: float = 0.0
    usable_seconds: float = 0.0
    clips: int = 0
    snr_db: float | None = None
    music: bool = False
    isolated: bool = False
    why: str = ""
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, reason: str, start: float, seconds: float) -> None:
        self.rejected.append({"reason": reason, "at": round(start, 2), "seconds": round(seconds, 2)})


def make_dataset(
    recordings: Sequence[Path],
    out: Path,
    *,
    name: str,
    isolate: Isolate = "auto",
    threads: int = 2,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Writes the data set's zip to `out` and returns the report (JSON).

    `recordings`: audio and video files, folders and zips of them. `isolate`: take the voice out of music first?
    Report: name, clips, usable_seconds, usable_minutes, seconds, snr_db (dB, of the median recording),
    rejected_seconds {reason: s}, advice [text], and recordings [_Recording].
    Raises `AudioError` when nothing is left or less than 10 s, `ArchiveError`, `NotFoundError`, `Canceled`.
    """
    reporter = reporter or Silent()
    if isolate not in ("auto", True, False):
        raise ParameterError(f"isolate is {isolate!r}.", "Use auto, true or false.")
    name = clean_name(name, reporter)
    out = Path(out)
    work = out.parent / f".dataset-{uuid.uuid4().hex}"
    try:
        with storage_errors("the data set", out.parent):
            work.mkdir(parents=True)
            sources = gather(recordings, work, reporter)
            builder = _Builder(work, isolate, threads)
            for number, source in enumerate(sources):
                part = _Span(reporter, 0.98 * number / len(sources), 0.98 * (number + 1) / len(sources), source.name)
                builder.add(source, part)
            report = builder.report(name, reporter)
            files = {f"dataset/{name}/split_{i}.wav": clip for i, clip in enumerate(builder.clips)}
            write_zip(out, files, reporter=reporter)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    reporter.progress(1.0, f"{report['clips']} clips, {report['usable_minutes']:.1f} min")
    return report


def clean_name(name: str, reporter: Reporter) -> str:
    """A name that is safe as a folder and file name everywhere; says so when it had to be changed."""
    clean = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-")[:64].strip("._-")
    if not clean:
        raise ParameterError(f"“{name}” cannot be used as a name.", "Use letters and digits.")
    if clean != name:
        reporter.note(f"The data set is named “{clean}”.")
    return clean


class _Span:
    """A reporter for a part of the work: its 0..1 becomes low..high of the outer one's."""

    def __init__(self, outer: Reporter, low: float, high: float, title: str = "") -> None:
        self._outer, self._low, self._high, self._title = outer, low, high, title

    def progress(self, fraction: float, text: str = "") -> None:
        text = f"{self._title}: {text}" if self._title else text
        self._outer.progress(self._low + (self._high - self._low) * min(fraction, 1.0), text)

    def check(self) -> None:
        self._outer.check()

    def note(self, message: str) -> None:
        self._outer.note(message)

    def span(self, low: float, high: float) -> _Span:
        return _Span(self, low, high)


class _Builder:
    """Takes recordings one after the other; keeps the clips' files, what was judged, and nothing else."""

    def __init__(self, work: Path, isolate: Isolate, threads: int) -> None:
        self.work, self.isolate, self.threads = work, isolate, threads
        self.clips: list[Path] = []
        self.recordings: list[_Recording] = []
        self._seen: dict[str, str] = {}  # sha256 → the file that it was first seen in
        self._failures: list[InputError] = []

    def add(self, source: Path, reporter: _Span) -> None:
        """Decodes, isolates, cuts and judges one recording. One that cannot be used is noted and left out."""
        line = _Recording(source.name)
        self.recordings.append(line)
        if (digest := _sha256(source, reporter)) in self._seen:
            line.reject(f"the same file as {self._seen[digest]}", 0.0, 0.0)
            reporter.note(f"{source.name} is the same file as {self._seen[digest]}: left out.")
            return
        self._seen[digest] = source.name
        pcm = self.work / "recording.wav"
        try:
            decode(
                source, pcm, rate=RATE, channels=1, min_seconds=MIN_RECORDING, max_seconds=MAX_SECONDS,
                reporter=reporter.span(0.0, 0.3),
            )  # fmt: skip
        except InputError as error:
            self._failures.append(error)
            line.reject(error.message, 0.0, 0.0)
            reporter.note(f"{error.message} Left out.")
            return
        track = slicing.measure(pcm, reporter)
        line.seconds = round(track.seconds, 2)
        if track.peak < 10 ** (SILENCE / 20):
            line.reject("silence", 0.0, track.seconds)
            reporter.note(f"{source.name} contains only silence: left out.")
            return
        verdict = self._listen(pcm, line, reporter)
        voice = pcm
        if line.isolated:
            voice = self._isolate(source, reporter)
            track = slicing.measure(voice, reporter)
        line.snr_db = round(track.snr, 1)
        self._cut(voice, pcm, track, verdict, line, reporter)
        shutil.rmtree(self.work / "parts", ignore_errors=True)

    def _listen(self, pcm: Path, line: _Recording, reporter: Reporter) -> Verdict | None:
        """Decides whether the voice is taken out of music; a verdict when only the parts with music are left out."""
        if self.isolate != "auto":
            line.isolated = self.isolate
            return None
        verdict = music.detect(pcm, reporter)
        line.music, line.isolated, line.why = bool(verdict.where), verdict.music, verdict.why
        if verdict.music:
            reporter.note(f"{line.file} seems to have music in it ({verdict.why}): the voice is taken out first.")
            return None
        return verdict

    def _isolate(self, source: Path, reporter: _Span) -> Path:
        """The voice alone, as long as the recording."""
        stereo = self.work / "stereo.wav"
        decode(
            source, stereo, rate=RATE, channels=2, min_seconds=MIN_RECORDING, max_seconds=MAX_SECONDS,
            reporter=reporter.span(0.3, 0.4),
        )  # fmt: skip
        parts = separate(stereo, self.work / "parts", threads=self.threads, reporter=reporter.span(0.4, 0.9))
        stereo.unlink()
        return parts.vocals

    def _cut(
        self, voice: Path, original: Path, track: Track, verdict: Verdict | None, line: _Recording, reporter: _Span
    ) -> None:
        spans = slicing.cut(track)
        silent = track.seconds - sum(span.voiced for span in spans) * HOP
        if silent > 0.5:
            line.reject("silence", 0.0, silent)
        with PcmReader(voice) as reader, PcmReader(original) as recorded:
            for number, span in enumerate(spans):
                reporter.progress(0.9 + 0.1 * number / len(spans), "cutting")
                hop = slicing.hop_samples(reader.rate)
                start, end = span.start * hop, min(span.end * hop, reader.frames)
                heard = recorded.read(start, end - start).mean(axis=0)
                if reason := self._fault(span, heard, verdict):
                    line.reject(reason, span.start * HOP, span.voiced * HOP)
                else:
                    samples = heard if voice == original else reader.read(start, end - start).mean(axis=0)
                    self._write(samples * track.gain, reader.rate, span, line)

    def _fault(self, span: Span, heard: NDArray[np.float32], verdict: Verdict | None) -> str:
        """Why a clip is not used, by what was recorded [N]; "" when it is."""
        if span.voiced * HOP < MIN_VOICED:
            return "too short"
        if slicing.crowding(heard) > MAX_CROWDING:
            return "clipped (recorded too loud)"
        if verdict is not None and verdict.covers(span.start * HOP, span.end * HOP):
            return "music"
        return ""

    def _write(self, samples: NDArray[np.float32], rate: int, span: Span, line: _Recording) -> None:
        """Writes one clip [N], unless the same sound is there already."""
        data = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._seen:
            line.reject(f"the same sound as in {self._seen[digest]}", span.start * HOP, span.voiced * HOP)
            return
        self._seen[digest] = line.file
        clip = self.work / f"split_{len(self.clips)}.wav"
        with wave.open(str(clip), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(data)
        self.clips.append(clip)
        line.clips += 1
        line.usable_seconds = round(line.usable_seconds + span.voiced * HOP, 2)

    def report(self, name: str, reporter: Reporter) -> dict[str, Any]:
        """The report; raises `AudioError` when there is too little."""
        usable = sum(line.usable_seconds for line in self.recordings)
        lost: dict[str, float] = {}
        for line in self.recordings:
            for piece in line.rejected:
                lost[piece["reason"]] = round(lost.get(piece["reason"], 0.0) + piece["seconds"], 2)
        if usable < NEEDED:
            self._too_little(usable, lost)
        snr = [line.snr_db for line in self.recordings if line.snr_db is not None and line.clips]
        advice = _advice(usable, lost, self.recordings)
        for text in advice:
            reporter.note(text)
        return {
            "name": name,
            "clips": len(self.clips),
            "usable_seconds": round(usable, 1),
            "usable_minutes": round(usable / 60, 2),
            "seconds": round(sum(line.seconds for line in self.recordings), 1),
            "snr_db": float(np.median(snr)) if snr else None,
            "rejected_seconds": {reason: seconds for reason, seconds in lost.items() if seconds > 0},
            "recordings": [vars(line) for line in self.recordings],
            "advice": advice,
        }

    def _too_little(self, usable: float, lost: dict[str, float]) -> None:
        if len(self.recordings) == len(self._failures) == 1:
            error = self._failures[0]
            long = "MAX_SONG_SECONDS" in error.hint  # songs have a setting, recordings a fixed limit
            raise type(error)(error.message, "Cut it into shorter recordings." if long else error.hint)
        total = sum(line.seconds for line in self.recordings)
        parts = [f"{seconds:.1f} s {reason}" for reason, seconds in lost.items() if seconds > 0]
        parts += [f"{len(self._failures)} files could not be read"] if self._failures else []
        reasons = f" ({'; '.join(parts)})" if parts else ""
        if total > 0 and usable == 0 and set(lost) <= {"silence"}:
            raise AudioError(
                f"The recordings ({total:.1f} s) contain only silence.", "Check the microphone and record again."
            )
        raise AudioError(
            f"Only {usable:.1f} s of usable voice in {total:.1f} s of recordings{reasons}.",
            f"A data set needs at least {NEEDED:.0f} s; training wants {TRAINABLE:.0f} s to {ENOUGH / 60:.0f} min.",
        )


def _advice(usable: float, lost: dict[str, float], recordings: Sequence[_Recording]) -> list[str]:
    """What would make the voice model better, in plain words."""
    advice = []
    if usable < TRAINABLE:
        advice.append(f"{usable:.0f} s usable; training wants at least {TRAINABLE:.0f} s, and 10 min would be good.")
    elif usable < GOOD:
        advice.append(f"{_time(usable)} usable; 10 min would be better.")
    elif usable > ENOUGH:
        advice.append(f"{_time(usable)} usable; beyond 30 min training gains little.")
    loud = sum(seconds for reason, seconds in lost.items() if reason.startswith("clipped"))
    if loud > 0.1 * usable:
        advice.append(f"{_time(loud)} were recorded too loud and left out: turn the microphone down.")
    if noisy := [line.file for line in recordings if line.clips and (line.snr_db or 99) < LOW_SNR]:
        advice.append(f"{_list(noisy)} {'is' if len(noisy) == 1 else 'are'} noisy: record in a quiet room, close by.")
    if isolated := [line.file for line in recordings if line.isolated]:
        advice.append(f"The voice in {_list(isolated)} was taken out of music; recordings without music are better.")
    if played := lost.get("music", 0.0):
        advice.append(f"{_time(played)} had music in them and were left out (isolate: true would take the voice out).")
    return advice


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min".replace(".0 ", " ")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _sha256(path: Path, reporter: Reporter) -> str:
    """Hex sha256 of a file that may be gigabytes: can be canceled."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            reporter.check()
            digest.update(chunk)
    return digest.hexdigest()
