"""Small training sets and batches for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vividcover.voice.rvc.config import RvcConfig, tiny
from vividcover.voice.rvc.data import SetWriter, TrainingSet
from vividcover.voice.rvc.mel import spectrogram
from vividcover.voice.rvc.steps import Batch

torch.set_num_threads(1)  # small sums are slower on many, and tests share the cores
REPORT = {
    "recordings": 1, "clips": 4, "unreadable": [], "minutes_heard": 0.1, "minutes": 0.1, "minutes_voiced": 0.1,
    "dropped_seconds": {}, "f0_hz": {"low": 100.0, "median": 120.0, "high": 150.0}, "sung": 0.0, "advice": [],
}  # fmt: skip


def nano(version: str = "v2", rate: int | str = 32_000) -> RvcConfig:
    """Smaller than `tiny`, and a step listens to 80 ms."""
    small = tiny(version, rate)
    return replace(
        small, inter=8, hidden=16, filter=16, layers=1, upsample_initial=32, gin=8, critic=16, segment=8 * small.hop
    )


def a_batch(config: RvcConfig, size: int, frames: int, seed: int = 0) -> Batch:
    """Numbers without meaning, of the right kind."""
    random = torch.Generator().manual_seed(seed)
    wave = 0.1 * torch.randn(size, frames * config.hop, generator=random)
    return Batch(
        torch.randn(size, frames, config.features, generator=random), torch.full((size,), frames),
        torch.randint(1, 255, (size, frames), generator=random), torch.full((size, frames), 150.0),
        spectrogram(wave, config.n_fft, config.hop), wave[:, None], torch.zeros(size, dtype=torch.long),
        torch.randn(size, config.inter, frames, generator=random),
        torch.randint(0, frames - config.segment_frames, (size,), generator=random),
        torch.randn(size, config.segment, generator=random),
    )  # fmt: skip


def a_set(folder: Path, clips: int = 4, frames: int = 70, rate: int = 32_000) -> TrainingSet:
    """Clips of noise with a pitch, all of the same length."""
    config = nano("v2", rate)
    random = np.random.default_rng(0)
    writer = SetWriter(folder, config.features)
    for number in range(clips):
        wave = 0.1 * random.standard_normal(frames * config.hop)
        content = random.standard_normal((frames // 2, config.features))
        f0 = np.full(frames, 120.0 + number)
        writer.add(f"clip_{number}", *(array.astype(np.float32) for array in (wave, content, f0)))
    return writer.close("made", REPORT)
