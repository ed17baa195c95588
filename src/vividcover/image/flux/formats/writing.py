"""`Lora` → a file that other programs read at the right scale, read again and compared before it counts.

alpha = rank in every file: the scale is in the matrices. A reader that does not know alphas is then right as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vividcover.errors import ModelFileError, ParameterError, StorageError
from vividcover.files import aside
from vividcover.image.flux.config import FluxConfig, targets
from vividcover.image.flux.formats import EXPORTS, Covers, bfl, diffusers, kohya, splitting
from vividcover.image.flux.formats.checks import check
from vividcover.image.flux.formats.names import underscored
from vividcover.image.flux.formats.pairs import Lora, Pair
from vividcover.image.flux.formats.reading import read_lora
from vividcover.tensors import seeded, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
MOST_OFF = {"fp16": 2e-3, "bf16": 2e-2, "fp32": 1e-6}  # relative, of a layer's output, that a number format may cost
SOFTWARE = "vividcover"
IMPLEMENTATION = "https://github.com/black-forest-labs/flux"
STALE = (diffusers.ADAPTER, "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")  # of the file that was read


def write_lora(
    path: Path, lora: Lora, format: str = "diffusers", *, dtype: str = "fp16",
    metadata: Mapping[str, str] | None = None, config: FluxConfig | None = None,
) -> Path:  # fmt: skip
    """Writes the file, whole or not at all: first aside, then read again and compared, then in its place.

    `format` is one of `EXPORTS`. `config`: of the network, where it is not FLUX.1 itself.
    Raises `ModelFileError` for a LoRA that `check` refuses or that does not fit the number format.
    """
    if format not in EXPORTS:
        raise ParameterError(f"Unknown LoRA format {format!r}.", f"Choose one of {', '.join(EXPORTS)}.")
    if dtype not in DTYPES:
        raise ParameterError(f"Unknown number format {dtype!r}.", f"Choose one of {', '.join(DTYPES)}.")
    path, config = Path(path), config or _config_of(lora)
    if not lora.pairs:
        raise ModelFileError("There is nothing to write: the LoRA changes no layer.", "Train it first.")
    check(lora, config)
    baked = {name: bake(pair) for name, pair in sorted(lora.pairs.items())}
    tensors = _narrow(_named(baked, format, config) | _extras(lora, format, config), dtype, path.name)
    with aside(path) as part:
        write_tensors(part, tensors, _metadata(lora, baked, format, config, metadata or {}))
        _compare(part, path.name, lora, tensors, config, MOST_OFF[dtype])
    return path


def bake(pair: Pair) -> Pair:
    """The same change with alpha = rank, float32: the scale as a power of two goes into A, the rest (1 to 2) into B.

    A's numbers are random and large where B's are learnt and small, so A bears a small scale better in 16 bits.
    """
    scale = pair.scale
    if scale == 1:
        return Pair(pair.a.float(), pair.b.float(), float(pair.rank))
    power = 2.0 ** math.floor(math.log2(abs(scale))) if scale else 1.0
    return Pair(pair.a.float() * power, pair.b.float() * (scale / power), float(pair.rank))


def _config_of(lora: Lora) -> FluxConfig:
    """FLUX.1's numbers, or those of the control model where the LoRA reads a second picture."""
    first = lora.pairs.get("x_embedder")
    return FluxConfig() if first is None else FluxConfig(in_channels=int(first.a.shape[1]))


def _named(pairs: dict[str, Pair], format: str, config: FluxConfig) -> dict[str, Tensor]:
    import torch

    if format == "diffusers":
        return diffusers.tensors(pairs)
    table = bfl.modules(config)
    prefix, table = (bfl.PREFIX, table) if format == "bfl" else (kohya.PREFIX, underscored(table))
    found = {}
    for name, pair in _fused(pairs, table, config).items():
        found[f"{prefix}{name}.lora_down.weight"] = pair.a
        found[f"{prefix}{name}.lora_up.weight"] = pair.b
        found[f"{prefix}{name}.alpha"] = torch.tensor(float(pair.rank))
    return found


def _fused(pairs: dict[str, Pair], table: dict[str, Covers], config: FluxConfig) -> dict[str, Pair]:
    known, found = targets(config), {}
    for name, covers in table.items():
        parts = [pairs.get(layer) for layer in covers.names]
        if any(part is not None for part in parts):
            pair = splitting.fuse(parts, [known[layer].outputs for layer in covers.names])
            found[name] = Pair(pair.a, splitting.swapped(pair.b), pair.alpha) if covers.swapped else pair
    return found


