"""Whisper's encoder: what is sung, 50 times a second, as each of its layers sees it.

    states = encoder(log_mel(samples)[None])     # [B, 80, 3000] → [B, 1500, 5, 384]

Radford et al. 2022: two convolutions (the second takes every other frame), fixed sinusoids for the position, pre-norm
transformer layers. Sonic reads all the layers (tokens) and the last one (movement); here both come from one run.
Names of the tensors are those of the published file (`openai/whisper-tiny`, `model.encoder.…`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.portrait.sonic.config import AudioConfig


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C]
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, H, T, C/H]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(c.width, c.heads), nn.LayerNorm(c.width)
        self.fc1, self.fc2 = nn.Linear(c.width, c.inner), nn.Linear(c.inner, c.width)
        self.final_layer_norm = nn.LayerNorm(c.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c.mels, c.width, 3, padding=1)
        self.conv2 = nn.Conv1d(c.width, c.width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(c.positions, c.width)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.layer_norm = nn.LayerNorm(c.width)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.embed_positions.weight  # [B, T, C]
        states = []
        for layer in self.layers:
            states.append(x)
            x = layer(x)
        states.append(self.layer_norm(x))
        return torch.stack(states, 2)


class Whisper(nn.Module):
    """The published file's outer name for it; the other half, which writes down what it heard, is not needed."""

    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.encoder = Encoder(c)


class WhisperEncoder(nn.Module):
    """`config` sizes it. What goes in must be 30 seconds long: `config.positions` * 2 frames of 10 ms."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Whisper(config)
        self.requires_grad_(False).eval()

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, mels, 2T] → what enters the layers and what the last one gives, [B, T, layers + 1, width] at 50 Hz.

        The last of them, `[:, :, -1]`, is the encoder's own output.
        """
        states: Tensor = self.model.encoder(mel)
        return states
