"""Which recipe a song needs, from its survey."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from vividcover.song.pcm import Signal
from vividcover.song.separation import melody, presence
from vividcover.song.separation.masks import Block, Tracks
from vividcover.song.separation.stft import BINS, Real
from vividcover.song.separation.survey import Survey
from vividcover.song.separation.workers import Check

RECIPES = ("silence", "instrumental", "a-cappella", "stereo", "mono", "harmonies")
SEVERAL, SEVERAL_WIDE = 0.8, 0.7  # second_voice above which several people sing: in narrow songs, in wide ones
WIDE = 0.2  # part of the power beside the centre in a wide song
VOICES = 3  # pitches followed then
_WHY = {
    "stereo": "{width:.1%} of the power is beside the centre; one melody leads (a second has {second_voice:.2f} of it)",
    "mono": "no difference between left and right; one melody leads (a second has {second_voice:.2f} of it)",
    "harmonies": "several voices: a second melody has {second_voice:.2f} of the first one's strength",
}
SURE, UNSURE = 0.56, 0.61  # second_voice in songs without stereo: below, the melody is the voice's; above, who knows
HEDGED = 0.65  # the vocals' level then: the error of having followed an instrument counts less
ALONE, ACCOMPANIED = 0.085, 0.16  # the instrumental's part of the power: below, a voice alone; above, a song
ACCOMPANIED_CHORUS = 0.24  # ACCOMPANIED for several voices, where some of the rest has been given back already
HUSH, HUSHED = -15.0, -25.0  # dB of the quietest tenth: no band pauses so deeply (at most -14), most voices alone do
HUSHED_ALONE, HUSHED_ACCOMPANIED = 0.15, 0.26  # ALONE and ACCOMPANIED then
CHORUS_SURE, CHORUS_UNSURE = 1.55, 1.1  # evidence of a voice in a chorus: above, it is followed well; below, badly
CHORUS_HEDGED, CHORUS_LEAN = 0.7, 0.5  # the vocals' level then, and how much of the rest goes with them
BESIDE = 0.1  # part of a chorus's power beside the middle from which on voices stand there: .11 to .24, one voice .01
LED = 0.15  # part of a chorus's power that the lead has at least: .21 to .4, without a lead .03
SLICE = 2048  # frames handled at a time, for memory
MONO = 1e-3  # of the power beside the centre: below this there is no stereo to use


@dataclass(frozen=True)
class Plan:
    """The recipe, and the song-level tracks that the second pass needs."""

    recipe: str
    why: str
    auto: bool = True  # chosen here, not asked for
    passes: float | None = None  # the whole song times this is the vocals: no second pass
    tracks: Tracks | None = None
    level: float = 0.0
    scale: float = 1.0  # what the vocals are multiplied by, 0..1
    lean: float = 0.0  # how much of the instrumental to give back to the vocals, 0..1
    backing: bool = False  # whether lead and backing vocals can be told apart
    report: dict[str, Any] = field(default_factory=dict)

    def block(self, signal: Signal, first: int, count: int) -> Block:
        """The work for frames `first` … `first + count - 1`; beyond the song its last frames go on."""
        assert self.tracks is not None
        wanted = np.arange(first, first + count)
        index = np.clip(wanted, 0, len(self.tracks.voicing) - 1)
        return Block(signal, self.tracks.at(index), self.level, wanted == index, self.recipe == "harmonies")


def choose(survey: Survey, recipe: str, check: Check) -> Plan:
    power = survey.mid + survey.side
    level = float(np.sqrt(power.mean() / BINS))
    if level <= 1e-7 or recipe == "silence":
        return Plan("silence", "the song is silent" if recipe == "auto" else "asked for", passes=0.0)
    if recipe == "instrumental":
        return Plan(recipe, "asked for", passes=0.0)
    if recipe == "a-cappella":
        return Plan(recipe, "asked for", passes=1.0)
    strength = _scaled(survey.unrepeated)
    check()
    strength += _scaled(survey.unsteady)
    check()
    strength = _scaled(strength)
    check()
    path = melody.track(strength, check)
    width, second = float(survey.side.sum() / power.sum()), second_voice(strength, path)
    report = {"width": width, "second_voice": second, "pauses": pauses(power)}
    name = recipe
    if recipe == "auto":
        several = SEVERAL + (SEVERAL_WIDE - SEVERAL) * min(width / WIDE, 1.0)
        name = "harmonies" if second > several else "mono" if width < MONO else "stereo"
    voices = VOICES if name == "harmonies" else 1
    why, followed = _WHY[name].format(**report), tracks(strength, path, voices, check)
    return Plan(name, why, recipe == "auto", None, followed, level, report=report)


def judge(plan: Plan, power: NDArray[np.float64], evidence: float) -> Plan:
    """The plan after the second pass, from five powers and the evidence of a voice.

    The powers are those of song, vocals, instrumental and, where several sing, of the vocals' sides and of the lead.

    Without a voice the vocals are silent, unless the recipe was asked for. When next to nothing is left as
    instrumental, it is not a band but the voice's own room and consonants.
    """
    if plan.passes is not None:
        return plan
    if plan.auto and evidence < presence.VOICE:
        why = f"nobody sings: the notes stand still as an instrument's do ({evidence:.2f}, a voice {presence.VOICE})"
        return replace(plan, recipe="instrumental", why=why, scale=0.0, report={**plan.report, "voice": evidence})
    sung, played = (float(p / max(power[0], 1e-12)) for p in power[1:3])
    report = {**plan.report, "vocals_power": sung, "instrumental_power": played}
    if np.isfinite(evidence):
        report["voice"] = evidence
    chorus = plan.recipe == "harmonies"
    if chorus:
        beside, led = (float(p / max(power[1], 1e-12)) for p in power[3:])
        report |= {"beside": beside, "lead": led}
        plan = replace(plan, backing=beside > BESIDE and led > LED)
    hush = _between(report["pauses"], HUSH, HUSHED)
    alone = ALONE + (HUSHED_ALONE - ALONE) * hush
    full = max(ACCOMPANIED_CHORUS if chorus else ACCOMPANIED, ACCOMPANIED + (HUSHED_ACCOMPANIED - ACCOMPANIED) * hush)
    lean = _between(played, full, alone)
    if lean >= 1:
        why = f"only {played:.1%} of the power is not the voice's"
        return replace(plan, recipe="a-cappella", why=why, lean=1.0, report=report)
    if chorus:
        doubt = _between(evidence, CHORUS_SURE, CHORUS_UNSURE) if np.isfinite(evidence) else 1.0
        scale = 1 - (1 - CHORUS_HEDGED) * doubt
        return replace(plan, scale=scale, lean=max(lean, CHORUS_LEAN * doubt), report=report)
    doubt = _between(report["second_voice"], SURE, UNSURE) if plan.recipe == "mono" else 0.0
    return replace(plan, scale=1 - (1 - HEDGED) * doubt if lean == 0 else 1.0, lean=lean, report=report)


def _between(value: float, none: float, full: float) -> float:
    """0 at `none`, 1 at `full`, in proportion between them."""
    return min(max((value - none) / (full - none), 0.0), 1.0)


def pauses(power: Real) -> float:
    """How quiet the quietest tenth of the frames is at most, in dB of the mean power, of frames' powers [T]."""
    return max(10 * float(np.log10(np.percentile(power, 10) / power.mean() + 1e-12)), -120.0)