def _extras(lora: Lora, format: str, config: FluxConfig) -> dict[str, Tensor]:
    """Norms and biases. Only diffusers' names have a place for those of single layers."""
    if lora.extras and format != "diffusers":
        raise ModelFileError(
            f"This LoRA changes norms or biases as well ({next(iter(lora.extras))}), which {format} files do not hold.",
            "Write it in the format diffusers.",
        )
    known = targets(config)
    return {
        f"{diffusers.PREFIX}{name.removesuffix('.bias')}.lora_B.bias"
        if name.removesuffix(".bias") in known
        else f"{diffusers.PREFIX}{name}": tensor.float()
        for name, tensor in lora.extras.items()
    }


def _narrow(tensors: dict[str, Tensor], dtype: str, what: str) -> dict[str, Tensor]:
    import torch

    kind: torch.dtype = getattr(torch, DTYPES[dtype])
    found = {name: t if name.endswith(".alpha") else t.to(kind).contiguous() for name, t in tensors.items()}
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(
                f"{what}: {name} holds numbers too large for {dtype} (up to {float(tensors[name].abs().max()):.3g}).",
                "Write it as bf16 or fp32.",
            )
    return found


def _metadata(
    lora: Lora, pairs: dict[str, Pair], format: str, config: FluxConfig, more: Mapping[str, str]
) -> dict[str, str]:
    """What stands beside the tensors: for diffusers PEFT's settings, for kohya's readers rank and base."""
    rank, base = str(lora.rank), str(more.get("vividcover.base") or lora.base)
    found = {"format": "pt", "software": SOFTWARE, "ss_base_model_version": "flux1", "ss_network_dim": rank,
             "ss_network_alpha": rank}  # fmt: skip
    if base:
        found |= {
            "vividcover.base": base, "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"flux-1-{base}/lora", "modelspec.implementation": IMPLEMENTATION,
        }  # fmt: skip
    if format == "diffusers" and not lora.extras:
        found[diffusers.ADAPTER] = diffusers.adapter_settings(pairs, config)
    kept = {name: text for name, text in lora.metadata.items() if name not in STALE}
    return {name: text for name, text in (kept | found | dict(more)).items() if text}


def _compare(
    part: Path, name: str, lora: Lora, tensors: Mapping[str, Tensor], config: FluxConfig, most_off: float
) -> None:
    """Reads the file again: the same tensors, and through our reader the same change of every layer."""
    import torch

    from vividcover.tensors import read_tensors

    again = read_tensors(part, name)
    if set(again) != set(tensors) or any(not torch.equal(again[key], tensors[key]) for key in tensors):
        raise StorageError(f"{name} was not written as it should be: what was read again differs.", "Try another disk.")
    off, where = worst_difference(lora, read_lora(part, config, name))
    if off > most_off:
        raise ModelFileError(
            f"{name} would change {where} by {off:.1%} more or less than it should: its numbers do not fit the format.",
            "Write it as fp32.",
        )


def worst_difference(one: Lora, other: Lora) -> tuple[float, str]:
    """The largest relative difference of two LoRAs' outputs for random inputs, and the layer; 1 where one lacks it."""
    worst, where = 0.0, ""
    inputs: dict[int, torch.Tensor] = {}
    for name in sorted({*one.pairs, *other.pairs}):
        left, right = one.pairs.get(name), other.pairs.get(name)
        x = _probe(inputs, (left or right), name)
        out = [None if pair is None else _applied(pair, x) for pair in (left, right)]
        known = [value for value in out if value is not None]
        size = max(float(value.norm()) for value in known)
        gap = float((known[0] - known[1]).norm()) if len(known) == 2 else size
        if size and gap / size > worst:
            worst, where = gap / size, name
    return worst, where


def _probe(inputs: dict[int, Tensor], pair: Pair | None, name: str) -> Tensor:
    """A random input [in, 4] for a layer of this width, always the same."""
    import torch

    assert pair is not None, name
    width = int(pair.a.shape[1])
    if width not in inputs:
        inputs[width] = torch.randn(width, 4, generator=seeded(width))
    return inputs[width]


def _applied(pair: Pair, x: Tensor) -> Tensor:
    return (pair.b.float() @ (pair.a.float() @ x)) * pair.scale
