"""Is it one person all through? Clips are compared by the shape of their voiced sounds, without a net.

A clip's voiced frames have a mean and a spread in cepstra, which is about the vocal tract; two clips differ by the
distance of their means, in units of that spread, less what so few frames differ by chance. Two such distances must
agree before a clip is called another's: one over the whole band, without the two lowest cepstra, where a microphone's
colour is; and one over the band of a telephone. Sung clips are not judged: held vowels differ more than people do.

Measured on four readers of LibriSpeech, ten clips each: of 696 clips among another's ten, 692 were found (clean and
through a tilt of 3 dB per octave up or down, an uneven microphone, 0.35 s of room, noise at 20 dB, a telephone); of 238
clips of the same person, every other one recorded so, 4 were taken for another's, none of them a clean one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.fft import dct

from vividcover.voice import vad
from vividcover.voice.classic.f0 import sung_share

Floats = NDArray[np.float64]

RATE = 16_000  # Hz
HOP, SIZE = 160, 512  # samples: 10 ms, 32 ms
BELOW = 35.0  # dB below the loudest frame, under which a frame is left out
CORRELATED = 12.0  # neighbouring frames that count as one
CANDIDATES = 40  # clips, the longest, that the main voice is looked for among
RIDGE = 0.05  # added to variances, so that short clips have an inverse


@dataclass(frozen=True, slots=True)
class Ear:
    """A way of hearing: mel bands between two frequencies, and which cepstra are compared."""

    bands: int
    low: float  # Hz
    high: float
    first: int  # lowest cepstrum, 1 is the tilt
    last: int
    limit: float  # distance from which it is another person


@dataclass(frozen=True, slots=True)
class Limits:
    """Full band, clean: the same person's clips 0.6 (median) … 1.5 (highest), another's 1.6 (lowest) … 2.2 (median)."""

    full: Ear = Ear(26, 100.0, 6500.0, 3, 19, 1.62)
    phone: Ear = Ear(22, 250.0, 3500.0, 2, 19, 1.1)
    fewest: int = 150  # voiced frames that a clip must have to be judged
    reference: int = 500  # voiced frames that the others must have
    voiced: float = 0.6
    sung: float = 0.1  # of `sung_share`, from which a clip is sung; speech 0.0, songs 0.17 … 0.6
    main: float = 0.5  # share of the main voice, below which nothing can be said


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Heard:
    """What is kept of a clip: voiced frames, their mean and scatter for each ear, and whether it is sung."""

    frames: int
    means: tuple[Floats, Floats]  # [C]
    squares: tuple[Floats, Floats]  # [C, C], mean of the outer products
    sung: bool = False

    @property
    def judged(self) -> bool:
        return self.frames >= LIMITS.fewest and not self.sung


def hear(samples: NDArray[np.float32], rate: int) -> Heard:
    """Listens to one clip [N]."""
    voiced = vad.voicing(soxr.resample(samples, rate, vad.RATE))
    wide = soxr.resample(samples, rate, RATE)
    count = min(len(voiced.peak), len(wide) // HOP)
    if not count:
        return together([])
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wide, ((SIZE - HOP) // 2, SIZE)), SIZE)[
        : count * HOP : HOP
    ]
    power = np.abs(np.fft.rfft(frames * np.hanning(SIZE).astype(np.float32), axis=1)) ** 2
    level = 10 * np.log10(power.sum(axis=1) + 1e-9)
    kept = (voiced.peak[:count] > LIMITS.voiced) & (level > level.max() - BELOW)
    ears = [_cepstra(power[kept], ear) for ear in (LIMITS.full, LIMITS.phone)]
    if not kept.any():
        return together([])
    pitch = np.where(voiced.peak > LIMITS.voiced, voiced.pitch, 0).astype(np.float32)
    return Heard(
        int(kept.sum()),
        (ears[0].mean(axis=0), ears[1].mean(axis=0)),
        (ears[0].T @ ears[0] / len(ears[0]), ears[1].T @ ears[1] / len(ears[1])),
        sung_share(pitch) > LIMITS.sung,
    )


def _cepstra(power: Floats, ear: Ear) -> Floats:
    """[T, last - first + 1] of power spectra [T, F]."""
    top = 1127 * np.log1p(np.array([ear.low, ear.high]) / 700)
    edges = 700 * np.expm1(np.linspace(top[0], top[1], ear.bands + 2) / 1127)
    bins = np.arange(SIZE // 2 + 1) * RATE / SIZE
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bands = np.log(power @ np.maximum(0, np.minimum(up, down)).T + 1e-7)
    cepstra: Floats = dct(bands, axis=1, norm="ortho")[:, ear.first : ear.last + 1]
    return cepstra


def together(parts: Sequence[Heard]) -> Heard:
    """Several clips as one."""
    frames = sum(part.frames for part in parts)
    means, squares = [], []
    for number, ear in enumerate((LIMITS.full, LIMITS.phone)):
        size = ear.last - ear.first + 1
        mean, square = np.zeros(size), np.zeros((size, size))
        for part in parts:
            mean += part.frames / max(frames, 1) * part.means[number]
            square += part.frames / max(frames, 1) * part.squares[number]
        means.append(mean)
        squares.append(square)
    return Heard(frames, (means[0], means[1]), (squares[0], squares[1]))


def without(pile: Heard, clip: Heard) -> Heard:
    """A pile of clips less one of them."""
    frames = pile.frames - clip.frames
    if frames <= 0:
        return together([])

    def less(whole: Floats, part: Floats) -> Floats:
        return (pile.frames * whole - clip.frames * part) / frames

    means = [less(whole, part) for whole, part in zip(pile.means, clip.means)]
    squares = [less(whole, part) for whole, part in zip(pile.squares, clip.squares)]
    return Heard(frames, (means[0], means[1]), (squares[0], squares[1]))


def distance(one: Heard, other: Heard) -> tuple[float, float]:
    """How far two clips (or piles of clips) are apart, for each ear; 0 … about 5."""
    found = []
    for ear in (0, 1):
        size = len(one.means[ear])
        spread = np.zeros((size, size)) + RIDGE * np.eye(size)
        for clip in (one, other):
            spread += (clip.squares[ear] - np.outer(clip.means[ear], clip.means[ear])) / 2
        apart = one.means[ear] - other.means[ear]
        chance = CORRELATED * size * (1 / max(one.frames, 1) + 1 / max(other.frames, 1))
        squared = float(apart @ np.linalg.solve(spread, apart)) - chance
        found.append(max(0.0, squared) ** 0.5)
    return found[0], found[1]


def strangeness(one: Heard, other: Heard) -> float:
    """Above 1: another person. The less certain of the two ears decides."""
    full, phone = distance(one, other)
    return min(full / LIMITS.full.limit, phone / LIMITS.phone.limit)


def strangers(clips: Sequence[Heard]) -> list[int]:
    """Which clips are of another person than the main voice, by index. Empty when there is too little to tell."""
    group = [number for number, clip in enumerate(clips) if clip.judged]
    if len(group) < 2:
        return []
    total = sum(clips[number].frames for number in group)
    longest = sorted(group, key=lambda number: -clips[number].frames)[:CANDIDATES]
    weight = np.array([clips[number].frames for number in group])
    near = np.array([[strangeness(clips[one], clips[number]) < 1 for number in group] for one in longest])
    middle = near[int((near @ weight).argmax())]  # the clip that most of the rest is like
    members = {number for number, like in zip(group, middle) if like}
    for _ in range(3):  # the pile decides who is in it, without the one that is asked about
        again, pile = set(), together([clips[number] for number in members])
        for number in group:
            others = without(pile, clips[number]) if number in members else pile
            if others.frames < LIMITS.reference:
                return []
            if strangeness(clips[number], others) < 1:
                again.add(number)
        if again == members:
            break
        members = again
    if sum(clips[number].frames for number in members) < LIMITS.main * total:
        return []
    return [number for number in group if number not in members]
