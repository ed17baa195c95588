"""HuBERT base (ContentVec): what is said in a recording, and little of who says it, 50 times a second.

    net = ContentVec.load(weights.path("contentvec"), device, dtype)
    net.features(wave16k, version="v2")          # [B, N] → [B, T, 768]; "v1": [B, T, 256]

W.-N. Hsu et al., "HuBERT", 2021; K. Qian et al., "ContentVec", 2022. Seven strided convolutions (one frame for 400
samples, every 320), a convolution over 128 frames for the position, twelve post-norm transformer layers. RVC v2 reads
the last layer, v1 the ninth through a projection. The audio is not normalised.

Published files are read under both spellings of the tensors, fairseq's (`hubert_base.pt`) and transformers' (a folder
with `pytorch_model.bin` or `model.safetensors`, or that file). Our own names are transformers', weight norm folded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vividcover.errors import AudioError, ModelFileError, ParameterError
from vividcover.tensors import check_keys, read_tensors

RATE, HOP = 16_000, 320  # Hz, samples between two frames
SHORTEST = 400  # samples that one frame sees
LAYER_V1 = 9  # the layer that v1 voices read


@dataclass(frozen=True, slots=True)
class HubertConfig:
    """Sizes; all but the kernels are found in a file by its tensors' shapes."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072  # of the feed-forward layers
    channels: int = 512  # of the convolutions
    projection: int = 256  # v1's features; 0 where the file has none
    position_kernel: int = 128  # frames
    position_groups: int = 16
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)  # samples, then frames of the layer before
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)


def _linear(layer: Any, x: Tensor) -> Tensor:
    """A layer whose weights may be in a shorter format than x."""
    product: Tensor = layer(x.to(layer.weight.dtype))
    return product


class Convolution(nn.Module):
    """[B, in, T] → [B, channels, T/stride]. The first one is normalised over all of the time."""

    def __init__(self, before: int, channels: int, kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, channels, kernel, stride, bias=False)
        if first:
            self.layer_norm = nn.GroupNorm(channels, channels)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.gelu(self.layer_norm(x) if self.first else x)


