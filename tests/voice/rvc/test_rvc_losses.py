"""What a voice is trained by is what RVC trains by: golden values of its own code (tests/oracles/make_losses.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vividcover.voice.rvc import losses
from vividcover.voice.rvc.config import CONFIGS, tiny
from vividcover.voice.rvc.mel import log_mel, spectrogram
from vividcover.voice.rvc.prepare import HOP, loudness, spans_of
from vividcover.voice.rvc.state import State
from vividcover.voice.rvc.steps import backward, mel_bands, train_step

ORACLES = Path(__file__).resolve().parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))

import make_losses as oracle  # noqa: E402
from seeded import signal  # noqa: E402
from training import a_batch  # noqa: E402


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(ORACLES / "golden_losses.npz")


@pytest.mark.parametrize("name", oracle.SOUNDS)
def test_spectrogram_and_mel_are_rvcs(golden: Any, name: str) -> None:
    rate = int(name[3:])
    config = CONFIGS["v2", rate]
    wave = torch.from_numpy(signal(oracle.SECONDS, rate, seed=1))[None]
    spec = spectrogram(wave, config.n_fft, config.hop)
    mel = log_mel(spec, mel_bands(config, "cpu"))
    assert np.allclose(spec[0, :, :: oracle.EVERY].numpy(), golden[f"spec_{name}"], atol=1e-4, rtol=1e-4)
    assert np.abs(mel[0, :, :: oracle.EVERY].numpy() - golden[f"mel_{name}"]).max() < 1e-4


def test_losses_are_rvcs(golden: Any) -> None:
    def tensors(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else [tensors(item) for item in value]

    real, real_maps = tensors(oracle.judged("real"))
    fake, fake_maps = tensors(oracle.judged("fake"))
    assert float(losses.kl_loss(*tensors(oracle.latents()))) == pytest.approx(float(golden["kl"]), rel=1e-5)
    assert float(losses.critics_loss(real, fake)) == pytest.approx(float(golden["critics"]), rel=1e-5)
    assert float(losses.adversarial_loss(fake)) == pytest.approx(float(golden["adversarial"]), rel=1e-5)
    features = losses.FEATURE_WEIGHT * losses.feature_loss(real_maps, fake_maps)
    assert float(features) == pytest.approx(float(golden["features"]), rel=1e-5)


def test_recordings_are_cut_where_rvc_cuts_them(golden: Any) -> None:
    sound = oracle.recording()
    hop = round(HOP * oracle.RECORDING)
    padded = np.pad(sound.astype(np.float64), (0, -len(sound) % hop)).reshape(-1, hop)
    spans = spans_of(loudness(np.square(padded).sum(axis=1), hop), oracle.RECORDING)
    assert len(spans) >= 6
    assert [[a * hop, min(b * hop, len(sound))] for a, b in spans] == golden["slices"].tolist()


def test_a_step_is_the_recipe_written_out() -> None:
    """Two networks, alike: one takes our step, the other RVC's order of operations, with nothing saved anywhere."""
    config, batch = tiny("v2", 32_000), a_batch(tiny("v2", 32_000), 2, 60)
    ours, plain = State.fresh(config), State.fresh(config)
    said = train_step(ours, batch)

    voice, critics = plain.generator, plain.bare_critics
    made, starts, mask, latents = voice(
        batch.features, batch.lengths, batch.pitch, batch.f0, batch.spec, batch.speaker, batch.noise, batch.starts,
        batch.source_noise,
    )  # fmt: skip
    bands = mel_bands(config, "cpu")
    frames = config.segment_frames
    mel = log_mel(batch.spec, bands)
    wanted = torch.stack([mel[i, :, s : s + frames] for i, s in enumerate(starts)])
    got = log_mel(spectrogram(made[:, 0], config.n_fft, config.hop), bands)
    wave = torch.stack(
        [batch.wave[i, :, s * config.hop : s * config.hop + config.segment] for i, s in enumerate(starts)]
    )

    real, fake = critics(wave)[0], critics(made.detach())[0]
    first = sum(((1 - r) ** 2).mean() + (f**2).mean() for r, f in zip(real, fake))
    plain.critics_optimizer.zero_grad()
    first.backward()
    plain.critics_optimizer.step()
    (_, real_maps), (fake, fake_maps) = critics(wave), critics(made)
    _, z_p, m_p, logs_p, _, logs_q = latents
    kl = ((logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * torch.exp(-2 * logs_p)) * mask).sum() / mask.sum()
    features = 2 * sum((r.detach() - f).abs().mean() for a, b in zip(real_maps, fake_maps) for r, f in zip(a, b))
    total = 45 * (wanted - got).abs().mean() + kl + features + sum(((1 - f) ** 2).mean() for f in fake)
    plain.voice_optimizer.zero_grad()
    total.backward()
    plain.voice_optimizer.step()

    assert float(said.critics) == pytest.approx(first.item(), rel=1e-5)
    assert float(said.total) == pytest.approx(total.item(), rel=1e-5)
    for network, other in ((ours.generator, voice), (ours.bare_critics, critics)):
        for (name, mine), theirs in zip(network.named_parameters(), other.parameters()):
            grad = theirs.grad
            if network is ours.generator:  # the critics' gradients were cleared or added to since
                assert torch.allclose(mine.grad, grad, atol=1e-5 + 1e-3 * float(grad.abs().max())), name
            close = (mine - theirs).abs() < 2.1e-4  # a step of AdamW is at most the learning rate in size
            assert close.all(), name


def test_critics_get_no_gradient_from_the_voices_step() -> None:
    config = tiny("v2", 32_000)
    state = State.fresh(config)
    batch = a_batch(config, 2, 60)
    backward(state, batch)
    first = [p.grad.clone() for p in state.bare_critics.parameters()]
    weights = [p.detach().clone() for p in state.bare_critics.parameters()]
    assert all(p.requires_grad for p in state.bare_critics.parameters())
    state.voice_optimizer.step()
    assert all(torch.equal(a, p.grad) for a, p in zip(first, state.bare_critics.parameters()))
    assert all(torch.equal(a, p) for a, p in zip(weights, state.bare_critics.parameters()))


def test_bfloat16_learns_from_nearly_the_same_losses() -> None:
    config = tiny("v2", 32_000)
    batch = a_batch(config, 2, 60)
    exact = train_step(State.fresh(config), batch).stacked()
    short = train_step(State.fresh(config, dtype=torch.bfloat16), batch).stacked()
    assert torch.allclose(exact[2:], short[2:], rtol=0.01)
    assert torch.allclose(exact[1], short[1], rtol=0.1)  # of a first sound that is hardly above the floor of the mel
