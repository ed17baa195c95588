"""The vocoder: NSF-HiFiGAN. From the latent z and the pitch to audio; without a pitch, plain HiFi-GAN.

z is upsampled by transposed convolutions, each followed by the mean of three residual blocks; a sine at the pitch,
noise where nothing is voiced, is added at every resolution. Everything is local: with `config.margin` frames on either
side, a piece decodes to the samples that it has in the whole. Kong et al., arXiv 2010.05646; Wang, arXiv 1904.12088.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.weightnorm import (
    NormedConv1d,
    NormedConvTranspose1d,
    channels_last,
    convolve,
    in_bfloat16_on_cpu,
)

SLOPE = 0.1  # of the leaky ReLUs; the last one has torch's default
LAST_SLOPE = 0.01
SINE = 0.1  # amplitude of the source where it is voiced
NOISE_VOICED = 0.003  # standard deviation of the noise beside the sine
NOISE_UNVOICED = SINE / 3  # and where there is no pitch
MARGIN = 14  # frames on either side after which a piece of any published voice decodes as in the whole


def phases(f0: Tensor, rate: int, hop: int) -> Tensor:
    """Turns (0..1) that the sine has made before each frame. f0 [B, T] in Hz → [B, T], float32, summed in float64."""
    turns = (f0.cpu() if f0.device.type == "mps" else f0).double() / rate * hop % 1.0  # (an Apple GPU has no float64)
    return (F.pad(turns.cumsum(1), (1, -1)) % 1.0).to(f0.device, torch.float32)


def sine_source(f0: Tensor, rate: int, hop: int, noise: Tensor, start: Tensor | None = None) -> Tensor:
    """What the vocal cords give: a sine at f0 with a little noise, only noise where f0 is 0.

    f0 [B, T] in Hz, constant inside a frame; noise [B, T*hop], standard normal; start [B, T], `phases` of these
    frames when they are a piece of something longer. → [B, 1, T*hop], float32.
    """
    start = phases(f0, rate, hop) if start is None else start
    inside = torch.arange(1, hop + 1, device=f0.device)  # a sample includes its own step
    turns = start[..., None] + (f0.float() / rate)[..., None] * inside  # [B, T, hop]
    sine = SINE * torch.sin(2 * math.pi * turns)
    voiced = (f0 > 0)[..., None]
    noise = noise.view(*f0.shape, hop)
    source = torch.where(voiced, sine + NOISE_VOICED * noise, NOISE_UNVOICED * noise)
    return source.flatten(1)[:, None]


class Source(nn.Module):
    """Scales the source before it enters the network. (Published networks use the fundamental alone.)"""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(1, 1)

    def forward(self, source: Tensor) -> Tensor:  # [B, 1, N] → the same
        return torch.tanh(source * self.l_linear.weight.view(1, 1, 1) + self.l_linear.bias.view(1, 1, 1))


class ResBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, around a residual path. [B, C, N] → the same."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(NormedConv1d(channels, channels, kernel, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(NormedConv1d(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            y = convolve(first, F.leaky_relu(x, SLOPE))
            x = convolve(second, F.leaky_relu_(y, SLOPE)).add_(x)  # in place in what a convolution has just made
        return x


class Vocoder(nn.Module):
    """z [B, inter, T], speaker g [B, gin, 1], source [B, 1, T*hop] (f0 voices only) → audio [B, 1, T*hop], −1..1."""

    def __init__(self, config: RvcConfig, f0: bool = True) -> None:
        super().__init__()
        channels = [config.upsample_initial >> stage for stage in range(len(config.upsample_rates) + 1)]
        rates = config.upsample_rates
        self.conv_pre = nn.Conv1d(config.inter, channels[0], 7, padding=3)
        self.cond = nn.Conv1d(config.gin, channels[0], 1)
        self.ups = nn.ModuleList(
            NormedConvTranspose1d(channels[i], channels[i + 1], kernel, rate)
            for i, (rate, kernel) in enumerate(zip(rates, config.upsample_kernels, strict=True))
        )
        self.blocks_per_stage = len(config.resblock_kernels)
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations)
            for width in channels[1:]
            for kernel, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True)
        )
        self.conv_post = nn.Conv1d(channels[-1], 1, 7, padding=3, bias=False)
        if f0:
            self.m_source = Source()
            self.noise_convs = nn.ModuleList()
            for i, width in enumerate(channels[1:]):
                step = math.prod(rates[i + 1 :])  # samples per step at this stage's resolution
                kernel, padding = (2 * step, step // 2) if step > 1 else (1, 0)
                self.noise_convs.append(nn.Conv1d(1, width, kernel, step, padding))
        self.f0 = f0

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None = None) -> Tensor:
        if source is not None:
            source = self.m_source(source.to(z.dtype))
        if rows := in_bfloat16_on_cpu(z):  # the same numbers in another order in memory: 1.4 times as fast
            z, g = channels_last(z), channels_last(g)
            source = None if source is None else channels_last(source)
        x = convolve(self.conv_pre, z) + convolve(self.cond, g)
        for i, up in enumerate(self.ups):
            x = convolve(up, F.leaky_relu_(x, SLOPE))
            if source is not None:
                x = x + convolve(self.noise_convs[i], source)
            blocks = self.resblocks[i * self.blocks_per_stage : (i + 1) * self.blocks_per_stage]
            y = blocks[0](x)
            for block in list(blocks)[1:]:
                y = block(x).add_(y)
            x = y.div_(self.blocks_per_stage)
        audio = torch.tanh(convolve(self.conv_post, F.leaky_relu_(x, LAST_SLOPE)))
        return audio[:, :, 0] if rows else audio
