"""Learns a voice from 30 s to 30 min of recordings: what its vocal tract, its pitch and its consonants look like.

    report = train(clips, Path("vivi.zip"), name="vivi", consent="It is my own voice.", reporter=stage)

Each recording is cut into pieces, which child processes analyse; frames that are silence, noise or music without a
voice are left out. Nothing of the waveform is kept: the file holds envelopes, statistics and the words of consent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from vividcover.errors import AudioError, ConsentError
from vividcover.processes import map_in_children
from vividcover.song.codec import decode
from vividcover.song.pcm import PcmReader
from vividcover.voice.classic import f0
from vividcover.voice.classic.features import FRAME, HOP, RATE, Array, envelope, frame_count
from vividcover.voice.classic.mapping import cepstra, moments
from vividcover.voice.classic.model import ENGINE, FORMAT, KIND, Voice, save
from vividcover.voice.classic.network import in_runs
from vividcover.workspace import Reporter, Silent

PIECE = 20 * RATE  # samples analysed at a time
SHORTEST = 0.4  # s, of a recording that is looked at
LONGEST = 2 * 3600.0  # s, of one recording
MOST = 30 * 60.0  # s of voice that are used
LEAST = 10.0  # s of voice below which nothing is learnt
ADVISED = 30.0  # s
NEAR_VOICE = 25  # frames, 0.25 s: consonants and breaths this near to a voiced frame belong to the voice
QUIET = 45.0  # dB below the loud frames of its recording: silence
KEPT = 9_000  # frames kept in the file, 90 s
STRAY = 0.15  # share of voiced frames an octave away from the rest that earns a warning: several speakers, or music
LICENCE = (
    "Made from the recordings of the person named in the consent statement; use it only as far as that statement goes."
)


@dataclass
class Material:
    """What the recordings gave: log bands [N, BANDS] float16, f0 [N], and the seconds heard and used."""

    frames: list[NDArray[np.float16]] = field(default_factory=list)
    pitch: list[Array] = field(default_factory=list)
    heard: float = 0.0
    loud: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def used(self) -> float:
        return sum(map(len, self.pitch)) * FRAME


def train(
    clips: Sequence[Path], out: Path, *, name: str, consent: str, threads: int = 2, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Writes the voice to `out` and returns its model.json.

    Raises `ConsentError` without a consent statement, and `AudioError` on fewer than LEAST seconds of voice.
    """
    reporter = reporter or Silent()
    if not consent.strip():
        raise ConsentError(
            f"The voice {name!r} cannot be trained without consent.",
            'Say whose voice it is and that they agree: --consent "It is my own voice."',
        )
    material = _listen([Path(clip) for clip in clips], threads, reporter)
    _check(material, len(clips))
    reporter.progress(0.7, "learning")
    card = _card(material, name, consent.strip(), len(clips))
    save(_learn(material, card, reporter), Path(out))
    reporter.progress(1.0, "done")
    return card


def _learn(material: Material, card: dict[str, Any], reporter: Reporter) -> Voice:
    """Moments and network of all frames; of the frames themselves at most KEPT, in runs."""
    frames = np.concatenate(material.frames).astype(np.float32)
    voiced = np.concatenate(material.pitch) > 0
    (network,) = map_in_children(
        "vividcover.voice.classic.network:learn", [(frames, voiced)], workers=1, reporter=reporter
    )
    kept, kept_voiced = in_runs(frames, voiced, KEPT)
    return Voice(card, kept, kept_voiced, moments(cepstra(frames), voiced), network)


