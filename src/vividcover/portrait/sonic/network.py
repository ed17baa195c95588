"""Sonic's network: noisy latents of a window of frames in, a velocity for each out.

    unet = SonicUNet(config)
    context = unet.hear(clip, audio)                       # once for a window: all that comes from still and voice
    mask = MaskPyramid.of(face_mask)                       # once for a portrait
    v = unet(x, c_noise, added, context, mask)             # [B, F, 4, h, w]

It is the UNet of Stable Video Diffusion, on which Sonic's adapters for the voice sit: three times the picture is halved
on the way down, and doubled again on the way up, where each level meets what the way down had found there. The names
of the parts are those of the published tensors, so that a published file loads as it is.

`keep` and `deep` let a step use again what the step before had found below the top level, which changes slowly from
step to step (Ma et al. 2024, arXiv:2312.00858):

    deep = Deep()
    v = unet(x, c_noise, added, context, mask, keep=deep)       # a whole step; the deep features stay
    v = unet(x2, c_noise2, added, context, mask, deep=deep)     # the next: top level only

Blattmann et al. 2023, arXiv:2311.15127 (SVD); Ji et al. 2024, arXiv:2411.16331 (Sonic).
Shapes: B windows or branches, F frames, h x w latents, C channels. Frames lie in channels-last order, so that neither
convolutions nor attention rearrange them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.portrait.sonic.attention import (
    Context,
    Embedding,
    MaskPyramid,
    Mixer,
    Transformer,
    joined,
    parted,
    spelt,
)
from vividcover.portrait.sonic.config import UNetConfig

__all__ = ["Context", "Deep", "MaskPyramid", "SonicUNet", "joined"]

TOP, BOTTOM = 0, 3  # levels: whole latents, and those three times halved


@dataclass
class Deep:
    """What one step found below the top level, for the next step of the same windows and branches."""

    features: Tensor | None = None  # [B·F, C, h, w]


class SonicUNet(nn.Module):
    """All of it; 1,492 tensors at every size."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c, embedded = config.channels, 4 * config.channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, c[0], 3, padding=1)
        self.time_embedding = Embedding(c[0], embedded, embedded)
        self.add_embedding = Embedding(3 * config.added, embedded, embedded)
        self.down_blocks = nn.ModuleList(Down(config, level) for level in range(4))
        self.mid_block = Mid(config)
        self.up_blocks = nn.ModuleList(Up(config, level) for level in reversed(range(4)))
        self.conv_norm_out = nn.GroupNorm(config.groups, c[0], eps=1e-5)
        self.conv_out = nn.Conv2d(c[0], config.out_channels, 3, padding=1)
        first = 0
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            assert isinstance(block, Block)
            first = block.number(first)

    @property
    def transformers(self) -> list[Transformer]:
        """In the order in which they work, which is that of the context."""
        blocks = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [part for block in blocks for part in block.modules() if isinstance(part, Transformer)]

    @property
    def resnets(self) -> list[Resnet]:
        return [part for part in self.modules() if isinstance(part, Resnet)]

    def hear(self, clip: Tensor, audio: Tensor) -> Context:
        """All keys and values that come from outside. clip [B, F, 1, context], audio [B, F, T, context]."""
        return tuple(transformer.hear(clip, audio) for transformer in self.transformers)

    def forward(
        self, x: Tensor, c_noise: Tensor, added: Tensor, context: Context, mask: MaskPyramid,
        *, keep: Deep | None = None, deep: Deep | None = None, twins: int = 0,
    ) -> Tensor:  # fmt: skip
        """The velocity [B, F, 4, h, w].

        x [B, F, 8, h, w] noisy latents (scaled) and the still's; c_noise [B] = ln(sigma) / 4; added [B, 3] frames a
        second and the two buckets of movement. `keep` is filled with the deep features, `deep` is used instead of them.

        Branches that differ in nothing but the voice are the same until it first comes in. With `twins`, x, c_noise and
        added are shorter than the context by so many: its last entries share theirs with as many entries before them.
        """
        if deep is not None:
            assert deep.features is not None, "nothing was kept"
            return self.again(x, c_noise, added, context, mask, deep.features, twins)
        velocity, features = self.whole(x, c_noise, added, context, mask, twins)
        if keep is not None:
            keep.features = features
        return velocity

    def whole(
        self, x: Tensor, c_noise: Tensor, added: Tensor, context: Context, mask: MaskPyramid, twins: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the deep features [B·F, C, h, w]."""
        emb, found = self.begin(x, c_noise, added, context, mask, twins)
        y = self.top.shrink(found[-1])
        found = (*found, y)
        for block in self.down_blocks[1:]:
            y, more = block(y, emb, context, mask)
            found = (*found, *more)
        y = self.mid_block(y, emb, context, mask)
        for block in self.up_blocks[:-1]:
            count = self.config.layers + 1
            y, found = block(y, found[-count:], emb, context, mask), found[:-count]
        return self.end(y, found, emb, context, mask), y

    def again(
        self, x: Tensor, c_noise: Tensor, added: Tensor, context: Context, mask: MaskPyramid, features: Tensor,
        twins: int = 0,
    ) -> Tensor:  # fmt: skip
        """The velocity, from the deep features of another step: only the top level works."""
        emb, found = self.begin(x, c_noise, added, context, mask, twins)
        return self.end(features, found, emb, context, mask)

    def begin(
        self, x: Tensor, c_noise: Tensor, added: Tensor, context: Context, mask: MaskPyramid, twins: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The top level on the way down: what steers all resnets [B, 4·C], and what was found [B·F, C, h, w] each."""
        frames, emb = x.shape[1], self.embed(c_noise, added, x.dtype)
        y = self.conv_in(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        first = self.top.look(0, self.top.resnets[0](y, emb), context, mask, twins * frames)
        emb, y = parted(emb, twins), parted(y, twins * frames)
        return emb, (y, first, *self.top.level(first, emb, context, mask, done=1))

    def end(self, y: Tensor, found: tuple[Tensor, ...], emb: Tensor, context: Context, mask: MaskPyramid) -> Tensor:
        """The top level on the way up."""
        y = self.up_blocks[-1](y, found, emb, context, mask)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(y)))
        return out.view(emb.shape[0], -1, *out.shape[1:])

    def embed(self, c_noise: Tensor, added: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, 4·C]: noise and movement, as every resnet begins with them."""
        noise = self.time_embedding(spelt(c_noise, self.config.channels[0]).to(dtype))
        numbers = spelt(added.flatten(), self.config.added).view(added.shape[0], -1)
        return F.silu(noise + self.add_embedding(numbers.to(dtype)))

    @property
    def top(self) -> Down:
        block = self.down_blocks[TOP]
        assert isinstance(block, Down)
        return block

    def lay_out(self) -> SonicUNet:
        """Lays the convolutions' weights as the frames lie, which saves doing so at each call. Values stay."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        return self


