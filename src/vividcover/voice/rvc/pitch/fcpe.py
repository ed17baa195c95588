"""FCPE: pitch from a mel spectrogram with convolutions alone; the fastest of the nets.

Y. Luo et al., "FCPE: A Fast Context-based Pitch Estimation Model", 2023; the weights are torchfcpe's (10.6 M).

    net = Fcpe.load(weights.path("fcpe"))
    net.f0(samples)                          # Hz, 100 a second, 0 where there is none

Its first norm is over the whole recording, so that one is gone through twice: the norm's sums, then the rest, in
blocks that see `MARGIN` frames to either side, which is all that the convolutions reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.errors import ModelFileError
from vividcover.tensors import check_keys, read_tensors
from vividcover.voice.rvc.mel import FCPE, frames_of
from vividcover.voice.rvc.pitch.decode import BINS, Array, peak_pitch

THRESHOLD = 0.006  # salience above which a frame is voiced
WIDTH, LAYERS, KERNEL, GROUPS = 512, 6, 31, 4
BLOCK = 4000  # frames at a time (40 s)
MARGIN = 1 + LAYERS * (KERNEL // 2)  # frames


class _Depthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class _Conformer(nn.Module):
    """Norm, widen and gate, mix in time channel by channel, narrow: [B, T, 512] → the same."""

    def __init__(self) -> None:
        super().__init__()
        inner = 2 * WIDTH
        self.net = nn.ModuleDict(
            {
                "0": nn.LayerNorm(WIDTH), "2": nn.Conv1d(WIDTH, 2 * inner, 1), "4": _Depthwise(inner),
                "6": nn.Conv1d(inner, WIDTH, 1),
            }
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.net["0"](x).transpose(1, 2)
        x = F.silu(self.net["4"](F.glu(self.net["2"](x), 1)))
        return self.net["6"](x).transpose(1, 2)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conformer = _Conformer()


class Fcpe(nn.Module):
    """Log-mel frames → salience. The names of the tensors are torchfcpe's, weight norm folded."""

    def __init__(self) -> None:
        super().__init__()
        self.input_stack = nn.Sequential(
            nn.Conv1d(FCPE.mels, WIDTH, 3, padding=1), nn.GroupNorm(GROUPS, WIDTH), nn.LeakyReLU(),
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
        )  # fmt: skip
        self.net = nn.Module()
        self.net.encoder_layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.output_proj = nn.Linear(WIDTH, BINS)
        self.register_buffer("cent_table", torch.zeros(BINS))  # cents above 10 Hz
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Fcpe:
        """From torchfcpe's file. Raises `ModelFileError`."""
        return cls.from_file(read_tensors(path, "FCPE")).to(device)

    @classmethod
    def from_file(cls, content: Mapping[str, object]) -> Fcpe:
        """From what torchfcpe's file holds: `model`, and `config_dict` with the sizes."""
        tensors, config = content.get("model"), content.get("config_dict")
        sizes = config.get("model", {}) if isinstance(config, Mapping) else {}
        if not isinstance(tensors, Mapping) or not sizes.get("conv_only", False):
            raise ModelFileError(
                "This is not the FCPE file that torchfcpe publishes (fcpe_c_v001.pt).",
                "Use the published file: `vividcover weights pull fcpe`.",
            )
        return cls.from_tensors(tensors)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Fcpe:
        """From torchfcpe's tensors, in float32."""
        state = {name: tensor for name, tensor in tensors.items() if not _unused(name)}
        gain, direction = state.pop("output_proj.weight_g", None), state.pop("output_proj.weight_v", None)
        if isinstance(gain, Tensor) and isinstance(direction, Tensor):
            state["output_proj.weight"] = gain * direction / direction.norm(dim=1, keepdim=True)
        with torch.device("meta"):
            net = cls()
        check_keys(net, state, "FCPE", assign=True)
        return net.float().requires_grad_(False).eval()

    @torch.inference_mode()
    def salience(self, mel: Tensor, block: int = BLOCK) -> Tensor:
        """mel [T, 128] → [T, 360] in 0..1."""
        scale, offset = self._norm(mel, block)
        found = []
        for first in range(0, len(mel), block):
            start, end = max(0, first - MARGIN), min(first + block + MARGIN, len(mel))
            x = F.leaky_relu(torch.addcmul(offset, self._entry(mel, start, end), scale))
            # beyond the ends there is silence for the second convolution: it pads with zeros there, and only there
            x = self.input_stack[3](x).transpose(1, 2)  # [1, T, 512]
            for layer in self.net.encoder_layers:  # type: ignore[union-attr]
                x = x + layer.conformer(x)
            found.append(torch.sigmoid(self.output_proj(self.norm(x)))[0, first - start : first - start + block])
        return torch.cat(found)

    def _entry(self, mel: Tensor, start: int, end: int) -> Tensor:
        """The first convolution, [1, 512, end - start]; it sees a frame more to either side where there is one."""
        left, right = min(start, 1), min(len(mel) - end, 1)
        x: Tensor = self.input_stack[0](mel[start - left : end + right].T[None])
        return x[..., left : x.shape[-1] - right]

    def _norm(self, mel: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """The group norm over the whole recording as a gain and an offset per channel, [512, 1] each."""
        sums = torch.zeros(2, GROUPS, dtype=torch.float64, device=mel.device)
        for first in range(0, len(mel), block):
            x = self._entry(mel, first, min(first + block, len(mel))).reshape(GROUPS, -1).double()
            sums += torch.stack((x.sum(1), x.square().sum(1)))
        mean, square = sums / (len(mel) * (WIDTH // GROUPS))
        norm = cast(nn.GroupNorm, self.input_stack[1])
        spread = torch.rsqrt(square - mean.square() + norm.eps)
        gain = norm.weight * spread.repeat_interleave(WIDTH // GROUPS).float()
        offset = norm.bias - mean.repeat_interleave(WIDTH // GROUPS).float() * gain
        return gain[:, None], offset[:, None]

    def f0(self, samples: Tensor, threshold: float = THRESHOLD) -> Array:
        """samples [N] at 16 kHz → Hz [N//160 + 1]."""
        salience = self.salience(frames_of(samples.to(self.norm.weight.device), FCPE))
        table = self.cent_table.double().cpu().numpy()  # type: ignore[operator]
        return peak_pitch(salience.cpu().numpy(), threshold, table, repeat_ends=True)


def _unused(name: str) -> bool:
    """A layer's own norm belongs to an attention that this model does not have; the mask is for training."""
    return ".norm." in name or name == "gaussian_blurred_cent_mask"
