"""What fits: how many windows, and how many of the branches of guidance, go through the network at once.

    fit = fit_on(unet, (64, 64), branches=3)            # Fit(windows=2, branches=3, …) on the UNet's own device
    fit.describe()                                      # "2 windows x 3 branches at once: about 16 GB of 139"

One branch of one window needs `PER_CHANNEL` live numbers for each channel of the top level, place and frame: where most
lives is the gated feed-forward of the top level, whatever the size of picture and network (counted on the meta device:
30 to 32; tests/portrait/sonic/test_sonic_memory.py). A GPU gains from a larger batch only while its units are not
all at work: above `ROWS` rows of the top level nothing is gained, and memory is left for what else runs there. On a CPU
a window goes alone: nothing is gained at all.

Full size at 512 x 512 px in fp16: weights 3.15 GB (2.2 with fp8 linears), 2.0 GB for a branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vividcover.errors import EngineError
from vividcover.portrait.sonic.config import BRANCHES, LATENT_CHANNELS, PIXELS, WINDOW

if TYPE_CHECKING:
    from torch import nn

    from vividcover.portrait.sonic.config import UNetConfig

PER_CHANNEL = 32.0  # live numbers at most
KEPT = 2.0  # of the deep features: the second level's channels, twice those of the top one
ROWS = 700_000  # of the top level in one batch: two windows of 512 x 512 px with three branches
SPARE = 0.8e9  # bytes for what an allocator, cuDNN and cuBLAS take
USABLE = 0.92  # of what is free
HINT = "Use a smaller min_resolution, the speed-up fp8, or a device with more memory."


@dataclass(frozen=True)
class Fit:
    """`windows` go through together, each with `branches` of guidance at once; the other branches follow after."""

    windows: int
    branches: int
    needed: float  # bytes beside the weights, about
    memory: float  # bytes that were free; 0: nobody says

    def describe(self) -> str:
        plural = "" if self.windows == 1 else "s"
        of = f" of {self.memory / 1e9:.0f} that are free" if self.memory else ""
        return f"{self.windows} window{plural} x {self.branches} branches at once: about {self.needed / 1e9:.1f} GB{of}"


def needed(config: UNetConfig, latents: tuple[int, int], size: int, rows: int, *, keeps: bool = False) -> float:
    """Bytes beside the weights, about, for `rows` windows or branches of a picture of `latents` (h, w).

    `size` is that of a number in bytes; `keeps`: a step keeps its deep features for the next.
    """
    h, w = latents
    most = config.channels[0] * (PER_CHANNEL + (KEPT if keeps else 0.0)) + 4.0 * LATENT_CHANNELS
    return rows * WINDOW * h * w * most * size + SPARE


def fit(
    config: UNetConfig, latents: tuple[int, int], size: int, memory: float, *, branches: int = BRANCHES,
    wanted: int = 0, gains: bool = True, keeps: bool = False,
) -> Fit:  # fmt: skip
    """The largest batch that fits into `memory` bytes (0: nobody says, so nothing is spared) and gains something.

    `wanted` windows at once are a wish that is followed while it fits; `gains`: larger batches are faster there. Raises
    `EngineError` where not even one branch of one window fits.
    """
    h, w = latents
    rows = WINDOW * h * w * branches
    most = wanted or (max(ROWS // rows, 1) if gains else 1)
    ways = [(windows, branches) for windows in range(most, 0, -1)] + [(1, few) for few in range(branches - 1, 0, -1)]
    for windows, few in ways:
        bytes_ = needed(config, latents, size, windows * few, keeps=keeps)
        if memory <= 0 or bytes_ <= USABLE * memory:
            return Fit(windows, few, bytes_, memory)
    least = needed(config, latents, size, 1, keeps=keeps)
    raise EngineError(
        f"A portrait of {w * PIXELS} x {h * PIXELS} px needs {least / 1e9:.1f} GB beside the network's weights, and "
        f"{memory / 1e9:.1f} are free.",
        HINT,
    )


def fit_on(
    unet: nn.Module, latents: tuple[int, int], *, branches: int = BRANCHES, wanted: int = 0, keeps: bool = False
) -> Fit:
    """The same for a network where it lies, and what is free there now."""
    from vividcover.image.flux.opening import room_on

    weight = next(unet.parameters())
    config: UNetConfig = unet.config  # type: ignore[assignment]
    memory = room_on(weight.device) or 0.0
    gains = weight.device.type != "cpu"
    return fit(
        config, latents, weight.element_size(), memory, branches=branches, wanted=wanted, gains=gains, keeps=keeps
    )
