"""Recordings of a person → a data set: clean clips of their voice, in the seed's layout, with a report.

    report = make_dataset([Path("interview.mp4"), Path("memos.zip")], Path("dataset_ana.zip"), name="ana")
    report = examine([Path("dataset_ana.zip")])             # the same judgement, of any data set; writes nothing

Each recording is decoded to mono, its music taken out if it has any (`music.py`, `song/separate.py`), its room taken
off if that is asked for, brought to an even level, and cut at its silences and at what is no voice (`slicing.py`,
`vad.py`); its clips are judged one by one, and compared (`duplicates.py`, `speakers.py`). Memory does not grow with
length. The zip holds `dataset/<name>/split_<i>.wav`, 16 bit, 44.1 kHz, mono; the same recordings give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import unicodedata
import uuid
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from vividcover.archives import write_zip
from vividcover.errors import AudioError, InputError, ParameterError
from vividcover.progress import Part
from vividcover.song.codec import decode
from vividcover.song.pcm import RATE, PcmReader
from vividcover.song.separate import separate
from vividcover.voice import duplicates, music, reverb, slicing, speakers, vad
from vividcover.voice.music import Verdict
from vividcover.voice.recordings import gather
from vividcover.voice.report import (
    CLIPPED,
    ENOUGH,
    NEEDED,
    NO_VOICE,
    ROOM,
    TRAINABLE,
    Recording,
    lost_seconds,
    summary,
)
from vividcover.voice.slicing import HOP, Span, Track
from vividcover.workspace import Reporter, Silent, storage_errors

if TYPE_CHECKING:
    from vividcover.song.separators.contract import Separator

Isolate = Literal["auto"] | bool

MAX_SECONDS = 3 * 3600.0  # of one recording
MIN_RECORDING = 0.5  # s; shorter files are not looked at
MIN_VOICED = 1.0  # s of sound in a clip
MAX_CROWDING = 1.5  # see `slicing.crowding`: about 5 dB too loud
VOICE_STEMS = ("dry", "noreverb", "vocals", "main")  # what separators call the voice that is wanted of them
SILENCE = -60.0  # dBFS of the highest sample, below which a recording is silent


@dataclass(frozen=True)
class Options:
    """What is done to recordings before they are cut.

    `isolate`: take the voice out of music, "auto" where there is music; `separator` does it (its stem "vocals"), or the
    classic separation. `dereverb` takes the room off (its stem "dry"), "auto" where there is more than a room's usual
    echo; without it nothing does. `voice_only`: leave out sound without a voice; not for instruments. `threads`: of
    the classic separation.
    """

    isolate: Isolate = "auto"
    separator: Separator | None = None
    dereverb: Separator | None = None
    dereverb_where: Literal["auto", "all"] = "auto"
    voice_only: bool = True
    threads: int = 2


def make_dataset(
    recordings: Sequence[Path],
    out: Path,
    *,
    name: str,
    isolate: Isolate = "auto",
    threads: int = 2,
    options: Options | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Writes the data set's zip to `out` and returns the report (JSON), see `report.summary`.

    `recordings`: audio and video files, folders and zips of them, in any layout. `options`, where given, stand for
    `isolate` and `threads`. Clips that may be another person's are in the zip, and named in the report.
    Raises `AudioError` when nothing is left or less than 10 s, `ArchiveError`, `NotFoundError`, `Canceled`.
    """
    reporter = reporter or Silent()
    options = options or Options(isolate, threads=threads)
    if options.isolate not in ("auto", True, False):
        raise ParameterError(f"isolate is {options.isolate!r}.", "Use auto, true or false.")
    name = clean_name(name, reporter)
    out = Path(out)
    work = out.parent / f".dataset-{uuid.uuid4().hex}"
    try:
        with storage_errors("the data set", out.parent):
            work.mkdir(parents=True)
            builder = _built(recordings, work, options, reporter)
            report = builder.report(name)
            if not report["enough"]:
                builder.too_little(report["usable_seconds"])
            for text in report["advice"]:
                reporter.note(text)
            files = {f"dataset/{name}/{clip['clip']}": work / clip["clip"] for clip in builder.clips}
            write_zip(out, files, reporter=reporter)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    reporter.progress(1.0, f"{report['clips']} clips, {report['usable_minutes']:.1f} min")
    return report


