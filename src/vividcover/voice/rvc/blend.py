"""A voice between two (or more) voices: their weights, mixed. And their indexes and pitch ranges, in the same shares.

report = blend(Path("anna.zip"), Path("ben.zip"), 0.3, Path("between.zip"))     # 30 % Ben
mixed = mixture([(anna_file, 0.5), (ben_file, 0.3), (carl_file, 0.2)])          # voice files already read
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vividcover.archives import write_zip
from vividcover.errors import ParameterError
from vividcover.trained import CARD, kind_name
from vividcover.voice.rvc import index
from vividcover.voice.rvc.checkpoint import VoiceFile, write_voice_file
from vividcover.voice.rvc.opening import Model, open_model
from vividcover.workspace import Reporter, Silent

SEED = 0  # of which features the mixed index keeps
HINT = "Only voices of the same RVC version and sample rate can be mixed."


def blend(
    first: Path, second: Path, share: float, out: Path, *, name: str = "", reporter: Reporter | None = None
) -> dict[str, Any]:  # fmt: skip
    """Writes `out`, a zip like a trained voice's: `share` (0..1) of the second voice, the rest of the first.

    Raises `ParameterError` where the two do not fit each other, and what `open_model` raises.
    """
    reporter = reporter or Silent()
    if not 0 <= share <= 1:
        raise ParameterError(f"The share of the second voice is {share}.", "It must lie between 0 and 1.")
    models = [(open_model(first), 1 - share), (open_model(second), share)]
    reporter.progress(0.3, "mixing")
    mixed = mixture([(model.file, part) for model, part in models])
    name = name or " + ".join(model.name for model, _ in models)
    card = _card(models, name, mixed)
    with tempfile.TemporaryDirectory(prefix="vividcover-blend-") as folder:
        voice = write_voice_file(Path(folder) / "blend.pth", mixed, info="blend")
        files: dict[str, Path | bytes] = {"blend.pth": voice, CARD: (json.dumps(card, sort_keys=True) + "\n").encode()}
        if (features := _features(models)) is not None:
            found = index.build(features, Path(folder), name="blend", version=mixed.version)
            files[found.name] = found
        reporter.progress(0.9, "writing")
        write_zip(out, files, reporter=reporter)
    return card


def mixture(voices: Sequence[tuple[VoiceFile, float]]) -> VoiceFile:
    """Weights mixed in shares that need not add up to 1. Of the speakers, as many as the voice with the fewest has."""
    total = sum(share for _, share in voices)
    if not voices or min(share for _, share in voices) < 0 or total <= 0:
        raise ParameterError("The shares of a mixture are negative, or all zero.", "Give each voice a share above 0.")
    first = voices[0][0]
    for voice, _ in voices[1:]:
        for what in ("version", "rate", "f0"):
            one, other = _trait(first, what), _trait(voice, what)
            if one != other:
                raise ParameterError(f"These voices do not mix: {what} {one} and {what} {other}.", HINT)
    speakers = min(voice.speakers for voice, _ in voices)
    parts = [(_plain(voice, speakers), share / total) for voice, share in voices]
    shapes = [{key: tuple(value.shape) for key, value in weights.items()} for weights, _ in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ParameterError("These voices do not mix: their networks differ in size.", HINT)
    weights = {key: sum((part[key] * share for part, share in parts[1:]), parts[0][0][key] * parts[0][1])
               for key in parts[0][0]}  # fmt: skip
    return VoiceFile(first.config, first.f0, weights, "blend")


def _trait(voice: VoiceFile, what: str) -> Any:
    return {"version": voice.version, "rate": voice.config.rate, "f0": voice.f0}[what]


def _plain(voice: VoiceFile, speakers: int) -> dict[str, Tensor]:
    """float32, the speakers' table cut to so many rows."""
    weights = {key: value.float() for key, value in voice.weights.items()}
    return weights | {"emb_g.weight": weights["emb_g.weight"][:speakers]}


def _features(models: Sequence[tuple[Model, float]]) -> index.Features | None:
    """Recorded features of all voices that have some, as many of each as its share says. None where none has any."""
    random = np.random.default_rng(SEED)
    known = [(model.index.vectors, share) for model, share in models if model.index is not None and share > 0]
    if not known:
        return None
    most = min(len(vectors) / share for vectors, share in known)  # of which each can give its share
    picked = [vectors[random.permutation(len(vectors))[: max(1, round(most * share))]] for vectors, share in known]
    return np.concatenate(picked)


def _card(models: Sequence[tuple[Model, float]], name: str, mixed: VoiceFile) -> dict[str, Any]:
    """What the mixture says of itself. Pitch ranges are mixed as pitch is heard, on a logarithmic scale."""
    card: dict[str, Any] = {
        "kind": kind_name("voice"), "engine": "neural", "format": 1, "name": name, "version": mixed.version,
        "rate": mixed.config.rate,
        "blend": [{"name": model.name, "share": round(share, 4), "consent": model.card.get("consent")}
                  for model, share in models],
    }  # fmt: skip
    ranges = [(model.card.get("f0_hz"), share) for model, share in models]
    if all(isinstance(found, dict) and all(found.get(k) for k in ("low", "median", "high")) for found, _ in ranges):
        card["f0_hz"] = {
            key: round(float(np.exp(sum(share * np.log(found[key]) for found, share in ranges if found))), 2)
            for key in ("low", "median", "high")
        }
    return card
