"""Pictures from FLUX: from words, from a picture, inside a mask, along edges or depth, in the manner of a picture.

painter = Painter(open_base(files, device=device, dtype=dtype), guard=Guard.from_weights(weights, device=device))
pictures = painter.paint(Request("TOK on a stage", seed=7, loras=(Wearing(lora, 1.0),)), reporter)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vividcover.image.flux.request import Request, Rgb

if TYPE_CHECKING:
    from vividcover.image.flux.depth import Depth
    from vividcover.image.flux.opening import Base
    from vividcover.image.flux.redux import Redux
    from vividcover.image.flux.safety import Guard
    from vividcover.workspace import Reporter


@dataclass(frozen=True, eq=False)
class Picture:
    """One painted picture. Where `safe` is False, `rgb` is a plain grey that stands for what was held back."""

    rgb: Rgb  # [H, W, 3]
    seed: int
    safe: bool = True
    why: str = ""  # it was held back


class Painter:
    """Paints with one base. `redux` and `depth` are asked for only by requests that need them."""

    def __init__(
        self, base: Base, *, guard: Guard | None = None, redux: Redux | None = None, depth: Depth | None = None,
        lean: bool = False, compiled: bool = False,
    ) -> None:  # fmt: skip
        """`lean` frees the text encoders after each request; `compiled` is for CUDA: slow once, then faster."""
        self.base, self.guard, self.redux, self.depth = base, guard, redux, depth
        self.lean, self.compiled = lean, compiled

    def paint(self, request: Request, reporter: Reporter | None = None) -> list[Picture]:
        """`request.count` pictures.

        Raises `ParameterError` and `ImageError` for a request that the base cannot serve, `EngineError` when the
        pictures must be checked and there is no checker, `ImageError` when every picture was held back, `Canceled`.
        """
        raise NotImplementedError  # until the network is here
