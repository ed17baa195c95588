"""What is said about a data set: a line per recording, what was left out and why, what would make it better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NEEDED = 10.0  # s of usable voice that a data set must have
TRAINABLE, GOOD, ENOUGH = 30.0, 600.0, 1800.0  # s: training wants, is good with, gains nothing beyond
LOW_SNR = 15.0  # dB, below which a recording is called noisy
ROOM = 0.7  # s of reverberation, from which a recording is called echoing; a furnished room has 0.3 to 0.5
CLIPPED, NO_VOICE = "clipped (recorded too loud)", "no voice in it"


@dataclass
class Recording:
    """One recording's line in the report."""

    file: str
    seconds: float = 0.0
    usable_seconds: float = 0.0
    clips: int = 0
    snr_db: float | None = None
    reverb_seconds: float | None = None  # until the room's sound has fallen by 60 dB; None: could not be told
    music: bool = False
    isolated: bool = False
    dereverbed: bool = False
    why: str = ""
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, reason: str, start: float, seconds: float) -> None:
        self.rejected.append({"reason": reason, "at": round(start, 2), "seconds": round(seconds, 2)})


def lost_seconds(recordings: Sequence[Recording]) -> dict[str, float]:
    """Reason → seconds that were left out for it."""
    lost: dict[str, float] = {}
    for line in recordings:
        for piece in line.rejected:
            lost[piece["reason"]] = round(lost.get(piece["reason"], 0.0) + piece["seconds"], 2)
    return lost


def summary(
    name: str, recordings: Sequence[Recording], clips: Sequence[dict[str, Any]], room: float | None
) -> dict[str, Any]:
    """The whole report (JSON). `clips`: {clip, file, at, seconds, other_voice} of every clip, in order.

    name, clips, usable_seconds, usable_minutes, seconds, enough (for a data set), trainable, missing_seconds (to be
    trainable), snr_db (of the median recording), reverb_seconds (`room`: of all together), rejected_seconds {reason:
    s}, other_voices [clip …], clip_seconds {shortest, median, longest}, advice [text], recordings [Recording].
    """
    usable, lost = sum(line.usable_seconds for line in recordings), lost_seconds(recordings)
    used = [line for line in recordings if line.clips]
    lengths = sorted(clip["seconds"] for clip in clips)
    strange = [clip for clip in clips if clip["other_voice"]]
    return {
        "name": name,
        "clips": len(clips),
        "usable_seconds": round(usable, 1),
        "usable_minutes": round(usable / 60, 2),
        "seconds": round(sum(line.seconds for line in recordings), 1),
        "enough": usable >= NEEDED,
        "trainable": usable >= TRAINABLE,
        "missing_seconds": round(max(0.0, TRAINABLE - usable), 1),
        "snr_db": _median([line.snr_db for line in used]),
        "reverb_seconds": None if room is None else round(room, 2),
        "clip_seconds": _lengths(lengths),
        "rejected_seconds": {reason: seconds for reason, seconds in lost.items() if seconds > 0},
        "other_voices": [{key: clip[key] for key in ("clip", "file", "at", "seconds")} for clip in strange],
        "recordings": [vars(line) for line in recordings],
        "advice": advice(usable, lost, recordings, strange),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 2) if known else None


def _lengths(lengths: Sequence[float]) -> dict[str, float]:
    if not lengths:
        return {}
    return {"shortest": lengths[0], "median": round(float(np.median(lengths)), 2), "longest": lengths[-1]}


def advice(
    usable: float, lost: dict[str, float], recordings: Sequence[Recording], strange: Sequence[dict[str, Any]] = ()
) -> list[str]:
    """What would make the voice model better, in plain words."""
    found = []
    if usable < TRAINABLE:
        found.append(f"{usable:.0f} s usable; training wants at least {TRAINABLE:.0f} s, and 10 min would be good.")
    elif usable < GOOD:
        found.append(f"{time_of(usable)} usable; 10 min would be better.")
    elif usable > ENOUGH:
        found.append(f"{time_of(usable)} usable; beyond 30 min training gains little.")
    if strange:
        places = [f"{clip['file']} at {clock(clip['at'])}" for clip in strange]
        found.append(f"{_list(places)} {_are(places)} perhaps another person's voice: listen, and leave it out if so.")
    if (loud := lost.get(CLIPPED, 0.0)) > 0.1 * usable:
        found.append(f"{time_of(loud)} were recorded too loud and left out: turn the microphone down.")
    used = [line for line in recordings if line.clips]
    if noisy := [line.file for line in used if (line.snr_db if line.snr_db is not None else 99) < LOW_SNR]:
        found.append(f"{_list(noisy)} {_are(noisy)} noisy: record in a quiet room, close by.")
    if echoing := [line.file for line in used if (line.reverb_seconds or 0) >= ROOM and not line.dereverbed]:
        found.append(
            f"{_list(echoing)} {_are(echoing)} echoing: record closer by, in a room with carpets and curtains, or let "
            "the room be taken off."
        )
    if (odd := lost.get(NO_VOICE, 0.0)) > 0.2 * usable:
        found.append(f"{time_of(odd)} were sound without a voice (noise, applause, whispering) and were left out.")
    if isolated := [line.file for line in recordings if line.isolated]:
        found.append(f"The voice in {_list(isolated)} was taken out of music; recordings without music are better.")
    if played := lost.get("music", 0.0):
        found.append(f"{time_of(played)} had music in them and were left out (isolate: true would take the voice out).")
    return found


def time_of(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min".replace(".0 ", " ")


def clock(seconds: float) -> str:
    """83.4 → 1:23"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