class Attention(nn.Module):
    def __init__(self, c: HubertConfig) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(c.hidden, c.hidden), nn.Linear(c.hidden, c.hidden)
        self.v_proj, self.out_proj = nn.Linear(c.hidden, c.hidden), nn.Linear(c.hidden, c.hidden)
        self.heads = c.heads

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C]
        batch, frames, width = x.shape
        x = x.to(self.q_proj.weight.dtype)
        q, k, v = (
            project(x).view(batch, frames, self.heads, -1).transpose(1, 2)  # [B, H, T, C/H]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, width))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    def __init__(self, c: HubertConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(c.hidden, c.inner)
        self.output_dense = nn.Linear(c.inner, c.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.output_dense.weight.dtype)
        return self.output_dense(F.gelu(self.intermediate_dense(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Post-norm: the sum is normalised, not what goes in."""

    def __init__(self, c: HubertConfig) -> None:
        super().__init__()
        self.attention, self.layer_norm = Attention(c), nn.LayerNorm(c.hidden)
        self.feed_forward, self.final_layer_norm = FeedForward(c), nn.LayerNorm(c.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.attention(x))
        return self.final_layer_norm(x + self.feed_forward(x))  # type: ignore[no-any-return]


class _Position(nn.Module):
    def __init__(self, c: HubertConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            c.hidden, c.hidden, c.position_kernel, padding=c.position_kernel // 2, groups=c.position_groups
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C]
        even = self.conv(x.transpose(1, 2))[..., : x.shape[1]]  # an even kernel gives one frame too many
        return F.gelu(even.transpose(1, 2))


class ContentVec(nn.Module):
    """The net. `config` sizes it; `load` fills it from a published file."""

    def __init__(self, config: HubertConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or HubertConfig()
        self.feature_extractor = nn.Module()
        self.feature_extractor.conv_layers = nn.ModuleList(
            Convolution(c.channels if i else 1, c.channels, kernel, stride, first=i == 0)
            for i, (kernel, stride) in enumerate(zip(c.kernels, c.strides))
        )
        self.feature_projection = nn.Module()
        self.feature_projection.layer_norm = nn.LayerNorm(c.channels)
        self.feature_projection.projection = nn.Linear(c.channels, c.hidden)
        self.encoder = nn.Module()
        self.encoder.pos_conv_embed = _Position(c)
        self.encoder.layer_norm = nn.LayerNorm(c.hidden)
        self.encoder.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        if c.projection:
            self.final_proj = nn.Linear(c.hidden, c.projection)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> ContentVec:
        """From a published file or a folder of transformers'. Raises `ModelFileError`."""
        return cls.from_tensors(read_tensors(_file_in(path), "ContentVec"), path.name).to(device).in_format(dtype)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], what: str = "ContentVec") -> ContentVec:
        """From the tensors of a published file, in float32. Raises `ModelFileError`."""
        named = published(tensors)
        with torch.device("meta"):
            net = cls(_config_of(named, what))
        check_keys(net, named, what, assign=True)
        return net.float().requires_grad_(False).eval()

    def in_format(self, dtype: torch.dtype) -> ContentVec:
        """Multiplies matrices in `dtype` from now on; sums, norms and convolutions keep float32.

        (In bfloat16 the seven convolutions are no faster on a CPU, and torch 2.13 there computes a grouped one with
        an even kernel and 8 channels or fewer per group wrongly, by 110 %.)
        """
        for module in list(self.modules()):
            if isinstance(module, nn.Linear):
                module.to(dtype)
        return self

    @torch.inference_mode()
    def features(self, wave: Tensor, version: str = "v2", layer: int | None = None) -> Tensor:
        """wave [B, N] at 16 kHz → [B, (N-80)//320, 768] (v2) or [B, …, 256] (v1), float32.

        `layer` counts from 1 and defaults to what the version reads. Raises `AudioError` under 400 samples (25 ms).
        """
        if wave.shape[-1] < SHORTEST:
            raise AudioError(
                f"{wave.shape[-1] / RATE:.3f} s of sound are too short for the voice's features.",
                f"At least {SHORTEST / RATE:.3f} s are needed.",
            )
        x = wave.to(self.device).float()[:, None]  # [B, 1, N]
        for conv in self.feature_extractor.conv_layers:  # type: ignore[union-attr]
            x = conv(x)
        x = self.feature_projection.layer_norm(x.transpose(1, 2))  # type: ignore[operator]
        x = _linear(self.feature_projection.projection, x).float()  # [B, T, hidden]
        x = self.encoder.layer_norm(x + self.encoder.pos_conv_embed(x))  # type: ignore[operator]
        for block in list(self.encoder.layers)[: self._depth(version, layer)]:  # type: ignore[arg-type]
            x = block(x)
        return _linear(self.final_proj, x).float() if version == "v1" else x

    def _depth(self, version: str, layer: int | None) -> int:
        """How many layers to run."""
        if version not in ("v1", "v2"):
            raise ParameterError(f"Unknown voice version {version!r}.", "Choose v1 or v2.")
        depth = layer or (LAYER_V1 if version == "v1" else self.config.layers)
        if not 1 <= depth <= self.config.layers or (version == "v1" and not self.config.projection):
            raise ModelFileError(
                f"This ContentVec cannot serve a {version} voice: it has {self.config.layers} layers"
                + (" and no `final_proj`." if version == "v1" and not self.config.projection else "."),
                "Use the published file: `vividcover weights pull contentvec`.",
            )
        return depth

    @property
    def device(self) -> torch.device:
        return self.encoder.layer_norm.weight.device  # type: ignore[union-attr, return-value]


# --- published files -----------------------------------------------------------------------------------------------

FAIRSEQ = (  # fairseq's name → transformers'
    (r"feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)
UNUSED = ("mask_emb", "masked_spec_embed", "label_embs_concat")  # of HuBERT's own training
GAIN, DIRECTION = ("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")


def published(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A published file's tensors under our names, weight norm folded, without what only its training needs."""
    inner = tensors.get("model", tensors)
    state = {str(name): value for name, value in (inner if isinstance(inner, Mapping) else tensors).items()}
    named = {_renamed(name): value for name, value in state.items()}
    named = {name: value for name, value in named.items() if name.split(".")[0] not in UNUSED}
    position = "encoder.pos_conv_embed.conv."
    for gain, direction in zip(GAIN, DIRECTION):
        if isinstance(g := named.pop(position + gain, None), Tensor):
            v = named.pop(position + direction, None)
            if isinstance(v, Tensor) and v.ndim == 3:  # normed over all but the kernel: one gain per frame of it
                v = v.float()
                named[position + "weight"] = g.float() * v / v.norm(dim=(0, 1), keepdim=True)
    return named


def _renamed(name: str) -> str:
    name = name.removeprefix("hubert.")
    for pattern, ours in FAIRSEQ:
        if (found := re.match(pattern, name)) is not None:
            return found.expand(ours) + name[found.end() :]
    return name


def _config_of(named: Mapping[str, Any], what: str) -> HubertConfig:
    """The sizes that the tensors' shapes say. Raises `ModelFileError` where that is not this network."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        tensor = named.get(name)
        if not isinstance(tensor, Tensor) or tensor.ndim != dims:
            raise ModelFileError(
                f"{what} is not a HuBERT or ContentVec file: it has no usable tensor {name!r}.",
                "Use the published file: `vividcover weights pull contentvec`.",
            )
        return tuple(tensor.shape)

    hidden, channels = shape("feature_projection.projection.weight", 2)
    _, group, kernel = shape("encoder.pos_conv_embed.conv.weight", 3)
    if hidden % max(1, hidden // 64):
        raise ModelFileError(f"{what} is {hidden} wide, which its heads cannot share.", "It is not HuBERT base.")
    layers = {int(found[1]) for name in named if (found := re.match(r"encoder\.layers\.(\d+)\.", name))}
    return HubertConfig(
        hidden=hidden,
        layers=len(layers),
        heads=max(1, hidden // 64),
        inner=shape("encoder.layers.0.feed_forward.intermediate_dense.weight", 2)[0],
        channels=channels,
        projection=shape("final_proj.weight", 2)[0] if "final_proj.weight" in named else 0,
        position_kernel=kernel,
        position_groups=max(1, hidden // max(1, group)),
    )


def _file_in(path: Path) -> Path:
    """The file of weights in a folder of transformers', or the file itself."""
    if not path.is_dir():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise ModelFileError(
        f"{path} holds neither model.safetensors nor pytorch_model.bin.",
        "Point to the folder of a HuBERT or ContentVec in transformers' layout, or to its file of weights.",
    )
