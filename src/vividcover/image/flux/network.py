"""The transformer of FLUX.1: noise and words in, a velocity out.

    flux = Flux(config)
    rope = flux.rotary(ids)                                     # once for a loop
    velocity = flux(x, text, pooled, sigma, guidance, rope=rope)   # [B, N, 64]

Nineteen double blocks have weights of their own for picture and text, which meet in the attention; thirty-eight single
blocks treat both alike. The level of noise, the guidance scale and the pooled text steer every block: they give what a
norm is scaled and shifted by, and how much of a block's result is added (its gate).

Layers whose input is the same are one matrix, so that each block has few and large products; `config.targets` says
which rows are which layer of diffusers. Shapes: B pictures, N tokens of a picture, T of its text, L = T + N in all, the
text's first.

Peebles & Xie 2023, arXiv:2212.09748 (modulated blocks); Esser et al. 2024, arXiv:2403.03206 (two streams); Su et al.
2021, arXiv:2104.09864 (rotary positions); the division into layers: Black Forest Labs' flux repository (Apache-2.0).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.kernels import Rope, attention, gated, heads_of, join, modulated

FREQUENCIES = 256  # numbers that a level of noise is spelt out in
PERIOD = 10_000.0
THOUSAND = 1000.0  # sigma and guidance are spelt out in thousandths


class Flux(nn.Module):
    """All of it. Set `recompute` to the number of blocks whose insides are computed again in the backward pass."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        h = config.hidden
        self.config = config
        self.recompute = 0
        self.img_in = nn.Linear(config.in_channels, h)
        self.txt_in = nn.Linear(config.text_width, h)
        self.time_in = Embedder(FREQUENCIES, h)
        self.vector_in = Embedder(config.pooled_width, h)
        self.guidance_in = Embedder(FREQUENCIES, h) if config.guidance else None
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_blocks))
        self.final_mod = nn.Linear(h, 2 * h)
        self.final_out = nn.Linear(h, config.out_channels)

    def forward(
        self, x: Tensor, text: Tensor, pooled: Tensor, sigma: Tensor, guidance: Tensor | None = None,
        ids: Tensor | None = None, rope: Rope | None = None,
    ) -> Tensor:  # fmt: skip
        """x [B, N, in channels], text [B, T, text width], pooled [B, pooled width], sigma [B] 0..1, guidance [B].

        Positions by `ids` [T+N, 3] or, computed before, by `rope`. Returns the velocity [B, N, out channels].
        """
        if rope is None:
            assert ids is not None, "positions are needed"
            rope = self.rotary(ids)
        img, txt, vec = self.embed(x, text, pooled, sigma, guidance)
        return self.final(self.blocks(img, txt, vec, rope), vec)

    def embed(
        self, x: Tensor, text: Tensor, pooled: Tensor, sigma: Tensor, guidance: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """img [B, N, h], txt [B, T, h], and vec [B, h], which steers the blocks."""
        vec = self.time_in(spelt(sigma, pooled.dtype))
        if self.guidance_in is not None:
            assert guidance is not None, "this network takes a guidance scale"
            vec = vec + self.guidance_in(spelt(guidance, pooled.dtype))
        vec = F.silu(vec + self.vector_in(pooled))  # every block begins with it, so it is done once
        return self.img_in(x), self.txt_in(text), vec

    def blocks(self, img: Tensor, txt: Tensor, vec: Tensor, rope: Rope, first: int = 0) -> Tensor:
        """All blocks from number `first` on (which is a double one): the picture's tokens [B, N, h]."""
        again = self.recompute if torch.is_grad_enabled() else 0
        if torch.is_grad_enabled() and _is_compiled(self.double_blocks[0]):
            img, txt = _wanting(img), _wanting(txt)  # so that all double blocks are compiled as one and the same
        for number, block in enumerate(self.double_blocks):
            if number < first:
                continue
            if number < again:
                img, txt = checkpoint(block, img, txt, vec, rope, use_reentrant=False)
            else:
                img, txt = block(img, txt, vec, rope)
        x = torch.cat((txt, img), 1)
        for number, block in enumerate(self.single_blocks, len(self.double_blocks)):
            x = checkpoint(block, x, vec, rope, use_reentrant=False) if number < again else block(x, vec, rope)
        return x[:, txt.shape[1] :]

    def final(self, img: Tensor, vec: Tensor) -> Tensor:
        """img [B, N, h] → [B, N, out channels]"""
        scale, shift = self.final_mod(vec).chunk(2, -1)
        out: Tensor = self.final_out(modulated(img, shift, scale))
        return out

    def rotary(self, ids: Tensor) -> Rope:
        """How each position turns the pairs of numbers of a head; ids [L, 3]."""
        return Rope.of(ids, self.config.axes, self.config.theta)


def _is_compiled(block: nn.Module) -> bool:
    return getattr(block, "_compiled_call_impl", None) is not None


def _wanting(x: Tensor) -> Tensor:
    return x if x.requires_grad else x.detach().requires_grad_()


class Embedder(nn.Module):
    """[B, width] → [B, h]"""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.silu(self.first(x)))
        return out


