"""Between pictures and latents, through SVD's autoencoder: the still on its way in, the song's frames on their way out.

    look = latents_of(rgb, vae)                          # what the UNet is shown
    for pictures in decode(latents, vae): …              # [n, 3, H, W] in 0..1, a few frames at a time
    estimate = Estimate.of(rgb, look.scaled)             # early looks: cheap, or decoded for real
    estimate(latent); decoded(latent, vae)

The published program decodes pieces of eight frames that know nothing of their neighbours: the decoder's convolutions
in time meet zeros at every piece's ends, and its norms take their statistics from the piece alone, so pictures may jump
every 0.64 s. `smooth` decodes pieces that share `SHARED` frames and lets one fade into the next; that is
1.5 times the work. Full size in fp16: eight frames of 512 x 512 px take 3.3 GB beside the weights (counted by tensors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vividcover.errors import EngineError
from vividcover.image.flux.tiles import tiled
from vividcover.portrait.sonic.config import DECODE_CHUNK, LATENT_SCALE, PIXELS
from vividcover.portrait.sonic.drawing import compiled, draw, mixed
from vividcover.workspace import Reporter, Silent

Rgb = NDArray[np.uint8]  # [H, W, 3]
SHARED = 4  # frames that neighbouring pieces have in common where they fade into each other
TILES = (64, 32)  # latent pixels a side, where not even one whole picture fits into the memory
LESS = "Use a smaller min_resolution, close what else uses this device, or choose device=cpu."


class LatentFrames(Protocol):
    """Scaled latents of a song, wherever they lie."""

    @property
    def frames(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """[stop - start, 4, h, w] float32 on the CPU."""


@dataclass(frozen=True)
class Held:
    """Latents [F, 4, h, w] that are in memory anyway."""

    values: Tensor

    @property
    def frames(self) -> int:
        return len(self.values)

    def read(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop].float().cpu()


# --- the still --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StillLatents:
    """What the UNet is shown of the still, float32 [1, 4, h, w]: `mode` beside the noise, `scaled` underneath it."""

    mode: Tensor
    scaled: Tensor


def latents_of(rgb: Rgb, vae: Any, reporter: Reporter | None = None) -> StillLatents:
    """The still [H, W, 3] (sides multiples of 8) → its latents. The autoencoder's mean is taken, nothing is drawn."""
    height, width = rgb.shape[:2]
    assert height % PIXELS == 0 == width % PIXELS, (height, width)
    roomy = _Roomy(vae, reporter or Silent(), chunk=1)
    pixels = _pixels(rgb)[None].to(vae.device)
    while (mode := roomy.encode(pixels)) is None:
        pass  # there is a smaller way, or an error
    mode = mode.float().cpu()
    return StillLatents(mode, mode * LATENT_SCALE)


