"""The modules of a file as one pair for each layer, at the right scale; or an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import FluxConfig, targets
from vividcover.image.flux.formats import Covers, Style, diffusers, foreign, parts, splitting
from vividcover.image.flux.formats.checks import finite
from vividcover.image.flux.formats.names import listed
from vividcover.image.flux.formats.names import table as table_of
from vividcover.image.flux.formats.pairs import Pair
from vividcover.image.flux.formats.products import combine
from vividcover.image.flux.formats.sorting import ANOTHER, File

if TYPE_CHECKING:
    from torch import Tensor

MOST_LOSS = 0.5  # of a layer's change, relative; more than this is another LoRA


def pairs_of(file: File, style: Style, config: FluxConfig) -> dict[str, Pair]:
    """Every module's pair, split into layers."""
    known, table = targets(config), table_of(style, config)
    _complete(file)
    _matrices(file)
    alphas = _alphas(file, style, table)
    pairs: dict[str, Pair] = {}
    losses: dict[str, float] = {}
    for stem, module in file.modules.items():
        covers = style.find(stem, table)
        assert covers is not None
        rows = [known[name].outputs for name in covers.names]
        _biases(file, module, covers, rows)
        if not any(needed <= set(module) for needed in parts.MADE_OF):
            continue
        _shapes(file, stem, module, sum(rows), known[covers.names[0]].inputs)
        pair, loss = combine(module, alphas.get(stem))
        if loss:
            losses[stem] = loss
        for name, one in splitting.split(pair, covers, rows).items():
            if name in pairs:
                raise ModelFileError(f"{file.what} changes the layer {name} twice.", "Get it again from its maker.")
            pairs[name] = one
    _said(file, losses)
    return pairs


def _complete(file: File) -> None:
    """Raises where a module lacks a part, or has one that cannot be made into a pair."""
    lacking, dora, whole, middle = [], [], [], []
    for stem, module in file.modules.items():
        roles = set(module) - {parts.ALPHA, parts.BIAS, parts.RANK}
        if parts.WHOLE in roles and not bool(module[parts.WHOLE].any()):
            roles -= {parts.WHOLE}
            del module[parts.WHOLE]
        dora += [stem] if parts.DORA in roles else []
        whole += [stem] if parts.WHOLE in roles else []
        middle += [stem] if parts.MIDDLE in roles else []
        lacking += _lacking(stem, roles, file.spellings.get(stem, "")) if roles or parts.ALPHA in module else []
    if dora:
        raise ModelFileError(
            f"{file.what} is a DoRA: besides its pairs it sets the length of every row of the base's weights "
            f"({listed(dora)}).",
            "Ask its maker for a plain LoRA, or let the program that made it merge it and extract one.",
        )
    if whole:
        raise ModelFileError(
            f"{file.what} changes whole layers (`.diff`), not by pairs: {listed(whole)}.", "Get it as a plain LoRA."
        )
    if middle:
        raise ModelFileError(
            f"{file.what} has Tucker factors (for convolutions), which FLUX.1 has no use for: {listed(middle)}.",
            ANOTHER,
        )
    if lacking:
        raise ModelFileError(
            f"{file.what} is not whole: it lacks {listed(lacking)}. Nothing of it was used.",
            "The file was cut or damaged: get it again, or ask its maker.",
        )


def _matrices(file: File) -> None:
    """Raises where a part is no matrix, or where a product has numbers that are none, which no decomposition bears."""
    for stem, module in file.modules.items():
        for role, tensor in module.items():
            if role in (parts.ALPHA, parts.BIAS, parts.RANK):
                continue
            if tensor.ndim > 2 and tuple(tensor.shape[2:]) == (1,) * (tensor.ndim - 2):
                tensor = module[role] = tensor.flatten(1)  # a convolution of one pixel: how some tools write a layer
            if tensor.ndim != 2 or not tensor.numel():
                shape = list(tensor.shape)
                raise ModelFileError(
                    f"{file.what} holds something else than matrices: {stem} ({role}) is {shape}.", ANOTHER
                )
            if role not in (parts.DOWN, parts.UP):
                finite(f"{stem} ({role})", tensor, file.what)


def _lacking(stem: str, roles: set[str], spelling: str) -> list[str]:
    """The keys that a module needs beside those it has."""
    if any(needed <= roles for needed in ({parts.DOWN, parts.UP}, {"h1_a", "h1_b", "h2_a", "h2_b"})):
        return []
    if any(role.startswith("w") and role != parts.WHOLE for role in roles):
        missing = [n for n in ("w1", "w2") if n not in roles and not {f"{n}_a", f"{n}_b"} <= roles]
        return [f"{stem}.lokr_{name}" for name in missing]
    if any(role.startswith("h") for role in roles):
        return [f"{stem}.hada_w{name[1:]}" for name in ("h1_a", "h1_b", "h2_a", "h2_b") if name not in roles]
    return [f"{stem}{parts.spelling_of(role, spelling)}" for role in (parts.DOWN, parts.UP) if role not in roles]


