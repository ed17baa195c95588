"""A LoRA that learns: thin matrices beside the frozen layers of FLUX. Worn ones, of finished files: `worn.py`.

    adapter = attach(flux, config, rank=16)              # all 494 layers of the blocks
    optimizer = AdamW(adapter.parameters()); …           # flux(...) now answers with the LoRA
    write_lora(path, adapter.to_lora())
    adapter.detach()                                     # flux is what it was, bit for bit

    y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ        A [r, in] random, B [out, r] zero (Hu et al., "LoRA", 2021)

Layers that our network computes as one (q, k, v, and of the single blocks also the MLP's first) have their A stacked
to one matrix [n·r, in], and their B are the blocks of a block-diagonal one. So there are two thin products beside each
of the base's, however many layers of diffusers that is; and they are added into the base's result in place, forward
and backward, where the textbook way writes a second result of full size and adds the two.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.image.flux.config import FluxConfig, Target, block_targets, targets
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.image.flux.quant import Frozen, put
from vividcover.image.flux.worn import Wearing, Worn, wear

__all__ = ["Adapter", "Wearing", "Worn", "attach", "chosen", "wear"]

WORTH_A_CALL = 1 << 17  # numbers of a layer's result on a CPU, above which a product of its own for each part pays


def spread(b: Tensor, places: Tensor | None) -> Tensor:
    """[rows, r] → [rows, n·r], the block-diagonal matrix; `places` [rows, n] is 1 where a row is of that part."""
    return b if places is None else (b[:, None] * places[:, :, None]).flatten(1)


def gathered(wide: Tensor, places: Tensor | None) -> Tensor:
    """[rows, n·r] → [rows, r], the blocks of `spread` again; what lies outside of them is left out."""
    if places is None:
        return wide
    return (wide.view(*places.shape, -1) * places[:, :, None]).sum(1)


def _blocks(rows: list[int]) -> Tensor:
    """[all rows, n]: 1 where a row is of that part."""
    return torch.eye(len(rows)).repeat_interleave(torch.tensor(rows), 0)


class Side(nn.Module):
    """What lies beside rows `start` to `stop` of a layer: neighbouring parts that share the input, each of rank r."""

    places: Tensor | None  # [rows, n], in the number format that is computed with; None: one part

    def __init__(
        self, names: list[str], parts: list[Target], rank: int, device: torch.device, dtype: torch.dtype,
        computed: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names, self.rank = names, rank
        self.rows = [part.outputs for part in parts]
        self.start, self.stop = parts[0].start, parts[-1].stop
        self.a = nn.Parameter(torch.zeros(len(parts) * rank, parts[0].inputs, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(self.stop - self.start, rank, device=device, dtype=dtype))
        places = _blocks(self.rows) if len(parts) > 1 else None
        self.register_buffer("places", None if places is None else places.to(device, computed), persistent=False)

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A [n·r, in] and the block-diagonal B [rows, n·r] to compute with."""
        return self.a.to(dtype), spread(self.b.to(dtype), self.places)


class Adapted(nn.Module):
    """A layer of the base with its LoRA: takes the layer's place in the network."""

    def __init__(self, base: Any, sides: list[Side], scale: float, dropout: float) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        self.sides = nn.ModuleList(sides)
        self.in_features, self.out_features = base.in_features, base.out_features
        whole = len(sides) == 1 and (sides[0].start, sides[0].stop) == (0, base.out_features)
        known = isinstance(base, Frozen) or type(base) is nn.Linear
        self.joint = tuple(sides) if whole and known and not dropout else ()  # its one side, where that is all

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.scale == 0:
            return cast(Tensor, self.base(x))
        if self.joint and not torch.compiler.is_compiling():
            side = self.joint[0]
            y: Tensor = _Joint.apply(x, side.a, side.b, side.places, side.rows, self.scale, self.base)  # type: ignore[no-untyped-call]
            return y
        return self._apart(x)

    def _apart(self, x: Tensor) -> Tensor:
        """The same in plain operations: for a compiler, which joins them by itself, and for all that is rare."""
        y: Tensor = self.base(x)
        learning = self.training and torch.is_grad_enabled()
        thin = F.dropout(x, self.dropout) if self.dropout and learning else x
        for side in cast(list[Side], list(self.sides)):
            a, b = side.matrices(x.dtype)
            change = F.linear(F.linear(thin, a), b if self.scale == 1 else b * self.scale)
            if change.shape[-1] < y.shape[-1]:
                change = F.pad(change, (side.start, y.shape[-1] - side.stop))
            y = y + change
        return y