def tracks(strength: Real, path: NDArray[np.int64], voices: int, check: Check) -> Tracks:
    """The melody along `path` through the saliences [T, PITCHES], and up to `voices` - 1 further voices beside it."""
    f0 = melody.refine(strength, path)
    voicing = along(strength, path)
    octave = np.log2(f0)
    leap = np.minimum(np.abs(np.diff(octave, append=octave[-1:])), 0.2) * 5
    bend = np.abs(uniform_filter1d(octave, 3) - uniform_filter1d(octave, 17)) * 12
    pitches, chorus = [f0], [np.ones_like(voicing)]
    left = strength
    for _ in range(voices - 1):
        check()
        left = beside(left, path, octaves=False)
        check()
        path = melody.track(left, check)
        pitches.append(melody.refine(left, path))
        chorus.append(np.clip(along(left, path) / (voicing + 1e-6), 0, 1))
    return Tracks(
        np.stack(pitches),
        np.stack(chorus),
        voicing,
        uniform_filter1d(voicing, 21),
        uniform_filter1d(leap, 5),
        np.minimum(uniform_filter1d(bend, 9), 2),
    )


def along(strength: Real, path: NDArray[np.int64]) -> Real:
    """The salience [T] on a path."""
    result: Real = strength[np.arange(len(path)), path]
    return result


def beside(strength: Real, path: NDArray[np.int64], *, octaves: bool) -> Real:
    """Saliences [T, PITCHES] without the path's own pitch and, with `octaves`, without its first four multiples."""
    result = strength.copy()
    pitches = np.arange(strength.shape[1], dtype=np.int16)
    for t in range(0, len(strength), SLICE):
        away = np.abs(pitches - path[t : t + SLICE, None].astype(np.int16))
        own = away < 8  # 1.6 semitones
        if octaves:
            for multiple in (2, 3, 4):
                own |= np.abs(away - melody.PER_OCTAVE * np.log2(multiple)) < 5
        result[t : t + SLICE][own] = 0
    return result


def second_voice(strength: Real, path: NDArray[np.int64]) -> float:
    """Strength of the strongest other pitch relative to the melody, 0..1: .4 to .75 with one singer, .83 with more."""
    lead, other = along(strength, path), beside(strength, path, octaves=True).max(1)
    return float((lead * other).sum() / max(float((lead * lead).sum()), 1e-9))


def _scaled(strength: NDArray[Any]) -> Real:
    """So that a clear pitch is about 1."""
    values = strength.astype(np.float32)
    return values / np.float32(np.percentile(values.max(1), 90) + 1e-9)
