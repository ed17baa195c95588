"""Any published LoRA for FLUX.1 → `Lora`: all of it, at the right scale, or an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import DEV, FluxConfig, targets
from vividcover.image.flux.formats import STYLES, Covers, Style, diffusers, foreign, parts, splitting
from vividcover.image.flux.formats.checks import check, finite
from vividcover.image.flux.formats.names import listed
from vividcover.image.flux.formats.pairs import Lora, Pair
from vividcover.image.flux.formats.products import combine
from vividcover.tensors import metadata_of, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

ANOTHER = "Choose a LoRA that was made for FLUX.1 [dev] or FLUX.1 [schnell]."
MOST_LOSS = 0.5  # of a layer's change, relative; more than this is another LoRA
Modules = dict[str, dict[str, "Tensor"]]  # key without its part → part → tensor


@dataclass
class _File:
    """A file while it is read. `extras`: what is no pair, by diffusers' names."""

    what: str
    metadata: dict[str, str]
    modules: Modules = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)  # key without its part → how its A or B is spelt
    extras: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_lora(source: Path | bytes, config: FluxConfig = DEV, what: str = "") -> Lora:
    """Reads a LoRA of any key style in `STYLES`; tensors stay in the file's number format.

    `what` names it in errors. Raises `ModelFileError` for a file that is damaged, not a LoRA, for another model,
    not whole, of unknown keys, with numbers that are not finite, or whose scale cannot be known.
    """
    name = what or (source.name if isinstance(source, Path) else "The LoRA")
    tensors = _tensors(read_tensors(source, name), name)
    file = _File(name, metadata_of(source))
    style = _sort(file, tensors, replace(config, guidance=True))
    pairs = _pairs(file, style, replace(config, guidance=True))
    if not config.guidance:
        pairs = _without_guidance(pairs, file)
    lora = Lora(pairs, file.metadata, base_of(file.metadata), _style_name(style, file), file.notes, file.extras)
    if not pairs:
        raise ModelFileError(f"{name} changes nothing that this model has.", ANOTHER)
    check(lora, config, name)
    return lora


def base_of(metadata: Mapping[str, str]) -> str:
    """ "dev", "schnell" or "": what the file says that it was trained on."""
    said = " ".join(
        metadata.get(key, "") for key in ("vividcover.base", "modelspec.architecture", "ss_sd_model_name", "base_model")
    ).lower()
    return next((base for base in ("schnell", "dev") if base in said), "")