class _Joint(torch.autograd.Function):
    """Base and LoRA at once. Of the activations, x and x Aᵀ are kept.

    The block-diagonal B is built where a call costs more than the product, on GPUs and for small layers: then there is
    one product for all parts. Else it stays [rows, r], and each part has its own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, places: Tensor | None, rows: list[int], scale: float, base: Any
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # [M, in]
        apart = len(rows) > 1 and x.device.type == "cpu" and len(flat) * len(b) > WORTH_A_CALL
        if apart:
            places = None  # B is not built
        thin, wide = a.to(x.dtype), spread(b.to(x.dtype), places)
        y = F.linear(flat, base.weight, base.bias) if type(base) is nn.Linear else base.product(flat)
        h = torch.mm(flat, thin.t())  # [M, n·r]
        for of_y, of_h, of_b in _each(rows, y, h, wide) if apart else ((y, h, wide),):
            of_y.addmm_(of_h, of_b.t(), alpha=scale)
        ctx.save_for_backward(flat, h, thin, wide, places)
        ctx.base, ctx.rows, ctx.scale, ctx.dtype = base, rows if apart else (), scale, a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        flat, h, thin, wide, places = ctx.saved_tensors
        base, shape = ctx.base, dy.shape[:-1]
        dy = dy.reshape(-1, dy.shape[-1])
        if ctx.rows:
            both = [(of_dy @ of_b, of_dy.t() @ of_h) for of_dy, of_h, of_b in _each(ctx.rows, dy, h, wide)]
            dh, db = torch.cat([d for d, _ in both], 1), torch.cat([d for _, d in both])
        else:
            dh, db = torch.mm(dy, wide), torch.mm(dy.t(), h)
        if ctx.scale != 1:
            dh.mul_(ctx.scale)
            db.mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dy, base.weight) if type(base) is nn.Linear else base.back(dy)
            dx = dx.addmm_(dh, thin).view(*shape, -1)
        da = torch.mm(dh.t(), flat).to(ctx.dtype)
        return dx, da, gathered(db, places).to(ctx.dtype), None, None, None, None


def _each(rows: list[int], y: Tensor, h: Tensor, b: Tensor) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """What is of each part: of y [M, all rows], h [M, n·r] and b [all rows, r]."""
    return zip(torch.split(y, rows, 1), torch.split(h, b.shape[1], 1), torch.split(b, rows), strict=True)


@dataclass(eq=False)
class Adapter:
    """All that was put into a network by `attach`."""

    flux: nn.Module
    layers: dict[str, Adapted]  # by our name of the layer
    rank: int
    alpha: float
    trained: list[nn.Parameter]  # of the base, before

    @property
    def scale(self) -> float:
        """What B A is multiplied with. From `attach` on alpha / rank; 0 switches the LoRA off."""
        return next(iter(self.layers.values())).scale

    @scale.setter
    def scale(self, value: float) -> None:
        for layer in self.layers.values():
            layer.scale = value

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Within, the network answers as without the LoRA."""
        before, self.scale = self.scale, 0.0
        try:
            yield
        finally:
            self.scale = before

    def sides(self) -> Iterator[tuple[str, Side]]:
        for name, layer in self.layers.items():
            for number, side in enumerate(cast(list[Side], list(layer.sides))):
                yield (f"{name}.{number}" if len(layer.sides) > 1 else name), side

    def named(self) -> dict[str, nn.Parameter]:
        """What learns: of each layer of ours the stacked A and the stacked B."""
        return {f"{name}.{which}": getattr(side, which) for name, side in self.sides() for which in ("a", "b")}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named().values())

    def to_lora(self, base: str = "") -> Lora:
        """A copy on the CPU, by diffusers' names."""
        pairs: dict[str, Pair] = {}
        for _, side in self.sides():
            a_parts, b_parts = torch.split(side.a.detach(), side.rank), torch.split(side.b.detach(), side.rows)
            for name, a, b in zip(side.names, a_parts, b_parts, strict=True):
                pairs[name] = Pair(a.cpu().clone(), b.cpu().clone(), self.alpha)
        return Lora(pairs, base=base)

    def load(self, lora: Lora) -> None:
        """Goes on from a LoRA of the same layers and rank; another alpha of it goes into B. Raises `ModelFileError`."""
        own = [name for _, side in self.sides() for name in side.names]
        strange = sorted(set(own) ^ set(lora.pairs))
        if strange:
            who = "is missing in" if strange[0] in own else "is only in"
            raise ModelFileError(
                f"The LoRA is of other layers: {strange[0]} {who} the file, and {len(strange) - 1} more differ.",
                "Choose the same layers as for the LoRA to go on from.",
            )
        for _, side in self.sides():
            for name, rows in zip(side.names, side.rows, strict=True):
                pair = lora.pairs[name]
                if pair.a.shape != (self.rank, side.a.shape[1]) or pair.b.shape != (rows, self.rank):
                    raise ModelFileError(
                        f"{name} of the LoRA is of rank {pair.rank} and {pair.b.shape[0]} x {pair.a.shape[1]}, "
                        f"not of rank {self.rank} and {rows} x {side.a.shape[1]}.",
                        "Choose the rank of the LoRA to go on from.",
                    )
        own_scale = self.alpha / self.rank
        with torch.no_grad():
            for _, side in self.sides():
                found = [lora.pairs[name] for name in side.names]
                side.a.copy_(torch.cat([pair.a for pair in found]))
                side.b.copy_(torch.cat([pair.b.to(side.b.dtype) * (pair.scale / own_scale) for pair in found]))

    def detach(self) -> None:
        """Takes the LoRA out; the network is what it was before `attach`. Raises `EngineError` below another one."""
        for name, layer in self.layers.items():
            if self.flux.get_submodule(name) is not layer:
                raise EngineError(f"Another LoRA lies over the one of {name}.", "Take that one out first.")
        for name, layer in self.layers.items():
            put(self.flux, name, layer.base)
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.layers = {}


