"""Pictures and masks on their way into the network, and out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vividcover.image.flux.control import FEATHER, as_mask, as_pixels, composed, region, resized, token_mask

DRAW = np.random.default_rng(0)
PHOTO = DRAW.integers(0, 256, (40, 56, 3)).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(56, 40), (32, 64), (112, 80)])
def test_pixels_and_masks_are_those_of_diffusers_processors(width: int, height: int) -> None:
    from diffusers.image_processor import VaeImageProcessor

    pixels = VaeImageProcessor(vae_scale_factor=8, vae_latent_channels=16)
    expected = pixels.preprocess(Image.fromarray(PHOTO), height=height, width=width)
    torch.testing.assert_close(as_pixels(PHOTO, width, height), expected, rtol=0, atol=1e-7)
    masks = VaeImageProcessor(
        vae_scale_factor=8, vae_latent_channels=16, do_normalize=False, do_binarize=True, do_convert_grayscale=True
    )
    soft = PHOTO[..., 0]
    assert torch.equal(
        as_mask(soft, width, height), masks.preprocess(Image.fromarray(soft), height=height, width=width)
    )


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    assert resized(PHOTO, 56, 40) is PHOTO


def test_a_mask_over_tokens_says_which_latent_pixels_are_painted() -> None:
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 8:16, 16:24] = 1  # one pixel of the latent
    tokens = token_mask(mask)
    assert tokens.shape == (1, 6, 64)
    assert tokens.sum() == 16  # it has sixteen channels
    assert (tokens.sum(dim=2)[0] == torch.tensor([0, 16, 0, 0, 0, 0])).all()


def test_a_region_says_how_much_of_each_token_is_white() -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:16, :24] = 255
    assert region(mask, 48, 32).tolist() == [1, 0.5, 0, 0, 0, 0]
    assert region(np.kron(mask, np.ones((2, 2), np.uint8)), 48, 32).tolist() == pytest.approx(
        [1, 0.5, 0, 0, 0, 0], abs=0.05
    )


def test_the_new_comes_in_over_a_few_pixels_inside_the_mask() -> None:
    old, new = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 240, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 20:] = 255
    row = composed(old, mask, new)[32, :, 0].astype(int)
    assert (row[:20] == 0).all()
    assert (np.diff(row[19 : 20 + int(FEATHER)]) > 0).all()
    assert (row[20 + int(FEATHER) :] == 240).all()
    assert (composed(old, np.full((64, 64), 255, np.uint8), new) == 240).all()
    assert (composed(old, mask, new[::2, ::2])[:, 30:] == 240).all()  # painted at half the size
