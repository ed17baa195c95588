"""One step of learning: critics learn to tell recordings from what the voice makes, then the voice learns from them.

    losses = train_step(state, batch)          # moves the weights; never waits for the device

The order and the sums are those of RVC's published recipe. The same numbers come out with less work: the critics hear
recorded and made sound in one pass; while the voice learns, they are frozen and hear the recording without keeping what
a backward pass would need; spectrograms are compared on the segment alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vividcover.voice.rvc import losses
from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.mel import bands, log_mel, spectrogram
from vividcover.voice.rvc.network import segments

if TYPE_CHECKING:
    from vividcover.voice.rvc.state import State


@dataclass(frozen=True)
class Batch:
    """Clips side by side, the shorter ones followed by zeros; T frames of 10 ms.

    What is random in a step is drawn beforehand, for each clip by itself, so that it does not depend on the device or
    on how clips are shared out among batches and processes.
    """

    features: Tensor  # [B, T, C]
    lengths: Tensor  # [B] frames
    pitch: Tensor | None  # [B, T] 1 … 255
    f0: Tensor | None  # [B, T] Hz, 0 where nothing is voiced
    spec: Tensor  # [B, n_fft/2+1, T]
    wave: Tensor  # [B, 1, T*hop]
    speaker: Tensor  # [B]
    noise: Tensor  # [B, inter, T] standard normal, of the latent
    starts: Tensor  # [B] frame at which the segment begins that is listened to
    source_noise: Tensor  # [B, segment] standard normal, of the vocal cords

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: None if v is None else v.to(device, non_blocking=True) for n, v in values.items()}
        return Batch(**moved)


@dataclass(frozen=True)
class Losses:
    """Float32 scalars on the device, weighted as they are summed: `total` is what the voice makes small."""

    critics: Tensor
    adversarial: Tensor
    features: Tensor
    mel: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        return self.adversarial + self.features + self.mel + self.kl

    def stacked(self) -> Tensor:
        """[6] in the order of NAMES, so that one transfer brings them all."""
        return torch.stack([getattr(self, name) for name in NAMES]).detach()


NAMES = ("total", "mel", "kl", "features", "adversarial", "critics")


def train_step(state: State, batch: Batch) -> Losses:
    """Teaches critics and voice by one batch."""
    critics, voice = backward(state, batch)
    state.scaler.step(state.voice_optimizer)
    state.scaler.update()
    return Losses(critics, *voice)


def backward(state: State, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The critics' step whole, and the voice's up to its gradients."""
    config = state.config
    with state.autocast():
        made, starts, mask, latents = state.voice(
            batch.features, batch.lengths, batch.pitch, batch.f0, batch.spec, batch.speaker,
            batch.noise, batch.starts, batch.source_noise,
        )  # fmt: skip
    recorded = segments(batch.wave, starts * config.hop, config.segment)
    critics = _critics_step(state, recorded, made.detach())
    state.voice_optimizer.zero_grad(set_to_none=True)
    judged = _judge(state, recorded, made)
    _, z_p, m_p, logs_p, _, logs_q = latents
    mel = losses.MEL_WEIGHT * losses.mel_loss(*_mels(config, batch.spec, starts, made))
    kl = losses.KL_WEIGHT * losses.kl_loss(z_p, logs_q, m_p, logs_p, mask)
    adversarial, features = judged
    state.scaler.scale(adversarial + features + mel + kl).backward()  # type: ignore[no-untyped-call]
    return critics, (adversarial.detach(), features.detach(), mel.detach(), kl.detach())


def _critics_step(state: State, recorded: Tensor, made: Tensor) -> Tensor:
    """recorded, made [B, 1, segment]. The critics' loss before they learnt from it."""
    state.critics_optimizer.zero_grad(set_to_none=True)
    with state.autocast():
        logits, _ = state.critics(torch.cat((recorded, made.to(recorded.dtype))))
    real, fake = zip(*(one.chunk(2) for one in logits))
    loss = losses.critics_loss(real, fake)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.step(state.critics_optimizer)
    return loss.detach()


def _judge(state: State, recorded: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """What the critics, held still, say of the voice: the adversarial and the weighted feature loss."""
    critics = state.bare_critics
    critics.requires_grad_(False)
    try:
        with state.autocast():
            with torch.no_grad():
                _, real_maps = critics(recorded)
            logits, made_maps = critics(made)
    finally:
        critics.requires_grad_(True)
    return losses.adversarial_loss(logits), losses.FEATURE_WEIGHT * losses.feature_loss(real_maps, made_maps)


def _mels(config: RvcConfig, spec: Tensor, starts: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Log mel bands [B, mels, segment_frames] of the recording's segment and of what was made, float32."""
    weights = mel_bands(config, spec.device)
    wanted = log_mel(segments(spec, starts, config.segment_frames), weights)
    got = log_mel(spectrogram(made.float()[:, 0], config.n_fft, config.hop), weights)
    return wanted, got


def mel_bands(config: RvcConfig, device: torch.device | str) -> Tensor:
    """The filters [mels, n_fft/2+1] of the mel loss: 0 Hz to half the rate, Slaney's scale."""
    return bands(config.rate, config.n_fft, config.mels).to(device)


def draw(config: RvcConfig, seed: int, epoch: int, clip: int, frames: int, padded: int) -> dict[str, Any]:
    """What is random for one clip in one epoch: `start`, noise [inter, padded], source_noise [segment].

    It follows from the four numbers alone, so training that was interrupted goes on as if it had not been.
    """
    random = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + clip) % (1 << 63))
    room = max(frames - config.segment_frames + 1, 1)
    return {
        "start": int(torch.rand((), generator=random, dtype=torch.float64) * room),
        "source_noise": torch.randn(config.segment, generator=random),
        "noise": torch.nn.functional.pad(
            torch.randn(config.inter, frames, generator=random), (0, padded - frames)
        ),
    }  # fmt: skip
