"""Sonic's two small nets between whisper and the UNet (Ji et al. 2024, sections 3.2 and 3.3).

    tokens = Audio2Token(config)(states)         # 200 ms of sound → what the mouth does, 32 tokens
    buckets = Audio2Bucket(config)(last, clip)   # a second of sound, and the still → how much head and face move

Names of the tensors are those of the published `audio2token.pth` and `audio2bucket.pth`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.portrait.sonic.config import BUCKET_REACH, BUCKET_SCALE, BUCKET_SHIFT, TOKEN_REACH, AudioConfig

BUCKETS = 2  # numbers: movement of the head, and of the face


class Audio2Token(nn.Module):
    """Whisper's states around a frame → its tokens."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = c = config
        self.proj1 = nn.Linear(TOKEN_REACH * (c.layers + 1) * c.width, c.hidden)
        self.proj2 = nn.Linear(c.hidden, c.hidden)
        self.proj3 = nn.Linear(c.hidden, c.tokens * c.context)
        self.norm = nn.LayerNorm(c.context)
        self.requires_grad_(False).eval()

    def forward(self, states: Tensor) -> Tensor:
        """states [n, 10, layers + 1, width] → [n, tokens, context]."""
        x = F.relu(self.proj2(F.relu(self.proj1(states.flatten(1)))))
        return self.norm(self.proj3(x).unflatten(1, (self.config.tokens, -1)))  # type: ignore[no-any-return]

    def silent(self) -> Tensor:
        """The tokens of no sound at all, [tokens, context]: what the branches without the voice hear."""
        c = self.config
        return self(self.proj1.weight.new_zeros(1, TOKEN_REACH, c.layers + 1, c.width))[0]  # type: ignore[no-any-return]


class Audio2Bucket(nn.Module):
    """Whisper's last states around a frame, and CLIP's vector of the still → two numbers."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = c = config
        self.proj1 = nn.Linear(BUCKET_REACH * c.width + c.context, c.hidden)
        self.proj2 = nn.Linear(c.hidden, c.hidden)
        self.proj3 = nn.Linear(c.hidden, BUCKETS)
        self.requires_grad_(False).eval()

    def forward(self, last: Tensor, clip: Tensor) -> Tensor:
        """last [n, 50, width], clip [1, context] → [n, 2], as the UNet is told them."""
        x = torch.cat((last.flatten(1), clip.expand(len(last), -1)), 1)
        x = F.silu(self.proj2(F.silu(self.proj1(x))))
        return BUCKET_SCALE * self.proj3(x) + BUCKET_SHIFT  # type: ignore[no-any-return]
