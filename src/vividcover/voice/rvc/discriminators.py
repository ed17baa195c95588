"""The critics that training sets against the voice: one listens to the waveform, the others to it folded at a period.

Names as published: `discriminators.0` is the waveform's, then one for each period. Kong et al., arXiv 2010.05646.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.voice.rvc.config import Version
from vividcover.voice.rvc.weightnorm import NormedConv1d, NormedConv2d, in_bfloat16_on_cpu

SLOPE = 0.1
PERIODS: dict[Version, tuple[int, ...]] = {"v1": (2, 3, 5, 7, 11, 17), "v2": (2, 3, 5, 7, 11, 17, 23, 37)}
WIDTH = 1024  # channels of the widest layers, as published

NARROW = 7  # periods up to which a CPU is faster in bfloat16 when every column is an item of its own (measured)

Layer = Callable[[Tensor], Tensor]
Judged = tuple[Tensor, list[Tensor]]  # logits [B, N'], and the map that every layer made


class WaveDiscriminator(nn.Module):
    """Audio [B, 1, N] at four falling resolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (max(width // 64, 4), max(width // 16, 4), max(width // 4, 4), width, width)
        self.convs = nn.ModuleList([NormedConv1d(1, sizes[0], 15)])
        for inputs, outputs in pairwise(sizes):
            self.convs.append(NormedConv1d(inputs, outputs, 41, 4, groups=inputs // 4))
        self.convs.append(NormedConv1d(width, width, 5))
        self.conv_post = NormedConv1d(width, 1, 3)

    def forward(self, x: Tensor) -> Judged:
        return judge(x, self.convs, self.conv_post)


class PeriodDiscriminator(nn.Module):
    """Audio [B, 1, N] as an image [B, 1, N/period, period], so that a column holds every period-th sample."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        sizes = (1, max(width // 32, 1), max(width // 8, 1), max(width // 2, 1), width)
        self.convs = nn.ModuleList(NormedConv2d(inputs, outputs, (5, 1), (3, 1)) for inputs, outputs in pairwise(sizes))
        self.convs.append(NormedConv2d(width, width, (5, 1)))
        self.conv_post = NormedConv2d(width, 1, (3, 1))

    def forward(self, x: Tensor) -> Judged:
        if rest := -x.shape[2] % self.period:
            x = F.pad(x, (0, rest), "reflect")
        if self.period <= NARROW and in_bfloat16_on_cpu(x):
            columns = x.view(len(x), -1, self.period).mT.flatten(0, 1)  # [B*period, N/period]
            convs = [conv.along_rows for conv in self.convs if isinstance(conv, NormedConv2d)]
            logits, made = judge(columns[:, None, None], convs, self.conv_post.along_rows)
            return logits.view(len(x), -1), made
        return judge(x.view(*x.shape[:2], -1, self.period), self.convs, self.conv_post)


def judge(x: Tensor, convs: Iterable[Layer], last: Layer) -> Judged:
    made = []
    for conv in convs:
        x = F.leaky_relu_(conv(x), SLOPE)
        made.append(x)
    x = last(x)
    return x.flatten(1), [*made, x]


class Discriminators(nn.Module):
    """y [B, 1, N] → one list of logits [B, N'] and one of feature maps, with an entry for each critic.

    Maps may be laid out with the columns of an image as items; the order of the batch stays, and so do means.
    `width` below the published 1024 makes a small twin, which learns with `tiny` voices.
    """

    def __init__(self, version: Version, width: int = WIDTH) -> None:
        super().__init__()
        critics = [WaveDiscriminator(width), *(PeriodDiscriminator(period, width) for period in PERIODS[version])]
        self.discriminators = nn.ModuleList(critics)

    def forward(self, y: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        judged = [critic(y) for critic in self.discriminators]
        return [logits for logits, _ in judged], [maps for _, maps in judged]
