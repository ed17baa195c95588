"""diffusers and PEFT: `transformer.transformer_blocks.0.attn.to_q.lora_A.weight`.

Replicate's trainers, ai-toolkit, SimpleTuner and fal write it. The scale stands in `.alpha` tensors, in the metadata
`lora_adapter_metadata` (diffusers since 0.34), or nowhere: then alpha is the rank. Older diffusers wrote `.lora.down`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from vividcover.image.flux.config import FluxConfig, targets
from vividcover.image.flux.formats.names import Covers, Style

if TYPE_CHECKING:
    from vividcover.image.flux.formats.pairs import Pair

PREFIX = "transformer."
ADAPTER = "lora_adapter_metadata"  # the key that diffusers keeps PEFT's settings under


def modules(config: FluxConfig) -> dict[str, Covers]:
    return {name: Covers((name,)) for name in targets(config)}


def norms(config: FluxConfig) -> dict[str, str]:
    """The norms of queries and keys: parameter → the same."""
    double = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    found = [f"transformer_blocks.{i}.attn.{norm}.weight" for i in range(config.double_blocks) for norm in double]
    found += [
        f"single_transformer_blocks.{i}.attn.{norm}.weight" for i in range(config.single_blocks) for norm in double[:2]
    ]
    return {name: name for name in found}


STYLE = Style(
    "diffusers",
    (
        PREFIX,
        "",
        "diffusion_model.",
        "lora_transformer.",
        "base_model.model.transformer.",
        "base_model.model.",
        "model.diffusion_model.",
    ),
    modules,
    norms,
)


def tensors(pairs: dict[str, Pair]) -> dict[str, Any]:
    """The tensors of a file. The scale must be in the pairs already (alpha = rank)."""
    return {
        f"{PREFIX}{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in (("A", pair.a), ("B", pair.b))
    }


def adapter_settings(pairs: dict[str, Pair], config: FluxConfig) -> str:
    """PEFT's settings as diffusers keeps them: then it asks no file for its rank and guesses no alpha.

    PEFT takes a name for every layer whose name ends so: `proj_out`, of the network, is also that of single blocks.
    Where a name would take in another layer, patterns begin with ^ and the layers are given as one expression.
    """
    known = targets(config)

    def widely(name: str) -> set[str]:
        return {other for other in known if other.endswith(f".{name}")}

    wide = {name for name in pairs if widely(name)}
    loose = any(not widely(name) <= pairs.keys() for name in wide)
    ranks = sorted(pair.rank for pair in pairs.values())
    usual = max(set(ranks), key=ranks.count)
    others = {
        f"^{name}" if name in wide else name: pair.rank for name, pair in sorted(pairs.items()) if pair.rank != usual
    }
    settings = {
        "r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others,
        "target_modules": "|".join(re.escape(name) for name in sorted(pairs)) if loose else sorted(pairs),
        "lora_bias": False, "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    return json.dumps({f"{PREFIX}{name}": value for name, value in settings.items()}, sort_keys=True)


def alphas(metadata: dict[str, str], ranks: dict[str, int]) -> dict[str, float]:
    """What the metadata says of each layer's alpha; nothing where it says nothing that can be read."""
    try:
        found = json.loads(metadata.get(ADAPTER, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    own = {key.removeprefix(PREFIX): value for key, value in found.items() if not key.startswith("text_encoder")}
    usual, patterns = own.get("lora_alpha"), own.get("alpha_pattern") or {}
    if not isinstance(usual, int | float) or not isinstance(patterns, dict):
        return {}
    said = {}
    for name, rank in ranks.items():
        pattern = next((p for p in patterns if name == p.removeprefix("^") or name.endswith(f".{p}")), None)
        alpha = float(usual if pattern is None else patterns[pattern])
        said[name] = alpha * float(rank) ** 0.5 if own.get("use_rslora") else alpha  # rsLoRA: alpha / √r
    return said
