"""Which recipe a song needs, from its survey."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from vividcover.song.pcm import Signal
from vividcover.song.separation import melody
from vividcover.song.separation.masks import Block, Tracks
from vividcover.song.separation.stft import BINS, Real
from vividcover.song.separation.survey import Survey

RECIPES = ("silence", "a-cappella", "masks", "mono")
ALONE, ACCOMPANIED = 0.07, 0.16  # the instrumental's part of the power: below, a voice alone; above, a song
MONO = 1e-3  # of the power beside the centre: below this there is no stereo to use


@dataclass(frozen=True)
class Plan:
    """The recipe, and the song-level tracks that the second pass needs."""

    recipe: str
    why: str
    passes: float | None = None  # the whole song times this is the vocals: no second pass
    tracks: Tracks | None = None
    level: float = 0.0
    lean: float = 0.0  # how much of the instrumental to give back to the vocals, 0..1
    report: dict[str, Any] = field(default_factory=dict)

    def block(self, signal: Signal, first: int, count: int) -> Block:
        """The work for frames `first` … `first + count - 1`; beyond the song its last frames go on."""
        assert self.tracks is not None
        index = np.clip(np.arange(first, first + count), 0, len(self.tracks.f0) - 1)
        return Block(signal, self.tracks.at(index), self.level)


def choose(survey: Survey, recipe: str) -> Plan:
    power = survey.mid + survey.side
    level = float(np.sqrt(power.mean() / BINS))
    if level <= 1e-7 or recipe == "silence":
        return Plan("silence", "the song is silent" if recipe == "auto" else "asked for", 0.0)
    if recipe == "a-cappella":
        return Plan(recipe, "asked for", 1.0)
    width = float(survey.side.sum() / power.sum())
    name = recipe if recipe != "auto" else "mono" if width < MONO else "masks"
    why = f"{width:.1%} of the power is beside the centre" if recipe == "auto" else "asked for"
    return Plan(name, why, None, tracks(survey), level, report={"width": width})


def judge(plan: Plan, power: NDArray[np.float64]) -> Plan:
    """The plan after the second pass, from the powers of song, vocals and instrumental.

    When next to nothing is left as instrumental, it is not a band but the voice's own room and consonants.
    """
    if plan.passes is not None:
        return plan
    sung, played = (float(p / max(power[0], 1e-12)) for p in power[1:])
    report = {**plan.report, "vocals_power": sung, "instrumental_power": played}
    lean = min(max((ACCOMPANIED - played) / (ACCOMPANIED - ALONE), 0.0), 1.0)
    if lean >= 1:
        why = f"only {played:.1%} of the power is not the voice's"
        return replace(plan, recipe="a-cappella", why=why, lean=1.0, report=report)
    return replace(plan, lean=lean, report=report)


def tracks(survey: Survey) -> Tracks:
    """The melody of the song: the path through both saliences."""
    strength = _scaled(_scaled(survey.unrepeated) + _scaled(survey.unsteady))
    path = melody.track(strength)
    f0 = melody.refine(strength, path)
    voicing = strength[np.arange(len(path)), path]
    octave = np.log2(f0)
    leap = np.minimum(np.abs(np.diff(octave, append=octave[-1:])), 0.2) * 5
    bend = np.abs(uniform_filter1d(octave, 3) - uniform_filter1d(octave, 17)) * 12
    return Tracks(
        f0, voicing, uniform_filter1d(voicing, 21), uniform_filter1d(leap, 5), np.minimum(uniform_filter1d(bend, 9), 2)
    )


def _scaled(strength: NDArray[Any]) -> Real:
    """So that a clear pitch is about 1."""
    values = strength.astype(np.float32)
    return values / np.float32(np.percentile(values.max(1), 90) + 1e-9)
