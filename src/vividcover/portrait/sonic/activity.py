"""Where somebody sings, frame by frame (12.5 a second).

    meter = Meter()
    for block in blocks: meter.hear(block)
    sung = activity_of(meter.levels(), frames)   # bool [F]
    idle_spans(sung)                             # [(start, stop), …]: long enough to rest

Vocals that were separated from a song are never quite silent between the phrases: drums and echoes come through, 30 dB
and more below the voice. So loudness is judged by the song's own, not by an absolute number, and a phrase must rise
above one level to begin and fall below a lower one to end (hysteresis).

In doubt somebody sings: what a poor separation lets through less than 26 dB below the voice leaves no rests, which
costs time; a mouth that stays shut while a soft verse is sung would cost more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.ndimage import label, uniform_filter1d

from vividcover.portrait.sonic.config import AUDIO_HOP, AUDIO_RATE, FPS, VIDEO_FPS, WINDOW

HOP = 320  # samples, 20 ms: a frame of whisper's
PER_FRAME = 2 * AUDIO_HOP // HOP  # levels in a frame of the network
RUMBLE = signal.butter(2, 100.0, "high", fs=AUDIO_RATE, output="sos")  # below a voice there is only noise
SMOOTH = 3  # levels, 60 ms
SILENCE = 1e-7  # mean square: -70 dB of full scale; what never rises above it is no singing
LOUD_SHARE = 95  # percentile of the levels above silence that stands for the song's loudness
QUIET_SHARE = 10  # percentile of all levels that stands for what comes through between the phrases
BEGIN_DB, END_DB = -26.0, -34.0  # a phrase begins above, ends below; relative to the song's loudness
OVER_QUIET_DB = 10.0  # what begins a phrase is this far above what comes through
HIGHEST_DB = -18.0  # and yet never above this
SHORTEST = 0.12  # seconds: less than that is a click or a drum
BEFORE, AFTER = 0.4, 0.64  # seconds: lips part before the tone, and close after it
PAUSE = 1.0  # seconds between two phrases that are no rest: a breath

Levels = NDArray[np.float32]
Activity = NDArray[np.bool_]


class Meter:
    """Mean squares of 20 ms each, of sound that comes in blocks; without what is below a voice. 200 bytes a second."""

    def __init__(self) -> None:
        self._state = np.zeros((len(RUMBLE), 2))
        self._rest = np.zeros(0, np.float32)
        self._levels: list[Levels] = []

    def hear(self, block: NDArray[np.float32]) -> None:
        """Samples [N] at 16 kHz."""
        if len(block):
            filtered, self._state = signal.sosfilt(RUMBLE, block, zi=self._state)
            self._rest = np.concatenate((self._rest, filtered.astype(np.float32)))
        whole = len(self._rest) // HOP * HOP
        self._levels.append(np.mean(self._rest[:whole].reshape(-1, HOP) ** 2, axis=1, dtype=np.float32))
        self._rest = self._rest[whole:]

    def levels(self) -> Levels:
        """Mean squares [S], 50 a second; full scale is 1."""
        return np.concatenate(self._levels) if self._levels else np.zeros(0, np.float32)


def activity_of(levels: Levels, frames: int) -> Activity:
    """Frames in which somebody sings, or is about to or just did; breaths between two phrases are part of them."""
    sung = _phrases(levels)
    sung = np.pad(sung[: frames * PER_FRAME], (0, max(frames * PER_FRAME - len(sung), 0)))
    by_frame = np.asarray(sung.reshape(frames, PER_FRAME).any(1))
    before, after = round(BEFORE * FPS), round(AFTER * FPS)
    held = np.zeros(frames + before + after, bool)
    for shift in range(before + after + 1):
        held[shift : shift + frames] |= by_frame
    return _filled(held[before : before + frames], round(PAUSE * FPS))


def _phrases(levels: Levels) -> Activity:
    """Where the level is above the song's own thresholds, [S]."""
    power = uniform_filter1d(levels.astype(np.float64), SMOOTH, mode="constant") if len(levels) else levels
    audible = power > SILENCE
    if not audible.any():
        return np.zeros(len(levels), bool)
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    loud = float(np.percentile(decibels[audible], LOUD_SHARE))
    quiet = float(np.percentile(decibels, QUIET_SHARE))
    begin = min(max(loud + BEGIN_DB, quiet + OVER_QUIET_DB), loud + HIGHEST_DB)
    end = begin + END_DB - BEGIN_DB
    marks, count = label(audible & (decibels > end))
    if not count:
        return np.zeros(len(levels), bool)
    peaks = np.full(count + 1, -np.inf)
    np.maximum.at(peaks, marks, decibels)
    lengths = np.bincount(marks, minlength=count + 1)
    good = (peaks > begin) & (lengths >= round(SHORTEST * AUDIO_RATE / HOP))
    good[0] = False  # what is between them
    return np.asarray(good[marks])


def _filled(sung: Activity, shortest: int) -> Activity:
    """Without gaps of fewer than `shortest` frames between two phrases."""
    out = sung.copy()
    for start, stop in _runs(~sung):
        if start > 0 and stop < len(sung) and stop - start < shortest:
            out[start:stop] = True
    return out


def _runs(wanted: Activity) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.pad(wanted.astype(np.int8), 1)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2])]


def idle_spans(activity: Activity, shortest: int = WINDOW) -> list[tuple[int, int]]:
    """Where nobody sings for at least `shortest` frames: (first frame, frame after the last)."""
    return [(start, stop) for start, stop in _runs(~np.asarray(activity, bool)) if stop - start >= shortest]


def video_frames(seconds: float) -> int:
    """Pictures in a video of so long a sound, at 25 a second; at least one."""
    return max(1, round(VIDEO_FPS * seconds))
