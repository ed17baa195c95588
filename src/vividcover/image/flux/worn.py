"""Finished LoRAs over a network: several at once, each with its weight, each everywhere or in its region.

    with wear(flux, config, [Wearing(vivi, 1.0, left), Wearing(oils, 0.7)]):
        …                                       # flux(...) answers with them
                                                # and afterwards is what it was, bit for bit

However many there are, beside a layer lie two thin matrices: the A of all of them stacked, and the B side by side, each
times its scale and weight. A region is a mask over the picture's tokens; what is no token of the picture (text, and
what steers the blocks) takes the mask's mean, so that a mask of ones is no mask. `merged=True` adds the LoRAs into the
weights instead: nothing to compute beside them, for memory that holds the weights twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.image.flux.checkpoint import Place, layout
from vividcover.image.flux.config import FluxConfig, Target, targets
from vividcover.image.flux.formats.checks import DIVERGED, check
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.image.flux.quant import Frozen, put

STEP = 8  # numbers in a row of a matrix that a GPU reads at once: stacked ranks are filled up to whole ones
MIXED = re.compile(r"^single_blocks\.\d+\.linear[12]$")  # text and picture in one row
PICTURE = re.compile(r"^(img_in|final_out|double_blocks\.\d+\.img_(qkv|proj|mlp_in|mlp_out))$")


@dataclass(frozen=True, eq=False)
class Wearing:
    """A LoRA as it is worn. `mask` [N] in 0..1: how much each of the picture's tokens has of it; None: all of it."""

    lora: Lora
    weight: float = 1.0
    mask: Tensor | None = None


class Regions:
    """The masks of all that is worn, as the layers need them: for tokens of the picture, of the text, or both."""

    def __init__(self, masks: Sequence[Tensor | None], like: Tensor) -> None:
        tokens = {mask.numel() for mask in masks if mask is not None}
        if len(tokens) > 1:
            raise ParameterError(f"The LoRAs' masks have {sorted(tokens)} tokens.", "Make them for one picture size.")
        self.tokens = tokens.pop()
        whole = torch.ones(self.tokens)
        each = [whole if mask is None else mask.detach().cpu().float().flatten() for mask in masks]
        self.masks = torch.stack(each, 1).to(like)  # [N, LoRAs]
        self.mean = torch.stack(each, 1).mean(0, keepdim=True).to(like)
        self.gates: dict[tuple[str, int, tuple[int, ...]], Tensor] = {}

    def gate(self, where: str, length: int, columns: tuple[int, ...], places: Tensor) -> Tensor:
        """[length or 1, R]; `columns`, as a tensor `places`, say of each of the R columns which LoRA it is of."""
        text = 0 if where == "picture" else length - self.tokens
        if where == "rest":
            rows = self.mean
        elif text < 0 or length != self.tokens + text:
            raise ParameterError(
                f"The LoRA's mask is for {self.tokens} tokens, and the picture has another number.",
                "Make the mask for the size of the picture: a token is 16 x 16 px.",
            )
        else:
            rows = torch.cat((self.mean.expand(text, -1), self.masks)) if text else self.masks
        if torch.compiler.is_compiling():  # it joins this with what the gate is for
            return rows.index_select(1, places)
        key = (where, length, columns)
        if key not in self.gates:
            self.gates[key] = rows.index_select(1, places)
        return self.gates[key]


