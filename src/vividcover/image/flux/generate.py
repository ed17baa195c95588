"""Pictures from FLUX: from words, from a picture, inside a mask, along edges or depth, in the manner of a picture.

    painter = Painter(open_base(files, device=device, dtype=dtype), guard=Guard.from_weights(weights, device=device))
    pictures = painter.paint(Request("TOK on a stage", seed=7, loras=(Wearing(lora, 1.0),)), reporter)

Every picture has its own generator: its seed alone makes it again, whichever others are painted beside it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vividcover.errors import EngineError, ImageError
from vividcover.image.flux.cache import BlockCache
from vividcover.image.flux.canny import edges
from vividcover.image.flux.config import DOWN
from vividcover.image.flux.control import composed, resized
from vividcover.image.flux.latents import unpack
from vividcover.image.flux.lora import Worn, wear
from vividcover.image.flux.request import GRID, ONE_PASS, Request, Rgb, Settled, settle
from vividcover.image.flux.safety import HINT, stand_in
from vividcover.image.flux.sampling import Run, Start, Stepper, begin
from vividcover.patience import Patient
from vividcover.progress import Part
from vividcover.tensors import seeded
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from vividcover.image.flux.depth import Depth
    from vividcover.image.flux.network import Flux
    from vividcover.image.flux.opening import Base, Text
    from vividcover.image.flux.redux import Redux
    from vividcover.image.flux.safety import Guard

SIZES = 256  # of pictures, that the blocks are compiled for in the life of a process
REMEMBERED = 8  # prompts whose embeddings are kept
FIRST_PASS = 2**20  # px of the first of two passes
ROOM = 32  # ranks: beside a compiled network there is room for whole ones of these
REDUX = "Pull it: `vividcover weights pull flux-redux`."
DEPTH = (
    "Pull it: `vividcover weights pull depth-anything-v2-small`, or give a control picture that holds depth already."
)
MEMORY = "Ask for a smaller picture, or go_fast, which holds FLUX in 8 bits; or free memory on the device."


@dataclass(frozen=True, eq=False)
class Picture:
    """One painted picture. Where `safe` is False, `rgb` is a plain grey that stands for what was held back."""

    rgb: Rgb  # [H, W, 3]
    seed: int
    safe: bool = True
    why: str = ""  # it was held back


class Painter:
    """Paints with one base. `guard`, `redux` and `depth` are asked for only by requests that need them."""

    def __init__(
        self, base: Base, *, guard: Guard | None = None, redux: Redux | None = None, depth: Depth | None = None,
        lean: bool = False, compiled: bool = False,
    ) -> None:  # fmt: skip
        """`lean` frees what reads prompts and pictures after each use; `compiled`, for CUDA: slow once, then faster."""
        self.base, self.guard, self.redux, self.depth, self.lean = base, guard, redux, depth, lean
        self.compiled = compiled
        self._texts: dict[tuple[str, int], tuple[Text, str]] = {}  # and what of the prompt did not fit
        self._worn: Worn | None = None  # LoRAs that stay on
        if compiled:
            compile_blocks(base.flux)

    def paint(self, request: Request, reporter: Reporter | None = None) -> list[Picture]:
        """`request.count` pictures; those that were held back say why.

        Raises `ParameterError` and `ImageError` for a request that the base cannot serve, `EngineError` when the
        pictures must be checked and cannot be or when memory runs out, `ImageError` when every picture was held back,
        `Canceled`.
        """
        reporter = reporter or Silent()
        settled = settle(request, self.base.kind, takes_guidance=self.base.config.guidance)
        for note in settled.notes:
            reporter.note(note)
        self._demand(request)
        with _listening(self.base, reporter) as run, _memory_errors(request):
            painted = self._paint(request, settled, run, _Once(reporter, 0, 0.98))
            return self._looked_at(painted, request, run)

    # --- the pictures ----------------------------------------------------------------------------------------------

    def _paint(self, request: Request, settled: Settled, run: Run, reporter: Part) -> list[Rgb]:
        if is_large(request) and request.second_pass:
            return self._in_two_passes(request, settled, run, reporter)
        text = self._text(request, settled.text_length, run, reporter)
        control = self._control(request, run)
        rgbs = []
        with self._wearing(request, reporter):
            for number in range(request.count):
                part = reporter.part(number / request.count, (number + 1) / request.count)
                start = begin(self.base, request, settled, control, seeded(request.seed + number), run)
                rgbs.append(self._developed(self._denoised(start, text, settled, request, run, part), request, run))
        return rgbs

    def _in_two_passes(self, request: Request, settled: Settled, run: Run, reporter: Part) -> list[Rgb]:
        """A large picture: painted at one megapixel, enlarged, and its details painted anew."""
        width, height = first_size(request.width, request.height)
        reporter.note(
            f"painted at {width} x {height} px, enlarged to {request.width} x {request.height} and painted over"
        )
        fine = replace(settled, strength=request.second_pass)
        rgbs = []
        for number in range(request.count):
            part = reporter.part(number / request.count, (number + 1) / request.count)
            one = replace(request, count=1, seed=request.seed + number)
            small = replace(one, width=width, height=height, loras=scaled_masks(one, width, height))
            draft = self._paint(small, settled, run, part.part(0, 0.25))[0]
            over = replace(one, image=draft, second_pass=0.0)
            rgbs += self._paint(over, fine, run, part.part(0.25, 1))
        return rgbs

    def _denoised(
        self, start: Start, text: Text, settled: Settled, request: Request, run: Run, reporter: Part
    ) -> Tensor:
        """[1,N,64] without noise."""
        step = Stepper(self.base, text, settled.guidance, start, request.height // DOWN, request.width // DOWN)
        step.cache = BlockCache(request.block_cache) if request.block_cache else None
        x, steps = start.latents, len(start.sigmas) - 1
        for i in range(steps):
            x = run(step, x, i)
            reporter.progress((i + 1) / (steps + 1), f"step {i + 1} of {steps}")
        if step.cache is not None:
            reporter.note(f"{step.cache.reused} of {steps} steps went on with the blocks of the step before")
        if not bool(x.isfinite().all()):
            raise EngineError("The picture came out as no numbers.", "A LoRA's scale may be far too large.")
        return x

    def _developed(self, x: Tensor, request: Request, run: Run) -> Rgb:
        rgb = as_rgb(run(self.base.decode, unpack(x, request.height // DOWN, request.width // DOWN)))
        if request.mask is not None and request.image is not None and request.keep:
            return composed(request.image, request.mask, rgb)
        return rgb

    # --- what they need --------------------------------------------------------------------------------------------

    def _demand(self, request: Request) -> None:
        """What would fail after minutes of painting fails now."""
        if request.checked:
            if self.guard is None:
                raise EngineError("There is no safety checker to look at the pictures, so none are painted.", HINT)
            self.guard.ready()
        if request.redux is not None and self.redux is None:
            raise EngineError("FLUX Redux is not there, so a picture cannot be part of the prompt.", REDUX)
        if self.base.kind == "depth" and not request.preprocessed and self.depth is None:
            raise EngineError("The net that sees depth is not there.", DEPTH)

    def _text(self, request: Request, length: int, run: Run, reporter: Reporter) -> Text:
        """The prompt's embeddings, with the picture's behind the words'."""
        key = (request.prompt, length)
        if key not in self._texts:
            reporter.progress(0.0, "reading the prompt")
            text = run(self.base.encode_text, [request.prompt], length)
            self._texts[key] = text, self.base.left_out(request.prompt, length)
            while len(self._texts) > REMEMBERED:
                del self._texts[next(iter(self._texts))]
            if self.lean:
                self.base.release("text")
        text, gone = self._texts[key]
        if gone:
            reporter.note(f"the prompt is longer than {length} tokens of text; left out at its end: {gone}")
        if request.redux is None or self.redux is None or not request.redux_strength:
            return text
        seen = run(self.redux.tokens, request.redux, request.redux_strength)
        if self.lean:
            self.redux.release()
        return replace(text, tokens=torch.cat([text.tokens, seen.to(text.tokens)], dim=1))

    def _control(self, request: Request, run: Run) -> Rgb | None:
        """What the control picture comes to: edges or depth, at the size of the picture."""
        if request.control is None:
            return None
        small = resized(request.control, request.width, request.height)
        if request.preprocessed:
            return small
        if self.base.kind == "canny":
            return edges(small, request.canny_low, request.canny_high)
        assert self.depth is not None  # _demand
        found: Rgb = run(self.depth.of, small)
        if self.lean:
            self.depth.release()
        return found

    @contextlib.contextmanager
    def _wearing(self, request: Request, reporter: Reporter) -> Iterator[None]:
        """The network with the request's LoRAs. What is compiled keeps the last ones on, so that others fit in."""
        loras = [wearing for wearing in request.loras if wearing.weight]
        stays = self.compiled and not request.merged and all(wearing.mask is None for wearing in loras)
        if self._worn is not None and not (stays and self._worn.swap(loras)):
            self._worn.off()
            self._worn = None
        if not loras or self._worn is not None:
            yield
            return
        room = -(-sum(wearing.lora.rank for wearing in loras) // ROOM) * ROOM if stays else 0
        worn = wear(self.base.flux, self.base.config, loras, merged=request.merged, room=room)
        for note in worn.notes:
            reporter.note(note)
        if stays:
            self._worn = worn
            yield
            return
        with worn:
            yield

    def _looked_at(self, painted: list[Rgb], request: Request, run: Run) -> list[Picture]:
        """The pictures, or what stands for them. Raises `ImageError` when not one may be shown."""
        seeds = [request.seed + i for i in range(len(painted))]
        if not request.checked or self.guard is None:
            return [Picture(rgb, seed) for rgb, seed in zip(painted, seeds, strict=True)]
        verdicts = run(self.guard.look, painted, request.tolerance)
        if not any(verdict.safe for verdict in verdicts):
            every = "The picture was" if len(painted) == 1 else f"All {len(painted)} pictures were"
            raise ImageError(f"{every} {verdicts[0].why}.", "Change the prompt or the seed.")
        return [
            Picture(rgb if verdict.safe else stand_in(rgb), seed, verdict.safe, verdict.why)
            for rgb, seed, verdict in zip(painted, seeds, verdicts, strict=True)
        ]


# sizes and colours -------------------------------------------------------------------------------------------------


def is_large(request: Request) -> bool:
    """Whether two passes are better than one: more pixels than FLUX.1 knows, and nothing that fixes the composition."""
    return request.width * request.height > ONE_PASS and request.image is None and request.control is None


def first_size(width: int, height: int) -> tuple[int, int]:
    """The size of the same shape with about one megapixel, for the first of two passes."""
    scale = sqrt(FIRST_PASS / (width * height))
    across, down = (max(round(side * scale / GRID), 1) * GRID for side in (width, height))
    return across, down


def as_rgb(pixels: Tensor) -> Rgb:
    """uint8 [H,W,3] of [1,3,H,W] in -1..1."""
    grey = (pixels[0].float() * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.asarray((grey * 255).round().astype(np.uint8))


def scaled_masks(request: Request, width: int, height: int) -> tuple[Any, ...]:
    """The request's LoRAs with their regions brought to another size of the picture."""
    rows, columns = request.height // GRID, request.width // GRID
    return tuple(
        wearing if wearing.mask is None
        else replace(wearing, mask=adaptive_avg_pool2d(
            wearing.mask.float().view(1, rows, columns), (height // GRID, width // GRID)
        ).flatten())
        for wearing in request.loras
    )  # fmt: skip


class _Once(Part):
    """Says the same thing once, however many pictures and passes say it."""

    def __init__(self, outer: Reporter, low: float, high: float) -> None:
        super().__init__(outer, low, high)
        self._said: set[str] = set()

    def note(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            super().note(message)


# how it runs -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _listening(base: Base, reporter: Reporter) -> Iterator[Run]:
    """A way to call that can be canceled. On a CPU a step takes seconds, so it works in a thread of its own; a CUDA
    device is given its work at once and at most one call ahead of what it has done."""
    if base.device.type != "cuda":
        with Patient(reporter) as patient:
            yield patient.call
        return
    events: Any = torch.cuda.Event
    behind: deque[Any] = deque(maxlen=2)

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        reporter.check()
        if len(behind) == 2:
            behind[0].synchronize()
        result = function(*arguments)
        behind.append(events())
        behind[-1].record()
        return result

    with torch.cuda.device(base.device):
        yield run


@contextlib.contextmanager
def _memory_errors(request: Request) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = f"{request.width} x {request.height} px"
        raise EngineError(f"The memory does not suffice for a picture of {size}.", MEMORY) from error


def compile_blocks(flux: Flux, backend: str = "inductor", *, any_size: bool = False) -> None:
    """Compiles the two kinds of block, each once for all its layers, when they first run at a size.

    `any_size`: once for all sizes, which is a little slower to run and spares the wait where there are many.
    """
    many: dict[str, Any] = {}
    if "recompile_limit" in signature(torch.compile).parameters:  # torch's own is 8
        many["recompile_limit"] = SIZES
    else:  # before torch 2.13, where settings are the whole process's
        from torch._dynamo import config as limits

        limits.recompile_limit = SIZES
    for block in (*flux.double_blocks, *flux.single_blocks):
        block.compile(fullgraph=True, dynamic=any_size, backend=backend, **many)
