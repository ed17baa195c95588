"""First pass: what the whole song is like. The melody, its thresholds and the choice of recipe come from here."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vividcover.song.pcm import Signal
from vividcover.song.separation import cues, melody, stft
from vividcover.song.separation.stft import Real
from vividcover.song.separation.workers import Check


@dataclass(frozen=True)
class Survey:
    """Frame by frame, every HOP samples. About 40 kB per second of song."""

    unrepeated: NDArray[np.float16]  # [T, PITCHES], salience of what does not repeat, in the song's own units
    unsteady: NDArray[np.float16]  # [T, PITCHES], salience of what does not stand still
    mid: Real  # [T], power of (left + right) / 2
    side: Real  # [T], power of (left - right) / 2

    @staticmethod
    def join(parts: list[Survey]) -> Survey:
        return Survey(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Survey)))


@dataclass(frozen=True)
class Stretch:
    """Samples of some consecutive frames, with `lead` further frames before them and `after` behind, for context."""

    signal: Signal  # [2, stft.span(lead + T + after)]
    lead: int
    after: int


def survey_stretch(stretch: Stretch, check: Check) -> Survey:
    """Surveys the T frames of a stretch."""
    left, right = stft.analyse(stretch.signal)
    check()
    keep = slice(stretch.lead, len(left) - stretch.after)
    mid, side = np.abs(left + right) / 2, np.abs(left - right)[keep] / 2
    del left, right
    unrepeated = np.maximum(mid - cues.background(mid, check), 0)
    powers = np.square(mid[keep]).sum(1), np.square(side).sum(1)
    del mid, side
    unsteady = np.abs(stft.analyse(cues.fluctuating(stretch.signal.mean(0), check)[None])[0])
    check()
    scale = np.float32(1 / 64)  # float16 ends at 65504; the salience of a full-scale voice is about 1000
    return Survey(
        (melody.salience(unrepeated)[keep] * scale).astype(np.float16),
        (melody.salience(unsteady)[keep] * scale).astype(np.float16),
        *powers,
    )
