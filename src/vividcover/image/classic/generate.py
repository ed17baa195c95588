"""Generation: a prompt and a trained model in, a still out.

    choose a photo → place it → paint the scene → relight the person → composite, foreground → film

The whole is linear light until the film curve. Deterministic: the same model, prompt, seed and size give the same
pixels.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ParameterError
from vividcover.image.classic import grade, props, style
from vividcover.image.classic.compose import FACE, Placing, extend, melt_bottom, place, put
from vividcover.image.classic.light import Person, balanced, face_mask, relight
from vividcover.image.classic.modelfile import Model, read_model
from vividcover.image.classic.scene import Scene, paint
from vividcover.image.classic.scene_tools import F32, fbm, rgb, smooth
from vividcover.image.prompt import MAX_SIDE, MIN_SIDE, Understanding, read_prompt
from vividcover.portrait.faces import FaceKit
from vividcover.workspace import Reporter, Silent


@dataclass(frozen=True, slots=True)
class Generated:
    """`rgb` uint8 [H, W, 3]; `report` (JSON): seed, photo, what the prompt was understood as, words not understood."""

    rgb: NDArray[np.uint8]
    report: dict[str, Any]


def generate(
    model: Path,
    prompt: str,
    *,
    seed: int,
    width: int = 1024,
    height: int = 1024,
    kit: FaceKit | None = None,
    lora_scale: float = 1.0,
    reporter: Reporter | None = None,
) -> Generated:
    """Raises `ModelFileError`, `ParameterError`. `kit` is not needed: landmarks are kept in the model."""
    reporter = reporter or Silent()
    for side, value in (("width", width), ("height", height)):
        if not MIN_SIDE <= value <= MAX_SIDE:
            raise ParameterError(f"{side} is {value} px.", f"Use {MIN_SIDE} to {MAX_SIDE} px.")
    reporter.progress(0.0, "reading the model")
    trained = read_model(model)
    asked = read_prompt(prompt, trigger_word=str(trained.info.get("trigger_word", "")))
    if trained.info["type"] == "style":
        return _in_style(trained, asked, seed, width, height, lora_scale, reporter)
    rng = np.random.default_rng([seed, zlib.crc32(asked.scene.encode()), 1])
    chosen, placing, notes = choose(trained, asked, width, height, rng)
    reporter.progress(0.1, f"placing {chosen['photo']}")
    scene = paint(asked, width, height, seed, placing.face)
    reporter.progress(0.4, f"lighting {asked.scene}")
    person = _person(trained, chosen, placing, width, height, rng)
    skins = np.array([c["skin"] for c in trained.info["cutouts"]], np.float32)
    lit = relight(person, scene.lighting, balanced(skins), float(height))
    reporter.progress(0.75, "composing")
    picture = _compose(scene, person, lit, asked, placing, rng)
    pixels = grade.finish(picture, asked.moods, np.random.default_rng([seed, 3]))
    reporter.progress(1.0, "done")
    report = asked.report() | {
        "engine": "classic",
        "seed": seed,
        "width": width,
        "height": height,
        "photo": chosen["photo"],
        "palette": list(scene.palette),
        "face_of_height": round(placing.face[2], 3),
        "notes": [*notes, *placing.notes],
        "not_honoured": _not_honoured(asked, lora_scale),
    }
    _say(report, reporter)
    return Generated(pixels, report)


def _say(report: dict[str, Any], reporter: Reporter) -> None:
    if report["words_not_understood"]:
        words = ", ".join(report["words_not_understood"])
        reporter.note(f"The classic engine has no picture for these words of the prompt: {words}.")
    for note in report["notes"]:
        reporter.note(note)


def _not_honoured(asked: Understanding, lora_scale: float) -> list[str]:
    lines = [f"word: {w}" for w in asked.unknown]
    if lora_scale != 1.0:
        lines.append(f"lora_scale={lora_scale}: the classic engine shows the person as photographed")
    return lines


def choose(
    model: Model, asked: Understanding, width: int, height: int, rng: np.random.Generator
) -> tuple[dict[str, Any], Placing, list[str]]:
    """The photo that suits prompt and frame best; the seed decides between equals."""
    best: tuple[float, dict[str, Any], Placing] | None = None
    placings = int(rng.integers(1 << 30))
    luck = rng.uniform(0, 0.30, len(model.info["cutouts"]))
    wanted = FACE[asked.framing or "portrait"]
    for entry, chance in zip(model.info["cutouts"], luck):
        points = model.array(entry["landmarks"])
        placing = place(
            tuple(entry["size"]),
            points,
            float(entry["head_top"]),
            width,
            height,
            asked.framing,
            np.random.default_rng(placings),
        )
        shown = placing.face[2]
        value = 1.4 * entry["score"] + chance
        value -= 0.9 * abs(np.log(shown / wanted)) if asked.framing else 0.35 * max(0.0, np.log(shown / 0.42))
        value -= 0.5 * max(0.0, placing.scale - 1.0)
        value -= 0.10 * min(entry["side_cut"], 3.0) + 1.2 * (placing.bottom_gap > 1.0)
        value -= 0.0 if entry["plain_backdrop"] else 0.22  # its edges are better
        value -= 0.012 * max(0.0, abs(entry["yaw"]) - 12)
        if best is None or value > best[0]:
            best = (value, entry, placing)
    assert best is not None  # a model has at least one cut-out
    notes = []
    if len(model.info["cutouts"]) == 1:
        notes.append("The model holds one photo only: the pose is always the same.")
    return best[1], best[2], notes


def _person(
    model: Model, entry: dict[str, Any], placing: Placing, width: int, height: int, rng: np.random.Generator
) -> Person:
    rgb_, alpha = model.cutout(entry["cutout"])
    points = model.array(entry["landmarks"])
    grown, alpha, moved = extend(rgb_, alpha, points, rng)
    origin = (float(moved[0, 0] - points[0, 0]), float(moved[0, 1] - points[0, 1]))
    person = put(grown, alpha, moved, placing, origin, width, height)
    drift = fbm((height, width), rng, cells=6, octaves=4) if placing.bottom_gap >= 1 else np.zeros((1, 1), np.float32)
    return melt_bottom(person, placing, drift)


def _compose(
    scene: Scene, person: Person, lit: F32, asked: Understanding, placing: Placing, rng: np.random.Generator
) -> F32:
    h, w = person.alpha.shape
    picture = grade.over(scene.back, lit, person.alpha)
    chin = person.landmarks[152]
    if "microphone" in asked.elements:
        side = 1.0 if rng.random() < 0.5 else -1.0
        mic = props.microphone((h, w), (float(chin[0]), float(chin[1])), person.face_height, side, scene.lighting)
        picture = grade.lay(picture, [mic])
    keep = face_mask(person.landmarks, (h, w), 1.06, 0.10)
    picture = grade.lay(picture, scene.front, keep)
    if placing.bottom_gap >= 1:  # drifting haze where the body fades
        ys = np.arange(h, dtype=np.float32)[:, None] / h
        veil = smooth(1 - placing.bottom_gap / h - 0.12, 1.0, ys) * (0.5 + 0.5 * fbm((h, w), rng, cells=4, stretch=2))
        tint = scene.lighting.ambient * 0.10 + rgb(20, 20, 26)
        picture = grade.lay(picture, [((veil * 0.75)[..., None] * tint, (veil * 0.75).astype(np.float32))])
    return picture


def _in_style(
    model: Model, asked: Understanding, seed: int, width: int, height: int, lora_scale: float, reporter: Reporter
) -> Generated:
    """A scene without a person, in the learnt style."""
    learned = style.load(model)
    reporter.progress(0.2, f"painting {asked.scene}")
    scene = paint(replace(asked), width, height, seed, (0.5, -5.0, 0.01), learned.accents())
    picture = grade.lay(scene.back, scene.front)
    pixels = grade.finish(picture, asked.moods, np.random.default_rng([seed, 3]))
    reporter.progress(0.6, "applying the style")
    pixels = style.apply(pixels, learned, lora_scale)
    report = asked.report() | {
        "engine": "classic",
        "seed": seed,
        "width": width,
        "height": height,
        "type": "style",
        "palette": list(scene.palette),
        "notes": ["A style model shows no person; train a subject for that."],
        "not_honoured": _not_honoured(asked, 1.0),
    }
    _say(report, reporter)
    reporter.progress(1.0, "done")
    return Generated(np.asarray(pixels, np.uint8), report)


def still_size(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """A smaller copy, for previews."""
    scale = longest / max(pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