def examine(recordings: Sequence[Path], *, name: str = "", reporter: Reporter | None = None) -> dict[str, Any]:
    """The report on a data set or a pile of recordings as they are: nothing is separated, written or refused.

    However little or odd it is, the report says how much of it is usable, what is wrong and what to add. Raises only
    where there is nothing to listen to: `AudioError`, `ArchiveError`, `NotFoundError`; and `Canceled`.
    """
    reporter = reporter or Silent()
    with tempfile.TemporaryDirectory(prefix="vividcover-examine-") as work:
        builder = _built(recordings, Path(work), Options(), reporter, as_is=True)
        report = builder.report(name or Path(recordings[0]).stem)
    reporter.progress(1.0, f"{report['clips']} clips, {report['usable_minutes']:.1f} min")
    return report


def _built(
    recordings: Sequence[Path], work: Path, options: Options, reporter: Reporter, as_is: bool = False
) -> _Builder:
    """Everything gathered, cut and judged, the clips' files in `work`."""
    sources = gather(recordings, work, reporter)
    builder = _Builder(work, options, as_is)
    for number, source in enumerate(sources):
        part = Part(reporter, 0.98 * number / len(sources), 0.98 * (number + 1) / len(sources), source.name)
        builder.add(source, part)
    return builder


def _voice_of(separator: Separator) -> str:
    """The stem that is the voice; a separator's own order says nothing."""
    return next((stem for stem in VOICE_STEMS if stem in separator.stems), separator.stems[0])


def clean_name(name: str, reporter: Reporter) -> str:
    """A name that is safe as a folder and file name everywhere; says so when it had to be changed."""
    clean = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-")[:64].strip("._-")
    if not clean:
        raise ParameterError(f"“{name}” cannot be used as a name.", "Use letters and digits.")
    if clean != name:
        reporter.note(f"The data set is named “{clean}”.")
    return clean


