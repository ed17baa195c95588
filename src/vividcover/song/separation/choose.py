"""Which recipe a song needs, from its survey."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vividcover.song.pcm import Signal
from vividcover.song.separation import melody
from vividcover.song.separation.masks import Block
from vividcover.song.separation.stft import Real
from vividcover.song.separation.survey import Survey

RECIPES = ("silence", "a-cappella", "masks", "mono")


@dataclass(frozen=True)
class Plan:
    """The recipe, and the song-level tracks that the second pass needs."""

    recipe: str
    why: str
    passes: float | None = None  # the whole song times this is the vocals: no second pass
    f0: Real = field(default_factory=lambda: np.zeros(0, np.float32))  # [T] Hz
    voicing: Real = field(default_factory=lambda: np.zeros(0, np.float32))  # [T] 0..1
    report: dict[str, Any] = field(default_factory=dict)

    def block(self, signal: Signal, first: int, count: int) -> Block:
        """The work for frames `first` … `first + count - 1`; frames outside the song are unvoiced."""
        index = np.clip(np.arange(first, first + count), 0, len(self.f0) - 1)
        return Block(signal, self.f0[index], self.voicing[index], self.recipe == "mono")


def choose(survey: Survey, recipe: str) -> Plan:
    energy = float(survey.mid.sum() + survey.side.sum())
    if energy <= 1e-9 or recipe == "silence":
        return Plan("silence", "the song is silent", 0.0)
    if recipe == "a-cappella":
        return Plan(recipe, "asked for", 1.0)
    strength = survey.salience.astype(np.float32)
    peak = strength.max(1)
    strength /= max(float(np.percentile(peak, 90)), 1e-9)
    path = melody.track(strength)
    along = strength[np.arange(len(path)), path]
    voicing = 1 / (1 + np.exp(-(along - 0.25) / 0.07))
    width = float(survey.side.sum() / energy)
    name = recipe if recipe != "auto" else "mono" if width < 1e-3 else "masks"
    why = f"{width:.1%} of the energy is beside the centre" if recipe == "auto" else "asked for"
    return Plan(name, why, None, melody.refine(strength, path), voicing.astype(np.float32), {"width": width})
