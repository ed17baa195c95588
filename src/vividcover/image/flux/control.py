"""Pictures as the network takes them: pixels, masks, and what stands beside the noise in fill, canny and depth.

Sizes and filters are those of diffusers' pipelines (Lanczos; a mask is cut at one half), and so is the order in which
random numbers are drawn, so that a seed gives the same picture there and here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate

from vividcover.image.flux.config import DOWN, LATENT_CHANNELS
from vividcover.image.flux.latents import fill_channels, pack
from vividcover.image.flux.request import GRID, Gray, Rgb

if TYPE_CHECKING:
    from vividcover.image.flux.opening import Base

FEATHER = 6.0  # px inside the mask over which the new picture comes in


def resized(picture: Rgb | Gray, width: int, height: int) -> Rgb | Gray:
    """The picture at exactly this size, Lanczos; the same one where it has it."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def as_pixels(rgb: Rgb, width: int, height: int) -> Tensor:
    """[1,3,H,W] float32 in -1..1."""
    small = torch.from_numpy(np.array(resized(rgb, width, height), np.float32) / 255)
    return small.permute(2, 0, 1)[None] * 2 - 1


def as_mask(gray: Gray, width: int, height: int) -> Tensor:
    """[1,1,H,W] float32: 1 where the picture is made anew, else 0."""
    small = np.asarray(resized(gray, width, height), np.float32) / 255
    return torch.from_numpy((small >= 0.5).astype(np.float32))[None, None]


def token_mask(mask: Tensor) -> Tensor:
    """A mask [1,1,H,W] over packed latents [1,N,64]: each latent pixel takes its nearest pixel of the mask."""
    height, width = mask.shape[2] // DOWN, mask.shape[3] // DOWN
    return pack(interpolate(mask, size=(height, width)).repeat(1, LATENT_CHANNELS, 1, 1))


def region(mask: Gray, width: int, height: int) -> Tensor:
    """[N] in 0..1: how much of each image token of a picture of this size is white. For `Wearing.mask`."""
    full = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    return avg_pool2d(torch.from_numpy(full)[None], GRID).flatten()


def beside_fill(base: Base, pixels: Tensor, mask: Tensor, generator: Generator) -> Tensor:
    """[1,N,320] for FLUX Fill: latents of the picture without its masked part, and the mask, 256 pixels a token."""
    return fill_channels(base.encode_pictures(pixels * (1 - mask), generator), mask[:, 0])


def beside_control(base: Base, pixels: Tensor, generator: Generator) -> Tensor:
    """[1,N,64] for FLUX Canny and Depth: the edges or the depth as latents."""
    return pack(base.encode_pictures(pixels, generator))


def composed(original: Rgb, mask: Gray, painted: Rgb) -> Rgb:
    """`painted`, brought to the size of `original`, inside the mask; every pixel outside it is the original's own.

    The new picture comes in over a few pixels inside the mask, so that no seam shows.
    """
    height, width = original.shape[:2]
    white = (resized(mask, width, height) >= 128).astype(np.uint8)
    inside = cv2.distanceTransform(np.pad(white, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    share = np.clip(inside / FEATHER, 0, 1)[..., None]  # a mask that is white throughout has no edge: cv2 says far
    fresh = resized(painted, width, height).astype(np.float32)
    mixed = np.rint(original + (fresh - original) * share)
    return np.where(white[..., None] == 1, mixed, original).astype(np.uint8)
