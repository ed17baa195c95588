"""What becomes of the melody before it is sung: moved, drawn to notes, counted in the network's 255 steps.

A track is f0 [T] in Hz at 100 frames a second, float32, 0 where nothing is voiced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from vividcover.voice.classic.f0 import sung_share
from vividcover.voice.classic.mapping import SINGING_RISE
from vividcover.voice.rvc.settings import OCTAVES, NeuralConversion

LOW, HIGH = 50.0, 1100.0  # Hz, first and last step of the coarse pitch
STEPS = 254
A4 = 440.0  # Hz, MIDI note 69
STEADY = 9  # frames of the median that decides which note is meant: vibrato turns around it
# How well each of the twelve notes fits a key: C. Krumhansl & E. Kessler, Psychological Review 89-4, 1982
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

Track = NDArray[np.float32]


def mel(hertz: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1127 * np.log1p(hertz / 700)


def coarse(f0: Track) -> NDArray[np.int64]:
    """The network's pitch steps, 1 … 255 (1 = unvoiced or below 50 Hz), even on the mel scale up to 1100 Hz."""
    bottom, top = mel(np.array([LOW, HIGH]))
    steps = (mel(f0.astype(np.float64)) - bottom) * STEPS / (top - bottom) + 1
    return np.asarray(np.rint(np.clip(np.where(f0 > 0, steps, 1), 1, STEPS + 1)), np.int64)


def choose_pitch(settings: NeuralConversion, f0: Track, card: dict[str, Any]) -> tuple[float, str]:
    """Semitones to move the song by, and why. In `auto` octaves only: the melody must fit the band."""
    wanted, key = settings.pitch_change, settings.semitones
    if not isinstance(wanted, str):
        return float(wanted) + key, "asked for"
    if wanted != "auto":
        return OCTAVES[wanted] + key, "asked for"
    own, voiced = card.get("f0_hz"), f0[f0 > 0]
    if not isinstance(own, dict) or not own.get("median"):
        return key, "the voice's file does not say how high it is: the melody keeps its octave"
    if not len(voiced):
        return key, "no singing found"
    song, middle = float(np.median(voiced)), float(own["median"])
    rise = SINGING_RISE * (sung_share(f0) - float(card.get("sung") or 0.0))
    octaves = int(np.clip(np.round(np.log2(middle / song) + rise), -2, 2))
    return 12.0 * octaves + key, f"the song's middle is {song:.0f} Hz, the voice's {middle:.0f} Hz"


def key_of(f0: Track) -> tuple[int, str]:
    """(tonic 0 = C … 11 = B, "major" or "minor") that fits best how long each note is sung. C major for silence."""
    voiced = f0[f0 > 0]
    if not len(voiced):
        return 0, "major"
    notes = np.rint(69 + 12 * np.log2(voiced / A4)).astype(int) % 12
    heard = np.bincount(notes, minlength=12).astype(float)
    if np.ptp(heard) == 0:
        return 0, "major"
    fits = {
        (tonic, mode): float(np.corrcoef(np.roll(heard, -tonic), profile)[0, 1])
        for tonic in range(12)
        for mode, profile in (("major", MAJOR), ("minor", MINOR))
    }
    return max(fits, key=lambda key: fits[key])


def key_name(key: tuple[int, str]) -> str:
    return f"{NAMES[key[0]]} {key[1]}"


def autotuned(f0: Track, strength: float, key: tuple[int, str] | None = None) -> Track:
    """The track drawn to the nearest note by `strength` (0..1), vibrato and glides with it; of `key`'s notes only."""
    voiced = f0 > 0
    if strength == 0 or not voiced.any():
        return f0
    notes = 69 + 12 * np.log2(np.where(voiced, f0, A4) / A4)
    places = np.arange(len(f0))
    meant = median_filter(np.interp(places, places[voiced], notes[voiced]), STEADY, mode="nearest")
    allowed = np.arange(0, 140)
    if key is not None:
        allowed = allowed[np.isin((allowed - key[0]) % 12, SCALES[key[1]])]
    nearest = allowed[np.abs(meant[:, None] - allowed).argmin(1)]
    moved = notes + strength * (nearest - notes)
    return np.where(voiced, A4 * 2 ** ((moved - 69) / 12), 0).astype(np.float32)


def interpolated(f0: Track) -> Track:
    """A line between the notes where nothing is voiced, level before the first and after the last."""
    voiced = f0 > 0
    if not voiced.any() or voiced.all():
        return f0
    places = np.arange(len(f0))
    return np.interp(places, places[voiced], f0[voiced]).astype(np.float32)


def median(f0: Track, radius: int) -> Track:
    """Median over `radius` frames (odd; below 3 nothing) that leaves voicing as it is."""
    voiced = f0 > 0
    if radius < 3 or not voiced.any():
        return f0
    smooth = median_filter(interpolated(f0), radius | 1, mode="nearest")
    return np.where(voiced, smooth, 0).astype(np.float32)


def range_of(f0: Track) -> dict[str, float] | None:
    """5th, 50th and 95th percentile of what is voiced, Hz."""
    voiced = f0[f0 > 0]
    if not len(voiced):
        return None
    return dict(zip(("low", "median", "high"), (round(float(v), 2) for v in np.percentile(voiced, [5, 50, 95]))))