def attach(
    flux: nn.Module, config: FluxConfig, *, rank: int, alpha: float | None = None, pattern: str | None = None,
    seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0,
) -> Adapter:  # fmt: skip
    """Puts a LoRA into the network, whose own weights stop learning.

    `alpha` None is the rank: a scale of 1. `pattern` is a regular expression that is searched in diffusers' names of
    the blocks' layers (with or without `transformer.` before them); None takes them all. Weights are in `dtype`, and
    computed with in the activations' format. `dropout` leaves out that share of the inputs; parts that share an input
    share what is left out; drawn from torch's global generator. Raises `ParameterError`.
    """
    if rank < 1:
        raise ParameterError(f"rank is {rank}.", "Choose a whole number from 1.")
    if not 0 <= dropout < 1:
        raise ParameterError(f"dropout is {dropout}.", "Choose a share from 0, and below 1.")
    alpha = float(rank if alpha is None else alpha)
    random = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in flux.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    computed = next(weight.dtype for weight in flux.parameters())  # a layer that is never quantised
    layers: dict[str, Adapted] = {}
    for module, parts in by_module(config, chosen(config, pattern)).items():
        base = flux.get_submodule(module)
        device = next(chain(base.parameters(), base.buffers())).device
        sides = [Side([n for n, _ in run], [t for _, t in run], rank, device, dtype, computed) for run in _runs(parts)]
        for side in sides:
            width = side.a.shape[1] ** -0.5  # as peft: Kaiming, uniform, with a = √5
            noise = torch.empty(side.a.shape).uniform_(-width, width, generator=random)
            side.a.data.copy_(noise)
        layers[module] = Adapted(base, sides, alpha / rank, dropout)
        put(flux, module, layers[module])
    return Adapter(flux, layers, rank, alpha, trained)


def chosen(config: FluxConfig, pattern: str | None) -> list[str]:
    """Names of the blocks' layers that a regular expression finds. Raises `ParameterError` where it finds none."""
    names = block_targets(config)
    if not pattern:
        return names
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ParameterError(
            f"The pattern {pattern!r} is no regular expression: {error}.", "For example: attn\\.to_(q|k|v)$"
        ) from error
    found = [name for name in names if regex.search(name) or regex.search(f"transformer.{name}")]
    if not found:
        plain = re.sub(r"[\\^$()|?*+\[\]]", "", pattern).removeprefix("transformer.")
        near = difflib.get_close_matches(plain, names, 3, 0.3) or names[:3]
        raise ParameterError(
            f"The pattern {pattern!r} finds no layer among {len(names)}.", f"Names are like {', '.join(near)}."
        )
    return found


def by_module(config: FluxConfig, names: list[str]) -> dict[str, list[tuple[str, Target]]]:
    """The parts (name, rows) of each layer of ours, in the order of their rows."""
    known = targets(config)
    found: dict[str, list[tuple[str, Target]]] = {}
    for name in names:
        found.setdefault(known[name].module, []).append((name, known[name]))
    return {module: sorted(parts, key=lambda part: part[1].start) for module, parts in found.items()}


def _runs(parts: list[tuple[str, Target]]) -> list[list[tuple[str, Target]]]:
    """Parts whose rows follow each other, together."""
    runs = [[parts[0]]]
    for part in parts[1:]:
        if runs[-1][-1][1].stop == part[1].start:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs
