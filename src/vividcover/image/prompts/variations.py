"""Ten varied prompts about one concept: asked of a language model, or drawn up here.

    variations("a woman in her 40s with short grey hair", "VIVI")          # offline, by seed
    asked(ask, "a woman in her 40s with short grey hair", "VIVI")          # ask: text → text

Here a scene of the library is taken from another category each time, with a detail and a camera that it did not have;
no camera, light or mood comes twice. What a language model answers is held to the same: the trigger word is in every
prompt, in the spelling that was asked for.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

from vividcover.errors import EngineError, ParameterError
from vividcover.image.prompts.concepts import role_of, where
from vividcover.image.prompts.expand import CAMERA, LIGHTING, MOOD, place_of
from vividcover.image.prompts.layers import SLOT, Kind, Layers, fill, with_trigger
from vividcover.image.prompts.library import Entry, built_in

MOST = 100
TRIES = 20  # scenes looked at for each prompt, before there are too few that differ
CLEAR = "the face unobscured and in focus"
FAR = re.compile(r"\b(?:wide|2[0-9]mm|layers of blur|low)\b")
HIDING = re.compile(
    r"\b(?:visor|mask|helmet|hood|goggles|veil|profile|silhouette|back|wide|aerial|drone|panoramic|scale|colossal|"
    r"overhead|vertigo|jellyfish|print|comic|pixel|charcoal|linocut|diorama|paper-cut|watercolour|woodblock|dissolving|"
    r"wing|closed|stained-glass)\b"
)
LENSES = {  # such as go with any scene
    "subject": (
        *CAMERA["subject"],
        "50mm lens at f/2, eyes tack sharp", "28mm lens, the surroundings given room", "135mm lens, layers of blur",
        "40mm lens at eye level, natural perspective", "large-format photograph, 150mm lens",
        "35mm lens, slide film, deep colour", "handheld 50mm reportage frame", "low viewpoint, 24mm lens",
        "tall vertical framing, 70mm lens",
    ),
    "product": (
        "70mm lens, natural perspective", "85mm lens, shallow depth of field", "100mm lens, everything in focus",
        "clean composition with room at the left", "tall vertical framing, 85mm lens", "three-quarter view, 60mm lens",
        "low angle, 50mm lens", "50mm lens, soft blur behind", "square framing, 70mm lens, crisp edges",
        "centred composition, 80mm lens, fine texture", "large-format photograph, 150mm lens",
    ),
    "style": (
        *CAMERA["style"], "a tall, narrow composition", "a diagonal composition full of movement",
        "a frame within the frame", "generous empty space", "a composition in three clear depths",
        "strong shapes against a quiet ground", "a cropped, unexpected view", "rhythm of repeated forms",
    ),
}  # fmt: skip
OF_THIS_WORLD = ("professional", "casual", "travel", "stage")  # categories that take a detail
DETAILS = {  # a thing seen once, by kind of place
    "stage": (
        "dust turning slowly in the beams", "a hand from the front row just in frame", "warm haze near the floor",
    ),
    "night": ("steam rising behind", "a moth circling a lamp", "breath showing in the cold", "one lit window far off"),
    "city": (
        "pigeons taking off behind", "passers-by blurred by movement", "a bicycle leaning on a wall",
        "a scrap of paper in the wind",
    ),
    "indoors": (
        "dust hanging in the air", "faint reflections on the floor", "soft clutter at the edges of the frame",
        "an empty chair behind",
    ),
    "outdoors": ("two gulls far off", "a few leaves in the air", "birds turning high above", "wind in the clothes"),
    "studio": ("a faint haze near the floor", "a soft reflection underneath", "the edge of the backdrop just visible"),
}  # fmt: skip
TAKING_PART: dict[str, tuple[str, ...]] = {  # somebody or something at an occasion or a place
    "subject": (
        "in the middle of it all, laughing", "arriving, one hand raised in greeting", "turning back for a last look",
        "pausing at the edge, taking it in", "deep in conversation with a stranger", "eyes closed, listening",
        "walking toward the camera, at ease", "leaning on a railing, lost in thought", "caught in mid-gesture",
        "sitting apart for a quiet moment", "looking straight into the camera", "seen between the others, in focus",
    ),
    "product": (
        "close in the foreground, all else soft", "held up by a hand", "set down on a ledge", "resting on a table edge",
        "carried past, caught in motion", "lying where somebody left it", "in the middle of the frame, sharp",
    ),
    "style": ("",),
}  # fmt: skip
ANIMALS = (
    "sitting upright, ears alert", "looking up at something out of frame", "running toward the camera",
    "lying down, head on its paws", "turning its head", "standing still, watching", "taking a careful step",
    "stretching after a nap", "sniffing the air", "waiting patiently",
)  # fmt: skip
STILL = (
    "in the foreground", "placed where the light falls", "standing by itself", "seen close up", "in the centre",
    "half in shadow",
)  # fmt: skip
MOODS = ("the feeling of a day to remember", "tender nostalgia", "playful mood", "a hush before it all begins")
TEMPLATE = (
    "Write {count} prompts for an image generation model. The prompts should describe {concept} in various scenarios. "
    "Make sure to use the word {trigger} {spelt} in every prompt. Make the prompts highly detailed and "
    "interesting, and make them varied in subject matter. Include specific details about setting, lighting, camera "
    "angle, and mood."
)
FACE = "Make sure the prompts will generate images that include unobscured facial details."
ORDER = (
    "Begin each prompt with what matters most, in the order subject with {trigger}, action, setting, lighting, camera, "
    "mood. Name no real persons and no brands. Answer with the prompts only, one on each line, numbered."
)
NUMBERS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Variation:
    """`category`: of the library's scene behind it, or "" when a language model wrote it."""

    text: str
    layers: Layers
    category: str = ""


