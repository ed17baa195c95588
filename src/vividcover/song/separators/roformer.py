"""BS-RoFormer (Lu et al., arXiv:2309.02612) and Mel-Band RoFormer (Wang et al., arXiv:2310.01809): the network.

The spectrogram is split into bands, each becomes one vector per frame, and transformers with rotary positions look
along time (within a band) and along the bands (within a frame), in turns. Each stem's estimator then writes a complex
mask per bin; masks of overlapping mel bands are averaged. Names of tensors are the published ones, so that
`roformer_files.py` can load published files strictly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.song.separators.nets import attend, join_heads, split_heads

# of the published BS-RoFormers: bins per band, 1025 in all
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


@dataclass(frozen=True)
class RoformerConfig:
    """The numbers of a published file. Either `bands` (bins of each band, BS) or `mel_bands` (their number, Mel)."""

    stems: tuple[str, ...]  # what the net was trained to tell apart
    target: str = ""  # the one stem that it answers; "": all of `stems`
    bands: tuple[int, ...] = ()
    mel_bands: int = 0
    dim: int = 384
    depth: int = 6  # pairs of transformers
    time_depth: int = 1  # layers of the transformer along time
    freq_depth: int = 1  # and of the one along the bands
    heads: int = 8
    dim_head: int = 64
    mask_depth: int = 2
    mask_expansion: int = 4
    n_fft: int = 2048
    hop: int = 441
    channels: int = 2
    rate: int = 44_100
    chunk: int = 352_800  # samples that it was trained on, 8 s
    zero_dc: bool = False  # the mask's result has no constant part

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.target,) if self.target else self.stems

    @property
    def mel(self) -> bool:
        return self.mel_bands > 0


def mel_coverage(bands: int, n_fft: int, rate: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Which bins each band covers, [bands, n_fft/2 + 1]: the feet of Slaney's triangles from 0 Hz to half the rate.

    The triangles are even on the mel scale: linear up to 1 kHz (200/3 Hz per mel), logarithmic above (27 mel per factor
    6.4). The first bin is in the first band and the last one in the last, where the triangles themselves are 0.
    """
    top = 15 + 27 * math.log(rate / 2 / 1000) / math.log(6.4)
    mel = np.linspace(0, top, bands + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    covered = (bins > edges[:-2, None]) & (bins < edges[2:, None])
    covered[0, 0] = covered[-1, -1] = True
    return covered


class RMSNorm(nn.Module):
    """x / ‖x‖ · √dim · gamma, over the last dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gamma.shape, self.gamma.to(x.dtype), eps=1e-24 if x.dtype == torch.float32 else 1e-7)


class Rotary(nn.Module):
    """Positions as rotations: pairs of neighbouring numbers turn by position · freqs[pair]."""

    def __init__(self, dim_head: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(10_000.0 ** -(torch.arange(0, dim_head, 2) / dim_head), requires_grad=False)

    def forward(self, length: int) -> Tensor:
        """Complex [length, dim_head/2]."""
        angles = torch.arange(length, device=self.freqs.device)[:, None] * self.freqs.float()
        return torch.polar(torch.ones_like(angles), angles)


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """[B, heads, N, d] with each pair turned."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Every vector looks at all the others; a gate per head says how much of what it saw counts."""

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        inner, self.heads = config.heads * config.dim_head, config.heads
        self.norm = RMSNorm(config.dim)
        self.rotary_embed = Rotary(config.dim_head)
        self.to_qkv = nn.Linear(config.dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(config.dim, config.heads)
        self.to_out = nn.Sequential(nn.Linear(inner, config.dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (split_heads(part, self.heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        rotation = self.rotary_embed(x.shape[1])
        seen = attend(turned(q, rotation), turned(k, rotation), v)
        gates = self.to_gates(x).sigmoid().transpose(1, 2)[..., None]  # [B, heads, N, 1]
        answer: Tensor = self.to_out(join_heads(seen * gates))
        return answer


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x)
        return answer


class Transformer(nn.Module):
    """[B, N, dim] -> the same."""

    def __init__(self, config: RoformerConfig, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Attention(config), FeedForward(config.dim)]) for _ in range(depth))
        self.norm = RMSNorm(config.dim) if config.mel else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for part in layer.children():  # attention, then feed-forward
                x = x + part(x)
        last: Tensor = self.norm(x)
        return last


class BandSplit(nn.Module):
    """[B, T, sum of widths] -> [B, T, bands, dim]."""

    def __init__(self, widths: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(width), nn.Linear(width, dim)) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, list(self.widths), dim=-1)
        return torch.stack([band(part) for band, part in zip(self.to_features, parts, strict=True)], dim=-2)


class MaskEstimator(nn.Module):
    """[B, T, bands, dim] -> [B, T, sum of widths]."""

    def __init__(self, widths: tuple[int, ...], config: RoformerConfig) -> None:
        super().__init__()
        hidden = (config.dim * config.mask_expansion,) * (config.mask_depth if config.mel else config.mask_depth - 1)
        self.to_freqs = nn.ModuleList()
        for width in widths:
            sizes = (config.dim, *hidden, 2 * width)
            layers: list[nn.Module] = []
            for number, (below, above) in enumerate(pairwise(sizes)):
                layers += ([nn.Tanh()] if number else []) + [nn.Linear(below, above)]
            self.to_freqs.append(nn.Sequential(nn.Sequential(*layers), nn.GLU(dim=-1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([band(x[..., number, :]) for number, band in enumerate(self.to_freqs)], dim=-1)


class Roformer(nn.Module):
    """mix [B, 2, N] -> stems [B, S, 2, N]."""

    where: Tensor
    count: Tensor

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        self.config = config
        where, count = _bins(config)
        self.register_buffer("where", where, persistent=False)  # what the bands read, in order (row: 2·bin + channel)
        self.register_buffer("count", count, persistent=False)  # in how many bands each row is
        widths = tuple(2 * config.channels * width for width in _band_widths(config))
        self.band_split = BandSplit(widths, config.dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Transformer(config, config.time_depth), Transformer(config, config.freq_depth)])
            for _ in range(config.depth)
        )
        if not config.mel:
            self.final_norm = RMSNorm(config.dim)
        self.mask_estimators = nn.ModuleList(MaskEstimator(widths, config) for _ in config.answers)

    def forward(self, mix: Tensor) -> Tensor:
        batch, channels, length = mix.shape
        z = self.spectrum(mix)  # [B, F·2, T] complex
        time = z.shape[-1]
        x = torch.view_as_real(z[:, self.where]).permute(0, 2, 1, 3).flatten(2)  # [B, T, bands' bins · 2]
        x = self.look(self.band_split(x))
        masks = torch.stack([estimate(x).float() for estimate in self.mask_estimators], dim=1)  # [B, S, T, bins · 2]
        masks = torch.view_as_complex(masks.view(*masks.shape[:3], -1, 2)).transpose(2, 3)  # [B, S, bins, T]
        if self.config.mel:
            summed = masks.new_zeros(batch, masks.shape[1], z.shape[1], time)
            masks = summed.index_add_(2, self.where, masks) / self.count[:, None]
        return self.wave(z[:, None] * masks, channels, length)

    def look(self, x: Tensor) -> Tensor:
        """[B, T, bands, dim] -> the same, along time and along the bands in turns."""
        batch, time, bands, dim = x.shape
        for pair in self.layers:
            along_time, along_bands = pair.children()
            x = along_time(x.transpose(1, 2).reshape(batch * bands, time, dim)).view(batch, bands, time, dim)
            x = along_bands(x.transpose(1, 2).reshape(batch * time, bands, dim)).view(batch, time, bands, dim)
        return x if self.config.mel else self.final_norm(x)

    def spectrum(self, mix: Tensor) -> Tensor:
        """[B, C, N] -> [B, F·C, T], channels next to each other within a bin."""
        window = torch.hann_window(self.config.n_fft, device=mix.device)
        z = torch.stft(mix.flatten(0, 1), self.config.n_fft, self.config.hop, window=window, return_complex=True)
        bins, time = z.shape[-2:]
        return z.view(*mix.shape[:2], bins, time).transpose(1, 2).reshape(len(mix), -1, time)

    def wave(self, z: Tensor, channels: int, length: int) -> Tensor:
        """[B, S, F·C, T] -> [B, S, C, N]."""
        batch, stems, rows, time = z.shape
        z = z.view(batch, stems, rows // channels, channels, time).transpose(2, 3)
        if self.config.zero_dc:
            z = torch.cat([torch.zeros_like(z[..., :1, :]), z[..., 1:, :]], dim=-2)
        window = torch.hann_window(self.config.n_fft, device=z.device)
        x = torch.istft(z.flatten(0, 2), self.config.n_fft, self.config.hop, window=window, length=length)
        return x.view(batch, stems, channels, length)


def _band_widths(config: RoformerConfig) -> list[int]:
    """Bins of each band."""
    if not config.mel:
        return list(config.bands)
    return [int(n) for n in mel_coverage(config.mel_bands, config.n_fft, config.rate).sum(axis=1)]


def _bins(config: RoformerConfig) -> tuple[Tensor, Tensor]:
    """(rows of the spectrum that the bands read, one band after the other; in how many bands each row is)."""
    bins, channels = config.n_fft // 2 + 1, config.channels
    if config.mel:
        covered = mel_coverage(config.mel_bands, config.n_fft, config.rate)
        found, count = np.nonzero(covered)[1], covered.sum(axis=0)
    else:
        found, count = np.arange(bins), np.ones(bins, int)
    rows = (found[:, None] * channels + np.arange(channels)).ravel()
    return torch.from_numpy(rows), torch.from_numpy(np.repeat(count, channels).astype(np.float32))
