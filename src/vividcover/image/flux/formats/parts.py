"""The last piece of a key: which part of a layer's change a tensor is. The same for all key styles."""

from __future__ import annotations

DOWN, UP, ALPHA, BIAS = "down", "up", "alpha", "bias"
DORA, WHOLE, MIDDLE, RANK = "dora", "whole", "middle", "rank"
_SPELLINGS: dict[str, tuple[str, ...]] = {
    DOWN: (
        ".lora_A.weight", ".lora_A.default.weight", ".lora_A", ".lora_down.weight", ".lora_down.default.weight",
        ".lora.down.weight", ".lora_linear_layer.down.weight", ".down.weight",
    ),
    UP: (
        ".lora_B.weight", ".lora_B.default.weight", ".lora_B", ".lora_up.weight", ".lora_up.default.weight",
        ".lora.up.weight", ".lora_linear_layer.up.weight", ".up.weight",
    ),
    ALPHA: (".alpha", ".lora.alpha", ".lora_A.alpha"),
    BIAS: (".lora_B.bias", ".lora_B.default.bias", ".lora_up.bias", ".lora.up.bias", ".diff_b"),
    DORA: (
        ".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight",
        ".lora_magnitude_vector.default.weight",
    ),
    WHOLE: (".diff", ".set_weight"),
    MIDDLE: (".lora_mid.weight", ".lokr_t2", ".hada_t1", ".hada_t2"),
    RANK: (".lokr_rank",),
    "w1": (".lokr_w1",), "w1_a": (".lokr_w1_a",), "w1_b": (".lokr_w1_b",),
    "w2": (".lokr_w2",), "w2_a": (".lokr_w2_a",), "w2_b": (".lokr_w2_b",),
    "h1_a": (".hada_w1_a",), "h1_b": (".hada_w1_b",), "h2_a": (".hada_w2_a",), "h2_b": (".hada_w2_b",),
}  # fmt: skip
ROLES = sorted(
    ((spelling, role) for role, spellings in _SPELLINGS.items() for spelling in spellings),
    key=lambda pair: -len(pair[0]),
)
MADE_OF = ({DOWN, UP}, {"w1"}, {"w1_a", "w1_b"}, {"h1_a", "h1_b", "h2_a", "h2_b"})


def divide(key: str) -> tuple[str, str] | None:
    """`x.lora_A.weight` → ("x", "down"); None where the key ends in nothing that a LoRA has."""
    for spelling, role in ROLES:
        if key.endswith(spelling) and len(key) > len(spelling):
            return key[: -len(spelling)], role
    return None


def spelling_of(role: str, beside: str) -> str:
    """How the part `role` is spelt where another part is spelt `beside`; for naming what a file lacks."""
    for down, up in zip(_SPELLINGS[DOWN], _SPELLINGS[UP], strict=True):
        if beside in (down, up):
            return down if role == DOWN else up
    return _SPELLINGS[role][0]
