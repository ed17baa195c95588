"""What a picture is asked for with, checked before anything is loaded.

    request = Request("TOK on a stage, blue light", width=1024, height=1024, seed=7, loras=(Wearing(lora, 1.0),))

Which of a request's pictures are used depends on the base: dev and schnell take `image` (and `mask`) as the start to
change; fill takes both beside the noise; canny and depth take `control`. Every one of them takes `redux`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ImageError, ParameterError
from vividcover.image.flux.config import DOWN, PATCH

if TYPE_CHECKING:
    from vividcover.image.flux.lora import Wearing

Rgb = NDArray[np.uint8]  # [H, W, 3]
Gray = NDArray[np.uint8]  # [H, W]

GRID = DOWN * PATCH  # px: both sides are whole tokens
MOST_PIXELS = 4_400_000  # 2048 x 2048 and what the nearest sides of other ratios make of it
ONE_PASS = 2_100_000  # px; above, FLUX.1 repeats itself: it was trained on pictures of up to 2 megapixels
ULTRA = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21")
RAW_GUIDANCE = 2.0  # the look of a photo rather than of an advertisement: less guidance, and the prompt as it is
LONGEST_TEXT = 512  # tokens
DEFAULTS: dict[str, tuple[int, float]] = {  # base → (steps, guidance) of its makers
    "dev": (28, 3.5), "schnell": (4, 0.0), "fill": (50, 30.0), "canny": (50, 30.0), "depth": (50, 10.0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Request:
    """Pictures to paint: `count` of them, with seeds `seed`, `seed + 1`, …

    `steps` and `guidance` None: the base's own. `prompt_strength` 1 forgets `image`, 0.8 keeps its composition. `mask`
    is white where `image` is made anew; what it leaves black is kept pixel for pixel (`keep`). `redux` is a picture as
    part of the prompt, `redux_strength` 0..1 how much it says beside the words. `preprocessed`: `control` holds edges
    or depth already.
    """

    prompt: str
    width: int = 1024
    height: int = 1024
    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    text_length: int | None = None  # tokens; None: 512, of schnell 256
    image: Rgb | None = None
    mask: Gray | None = None
    prompt_strength: float = 0.8
    keep: bool = True
    redux: Rgb | None = None
    redux_strength: float = 1.0
    control: Rgb | None = None
    preprocessed: bool = False
    canny_low: int = 50
    canny_high: int = 200
    loras: tuple[Wearing, ...] = ()
    merged: bool = False  # add the LoRAs into the weights while painting: faster, not with masks or a quantised base
    raw: bool = False
    second_pass: float = 0.4  # above 2 megapixels: painted at one, enlarged, and painted over this strongly; 0: at once
    block_cache: float = 0.0  # skip the rest of a step whose first block changes less than this share; 0: never
    checked: bool = True  # look at the pictures before giving them out
    tolerance: int = 2  # 0 strictest … 6

    @property
    def tokens(self) -> int:
        """Of each picture."""
        return (self.width // GRID) * (self.height // GRID)


@dataclass(frozen=True, eq=False)
class Settled:
    """A request's numbers after the base's own defaults."""

    steps: int
    guidance: float | None  # None: the base takes none
    text_length: int
    strength: float  # 1: from noise alone
    notes: tuple[str, ...] = ()


def settle(request: Request, kind: str, *, takes_guidance: bool = True) -> Settled:
    """The numbers to paint with. Raises `ParameterError` or `ImageError` for what this base cannot do."""
    check(request, kind)
    steps, own = DEFAULTS[kind]
    notes: list[str] = []
    guidance: float | None = own if request.guidance is None else request.guidance
    if request.raw and guidance is not None and guidance > RAW_GUIDANCE and kind == "dev":
        notes.append(f"raw: painted with guidance {RAW_GUIDANCE:g} instead of {guidance:g}")
        guidance = RAW_GUIDANCE
    if not takes_guidance:
        if request.guidance is not None:
            notes.append(f"guidance {request.guidance:g} is not used: {kind} takes none")
        guidance = None
    length = request.text_length or (256 if kind == "schnell" else LONGEST_TEXT)
    if kind == "schnell" and length > 256:
        notes.append("schnell knows texts of up to 256 tokens; 256 are used")
        length = 256
    from_image = request.image is not None and kind in ("dev", "schnell")
    strength = request.prompt_strength if from_image else 1.0
    if strength == 0:
        notes.append("prompt_strength 0 leaves no step to paint; one is painted, which hardly changes the picture")
    return Settled(request.steps or steps, guidance, length, strength, tuple(notes))


def check(request: Request, kind: str) -> None:
    """Raises `ParameterError` or `ImageError` that names the value."""
    _check_numbers(request)
    _check_regions(request)
    for name in ("image", "redux", "control"):
        picture = getattr(request, name)
        if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8):
            raise ImageError(f"`{name}` is {picture.dtype} {list(picture.shape)}, not RGB bytes.", "Give [H, W, 3].")
    if (mask := request.mask) is not None:
        if request.image is None:
            raise ParameterError("There is a mask but no image.", "Give the image that the mask belongs to.")
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ImageError(f"The mask is {mask.dtype} {list(mask.shape)}, not bytes.", "Give [H, W].")
        if not (mask >= 128).any():
            raise ImageError("The mask is black: nothing is to be made anew.", "Paint the part to change in white.")
    if kind == "fill" and (request.image is None or mask is None):
        raise ParameterError("FLUX Fill needs an image and a mask.", "Give both: white in the mask is made anew.")
    if kind in ("canny", "depth") and request.control is None:
        raise ParameterError(f"FLUX {kind} needs a control picture.", "Give the picture to follow.")
    if kind in ("canny", "depth") and (request.image is not None or mask is not None):
        raise ParameterError(f"FLUX {kind} takes a control picture and no image to change.", "Leave `image` out.")
    if kind not in ("canny", "depth") and request.control is not None:
        raise ParameterError(f"FLUX {kind} follows no control picture.", "Use the base flux-canny or flux-depth.")


def _check_numbers(request: Request) -> None:
    ranges: list[tuple[str, Any, float, float]] = [
        ("count", request.count, 1, 64), ("seed", request.seed, 0, 2**63 - 1),
        ("prompt_strength", request.prompt_strength, 0, 1), ("redux_strength", request.redux_strength, 0, 1),
        ("canny_low", request.canny_low, 0, 500), ("canny_high", request.canny_high, 0, 500),
        ("tolerance", request.tolerance, 0, 6), ("block_cache", request.block_cache, 0, 1),
        ("second_pass", request.second_pass, 0, 1),
    ]  # fmt: skip
    if request.steps is not None:
        ranges.append(("steps", request.steps, 1, 200))
    if request.guidance is not None:
        ranges.append(("guidance", request.guidance, 0, 100))
    if request.text_length is not None:
        ranges.append(("text_length", request.text_length, 1, LONGEST_TEXT))
    for name, value, low, high in ranges:
        if not low <= value <= high:  # refuses NaN too
            raise ParameterError(f"{name} is {value}.", f"It goes from {low:g} to {high:g}.")
    if request.canny_low > request.canny_high:
        said = f"canny_low_threshold {request.canny_low} is over canny_high_threshold {request.canny_high}."
        raise ParameterError(said, "Give the lower number first.")
    for name, side in (("width", request.width), ("height", request.height)):
        if side < GRID or side % GRID:
            raise ParameterError(f"{name} is {side} px.", f"Give a multiple of {GRID}, at least {GRID}.")
    if request.width * request.height > MOST_PIXELS:
        raise ParameterError(
            f"A picture of {request.width} x {request.height} px is too large.", "Ask for up to 4 megapixels."
        )
    if not request.prompt.strip():
        raise ParameterError("The prompt is empty.", "Say in words what to show.")


def _check_regions(request: Request) -> None:
    for wearing in request.loras:
        if wearing.mask is None:
            continue
        if wearing.mask.numel() != request.tokens:
            said = f"A LoRA's region is for {wearing.mask.numel()} tokens, and the picture has {request.tokens}."
            raise ParameterError(said, f"Make it for {request.width} x {request.height} px: a token is 16 x 16.")
        if request.merged:
            raise ParameterError("LoRAs with regions cannot be added into the weights.", "Leave `merged` out.")


def ultra_size(ratio: str, megapixels: float = 4.0) -> tuple[int, int]:
    """(width, height) in px of a picture of about this many megapixels (of 2^20 px): sides are multiples of 32.

    Raises `ParameterError` for an unknown ratio.
    """
    if ratio not in ULTRA:
        raise ParameterError(f"There is no aspect ratio {ratio!r}.", f"Choose one of {', '.join(ULTRA)}.")
    across, down = (int(part) for part in ratio.split(":"))
    area = megapixels * 2**20
    width, height = (round(sqrt(area * share) / 32) * 32 for share in (across / down, down / across))
    return width, height