def _alphas(file: File, style: Style, table: dict[str, Covers]) -> dict[str, float]:
    """Each module's alpha, from its tensor or the metadata. Raises where the file contradicts itself."""
    given = {
        stem: _number(file, stem, module[parts.ALPHA]) for stem, module in file.modules.items() if parts.ALPHA in module
    }
    plain = [stem for stem, module in file.modules.items() if parts.DOWN in module]
    without = [stem for stem in plain if stem not in given]
    if given and without:
        raise ModelFileError(
            f"{file.what} gives an alpha for {len(given)} layers and none for {len(without)} ({listed(without)}), so "
            "their scale cannot be known.",
            "The file was cut or edited: get it again, or ask its maker.",
        )
    modules = {name: stem for stem in plain if (name := style.module(stem, table)) is not None}
    ranks = {name: file.modules[stem][parts.DOWN].shape[0] for name, stem in modules.items()}
    said = diffusers.alphas(file.metadata, ranks)
    for name, alpha in said.items():
        stem = modules[name]
        if stem in given and abs(given[stem] - alpha) > 1e-3 * abs(alpha):
            raise ModelFileError(
                f"{file.what} contradicts itself: alpha of {name} is {given[stem]:g} in its tensors and {alpha:g} in "
                "its metadata.",
                "Ask its maker which is right; a file with one of the two can be read.",
            )
        given.setdefault(stem, alpha)
    if not given:
        _note_scale(file)
    return given


def _number(file: File, stem: str, tensor: Tensor) -> float:
    import math

    value = float(tensor.float().item()) if tensor.numel() == 1 else math.nan
    if not math.isfinite(value) or value == 0:
        raise ModelFileError(f"{file.what}: the alpha of {stem} is {value:g}, which is no scale.", "Get it again.")
    return value


def _note_scale(file: File) -> None:
    alpha, rank = (file.metadata.get(f"ss_network_{name}", "") for name in ("alpha", "dim"))
    try:
        differs = float(alpha) != float(rank)
    except ValueError:
        return
    if differs:
        file.notes.append(
            f"Its tensors hold no alpha, its metadata say alpha {alpha} for rank {rank}: used as it is, with scale 1."
        )


def _shapes(file: File, stem: str, module: dict[str, Tensor], outputs: int, inputs: int) -> None:
    """Raises where the parts do not make a matrix [outputs, inputs]."""
    made, why = _size(module)
    if made == (outputs, inputs):
        return
    widths = {f"{stem}.lora_A.weight": (1, made[1])} if made else {}
    if stem.endswith(("x_embedder", "img_in")) and made and made[0] == outputs:
        raise ModelFileError(
            f"{file.what} is a LoRA for a FLUX.1 with {made[1]} input channels, and this model has {inputs}."
            + (" It is a control LoRA (depth or canny)." if made[1] == 2 * inputs else ""),
            "Use it with the model that it was made for: fill, depth or canny.",
        )
    if other := foreign.other_model(widths, file.metadata):
        raise ModelFileError(f"{file.what} is a LoRA for {other}, not for FLUX.1.", ANOTHER)
    shown = f"makes a matrix of {made[0]} x {made[1]}" if made else why
    raise ModelFileError(
        f"{file.what} does not fit FLUX.1: {stem} {shown}, and the layer is {outputs} x {inputs}.", ANOTHER
    )


def _size(module: Mapping[str, Tensor]) -> tuple[tuple[int, int] | None, str]:
    """Rows and columns of what the parts make; or None and why they make nothing."""

    def product(left: str, right: str) -> tuple[int, int] | None:
        a, b = module[left].shape, module[right].shape
        return (a[0], b[1]) if a[1] == b[0] else None

    if parts.DOWN in module:
        made = product(parts.UP, parts.DOWN)
        shapes = f"has B {list(module[parts.UP].shape)} and A {list(module[parts.DOWN].shape)}"
        return made, f"{shapes}, of different rank"
    if "h1_a" in module:
        first, second = product("h1_a", "h1_b"), product("h2_a", "h2_b")
        return (first if first == second else None), "has factors that do not go together"
    sizes = []
    for name in ("w1", "w2"):
        size = product(f"{name}_a", f"{name}_b") if name not in module else tuple(module[name].shape)
        if size is None:
            return None, "has factors that do not go together"
        sizes.append(size)
    return (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]), ""


def _biases(file: File, module: dict[str, Tensor], covers: Covers, rows: list[int]) -> None:
    """What is added to the layers' biases."""
    import torch

    bias = module.pop(parts.BIAS, None)
    if bias is None or not bool(bias.any()):
        return
    if bias.numel() != sum(rows):
        raise ModelFileError(
            f"{file.what}: the bias of {covers.names[0]} has {bias.numel()} numbers, and the layer has {sum(rows)}.",
            ANOTHER,
        )
    bias = bias.flatten()
    pieces = torch.split(splitting.swapped(bias) if covers.swapped else bias, rows)
    file.extras |= {f"{name}.bias": piece for name, piece in zip(covers.names, pieces, strict=True)}


def without_guidance(pairs: dict[str, Pair], file: File) -> dict[str, Pair]:
    kept = {name: pair for name, pair in pairs.items() if "guidance_embedder" not in name}
    if len(kept) < len(pairs):
        file.notes.append("What it changes of the guidance's input was left out: this model has none.")
    file.extras = {name: tensor for name, tensor in file.extras.items() if "guidance_embedder" not in name}
    return kept


def _said(file: File, losses: dict[str, float]) -> None:
    """Says what was approximated, and refuses what was lost to more than half."""
    if not losses:
        return
    worst = max(losses, key=lambda stem: losses[stem])
    if losses[worst] > MOST_LOSS:
        raise ModelFileError(
            f"{file.what} changes whole layers by products (LoKr, LoHa) that no pair of moderate rank comes near: "
            f"{worst} would lose {losses[worst]:.0%}.",
            "Ask its maker for a plain LoRA.",
        )
    file.notes.append(
        f"{len(losses)} layers were approximated by pairs; the worst lost {losses[worst]:.1%} of its change ({worst})."
    )
