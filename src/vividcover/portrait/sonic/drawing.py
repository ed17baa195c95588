"""SVD's decoder, walked our way: diffusers' modules and the same numbers, with fewer copies and less memory.

    pictures = draw(vae.decoder, z)      # z [n, 4, h, w], frames that follow each other → [n, 3, 8h, 8w]

Each block sees every frame alone, then all frames together, and mixes. What diffusers computes twice or lays out anew
is not: the convolutions in time are of two dimensions (a picture's rows do not matter to them, and for their three the
libraries are slow), intermediate values are overwritten, and the mix adds only what the frames together bring.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPES = 64  # blocks x sizes of pictures that are compiled in the life of a process
Mixed = Callable[[Any, Tensor], Tensor]


def mixed(block: Any, x: Tensor) -> Tensor:
    """One residual block, each frame alone, then the frames together: [n, C, h, w] → [n, C', h, w]."""
    alone = _alone(block.spatial_res_block, x)
    film, together = _film(alone), block.temporal_res_block
    y = _along_time(together.conv1, _lit(together.norm1, film))
    y = _along_time(together.conv2, _lit(together.norm2, y))
    # (1 - share) * film + share * (film + y), with a learned share of what the frames say together
    share = torch.sigmoid(block.time_mixer.mix_factor).to(y.dtype)
    return _frames(torch.addcmul(film, y, share), alone.shape)


@functools.lru_cache(4)
def compiled(backend: Any = "inductor") -> Mixed:
    """The same, compiled for each size that comes along: slow once, then faster. For CUDA devices."""
    many: dict[str, Any] = {}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch's own is 8
        many["recompile_limit"] = SHAPES
    else:  # before torch 2.13, where settings are the whole process's
        from torch._dynamo import config as limits

        limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    made: Mixed = torch.compile(mixed, fullgraph=True, dynamic=False, backend=backend, **many)
    return made


def draw(decoder: Any, z: Tensor, mixed: Mixed = mixed) -> Tensor:
    """Latents [n, 4, h, w], already divided by their scale → pictures [n, 3, 8h, 8w], about -1..1."""
    if z.device.type == "cpu":
        z = z.contiguous(memory_format=torch.channels_last)
    x = decoder.conv_in(z)
    first, *others = decoder.mid_block.resnets
    x = mixed(first, x)
    for attention, block in zip(decoder.mid_block.attentions, others, strict=False):  # one layer: none
        x = mixed(block, attention(x))
    for up in decoder.up_blocks:
        for block in up.resnets:
            x = mixed(block, x)
        for upsampler in up.upsamplers or ():
            x = upsampler(x)
    x = decoder.conv_out(_lit(decoder.conv_norm_out, x))
    return _frames(_along_time(decoder.time_conv_out, _film(x)), x.shape)


def _alone(block: Any, x: Tensor) -> Tensor:
    """The residual block of single frames."""
    y = block.conv1(_lit(block.norm1, x))
    y = block.conv2(_lit(block.norm2, y))
    return y.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))  # type: ignore[no-any-return]


def _lit(norm: nn.Module, x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


def _along_time(conv: nn.Conv3d, film: Tensor) -> Tensor:
    """A kernel of 3x1x1 over [1, C, n, h * w]."""
    return F.conv2d(film, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))


def _film(x: Tensor) -> Tensor:
    """[n, C, h, w] → [1, C, n, h * w]; nothing is copied where channels lie innermost."""
    return x.transpose(0, 1).flatten(2)[None]


def _frames(film: Tensor, shape: torch.Size) -> Tensor:
    """[1, C, n, h * w] → [n, C, h, w]"""
    return film[0].transpose(0, 1).reshape(shape)