def _pixels(rgb: Rgb) -> Tensor:
    """[H, W, 3] → [3, H, W] float32 in -1..1."""
    return (torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def as_rgb(pictures: Tensor) -> NDArray[np.uint8]:
    """[n, 3, H, W] in 0..1, anywhere → [n, H, W, 3] here. Rounded; the published program cuts off the fraction."""
    levels = (pictures * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


# --- the frames -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode(
    latents: LatentFrames,
    vae: Any,
    *,
    chunk: int = DECODE_CHUNK,
    smooth: bool = False,
    compile: bool = False,
    reporter: Reporter | None = None,
) -> Iterator[Tensor]:
    """All frames in their order, piece by piece: [n, 3, H, W] float32 in 0..1 on the autoencoder's device.

    `compile` compiles the decoder for pieces of the usual length: slow once, then faster. For CUDA devices.
    Where the memory does not suffice, pieces become shorter, and in the end pictures are made in tiles; where numbers
    overflow, it goes on in float32. Both are said. Raises `EngineError` where not even a tile fits.
    """
    roomy = _Roomy(vae, reporter or Silent(), chunk, compile)
    for pictures in (_faded if smooth else _apart)(latents, roomy):
        yield (pictures * 0.5 + 0.5).clamp(0, 1)


def _apart(latents: LatentFrames, roomy: _Roomy) -> Iterator[Tensor]:
    """Pieces of `chunk` frames, as published."""
    start = 0
    while start < latents.frames:
        stop = min(start + roomy.chunk, latents.frames)
        made = roomy.decode(latents.read(start, stop))
        if made is not None:
            yield made
            start = stop


def _faded(latents: LatentFrames, roomy: _Roomy) -> Iterator[Tensor]:
    """Pieces of `chunk` frames and some more, with which the next piece begins again."""
    start = 0
    left: Tensor | None = None  # [shared, 3, H, W]: how the piece before ended
    while start < latents.frames:
        shared = min(SHARED, roomy.chunk // 2)
        stop = min(start + roomy.chunk + shared, latents.frames)
        made = roomy.decode(latents.read(start, stop))
        if made is None:  # the next one is shorter, and may be too short to fade into
            if left is not None:
                yield left
                start, left = start + len(left), None
            continue
        if left is not None:
            rise = ((torch.arange(len(left)) + 1.0) / (len(left) + 1.0)).to(made)[:, None, None, None]
            made[: len(left)] = left + (made[: len(left)] - left) * rise
        own = len(made) if stop == latents.frames else roomy.chunk
        left = made[own:].clone() if own < len(made) else None
        yield made[:own]
        start += own


class _Roomy:
    """Calls the autoencoder with as much at once as fits. `None`: it did not, and the next try is a smaller one."""

    def __init__(self, vae: Any, reporter: Reporter, chunk: int, compile: bool = False) -> None:
        self.vae, self.reporter, self.chunk, self.compile = vae, reporter, max(1, chunk), compile
        self.tile = 0  # latent pixels a side; 0: whole pictures

    def encode(self, pixels: Tensor) -> Tensor | None:
        """[1, 3, H, W] in -1..1 → [1, 4, H/8, W/8]."""

        def net(x: Tensor) -> Tensor:
            latents: Tensor = self.vae.encode(x.to(self.vae.dtype)).latent_dist.mode()
            return latents

        side = max(pixels.shape[-2:]) // PIXELS
        return self._try(lambda: self._by_tiles(net, pixels, PIXELS, 1), side)

    def decode(self, latents: Tensor) -> Tensor | None:
        """Scaled latents [n, 4, h, w] → [n, 3, 8h, 8w] float32, about -1..1."""

        usual = len(latents) in (self.chunk, self.chunk + SHARED) and not self.tile
        quick = compiled() if self.compile and usual else mixed

        def net(z: Tensor) -> Tensor:
            return draw(self.vae.decoder, z.to(self.vae.dtype), quick).float()

        z = 1 / LATENT_SCALE * latents.to(self.vae.device)
        return self._try(lambda: self._by_tiles(net, z, 1, PIXELS), max(z.shape[-2:]))

    def _by_tiles(self, net: Callable[[Tensor], Tensor], x: Tensor, inner: int, outer: int) -> Tensor:
        return tiled(net, x, inner, outer, self.tile) if self.tile else net(x)

    def _try(self, work: Callable[[], Tensor], side: int) -> Tensor | None:
        made, full = None, False
        try:
            with torch.no_grad():
                made = work()
        except (torch.OutOfMemoryError, MemoryError):
            full = True  # what the error holds on to has to go before the next try
        if full:
            self._smaller(side)
        elif made is not None and not bool(torch.isfinite(made).all()):
            self._wider()
            made = None
        return made

    def _wider(self) -> None:
        if self.vae.dtype == torch.float32:
            raise EngineError("What comes out of the autoencoder are no numbers.", "Its weights or latents are broken.")
        self.reporter.note(f"The autoencoder overflows in {str(self.vae.dtype)[6:]}: it goes on in float32.")
        self.vae.to(torch.float32)

    def _smaller(self, side: int) -> None:
        """Halves the piece, then cuts the pictures. `side`: latent pixels of the longer side."""
        tiles = [tile for tile in TILES if tile < min(side, self.tile or side)]
        if self.chunk > 1:
            self.chunk //= 2
            now = f"{self.chunk} frames at a time" if self.chunk > 1 else "one frame at a time"
        elif tiles:
            self.tile = tiles[0]
            now = f"tiles of {self.tile * PIXELS} px"
        else:
            raise EngineError(f"The memory of {self.vae.device} does not suffice for the autoencoder.", LESS)
        self.reporter.note(f"Little memory is free on {self.vae.device}: the autoencoder goes on with {now}.")
        if self.vae.device.type == "cuda":
            torch.cuda.empty_cache()


# --- early looks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What latents will look like, without the autoencoder: each colour a weighted sum of the four channels.

    The weights are fitted to the still, whose picture and latents are both known.
    """

    weights: Tensor  # [5, 3]: four channels and a constant → red, green, blue in 0..1

    @classmethod
    def of(cls, rgb: Rgb, scaled: Tensor) -> Estimate:
        """rgb [8h, 8w, 3] and its scaled latents [1, 4, h, w]; a little ridge keeps plain pictures solvable."""
        x = _with_constant(scaled)
        small = F.avg_pool2d(torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].double() / 255, PIXELS)
        y = small[0].permute(1, 2, 0).reshape(-1, 3)
        ridge = 1e-3 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        return cls(torch.linalg.solve(x.T @ x + ridge, x.T @ y).float())

    def __call__(self, latent: Tensor) -> Rgb:
        """Scaled latents of a frame [4, h, w] → uint8 [8h, 8w, 3]."""
        h, w = latent.shape[-2:]
        small = (_with_constant(latent[None]).float() @ self.weights).reshape(1, h, w, 3).permute(0, 3, 1, 2)
        large = F.interpolate(small, scale_factor=PIXELS, mode="bicubic", align_corners=False)
        return np.asarray(as_rgb(large)[0])


def _with_constant(latents: Tensor) -> Tensor:
    """[1, 4, h, w] → [h * w, 5]: the channels of each place, and a one. In double precision on the CPU."""
    x = latents[0].cpu().double().flatten(1).T
    return torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype)), 1)


def decoded(latent: Tensor, vae: Any, reporter: Reporter | None = None) -> Rgb:
    """Scaled latents of a frame [4, h, w] → uint8 [8h, 8w, 3], as the autoencoder draws it alone."""
    (picture,) = decode(Held(latent[None]), vae, chunk=1, reporter=reporter)
    return np.asarray(as_rgb(picture)[0])
