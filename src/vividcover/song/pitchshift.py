"""Key change: everything higher or lower by semitones, as long as before.

Stretched in time by 2^(semitones/12) with a phase vocoder, then resampled back to the old length (soxr). The vocoder is
that of J. Laroche and M. Dolson, "Improved phase vocoder time-scale modification of audio" (IEEE TSAP 7-3, 1999): each
spectral peak's phase goes on from the last frame, and the bins around it turn with it (identity phase locking). Phase
advances are taken from two frames one synthesis hop apart (M. Puckette, "Phase-locked vocoder", 1995), so nothing needs
unwrapping. Both channels turn by the same angle, so the stereo picture stays.

Attacks would smear over a frame (93 ms). Where one is found (`song/attacks.py`), time runs at its own speed as long as
the frames see it, and the bins that the attack fills begin with their own phases (after A. Röbel, "A new approach to
transient processing in the phase vocoder", DAFx 2003); the stretching is made up for in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import fft

from vividcover.errors import ParameterError
from vividcover.files import aside
from vividcover.song.attacks import find_attacks
from vividcover.song.pcm import PcmReader, PcmWriter, Signal
from vividcover.workspace import Reporter, Silent

FRAME = 4096  # samples (93 ms at 44.1 kHz)
HOP = FRAME // 4  # samples between frames of the stretched sound
BATCH = 16  # frames transformed at a time
WINDOW = np.hanning(FRAME + 1)[:FRAME].astype(np.float32)  # periodic Hann, before and after
OVERLAP = 1.5  # sum of the squared windows at a quarter hop
HALF_ZONE = 1536  # samples before and after an attack in which time runs at its own speed
STEEPEST = 3.0  # times the wanted speed, between two attacks, to make up for their zones
RISE = 4.0  # times: a bin whose power grows by more belongs to the attack
LIMIT = 12.0  # semitones
LIFTER = 0.002  # s: what comes earlier in the cepstrum is the spectral envelope (formants); pitch comes later
ENVELOPE_LIMIT = 3.0  # nepers (26 dB) by which an envelope may be corrected
FLOOR = 1e-12  # of power, before logarithms

Spectra = NDArray[np.complex64]  # [channels, bins]


def shift_pitch(
    pcm_in: Path, pcm_out: Path, semitones: float, *, preserve_formants: bool = False, reporter: Reporter | None = None
) -> None:
    """Moves a working file by `semitones` (-12..12, fractions allowed) into another of exactly the same length.

    `preserve_formants` keeps the spectral envelope where it is: for voices. Raises `ParameterError` out of range.
    """
    if not -LIMIT <= semitones <= LIMIT:
        raise ParameterError(
            f"A key change of {semitones:g} semitones is too far.", f"Use a value from {-LIMIT:g} to {LIMIT:g}."
        )
    reporter = reporter or Silent()
    ratio = 2 ** (semitones / 12)
    with PcmReader(Path(pcm_in)) as source, aside(Path(pcm_out)) as part, _writer(part, source) as writer:
        if semitones == 0:
            blocks: Iterator[Signal] = source.blocks(1 << 16)
        else:
            blocks = _resampled(_stretched(source, ratio, preserve_formants, reporter), ratio, source)
        for block in blocks:
            writer.write(block[:, : source.frames - writer.frames])
            reporter.progress(writer.frames / max(source.frames, 1), "changing the key")
        writer.write(np.zeros((source.channels, source.frames - writer.frames), np.float32))


def _writer(path: Path, source: PcmReader) -> PcmWriter:
    return PcmWriter(path, source.rate, source.channels)


def _resampled(blocks: Iterator[Signal], ratio: float, source: PcmReader) -> Iterator[Signal]:
    """A stretched sound, `ratio` times as long as it was, back in its old length and so `ratio` times as high."""
    resampler = soxr.ResampleStream(ratio, 1.0, source.channels, dtype="float32", quality="VHQ")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).reshape(-1, source.channels).T
    nothing = np.zeros((0, source.channels), np.float32)
    yield resampler.resample_chunk(nothing, last=True).reshape(-1, source.channels).T


# --- where each frame is taken from -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimeMap:
    """From stretched time to source time (samples). `attacks` [n] are at `ratio · attacks` in the stretched sound."""

    ratio: float
    attacks: NDArray[np.int64]
    anchors: tuple[NDArray[np.float64], NDArray[np.float64]]  # stretched, source

    def source_of(self, time: int) -> tuple[int, int]:
        """(sample in the source that the frame at `time` is centred on, number of the attack it sees or -1)."""
        near = int(np.searchsorted(self.attacks, time / self.ratio))
        for number in (near - 1, near):
            if 0 <= number < len(self.attacks):
                attack = int(self.attacks[number])
                if abs(time - self.ratio * attack) <= HALF_ZONE:
                    return time + round(attack - self.ratio * attack), number
        return round(float(np.interp(time, *self.anchors))), -1


def time_map(frames: int, ratio: float, attacks: NDArray[np.int64], strengths: NDArray[np.float64]) -> TimeMap:
    """A map that runs at speed 1 around the strongest attacks, as many as leave room to make up for it."""
    zone = 2 * HALF_ZONE
    apart = zone * (STEEPEST - 1) / ((STEEPEST - ratio) if ratio > 1 else (STEEPEST * ratio - 1))
    kept: list[int] = []
    for index in np.argsort(-strengths, kind="stable"):
        attack = int(attacks[index])
        if all(abs(attack - other) >= apart for other in kept):
            kept.append(attack)
    chosen = np.array(sorted(kept), np.int64)
    stretched, source = [0.0], [0.0]
    for attack in chosen:
        for side in (-HALF_ZONE, HALF_ZONE):
            if attack + side > source[-1] and ratio * attack + side > stretched[-1]:
                stretched.append(ratio * attack + side)
                source.append(float(attack + side))
    if ratio * frames > stretched[-1]:
        stretched.append(ratio * frames)
        source.append(float(frames))
    return TimeMap(ratio, chosen, (np.array(stretched), np.array(source)))


# --- the vocoder --------------------------------------------------------------------------------------------------


def _stretched(source: PcmReader, ratio: float, formants: bool, reporter: Reporter) -> Iterator[Signal]:
    """The whole file, `ratio` times as long, in blocks of HOP samples."""
    attacks, strengths = find_attacks(source, reporter)
    course = time_map(source.frames, ratio, attacks, strengths)
    frames = int(np.ceil(source.frames * ratio / HOP)) + 3
    voice = _Voice(source.channels)
    tail = np.zeros((source.channels, FRAME), np.float32)
    for first in range(0, frames, BATCH):
        reporter.check()
        numbers = range(first, min(first + BATCH, frames))
        places = [course.source_of(number * HOP) for number in numbers]
        now = _spectra(source, [place for place, _ in places])
        before = _spectra(source, [place - HOP for place, _ in places])
        power = _power(now)
        owners = _owners(power)
        gains = _envelope_gains(power, ratio, source.rate) if formants else None
        out = np.empty_like(now)
        for i, (_, attack) in enumerate(places):
            filled = _filled(source, int(course.attacks[attack])) if voice.enters(attack) else None
            out[i] = voice.turn(now[i], before[i], owners[i], attack, filled)
        if gains is not None:
            out *= gains[:, None]
        sounds = fft.irfft(out, FRAME, axis=-1) * (WINDOW / np.float32(OVERLAP))
        for number, sound in zip(numbers, sounds, strict=True):
            tail += sound
            if number * HOP >= FRAME // 2:  # frame 0 is centred on sample 0
                yield tail[:, :HOP].copy()
            tail = np.concatenate([tail[:, HOP:], np.zeros((source.channels, HOP), np.float32)], axis=1)


class _Voice:
    """The phases that go on from frame to frame."""

    def __init__(self, channels: int) -> None:
        self._last: Spectra = np.zeros((channels, FRAME // 2 + 1), np.complex64)
        self._attack = -1
        self._frozen: NDArray[np.complex64] | None = None

    def enters(self, attack: int) -> bool:
        return attack >= 0 and attack != self._attack

    def turn(
        self, now: Spectra, before: Spectra, owners: NDArray[np.intp], attack: int, filled: NDArray[np.bool_] | None
    ) -> Spectra:
        """One frame [channels, bins] with the phases that fit behind the last one.

        `before` is the source one hop earlier; `owners` [bins] is the peak that each bin turns with; `filled` marks
        the bins of an attack whose zone begins here.
        """
        if attack < 0 or attack != self._attack or self._frozen is None:
            advance = (self._last * before.conj()).sum(0)
            size = np.abs(advance)
            turns = np.where(size > FLOOR, advance / np.maximum(size, FLOOR), 1.0).astype(np.complex64)[owners]
            if filled is not None:
                turns = np.where(filled, np.complex64(1.0), turns)
            self._frozen = turns
        self._attack = attack
        self._last = now * self._frozen
        return self._last


def _spectra(source: PcmReader, places: list[int]) -> NDArray[np.complex64]:
    """Windowed spectra [frames, channels, bins] centred on `places`."""
    low, high = min(places) - FRAME // 2, max(places) + FRAME // 2
    span = source.read(low, high - low)
    cut = np.stack([span[:, p - FRAME // 2 - low : p + FRAME // 2 - low] for p in places])
    return np.asarray(fft.rfft(cut * WINDOW, axis=-1))


def _power(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """[frames, bins], summed over channels."""
    return np.asarray((spectra.real**2 + spectra.imag**2).sum(1))


def _owners(power: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each bin [frames, bins] the nearest peak: a bin above its two neighbours on either side."""
    bins = power.shape[1]
    p = np.pad(power, ((0, 0), (2, 2)))
    peak = (power > p[:, 1:-3]) & (power > p[:, :-4]) & (power >= p[:, 3:-1]) & (power >= p[:, 4:])
    numbers = np.arange(bins)
    below = np.maximum.accumulate(np.where(peak, numbers, -bins), axis=1)
    above = np.minimum.accumulate(np.where(peak, numbers, 2 * bins)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.where(numbers - below <= above - numbers, below, above)
    return np.where((nearest >= 0) & (nearest < bins), nearest, numbers)


def _filled(source: PcmReader, attack: int) -> NDArray[np.bool_]:
    """Which bins an attack fills: those that are RISE times stronger behind it than before it."""
    power = _power(_spectra(source, [attack - FRAME // 2, attack + FRAME // 4]))
    return np.asarray(power[1] > RISE * power[0])


def _envelope_gains(power: NDArray[np.float32], ratio: float, rate: int) -> NDArray[np.float32]:
    """[frames, bins] by which to multiply so that, once everything is `ratio` times as high, formants are back."""
    bins = power.shape[1]
    cepstrum = fft.irfft(np.log(power + FLOOR) / 2, FRAME, axis=1)
    width = round(LIFTER * rate)
    lifter = np.zeros(FRAME, np.float32)
    lifter[:width] = 0.5 + 0.5 * np.cos(np.pi * np.arange(width) / width)
    lifter[-width + 1 :] = lifter[1:width][::-1]
    envelope = fft.rfft(cepstrum * lifter, axis=1).real
    places = np.minimum(np.arange(bins) * ratio, bins - 1.001)
    low = places.astype(np.intp)
    part = (places - low).astype(np.float32)
    there = envelope[:, low] * (1 - part) + envelope[:, low + 1] * part
    return np.asarray(np.exp(np.clip(there - envelope, -ENVELOPE_LIMIT, ENVELOPE_LIMIT)), np.float32)