class WornLinear(nn.Module):
    """A layer with all LoRAs that change it."""

    a: Tensor  # [R, in]
    b: Tensor  # [stop - start, R]
    places: Tensor | None  # [R]: `columns`

    def __init__(self, base: Any, start: int, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.base, self.start, self.stop = base, start, start + b.shape[0]
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.regions: Regions | None = None
        self.where = "rest"
        self.columns: tuple[int, ...] = ()
        self.register_buffer("places", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        y: Tensor = self.base(x)
        h = F.linear(x, self.a.to(x.dtype))
        if self.regions is not None and self.places is not None:
            h = h * self.regions.gate(self.where, x.shape[-2], self.columns, self.places)
        b = self.b.to(x.dtype)
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            change = F.linear(h, b)
            return y + (change if b.shape[0] == y.shape[-1] else F.pad(change, (self.start, y.shape[-1] - self.stop)))
        y.view(-1, y.shape[-1])[:, self.start : self.stop].addmm_(h.flatten(0, -2), b.t())
        return y


@dataclass(eq=False)
class Worn:
    """What `wear` put on. Leaves with the `with` block, or by `off`."""

    flux: nn.Module
    config: FluxConfig
    room: int
    layers: dict[str, WornLinear] = field(default_factory=dict)
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # a weight of the base, and what it was
    notes: list[str] = field(default_factory=list)  # what the user should be told

    def __enter__(self) -> Worn:
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    def off(self) -> None:
        """Takes everything off; the network is what it was. Raises `EngineError` below another LoRA."""
        for name, layer in self.layers.items():
            if self.flux.get_submodule(name) is not layer:
                raise EngineError(f"Another LoRA lies over the one of {name}.", "Take that one off first.")
        for name, layer in self.layers.items():
            put(self.flux, name, layer.base)
        self.layers = {}
        self._restore()

    def swap(self, wearing: Sequence[Wearing]) -> bool:
        """Others instead, in the same memory, so that what was compiled or captured stays valid.

        False, and nothing changed, where they do not fit: they have regions or these do, layers that no worn one
        has, or more ranks than there is room for (`wear`'s `room`). Raises as `wear` does.
        """
        if any(w.mask is not None for w in wearing) or any(layer.regions for layer in self.layers.values()):
            return False
        stacks = _stacks(self.config, _fitting(self.config, wearing)[0])
        for name, stack in stacks.items():
            layer = self.layers.get(name)
            if layer is None or stack.rank > layer.a.shape[0]:
                return False
            if stack.start < layer.start or stack.stop > layer.stop:
                return False
        new = {name: (torch.zeros_like(layer.a), torch.zeros_like(layer.b)) for name, layer in self.layers.items()}
        for name, stack in stacks.items():
            stack.fill(*new[name], self.layers[name].start)
        _check_finite(*(matrix for pair in new.values() for matrix in pair))
        extras = self._extras(wearing)
        self._restore()
        self._change(extras)
        for name, layer in self.layers.items():
            layer.a.copy_(new[name][0])
            layer.b.copy_(new[name][1])
        return True

    # --- how -------------------------------------------------------------------------------------------------------

    def _beside(self, stacks: dict[str, Stack], masks: Sequence[Tensor | None]) -> None:
        like = next(p for p in self.flux.parameters() if p.is_floating_point())  # some layer is never quantised
        regions = Regions(masks, like.detach()) if any(mask is not None for mask in masks) else None
        whole = {t.module: t for t in targets(self.config).values()} if self.room else {}
        names = [*stacks, *(n for n in whole if n not in stacks and "_blocks." in n)]
        for name in names:
            base: Any = self.flux.get_submodule(name)
            stack = stacks.get(name)
            start, stop = (0, base.out_features) if self.room or stack is None else (stack.start, stack.stop)
            rank = -(-max(stack.rank if stack else 0, self.room) // STEP) * STEP
            a = torch.zeros(rank, base.in_features, device=like.device, dtype=like.dtype)
            b = torch.zeros(stop - start, rank, device=like.device, dtype=like.dtype)
            layer = WornLinear(base, start, a, b)
            if stack:
                stack.fill(a, b, start)
                layer.columns = (*stack.columns, *[0] * (rank - stack.rank))
            if regions is not None and layer.columns:
                layer.places = torch.tensor(layer.columns, device=like.device)
                layer.regions, layer.where = regions, place_of(name)
            put(self.flux, name, layer)
            self.layers[name] = layer
        _check_finite(*(matrix for layer in self.layers.values() for matrix in (layer.a, layer.b)))

    def _into(self, stacks: dict[str, Stack]) -> None:
        used: list[Tensor] = []
        for name, stack in stacks.items():
            base = self.flux.get_submodule(name)
            if type(base) is not nn.Linear:
                why = "quantised" if isinstance(base, Frozen) else "changed by another LoRA"
                raise ParameterError(
                    f"LoRAs cannot be added into {name}: it is {why}.",
                    "Leave `merged` out, or choose quantise none.",
                )
            weight = self._changing(base.weight.detach())
            whole = weight.float()  # rounded once, however many LoRAs there are; float32 is itself
            for part in stack.parts:
                a, b = (matrix.to(weight.device).float() for matrix in (part.pair.a, part.pair.b))
                used += [a, b]
                whole[part.target.start : part.target.stop].addmm_(b, a, alpha=part.scale)
            if whole is not weight:
                weight.copy_(whole)
        _check_finite(*used)

    def _extras(self, wearing: Sequence[Wearing]) -> list[tuple[Tensor, Place, Tensor, float]]:
        """What of the base norms and biases change, how, and with which weight."""
        places, found = layout(self.config, bfl=False), []
        for worn in wearing:
            share = worn.weight * (1.0 if worn.mask is None else float(worn.mask.float().mean()))
            for name, tensor in worn.lora.extras.items():
                place = places.get(name)
                layer, _, leaf = place.name.rpartition(".") if place else ("", "", "")
                module = self.layers[layer].base if layer in self.layers else self.flux.get_submodule(layer)
                own = getattr(module, leaf, None)
                if place is None or own is None or own.detach()[place.rows].shape != tensor.shape:
                    raise ModelFileError(
                        f"The LoRA changes {name} {list(tensor.shape)}, which the network does not have.",
                        "It was made for another model.",
                    )
                found.append((own.detach(), place, tensor.to(own.detach()), share))
        return found

    def _change(self, extras: Sequence[tuple[Tensor, Place, Tensor, float]]) -> None:
        """Biases are added to; norms are replaced, by a weight of 0..1 in between."""
        for own, place, tensor, share in extras:
            rows = self._changing(own)[place.rows]
            if place.name.endswith(".bias"):
                rows.add_(tensor, alpha=share)
            else:
                rows.lerp_(tensor, share)

    def _changing(self, weight: Tensor) -> Tensor:
        """A weight of the base, to be changed in place: what it was is kept."""
        where = weight.device
        if where.type == "cuda" and torch.cuda.mem_get_info(where)[0] < 4 * weight.nbytes:
            where = torch.device("cpu")
        self.kept.append((weight, weight.to(where, copy=True)))
        return weight

    def _restore(self) -> None:
        for weight, was in reversed(self.kept):
            weight.copy_(was)
        self.kept = []


@dataclass(frozen=True, eq=False)
class Part:
    """One LoRA's pair at its rows. `scale` is the pair's, times the weight that the LoRA is worn with."""

    number: int  # of the LoRA
    target: Target
    pair: Pair
    scale: float


class Stack:
    """All pairs of a layer, as two matrices. Parts of one LoRA that share their A (of fused files) have it once."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.start = min(part.target.start for part in parts)
        self.stop = max(part.target.stop for part in parts)
        self.firsts: list[int] = []  # the first column of each part
        self.columns: list[int] = []  # the LoRA of each column
        for i, part in enumerate(parts):
            same = next((j for j in range(i) if self._share(parts[j], part)), None)
            self.firsts.append(len(self.columns) if same is None else self.firsts[same])
            if same is None:
                self.columns += [part.number] * part.pair.rank

    @staticmethod
    def _share(one: Part, other: Part) -> bool:
        a, b = one.pair.a, other.pair.a
        return one.number == other.number and a.shape == b.shape and (a is b or torch.equal(a, b))

    @property
    def rank(self) -> int:
        return len(self.columns)

    def fill(self, a: Tensor, b: Tensor, start: int) -> None:
        """Into A [R, in] and B [rows from `start`, R], both of zeros."""
        for first, part in zip(self.firsts, self.parts, strict=True):
            columns = slice(first, first + part.pair.rank)
            a[columns] = part.pair.a.to(a)
            rows = b[part.target.start - start : part.target.stop - start, columns]
            rows.copy_(part.pair.b.to(b.device).float() * part.scale)


def wear(
    flux: nn.Module, config: FluxConfig, wearing: Sequence[Wearing], *, merged: bool = False, room: int = 0
) -> Worn:
    """Puts LoRAs over the network; the result is a context manager that takes them off again.

    `room`: so many ranks are held free beside every layer of the blocks, for others by `swap`. Raises
    `ModelFileError` for a LoRA that does not fit the network or is not finite, `ParameterError` for weights that are
    no numbers, for masks of different sizes, and for `merged` with masks or a quantised base.
    """
    for each in wearing:
        if not abs(each.weight) < float("inf"):
            raise ParameterError(f"A LoRA's weight is {each.weight}.", "Choose a number, 1 for the LoRA as it is.")
    masked = any(each.mask is not None for each in wearing)
    if merged and (masked or room):
        raise ParameterError("LoRAs with regions cannot be added into the weights.", "Leave `merged` out.")
    worn, result = [w for w in wearing if w.weight], Worn(flux, config, room)
    fitting, result.notes = _fitting(config, worn)
    stacks = _stacks(config, fitting)
    with torch.no_grad():
        try:
            result._change(result._extras(worn))
            if merged:
                result._into(stacks)
            else:
                result._beside(stacks, [each.mask for each in worn])
        except BaseException:
            result.off()
            raise
    return result


def _check_finite(*matrices: Tensor) -> None:
    """Asked once for all, since the answer waits for the device."""
    if matrices and not torch.stack([matrix.isfinite().all() for matrix in matrices]).all():
        raise ModelFileError("A LoRA is broken: it holds numbers that are not finite.", DIVERGED)


def _fitting(config: FluxConfig, wearing: Sequence[Wearing]) -> tuple[list[Wearing], list[str]]:
    """The same, made to fit this base where that changes nothing, and what was left out. Raises `ModelFileError`."""
    notes, found = [], []
    for worn in wearing:
        pairs = dict(worn.lora.pairs)
        if not config.guidance and (gone := [name for name in pairs if ".guidance_embedder." in name]):
            notes.append(f"This base takes no guidance: {len(gone)} layers of a LoRA that change it are left out.")
            pairs = {name: pair for name, pair in pairs.items() if name not in gone}
        inside = pairs.get("x_embedder")
        if inside is not None and inside.a.shape[1] == 64 < config.in_channels:  # the noise comes first
            wide = F.pad(inside.a, (0, config.in_channels - 64))
            pairs["x_embedder"] = replace(inside, a=wide)
        thin = {name: Pair(p.a.to("meta"), p.b.to("meta"), p.alpha) for name, p in pairs.items()}
        check(Lora(thin), config)
        found.append(replace(worn, lora=replace(worn.lora, pairs=pairs)))
    return found, notes


def _stacks(config: FluxConfig, wearing: Sequence[Wearing]) -> dict[str, Stack]:
    known = targets(config)
    parts: dict[str, list[Part]] = {}
    for number, worn in enumerate(wearing):
        for name in (n for n in known if n in worn.lora.pairs):
            pair = worn.lora.pairs[name]
            part = Part(number, known[name], pair, pair.scale * worn.weight)
            parts.setdefault(known[name].module, []).append(part)
    return {module: Stack(found) for module, found in parts.items()}


def place_of(module: str) -> str:
    """What a layer of ours gets: tokens of the "picture", of "both" picture and text, or the "rest"."""
    return "picture" if PICTURE.match(module) else "both" if MIXED.match(module) else "rest"
