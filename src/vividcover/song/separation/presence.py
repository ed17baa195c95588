"""Whether what was followed is a voice at all: instruments stand still within a note, voices never do.

Even a straight sung tone wanders by several cents (Sundberg, "The Science of the Singing Voice", 1987), fixed-pitch
instruments by less than the analysis can tell. Where notes stand still and the shares are uncertain besides, nobody
sings. Instruments that bend or vibrate cannot be told from a voice this way: what they leave is then kept as before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vividcover.song.separation.stft import Real

HELD = 80.0  # cents by which a held note moves per frame at most
SHORTEST = 8  # frames of a note that is looked at, 0.19 s
ENOUGH = 60  # frames in such notes, 1.4 s, from which on a verdict is given
SINGING = 0.5  # gain above which a frame counts as sung
DOUBT = 4.5  # nepers of wandering that a whole unit of uncertainty takes away
VOICE = (
    -0.35
)  # least evidence of a voice; still instruments: -2.4 .. -0.4, sung ones: 0.1 .. 4, perfectly tuned: -0.2 .. 1
FAINT = 0.02  # of the loudest block's vocals: blocks with less say nothing
LOUD = 0.3  # of the same: blocks with more, but hardly a held note, may be rapped or spoken


@dataclass(frozen=True)
class Evidence:
    """What a block says: `score` is the higher, the more its melody is sung; infinite if there is too little to say."""

    score: float
    power: float  # of its vocals


def evidence(f0: Real, voicing: Real, sings: Real, uncertainty: float, power: float) -> Evidence:
    """From pitch [T] in Hz, its strength [T], the vocals' gain [T], the mean 1 - share in the vocals, their power."""
    cents = 1200 * np.log2(f0)
    joined = (np.abs(np.diff(cents)) < HELD) & (sings[1:] > SINGING) & (sings[:-1] > SINGING)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], joined.astype(int), [0]])))
    wander, weight, frames = [], [], 0
    for start, stop in zip(edges[::2], edges[1::2] + 1, strict=True):
        if stop - start <= SHORTEST:
            continue
        t = np.arange(stop - start)
        note = cents[start:stop]
        wander.append(float(np.median(np.abs(note - np.polyval(np.polyfit(t, note, 1), t)))))
        weight.append(float((sings[start:stop] * np.minimum(voicing[start:stop], 1.2)).sum()))
        frames += stop - start
    if frames < ENOUGH:
        return Evidence(float("inf"), power)
    order = np.argsort(wander)
    half = np.searchsorted(np.cumsum(np.asarray(weight)[order]), sum(weight) / 2)
    return Evidence(float(np.log(wander[order[half]] + 0.05)) - DOUBT * uncertainty, power)


def voice(found: list[Evidence]) -> float:
    """The best evidence of a song's blocks: one sung verse makes a song. Infinite where there is too little to say."""
    loudest = max((e.power for e in found), default=0.0)
    scores = [e.score for e in found if e.power > (FAINT if np.isfinite(e.score) else LOUD) * loudest]
    return max(scores, default=float("inf"))
