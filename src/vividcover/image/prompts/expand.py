"""A short prompt written out, without a language model: what it leaves open is filled in, fitting what it says.

    expand("VIVI in a jazz bar", trigger="VIVI", seed=3)
    "VIVI in a jazz bar, one warm spotlight cutting through haze, 85mm portrait, shallow depth of field, smoky …"

What the user wrote comes first and unchanged; a layer that the prompt already has is left alone; the same seed gives
the same words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vividcover.image.prompt import MAX_PROMPT, read_prompt
from vividcover.image.prompts.layers import LAYERS, LIGHTING_WORDS, Kind, Layers, parse, with_trigger

PLACES: dict[str, str] = {  # kind of place of the scenes that `image.words` knows
    "stage": "stage", "arena": "stage", "club": "stage", "festival": "stage", "theatre": "stage", "jazz": "stage",
    "street": "city", "neon": "night", "rooftop": "city", "subway": "night", "studio": "studio",
    "recording": "indoors", "church": "indoors", "beach": "outdoors", "forest": "outdoors", "desert": "outdoors",
    "winter": "outdoors", "space": "night",
}  # fmt: skip
PLACE_WORDS: dict[str, str] = {
    "indoors": "room kitchen office library workshop cafe restaurant bedroom museum gallery hall shop house kitchen "
    "classroom boardroom lobby attic cellar greenhouse market bakery bookshop loft atelier hotel train carriage",
    "outdoors": "field garden meadow mountain mountains lake river sea cliff cliffs hill hills valley harbour pier "
    "vineyard orchard island waterfall glacier countryside park forest farm bridge boat",
    "night": "night midnight moon moonlit stars neon nocturnal",
    "studio": "headshot backdrop plinth cyclorama",
}
EVERYDAY = {"birthday", "wedding", "dinner", "breakfast", "lunch", "kitchen"}  # indoors, whatever else is said
BARE = 4  # words of a subject that says nothing of a place: "a portrait of VIVI"
LIGHTING: dict[str, tuple[str, ...]] = {
    "": (  # anywhere
        "soft light from the left, gentle falloff", "warm, low light and long soft shadows",
        "clear, even light with delicate contrast", "a rim of light from behind, soft fill in front",
        "directional light that models every form",
    ),
    "stage": (
        "one warm spotlight cutting through drifting haze", "crossing beams of magenta and blue from the rig above",
        "a bright rim of backlight with soft fill in front", "amber footlights and deep shadow behind",
        "a single white follow spot on a dark stage",
    ),
    "night": (
        "wet reflections of pink and teal neon", "cool moonlight with one warm lamp to the side",
        "the glow of distant windows and a soft key from the left", "sodium street light edged with deep blue shadow",
        "light from a shop window falling from one side",
    ),
    "city": (
        "low evening sun flaring between the buildings", "open shade with pale sky reflected in glass",
        "blue hour, the first street lamps coming on", "soft overcast light, clean and even",
        "long afternoon shadows and warm stone",
    ),
    "indoors": (
        "soft window light from the left, gentle falloff", "warm lamplight against cool evening windows",
        "late sun through dusty panes", "a pool of light from a low pendant lamp",
        "bright north light, white walls throwing it back",
    ),
    "outdoors": (
        "golden hour, low sun behind and a warm rim of light", "soft light under thin cloud",
        "early morning light through rising mist", "clear midday light softened by leaf shade",
        "the last red light of the day", "storm light, dark sky and one bright gap",
    ),
    "studio": (
        "a large softbox close to the left, deep clean shadow", "beauty light from above with a white bounce below",
        "two strips of rim light on a dark background", "hard light through a narrow snoot, crisp shadow",
        "even, shadowless light from both sides",
    ),
}  # fmt: skip
CAMERA: dict[str, tuple[str, ...]] = {
    "subject": (
        "85mm portrait lens, shallow depth of field", "35mm reportage photograph, natural grain",
        "medium shot at eye level, 50mm lens", "medium-format photograph, fine detail in skin and fabric",
        "three-quarter view, low angle, 35mm lens", "close-up, 105mm lens, crisp detail",
        "wide composition with the figure off centre, 28mm lens",
    ),
    "product": (
        "100mm macro lens, everything in focus", "three-quarter view at table height, 70mm lens",
        "overhead flat-lay, square composition", "low angle, shallow depth of field, 85mm lens",
        "clean catalogue composition with room at the left",
    ),
    "style": (
        "balanced composition with a clear foreground", "a low horizon and plenty of sky",
        "seen from slightly above, every surface worked out", "a close view that fills the frame",
        "a wide panoramic composition", "a symmetrical composition, centred",
    ),
}  # fmt: skip
MOOD: dict[str, tuple[str, ...]] = {
    "": ("candid and alive", "calm, timeless mood", "confident mood", "quiet wonder", "warm and inviting atmosphere"),
    "stage": ("electric, breath held", "smoky and intimate", "triumphant energy", "raw and heartfelt mood"),
    "night": (
        "restless city mood",
        "quiet, a little mysterious",
        "dreamy after-hours atmosphere",
        "cinematic suspense",
    ),
    "city": ("confident, unhurried", "fresh and modern mood", "wistful end-of-day feeling", "lively and warm"),
    "indoors": ("calm and intimate", "thoughtful, quiet mood", "cosy and inviting", "warm and unposed"),
    "outdoors": ("free and wide open feeling", "serene atmosphere", "hopeful mood", "still and majestic"),
    "studio": ("poised and direct", "clean modern mood", "bold and elegant", "quietly intense mood"),
}
SETTING: dict[str, tuple[tuple[str, str], ...]] = {  # kind of thing → (kind of place, where)
    "subject": (
        ("city", "on a rooftop terrace above an old town"), ("indoors", "in a tall room with peeling green shutters"),
        ("outdoors", "on a windswept hill above the sea"), ("studio", "before a hand-painted grey backdrop"),
        ("night", "on a rain-wet street between shop windows"), ("stage", "on a small stage with a velvet curtain"),
        ("indoors", "in a workshop full of tools and wood shavings"), ("outdoors", "in a birch wood in early autumn"),
    ),
    "product": (
        ("studio", "on a slab of rough travertine"), ("indoors", "on a worn oak table beside a linen cloth"),
        ("outdoors", "on a mossy rock beside a stream"), ("studio", "on a seamless sand-coloured background"),
        ("indoors", "on a kitchen counter among herbs and lemons"),
    ),
    "style": (
        ("outdoors", "with terraced hills behind"), ("city", "with crooked roofs behind"),
        ("indoors", "with a chequered floor and an open window"), ("night", "under a sky full of stars"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Expansion:
    """`text`: the prompt written out. `added`: what was put in, by layer."""

    text: str
    layers: Layers
    added: dict[str, str]


def expand(prompt: str, *, trigger: str = "", seed: int = 0, kind: Kind = "subject") -> str:
    """The prompt with the layers that it lacks, and with the trigger word for certain."""
    return expansion(prompt, trigger=trigger, seed=seed, kind=kind).text


def expansion(prompt: str, *, trigger: str = "", seed: int = 0, kind: Kind = "subject") -> Expansion:
    """As `expand`, saying what was added. Nothing is added to a prompt that leaves no room for it."""
    prompt = with_trigger(" ".join(prompt.split()), trigger, kind).strip(" ,.")
    layers = parse(prompt)
    draw = random.Random(f"{seed} {prompt}")
    place, added = place_of(prompt, trigger), dict[str, str]()
    subject = layers.subject.replace(f" in the style of {trigger}", "")
    if not place and not layers.setting and not layers.action and len(subject.split()) <= BARE:
        place, added["setting"] = draw.choice(SETTING[kind])
    if not LIGHTING_WORDS & set(re.findall(r"[a-z]+", prompt.lower())):
        added["lighting"] = _fitting(prompt, LIGHTING[place], draw)
    if not layers.camera:
        framing = read_prompt(prompt[:MAX_PROMPT]).framing
        same = [c for c in CAMERA[kind] if not framing or read_prompt(c).framing in (None, framing)]
        added["camera"] = _fitting(prompt, same, draw)
    if not layers.mood:
        added["mood"] = _fitting(prompt, MOOD[place], draw)
    text = prompt
    for name in ("setting", "lighting", "camera", "mood"):
        if name in added:
            joined = f"{text} {added[name]}" if name == "setting" and "," not in text else f"{text}, {added[name]}"
            if len(joined) > MAX_PROMPT:
                del added[name]
                continue
            text = joined
    return Expansion(text, Layers(**{n: p or added.get(n, "") for n, p in zip(LAYERS, layers.parts())}), added)


def place_of(prompt: str, trigger: str = "") -> str:
    """stage, night, city, indoors, outdoors or studio, by the prompt's words; "" when they name no place."""
    words = set(re.findall(r"[a-z]+", prompt.lower()))
    night = bool(words & set(PLACE_WORDS["night"].split()))
    seen = read_prompt(prompt[:MAX_PROMPT], trigger_word=trigger)
    place = PLACES.get(seen.scene, "") if seen.scene_given else ""
    place = "indoors" if words & EVERYDAY else place
    if not place:
        found = (name for name, listed in PLACE_WORDS.items() if name != "night" and words & set(listed.split()))
        place = next(found, "")
    if night and place in ("", "city", "outdoors"):
        return "night"
    return place


def _fitting(prompt: str, choices: Sequence[str], draw: random.Random) -> str:
    """One that repeats no telling word of the prompt, where there is one."""
    said = set(re.findall(r"[a-z]{4,}", prompt.lower()))
    fresh = [choice for choice in choices if not said & set(re.findall(r"[a-z]{4,}", choice))]
    return draw.choice(fresh or list(choices))
