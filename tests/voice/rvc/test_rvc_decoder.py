"""The vocoder laid out for speed gives the plain network's samples, in whatever tiles and blocks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rvc_making import voice

from vividcover.voice.rvc import decoder as module
from vividcover.voice.rvc.decoder import Decoder
from vividcover.voice.rvc.vocoder import MARGIN, sine_source

FRAMES = 40


def inputs(net, frames=FRAMES, seed=0):
    """z, speaker and source of a piece with a pause in it."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(1, net.config.inter, frames, generator=random)
    f0 = torch.full((1, frames), 220.0)
    f0[:, 10:20] = 0
    noise = torch.randn(1, frames * net.config.hop, generator=random)
    source = sine_source(f0, net.config.rate, net.config.hop, noise) if net.f0 else None
    return z, net.voice(torch.tensor([1])).detach(), source


@pytest.mark.parametrize(("version", "rate", "f0"), [
    ("v2", 48_000, True), ("v1", 48_000, True), ("v2", 40_000, True), ("v1", 32_000, True), ("v2", 32_000, False),
])  # fmt: skip
def test_it_gives_the_plain_vocoders_samples(version, rate, f0):
    net = voice(version, rate, f0=f0).fold().eval()
    z, g, source = inputs(net)
    with torch.inference_mode():
        wanted = net.dec(z, g, source)
    got = Decoder(net.dec, torch.float32)(z, g, source)
    assert got.shape == wanted.shape == (1, 1, FRAMES * net.config.hop)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_tiles_change_nothing(monkeypatch):
    net = voice().fold().eval()
    given = inputs(net)
    whole = Decoder(net.dec, torch.float32)(*given)
    monkeypatch.setattr(module, "TILE", 1 << 12)
    torch.testing.assert_close(Decoder(net.dec, torch.float32)(*given), whole, atol=2e-6, rtol=0)


def test_a_piece_with_its_margins_is_that_part_of_the_whole():
    net = voice().fold().eval()
    hop, (z, g, source) = net.config.hop, inputs(net)
    decoder = Decoder(net.dec, torch.float32)
    low, high = 9, 31
    piece = decoder(z[..., low:high], g, source[..., low * hop : high * hop])
    inner = piece[..., MARGIN * hop : -MARGIN * hop]
    wanted = decoder(z, g, source)[..., (low + MARGIN) * hop : (high - MARGIN) * hop]
    torch.testing.assert_close(inner, wanted, atol=2e-6, rtol=0)


def test_bfloat16_is_near_and_nearer_than_a_network_that_is_all_of_it():
    net = voice().fold().eval()
    given = inputs(net, 24)
    exact = Decoder(net.dec, torch.float32)(*given)

    def error(audio):
        return float((audio.float() - exact).norm() / exact.norm())

    ours = error(Decoder(net.dec, torch.bfloat16)(*given))
    with torch.inference_mode():
        everywhere = error(net.dec.bfloat16()(*(value.bfloat16() for value in given)))
    assert 1e-4 < ours < 0.02 and ours < 0.7 * everywhere
