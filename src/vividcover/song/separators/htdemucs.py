"""HTDemucs: the hybrid transformer Demucs (v4) of Rouard, Massa, Défossez, arXiv:2211.08553, its arithmetic.

Two U-nets side by side, one over the waveform, one over the spectrogram with real and imaginary part as channels. At
their narrowest a transformer lets each look at the other. The sum of both, per stem, is the answer. Names of tensors
are the published ones, so that `demucs.py` can load published files strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.song.separators.nets import attend, join_heads, split_heads


@dataclass(frozen=True)
class HTDemucsConfig:
    """The numbers of a published file, under their published names. Defaults are those of `htdemucs`."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    audio_channels: int = 2
    samplerate: int = 44_100
    segment: Fraction = Fraction(39, 5)  # seconds, what the net sees
    channels: int = 48
    growth: int = 2  # of the channels, from level to level
    depth: int = 4
    nfft: int = 4096  # hop: a quarter
    kernel_size: int = 8
    stride: int = 4
    context: int = 1  # of the decoder's convolution before the transposed one
    dconv_mode: int = 3  # bit 0: residual branches in the encoder, bit 1: in the decoder
    dconv_depth: int = 2
    dconv_comp: int = 8
    freq_emb: float = 0.2  # weight of the frequency embedding
    emb_scale: float = 10.0
    bottom_channels: int = 512  # of the transformer; 0: those of the last level
    t_layers: int = 5
    t_heads: int = 8
    t_hidden_scale: float = 4.0
    t_max_period: float = 10_000.0
    t_weight_pos_embed: float = 1.0
    t_cross_first: bool = False

    @property
    def samples(self) -> int:
        """What the net sees, 343,980 as published."""
        return int(self.segment * self.samplerate)

    @property
    def widths(self) -> list[int]:
        """Channels of each level's output."""
        return [self.channels * self.growth**level for level in range(self.depth)]


# --- the U-nets ----------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """A gain per channel; `last`: channels come last."""

    def __init__(self, channels: int, last: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-3))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale if self.last else self.scale[:, None])


class Residual(nn.Module):
    """Branches of dilated convolutions over time, each added to its input. [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, config: HTDemucsConfig) -> None:
        super().__init__()
        hidden = int(channels / config.dconv_comp)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, 3, dilation=2**depth, padding=2**depth),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                Scale(channels),
            )
            for depth in range(config.dconv_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def over_time(branch: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A branch over time, run on every frequency of its own where there are any. [B, C, (F,) T] -> the same."""
    if x.dim() == 3:
        return branch(x)
    batch, channels, freqs, time = x.shape
    y = branch(x.transpose(1, 2).reshape(batch * freqs, channels, time))
    return y.view(batch, freqs, channels, time).transpose(1, 2)


class Encoder(nn.Module):
    """One level down: [B, C, (F,) T] -> [B, C', (F/4,) T] with frequencies, [B, C', T/4] without."""

    def __init__(self, inputs: int, outputs: int, config: HTDemucsConfig, freq: bool) -> None:
        super().__init__()
        self.freq, self.stride = freq, config.stride
        kernel, stride, pad = config.kernel_size, config.stride, config.kernel_size // 4
        self.conv: nn.Module
        self.rewrite: nn.Module
        if freq:
            self.conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (pad, 0))
            self.rewrite = nn.Conv2d(outputs, 2 * outputs, 1)
        else:
            self.conv = nn.Conv1d(inputs, outputs, kernel, stride, pad)
            self.rewrite = nn.Conv1d(outputs, 2 * outputs, 1)
        self.dconv = Residual(outputs, config) if config.dconv_mode & 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if not self.freq:
            x = F.pad(x, (0, -x.shape[-1] % self.stride))
        y = over_time(self.dconv, F.gelu(self.conv(x)))
        gated: Tensor = F.glu(self.rewrite(y), dim=1)
        return gated


class Decoder(nn.Module):
    """One level up, from the level's input and the encoder's output of the same shape; `length`: samples to answer."""

    def __init__(self, inputs: int, outputs: int, config: HTDemucsConfig, freq: bool, last: bool) -> None:
        super().__init__()
        self.freq, self.last, self.pad = freq, last, config.kernel_size // 4
        kernel, stride, context = config.kernel_size, config.stride, config.context
        self.conv_tr: nn.Module
        self.rewrite: nn.Module
        if freq:
            self.conv_tr = nn.ConvTranspose2d(inputs, outputs, (kernel, 1), (stride, 1))
            self.rewrite = nn.Conv2d(inputs, 2 * inputs, 1 + 2 * context, 1, context)
        else:
            self.conv_tr = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
            self.rewrite = nn.Conv1d(inputs, 2 * inputs, 1 + 2 * context, 1, context)
        self.dconv = Residual(inputs, config) if config.dconv_mode & 2 else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        y = over_time(self.dconv, F.glu(self.rewrite(x + skip), dim=1))
        z: Tensor = self.conv_tr(y)
        z = z[..., self.pad : -self.pad, :] if self.freq else z[..., self.pad : self.pad + length]
        return z if self.last else F.gelu(z)


