"""Where sounds begin sharply: drum hits, plucks, hard consonants. For the key change, which must not smear them.

The measure is the share of the spectrum that is new against the frame before (a normalised spectral flux of
root-compressed magnitudes; J. P. Bello et al., "A tutorial on onset detection in music signals", IEEE TSAP 13-5, 2005),
computed in short frames; the place is then refined to where the energy rises most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import maximum_filter1d

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter

FRAME = 1024  # samples
HOP = 256  # samples
BACK = 2  # frames between the two that are compared
BATCH = 256  # frames at a time
NEW = 0.4  # share of the spectrum that must be new
QUIET = 1e-3  # mean compressed magnitude below which nothing counts (about -70 dBFS)
APART = 0.05  # s between two attacks
FINE = 64  # samples: the resolution of the refined place


def find_attacks(source: PcmReader, reporter: Reporter) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(samples at which sharp attacks begin, their strengths 0..1), in order."""
    novelty = np.concatenate([np.zeros(1), *_novelty(source, reporter)])
    width = 2 * round(APART * source.rate / HOP) + 1
    frames = np.flatnonzero((novelty >= NEW) & (novelty == maximum_filter1d(novelty, width)))
    places = np.array([_refined(source, int(f) * HOP) for f in frames], np.int64)
    places, first = np.unique(places, return_index=True)
    return places, novelty[frames[first]].astype(np.float64)


def _novelty(source: PcmReader, reporter: Reporter) -> list[NDArray[np.float32]]:
    """Share of new spectrum, one value per HOP; frame f is centred on sample (f - 1) · HOP, as `find_attacks` pads."""
    window = np.hanning(FRAME).astype(np.float32)
    last = np.zeros((BACK, FRAME // 2 + 1), np.float32)
    out = []
    for first in range(0, source.frames // HOP + 1, BATCH):
        reporter.check()
        sound = source.read(first * HOP - FRAME // 2, BATCH * HOP + FRAME).mean(0)
        frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[: BATCH * HOP : HOP]
        level = np.sqrt(np.abs(fft.rfft(frames * window, axis=1)))
        both = np.concatenate([last, level])
        rise = np.maximum(both[BACK:] - both[:-BACK], 0).sum(1)
        total = level.sum(1)
        out.append(np.where(total > QUIET * level.shape[1], rise / np.maximum(total, 1e-9), 0.0).astype(np.float32))
        last = both[-BACK:]
    return out


def _refined(source: PcmReader, place: int) -> int:
    """The sample near `place` where the energy grows most."""
    low = place - FRAME
    sound = source.read(low, 2 * FRAME)
    energy = (sound**2).sum(0).reshape(-1, FINE).sum(1)
    rise = np.sqrt(energy[1:]) - np.sqrt(energy[:-1])
    return max(low + (int(np.argmax(rise)) + 1) * FINE, 0)
