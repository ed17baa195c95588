"""The tensors of a file, sorted by its key style into modules and their parts. What no style knows is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.formats import STYLES, Style, foreign, parts
from vividcover.image.flux.formats.names import listed, table

if TYPE_CHECKING:
    from torch import Tensor

ANOTHER = "Choose a LoRA that was made for FLUX.1 [dev] or FLUX.1 [schnell]."
Modules = dict[str, dict[str, "Tensor"]]  # key without its part → part → tensor


@dataclass
class File:
    """A file while it is read. `extras`: what is no pair, by diffusers' names."""

    what: str
    metadata: dict[str, str]
    modules: Modules = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)  # key without its part → how its A or B is spelt
    extras: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def sort(file: File, tensors: dict[str, Tensor], config: FluxConfig) -> Style:
    """Sorts the tensors into modules and parts, and finds the key style that knows them. Raises `ModelFileError`."""
    left_out = [key for key in tensors if foreign.is_text_encoder(key)]
    mine = {key: tensor for key, tensor in tensors.items() if key not in set(left_out)}
    divided = {key: found for key in mine if (found := parts.divide(key)) is not None}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if not divided:
        _no_lora(file, shapes)
    tables = {style.name: table(style, config) for style in STYLES}
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
    file.extras |= {whole[key]: mine[key].flatten() for key in mine if key in whole}
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


def _no_lora(file: File, shapes: Mapping[str, tuple[int, ...]]) -> None:
    thing = foreign.other_thing(shapes)
    if thing:
        raise ModelFileError(f"{file.what} is not a LoRA: it is {thing}.", ANOTHER)
    raise ModelFileError(f"{file.what} is not a LoRA: it holds {listed(shapes)}.", ANOTHER)


def _unknown(
    file: File, loose: list[str], shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, set[str]], style: Style
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


def style_name(style: Style, file: File) -> str:
    roles = {role for module in file.modules.values() for role in module}
    product = "LoKr" if roles & {"w1", "w1_a"} else "LoHa" if "h1_a" in roles else ""
    old = any(spelling.startswith((".lora.down", ".lora.up")) for spelling in file.spellings.values())
    return f"{style.name} {product}".strip() if product else f"old {style.name}" if old else style.name
