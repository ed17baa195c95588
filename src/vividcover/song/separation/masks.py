"""Second pass: the vocals of one block. Cues are weighed into each bin's share of voice, then a spatial Wiener filter.

The weights are those of a logistic regression: they were fitted to songs whose parts are known, so that the error of
the vocals, in dB and averaged over the songs, is least. All of these songs are free: mixes of the project's sample set
(the cases "tuned" of `bench/cases.py`), synthesised bands, and singing made from flite's voices with the sample's own
`scripts/singing.py` over bands that FluidR3 (MIT) plays. No recording of a person or a published song is among them.
A share that is uncertain is therefore near the vocals' mean share of such bins: the filter errs towards the mixture,
not towards holes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter, uniform_filter1d

from vividcover.song.pcm import RATE, Signal
from vividcover.song.separation import cues, melody, stft
from vividcover.song.separation.presence import Evidence, evidence
from vividcover.song.separation.stft import BINS, SIZE, Real, Spectrum
from vividcover.song.separation.workers import Check


@dataclass(frozen=True)
class Weights:
    """Of the cues in the logit of a bin's share of voice."""

    harmonic: float = 1.20
    harmonic_voiced: float = 3.21  # nearness to a harmonic times the frame's voicing
    voicing: float = -2.51  # of the frame: its bins between the harmonics are not the voice's
    voicing_around: float = 2.45  # of the half second around: somebody is singing
    leaping: float = 0.92
    gliding: float = -1.29
    comb: float = 2.74  # how much of the frame's power the harmonics explain
    unrepeated: float = 0.48
    unrepeated_around: float = 1.03
    unsteady: float = 0.15
    place: float = 2.79


WEIGHTS = Weights()
KNOTS = (60.0, 150.0, 400.0, 1000.0, 2500.0, 6000.0, 12000.0)  # Hz
BIAS = (-5.23, -3.16, -1.86, -2.92, -3.52, -2.59, -4.89)  # of the logit at the knots

ACTIVE_LOW, ACTIVE_HIGH = 150.0, 6000.0  # Hz, where a voice has its power
ACTIVE_FRAMES = 13  # 0.3 s
GATE, GATE_SLOPE = np.float32(0.19), 4  # activity at which the gate is half open (sung: .2 to .9, else: .04 to .3)

OTHERS_WIDTH = 41  # bins of the bands in which the rest is compared with and without singing, 440 Hz
OTHERS_CAUTION = 1.6  # bands play a little louder under a voice; so much more is not the voices' yet
OTHERS_LEAST = 0.3  # of the rest while somebody sings: which voice is which is never sure in a chorus
SPREAD = 2.0  # parts of the middle that voices beside it bring along per part of the sides
SPREAD_FRAMES = 5  # over which that is judged
UNTUNED = 0.5  # of what is in the middle, but not on the lead's harmonics, is the lead's
ENOUGH_ON, ENOUGH_OFF = 40, 60  # frames with and without singing from which the comparison is trusted


@dataclass(frozen=True)
class Tracks:
    """The melody of the whole song, by frame."""

    f0: Real  # [VOICES, T] Hz; the first is the lead
    chorus: Real  # [VOICES, T] 0..1, how strong each voice is beside the lead: 1 for the lead itself
    voicing: Real  # [T], strength of the melody, 1 where it is clear
    around: Real  # [T], voicing of the half second around
    leaping: Real  # [T] 0..1, how much the melody leaps hereabouts: nobody sings, or a consonant
    gliding: Real  # [T] 0..2, how much it bends

    def at(self, index: NDArray[np.int64]) -> Tracks:
        names = ("f0", "chorus", "voicing", "around", "leaping", "gliding")
        return Tracks(*(getattr(self, name)[..., index] for name in names))


@dataclass(frozen=True)
class Block:
    """What a worker gets: samples and what the song-level pass says about their frames."""

    signal: Signal  # [2, stft.span(T)]
    tracks: Tracks  # of the T frames
    level: float  # root mean square of the song's bins
    inside: NDArray[np.bool_]  # [T], which frames lie within the song
    several: bool  # more than one voice sings


def bias() -> Real:
    """The logit's constant part per bin, [BINS]: piecewise linear in log frequency."""
    frequency = np.maximum(np.arange(BINS) * RATE / SIZE, 20.0)
    return np.interp(np.log2(frequency), np.log2(KNOTS), BIAS).astype(np.float32)


def share(spectrum: Spectrum, block: Block, check: Check, weights: Weights = WEIGHTS) -> Real:
    """The voice's share of each bin, [T, BINS] 0..1, of a block's spectra [2, T, BINS]."""
    tracks = block.tracks
    power = np.square(np.abs(spectrum)).sum(0) / 2
    harmonic = cues.harmonics(tracks.f0[0])
    low, high = 7, melody.LOW_BINS
    comb = (power[:, low:high] * harmonic[:, low:high]).sum(1) / (power[:, low:high].sum(1) + 1e-12)
    for f0, strength in zip(tracks.f0[1:], tracks.chorus[1:], strict=True):
        harmonic = np.maximum(harmonic, cues.harmonics(f0) * strength[:, None], out=harmonic)
    frame = weights.voicing * tracks.voicing + weights.voicing_around * tracks.around + weights.comb * comb
    frame += weights.leaping * tracks.leaping + weights.gliding * tracks.gliding
    harmonic *= (weights.harmonic + weights.harmonic_voiced * tracks.voicing)[:, None]
    logit = harmonic
    logit += frame[:, None].astype(np.float32) + bias()
    check()
    size = np.sqrt(power, out=power)
    repeated = cues.log_ratio(size, cues.background(size, check), 1e-5 * block.level, -1, 3)
    logit += np.float32(weights.unrepeated) * repeated
    logit += np.float32(weights.unrepeated_around) * uniform_filter(repeated, (3, 9))
    del repeated, size, power
    moving = np.abs(stft.analyse(cues.fluctuating(block.signal.mean(0), check)[None])[0])
    mid = np.abs(spectrum[0] + spectrum[1]) / 2
    logit += np.float32(weights.unsteady) * cues.log_ratio(moving, mid, 1e-6 * block.level, -4, 0.5)
    del moving, mid
    check()
    logit += np.float32(weights.place) * cues.position(spectrum, sigmoid(logit))
    return sigmoid(logit)


