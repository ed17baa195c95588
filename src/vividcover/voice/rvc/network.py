"""The network of an RVC voice: VITS with ContentVec features for text, a pitch, and an NSF vocoder.

    features, pitch ──TextEncoder──► m_p, logs_p ──noise──► z_p ──Flow⁻¹──► z ──Vocoder──► audio        (singing)
    spectrogram ──PosteriorEncoder──► z ──Flow──► z_p  (to be like m_p, logs_p);  z ──Vocoder──► audio    (training)

B batch, T frames of 10 ms, C channels. Tensors are [B, C, T] inside. The names of the parts are those of the published
files. Kim et al., arXiv 2106.06103; relative positions: Shaw et al., arXiv 1803.02155.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.vocoder import Vocoder, sine_source
from vividcover.voice.rvc.weightnorm import NormedConv1d, fold

SLOPE = 0.1
PITCHES = 256  # steps of the coarse pitch
WINDOW = 10  # frames to either side whose relative position the attention knows
QUERIES = 256  # rows of the attention computed at once: memory grows with T, not with its square (256: fastest)
NOISE_SCALE = 0.66666  # of the noise around m_p when singing, as published

Latents = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """1 for the frames that an item has, else 0. lengths [B] → [B, 1, T], float32."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).float()[:, None]


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x where the mask is 1, else 0; no mask: every frame counts."""
    return x if mask is None else x * mask


# --- text encoder ----------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention that knows how far apart two frames are, up to WINDOW. [B, C, T] → the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, channels // heads
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * WINDOW + 1, self.width) * self.width**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * WINDOW + 1, self.width) * self.width**-0.5)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, channels, frames = x.shape
        split = (batch, self.heads, self.width, frames)
        q = self.conv_q(x).view(split).transpose(2, 3) * self.width**-0.5  # [B, H, T, D]
        k, v = self.conv_k(x).view(split), self.conv_v(x).view(split)  # [B, H, D, T]
        rows = [self.attend(q[:, :, start : start + QUERIES], k, v, start, mask) for start in range(0, frames, QUERIES)]
        heard: Tensor = self.conv_o(torch.cat(rows, dim=2).transpose(2, 3).reshape(batch, channels, frames))
        return heard

    def attend(self, q: Tensor, k: Tensor, v: Tensor, start: int, mask: Tensor | None) -> Tensor:
        """The rows of some queries. q [B, H, Q, D], the first of them frame `start`; → [B, H, Q, D]."""
        count, frames = q.shape[2], k.shape[3]
        low, high = max(start - WINDOW, 0), min(start + count + WINDOW, frames)  # keys within anyone's window
        skip = low - (start - WINDOW)  # columns of the band that lie before the first frame
        scores = q @ k  # [B, H, Q, T]
        scores[..., low:high] += shifted(q @ self.emb_rel_k.mT)[..., skip : skip + high - low]
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -1e4)
        weights = scores.softmax(dim=-1)
        band = unshifted(F.pad(weights[..., low:high], (skip, count + 2 * WINDOW - skip - (high - low))))
        return weights @ v.mT + band @ self.emb_rel_v


def shifted(band: Tensor) -> Tensor:
    """[…, Q, W] → […, Q, Q+W-1] with row r moved r columns to the right, zeros elsewhere."""
    rows, width = band.shape[-2:]
    flat = F.pad(band, (0, rows)).flatten(-2)  # rows of W+Q, read again as rows that are one shorter
    return flat[..., : rows * (rows + width - 1)].view(*band.shape[:-1], rows + width - 1)


def unshifted(wide: Tensor) -> Tensor:
    """The way back: […, Q, Q+W-1] → […, Q, W], row r from its column r on."""
    rows, columns = wide.shape[-2:]
    return F.pad(wide.flatten(-2), (0, rows)).view(*wide.shape[:-1], columns + 1)[..., : columns - rows + 1]


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, T]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.mT, self.gamma.shape, self.gamma, self.beta, 1e-5).mT


class FeedForward(nn.Module):
    """Two convolutions over time with a ReLU between. [B, C, T] → the same."""

    def __init__(self, channels: int, inside: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, inside, kernel, padding="same")
        self.conv_2 = nn.Conv1d(inside, channels, kernel, padding="same")

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = F.relu_(self.conv_1(masked(x, mask)))
        return masked(self.conv_2(masked(y, mask)), mask)


class Transformer(nn.Module):
    def __init__(self, config: RvcConfig) -> None:
        super().__init__()
        width, layers = config.hidden, range(config.layers)
        self.attn_layers = nn.ModuleList(Attention(width, config.heads) for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(width) for _ in layers)
        self.ffn_layers = nn.ModuleList(FeedForward(width, config.filter, config.kernel) for _ in layers)
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(width) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for attention, norm_1, feed_forward, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        ):
            x = norm_1(x + attention(x, mask))
            x = norm_2(x + feed_forward(x, mask))
        return masked(x, mask)


class TextEncoder(nn.Module):
    """What is sung and how high → where its latent should lie: mean and log deviation, [B, inter, T] each."""

    def __init__(self, config: RvcConfig, f0: bool = True) -> None:
        super().__init__()
        self.emb_phone = nn.Linear(config.features, config.hidden)
        if f0:
            self.emb_pitch = nn.Embedding(PITCHES, config.hidden)
        self.encoder = Transformer(config)
        self.proj = nn.Conv1d(config.hidden, 2 * config.inter, 1)

    def forward(self, features: Tensor, pitch: Tensor | None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.emb_phone(features)  # [B, T, features] → [B, T, hidden]
        if pitch is not None:
            x = x + self.emb_pitch(pitch)
        x = F.leaky_relu(x * math.sqrt(x.shape[-1]), SLOPE).mT  # [B, hidden, T]
        m, logs = masked(self.proj(self.encoder(masked(x, mask), mask)), mask).chunk(2, dim=1)
        return m, logs


# --- flow and posterior encoder --------------------------------------------------------------------------------------


class WaveNet(nn.Module):
    """Gated convolutions that know the speaker. [B, C, T], g [B, gin, 1] → [B, C, T]."""

    def __init__(self, channels: int, kernel: int, layers: int, gin: int) -> None:
        super().__init__()
        self.in_layers = nn.ModuleList(NormedConv1d(channels, 2 * channels, kernel) for _ in range(layers))
        self.res_skip_layers = nn.ModuleList(
            NormedConv1d(channels, 2 * channels if i < layers - 1 else channels, 1) for i in range(layers)
        )
        self.cond_layer = NormedConv1d(gin, 2 * channels * layers, 1)

    def forward(self, x: Tensor, g: Tensor, mask: Tensor | None) -> Tensor:
        speaker = self.cond_layer(g).chunk(len(self.in_layers), dim=1)
        *layers, last = zip(self.in_layers, self.res_skip_layers, speaker, strict=True)
        skipped: Tensor | float = 0.0
        for conv, res_skip, voice in layers:
            residual, skip = res_skip(gate(conv(x) + voice)).chunk(2, dim=1)
            x = masked(x + residual, mask)
            skipped = skipped + skip
        conv, res_skip, voice = last
        return masked(skipped + res_skip(gate(conv(x) + voice)), mask)


def gate(x: Tensor) -> Tensor:
    """[B, 2C, T] → [B, C, T]"""
    wave, opening = x.chunk(2, dim=1)
    return torch.tanh(wave) * torch.sigmoid(opening)


class Coupling(nn.Module):
    """Moves one half of the channels by what the other half says; undone exactly by moving it back."""

    def __init__(self, config: RvcConfig) -> None:
        super().__init__()
        self.pre = nn.Conv1d(config.inter // 2, config.hidden, 1)
        self.enc = WaveNet(config.hidden, 5, 3, config.gin)
        self.post = nn.Conv1d(config.hidden, config.inter // 2, 1)
        nn.init.zeros_(self.post.weight)
        assert self.post.bias is not None
        nn.init.zeros_(self.post.bias)

    def forward(self, x: Tensor, g: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
        kept, moved = x.chunk(2, dim=1)
        shift = masked(self.post(self.enc(masked(self.pre(kept), mask), g, mask)), mask)
        moved = masked(moved - shift if reverse else moved, mask) + (0 if reverse else shift)
        return torch.cat((kept, moved), dim=1)


class Flow(nn.Module):
    """Between the latent of the audio, z, and that of the text, z_p: [B, inter, T] → the same, and `reverse` back."""

    def __init__(self, config: RvcConfig) -> None:
        super().__init__()
        # every second place belongs to the reversal of channels, which has no weights
        self.flows = nn.ModuleList(Coupling(config) if i % 2 == 0 else nn.Identity() for i in range(8))

    def forward(self, x: Tensor, g: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
        couplings = list(self.flows)[::2]
        for coupling in reversed(couplings) if reverse else couplings:
            x = coupling(x.flip(1), g, mask, True) if reverse else coupling(x, g, mask, False).flip(1)
        return x


class PosteriorEncoder(nn.Module):
    """Spectrogram [B, spec_channels, T] → the latent's mean and log deviation, [B, inter, T] each. Training only."""

    def __init__(self, config: RvcConfig) -> None:
        super().__init__()
        self.pre = nn.Conv1d(config.spec_channels, config.hidden, 1)
        self.enc = WaveNet(config.hidden, 5, 16, config.gin)
        self.proj = nn.Conv1d(config.hidden, 2 * config.inter, 1)

    def forward(self, spec: Tensor, g: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.enc(masked(self.pre(spec), mask), g, mask)
        m, logs = masked(self.proj(x), mask).chunk(2, dim=1)
        return m, logs


# --- the whole -------------------------------------------------------------------------------------------------------


class Synthesizer(nn.Module):
    """A voice. `infer` sings; `encode` and `decode` are its two halves; `forward` is a training step's pass.

    `posterior=False` leaves out what only training needs. After `fold()` it sings faster and cannot be trained.
    """

    def __init__(self, config: RvcConfig, f0: bool = True, posterior: bool = True) -> None:
        super().__init__()
        self.config, self.f0 = config, f0
        self.enc_p = TextEncoder(config, f0)
        self.dec = Vocoder(config, f0)
        if posterior:
            self.enc_q = PosteriorEncoder(config)
        self.flow = Flow(config)
        self.emb_g = nn.Embedding(config.speakers, config.gin)

    def fold(self) -> Synthesizer:
        fold(self)
        return self

    def voice(self, speaker: Tensor) -> Tensor:
        """Speaker numbers [B] → g [B, gin, 1]."""
        embedded: Tensor = self.emb_g(speaker)
        return embedded[..., None]

    def encode(
        self, features: Tensor, pitch: Tensor | None, g: Tensor, noise: Tensor | None = None,
        scale: float = NOISE_SCALE, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """features [B, T, C], coarse pitch [B, T] 1..255, noise [B, inter, T] standard normal (None: none) → z."""
        m, logs = self.enc_p(features, pitch, mask)
        if noise is not None:
            m = masked(m + logs.exp() * noise * scale, mask)
        return masked(self.flow(m, g, mask, reverse=True), mask)

    def decode(self, z: Tensor, f0: Tensor | None, g: Tensor, source: Tensor | None = None) -> Tensor:
        """z [B, inter, T], and f0 [B, T] in Hz or the source [B, 1, T*hop] → audio [B, 1, T*hop], −1..1, float32.

        Without a source, its noise comes from torch's own generator. The vocoder may be of another dtype than z.
        """
        if self.f0 and source is None:
            assert f0 is not None, "this voice sings at a pitch"
            noise = torch.randn(f0.shape[0], f0.shape[1] * self.config.hop, device=f0.device)
            source = sine_source(f0, self.config.rate, self.config.hop, noise)
        dtype = self.dec.conv_pre.weight.dtype
        audio: Tensor = self.dec(z.to(dtype), g.to(dtype), source if self.f0 else None)
        return audio.float()

    def infer(
        self, features: Tensor, pitch: Tensor | None, f0: Tensor | None, speaker: Tensor,
        noise: Tensor | None = None, scale: float = NOISE_SCALE, source: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """features [B, T, C], pitch [B, T], f0 [B, T], speaker [B] → audio [B, 1, T*hop]. Noise as in `encode`, but
        drawn from torch's own generator when it is not given."""
        g = self.voice(speaker)
        if noise is None and scale:
            noise = torch.randn(features.shape[0], self.config.inter, features.shape[1], device=features.device)
        return self.decode(self.encode(features, pitch, g, noise, scale), f0, g, source)

    def forward(
        self, features: Tensor, lengths: Tensor, pitch: Tensor | None, f0: Tensor | None, spec: Tensor,
        speaker: Tensor, noise: Tensor | None = None, starts: Tensor | None = None, source_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Latents]:  # fmt: skip
        """A training pass. features [B, T, C], lengths [B], pitch, f0 [B, T], spec [B, spec_channels, T], speaker [B].

        Returns the audio of a random segment of each item [B, 1, segment], the frames it starts at [B],
        the mask [B, 1, T] and (z, z_p, m_p, logs_p, m_q, logs_q), [B, inter, T] each.
        What is drawn at random may be given: noise [B, inter, T], starts [B], source_noise [B, segment].
        """
        config, frames = self.config, self.config.segment_frames
        mask = frame_mask(lengths, spec.shape[2])
        g = self.voice(speaker)
        m_p, logs_p = self.enc_p(features, pitch, mask)
        m_q, logs_q = self.enc_q(spec, g, mask)
        noise = torch.randn_like(m_q) if noise is None else noise
        z = masked(m_q + noise * logs_q.exp(), mask)
        z_p = self.flow(z, g, mask)
        if starts is None:
            room = (lengths - frames + 1).clamp(min=1)
            starts = (torch.rand(len(lengths), device=z.device) * room).long()
        source = None
        if f0 is not None:
            if source_noise is None:
                source_noise = torch.randn(len(lengths), frames * config.hop, device=z.device)
            source = sine_source(segments(f0[:, None], starts, frames)[:, 0], config.rate, config.hop, source_noise)
        audio = self.dec(segments(z, starts, frames), g, source)
        return audio, starts, mask, (z, z_p, m_p, logs_p, m_q, logs_q)


def segments(x: Tensor, starts: Tensor, length: int) -> Tensor:
    """A piece of each item: [B, C, N], starts [B] → [B, C, length]."""
    where = starts[:, None] + torch.arange(length, device=x.device)
    return x.gather(2, where[:, None].expand(-1, x.shape[1], -1))