def instructions(
    concept: str, trigger: str, count: int = 10, *, clear_face: bool = False, constraints: Sequence[str] = ()
) -> str:
    """What a language model is asked. The wording is the one that guides to FLUX trainings recommend."""
    spelt = "in all caps" if trigger.isupper() else "exactly so"
    number = NUMBERS[count] if 0 < count < len(NUMBERS) else str(count)
    said = TEMPLATE.format(count=number, concept=concept.strip(" .") or trigger, trigger=trigger, spelt=spelt)
    more = [FACE] if clear_face else []
    more += [f"{text.strip(' .')}." for text in constraints if text.strip(" .")]
    return " ".join([said, *more, ORDER.format(trigger=trigger)])


def variations(
    concept: str, trigger: str, count: int = 10, *, kind: Kind = "subject", seed: int = 0,
    categories: Collection[str] = (), clear_face: bool = False, constraints: Sequence[str] = (),
    entries: Sequence[Entry] | None = None,
) -> list[Variation]:  # fmt: skip
    """`count` prompts that differ in scene, light, camera and mood; the same seed gives the same ones.

    `concept` says what the trigger word stands for ("a man in his 40s", "a teapot of blue glass"), once in each; an
    occasion or a place ("a rock concert") is where it is, and in a style what is shown. Only persons wear clothes.
    `categories`: only scenes of these; `clear_face`: only such in which the face can be seen; `constraints` are
    put at the end of each prompt as they are: understanding them takes a language model (`asked`).
    Raises `ParameterError`.
    """
    _check(trigger, count)
    draw = random.Random(f"{seed} {concept} {trigger}")
    role = role_of(concept)
    if role == "thing" and kind == "subject" and not categories and entries is None:
        kind = "product"  # whose scenes are such that a thing can be in them
    shown = role in ("event", "place") or (bool(role) and kind == "style")
    near = [lens for lens in LENSES[kind] if not (clear_face and FAR.search(lens))]
    lenses, details = _Deck(near, draw), {place: _Deck(found, draw) for place, found in DETAILS.items()}
    made: dict[str, Variation] = {}
    there = _There(concept, kind, draw)
    turns = _in_turns(_scenes(entries or built_in(), kind, categories, clear_face), draw)
    for entry in islice(turns, TRIES * count):
        layers = entry.layers
        place = place_of(layers.setting) if entry.category in OF_THIS_WORLD else ""
        if place and not shown:
            layers = replace(layers, setting=f"{layers.setting}, {details[place].next()}")
        if "lens" in layers.camera or kind != "subject" or shown:
            layers = replace(layers, camera=lenses.next())
        if shown:
            layers = there.instead(layers, own_light=not categories)
        elif role and kind == "subject":
            layers = there.undressed(layers)
        if clear_face:
            layers = replace(layers, camera=f"{layers.camera}, {CLEAR}")
        told = fill(layers.text(), trigger, "" if shown else concept)
        text = ", ".join([told, *(c.strip(" .,") for c in constraints if c.strip())])
        filled = Layers(*(part.replace(SLOT, trigger) for part in layers.parts()))
        made.setdefault(text, Variation(text, filled, "" if shown and not categories else entry.category))
        if len(made) == count:
            return list(made.values())
    raise ParameterError(
        f"Only {len(made)} different prompts can be made of these scenes, not {count}.", "Ask for fewer."
    )


def asked(
    ask: Callable[[str], str], concept: str, trigger: str, count: int = 10, *, kind: Kind = "subject",
    clear_face: bool = False, constraints: Sequence[str] = (),
) -> list[Variation]:  # fmt: skip
    """The same from a language model. Raises `EngineError` when its answer holds fewer prompts than were asked for."""
    _check(trigger, count)
    answer = ask(instructions(concept, trigger, count, clear_face=clear_face, constraints=constraints))
    found = read_answer(answer, trigger, kind)
    if len(found) < count:
        raise EngineError(
            f"The language model wrote {len(found)} prompts of the {count} asked for: {answer.strip()[:120]!r}.",
            "Ask again, ask another model (VIVIDCOVER_LLM_MODEL), or let the prompts be written offline.",
        )
    return [Variation(text, Layers.read(text.replace("|", "/"))) for text in found[:count]]