def _tensors(found: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """The named tensors, also where a trainer put them one level down or settings beside them."""
    import torch

    inner = found.get("state_dict", found)
    named = {str(key): value for key, value in (inner if isinstance(inner, Mapping) else found).items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelFileError(f"{what} holds no tensors.", ANOTHER)
    for key, tensor in tensors.items():
        if not tensor.dtype.is_floating_point and tensor.numel() > 1:  # a lone number is an alpha or a rank
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelFileError(
                f"{what}: {key} holds {kind} numbers, so the LoRA was quantised.", "Get it as fp16, bf16 or fp32."
            )
    small = {torch.float16, torch.bfloat16, torch.float32}
    return {
        key: tensor if tensor.dtype in small else tensor.to(torch.bfloat16 if _eight_bits(tensor) else torch.float32)
        for key, tensor in tensors.items()
    }


def _eight_bits(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and tensor.itemsize == 1


# --- keys -------------------------------------------------------------------------------------------------------------


def _sort(file: _File, tensors: dict[str, Tensor], config: FluxConfig) -> Style:
    """Sorts the tensors into modules and parts, and finds the key style that knows them. Raises `ModelFileError`."""
    left_out = [key for key in tensors if foreign.is_text_encoder(key)]
    mine = {key: tensor for key, tensor in tensors.items() if key not in set(left_out)}
    divided = {key: found for key in mine if (found := parts.divide(key)) is not None}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if not divided:
        _no_lora(file, shapes)
    tables = {style.name: style.modules(config) for style in STYLES}
    stems = list(dict.fromkeys(stem for stem, _ in divided.values()))
    known = {style.name: {stem for stem in stems if style.find(stem, tables[style.name])} for style in STYLES}
    style = max(STYLES, key=lambda one: len(known[one.name]))
    whole = _whole(style, config)
    loose = [key for key in mine if key not in divided and key not in whole]
    loose += [
        key for key, (stem, role) in divided.items() if stem not in known[style.name] and not _idle(key, role, mine)
    ]
    if loose:
        _unknown(file, loose, shapes, known, style)
    for key, (stem, role) in divided.items():
        if stem in known[style.name]:
            if role in file.modules.setdefault(stem, {}):
                raise ModelFileError(
                    f"{file.what} holds {key} twice, in two spellings.", "Get it again from its maker."
                )
            file.modules[stem][role] = mine[key]
            if role in (parts.DOWN, parts.UP):
                file.spellings[stem] = key[len(stem) :]
    file.extras |= {whole[key]: mine[key] for key in mine if key in whole}
    if left_out:
        file.notes.append(
            f"{len(left_out)} tensors for the text encoder were left out: only the transformer's part is used."
        )
    if idle := [key for key, (stem, _) in divided.items() if stem not in known[style.name]]:
        file.notes.append(f"{len(idle)} tensors that are all zero, and so change nothing, were left out.")
    return style


def _whole(style: Style, config: FluxConfig) -> dict[str, str]:
    """Key → diffusers' parameter, of the norms that a control LoRA brings whole."""
    return {f"{prefix}{name}": theirs for name, theirs in style.whole(config).items() for prefix in style.prefixes}


def _idle(key: str, role: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor that is added to something is all zero: extractors write those for every layer there is."""
    return role in (parts.WHOLE, parts.BIAS) and not key.endswith(".set_weight") and not bool(tensors[key].any())


def _no_lora(file: _File, shapes: Mapping[str, tuple[int, ...]]) -> None:
    thing = foreign.other_thing(shapes)
    if thing:
        raise ModelFileError(f"{file.what} is not a LoRA: it is {thing}.", ANOTHER)
    raise ModelFileError(f"{file.what} is not a LoRA: it holds {listed(shapes)}.", ANOTHER)


def _unknown(
    file: _File, loose: list[str], shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, set[str]], style: Style
) -> None:
    """Raises the error for keys that the style does not know."""
    if other := foreign.other_model(shapes, file.metadata):
        raise ModelFileError(f"{file.what} is a LoRA for {other}, not for FLUX.1.", ANOTHER)
    stems = {found[0] for key in loose if (found := parts.divide(key)) is not None}
    for name, theirs in known.items():
        if name != style.name and known[style.name] and stems and stems <= theirs:
            raise ModelFileError(
                f"{file.what} mixes two key styles, {style.name} and {name}, so a layer may be in it twice "
                f"({listed(loose)}).",
                "Ask its maker for a file that holds the LoRA once.",
            )
    if not known[style.name] and (thing := foreign.other_thing(shapes)):
        raise ModelFileError(f"{file.what} is not a LoRA: it is {thing}.", ANOTHER)
    raise ModelFileError(
        f"{file.what} holds {len(loose)} keys that FLUX.1 has no layers for: {listed(loose)}. Nothing of it was used.",
        "It was made for another model, or by a program whose names are not known here.",
    )


def _style_name(style: Style, file: _File) -> str:
    roles = {role for module in file.modules.values() for role in module}
    product = "LoKr" if roles & {"w1", "w1_a"} else "LoHa" if "h1_a" in roles else ""
    old = any(spelling.startswith((".lora.down", ".lora.up")) for spelling in file.spellings.values())
    return f"{style.name} {product}".strip() if product else f"old {style.name}" if old else style.name


# --- pairs ------------------------------------------------------------------------------------------------------------


def _pairs(file: _File, style: Style, config: FluxConfig) -> dict[str, Pair]:
    """Every module's pair, split into layers."""
    known, table = targets(config), style.modules(config)
    _complete(file)
    alphas = _alphas(file, style, table)
    pairs: dict[str, Pair] = {}
    losses: dict[str, float] = {}
    for stem, module in file.modules.items():
        covers = style.find(stem, table)
        assert covers is not None
        for role, tensor in module.items():
            if tensor.ndim > 2 and tuple(tensor.shape[2:]) == (1,) * (tensor.ndim - 2):
                module[role] = tensor.flatten(1)  # a convolution of one pixel, as some tools write a linear layer
            if parts.DOWN not in module:
                finite(f"{stem} ({role})", tensor, file.what)  # before a decomposition meets it
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


def _complete(file: _File) -> None:
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


def _alphas(file: _File, style: Style, table: dict[str, Covers]) -> dict[str, float]:
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
    ranks = {}
    for stem in plain:
        covers = style.find(stem, table)
        if covers is not None and len(covers.names) == 1:
            ranks[covers.names[0]] = (stem, int(file.modules[stem][parts.DOWN].shape[0]))
    said = diffusers.alphas(file.metadata, {name: rank for name, (_, rank) in ranks.items()})
    for name, alpha in said.items():
        stem = ranks[name][0]
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


def _number(file: _File, stem: str, tensor: Tensor) -> float:
    import math

    value = float(tensor.float().item()) if tensor.numel() == 1 else math.nan
    if not math.isfinite(value) or value == 0:
        raise ModelFileError(f"{file.what}: the alpha of {stem} is {value:g}, which is no scale.", "Get it again.")
    return value


def _note_scale(file: _File) -> None:
    alpha, rank = (file.metadata.get(f"ss_network_{name}", "") for name in ("alpha", "dim"))
    try:
        differs = float(alpha) != float(rank)
    except ValueError:
        return
    if differs:
        file.notes.append(
            f"Its tensors hold no alpha, its metadata say alpha {alpha} for rank {rank}: used as it is, with scale 1."
        )


def _shapes(file: _File, stem: str, module: dict[str, Tensor], outputs: int, inputs: int) -> None:
    """Raises where the parts do not make a matrix [outputs, inputs]."""
    flat = [f"{stem} ({role}) is {list(t.shape)}" for role, t in module.items() if role != parts.ALPHA and role not in (
        parts.BIAS, parts.RANK) and t.ndim != 2]  # fmt: skip
    if flat:
        raise ModelFileError(f"{file.what} holds something else than matrices: {listed(flat)}.", ANOTHER)
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


def _biases(file: _File, module: dict[str, Tensor], covers: Covers, rows: list[int]) -> None:
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


def _without_guidance(pairs: dict[str, Pair], file: _File) -> dict[str, Pair]:
    kept = {name: pair for name, pair in pairs.items() if "guidance_embedder" not in name}
    if len(kept) < len(pairs):
        file.notes.append("What it changes of the guidance's input was left out: this model has none.")
    file.extras = {name: tensor for name, tensor in file.extras.items() if "guidance_embedder" not in name}
    return kept


def _said(file: _File, losses: dict[str, float]) -> None:
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
