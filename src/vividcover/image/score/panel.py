"""Several scores of a picture, and one total with weights that are said.

    panel = open_panel("auto", weights=shelf, references=photos, kit=face_kit, reporter=reporter)
    for judged in panel.judge(pictures, prompts):
        judged.total        # 0..1
        judged.values       # {"clip-t": 0.31, "dino": 0.72, …}, each in its own unit
    panel.legend()          # what each means, from which value to which it counts, and its weight

A total is the weighted mean of the scores, each brought to 0..1 between two values that are known for it: what
unrelated pictures reach, and what photographs of the same thing reach. It orders pictures; it is no percentage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import EngineError, ParameterError
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from vividcover.portrait.faces import FaceKit
    from vividcover.weights import Resolver

Rgb = NDArray[np.uint8]  # [H, W, 3]
WEIGHTS: dict[str, float] = {"clip-t": 1.0, "clip-i": 0.5, "dino": 1.0, "face": 1.5, "sharpness": 0.25}
NEEDS = {"clip-t": "clip-vit-b32", "clip-i": "clip-vit-b32", "dino": "dino-vits16"}  # weights, by the score's name
OF_REFERENCES = ("clip-i", "dino", "face")  # these compare with photographs
LOOK = 8  # pictures that a net sees at once


class Scorer(Protocol):
    """One way to judge a picture. `low` and `high` are the values that count as 0 and as 1 in a total."""

    name: str
    meaning: str
    low: float
    high: float

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[float]:
        """A value for each picture; higher is better. `prompts`: what each was asked for."""


@dataclass(frozen=True)
class Judged:
    values: dict[str, float]
    total: float


class Panel:
    """Scorers and their weights. Raises `ParameterError` where there is none, or a weight that means nothing."""

    def __init__(self, scorers: Sequence[Scorer], weights: Mapping[str, float] = WEIGHTS) -> None:
        if not scorers:
            raise ParameterError("There is nothing to score by.", f"Name one of {', '.join(WEIGHTS)}.")
        self.scorers = list(scorers)
        self.weights = {scorer.name: float(weights.get(scorer.name, 1.0)) for scorer in scorers}
        wrong = {name: w for name, w in self.weights.items() if not (isfinite(w) and w >= 0)}
        if wrong or not sum(self.weights.values()):
            raise ParameterError(f"The weights of the scores are {wrong or self.weights}.", "Give some above zero.")

    def judge(self, pictures: Sequence[Rgb], prompts: Sequence[str], reporter: Reporter | None = None) -> list[Judged]:
        """Every picture by every scorer. Raises `EngineError` for a scorer that gives no number, and `Canceled`."""
        reporter = reporter or Silent()
        tables: dict[str, list[float]] = {scorer.name: [] for scorer in self.scorers}
        for start in range(0, len(pictures), LOOK):
            some, asked = pictures[start : start + LOOK], prompts[start : start + LOOK]
            for scorer in self.scorers:
                reporter.check()
                values = scorer.scores(some, asked)
                if len(values) != len(some) or not all(isfinite(value) for value in values):
                    raise EngineError(
                        f"The score {scorer.name} gave {values[:4]} for {len(some)} pictures.",
                        "Leave it out, or get its weights again.",
                    )
                tables[scorer.name] += values
        judged = []
        for i in range(len(pictures)):
            values_of = {name: table[i] for name, table in tables.items()}
            judged.append(Judged(values_of, self.total(values_of)))
        return judged

    def total(self, values: Mapping[str, float]) -> float:
        """The weighted mean, 0..1."""
        parts = [
            self.weights[s.name] * min(max((values[s.name] - s.low) / (s.high - s.low), 0.0), 1.0) for s in self.scorers
        ]
        return sum(parts) / sum(self.weights.values())

    def legend(self) -> list[dict[str, Any]]:
        """What a table of scores needs beside it."""
        return [
            {"score": s.name, "meaning": s.meaning, "from": s.low, "to": s.high, "weight": self.weights[s.name]}
            for s in self.scorers
        ]


def open_panel(
    names: str | Sequence[str] = "auto", *, weights: Resolver, references: Sequence[Rgb] = (),
    kit: FaceKit | None = None, face_net: Path | None = None, trigger: str = "", noun: str = "a person",
    device: str = "auto", share: Mapping[str, float] = WEIGHTS, reporter: Reporter | None = None,
) -> Panel:  # fmt: skip
    """The scorers that are asked for. "auto": all that can be used here; what is left out is noted, with the reason.

    `references`: photographs of the subject; `kit`: finds faces in them; `face_net`: recognises them (see `face.py`);
    `trigger` is read as `noun` where fit to the prompt is scored.
    A score that is named and cannot be used raises `WeightsError` (its net is not here) or `ParameterError` (unknown,
    or nothing to compare with).
    """
    reporter = reporter or Silent()
    if names == "auto":
        chosen = []
        for name in WEIGHTS:
            if reason := _hindered(name, weights, references, kit):
                reporter.note(f"not scored by {name}: {reason}")
            else:
                chosen.append(name)
    else:
        chosen = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
        if unknown := [name for name in chosen if name not in WEIGHTS]:
            raise ParameterError(f"There is no score {unknown[0]!r}.", f"There are {', '.join(WEIGHTS)}.")
    room = _Room(weights, references, kit, face_net, trigger, noun, device)
    return Panel([_open(name, room) for name in dict.fromkeys(chosen)], share)


@dataclass(frozen=True)
class _Room:
    """What scorers are made of."""

    weights: Resolver
    references: Sequence[Rgb]
    kit: FaceKit | None
    face_net: Path | None
    trigger: str
    noun: str
    device: str


def _hindered(name: str, weights: Resolver, references: Sequence[Rgb], kit: FaceKit | None) -> str:
    """Why a score cannot be used here, or ""."""
    from vividcover.image.score.face import faces_in
    from vividcover.tensors import available

    if name in OF_REFERENCES and not references:
        return "no photographs of the subject were given to compare with"
    if name in NEEDS:
        if not weights.has(NEEDS[name]):
            return f"its net is not here (`vividcover weights pull {NEEDS[name]}`)"
        return available()
    if name == "face" and (kit is None or not faces_in(references, kit)):
        return "the photographs show no face"
    return ""


def _open(name: str, room: _Room) -> Scorer:
    from vividcover.image.score import face, measures, nets

    if name in OF_REFERENCES and not room.references:
        raise ParameterError(f"The score {name} compares with photographs, and none were given.", "Give some.")
    if name == "sharpness":
        return measures.Sharpness()
    if name == "face":
        if room.kit is None:
            raise ParameterError("The score face needs the nets that find faces.", "Give a FaceKit.")
        return face.Likeness(room.references, room.kit, room.face_net)
    if name == "dino":
        return nets.DinoLikeness(nets.dino(room.weights.path(NEEDS[name]), room.device), room.references)
    clip = nets.clip(room.weights.path(NEEDS[name]), room.device)
    if name == "clip-t":
        return nets.PromptFit(clip, room.trigger, room.noun)
    return nets.ClipLikeness(clip, room.references)
