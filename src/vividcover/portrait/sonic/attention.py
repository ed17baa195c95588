"""The spatio-temporal transformers of Sonic's UNet, and all that they hear and see beside the picture.

Each of the sixteen transformers looks at one frame first (every place at all places), then along time (every place at
itself in the other frames), and mixes both. Two of its attentions go outside: to CLIP's vector of the still and to the
frame's audio tokens, each with keys and values of its own (the adapters). The audio reaches a frame only through the
soft mask of the face; along time it reaches everything, as the mean over the window.

What comes from outside is the same for every place of the picture, so it is made once for a window (`Outside`), not
for every place as in the published program; and since CLIP's vector is a single key, whose softmax is always 1, that
attention is its value alone. Both are exact.

Blattmann et al. 2023, arXiv:2311.15127 (SVD); Ye et al. 2023, arXiv:2308.06721 (adapters with keys of their own); Ji et
al. 2024, arXiv:2411.16331 (Sonic). Names of the parts are those of the published tensors.
Shapes: B windows or branches, F frames, L = h·w places, C channels, T audio tokens, d = C / heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.errors import ParameterError
from vividcover.portrait.sonic.config import PIXELS, SIDES

PERIOD = 10_000.0
LEVELS = 4
ROWS_AT_ONCE = 32_768  # sequences in one attention: CUDA's kernels end at 65,535


class Heard(NamedTuple):
    """What one cross attention gets from outside."""

    seen: Tensor  # [N, 1, C] CLIP's value
    keys: Tensor  # [N, heads, T, d] of the audio tokens
    values: Tensor  # [N, heads, T, d]


class Outside(NamedTuple):
    """What one transformer gets from outside: frame by frame (N = B·F), along time (N = B), and the frames' places."""

    frames: Heard
    time: Heard
    places: Tensor  # [F, 1, C] which frame of the window this is


Context = tuple[Outside, ...]  # one for each transformer, in their order


