"""Sizes that photos are trained at: as they are shaped, at several resolutions, never enlarged.

A photo keeps its aspect ratio. Around each resolution (512, 768, 1024: the side of a square of that many pixels) it is
scaled down to at most that area and cut at the middle to sides that the network can take. A photo that has fewer pixels
is taken as it is; where that makes two resolutions the same size, the photo enters once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vividcover.errors import ImageError, ParameterError
from vividcover.image.photos import Photo

STEP = 16  # px: eight by the autoencoder, two by FLUX's patches
LATENT = 8  # px of a photo in one of its latents
RANGE = (64, 4096)  # of a resolution


@dataclass(frozen=True, order=True, slots=True)
class Bucket:
    """A size in px, and the smallest of the asked resolutions that makes it."""

    width: int
    height: int
    resolution: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of latents."""
        return self.height // LATENT, self.width // LATENT

    @property
    def tokens(self) -> int:
        """Image tokens that the network sees."""
        return (self.width // STEP) * (self.height // STEP)


def buckets(width: int, height: int, resolutions: Iterable[int], step: int = STEP) -> list[Bucket]:
    """The sizes, smallest first, that a photo of `width` x `height` px is trained at: multiples of `step`.

    Raises `ParameterError` for a resolution that cannot be, `ImageError` for a photo smaller than one step.
    """
    wanted = sorted(set(resolutions))
    if not wanted or wanted[0] < RANGE[0] or wanted[-1] > RANGE[1]:
        raise ParameterError(
            f"Resolutions {', '.join(map(str, wanted)) or 'are missing'}: each is {RANGE[0]} to {RANGE[1]}.",
            'Give "512,768,1024".',
        )
    if step < STEP or step % STEP:
        raise ParameterError(f"Sizes in steps of {step} px do not fit the network.", f"Give a multiple of {STEP}.")
    if min(width, height) < step:
        raise ImageError(f"A photo of {width} x {height} px is smaller than {step} px.", "Give larger photos.")
    found: dict[tuple[int, int], Bucket] = {}
    for resolution in wanted:
        size = _size(width, height, resolution * resolution, step)
        found.setdefault(size, Bucket(*size, resolution))
    return list(found.values())


def _size(width: int, height: int, area: int, step: int) -> tuple[int, int]:
    """Of the sizes within the area and within the photo, the one that cuts the least away, then the largest."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    across, down = width * scale / step, height * scale / step  # in steps

    def near(exact: float, most: int) -> set[int]:
        low = max(1, math.floor(exact))
        return {low, min(low + 1, max(1, most))}

    choices = [
        (w * step, h * step)
        for w in near(across, width // step)
        for h in near(down, height // step)
        if w * h * step * step <= area
    ] or [(max(1, math.floor(across)) * step, max(1, math.floor(down)) * step)]
    return max(choices, key=lambda size: _kept(width, height, size) * math.sqrt(size[0] * size[1] / area))


def _kept(width: int, height: int, size: tuple[int, int]) -> float:
    """Share of the photo that the middle cut of this shape keeps, 0..1."""
    shape, wanted = width / height, size[0] / size[1]
    return min(shape, wanted) / max(shape, wanted)


def table(photos: Iterable[Photo], resolutions: Iterable[int], step: int = STEP) -> list[dict[str, Any]]:
    """What the photos come to, for people and JSON: width, height, resolution, photos, and how many would enlarge."""
    wanted = sorted(set(resolutions))
    counted: Counter[Bucket] = Counter()
    for photo in photos:
        counted.update(buckets(*size_of(photo), wanted, step))
    return [
        {"width": b.width, "height": b.height, "resolution": b.resolution, "tokens": b.tokens, "photos": n}
        for b, n in sorted(counted.items(), key=lambda item: (item[0].resolution, -item[1], item[0]))
    ]


def size_of(photo: Photo) -> tuple[int, int]:
    """(width, height) of the prepared photo, px."""
    with Image.open(photo.path) as image:
        return image.size


def _window(size: tuple[int, int], bucket: Bucket) -> tuple[float, float, float, float]:
    """The middle of a picture in the bucket's shape: left, top, right, bottom in its px."""
    width, height = size
    scale = min(width / bucket.width, height / bucket.height)
    across, down = bucket.width * scale, bucket.height * scale
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def pixels(photo: Photo, bucket: Bucket) -> NDArray[np.float32]:
    """float32 [3, H, W], -1..1: the photo at the bucket's size, resampled once (Lanczos)."""
    with Image.open(photo.path) as image:
        rgb = image.convert("RGB")
        size = (bucket.width, bucket.height)
        small = rgb.resize(size, Image.Resampling.LANCZOS, box=_window(rgb.size, bucket))
    return np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1.0)


def mask(photo: Photo, bucket: Bucket) -> NDArray[np.float32]:
    """float32 [H/8, W/8], 0..1, at the latents' size: 1 where the photo is to be learned; ones without a mask."""
    rows, columns = bucket.shape
    if photo.mask is None:
        return np.ones((rows, columns), np.float32)
    with Image.open(photo.mask) as image:
        grey = image.convert("L")
        small = grey.resize((columns, rows), Image.Resampling.BOX, box=_window(grey.size, bucket))
    return np.asarray(small, np.float32) / 255.0
