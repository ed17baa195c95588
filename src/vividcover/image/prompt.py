"""What a prompt asks for, in the words that the classic engine can paint; words it cannot are named, never dropped.

read_prompt("TOK on stage, blue and pink light, close-up", trigger_word="TOK")
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from vividcover.errors import ParameterError
from vividcover.image.words import (
    COLOUR_WORDS,
    COLOURS,
    ELEMENTS,
    FILLERS,
    FRAMINGS,
    LIGHTS,
    MOODS,
    NEGATIONS,
    SCENES,
    WORN,
)

MAX_PROMPT = 2000  # characters
MIN_SIDE, MAX_SIDE = 256, 1536  # px; the longest side of the published aspect ratios is 1536


@dataclass(frozen=True, slots=True)
class Understanding:
    """A prompt, understood. `unknown`: words with no effect. `absent`: elements that the prompt forbids."""

    scene: str = "stage"
    scene_given: bool = False
    palette: tuple[str, ...] = ()
    light: str | None = None
    framing: str | None = None
    moods: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    trigger: bool = False
    unknown: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        return {
            "scene": self.scene, "scene_from_prompt": self.scene_given, "colours": list(self.palette),
            "light": self.light, "framing": self.framing, "moods": list(self.moods), "elements": list(self.elements),
            "absent": list(self.absent), "trigger_word_found": self.trigger,
            "words_not_understood": list(self.unknown),
        }  # fmt: skip


@dataclass(slots=True)
class _Notes:
    scenes: list[str] = field(default_factory=list)
    palette: list[str] = field(default_factory=list)
    lights: list[str] = field(default_factory=list)
    framings: list[str] = field(default_factory=list)
    moods: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _vocabulary() -> dict[str, tuple[str, str]]:
    """phrase → (slot, value). Later tables do not overwrite earlier ones."""
    table: dict[str, tuple[str, str]] = {}
    for slot, words in (
        ("scenes", SCENES), ("lights", LIGHTS), ("framings", FRAMINGS), ("moods", MOODS), ("elements", ELEMENTS),
    ):  # fmt: skip
        for value, phrases in words.items():
            for phrase in phrases.split("|"):
                table.setdefault(phrase, (slot, value))
    for name in COLOURS:
        table.setdefault(name, ("palette", name))
    for word, name in COLOUR_WORDS.items():
        table.setdefault(word, ("palette", name))
    return table


VOCABULARY = _vocabulary()
LONGEST = max(len(p.split()) for p in VOCABULARY)


def read_prompt(prompt: str, *, trigger_word: str = "") -> Understanding:
    """Raises `ParameterError` when the prompt is longer than 2000 characters."""
    if len(prompt) > MAX_PROMPT:
        raise ParameterError(
            f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read.", "Shorten the prompt."
        )
    text = prompt.lower()
    trigger = bool(trigger_word) and re.search(rf"(?<!\w){re.escape(trigger_word.lower())}(?!\w)", text) is not None
    if trigger:
        text = re.sub(rf"(?<!\w){re.escape(trigger_word.lower())}(?!\w)", " , ", text)
    words = re.findall(r"[^\W_]+(?:[-'’/&.][^\W_]+)*|[,.;:!?]", text)
    notes = _Notes()
    _walk(words, notes)
    scene, elements = _settle(notes)
    return Understanding(
        scene=scene,
        scene_given=bool(notes.scenes),
        palette=tuple(dict.fromkeys(notes.palette)),
        light=notes.lights[0] if notes.lights else None,
        framing=notes.framings[0] if notes.framings else None,
        moods=tuple(dict.fromkeys(notes.moods)),
        elements=elements,
        absent=tuple(dict.fromkeys(notes.absent)),
        trigger=trigger,
        unknown=tuple(dict.fromkeys(notes.unknown)),
    )


def _walk(words: list[str], notes: _Notes) -> None:
    """Longest phrase first, left to right; fills `notes`."""
    i, negated = 0, False
    while i < len(words):
        if not words[i][0].isalnum():
            i, negated = i + 1, False
            continue
        if words[i] in NEGATIONS:
            i, negated = i + 1, True
            continue
        for length in range(min(LONGEST, len(words) - i), 0, -1):
            phrase = " ".join(words[i : i + length])
            found = VOCABULARY.get(phrase)
            if found is not None:
                break
        else:
            length, found = 1, None
        following = words[i + length] if i + length < len(words) else ""
        if found is not None and found[0] == "palette" and following in WORN:
            notes.unknown.append(f"{words[i]} {following}")  # what the person wears is the photo's
            length += 1
        elif found is not None:
            slot, value = found
            if negated:
                notes.absent.append(value)
            else:
                getattr(notes, slot).append(value)
        elif words[i] not in FILLERS:
            notes.unknown.append(words[i])
        if found is not None or words[i] not in FILLERS:
            negated = False
        i += length


def _settle(notes: _Notes) -> tuple[str, tuple[str, ...]]:
    """One scene where several were named (the more particular wins), and the elements that go with words."""
    elements = [e for e in dict.fromkeys(notes.elements) if e not in notes.absent]
    scenes = [s for s in dict.fromkeys(notes.scenes) if s not in notes.absent]
    general = {"stage", "beach", "neon", "studio"}  # words that often only qualify another scene
    particular = [s for s in scenes if s not in general]
    if "beach" in scenes and not particular:
        particular = ["beach"]
    if "neon" in scenes and particular and not notes.palette:
        notes.palette += ["magenta", "cyan"]
    if "winter" in scenes and "snowfall" not in elements:
        elements.append("snowfall")
    scene = (particular or scenes or ["stage"])[0]
    return scene, tuple(elements)
