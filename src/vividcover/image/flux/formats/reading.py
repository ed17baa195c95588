"""Any published LoRA for FLUX.1 → `Lora`: all of it, at the right scale, or an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import DEV, FluxConfig
from vividcover.image.flux.formats import diffusers
from vividcover.image.flux.formats.checks import check
from vividcover.image.flux.formats.pairing import pairs_of, without_guidance
from vividcover.image.flux.formats.pairs import Lora
from vividcover.image.flux.formats.sorting import ANOTHER, File, sort, style_name
from vividcover.tensors import metadata_of, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def read_lora(source: Path | bytes, config: FluxConfig = DEV, what: str = "", peft: str = "") -> Lora:
    """Reads a LoRA of any key style in `STYLES`; tensors stay in the file's number format.

    `what` names it in errors. `peft`: the text of the `adapter_config.json` that PEFT writes beside its
    `adapter_model.safetensors`, and that alone knows the scale; beside a file it is found.
    Raises `ModelFileError` for a file that is damaged, not a LoRA, for another model, not whole, of unknown keys, with
    numbers that are not finite, or whose scale cannot be known.
    """
    name = what or (source.name if isinstance(source, Path) else "The LoRA")
    tensors = _tensors(read_tensors(source, name), name)
    file = File(name, _metadata(source, peft))
    if isinstance(source, Path) and source.name == PEFT_FILE and diffusers.ADAPTER not in file.metadata:
        file.notes.append(f"Its scale stands in {PEFT_SETTINGS}, which is not beside it: used with scale 1.")
    style = sort(file, tensors, replace(config, guidance=True))
    pairs = pairs_of(file, style, replace(config, guidance=True))
    if not config.guidance:
        pairs = without_guidance(pairs, file)
    lora = Lora(pairs, file.metadata, base_of(file.metadata), style_name(style, file), file.notes, file.extras)
    if not pairs:
        raise ModelFileError(f"{name} changes nothing that this model has.", ANOTHER)
    check(lora, config, name)
    return lora


def _metadata(source: Path | bytes, peft: str) -> dict[str, str]:
    """What stands in the file's header, with PEFT's settings where they are in a file of their own."""
    found = metadata_of(source)
    if not peft and isinstance(source, Path) and source.name == PEFT_FILE:
        beside = source.with_name(PEFT_SETTINGS)
        peft = beside.read_text("utf-8", errors="replace") if beside.is_file() else ""
    return {diffusers.ADAPTER: peft, **found} if peft else found


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
        for key, tensor in sorted(tensors.items())
    }


def _eight_bits(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and tensor.itemsize == 1
