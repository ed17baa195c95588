"""What a voice is trained to make small.

    total = adversarial + 2 · features + 45 · mel + kl        of the generator
    discriminator                                             of the critics

Batches are [B, …]; every loss is a float32 scalar, averaged over the batch; nothing here waits for the device.
The mel term compares the voice with its own recording, which is what carries the learning; the critics add what a mean
over spectrograms cannot see. Sources: Kong et al., "HiFi-GAN" (2020), equations 1 to 9; Kim et al., "VITS" (2021),
equation 4; the constants are those of RVC's published recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MEL_WEIGHT, FEATURE_WEIGHT, KL_WEIGHT = 45.0, 2.0, 1.0


def mel_loss(wanted: Tensor, got: Tensor) -> Tensor:
    """Mean distance of two log mel spectrograms [B, mels, T], unweighted: 1.0 is 8.7 dB."""
    return F.l1_loss(got.float(), wanted.float())


def kl_loss(z_p: Tensor, logs_q: Tensor, m_p: Tensor, logs_p: Tensor, mask: Tensor) -> Tensor:
    """How far what is heard lies from what the content says, summed over channels, averaged over frames.

    z_p, logs_q, m_p, logs_p [B, 192, T]; mask [B, 1, T] is one where a clip has frames.
    """
    z_p, logs_q, m_p, logs_p, mask = (x.float() for x in (z_p, logs_q, m_p, logs_p, mask))
    divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p).square() * torch.exp(-2.0 * logs_p)
    return (divergence * mask).sum() / mask.sum()


def critics_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What the critics make small: they should say 1 to what was recorded, 0 to what was made. [B, n] per critic."""
    return torch.stack([(1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake)]).sum()


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """What the generator makes small: the critics should take what it made for recorded."""
    return torch.stack([(1 - f.float()).square().mean() for f in fake]).sum()


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """How differently the critics' layers see a recording and what was made of it. Per critic, per layer."""
    pairs = [(r, f) for one, other in zip(real, fake) for r, f in zip(one, other)]
    return torch.stack([F.l1_loss(f.float(), r.float().detach()) for r, f in pairs]).sum()
