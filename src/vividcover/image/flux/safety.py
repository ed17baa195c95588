"""Pictures are looked at before they are given out, by two nets. In doubt, nothing is given out.

    guard = Guard.from_weights(weights, device=device)   # raises WeightsError where a net is missing
    verdicts = guard.look([rgb, rgb], tolerance=2)

Stable Diffusion's safety checker compares CLIP's view of a picture with seventeen concepts and three that call for more
care; Falconsai's ViT gives a probability. The published FLUX models hold a picture back when both object, and so does
tolerance 2 and above here; at 0 and 1 one of them is enough. Neither sees everything: they find nakedness, not cruelty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from vividcover.errors import Canceled, EngineError, ParameterError, VividCoverError
from vividcover.image.flux.folders import processor_of, strictly
from vividcover.image.flux.request import Rgb
from vividcover.weights import Resolver

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
HINT = "Pull the nets (`vividcover weights pull safety-checker nsfw-detector`), or switch the check off for this run."
ONE_IS_ENOUGH = 1  # up to this tolerance one checker's word holds a picture back; above it takes both
CONCEPTS = (-0.030, -0.015, 0.0, 0.010, 0.020, 0.035, 0.050)  # by tolerance: cosine over the checker's own thresholds
PROBABILITY = (0.10, 0.30, 0.50, 0.70, 0.85, 0.95, 0.99)  # by tolerance
CARE = 0.01  # how much nearer a concept may come where one of the three is seen


class Checker(Protocol):
    name: str
    limits: tuple[float, ...]  # by tolerance 0..6: a score over it is an objection

    def ready(self) -> None:
        """Reads the net. Raises `WeightsError`."""

    def scores(self, pictures: Sequence[Rgb]) -> list[float]:
        """One number for each picture; larger is worse."""


@dataclass(frozen=True)
class Verdict:
    safe: bool
    scores: dict[str, float]  # by checker
    why: str = ""


class Guard:
    """Several checkers and one rule. Without checkers there is no guard."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        if not checkers:
            raise ParameterError("A guard needs at least one checker.", HINT)
        self.checkers = list(checkers)

    @classmethod
    def from_weights(cls, weights: Resolver, *, device: torch.device) -> Guard:
        """Both nets, read when they are first needed. Raises `WeightsError` at once for one that is not there."""
        return cls([
            ConceptChecker(weights.path("safety-checker"), device=device),
            NsfwDetector(weights.path("nsfw-detector"), device=device),
        ])  # fmt: skip

    def ready(self) -> None:
        """Reads all nets, so that a broken one is found before anything is painted."""
        for checker in self.checkers:
            _closed(checker.ready, checker.name)

    def look(self, pictures: Sequence[Rgb], tolerance: int = 2) -> list[Verdict]:
        """A verdict for each picture. Raises `EngineError` when a checker fails: then none is known to be safe."""
        if not 0 <= tolerance <= 6:
            raise ParameterError(f"safety_tolerance is {tolerance}.", "It goes from 0, most strict, to 6.")
        table = {checker.name: self._scores(checker, pictures) for checker in self.checkers}
        verdicts = []
        for i in range(len(pictures)):
            scores = {name: scores[i] for name, scores in table.items()}
            against = [c.name for c in self.checkers if scores[c.name] > c.limits[tolerance]]
            enough = 1 if tolerance <= ONE_IS_ENOUGH else len(self.checkers)
            safe = len(against) < enough
            verdicts.append(Verdict(safe, scores, "" if safe else f"held back by {' and '.join(against)}"))
        return verdicts

    def _scores(self, checker: Checker, pictures: Sequence[Rgb]) -> list[float]:
        found = _closed(lambda: list(checker.scores(pictures)), checker.name)
        if len(found) != len(pictures) or not all(isfinite(score) for score in found):
            raise EngineError(
                f"The safety checker {checker.name} gave {found[:4]} for {len(pictures)} pictures; they stay here.",
                HINT,
            )
        return found


def _closed(work: Callable[[], T], name: str) -> T:
    try:
        return work()
    except (Canceled, VividCoverError):
        raise
    except Exception as error:  # whatever it was: nothing was checked
        raise EngineError(f"The safety checker {name} failed ({error}); no picture is given out.", HINT) from error


class ConceptChecker:
    """`CompVis/stable-diffusion-safety-checker`. A score is how far the worst concept is over its threshold."""

    name = "safety-checker"
    limits: tuple[float, ...] = CONCEPTS

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._net: Any = None
        self._prepare: Any = None

    def ready(self) -> None:
        if self._net is None:
            from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

            self._prepare = processor_of("CLIPImageProcessor", self.folder)
            self._net = strictly(StableDiffusionSafetyChecker, self.folder, "the safety checker").to(self.device)

    def scores(self, pictures: Sequence[Rgb]) -> list[float]:
        import torch
        from torch.nn.functional import cosine_similarity

        self.ready()
        net = self._net
        with torch.inference_mode():
            pixels = self._prepare(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
            seen = net.visual_projection(net.vision_model(pixels)[1])[:, None].float()  # [B,1,D]
            special = cosine_similarity(seen, net.special_care_embeds[None], dim=-1) - net.special_care_embeds_weights
            concepts = cosine_similarity(seen, net.concept_embeds[None], dim=-1) - net.concept_embeds_weights
            care = (special > 0).any(dim=1).float() * CARE  # [B]
            worst = concepts.amax(dim=1) + care
        return [float(score) for score in worst.cpu()]


class NsfwDetector:
    """`Falconsai/nsfw_image_detection`. A score is the probability that the picture is not for everybody."""

    name = "nsfw-detector"
    limits: tuple[float, ...] = PROBABILITY

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._net: Any = None
        self._prepare: Any = None
        self._class = 1

    def ready(self) -> None:
        if self._net is None:
            from transformers import ViTForImageClassification

            self._prepare = processor_of("ViTImageProcessor", self.folder)
            net = strictly(ViTForImageClassification, self.folder, "the nsfw detector").to(self.device)
            labels = [i for i, label in net.config.id2label.items() if str(label).lower() == "nsfw"]
            if len(labels) != 1:
                raise EngineError(f"{self.folder.name} has no class `nsfw`: {net.config.id2label}.", HINT)
            self._class, self._net = int(labels[0]), net

    def scores(self, pictures: Sequence[Rgb]) -> list[float]:
        import torch

        self.ready()
        with torch.inference_mode():
            pixels = self._prepare(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
            chances = self._net(pixel_values=pixels).logits.float().softmax(dim=-1)[:, self._class]
        return [float(chance) for chance in chances.cpu()]


def stand_in(rgb: Rgb) -> Rgb:
    """What is shown for a picture that was held back: grey, of the same size, with nothing of it left."""
    return np.full_like(rgb, 128)