class FrequencyEmbedding(nn.Module):
    """A vector per frequency of the first level, [F, C]."""

    def __init__(self, freqs: int, channels: int, scale: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(freqs, channels)
        self.scale = scale

    def forward(self) -> Tensor:
        return self.embedding.weight * self.scale


# --- the transformer -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention; q [B, N, C] looks at k [B, M, C]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        dim = q.shape[-1]
        query = F.linear(q, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        key, value = F.linear(k, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        answer = attend(*(split_heads(x, self.heads) for x in (query, key, value)))
        projected: Tensor = self.out_proj(join_heads(answer))
        return projected


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each scaled and added; then a norm over the whole sequence.

    With `cross` it looks at the other branch, else at itself.
    """

    def __init__(self, dim: int, config: HTDemucsConfig, cross: bool) -> None:
        super().__init__()
        hidden = int(dim * config.t_hidden_scale)
        self.cross = cross
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if cross:
            self.cross_attn, self.norm3 = Attention(dim, config.t_heads), nn.LayerNorm(dim)
        else:
            self.self_attn = Attention(dim, config.t_heads)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gamma_1, self.gamma_2 = Scale(dim, last=True), Scale(dim, last=True)
        self.norm_out = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        if self.cross:
            x = x + self.gamma_1(self.cross_attn(self.norm1(x), self.norm2(other)))
            normed = self.norm3(x)
        else:
            normed = self.norm1(x)
            x = x + self.gamma_1(self.self_attn(normed, normed))
            normed = self.norm2(x)
        x = x + self.gamma_2(self.linear2(F.gelu(self.linear1(normed))))
        last: Tensor = self.norm_out(x.transpose(1, 2))
        return last.transpose(1, 2)


class CrossTransformer(nn.Module):
    """Layers for both branches in turns: each looks at itself, then both look at each other, and so on."""

    def __init__(self, dim: int, config: HTDemucsConfig) -> None:
        super().__init__()
        self.period, self.weight = config.t_max_period, config.t_weight_pos_embed
        self.norm_in, self.norm_in_t = nn.LayerNorm(dim), nn.LayerNorm(dim)
        crosses = [(number % 2 == 1) != config.t_cross_first for number in range(config.t_layers)]
        self.layers = nn.ModuleList(Layer(dim, config, cross) for cross in crosses)
        self.layers_t = nn.ModuleList(Layer(dim, config, cross) for cross in crosses)

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, F, T], xt [B, C, T'] -> the same shapes."""
        _, dim, freqs, time = x.shape
        where = positions_2d(dim, freqs, time, self.period, x.device)
        x = self.norm_in(x.permute(0, 3, 2, 1).flatten(1, 2)) + self.weight * where  # [B, T·F, C]
        xt = self.norm_in_t(xt.transpose(1, 2))
        xt = xt + self.weight * positions(dim, xt.shape[1], self.period, x.device)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, xt = layer(x, xt), layer_t(xt, x)
        return x.reshape(-1, time, freqs, dim).permute(0, 3, 2, 1), xt.transpose(1, 2)


def positions(dim: int, length: int, period: float, device: torch.device) -> Tensor:
    """[length, dim]: cosines, then sines, of dim/2 speeds from 1 to 1/period."""
    half = dim // 2
    speeds = period ** (torch.arange(half, device=device) / (half - 1))
    phase = torch.arange(length, device=device)[:, None] / speeds
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def positions_2d(dim: int, freqs: int, time: int, period: float, device: torch.device) -> Tensor:
    """[time·freqs, dim]: half of the channels tell the time, half the frequency; sines and cosines in turns."""
    half = dim // 2
    speeds = torch.exp(torch.arange(0.0, half, 2, device=device) * (-math.log(period) / half))

    def waves(length: int) -> Tensor:
        phase = torch.arange(float(length), device=device)[:, None] * speeds
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)  # [length, half]

    table = torch.cat(
        [waves(time)[:, None].expand(time, freqs, half), waves(freqs)[None].expand(time, freqs, half)], dim=-1
    )
    return table.flatten(0, 1)


# --- the whole -----------------------------------------------------------------------------------------------------


class HTDemucs(nn.Module):
    """mix [B, 2, N] with N at most `config.samples` -> stems [B, S, 2, N].

    `dtype` is what the transformer computes in; the U-nets, which make the wave itself, stay in float32.
    """

    dtype = torch.float32

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__()
        self.config, stereo, stems = config, config.audio_channels, len(config.sources)
        downs = [None, *config.widths]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.tencoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(config.widths):
            below, above = downs[level] or 2 * stereo, downs[level] or 2 * stereo * stems
            below_t, above_t = downs[level] or stereo, downs[level] or stereo * stems
            self.encoder.append(Encoder(below, width, config, freq=True))
            self.tencoder.append(Encoder(below_t, width, config, freq=False))
            self.decoder.insert(0, Decoder(width, above, config, freq=True, last=level == 0))
            self.tdecoder.insert(0, Decoder(width, above_t, config, freq=False, last=level == 0))
        if config.freq_emb:
            bins = config.nfft // 2 // config.stride
            self.freq_emb = FrequencyEmbedding(bins, config.channels, config.emb_scale)
        width, dim = config.widths[-1], config.bottom_channels or config.widths[-1]
        if config.bottom_channels:
            self.channel_upsampler, self.channel_upsampler_t = nn.Conv1d(width, dim, 1), nn.Conv1d(width, dim, 1)
            self.channel_downsampler, self.channel_downsampler_t = nn.Conv1d(dim, width, 1), nn.Conv1d(dim, width, 1)
        if config.t_layers:
            self.crosstransformer = CrossTransformer(dim, config)

    def forward(self, mix: Tensor) -> Tensor:
        batch, stereo, length = mix.shape
        whole = self.config.samples
        mix = F.pad(mix, (0, whole - length))
        z = self.spectrum(mix)  # [B, 2, F, T] complex
        x = torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, 4, F, T]
        _, _, freqs, time = x.shape
        x, mean, std = standard(x)
        xt, mean_t, std_t = standard(mix)
        x, xt = self.u_nets(x, xt)
        x = x.view(batch, -1, stereo, 2, freqs, time) * std[..., None, None] + mean[..., None, None]
        xt = xt.view(batch, -1, stereo, whole) * std_t[..., None] + mean_t[..., None]
        z = torch.view_as_complex(x.permute(0, 1, 2, 4, 5, 3).contiguous())  # [B, S, 2, F, T]
        return (self.wave(z, whole) + xt)[..., :length]

    def u_nets(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 4, F, T], xt [B, 2, N] -> [B, 4·S, F, T], [B, 2·S, N]."""
        skips, skips_t, lengths_t = [], [], []
        for level, (encode, encode_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            lengths_t.append(xt.shape[-1])
            x, xt = encode(x), encode_t(xt)
            if level == 0 and self.config.freq_emb:
                x = x + self.config.freq_emb * self.freq_emb().t()[:, :, None]
            skips.append(x)
            skips_t.append(xt)
        if self.config.t_layers:
            x, xt = self.bottom(x, xt)
        for decode, decode_t in zip(self.decoder, self.tdecoder, strict=True):
            x = decode(x, skips.pop(), x.shape[-1])
            xt = decode_t(xt, skips_t.pop(), lengths_t.pop())
        return x, xt

    def bottom(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape
        if self.config.bottom_channels:
            x = self.channel_upsampler(x.flatten(2)).view(shape[0], -1, *shape[2:])
            xt = self.channel_upsampler_t(xt)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            x, xt = self.crosstransformer(x, xt)
        x, xt = x.float(), xt.float()
        if self.config.bottom_channels:
            x = self.channel_downsampler(x.flatten(2)).view(shape)
            xt = self.channel_downsampler_t(xt)
        return x, xt

    def spectrum(self, x: Tensor) -> Tensor:
        """[B, 2, N] -> [B, 2, nfft/2, ⌈N/hop⌉]: as many frames as hops, the Nyquist bin left out."""
        nfft, hop, length = self.config.nfft, self.config.nfft // 4, x.shape[-1]
        frames = math.ceil(length / hop)
        x = F.pad(x, (3 * hop // 2, 3 * hop // 2 + frames * hop - length), mode="reflect")
        z = torch.stft(
            x.flatten(0, 1), nfft, hop, window=self.window(x), normalized=True, center=True, return_complex=True
        )
        return z[:, :-1, 2 : 2 + frames].reshape(*x.shape[:2], nfft // 2, frames)

    def wave(self, z: Tensor, length: int) -> Tensor:
        """The way back: [B, S, 2, nfft/2, T] -> [B, S, 2, length]."""
        nfft, hop, shape = self.config.nfft, self.config.nfft // 4, z.shape
        z = F.pad(z, (2, 2, 0, 1)).flatten(0, 2)
        pad = 3 * hop // 2
        whole = hop * math.ceil(length / hop) + 2 * pad
        x = torch.istft(z, nfft, hop, window=self.window(z.real), normalized=True, center=True, length=whole)
        return x[:, pad : pad + length].reshape(*shape[:3], length)

    def window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.config.nfft, device=like.device, dtype=torch.float32)


def standard(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x at mean 0 and deviation 1 within each item of the batch, the mean, the deviation)."""
    over = tuple(range(1, x.dim()))
    mean, std = x.mean(dim=over, keepdim=True), x.std(dim=over, keepdim=True)
    return (x - mean) / (1e-5 + std), mean, std
