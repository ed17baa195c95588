"""The picture between two pictures: RIFE's intermediate flow network, as its release HDv3 (arXiv:2011.06294).

    middle = net.between(a, b)      # [N, 3, H, W] in 0..1

Three blocks, coarse to fine, each refine the motion between the two pictures and a mask that says which of them to
believe where; both pictures are moved half way and laid over each other. Parameter names are those of the published
`flownet.pkl` without its prefix "module.".
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 90  # channels inside a block
SCALES = (4, 2, 1)  # each block sees the pictures this many times smaller
SIDES = 32  # px: sides are filled up to multiples of it
PIXELS_AT_ONCE = 8 * 512 * 512  # of one of the two pictures; more pairs are done one lot after the other
GRIDS = 4  # sizes of picture whose grids are kept


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Four times as large."""
    half = inputs // 2
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, half, 4, 2, 1), nn.PReLU(half), nn.ConvTranspose2d(half, outputs, 4, 2, 1)
    )


class Block(nn.Module):
    """One look at both pictures at one scale: how the flow and the mask should change."""

    def __init__(self, inputs: int, width: int = WIDTH) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(conv(inputs, width // 2, 2), conv(width // 2, width, 2))
        self.convblock0, self.convblock1, self.convblock2, self.convblock3 = (
            nn.Sequential(conv(width, width), conv(width, width)) for _ in range(4)
        )
        self.conv1, self.conv2 = up(width, 4), up(width, 1)

    def forward(self, x: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """x [N, 7, H, W] (two pictures and the mask), flow [N, 4, H, W] in px → changes of flow and mask."""
        y = torch.cat((resized(x, 1 / scale), resized(flow, 1 / scale) / scale), 1)
        y = self.conv0(y)
        for block in (self.convblock0, self.convblock1, self.convblock2, self.convblock3):
            y = block(y) + y
        return resized(self.conv1(y), scale) * scale, resized(self.conv2(y), scale)


class IFNet(nn.Module):
    """Motion between two pictures, and the picture in the middle."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = (Block(7 + 4, width) for _ in SCALES)
        self.block_tea = Block(10 + 4, width)  # taught the others while they learned; part of the published file

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b [N, 3, H, W] → flow [N, 4, H, W] (px from the middle to a, then to b), mask [N, 1, H, W], middle."""
        n, _, height, width = a.shape
        flow, mask = a.new_zeros(n, 4, height, width), a.new_zeros(n, 1, height, width)
        moved_a, moved_b = a, b
        for block, scale in zip((self.block0, self.block1, self.block2), SCALES, strict=True):
            # forwards and backwards in one batch; seen backwards, the halves of the flow change places
            seen = torch.cat((torch.cat((moved_a, moved_b, mask), 1), torch.cat((moved_b, moved_a, -mask), 1)))
            flows, masks = block(seen, torch.cat((flow, swapped(flow))), scale)
            flow = flow + (flows[:n] + swapped(flows[n:])) / 2
            mask = mask + (masks[:n] - masks[n:]) / 2
            moved_a, moved_b = moved(a, flow[:, :2]), moved(b, flow[:, 2:])
        mask = torch.sigmoid(mask)
        return flow, mask, moved_a * mask + moved_b * (1 - mask)

    @torch.no_grad()
    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """The pictures half way from `a` to `b`: all [N, 3, H, W] in 0..1, of any size."""
        height, width = a.shape[-2:]
        fill = (0, -width % SIDES, 0, -height % SIDES)
        at_once = max(1, PIXELS_AT_ONCE // ((height + fill[3]) * (width + fill[1])))
        made = []
        for i in range(0, len(a), at_once):
            pair = [F.pad(x[i : i + at_once].to(self.dtype), fill, mode="replicate") for x in (a, b)]
            made.append(self(*pair)[2][..., :height, :width].clamp(0, 1).to(a.dtype))
        return torch.cat(made)

    @property
    def dtype(self) -> torch.dtype:
        return self.block0.conv0[0][0].weight.dtype  # type: ignore[no-any-return, index]


def swapped(flow: Tensor) -> Tensor:
    """[N, 4, H, W]: the two motions change places."""
    return flow.roll(2, 1)


def resized(x: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False)


def moved(picture: Tensor, flow: Tensor) -> Tensor:
    """picture [N, C, H, W] as seen by a pixel that looks `flow` [N, 2, H, W] px to the right and down; edges go on."""
    height, width = picture.shape[-2:]
    across, down = flow[:, 0] * (2 / (width - 1)), flow[:, 1] * (2 / (height - 1))
    grid = _grid(height, width, flow.device, flow.dtype) + torch.stack((across, down), -1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=True)


@lru_cache(GRIDS)
def _grid(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[1, H, W, 2]: where each pixel is, x and y from -1 to 1."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height, device=device), torch.linspace(-1, 1, width, device=device), indexing="ij"
    )
    return torch.stack((columns, rows), -1)[None].to(dtype)