class _Builder:
    """Takes recordings one after the other; keeps the clips' files, what was judged, and nothing else."""

    def __init__(self, work: Path, options: Options, as_is: bool = False) -> None:
        self.work, self.options, self.as_is = work, options, as_is  # as_is: music is found, and not taken out
        self.clips: list[dict[str, Any]] = []  # see `report.summary`
        self.recordings: list[Recording] = []
        self._heard: list[speakers.Heard] = []  # of each clip
        self._known = duplicates.Known()
        self._falls: list[reverb.Falls] = []
        self._seen: dict[str, str] = {}  # sha256 → the file that it was first seen in
        self._failures: list[InputError] = []

    def add(self, source: Path, reporter: Part) -> None:
        """Decodes, isolates, cuts and judges one recording. One that cannot be used is noted and left out."""
        line = Recording(source.name)
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
                reporter=reporter.part(0.0, 0.3),
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
        voice = self._isolate(source, reporter) if line.isolated else pcm
        line.reverb_seconds = self._room(voice, reporter)
        if self._echoes(line):
            voice = self._dry(voice, line, reporter)
        track = slicing.measure(voice, reporter) if voice != pcm else track
        if self.options.voice_only:
            track = replace(track, voice=vad.listen(voice, track.quiet, reporter))
        line.snr_db = round(track.snr, 1)
        self._cut(voice, pcm, track, verdict, line, reporter)
        shutil.rmtree(self.work / "parts", ignore_errors=True)

    def _listen(self, pcm: Path, line: Recording, reporter: Reporter) -> Verdict | None:
        """Decides whether the voice is taken out of music; a verdict when only the parts with music are left out."""
        if self.options.isolate != "auto":
            line.isolated = self.options.isolate
            return None
        verdict = music.detect(pcm, reporter)
        line.music, line.isolated, line.why = bool(verdict.where), verdict.music and not self.as_is, verdict.why
        if line.isolated:
            reporter.note(f"{line.file} seems to have music in it ({verdict.why}): the voice is taken out first.")
            return None
        return verdict

    def _isolate(self, source: Path, reporter: Part) -> Path:
        """The voice alone, as long as the recording."""
        stereo = self.work / "stereo.wav"
        decode(
            source, stereo, rate=RATE, channels=2, min_seconds=MIN_RECORDING, max_seconds=MAX_SECONDS,
            reporter=reporter.part(0.3, 0.4),
        )  # fmt: skip
        parts, span = self.work / "parts", reporter.part(0.4, 0.8)
        separator = self.options.separator
        if separator is None:
            voice = separate(stereo, parts, threads=self.options.threads, reporter=span).vocals
        else:
            voice = separator.separate(stereo, parts, reporter=span)[_voice_of(separator)]
        stereo.unlink()
        return voice

    def _room(self, voice: Path, reporter: Part) -> float | None:
        falls = reverb.measure(voice, reporter)
        self._falls.append(falls)
        room = reverb.seconds(falls)
        return None if room is None else round(room, 2)

    def _echoes(self, line: Recording) -> bool:
        if self.options.dereverb is None:
            return False
        return self.options.dereverb_where == "all" or (line.reverb_seconds or 0.0) >= ROOM

    def _dry(self, voice: Path, line: Recording, reporter: Part) -> Path:
        """The voice without its room, as long as the recording."""
        separator = self.options.dereverb
        assert separator is not None  # `_echoes` asked
        reporter.note(f"{line.file} has {line.reverb_seconds or 0:.1f} s of echo: its room is taken off.")
        line.dereverbed = True
        dry = separator.separate(voice, self.work / "parts" / "dry", reporter=reporter.part(0.8, 0.9))
        return dry[_voice_of(separator)]

    def _cut(
        self, voice: Path, original: Path, track: Track, verdict: Verdict | None, line: Recording, reporter: Part
    ) -> None:
        spans = slicing.cut(track)
        for reason, seconds in zip(("silence", NO_VOICE), slicing.unheard(track)):
            if seconds > 0.5:
                line.reject(reason, 0.0, seconds)
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
            return CLIPPED
        if verdict is not None and verdict.covers(span.start * HOP, span.end * HOP):
            return "music"
        return ""

    def _write(self, samples: NDArray[np.float32], rate: int, span: Span, line: Recording) -> None:
        """Writes one clip [N], unless the same sound is there already."""
        data = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        bits = duplicates.fingerprint(samples, rate)
        if (known := self._known.find(bits)) is not None:
            line.reject(f"the same sound as in {self.clips[known]['file']}", span.start * HOP, span.voiced * HOP)
            return
        self._known.add(bits)
        self._heard.append(speakers.hear(samples, rate))
        clip = f"split_{len(self.clips)}.wav"
        with wave.open(str(self.work / clip), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(data)
        seconds, at = round(len(samples) / rate, 2), round(span.start * HOP, 2)
        self.clips.append({"clip": clip, "file": line.file, "at": at, "seconds": seconds, "other_voice": False})
        line.clips += 1
        line.usable_seconds = round(line.usable_seconds + span.voiced * HOP, 2)

    def report(self, name: str) -> dict[str, Any]:
        """What is said of all of it; clips of another voice are marked first."""
        for number in speakers.strangers(self._heard):
            self.clips[number]["other_voice"] = True
        return summary(name, self.recordings, self.clips, reverb.seconds(reverb.together(self._falls)))

    def too_little(self, usable: float) -> NoReturn:
        """Raises the `AudioError` that says how much there was, what became of the rest, and what to add."""
        if len(self.recordings) == len(self._failures) == 1:
            error = self._failures[0]
            long = "MAX_SONG_SECONDS" in error.hint  # songs have a setting, recordings a fixed limit
            raise type(error)(error.message, "Cut it into shorter recordings." if long else error.hint)
        total, lost = sum(line.seconds for line in self.recordings), lost_seconds(self.recordings)
        parts = [f"{seconds:.1f} s {reason}" for reason, seconds in lost.items() if seconds > 0]
        parts += [f"{len(self._failures)} files could not be read"] if self._failures else []
        reasons = f" ({'; '.join(parts)})" if parts else ""
        if total > 0 and usable == 0 and set(lost) <= {"silence"}:
            raise AudioError(
                f"The recordings ({total:.1f} s) contain only silence.", "Check the microphone and record again."
            )
        raise AudioError(
            f"Only {usable:.1f} s of usable voice in {total:.1f} s of recordings{reasons}.",
            f"Add {max(1.0, NEEDED - usable):.0f} s or more: a data set needs at least {NEEDED:.0f} s; training wants "
            f"{TRAINABLE:.0f} s to {ENOUGH / 60:.0f} min.",
        )


def _sha256(path: Path, reporter: Reporter) -> str:
    """Hex sha256 of a file that may be gigabytes: can be canceled."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            reporter.check()
            digest.update(chunk)
    return digest.hexdigest()
