"""The vocoder: its source is RVC's, and a piece decodes as it does in the whole."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.voice.rvc.config import CONFIGS, tiny
from vividcover.voice.rvc.vocoder import MARGIN, Vocoder, phases, sine_source

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from make_rvc import inputs  # noqa: E402
from seeded import fill, noise, shapes_of  # noqa: E402

RATE, HOP = 48000, 480


def filled(config, f0=True):
    vocoder = Vocoder(config, f0)
    vocoder.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(vocoder)).items()})
    return vocoder.eval()


def test_the_source_is_rvcs():
    f0 = inputs(tiny("v2", RATE), 2, 50)["f0"]
    draws = torch.from_numpy(noise("source", 2, 50 * HOP, 1))[..., 0]
    wanted = np.load(ORACLES / "golden_rvc.npz")["source"]
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(sine_source(f0, RATE, HOP, draws)[:, 0, ::11].numpy(), wanted, atol=1e-4)


def test_a_piece_of_the_source_is_the_piece_of_the_whole():
    f0 = inputs(tiny("v2", RATE), 1, 60)["f0"]
    draws = torch.from_numpy(noise("draws", 1, 60 * HOP))
    whole, start = sine_source(f0, RATE, HOP, draws), phases(f0, RATE, HOP)
    piece = sine_source(f0[:, 23:41], RATE, HOP, draws[:, 23 * HOP : 41 * HOP], start[:, 23:41])
    assert torch.equal(piece, whole[..., 23 * HOP : 41 * HOP])


def test_a_steady_pitch_stays_in_tune_for_an_hour():
    frames = 100 * 3600
    start = phases(torch.full((1, frames), 440.0), RATE, HOP)
    exact = (440 * HOP * np.arange(frames, dtype=object) % RATE).astype(float) / RATE  # whole numbers: no rounding
    off = np.abs(start[0].numpy() - exact)
    assert np.minimum(off, 1 - off).max() < 1e-5  # turns


def test_where_there_is_no_pitch_the_source_is_noise_alone():
    draws = torch.from_numpy(noise("draws", 1, 10 * HOP))
    silent = sine_source(torch.zeros(1, 10), RATE, HOP, draws)
    np.testing.assert_allclose(silent[0, 0].numpy(), draws[0].numpy() * (0.1 / 3), atol=1e-7)
    voiced = sine_source(torch.full((1, 10), 300.0), RATE, HOP, torch.zeros(1, 10 * HOP))
    spectrum = np.abs(np.fft.rfft(voiced[0, 0].numpy()))
    assert spectrum.argmax() == 30  # 300 Hz in a tenth of a second
    assert 0.0999 < voiced.abs().max() <= 0.1


@pytest.mark.parametrize("key", sorted(CONFIGS))
def test_a_piece_with_its_margin_decodes_as_in_the_whole(key):
    config = tiny(*key)
    margin = config.margin
    assert margin <= MARGIN
    vocoder, x = filled(config), inputs(config, 1, 60)
    z, g = torch.from_numpy(noise("z", 1, config.inter, 60)), torch.from_numpy(noise("g", 1, config.gin, 1))
    source = sine_source(x["f0"], config.rate, config.hop, torch.from_numpy(noise("draws", 1, 60 * config.hop)))
    low, high = 20, 40
    with torch.inference_mode():
        whole = vocoder(z, g, source)
        around = slice(low - margin, high + margin)
        samples = slice((low - margin) * config.hop, (high + margin) * config.hop)
        piece = vocoder(z[..., around], g, source[..., samples])
    inside = piece[..., margin * config.hop : -margin * config.hop]
    assert whole.abs().max() > 0.01
    np.testing.assert_allclose(
        inside.numpy(), whole[..., low * config.hop : high * config.hop].numpy(), atol=3e-6, rtol=0
    )


def test_the_margin_is_not_longer_than_it_must_be():
    """What lies within it does reach the piece."""
    config = tiny("v2", RATE)
    vocoder, frames = filled(config), 60
    z = torch.randn(1, config.inter, frames, requires_grad=True)
    vocoder(z, torch.randn(1, config.gin, 1), torch.randn(1, 1, frames * HOP))[0, 0, 30 * HOP].backward()
    reached = z.grad.abs().sum((0, 1)).nonzero().flatten()
    assert 30 - reached.min() in (config.margin - 1, config.margin)
    assert reached.max() - 30 <= config.margin


def test_decoding_does_not_change_what_it_is_given():
    config = tiny("v2", RATE)
    vocoder = filled(config)
    z, g = torch.randn(1, config.inter, 9), torch.randn(1, config.gin, 1)
    source = torch.randn(1, 1, 9 * HOP)
    before = z.clone(), g.clone(), source.clone()
    with torch.inference_mode():
        first, second = vocoder(z, g, source), vocoder(z, g, source)
    assert torch.equal(first, second)
    assert all(torch.equal(now, then) for now, then in zip((z, g, source), before, strict=True))


def test_training_in_bfloat16_gives_gradients_near_the_exact_ones():
    config = tiny("v2", RATE)
    vocoder, gradients = filled(config), []
    z, g, source = torch.randn(2, config.inter, 9), torch.randn(2, config.gin, 1), torch.randn(2, 1, 9 * HOP) * 0.1
    for automatic in (False, True):
        vocoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=automatic):
            audio = vocoder(z, g, source)
        assert audio.shape == (2, 1, 9 * HOP)
        audio.float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in vocoder.parameters()]))
    exact, near = gradients
    assert torch.cosine_similarity(exact, near, dim=0) > 0.99


def test_bfloat16_stays_near():
    config = tiny("v2", RATE)
    vocoder = filled(config)
    z, g, source = torch.randn(1, config.inter, 9), torch.randn(1, config.gin, 1), torch.randn(1, 1, 9 * HOP) * 0.1
    with torch.inference_mode():
        exact = vocoder(z, g, source)
        near = vocoder.bfloat16()(z.bfloat16(), g.bfloat16(), source).float()
    assert (near - exact).norm() / exact.norm() < 0.03
