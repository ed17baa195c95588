"""A small synthetic band, for separation cases whose truth is known: drums, bass, pad and plucked strings.

Stereo float64 [2, n] at 44.1 kHz; everything follows from its seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

Array = NDArray[Any]
RATE = 44_100  # Hz
CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # semitones above the key: I vi IV V
EVERYTHING = ("drums", "bass", "pad", "pluck")


def pan(mono: Array, position: float) -> Array:
    """[n] → [2, n], constant power; -1 is left, 0 keeps the level in both channels."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * mono, np.sin(angle) * mono]) * np.sqrt(2)


def lowpass(signal: Array, hz: float, order: int = 8) -> Array:
    return np.asarray(sosfilt(butter(order, hz, fs=RATE, output="sos"), signal, axis=-1))


def band(
    seconds: float, seed: int, key: int = 48, bpm: float = 100, parts: tuple[str, ...] = EVERYTHING, width: float = 0.9
) -> Array:
    """`key` is the MIDI note of the tonic; `width` how far out the strings stand (1 = hard left and right)."""
    n, bar = int(seconds * RATE), int(4 * 60 / bpm * RATE)
    rng = np.random.default_rng(seed)
    out = drums(n, bpm, seed) if "drums" in parts else np.zeros((2, n))
    for start in range(0, n, bar):
        chord = CHORDS[(start // bar + seed) % len(CHORDS)]
        hz = [440 * 2 ** ((key + note - 69) / 12) for note in chord]
        if "bass" in parts:
            _bass(out, start, bar, hz[0] / 2)
        if "pad" in parts:
            _pad(out, start, bar, hz)
        if "pluck" in parts:
            for eighth in range(8):
                string = _pluck(2 * hz[rng.integers(3)], int(0.9 * RATE), seed + eighth)
                _add(out, start + eighth * bar // 8, 0.25 * pan(string, width if eighth % 2 else -width))
    return out


def drums(n: int, bpm: float, seed: int) -> Array:
    """Kick, snare and hat in eighths, near the centre [2, n]."""
    rng = np.random.default_rng(seed)
    out, eighth, t = np.zeros((2, n)), 30 / bpm, np.arange(int(0.35 * RATE)) / RATE
    kick = np.sin(2 * np.pi * (48 * t + 2.7 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.12)
    for k in range(int(n / RATE / eighth) + 1):
        at = int(k * eighth * RATE)
        hat = lfilter([1, -1.6, 0.64], [1], rng.standard_normal(int(0.08 * RATE))) * _struck(
            int(0.08 * RATE), 5e-4, 0.02
        )
        _add(out, at, 0.10 * pan(hat, 0.35))
        if k % 8 in (0, 3, 4):
            _add(out, at, 0.9 * pan(kick, 0))
        if k % 4 == 2:
            size = int(0.2 * RATE)
            noise = 0.7 * rng.standard_normal(size) + 1.2 * np.sin(2 * np.pi * 190 * t[:size])
            _add(out, at, 0.35 * pan(noise * _struck(size, 1e-3, 0.06), 0.05))
    return out


def _bass(out: Array, start: int, bar: int, hz: float) -> None:
    for beat in range(4):
        tone = lowpass(_saw(hz, bar // 4, seed=beat) * _struck(bar // 4, 5e-3, 0.4), 900, order=2)
        _add(out, start + beat * bar // 4, 0.35 * pan(tone, 0))


def _pad(out: Array, start: int, bar: int, hz: list[float]) -> None:
    up = np.arange(bar)
    swell = np.minimum(1, np.minimum(up, up[::-1]) / (0.08 * RATE))
    for voice, f in enumerate(hz):
        left = _saw(2 * f, bar, 0.002, tilt=1.6, seed=voice)
        right = _saw(2 * f, bar, -0.002, tilt=1.6, seed=voice + 9)
        _add(out, start, 0.07 * swell * np.stack([left, right]))


def _add(out: Array, at: int, sound: Array) -> None:
    room = max(0, min(sound.shape[1], out.shape[1] - at))
    out[:, at : at + room] += sound[:, :room]


def _struck(n: int, attack: float, decay: float) -> Array:
    t = np.arange(n) / RATE
    return np.minimum(t / attack, 1) * np.exp(-t / decay)


def _saw(hz: float, n: int, detune: float = 0.0, partials: int = 24, tilt: float = 1.3, seed: int = 0) -> Array:
    t, rng, out = np.arange(n) / RATE, np.random.default_rng(seed), np.zeros(n)
    for h in range(1, min(partials, int(12_000 / hz)) + 1):
        out += np.sin(2 * np.pi * h * hz * (1 + detune) * t + rng.uniform(0, 2 * np.pi)) / h**tilt
    return out


def _pluck(hz: float, n: int, seed: int) -> Array:
    """A plucked string (Karplus & Strong 1983)."""
    period = max(2, int(RATE / hz))
    noise = np.zeros(n)
    noise[:period] = np.random.default_rng(seed).standard_normal(period)
    feedback = np.zeros(period + 2)
    feedback[0], feedback[period], feedback[period + 1] = 1, -0.4985, -0.4985
    return lowpass(lfilter([1], feedback, noise), 6000, order=2)
