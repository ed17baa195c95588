"""The spectrogram that whisper reads: 80 mel bands a hundred times a second, of 30 seconds at a time.

Radford et al. 2022 ("Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2): 16 kHz, windows of
25 ms every 10 ms, 80 bands on Slaney's scale, log10, what lies 80 dB below the loudest is cut off, then about -1 … 1.
The loudest is that of the 30 seconds: the same note can come out differently in two of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vividcover.portrait.sonic.config import AUDIO_RATE, CHUNK_SECONDS
from vividcover.voice.rvc.mel import bands

N_FFT, HOP, MELS = 400, 160, 80  # samples, samples, bands
FLOOR = 1e-10  # power below which nothing is told apart
DEPTH = 8.0  # powers of ten below the loudest


def log_mel(samples: Tensor, *, mels: int = MELS, length: int = CHUNK_SECONDS * AUDIO_RATE) -> Tensor:
    """samples [N <= length] at 16 kHz, full scale 1 → [mels, length / 160], silence behind the end."""
    wave = F.pad(samples.float(), (0, length - len(samples)))
    window = torch.hann_window(N_FFT, device=wave.device)
    spectrum = torch.stft(wave, N_FFT, HOP, window=window, return_complex=True)[:, :-1]  # the last frame is half empty
    power = spectrum.real.square() + spectrum.imag.square()
    levels = torch.log10(torch.clamp(bands(AUDIO_RATE, N_FFT, mels).to(wave.device) @ power, min=FLOOR))
    return (torch.maximum(levels, levels.max() - DEPTH) + 4) / 4
