"""LoRAs as mathematics: several as one, one with fewer ranks, and the LoRA in a network that was trained as a whole.

    one = merge([(vivi, 1.0), (oils, 0.6)])          # exactly both, worn with these weights; the ranks add up
    small, error = reduce(one, rank=16)              # the nearest of that rank, and how far it is
    lora, report = extract(before, after, rank=32, config=config)

A sum of products is a product of stacked matrices: w₁B₁A₁ + w₂B₂A₂ = [w₁B₁ w₂B₂] [A₁; A₂]. The nearest matrix of a
rank is the singular value decomposition's first part (Eckart and Young, 1936). For a LoRA that takes the QR of its thin
matrices and the decomposition of a small one between; for a whole matrix a few random directions, turned to the largest
ones (Halko, Martinsson, Tropp 2011, arXiv:0909.4061).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vividcover.errors import ModelFileError, ParameterError
from vividcover.image.flux.checkpoint import Place, layout
from vividcover.image.flux.config import FluxConfig, targets
from vividcover.image.flux.lorafile import Lora, Pair
from vividcover.workspace import Reporter, Silent

EXACT = 256  # sides up to which a whole decomposition costs less than looking for its first part
MORE = 8  # directions more than asked for, which make the asked ones nearly exact
TURNS = 4


def merge(loras: Sequence[tuple[Lora, float]]) -> Lora:
    """One LoRA that does what all of them do, worn with these weights; float32.

    Raises `ParameterError` for no LoRA or a weight that is no number, `ModelFileError` for LoRAs that no one LoRA can
    stand for: of other shapes, or with norms of their own.
    """
    if not loras:
        raise ParameterError("There is no LoRA to merge.", "Give at least one.")
    for _, weight in loras:
        if not math.isfinite(weight):
            raise ParameterError(f"A LoRA's weight is {weight}.", "Choose a number, 1 for the LoRA as it is.")
    worn = [(lora, weight) for lora, weight in loras if weight]
    pairs = {}
    for name in dict.fromkeys(name for lora, _ in worn for name in lora.pairs):
        pairs[name] = _stacked(name, [(lora.pairs[name], weight) for lora, weight in worn if name in lora.pairs])
    bases = sorted({lora.base for lora, _ in loras if lora.base})
    notes = list(dict.fromkeys(note for lora, _ in loras for note in lora.notes))
    if len(bases) > 1:
        notes.append(f"Merged from LoRAs of different bases: {', '.join(bases)}.")
    return Lora(pairs, base=bases[0] if len(bases) == 1 else "", notes=notes, extras=_merged_extras(worn))


def _stacked(name: str, parts: list[tuple[Pair, float]]) -> Pair:
    sizes = {(pair.b.shape[0], pair.a.shape[1]) for pair, _ in parts}
    if len(sizes) > 1:
        said = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise ModelFileError(f"The LoRAs are of different networks: {name} is {said}.", "Merge LoRAs of one base.")
    a = torch.cat([pair.a.float() for pair, _ in parts])
    b = torch.cat([pair.b.float() * (pair.scale * weight) for pair, weight in parts], 1)
    return Pair(a, b, float(len(a)))


def _merged_extras(loras: list[tuple[Lora, float]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for lora, weight in loras:
        for name, tensor in lora.extras.items():
            if not name.endswith(".bias") and (name in found or weight != 1):
                raise ModelFileError(
                    f"A LoRA that replaces {name} cannot be merged with weight {weight:g} or with another such.",
                    "Wear it beside the others instead.",
                )
            change = tensor.float() * (weight if name.endswith(".bias") else 1.0)
            found[name] = found[name] + change if name in found else change
    return found


def reduce(lora: Lora, rank: int) -> tuple[Lora, float]:
    """The nearest LoRA whose layers have at most this rank, and its relative error (Frobenius, over all layers).

    A layer of that rank or less stays as it is: compare `Lora.rank` before and after to say what was done. Never builds
    a layer's whole matrix. Raises `ParameterError`.
    """
    if rank < 1:
        raise ParameterError(f"rank is {rank}.", "Choose a whole number from 1.")
    pairs, lost, whole = {}, 0.0, 0.0
    for name, pair in lora.pairs.items():
        left, right = torch.linalg.qr(pair.b.float()), torch.linalg.qr(pair.a.float().t())
        u, s, vh = torch.linalg.svd((left[1] @ right[1].t()).double() * pair.scale)
        whole += float(s.square().sum())
        if pair.rank <= rank:
            pairs[name] = pair
            continue
        lost += float(s[rank:].square().sum())
        pairs[name] = _pair(left[0].double() @ u[:, :rank], s[:rank], vh[:rank] @ right[0].double().t())
    return Lora(pairs, base=lora.base, notes=list(lora.notes), extras=dict(lora.extras)), math.sqrt(
        lost / whole if whole else 0.0
    )


def _pair(u: Tensor, s: Tensor, vh: Tensor) -> Pair:
    """U S Vᵀ with both matrices of one size; scale 1."""
    root = s.sqrt()
    return Pair((root[:, None] * vh).float().contiguous(), (u * root).float().contiguous(), float(len(s)))


def extract(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], rank: int, config: FluxConfig, *,
    device: torch.device | str = "cpu", reporter: Reporter | None = None,
) -> tuple[Lora, dict[str, Any]]:  # fmt: skip
    """The LoRA of a full fine-tune: what it changed in the weights, to the nearest of this rank.

    Both are state dicts of our network, or of diffusers'. Layers that did not change are left out; biases and norms
    that did are taken over as they are. The report: `error` (relative, Frobenius, of all that changed in matrices) and
    `layers` {name: {`error`, `change`}}, where `change` is relative to the weight. Raises `ModelFileError` for states
    that are not two of this network or are the same, `ParameterError`, `Canceled`.
    """
    if rank < 1:
        raise ParameterError(f"rank is {rank}.", "Choose a whole number from 1.")
    reporter, known = reporter or Silent(), targets(config)
    pairs, layers, extras = {}, {}, {}
    lost = whole = 0.0
    places = layout(config, bfl=False)
    for i, (name, place) in enumerate(places.items()):
        reporter.check()
        reporter.progress(i / len(places), f"what changed in {name}")
        before, after = (_values(state, name, place).to(device).float() for state in (base, tuned))
        change = after - before
        size = float(change.norm())
        if before.shape != after.shape or not math.isfinite(size):
            raise ModelFileError(f"{name} is of another shape, or not finite.", "Give two states of one network.")
        layer, _, kind = name.rpartition(".")
        if not size:
            continue
        if kind == "weight" and layer in known:
            u, s, vh = _largest(change, rank)
            pairs[layer] = _pair(u.cpu(), s.cpu(), vh.cpu())
            off = float(torch.addmm(change, u * s, vh, alpha=-1).norm())
            layers[layer] = {"error": off / size, "change": size / max(float(before.norm()), 1e-12)}
            lost, whole = lost + off**2, whole + size**2
        else:
            extras[name] = (change if kind == "bias" else after).cpu()
    if not pairs and not extras:
        raise ModelFileError("Both networks are the same: there is no LoRA in between.", "Train first.")
    error = math.sqrt(lost / whole) if whole else 0.0
    return Lora(pairs, extras=extras), {"error": error, "rank": rank, "layers": layers, "extras": len(extras)}


def _largest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [rows, rank], s [rank], Vᵀ [rank, columns]: the first part of the decomposition."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(EXACT, 2 * rank):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vh[:rank]
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, rank + MORE, niter=TURNS)
    return u[:, :rank], s[:rank], v[:, :rank].t()


def _values(state: Mapping[str, Tensor], name: str, place: Place) -> Tensor:
    """Of diffusers' tensor `name`, out of a state of ours or of diffusers'."""
    if (found := state.get(place.name)) is not None:
        return found.detach()[place.rows]
    if (found := state.get(name)) is not None:
        return found.detach()
    raise ModelFileError(f"{name} is missing in the weights.", "Give all weights of this network.")