def _card(material: Material, name: str, consent: str, clips: int) -> dict[str, Any]:
    """model.json."""
    pitch = np.concatenate(material.pitch)
    voiced = pitch > 0
    low, middle, high = (float(value) for value in np.percentile(pitch[voiced], [5, 50, 95]))
    warnings = list(material.warnings)
    if material.used < ADVISED:
        warnings.append(f"Only {material.used:.0f} s of voice: {ADVISED:.0f} s or more give a closer likeness.")
    if np.mean(np.abs(12 * np.log2(pitch[voiced] / middle)) > 10) > STRAY:
        warnings.append("The pitch lies far apart: are there several speakers, or music, in the recordings?")
    return {
        "kind": KIND, "engine": ENGINE, "format": FORMAT, "name": name, "consent": consent, "licence": LICENCE,
        "clips": clips, "minutes_heard": round(material.heard / 60, 3), "minutes_used": round(material.used / 60, 3),
        "f0_hz": {"low": round(low, 2), "median": round(middle, 2), "high": round(high, 2)},
        "f0_midi": {key: round(69 + 12 * float(np.log2(value / 440)), 2)
                    for key, value in (("low", low), ("median", middle), ("high", high))},
        "sung": round(f0.sung_share(pitch), 3), "warnings": warnings,
    }  # fmt: skip


def _check(material: Material, clips: int) -> None:
    if material.used >= LEAST:
        return
    needed = f"At least {LEAST:.0f} s of clear voice are needed; {ADVISED:.0f} s to 30 min are advised."
    if not material.loud:
        raise AudioError(f"The {clips} recording(s) hold only silence ({material.heard:.1f} s).", needed)
    if not material.used:
        raise AudioError(
            f"No voice was found in {material.heard:.1f} s of recordings: only noise, whispering or instruments.",
            needed,
        )
    raise AudioError(f"Only {material.used:.1f} s of voice in {material.heard:.1f} s of recordings.", needed)


def _listen(clips: list[Path], threads: int, reporter: Reporter) -> Material:
    """Analyses all recordings, in order; unreadable ones become warnings unless none can be read."""
    material = Material()
    failures: list[AudioError] = []
    with tempfile.TemporaryDirectory(prefix="vividcover-voice-") as folder:
        pieces = _pieces(clips, Path(folder), material, failures, reporter)
        for result in map_in_children(f"{__name__}:analyse_piece", pieces, workers=threads, reporter=reporter):
            material.loud |= result["loud"]
            if len(result["pitch"]) and material.used < MOST:
                material.frames.append(result["frames"])
                material.pitch.append(result["pitch"])
    if failures and material.heard == 0:
        raise failures[0]
    for failure in failures:
        reporter.note(failure.message)
        material.warnings.append(failure.message)
    if material.used >= MOST:
        material.warnings.append(f"Only the first {MOST / 60:.0f} minutes of voice were used.")
    return material


def _pieces(
    clips: list[Path], folder: Path, material: Material, failures: list[AudioError], reporter: Reporter
) -> Iterator[Array]:
    """Mono pieces [N] at RATE of every recording, as long as more is wanted."""
    for number, clip in enumerate(clips):
        reporter.progress(0.7 * number / len(clips), f"listening to {clip.name}")
        pcm = folder / "clip.wav"
        try:
            decode(clip, pcm, rate=RATE, channels=1, min_seconds=SHORTEST, max_seconds=LONGEST)
        except AudioError as error:
            failures.append(error)
            continue
        with PcmReader(pcm) as reader:
            for block in reader.blocks(PIECE):
                if material.used >= MOST:
                    return
                material.heard += block.shape[1] / RATE
                reporter.progress(0.7 * number / len(clips), f"listening to {clip.name}")
                yield block[0]
        pcm.unlink()


def analyse_piece(samples: Array) -> dict[str, Any]:
    """In a child: of a mono piece [N] what is voice: `frames` [n, BANDS] float16, `pitch` [n] Hz; is it `loud`?"""
    strength, level = f0.strengths(samples, RATE, frame_count(len(samples)), FRAME)
    pitch = f0.track(*f0.candidates(strength), level)
    loudest = float(np.percentile(level, 95))
    near = maximum_filter1d((pitch > 0).astype(np.int8), 2 * NEAR_VOICE + 1) > 0
    used = near & (level > loudest - QUIET) & (np.arange(len(level)) * HOP < len(samples))
    empty = {"frames": np.zeros((0, 0), np.float16), "pitch": np.zeros(0, np.float32), "loud": loudest > -65}
    if loudest <= -65 or not used.any():
        return empty
    bands = envelope(samples, pitch)
    return {"frames": bands[used].astype(np.float16), "pitch": pitch[used], "loud": True}