class MaskPyramid(NamedTuple):
    """Where the voice may move the picture, for each level of the network: [1, L, 1], about 0..1."""

    levels: tuple[Tensor, ...]

    @classmethod
    def of(cls, mask: Tensor, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> MaskPyramid:
        """From the face's mask [H, W] 0..1 in the picture's px, made smaller as published: bicubic, not smoothed.

        Values may reach a little beyond 0..1, as in the published program. Raises `ParameterError` for odd sizes.
        """
        height, width = mask.shape
        if height % SIDES or width % SIDES or not height or not width:
            raise ParameterError(
                f"The picture is {width}x{height} px, and the network draws sides that are multiples of {SIDES}.",
                "Let framing.frame choose the size.",
            )
        picture = mask.to(device, torch.float32)[None, None]
        sizes = [(height // PIXELS >> level, width // PIXELS >> level) for level in range(LEVELS)]
        small = [F.interpolate(picture, size=size, mode="bicubic", align_corners=False) for size in sizes]
        return cls(tuple(level.reshape(1, -1, 1).to(dtype) for level in small))


def spelt(numbers: Tensor, width: int) -> Tensor:
    """[N] → [N, width]: cosines, then sines, of many periods; always float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=numbers.device)
    angles = numbers.float()[:, None] * torch.exp(-math.log(PERIOD) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), -1)


class Embedding(nn.Module):
    """[N, width] → [N, out]"""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, inner)
        self.linear_2 = nn.Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class Mixer(nn.Module):
    """How much of each frame alone there is, beside what the frames together say."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, alone: Tensor, together: Tensor) -> Tensor:
        return torch.lerp(together, alone, torch.sigmoid(self.mix_factor))


class Gated(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        out: Tensor = value * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList((Gated(channels), nn.Identity(), nn.Linear(4 * channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N, heads, L, d], [N, heads, M, d] twice → [N, L, heads·d]; in pieces where a device's kernels need them."""
    if q.shape[0] <= ROWS_AT_ONCE:
        met = F.scaled_dot_product_attention(q, k, v)
    else:
        pieces = zip(*(torch.split(x, ROWS_AT_ONCE) for x in (q, k, v)), strict=True)
        met = torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])
    return met.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList((nn.Linear(channels, channels),))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, L, C]"""
        q, k, v = (_heads(to(x), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        out: Tensor = self.to_out[0](attend(q, k, v))
        return out


class CrossAttention(nn.Module):
    """Attention to CLIP's vector and, in a place of its own, to the audio tokens."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)  # in the files, but of no effect: there is one key
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList((nn.Linear(channels, channels),))
        self.processor = nn.ModuleDict(
            {
                "to_k_ip": nn.ModuleList((nn.Linear(context, channels, bias=False),)),
                "to_v_ip": nn.ModuleList((nn.Linear(context, channels, bias=False),)),
            }
        )

    def hear(self, clip: Tensor, audio: Tensor) -> Heard:
        """clip [N, 1, context], audio [N, T, context]"""
        keys, values = (next(self.processor[name].children())(audio) for name in ("to_k_ip", "to_v_ip"))
        return Heard(self.to_v(clip), _heads(keys, self.heads), _heads(values, self.heads))

    def forward(self, x: Tensor, heard: Heard, mask: Tensor | None) -> Tensor:
        """x [N, L, C], mask [1, L, 1]"""
        voice = attend(_heads(self.to_q(x), self.heads), heard.keys, heard.values)
        out: Tensor = self.to_out[0](heard.seen + (voice if mask is None else mask * voice))
        return out


def _heads(x: Tensor, heads: int) -> Tensor:
    """[N, L, C] → [N, heads, L, d]"""
    rows, length, channels = x.shape
    return x.view(rows, length, heads, channels // heads).transpose(1, 2)


class FrameBlock(nn.Module):
    """Every place looks at all places of its frame, then outside."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = SelfAttention(channels, heads)
        self.attn2 = CrossAttention(channels, heads, context)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, heard: Heard, mask: Tensor, twins: int) -> Tensor:
        """x [B·F, L, C]; the last `twins` rows are still to part."""
        x = parted(x + self.attn1(self.norm1(x)), twins)
        x = x + self.attn2(self.norm2(x), heard, mask)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class TimeBlock(nn.Module):
    """Every place looks at itself in the other frames of the window, then outside."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm_in, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(4))
        self.ff_in = FeedForward(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.attn2 = CrossAttention(channels, heads, context)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, heard: Heard, frames: int) -> Tensor:
        """x [B·F, L, C]; only the attention along time needs another order."""
        x = x + self.ff_in(self.norm_in(x))
        length, channels = x.shape[1:]
        ordered = self.norm1(x).view(-1, frames, length, channels).transpose(1, 2)  # [B, L, F, C]
        met = self.attn1(ordered.flatten(0, 1)).view(ordered.shape)
        x = x + met.transpose(1, 2).reshape(x.shape)
        whole = self.norm2(x).view(-1, frames * length, channels)  # [B, F·L, C]: they all ask the same tokens
        x = x + self.attn2(whole, heard, None).view(x.shape)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Transformer(nn.Module):
    """One of sixteen."""

    def __init__(self, channels: int, heads: int, context: int, groups: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList((FrameBlock(channels, heads, context),))
        self.temporal_transformer_blocks = nn.ModuleList((TimeBlock(channels, heads, context),))
        self.time_pos_embed = Embedding(channels, 4 * channels, channels)
        self.time_mixer = Mixer()
        self.proj_out = nn.Linear(channels, channels)

    @property
    def alone(self) -> FrameBlock:
        block = self.transformer_blocks[0]
        assert isinstance(block, FrameBlock)
        return block

    @property
    def together(self) -> TimeBlock:
        block = self.temporal_transformer_blocks[0]
        assert isinstance(block, TimeBlock)
        return block

    def hear(self, clip: Tensor, audio: Tensor) -> Outside:
        """clip [B, F, 1, context], audio [B, F, T, context]"""
        numbers = torch.arange(clip.shape[1], device=clip.device)
        places = self.time_pos_embed(spelt(numbers, self.channels).to(clip.dtype))
        return Outside(
            self.alone.attn2.hear(clip.flatten(0, 1), audio.flatten(0, 1)),
            self.together.attn2.hear(clip.mean(1), audio.mean(1)),
            places[:, None],
        )

    def forward(self, x: Tensor, outside: Outside, mask: Tensor, twins: int = 0) -> Tensor:
        """x [B·F, C, h, w], mask [1, h·w, 1]; the last `twins` of the rows are given once for two of the answer."""
        rows, channels, h, w = x.shape
        frames = outside.places.shape[0]
        y = self.proj_in(self.norm(x).permute(0, 2, 3, 1).reshape(rows, h * w, channels))
        alone = self.alone(y, outside.frames, mask, twins)
        moving = (alone.view(-1, frames, h * w, channels) + outside.places).view(alone.shape)
        y = self.proj_out(self.time_mixer(alone, self.together(moving, outside.time, frames)))
        out: Tensor = parted(x, twins) + y.view(-1, h, w, channels).permute(0, 3, 1, 2)
        return out


def parted(x: Tensor, twins: int) -> Tensor:
    """The last `twins` rows once more, at the end."""
    return torch.cat((x, x[-twins:])) if twins else x


def joined(contexts: Sequence[Context]) -> Context:
    """Several windows' contexts as that of one batch, in this order. They have the same number of frames."""
    return tuple(
        Outside(_joined([part.frames for part in parts]), _joined([part.time for part in parts]), parts[0].places)
        for parts in zip(*contexts, strict=True)
    )


def _joined(parts: Sequence[Heard]) -> Heard:
    return Heard(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
