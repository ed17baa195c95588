"""Is there music in a recording, so that the voice should be taken out of it first? By measurement, not by a net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vividcover.voice.slicing import Track
from vividcover.workspace import Reporter


@dataclass(frozen=True, slots=True)
class Verdict:
    """`music` and, in `why`, the measurement behind it."""

    music: bool
    why: str


def detect(pcm: Path, track: Track, reporter: Reporter) -> Verdict:
    """Placeholder of the first hour: music never pauses, so its quietest moments are loud."""
    reporter.check()
    music = track.snr < 20.0
    return Verdict(music, f"its quietest moments are {track.snr:.0f} dB below the voice")