def activity(share: Real, power: Real) -> Real:
    """Whether somebody sings, [T] 0..1: the voice's share of the power at 150..6000 Hz, over a third of a second."""
    band = slice(int(ACTIVE_LOW * SIZE / RATE), int(ACTIVE_HIGH * SIZE / RATE))
    sung = uniform_filter1d((share[:, band] * power[:, band]).sum(1), ACTIVE_FRAMES)
    everything = uniform_filter1d(power[:, band].sum(1), ACTIVE_FRAMES)
    result: Real = sung / (everything + np.float32(1e-12))
    return result


def gate(active: Real) -> Real:
    """Gain [T] of the vocals, 0..1, from their activity: what little is found between phrases is not the voice."""
    return np.asarray(1 / (1 + (GATE / np.maximum(active, np.float32(1e-3))) ** GATE_SLOPE), np.float32)


def sigmoid(logit: Real) -> Real:
    return np.asarray(1 / (1 + np.exp(-logit)), np.float32)


def separate_block(block: Block, check: Check) -> tuple[Signal, Evidence]:
    """Vocals [2, n] of a block's samples [2, n], and what speaks for their being sung at all.

    Where several sing, below the vocals is what of them is not the lead's: [4, n].
    """
    spectrum = stft.analyse(block.signal)
    check()
    vocal = share(spectrum, block, check)
    power = np.square(np.abs(spectrum)).sum(0)
    sings = gate(activity(vocal, power)) * block.inside
    power *= vocal
    sung = float(power.sum())
    doubt = float((power * (1 - vocal)).sum()) / (sung + 1e-12)
    found = evidence(block.tracks.f0[0], block.tracks.voicing, sings, doubt, sung)
    del power
    if block.several:
        sings = np.sqrt(sings)  # a chorus is found less surely: holes in it cost more than what comes along
    vocal *= sings[:, None]
    check()
    voice = cues.filtered(spectrum, vocal)
    del vocal
    check()
    if block.several:
        voice += others(spectrum - voice, sings, block.inside)
        check()
    del spectrum
    if not block.several:
        return stft.synthesise(voice), found
    backing = stft.synthesise(voice - lead(voice, block.tracks.f0[0]))
    return np.concatenate([stft.synthesise(voice), backing]), found


def lead(voice: Spectrum, f0: Real) -> Spectrum:
    """The part [T, BINS], the same left and right, of vocals [2, T, BINS] that the singer in the middle has.

    Voices beside the middle sound in it as well: what they bring along is known from the sides, and the rest is the
    lead's where it lies on the harmonics of the melody `f0` [T] in Hz.
    """
    middle, sides = (voice[0] + voice[1]) / 2, np.square(np.abs(voice[0] - voice[1])) / 4
    power = uniform_filter1d(np.square(np.abs(middle)), SPREAD_FRAMES, axis=0)
    gain = np.clip(1 - SPREAD * uniform_filter1d(sides, SPREAD_FRAMES, axis=0) / (power + np.float32(1e-20)), 0, 1)
    gain *= np.float32(UNTUNED) + np.float32(1 - UNTUNED) * cues.harmonics(f0)
    result: Spectrum = middle * gain
    return result


def others(rest: Spectrum, sings: Real, inside: NDArray[np.bool_]) -> Spectrum:
    """The part [2, T, BINS] of what the melody's filter left over that sounds only while somebody sings.

    That is what harmonies, doubles and the room add to the lead. In each band, of the middle and of the sides apart,
    the power that the rest has more while somebody sings (`sings` [T] near 1) than between phrases is the voices'.
    """
    on, off = np.square(sings) * inside, np.square(1 - sings) * inside
    middle, sides = (rest[0] + rest[1]) / 2, (rest[0] - rest[1]) / 2
    trust = min(1.0, float(off.sum()) / ENOUGH_OFF) if on.sum() >= ENOUGH_ON else 0.0
    for part in (middle, sides):
        power = np.square(np.abs(part))
        during = uniform_filter1d(on @ power, OTHERS_WIDTH) / (on.sum() + 1e-9)
        between = uniform_filter1d(off @ power, OTHERS_WIDTH) / (off.sum() + 1e-9)
        excess = np.clip(1 - OTHERS_CAUTION * between / (during + 1e-20), 0, 1) * np.float32(trust)
        excess = np.maximum(excess, np.float32(OTHERS_LEAST))
        part *= excess * sings[:, None]
    return np.stack([middle + sides, middle - sides])
