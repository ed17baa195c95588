"""Spectrograms and mel bands, as the nets of this package were trained with them.

    spectrogram(wave, n_fft=2048, hop=480)      # what RVC's posterior encoder reads      [B, n_fft/2+1, N//hop]
    log_mel(spec, bands(48000, 2048, 128))      # what RVC's training compares            [B, 128, N//hop]
    frames_of(samples, RMVPE)                   # what a pitch net reads, any length      [T, 128]

Mel bands are triangles of equal area (Slaney), on Slaney's scale (linear below 1 kHz, logarithmic above) or on HTK's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BREAK, LINEAR, LOG = 1000.0, 200 / 3, np.log(6.4) / 27  # Slaney: Hz where it turns, Hz per mel below, ln per mel above
BLOCK = 4000  # frames transformed at a time: 40 s, 33 MB


def mel_of(hertz: NDArray[np.float64], htk: bool = False) -> NDArray[np.float64]:
    """Hz → mel."""
    if htk:
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    return np.where(hertz < BREAK, hertz / LINEAR, BREAK / LINEAR + np.log(np.maximum(hertz, 1e-9) / BREAK) / LOG)


def hertz_of(mel: NDArray[np.float64], htk: bool = False) -> NDArray[np.float64]:
    """mel → Hz."""
    if htk:
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < BREAK / LINEAR, mel * LINEAR, BREAK * np.exp(LOG * (mel - BREAK / LINEAR)))


@lru_cache(maxsize=16)
def bands(rate: int, n_fft: int, mels: int, low: float = 0.0, high: float = 0.0, htk: bool = False) -> Tensor:
    """Weights of the mel bands over the bins of a spectrum, [mels, n_fft/2+1]. `high` 0 is half the rate."""
    ends = mel_of(np.array([low, high or rate / 2]), htk)
    edges = hertz_of(np.linspace(ends[0], ends[1], mels + 2), htk)  # band b: rises from b, peaks at b+1, ends at b+2
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


def spectrogram(wave: Tensor, n_fft: int, hop: int, floor: float = 1e-6) -> Tensor:
    """Magnitudes of wave [B, N], as RVC is trained with: [B, n_fft/2+1, N//hop], frame t in the middle of its hop.

    `floor` is added under the root (1e-6 in all published models).
    """
    pad = (n_fft - hop) // 2
    wave = F.pad(wave[:, None], (pad, n_fft - hop - pad), mode="reflect" if wave.shape[-1] > pad else "constant")[:, 0]
    window = torch.hann_window(n_fft, device=wave.device, dtype=wave.dtype)
    spectrum = torch.stft(wave, n_fft, hop, n_fft, window, center=False, return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + floor)


def log_mel(spec: Tensor, weights: Tensor, floor: float = 1e-5) -> Tensor:
    """log of the mel bands of a spectrogram: [..., bins, T] → [..., mels, T]."""
    return torch.log(torch.clamp(weights.to(spec) @ spec, min=floor))


@dataclass(frozen=True)
class Front:
    """What a pitch net reads: log-mel frames of 16 kHz audio, 10 ms apart."""

    low: float  # Hz
    high: float
    htk: bool
    centred: bool  # frame t is centred on sample t·hop; else on the middle of its hop, and the last one is repeated
    floor: float  # under the root of the magnitude
    rate: int = 16_000
    n_fft: int = 1024
    hop: int = 160
    mels: int = 128


RMVPE = Front(30.0, 8000.0, htk=True, centred=True, floor=0.0)
FCPE = Front(0.0, 8000.0, htk=False, centred=False, floor=1e-9)


def frames_of(samples: Tensor, front: Front) -> Tensor:
    """samples [N] → log-mel frames [N//hop + 1, mels]; any length, in blocks, the same as at once."""
    n_fft, hop = front.n_fft, front.hop
    left = n_fft // 2 if front.centred else (n_fft - hop) // 2
    padded = F.pad(samples[None], (left, left), mode="reflect" if len(samples) > left else "constant")[0]
    weights = bands(front.rate, n_fft, front.mels, front.low, front.high, front.htk).to(samples.device)
    window = torch.hann_window(n_fft, device=samples.device)
    count = (len(padded) - n_fft) // hop + 1
    blocks = []
    for first in range(0, count, BLOCK):
        piece = padded[first * hop : (min(first + BLOCK, count) - 1) * hop + n_fft]
        spectrum = torch.stft(piece, n_fft, hop, n_fft, window, center=False, return_complex=True)
        spec = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + front.floor)
        blocks.append(log_mel(spec, weights).T)
    frames = torch.cat(blocks)
    return frames if front.centred else torch.cat((frames, frames[-1:]))
