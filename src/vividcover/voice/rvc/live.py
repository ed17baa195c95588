"""What is seen and heard of a training while it goes on: losses, time left, samples, and when it stops getting better.

live = Live(folder, total_steps, reporter, tensorboard=True)
live.step(state, losses)                   # progress, losses.jsonl, TensorBoard
heard = ear.listen(state)                  # sings the held-out clip: a wav, and how far it is from the recording
live.epoch(state, row)
"""

from __future__ import annotations

import json
import time
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vividcover.errors import EngineError
from vividcover.files import aside
from vividcover.tensors import seeded
from vividcover.voice.rvc.losses import mel_loss
from vividcover.voice.rvc.mel import log_mel, spectrogram
from vividcover.voice.rvc.state import State
from vividcover.voice.rvc.steps import NAMES, mel_bands
from vividcover.voice.rvc.tuning import coarse
from vividcover.workspace import Reporter

EVERY = 1.0  # s between two lines; between them nothing waits for the device
FORGET = 0.95  # of the running means, per line


@dataclass(frozen=True)
class Sample:
    """A clip that is sung while training: features [1, T, C], f0 [1, T] Hz, speaker [1], and its own sound [1, T*hop]
    where it is the person's."""

    name: str
    features: Tensor
    f0: Tensor
    speaker: Tensor
    recorded: Tensor | None = None


class Live:
    """Tells the reporter, `losses.jsonl` in `folder`, and TensorBoard when asked for. `quiet` tells nobody."""

    def __init__(
        self, folder: Path, total: int, reporter: Reporter, *, tensorboard: bool = False, quiet: bool = False
    ) -> None:
        self.folder, self.total, self.reporter, self.quiet = folder, max(1, total), reporter, quiet
        self.board = _board(folder / "tensorboard") if tensorboard and not quiet else None
        self.means: dict[str, float] = {}
        self._said, self._began, self._first = 0.0, time.monotonic(), -1

    def step(self, state: State, losses: Tensor) -> None:
        """After each step; losses [6]. Brings them from the device once a second. Raises `Canceled`."""
        self.reporter.check()
        self._first = state.step - 1 if self._first < 0 else self._first
        now = time.monotonic()
        if self.quiet or (now - self._said < EVERY and state.step < self.total):
            return
        self._said = now
        values = dict(zip(NAMES, losses.tolist()))
        self.means = {k: FORGET * self.means.get(k, v) + (1 - FORGET) * v for k, v in values.items()}
        left = (now - self._began) / max(1, state.step - self._first) * (self.total - state.step)
        said = f"epoch {state.epoch + 1}, step {state.step} of {self.total}, mel {self.means['mel']:.1f}"
        self.reporter.progress(min(state.step / self.total, 1.0), f"{said}, {_clock(left)} left")
        self._write({"step": state.step, "epoch": state.epoch + 1, "seconds_left": round(left, 1), **_rounded(values)})
        for key, value in values.items() if self.board else ():
            self.board.add_scalar(f"loss/{key}", value, state.step)  # type: ignore[union-attr]

    def epoch(self, state: State, row: Mapping[str, float]) -> None:
        """After each epoch, with its means and what the held-out clip said."""
        if self.quiet:
            return
        self._write({"step": state.step, "epoch_done": state.epoch, **row})
        for key, value in row.items() if self.board else ():
            self.board.add_scalar(f"epoch/{key}", value, state.epoch)  # type: ignore[union-attr]

    def sound(self, tag: str, samples: NDArray[np.float32], rate: int, step: int) -> None:
        if self.board is not None:
            self.board.add_audio(tag, samples[None], step, sample_rate=rate)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        with (self.folder / "losses.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class Ear:
    """Listens to a voice that is learning: it sings clips it has not learnt from, with the same noise each time."""

    def __init__(self, samples: list[Sample], folder: Path, seed: int) -> None:
        self.samples, self.folder, self.seed = samples, folder, seed

    @torch.no_grad()
    def listen(self, state: State, live: Live) -> float | None:
        """Writes `samples/<name>_e<epoch>.wav`; returns the mel distance to the recordings, None without any."""
        config, distances = state.config, []
        for sample in self.samples:
            voice = state.generator
            random = seeded(self.seed)
            frames = sample.features.shape[1]
            noise = torch.randn(1, config.inter, frames, generator=random)
            cords = torch.randn(1, frames * config.hop, generator=random)
            made = sing(voice, sample, noise, cords, state.device).cpu()
            if sample.recorded is not None:
                weights = mel_bands(config, "cpu")
                pair = (log_mel(spectrogram(x, config.n_fft, config.hop), weights) for x in (sample.recorded, made))
                distances.append(float(mel_loss(*pair)))
            sound = made[0].numpy()
            write_wav(self.folder / f"{sample.name}_e{state.epoch:04d}.wav", sound, config.rate)
            live.sound(sample.name, sound, config.rate, state.step)
        return round(sum(distances) / len(distances), 5) if distances else None


def sing(voice: Any, sample: Sample, noise: Tensor, cords: Tensor, device: torch.device) -> Tensor:
    """A clip through a voice [1, T*hop]. noise [1, inter, T], cords [1, T*hop]: standard normal."""
    from vividcover.voice.rvc.vocoder import sine_source

    config = voice.config
    f0 = sample.f0.to(device) if voice.f0 else None
    source = None if f0 is None else sine_source(f0, config.rate, config.hop, cords.to(device))
    pitch = torch.from_numpy(coarse(sample.f0.numpy())).to(device) if voice.f0 else None
    made: Tensor = voice.infer(
        sample.features.to(device), pitch, f0, sample.speaker.to(device), noise.to(device), source=source
    )
    return made[:, 0].float()


def hint(history: list[dict[str, float]], patience: int) -> str:
    """What to say when the held-out clip has not come closer for `patience` epochs; "" before."""
    heard = [(row["held_out"], int(row["epoch"])) for row in history if "held_out" in row]
    if not heard:
        return ""
    best, at = min(heard)
    if heard[-1][1] - at < patience:
        return ""
    return (
        f"The held-out clip has not come closer since epoch {at} (distance {best:.3f}, now {heard[-1][0]:.3f}): "
        "more epochs will gain little. More recordings would."
    )


def write_wav(out: Path, samples: NDArray[np.float32], rate: int) -> Path:
    """Mono, 16 bits."""
    with aside(out) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out


def _board(folder: Path) -> Any:
    """TensorBoard's writer. Raises `EngineError` without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise EngineError(
            "TensorBoard was asked for, and is not installed.", "Install it: pip install tensorboard."
        ) from error
    return SummaryWriter(str(folder))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 5) for key, value in values.items()}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
