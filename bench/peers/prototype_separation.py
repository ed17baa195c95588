"""The prototype's vocal separation, rebuilt from its description, to be measured beside ours in the same run.

Centre extraction times melody mask: 44.1 kHz, 4096-point frames, hop 1024. The repeating part of the music (REPET-SIM,
Rafii & Pardo 2012) only cleans the input of the melody tracker; for mono songs its mask stands in for the centre.
The whole song is held in memory, as the prototype did.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

Array = NDArray[np.float64]

RATE, FRAME, HOP = 44_100, 4096, 1024
SIMILAR_FRAMES, SIMILAR_DISTANCE = 24, 25  # REPET-SIM: how many repeats, at least so many frames apart
SALIENCE_BINS, F0_LOW, F0_HIGH = 240, 90.0, 900.0  # log bins, Hz
HARMONICS, HARMONIC_DECAY, MEDIAN_BINS = 10, 0.84, 31
STEP_COST, STEP_CAP = 0.004, 0.25  # Viterbi: per bin, at most
MASK_WIDTH, MASK_LEAST_BINS = 0.035, 1.6  # width of a harmonic, of its frequency (the better reading); in FFT bins
VOICING_THRESHOLD, VOICING_SLOPE = 0.25, 0.07  # of the 90th percentile of salience
HIGH_HZ, HIGH_SHARE = 4500.0, 0.6  # above, consonants pass with the voicing
BAND = (110.0, 14_000.0)  # Hz
FLOOR = 0.25  # what of the centre is kept between harmonics
MONO = 1e-3  # side/mid power below which a song counts as mono


def separate(song: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vocals and instrumental [2, n] of a stereo song [2, n] at 44.1 kHz; they add up to the song."""
    stft = ShortTimeFFT(hann(FRAME, sym=False), HOP, RATE, scale_to="magnitude")
    length = song.shape[1]
    middle = stft.stft((song[0] + song[1]) / 2)  # [F, T]
    side = stft.stft((song[0] - song[1]) / 2)
    pm, ps = (uniform_filter(np.abs(x) ** 2, 3) for x in (middle, side))
    repeated = _repet_sim(np.abs(middle))
    if ps.sum() < MONO * pm.sum():
        centre = np.sqrt(repeated)
    else:
        centre = np.maximum(pm - 2 * ps, 0) / (pm + 4 * ps + 1e-12)
    f0, voicing = _melody(np.abs(middle) * centre * repeated)
    melody = _harmonic_mask(f0, voicing, middle.shape[0])
    hz = np.arange(middle.shape[0])[:, None] * RATE / FRAME
    band = (hz >= BAND[0]) & (hz <= BAND[1])
    voice = stft.istft(middle * centre * (FLOOR + (1 - FLOOR) * melody) * band, k1=length)
    vocals = np.stack([voice, voice]).astype(np.float32)
    return vocals, (song - vocals).astype(np.float32)


def _repet_sim(magnitude: Array) -> Array:
    """The share of each bin that does not repeat elsewhere in the song [F, T]."""
    frames = magnitude.shape[1]
    unit = magnitude / (np.linalg.norm(magnitude, axis=0, keepdims=True) + 1e-9)
    alike = unit.T @ unit
    background = np.empty_like(magnitude)
    for t in range(frames):
        order, chosen = np.argsort(-alike[t]), [t]
        for candidate in order:
            if all(abs(candidate - c) >= SIMILAR_DISTANCE for c in chosen):
                chosen.append(int(candidate))
                if len(chosen) > SIMILAR_FRAMES:
                    break
        background[:, t] = np.median(magnitude[:, chosen], axis=1)
    background = np.minimum(background, magnitude)
    left = magnitude - background
    return left**2 / (left**2 + background**2 + 1e-12)


def _melody(magnitude: Array) -> tuple[Array, Array]:
    """f0 [T] in Hz and voicing [T] in 0..1 of the most salient melody."""
    root = np.sqrt(magnitude)
    root = np.maximum(root - median_filter(root, (MEDIAN_BINS, 1)), 0)
    candidates = F0_LOW * (F0_HIGH / F0_LOW) ** (np.arange(SALIENCE_BINS) / (SALIENCE_BINS - 1))
    bins = np.arange(len(root))
    salience = np.zeros((SALIENCE_BINS, root.shape[1]))
    for h in range(1, HARMONICS + 1):
        at = np.minimum(h * candidates * FRAME / RATE, len(bins) - 2)
        low = at.astype(int)
        part = (at - low)[:, None]
        salience += HARMONIC_DECAY ** (h - 1) * (root[low] * (1 - part) + root[low + 1] * part)
    salience /= salience.max() + 1e-12
    jump = np.abs(np.subtract.outer(np.arange(SALIENCE_BINS), np.arange(SALIENCE_BINS)))
    steps = np.minimum(STEP_COST * jump, STEP_CAP)
    score, back = salience[:, 0], np.zeros(salience.shape, int)
    for t in range(1, salience.shape[1]):
        reach = score[None, :] - steps
        back[:, t] = reach.argmax(axis=1)
        score = reach.max(axis=1) + salience[:, t]
    path = np.empty(salience.shape[1], int)
    path[-1] = int(score.argmax())
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = back[path[t], t]
    along = salience[path, np.arange(len(path))]
    along = along / (np.percentile(along, 90) + 1e-12)
    return candidates[path], 1 / (1 + np.exp(-(along - VOICING_THRESHOLD) / VOICING_SLOPE))


def _harmonic_mask(f0: Array, voicing: Array, bins: int) -> Array:
    """1 on the harmonics of f0, falling off as a Gaussian [F, T]."""
    at = f0 * FRAME / RATE  # bins per harmonic [T]
    k = np.arange(bins)[:, None]
    nearest = np.maximum(np.round(k / at), 1) * at
    width = np.maximum(MASK_WIDTH * nearest, MASK_LEAST_BINS)
    mask = np.exp(-(((k - nearest) / width) ** 2)) * voicing
    high = k * RATE / FRAME > HIGH_HZ
    return np.where(high, np.maximum(mask, HIGH_SHARE * voicing), mask)