class Resnet(nn.Module):
    """Each frame alone, then the frames together, mixed."""

    def __init__(self, inner: int, channels: int, embedded: int, groups: int, eps: float) -> None:
        super().__init__()
        self.spatial_res_block = FrameConvs(inner, channels, embedded, groups, eps)
        self.temporal_res_block = TimeConvs(channels, embedded, groups, eps)
        self.time_mixer = Mixer()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B·F, inner, h, w], emb [B, 4·C] → [B·F, channels, h, w]"""
        alone = self.spatial_res_block(x, emb)
        rows, channels, h, w = alone.shape
        film = alone.view(emb.shape[0], -1, channels, h * w).transpose(1, 2)  # [B, C, F, L]
        out: Tensor = self.time_mixer(film, self.temporal_res_block(film, emb))
        return out.transpose(1, 2).reshape(rows, channels, h, w)


class FrameConvs(nn.Module):
    def __init__(self, inner: int, channels: int, embedded: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inner, eps=eps)
        self.conv1 = nn.Conv2d(inner, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedded, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inner, channels, 1) if inner != channels else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B·F, inner, h, w]"""
        y = self.conv1(F.silu(self.norm1(x)))
        steering = self.time_emb_proj(emb)[:, None, :, None, None]  # the same for all frames of a window
        y = (y.view(emb.shape[0], -1, *y.shape[1:]) + steering).view(y.shape)
        y = self.conv2(F.silu(self.norm2(y)))
        out: Tensor = y + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class TimeConvs(nn.Module):
    """Three frames at each place. The kernel is 3x1x1; rows of a picture do not matter, so two dimensions do."""

    def __init__(self, channels: int, embedded: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.time_emb_proj = nn.Linear(embedded, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, C, F, L]"""
        y = _along_time(self.conv1, F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(emb)[:, :, None, None]
        return x + _along_time(self.conv2, F.silu(self.norm2(y)))


def _along_time(conv: nn.Conv3d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))


class Shrink(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Grow(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Block(nn.Module):
    """A level of the network, on its way down or up: resnets, and (but at the bottom) a transformer after each."""

    def __init__(self, config: UNetConfig, level: int, widths: Sequence[int], transformers: int, eps: float) -> None:
        super().__init__()
        c, heads = config.channels[level], config.heads[level]
        embedded = 4 * config.channels[0]
        self.depth = level
        self.first = 0  # of the transformers' parts of the context
        self.attentions = nn.ModuleList(
            Transformer(c, heads, config.context, config.groups) for _ in range(transformers)
        )
        self.resnets = nn.ModuleList(Resnet(width, c, embedded, config.groups, eps) for width in widths)

    def number(self, first: int) -> int:
        """Says which parts of the context are this block's; returns where the next block's begin."""
        self.first = first
        return first + len(self.attentions)

    def look(self, number: int, x: Tensor, context: Context, mask: MaskPyramid, twins: int = 0) -> Tensor:
        """The transformer after the resnet of this number."""
        if not len(self.attentions):
            return x
        out: Tensor = self.attentions[number](x, context[self.first + number], mask.levels[self.depth], twins)
        return out


class Down(Block):
    """A level on the way down; at the bottom without transformers, and nothing is halved after it."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        c, deepest = config.channels, level == BOTTOM
        widths = [c[max(level - 1, 0)], *[c[level]] * (config.layers - 1)]
        super().__init__(config, level, widths, 0 if deepest else len(widths), 1e-5 if deepest else 1e-6)
        self.downsamplers = None if deepest else nn.ModuleList((Shrink(c[level]),))

    def level(self, x: Tensor, emb: Tensor, context: Context, mask: MaskPyramid, done: int = 0) -> tuple[Tensor, ...]:
        """What is found at this level, one for each resnet but those that are `done`."""
        found: tuple[Tensor, ...] = ()
        for number in range(done, len(self.resnets)):
            x = self.look(number, self.resnets[number](x, emb), context, mask)
            found = (*found, x)
        return found

    def shrink(self, x: Tensor) -> Tensor:
        assert self.downsamplers is not None
        out: Tensor = self.downsamplers[0](x)
        return out

    def forward(self, x: Tensor, emb: Tensor, context: Context, mask: MaskPyramid) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = self.level(x, emb, context, mask)
        if self.downsamplers is not None:
            found = (*found, self.shrink(found[-1]))
        return found[-1], found


class Mid(Block):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, BOTTOM, [config.channels[-1]] * 2, 1, 1e-5)

    def forward(self, x: Tensor, emb: Tensor, context: Context, mask: MaskPyramid) -> Tensor:
        out: Tensor = self.resnets[1](self.look(0, self.resnets[0](x, emb), context, mask), emb)
        return out


class Up(Block):
    """A level on the way up, each resnet beside what the way down had found."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        c = config.channels
        came = [c[min(level + 1, BOTTOM)], *[c[level]] * config.layers]  # from the resnet before
        met = [*[c[level]] * config.layers, c[max(level - 1, 0)]]  # from the way down
        widths = [width + beside for width, beside in zip(came, met, strict=True)]
        super().__init__(config, level, widths, 0 if level == BOTTOM else len(widths), 1e-6)
        self.upsamplers = None if level == TOP else nn.ModuleList((Grow(c[level]),))

    def forward(self, x: Tensor, found: tuple[Tensor, ...], emb: Tensor, context: Context, mask: MaskPyramid) -> Tensor:
        for number, resnet in enumerate(self.resnets):
            x = self.look(number, resnet(torch.cat((x, found[-1 - number]), 1), emb), context, mask)
        return x if self.upsamplers is None else self.upsamplers[0](x)
