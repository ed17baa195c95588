"""Small voices and nets that the tests of a conversion sing with: of the published shapes, filled by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "oracles"))
from seeded import fill, shapes_of, signal

from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.tensors import write_tensors
from vividcover.voice.rvc.checkpoint import write_voice_file
from vividcover.voice.rvc.config import tiny
from vividcover.voice.rvc.hubert import ContentVec, HubertConfig
from vividcover.voice.rvc.network import Synthesizer

__all__ = ["content_vec", "fill", "read_pcm", "shapes_of", "signal", "song", "voice", "voice_file", "write_pcm"]
SMALL = HubertConfig(layers=1, inner=64, channels=32, position_kernel=16, position_groups=48)


def tensors(net: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in fill(shapes_of(net), seed).items()}


def voice(version: str = "v2", rate: int = 48_000, *, f0: bool = True, seed: int = 0, **sizes: Any) -> Synthesizer:
    from dataclasses import replace

    net = Synthesizer(replace(tiny(version, rate), **sizes), f0)
    net.load_state_dict(tensors(net, seed))
    return net


def voice_file(path: Path, version: str = "v2", rate: int = 48_000, **more: Any) -> Path:
    """A published `.pth` of a small voice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_voice_file(path, voice(version, rate, **more), info="1epoch")


def content_vec(path: Path) -> Path:
    write_tensors(path, tensors(ContentVec(SMALL)), {})
    return path


def song(path: Path, seconds: float, rate: int = 44_100, channels: int = 2, seed: int = 0) -> Path:
    """A working file with a test voice in it; the channels differ in level."""
    mono = signal(seconds, rate, seed)
    return write_pcm(path, np.stack([mono * (1 - 0.4 * channel) for channel in range(channels)]), rate)