def spelt(level: Tensor, dtype: torch.dtype) -> Tensor:
    """[B] 0..1 → [B, 256]: cosines and sines of many periods."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, dtype=torch.float32, device=level.device)
    angles = THOUSAND * level.float()[:, None] * torch.exp(-math.log(PERIOD) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), -1).to(dtype)


class DoubleBlock(nn.Module):
    """Picture and text, each with its own weights; their attention is common."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        h, mlp, d = config.hidden, config.mlp, config.head_dim
        self.heads = config.heads
        self.img_mod, self.txt_mod = nn.Linear(h, 6 * h), nn.Linear(h, 6 * h)
        self.img_qkv, self.txt_qkv = nn.Linear(h, 3 * h), nn.Linear(h, 3 * h)
        self.img_q_norm, self.img_k_norm = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.txt_q_norm, self.txt_k_norm = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.img_proj, self.txt_proj = nn.Linear(h, h), nn.Linear(h, h)
        self.img_mlp_in, self.txt_mlp_in = nn.Linear(h, mlp), nn.Linear(h, mlp)
        self.img_mlp_out, self.txt_mlp_out = nn.Linear(mlp, h), nn.Linear(mlp, h)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """img [B, N, h], txt [B, T, h], vec [B, h]"""
        tokens = txt.shape[1]
        img_shift, img_scale, img_gate, *img_mlp = self.img_mod(vec).chunk(6, -1)
        txt_shift, txt_scale, txt_gate, *txt_mlp = self.txt_mod(vec).chunk(6, -1)

        img_qkv = self.img_qkv(modulated(img, img_shift, img_scale))  # [B, N, 3h]
        txt_qkv = self.txt_qkv(modulated(txt, txt_shift, txt_scale))  # [B, T, 3h]
        weights = torch.cat(
            (
                torch.stack((self.txt_q_norm.weight, self.txt_k_norm.weight)).expand(tokens, -1, -1),
                torch.stack((self.img_q_norm.weight, self.img_k_norm.weight)).expand(img.shape[1], -1, -1),
            )
        )  # [L, 2, head_dim]
        q, k, v, _ = heads_of(torch.cat((txt_qkv, img_qkv), 1), self.heads, weights, rope)
        txt_met, img_met = torch.split(attention(q, k, v), [tokens, img.shape[1]], 1)

        img = gated(img, img_gate, self.img_proj(img_met))
        txt = gated(txt, txt_gate, self.txt_proj(txt_met))
        return self._mlp(img, self.img_mlp_in, self.img_mlp_out, *img_mlp), self._mlp(
            txt, self.txt_mlp_in, self.txt_mlp_out, *txt_mlp
        )

    @staticmethod
    def _mlp(x: Tensor, first: nn.Module, second: nn.Module, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return gated(x, gate, second(F.gelu(first(modulated(x, shift, scale)), approximate="tanh")))


class SingleBlock(nn.Module):
    """Text and picture in one row; attention and the wide layer side by side."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        h, mlp, d = config.hidden, config.mlp, config.head_dim
        self.heads = config.heads
        self.mod = nn.Linear(h, 3 * h)
        self.linear1 = nn.Linear(h, 3 * h + mlp)
        self.q_norm, self.k_norm = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.linear2 = nn.Linear(h + mlp, h)

    def forward(self, x: Tensor, vec: Tensor, rope: Rope) -> Tensor:
        """x [B, L, h], vec [B, h]"""
        shift, scale, gate = self.mod(vec).chunk(3, -1)
        weights = torch.stack((self.q_norm.weight, self.k_norm.weight))[None]  # [1, 2, head_dim]
        q, k, v, wide = heads_of(self.linear1(modulated(x, shift, scale)), self.heads, weights, rope)
        return gated(x, gate, self.linear2(join(attention(q, k, v), wide)))
