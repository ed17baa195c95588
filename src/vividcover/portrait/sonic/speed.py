"""How a portrait is sampled as its options say: the published way, or faster ones.

    store = sampled(nets, look, heard, options, folder, reporter)      # `sample`, with all that the options ask for

What each speed-up changes, and what it leaves of the work; bench/portrait.py counts it. None of them has been judged
with the published weights yet: what those were trained for is the exact way.

    schedule   10 steps instead of 25, at the levels of noise that "Align Your Steps" found for SVD (Sabour et al. 2024,
               arXiv:2404.14507). 40 %. Coarser movement; a step is larger where the network is least sure.
    guidance   Two steps of a window in a row, before it meets its neighbours and moves on; in the second one the branch
               "nothing", which counts -1 against 7.5, is not computed: the difference that the first one found between
               it and "still" is taken again (Castillo et al. 2023, arXiv:2312.12487). 87 % of 10 steps, 84 % of 25.
    features   In the second of two such steps the lower levels of the network are not computed: what the first one
               found there is taken again (Ma et al. 2024, arXiv:2312.00858). 75 % of 10 steps, 70 % of 25; 70 % and
               64 % together with `guidance`. Fine movement may lag a little.
    silence    Where nobody sings, a few seconds of quiet movement, sampled once, go round (`idle.py`): windows in
               which nothing else happens are not computed. What is left is about the share that is sung.
    fp8        The transformers' linear layers multiply 8 bit numbers (`image/flux/fp8.py`): half of a forward's
               products at up to twice the speed, where the GPU can; each number is rounded to 4 significant bits.

Two steps make a turn only where the noise falls by less than `APART` between them, and never at the first step, in
which everything is decided at once. A turn of two steps moves the windows as far as a turn of one does.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vividcover.errors import ParameterError
from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.heard import Heard
from vividcover.portrait.sonic.idle import LONGEST, Idle, Rest, loop_of, rest_in
from vividcover.portrait.sonic.plan import Exact, Move, Plan
from vividcover.portrait.sonic.sampler import Crew, Listened, Look, OnLatents, sample
from vividcover.portrait.sonic.schedule import levels
from vividcover.portrait.sonic.store import Store
from vividcover.portrait.sonic.windows import Window, windows
from vividcover.progress import Part
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    import torch

    from vividcover.portrait.sonic.network import SonicUNet
    from vividcover.portrait.sonic.opening import Sonic

APART = 4.0  # the noise of two steps in one turn differs by less
SHAPES = 64  # batches and sizes of pictures that the network's parts are compiled for in the life of a process
WHOLE = Move()
TWO = (Move(deep="keep"), Move(deep="use"))
CHEAP = (WHOLE, Move(branches=("still", "voice")))
CHEAP_TWO = (Move(deep="keep"), Move(branches=("still", "voice"), deep="use"))


@dataclass(frozen=True)
class Fast:
    """A plan with speed-ups, and with rest where nobody sings."""

    sigmas: tuple[float, ...]
    speedups: tuple[str, ...] = ()
    idle: Idle | None = None
    eight_bits: bool = False  # how the network was opened: no decision, but other latents

    @property
    def key(self) -> dict[str, Any]:
        found = {"plan": "fast", "sigmas": list(self.sigmas), "turns": [list(turn) for turn in self.turns]}
        used = sorted({"guidance", "features"} & set(self.speedups))
        return found | {"speedups": used, "fp8": self.eight_bits, "idle": self.idle and self.idle.rest.key}

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        in_pairs = "guidance" in self.speedups or "features" in self.speedups
        return pairs(self.sigmas) if in_pairs else Exact(self.sigmas).turns

    def wanted(self, turn: int, window: Window) -> bool:
        return self.idle is None or not self.idle.rest.covers(window.frames)

    def move(self, step: int, window: Window) -> Move:
        turn = next(turn for turn in self.turns if step in turn)
        place = turn.index(step)
        guidance, features = "guidance" in self.speedups, "features" in self.speedups
        if len(turn) == 1:
            return WHOLE
        return (CHEAP_TWO if features and guidance else TWO if features else CHEAP)[place]

    def settle(self, turns: int, first: int, latents: Tensor) -> Tensor:
        return latents if self.idle is None else self.idle.settle(turns, first, latents)


def pairs(sigmas: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """The steps, two to a turn where their noise is alike."""
    turns: list[tuple[int, ...]] = [(0,)]
    step, steps = 1, len(sigmas) - 1
    while step < steps:
        alike = step + 1 < steps and sigmas[step] < APART * sigmas[step + 1]
        turns.append((step, step + 1) if alike else (step,))
        step += len(turns[-1])
    return tuple(turns)


def plan_of(options: SonicOptions, *, eight_bits: bool = False) -> Plan:
    """The published plan, or one with the speed-ups that the options name; nothing rests yet."""
    sigmas = tuple(levels(options.step_count, fast="schedule" in options.speedups).tolist())
    if not options.speedups and not options.idle and not eight_bits:
        return Exact(sigmas)
    return Fast(sigmas, options.speedups, eight_bits=eight_bits)


def cost_of(plan: Plan, frames: int, *, straight: bool = False) -> float:
    """What a song takes, in forwards of the network (one branch of one window)."""
    return sum(
        plan.move(step, window).cost
        for turn, steps in enumerate(plan.turns)
        for window in windows(frames, turn, straight=straight)
        if plan.wanted(turn, window)
        for step in steps
    )


def sampled(
    nets: Sonic, look: Look, heard: Listened, options: SonicOptions, folder: Path, reporter: Reporter, *,
    crew: Crew | None = None, noise: Tensor | None = None, on_preview: OnLatents | None = None,
) -> Store:  # fmt: skip
    """The latents of every frame, sampled as the options say: `sample` with its plan, and the loop of rest before it.

    Several `processes` need what was heard in files, and show no previews. Raises what `sample` raises, and
    `ParameterError` where the device cannot do what is asked.
    """
    if options.processes > 1 and crew is None and isinstance(heard, Heard):
        from vividcover.portrait.sonic.together import sample_together

        if on_preview is not None:
            reporter.note("There are no early looks at what several processes make.")
        return sample_together(nets, look, heard, options, folder, reporter, noise)
    eight_bits = nets.quantise == "fp8"
    if "fp8" in options.speedups and not eight_bits:
        gains = gains_in_8_bits(nets.device)
        why = "the network was opened without it" if gains else f"{nets.device} gains nothing by it"
        reporter.note(f"The speed-up fp8 is left out: {why}.")
    check_on(options, nets.device)
    if options.compile:
        compile_parts(nets.unet)
        options = replace(options, windows_at_once=options.windows_at_once or 1)  # few shapes, few compilations
    plan = plan_of(options, eight_bits=eight_bits)
    if rest := resting(heard, options, plan):
        assert isinstance(plan, Fast)
        length, whole = rest.length, replace(plan, idle=Idle(rest, folder))
        share = cost_of(plan, length) / max(cost_of(plan, length) + cost_of(whole, heard.frames), 1.0)
        before, reporter = Part(reporter, 0, share, "movement for rests"), Part(reporter, share, 1)
        reporter.note(rest.describe(heard.frames))
        plan = replace(plan, idle=loop_of(nets, look, heard, options, plan, rest, folder, before, crew))
    return sample(
        nets, look, heard, options, folder, reporter, plan=plan, crew=crew, noise=noise, on_preview=on_preview
    )


def resting(heard: Listened, options: SonicOptions, plan: Plan) -> Rest | None:
    """Where the portrait rests; None where nobody asked for it, where it is sung throughout, or where nothing is won.

    As a speed-up it has to save more than the loop takes; as the option `idle`, which is for the movement's sake, not.
    """
    if not (options.idle or "silence" in options.speedups) or not isinstance(plan, Fast):
        return None
    rest = rest_in(heard)
    if rest is None or options.idle:
        return rest
    whole = cost_of(plan, heard.frames, straight=options.straight)
    for longest in range(LONGEST, 0, -1):
        if shorter := rest_in(heard, longest):
            spared = replace(plan, idle=Idle(shorter, Path()))
            if cost_of(spared, heard.frames, straight=options.straight) + cost_of(plan, shorter.length) < whole:
                return shorter
    return None


# --- 8 bits, compiling ------------------------------------------------------------------------------------------------


def gains_in_8_bits(device: torch.device) -> bool:
    """Whether the device multiplies 8 bit numbers faster than others. A CPU takes twice as long."""
    from vividcover.image.flux.fp8 import runs_on

    return device.type == "cuda" and runs_on(device)


def check_on(options: SonicOptions, device: torch.device) -> None:
    """Raises `ParameterError` for options that the device is not for."""
    if options.compile and device.type != "cuda":
        raise ParameterError(f"Compiling is for CUDA devices, not for {device.type}.", "Leave `compile` out.")
    if options.processes > 1 and device.type == "mps":
        raise ParameterError("Several processes do not share one mps device.", "Leave `processes` out.")


def compile_parts(unet: SonicUNet, backend: Any = "inductor") -> int:
    """Compiles transformers and resnets, alike ones once, when they first run at a size. Returns how many there are.

    What is between them (concatenations, the halvings and doublings) is left alone. A part that is compiled already
    stays as it is.
    """
    import torch

    many: dict[str, Any] = {}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch's own is 8
        many["recompile_limit"] = SHAPES
    else:  # before torch 2.13, where settings are the whole process's
        from torch._dynamo import config as limits

        limits.recompile_limit = SHAPES
    parts = [*unet.transformers, *unet.resnets]
    for part in parts:
        if getattr(part, "_compiled_call_impl", None) is None:
            part.compile(fullgraph=True, dynamic=False, backend=backend, **many)
    return len(parts)
