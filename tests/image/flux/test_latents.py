"""Latents become tokens and back without loss, in the order that the transformer knows."""

from __future__ import annotations

import pytest
import torch

from vividcover.image.flux.latents import fill_channels, noise, pack, pack_mask, positions, unpack


@pytest.mark.parametrize(("h", "w"), [(8, 8), (8, 12), (6, 20)])
def test_tokens_are_the_latents_in_another_order(h: int, w: int) -> None:
    latents = torch.randn(2, 16, h, w)
    tokens = pack(latents)
    assert tokens.shape == (2, h * w // 4, 64)
    assert torch.equal(unpack(tokens, h, w), latents)


def test_a_token_holds_two_by_two_latent_pixels_channel_by_channel() -> None:
    latents = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    token = pack(latents)[0, 4]  # second row, second column
    assert token.tolist() == [*latents[0, 0, 2:4, 2:4].flatten(), *latents[0, 1, 2:4, 2:4].flatten()]


def test_text_stands_at_zero_and_pictures_row_by_row() -> None:
    ids = positions(4, 6, text=3)
    assert ids.shape == (3 + 6, 3)
    assert ids[:3].abs().max() == 0
    assert ids[3:].tolist() == [[0, r, c] for r in range(2) for c in range(3)]


def test_the_same_seed_gives_the_same_noise_and_another_seed_another() -> None:
    assert torch.equal(noise(64, 96, 7), noise(64, 96, 7))
    assert noise(64, 96, 7).shape == (1, 16, 12, 8)
    assert not torch.equal(noise(64, 96, 7), noise(64, 96, 8))
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(noise(64, 96, generator), noise(64, 96, 7))


def test_fill_is_told_each_pixel_of_the_mask() -> None:
    mask = torch.zeros(1, 32, 48)
    mask[0, 17, 33] = 1  # in the token of the second row and the third column
    tokens = pack_mask(mask)
    assert tokens.shape == (1, 6, 256)
    assert tokens[0].sum(-1).tolist() == [0, 0, 0, 0, 0, 1]
    beside = fill_channels(torch.randn(1, 16, 4, 6), mask)
    assert beside.shape == (1, 6, 320)
    assert torch.equal(beside[..., 64:], tokens)
