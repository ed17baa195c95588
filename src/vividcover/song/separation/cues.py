"""What speaks for a voice in each bin of a block: cues [T, BINS], all computed from the mixture alone.

repetition   Rafii and Pardo, "Music/voice separation using the similarity matrix" (ISMIR 2012): what frames that sound
             alike have in common is accompaniment.
fluctuation  Tachibana, Ono and Sagayama, "Singing voice enhancement in monaural music signals based on two-stage
             harmonic/percussive sound separation" (2014), with FitzGerald's medians: seen through a long window,
             sustained instruments are lines and a voice, which never stands still, is not.
position     how much better a bin's left/right relation fits where the voice is than where the band is, both learned
             from the song itself (after Duong, Vincent and Gribonval's local Gaussian model, 2010).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from vividcover.song.pcm import RATE, Signal
from vividcover.song.separation.stft import BINS, SIZE, Real, Spectrum
from vividcover.song.separation.workers import Check

ALIKE = 20  # frames whose median is the repeating background of a frame
APART = 20  # frames nearer than this are not asked
BANDS = np.unique(np.round(np.geomspace(4, 1499, 90)).astype(int))  # bins where the bands for likeness begin
LONG = 16384  # samples of the long window, 372 ms
LONG_HOP = LONG // 4
LONG_TIME, LONG_FREQUENCY = 7, 31  # frames and bins of the medians through the long window
SLICE = 64  # frames handled at a time, for memory
TINY = np.float32(1e-5)  # of the block's level: below this nothing is told apart


def background(magnitude: Real, check: Check) -> Real:
    """The repeating part [T, BINS] of magnitudes [T, BINS]: a median over the frames that are most alike."""
    frames = len(magnitude)
    bands = np.sqrt(np.add.reduceat(np.square(magnitude[:, : BANDS[-1] + 1]), BANDS, axis=1))
    bands = np.log1p(3 * bands / (np.median(bands) + 1e-9))
    bands /= np.linalg.norm(bands, axis=1, keepdims=True) + 1e-9
    likeness = bands @ bands.T
    number = np.arange(frames)
    likeness[np.abs(number[:, None] - number) < APART] = -1
    count = min(ALIKE, max(1, frames // 4))
    alike = np.argpartition(-likeness, count, axis=1)[:, :count]
    result = np.empty_like(magnitude)
    for t in range(frames):
        if t % SLICE == 0:
            check()
        result[t] = np.partition(magnitude[alike[t]], count // 2, axis=0)[count // 2]
    return result


def fluctuating(signal: Signal, check: Check) -> Signal:
    """The part of a mono signal [n] that does not stand still in pitch: percussion and voices."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(LONG) / LONG)).astype(np.float32)
    padded = np.pad(signal, (LONG, 2 * LONG))
    frames = np.lib.stride_tricks.sliding_window_view(padded, LONG)[::LONG_HOP]
    spectrum = np.concatenate([scipy.fft.rfft(part * window, axis=-1) for part in _slices(frames)])
    size = np.abs(spectrum)
    lines = _median(size, LONG_TIME, 0, check)
    for part, whole, line in zip(_slices(spectrum), _slices(size), _slices(lines)):
        clicks = np.square(_median(whole, LONG_FREQUENCY, 1, check))
        part *= clicks / (clicks + np.square(line) + np.float32(1e-12))
    del size, lines
    parts = scipy.fft.irfft(spectrum, n=LONG, axis=-1)
    del spectrum
    parts *= window
    out = np.zeros((len(parts) + 3, LONG_HOP), np.float32)
    quarters = parts.reshape(-1, 4, LONG_HOP)
    for k in range(4):
        out[k : k + len(parts)] += quarters[:, k]
    out *= np.float32(1 / 1.5)
    return np.asarray(out.reshape(-1)[LONG : LONG + len(signal)], np.float32)


