"""RMVPE: the pitch of a voice, also with music around it.

H. Wei et al., "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic Music", 2023. A U-Net over a mel
spectrogram (five times halved in time and pitch), then a recurrent layer in both directions, then 360 pitches.

    net = Rmvpe.load(weights.path("rmvpe"))         # the published rmvpe.pt: 741 tensors, held to strictly
    net.f0(samples)                                  # Hz, 100 a second, 0 where there is none

A long recording goes through the U-Net in blocks that see `MARGIN` frames to either side, and through the recurrent
layer at once: the result is that of the whole, in bounded memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vividcover.tensors import check_keys, read_tensors
from vividcover.voice.rvc.mel import RMVPE, frames_of
from vividcover.voice.rvc.pitch.decode import Array, cents, peak_pitch

THRESHOLD = 0.03  # salience above which a frame is voiced
LEVELS, INNER, BLOCKS = 5, 4, 4  # halvings; stages at the bottom; residual blocks a stage
GRID: int = 2**LEVELS  # frames: the number of frames is padded to a multiple of it
BLOCK = 4096  # frames through the U-Net at a time (41 s), 300 MB
MARGIN = 512  # frames that a block sees beyond its own, to either side: within 2e-5 of the whole (256: 1e-2), measured


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, [B, before, T, M] → [B, after, T, M]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.widens = before != after
        if self.widens:
            self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + (self.shortcut(x) if self.widens else x)  # type: ignore[no-any-return]


def _residuals(before: int, after: int) -> nn.ModuleList:
    return nn.ModuleList(Residual(before if i == 0 else after, after) for i in range(BLOCKS))


class Stage(nn.Module):
    """Residual blocks one after the other."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = _residuals(before, after)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.conv:
            x = block(x)
        return x


class Rise(nn.Module):
    """Doubles time and pitch, then joins what the way down had here: [B, 2C, T, M], [B, C, 2T, 2M] → [B, C, 2T, 2M]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.conv2 = _residuals(2 * after, after)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        x = torch.cat((self.conv1(x), beside), 1)
        for block in self.conv2:
            x = block(x)
        return x


class UNet(nn.Module):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(LEVELS + 1)]  # 16 … 512
        self.encoder = nn.Module()
        self.encoder.bn = nn.BatchNorm2d(1)
        self.encoder.layers = nn.ModuleList(Stage(a, b) for a, b in zip([1, *widths], widths[:-1]))
        self.intermediate = nn.Module()
        self.intermediate.layers = nn.ModuleList(
            Stage(widths[-2] if i == 0 else widths[-1], widths[-1]) for i in range(INNER)
        )
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(Rise(b, a) for a, b in zip(widths[-2::-1], widths[:0:-1]))

    def forward(self, x: Tensor) -> Tensor:  # [B, 1, T, 128] → [B, 16, T, 128]
        first = self.encoder.layers[0].conv[0].conv[0].weight  # type: ignore[index, union-attr]
        x = self.encoder.bn(x).to(first.dtype)  # type: ignore[operator]
        passed = []
        for stage in self.encoder.layers:  # type: ignore[union-attr]
            x = stage(x)
            passed.append(x)
            x = F.avg_pool2d(x, 2)
        for stage in self.intermediate.layers:  # type: ignore[union-attr]
            x = stage(x)
        for rise in self.decoder.layers:  # type: ignore[union-attr]
            x = rise(x, passed.pop())
        return x


class _Recurrent(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.gru = nn.GRU(before, after, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]  # type: ignore[no-any-return]


class Rmvpe(nn.Module):
    """Log-mel frames → salience. The names of the tensors are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet()
        self.cnn = nn.Conv2d(16, 3, 3, padding=1)
        self.fc = nn.Sequential(_Recurrent(3 * RMVPE.mels, 256), nn.Linear(512, 360), nn.Dropout(0.25), nn.Sigmoid())
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Rmvpe:
        """From the published file. Raises `ModelFileError`."""
        return cls.from_tensors(read_tensors(path, "RMVPE")).to(device).in_format(dtype)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Rmvpe:
        """From the published tensors, in float32, batch norm folded into the convolutions."""
        with torch.device("meta"):
            net = cls()
        check_keys(net, tensors, "RMVPE", assign=True)
        net = net.float().requires_grad_(False).eval()
        for module in list(net.modules()):
            if isinstance(module, nn.Sequential):
                _fold(module)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def in_format(self, dtype: torch.dtype) -> Rmvpe:
        """Convolves in `dtype` from now on; the recurrent layer and what goes in keep float32."""
        self.unet.to(dtype)
        self.unet.encoder.bn.float()
        return self

    @torch.inference_mode()
    def salience(self, mel: Tensor, block: int = BLOCK, margin: int = MARGIN) -> Tensor:
        """mel [T, 128] → [T, 360] in 0..1."""
        count = len(mel)
        mel = F.pad(mel, (0, 0, 0, -count % GRID))  # zeros, as in the original
        pieces = -(-len(mel) // block)
        block, margin = _grid(-(-len(mel) // pieces)), _grid(margin)  # even pieces, on the grid of the halvings
        seen = []
        for first in range(0, len(mel), block):
            start, end = max(0, first - margin), min(first + block + margin, len(mel))
            x = self.cnn(self.unet(mel[start:end][None, None]).float())[0]  # [3, T, 128]
            seen.append(x[:, first - start : first - start + block].transpose(0, 1).flatten(1))  # [T, 384]
        whole: Tensor = self.fc(torch.cat(seen)[None])[0, :count]
        return whole

    def f0(self, samples: Tensor, threshold: float = THRESHOLD) -> Array:
        """samples [N] at 16 kHz → Hz [N//160 + 1]."""
        salience = self.salience(frames_of(samples.to(self.cnn.weight.device), RMVPE))
        return peak_pitch(salience.cpu().numpy(), threshold, cents())


def _grid(frames: int) -> int:
    return math.ceil(frames / GRID) * GRID


def _fold(sequence: nn.Sequential) -> None:
    """Batch norm that follows a convolution becomes part of its weights."""
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,  # type: ignore[arg-type]
                transpose=isinstance(conv, nn.ConvTranspose2d),
            )  # fmt: skip
            sequence[index + 1] = nn.Identity()