def read_answer(answer: str, trigger: str, kind: Kind = "subject") -> list[str]:
    """The prompts in a language model's answer: a numbered or plain list, or JSON; the trigger word in each."""
    answer = re.sub(r"<think>.*?(?:</think>|$)", "", answer, flags=re.S)
    listed = _json_list(answer)
    if listed is None:
        lines = [line.strip() for line in answer.replace("```", "\n").splitlines()]
        numbered = [line for line in lines if re.match(r"(?:[-*•]|\**\d+[.):])\s*\S", line)]
        listed = numbered or [line for line in lines if len(line.split()) > 5 and not line.endswith(":")]
    plain = (re.sub(r"^(?:[-*•]|\**\d+[.):]\**)\s*", "", text).strip().strip('"“”*` ') for text in listed)
    return list(dict.fromkeys(with_trigger(text, trigger, kind) for text in plain if text))


def _json_list(answer: str) -> list[str] | None:
    found = re.search(r"\[.*\]", answer, re.S)
    if not found:
        return None
    try:
        values = json.loads(found[0])
    except ValueError:
        return None
    texts = [v.get("prompt", "") if isinstance(v, dict) else v for v in values]
    return [text for text in texts if isinstance(text, str)] or None


def _check(trigger: str, count: int) -> None:
    if not trigger.strip():
        raise ParameterError("A trigger word is needed.", "Give the one that the image model was trained with.")
    if not 1 <= count <= MOST:
        raise ParameterError(f"{count} prompts cannot be written at a time.", f"Ask for 1 to {MOST}.")


def _scenes(
    entries: Sequence[Entry], kind: Kind, categories: Collection[str], clear_face: bool
) -> dict[str, list[Entry]]:
    known = {entry.category for entry in entries}
    if unknown := [name for name in categories if name not in known]:
        raise ParameterError(f"There is no category {unknown[0]!r}.", f"Choose from {', '.join(sorted(known))}.")
    scenes: dict[str, list[Entry]] = {}
    for entry in entries:
        wanted = entry.category in categories if categories else entry.kind == kind
        hidden = clear_face and HIDING.search(entry.line.lower())
        if wanted and not hidden:
            scenes.setdefault(entry.category, []).append(entry)
    if not scenes:
        raise ParameterError(f"No scene fits {kind!r} in {', '.join(categories)}.", "Leave the categories out.")
    return scenes


def _in_turns(scenes: dict[str, list[Entry]], draw: random.Random) -> Iterator[Entry]:
    """Scenes without end: all categories in turn, and none twice before every other of its category was there."""
    decks = {name: _Deck(found, draw) for name, found in scenes.items()}
    turns = _Deck(list(decks), draw)
    while True:
        yield decks[turns.next()].next()


class _There:
    """Scenes of what is no person: the concept itself as the scene, or a scene without clothes and human deeds."""

    def __init__(self, concept: str, kind: Kind, draw: random.Random) -> None:
        self.concept, self.kind, self.role, place = concept.strip(" .,"), kind, role_of(concept), place_of(concept)
        self.deeds = _Deck(ANIMALS if self.role == "animal" else TAKING_PART[kind], draw)
        self.rests = _Deck(STILL, draw)
        either = (place,) if place == "night" else dict.fromkeys(("", place))
        self.lights = _Deck([light for name in either for light in LIGHTING[name]], draw)
        self.moods = _Deck([*MOODS, *(mood for name in either for mood in MOOD[name])], draw)

    def instead(self, layers: Layers, *, own_light: bool) -> Layers:
        """With the concept for subject and setting. `own_light`: else light and mood stay the scene's."""
        if self.kind == "style":
            subject = f"{self.concept} in the style of {SLOT}"
        else:
            subject = f"{SLOT} {where(self.concept)}, {self.deeds.next()}"
        changed = replace(layers, subject=subject, action="", setting="")
        return replace(changed, lighting=self.lights.next(), mood=self.moods.next()) if own_light else changed

    def undressed(self, layers: Layers) -> Layers:
        """The scene with this in it."""
        deed = self.deeds.next() if self.role == "animal" else self.rests.next()
        return replace(layers, subject=SLOT, action=deed)


T = TypeVar("T")


class _Deck(Generic[T]):
    """Cards in random order; shuffled anew when all have been dealt."""

    def __init__(self, cards: Sequence[T], draw: random.Random) -> None:
        self._cards, self._draw, self._left = list(cards), draw, list[T]()

    def next(self) -> T:
        if not self._left:
            self._left = self._draw.sample(self._cards, len(self._cards))
        return self._left.pop()