def _slices(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of SLICE // 4 rows each."""
    return [values[t : t + SLICE // 4] for t in range(0, len(values), SLICE // 4)]


def _median(values: Real, width: int, axis: int, check: Check) -> Real:
    """Running median of [T, F] over `width` (odd) frames (axis 0) or bins (axis 1)."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (width // 2, width // 2)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, pad, mode="reflect"), width, axis=axis)
    result = np.empty_like(values)
    for t in range(0, len(values), SLICE // 16):
        check()
        result[t : t + SLICE // 16] = np.partition(windows[t : t + SLICE // 16], width // 2, axis=-1)[..., width // 2]
    return result


def log_ratio(above: Real, below: Real, floor: float, low: float, high: float) -> Real:
    """Natural logarithm of above / below, both lifted by `floor`, within low..high."""
    ratio = np.log((above + np.float32(floor)) / (below + np.float32(floor)))
    return np.asarray(np.clip(ratio, low, high, out=ratio), np.float32)


def harmonics(f0: Real) -> Real:
    """[T, BINS], 0..1: nearness to a harmonic of f0 [T] in Hz; fades out at 4..7 kHz, where harmonics blur."""
    bins = np.arange(BINS, dtype=np.float32)
    step = f0[:, None] * np.float32(SIZE / RATE)
    order = np.maximum(np.round(bins / step), 1)
    width = np.maximum(np.float32(1.7), np.float32(0.006) * bins)
    distance = (bins - order * step) / width
    near = np.exp(-np.square(distance, out=distance))
    near *= np.clip((7000 - bins * np.float32(RATE / SIZE)) / 3000, 0, 1)
    return np.asarray(near, np.float32)


def position(spectrum: Spectrum, vocal: Real) -> Real:
    """How much better the voice's place explains each bin than the band's, [T, BINS], natural log, within ±4.

    `spectrum` is [2, T, BINS]; `vocal` [T, BINS] a first guess of the voice's share of each bin.
    """
    voice, band = place(spectrum, np.square(vocal)), place(spectrum, np.square(1 - vocal))
    ratio = np.empty_like(vocal)
    for t in range(0, len(vocal), SLICE):
        part = spectrum[:, t : t + SLICE]
        ratio[t : t + SLICE] = _misfit(part, *band) - _misfit(part, *voice)
    ratio = uniform_filter(ratio, 3)
    return np.asarray(np.clip(ratio, -4, 4, out=ratio), np.float32)


PLACE_WIDTH = 41  # bins over which a place is averaged
DIFFUSE = 0.05  # of the power is taken to come from everywhere


def place(spectrum: Spectrum, weight: Real) -> tuple[Real, Real, Spectrum]:
    """Spatial covariance per bin [BINS] of trace 2: (left power, right power, cross spectrum), weighted [T, BINS]."""
    left, right = spectrum
    ll = uniform_filter((np.square(np.abs(left)) * weight).sum(0), PLACE_WIDTH)
    rr = uniform_filter((np.square(np.abs(right)) * weight).sum(0), PLACE_WIDTH)
    cross = (left * right.conj() * weight).sum(0)
    lr = uniform_filter(cross.real, PLACE_WIDTH) + 1j * uniform_filter(cross.imag, PLACE_WIDTH)
    trace = (ll + rr + 1e-20) / 2
    mix = 1 - DIFFUSE
    return (
        (mix * ll / trace + DIFFUSE).astype(np.float32),
        (mix * rr / trace + DIFFUSE).astype(np.float32),
        (mix * lr / trace).astype(np.complex64),
    )


def _misfit(spectrum: Spectrum, ll: Real, rr: Real, lr: Spectrum) -> Real:
    """Minus log likelihood of each bin's direction under a covariance, whatever its level."""
    left, right = spectrum
    determinant = np.maximum(ll * rr - np.square(np.abs(lr)), 1e-6)
    form = np.square(np.abs(left)) * (rr / determinant) + np.square(np.abs(right)) * (ll / determinant)
    form -= 2 * (left.conj() * right * (lr / determinant)).real
    total = np.square(np.abs(left)) + np.square(np.abs(right)) + np.float32(1e-20)
    result: Real = np.log(determinant) / 2 + np.log(np.maximum(form / total, 1e-6))
    return result


def filtered(spectrum: Spectrum, vocal: Real) -> Spectrum:
    """The voice [2, T, BINS]: a Wiener filter with the places of voice and band, given the voice's shares [T, BINS].

    v = s Rv (s Rv + (1 - s) Ra)^-1 x. Without a difference of place this is s x.
    """
    voice, band = place(spectrum, np.square(vocal)), place(spectrum, np.square(1 - vocal))
    result = np.empty_like(spectrum)
    for t in range(0, len(vocal), SLICE):
        left, right = spectrum[:, t : t + SLICE]
        share = vocal[t : t + SLICE]
        rest = 1 - share
        ll, rr = share * voice[0] + rest * band[0], share * voice[1] + rest * band[1]
        lr = share * voice[2] + rest * band[2]
        scale = share / np.maximum(ll * rr - np.square(np.abs(lr)), 1e-6)
        a, b = rr * left - lr * right, ll * right - lr.conj() * left  # the inverse's numerator times x
        a *= scale
        b *= scale
        result[0, t : t + SLICE] = voice[0] * a + voice[2] * b
        result[1, t : t + SLICE] = voice[2].conj() * a + voice[1] * b
    return result
