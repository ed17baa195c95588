"""Does a LoRA fit the network, layer by layer, and are all its numbers numbers?"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import DEV, FluxConfig, targets
from vividcover.image.flux.formats.diffusers import norms
from vividcover.image.flux.formats.names import listed
from vividcover.image.flux.formats.pairs import Lora

if TYPE_CHECKING:
    from torch import Tensor

DIVERGED = "The training that made it diverged, or the file is damaged: take an earlier checkpoint, or get it again."


def check(lora: Lora, config: FluxConfig = DEV, what: str = "The LoRA") -> None:
    """Raises `ModelFileError` that names every kind of fault: unknown layers, wrong shapes, numbers not finite."""
    known = targets(config)
    if unknown := [name for name in lora.pairs if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        raise ModelFileError(
            f"{what} changes layers that the network does not have: {listed(unknown)}.",
            f"Did you mean {near[0]}?" if near else "It was made for another model.",
        )
    wrong = []
    for name, pair in lora.pairs.items():
        wanted = (known[name].outputs, known[name].inputs)
        if pair.a.ndim != 2 or pair.b.ndim != 2 or pair.a.shape[0] != pair.b.shape[1] or not pair.rank:
            wrong.append(f"{name} has A {list(pair.a.shape)} and B {list(pair.b.shape)}, which make no pair")
        elif (pair.b.shape[0], pair.a.shape[1]) != wanted:
            wrong.append(f"{name} is {pair.b.shape[0]} x {pair.a.shape[1]}, not {wanted[0]} x {wanted[1]}")
    if wrong:
        raise ModelFileError(f"{what} does not fit the network: {listed(wrong)}.", "It was made for another model.")
    for name, pair in lora.pairs.items():
        if not math.isfinite(pair.alpha):
            raise ModelFileError(f"{what}: the alpha of {name} is {pair.alpha}.", DIVERGED)
        finite(f"{name} (A)", pair.a, what)
        finite(f"{name} (B)", pair.b, what)
    shapes = {f"{name}.bias": target.outputs for name, target in known.items()}
    shapes |= dict.fromkeys(norms(config), config.head_dim)
    for name, tensor in lora.extras.items():
        if shapes.get(name) != tensor.numel():
            raise ModelFileError(
                f"{what} does not fit the network: {name} has {tensor.numel()} numbers, not {shapes.get(name, 'any')}.",
                "It was made for another model.",
            )
        finite(name, tensor, what)


def finite(name: str, tensor: Tensor, what: str) -> None:
    """Raises `ModelFileError` where a tensor holds NaN or infinity. Tensors on `meta` have no numbers."""
    import torch

    if tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all()):
        bad = "NaN" if bool(torch.isnan(tensor).any()) else "infinite numbers"
        raise ModelFileError(f"{what} is broken: {name} holds {bad}.", DIVERGED)
