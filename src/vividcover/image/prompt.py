"""What a prompt asks for, in the words that the classic engine can paint; words it cannot are named, never dropped.

read_prompt("TOK on stage, blue and pink light, close-up", trigger_word="TOK")
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from vividcover.errors import ParameterError

MAX_PROMPT = 2000  # characters
MIN_SIDE, MAX_SIDE = 256, 1440  # px, as the seed's model

SIZES: dict[str, tuple[int, int]] = {
    "1:1": (1024, 1024), "16:9": (1344, 768), "21:9": (1440, 640), "3:2": (1216, 832), "2:3": (832, 1216),
    "4:5": (896, 1088), "5:4": (1088, 896), "3:4": (896, 1152), "4:3": (1152, 896), "9:16": (768, 1344),
    "9:21": (640, 1440),
}  # fmt: skip

SCENES: dict[str, str] = {
    "stage": "stage|on stage|concert|gig|show|live performance|live concert|performance|live music|concert hall",
    "arena": "arena|stadium|big stage|world tour|tour",
    "club": "club|nightclub|night club|disco|dance floor|dancefloor|party|rave|dj",
    "festival": "festival|open air|open-air|outdoor stage|outdoor concert|music festival",
    "street": "street|street at night|city|city street|night street|alley|downtown|tokyo|new york|busking|road",
    "studio": "studio|photo studio|studio portrait|backdrop|plain background|white background|headshot",
    "recording": "recording studio|vocal booth|sound studio|recording booth|recording",
    "beach": "beach|sea|ocean|seaside|coast|shore|beach at sunset|sunset|sunrise|dusk|dawn|summer",
    "neon": "neon|neon sign|neon signs|neon lights|neon light|cyberpunk|synthwave|retrowave|vaporwave|futuristic",
    "theatre": "theatre|theater|red curtain|curtain|curtains|velvet curtain|opera|opera house|musical|broadway|cabaret",
    "jazz": "jazz bar|jazz club|jazz|bar|pub|lounge|speakeasy|cafe|café|restaurant|piano bar|blues",
    "rooftop": "rooftop|roof|skyline|terrace|city skyline|penthouse|balcony",
    "forest": "forest|woods|trees|jungle|park|garden|nature|meadow|autumn",
    "desert": "desert|dunes|sand|sahara|canyon",
    "space": "space|galaxy|stars|cosmos|planet|universe|nebula|starry sky|moon",
    "winter": "snow|winter|snowy|ice|christmas|mountain|mountains",
    "church": "church|cathedral|chapel|gothic|stained glass|temple|choir",
    "subway": "subway|metro|underground|tunnel|train station|station|train|platform",
}  # fmt: skip

COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {  # sRGB; several where the word means a mix
    "red": ((255, 40, 45),), "crimson": ((220, 20, 60),), "orange": ((255, 120, 30),), "amber": ((255, 165, 45),),
    "gold": ((255, 185, 70),), "yellow": ((255, 220, 70),), "green": ((50, 220, 95),), "lime": ((160, 240, 60),),
    "emerald": ((20, 190, 120),), "teal": ((20, 190, 180),), "turquoise": ((50, 220, 210),),
    "cyan": ((40, 215, 255),), "blue": ((45, 95, 255),), "navy": ((30, 50, 160),), "indigo": ((80, 60, 240),),
    "purple": ((150, 60, 255),), "violet": ((140, 80, 255),), "lavender": ((180, 150, 255),),
    "magenta": ((255, 40, 200),), "pink": ((255, 85, 170),), "rose": ((255, 110, 140),), "white": ((255, 248, 240),),
    "silver": ((205, 215, 230),), "warm": ((255, 165, 85), (255, 95, 60)), "cold": ((90, 160, 255), (60, 210, 235)),
    "pastel": ((255, 170, 200), (160, 200, 255), (200, 180, 255)),
    "rainbow": ((255, 50, 60), (255, 190, 40), (60, 220, 110), (60, 120, 255), (190, 60, 255)),
}  # fmt: skip
COLOUR_WORDS: dict[str, str] = {
    "golden": "gold", "reddish": "red", "scarlet": "red", "bluish": "blue", "aqua": "cyan", "fuchsia": "magenta",
    "cool": "cold", "icy": "cold", "colorful": "rainbow", "colourful": "rainbow", "multicolor": "rainbow",
    "multicolored": "rainbow", "multicoloured": "rainbow", "lilac": "lavender", "mint": "turquoise", "peach": "rose",
    "copper": "orange", "bronze": "amber", "azure": "blue",
}  # fmt: skip

LIGHTS: dict[str, str] = {
    "spotlight": "spotlight|spot light|spotlights|in the spotlight|follow spot",
    "backlit": "backlit|back light|backlight|back lit|contre-jour|silhouette|rim light|rim lit|rim lighting",
    "soft": "soft light|soft|softly lit|soft lighting|diffuse|gentle light|gentle|natural light",
    "dramatic": "dramatic|dramatic light|dramatic lighting|chiaroscuro|low key|low-key|rembrandt|side light|side lit|intense",
    "golden": "golden hour|golden light|warm sunlight|sunlight|sunlit|sun rays|sunny",
    "bright": "bright|brightly lit|high key|high-key|daylight|day|white light",
}  # fmt: skip

FRAMINGS: dict[str, str] = {
    "close-up": "close-up|close up|closeup|extreme close-up|face shot|tight shot|tight framing",
    "portrait": "portrait|head and shoulders|bust|upper body portrait",
    "medium": "medium shot|medium|half body|half-body|waist up|waist-up|upper body|mid shot",
    "wide": "wide|wide shot|wide angle|wide-angle|full body|full-body|long shot|from afar|panorama",
}

MOODS: dict[str, str] = {
    "moody": "moody|dark|melancholic|sad|night|at night|mysterious|gloomy|noir|brooding|midnight",
    "dreamy": "dreamy|ethereal|soft focus|romantic|magical|fairytale|hazy|dreamlike|glow|glowing",
    "grain": "film grain|grain|grainy|35mm|analog|analogue|film photo|kodak|portra|film",
    "black and white": "black and white|black & white|black-and-white|monochrome|b&w|b/w|bw|grayscale|greyscale",
    "vintage": "vintage|retro|70s|60s|80s|1970s|1980s|1960s|nostalgic|faded|old photo|polaroid|sepia",
    "cinematic": "cinematic|movie still|film still|epic|anamorphic|blockbuster",
    "vibrant": "vibrant|vivid|energetic|saturated|electric|powerful|happy|joyful",
}

ELEMENTS: dict[str, str] = {
    "microphone": "microphone|mic|mike|microphones|mic stand|microphone stand|singing into a microphone|holding a microphone",
    "crowd": "crowd|audience|fans|people|cheering crowd|concert crowd|public",
    "smoke": "smoke|smoky|fog|foggy|haze|mist|misty|steam",
    "confetti": "confetti|streamers|glitter|sparkles",
    "rain": "rain|rainy|raining|storm|stormy|wet",
    "snowfall": "snowfall|snowing|snowflakes|falling snow",
    "bokeh": "bokeh|blurred lights|blurry background|blurred background|shallow depth of field|fairy lights|string lights|lens blur",
    "fireworks": "fireworks|pyrotechnics|pyro|sparks|fire|flames",
    "lasers": "laser|lasers|laser show|laser beams|light beams|beams|light show",
    "flare": "lens flare|flare|lens flares",
    "screen": "led wall|led screen|led|screen|screens|video wall",
}  # fmt: skip

FILLERS = set(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "from",
        "with",
        "and",
        "or",
        "as",
        "is",
        "are",
        "was",
        "be",
        "being",
        "it",
        "its",
        "into",
        "onto",
        "over",
        "under",
        "behind",
        "before",
        "front",
        "beside",
        "near",
        "for",
        "while",
        "during",
        "through",
        "against",
        "around",
        "there",
        "this",
        "that",
        "these",
        "very",
        "really",
        "some",
        "any",
        "her",
        "his",
        "their",
        "she",
        "he",
        "they",
        "him",
        "them",
        "who",
        "up",
        "down",
        "out",
        "off",
        "off-stage",
        "one",
        "two",
        "photo",
        "photograph",
        "photography",
        "picture",
        "image",
        "shot",
        "still",
        "frame",
        "scene",
        "style",
        "styled",
        "look",
        "looking",
        "looks",
        "background",
        "lights",
        "light",
        "lighting",
        "lit",
        "colours",
        "colors",
        "colour",
        "color",
        "coloured",
        "colored",
        "tone",
        "tones",
        "hues",
        "singer",
        "singing",
        "sings",
        "sing",
        "sung",
        "performing",
        "performs",
        "perform",
        "performer",
        "vocalist",
        "musician",
        "artist",
        "star",
        "popstar",
        "person",
        "woman",
        "man",
        "girl",
        "boy",
        "lady",
        "guy",
        "portrait-of",
        "standing",
        "stands",
        "high",
        "quality",
        "best",
        "highly",
        "detailed",
        "detail",
        "details",
        "realistic",
        "photorealistic",
        "photorealism",
        "hyperrealistic",
        "professional",
        "beautiful",
        "stunning",
        "gorgeous",
        "masterpiece",
        "award",
        "winning",
        "award-winning",
        "sharp",
        "focus",
        "4k",
        "8k",
        "hd",
        "uhd",
        "hdr",
        "camera",
        "lens",
        "dslr",
        "50mm",
        "85mm",
        "f/1.8",
        "raw",
        "ultra",
        "super",
        "awesome",
        "amazing",
        "cool-looking",
        "face",
        "looking-at-camera",
        "facing",
        "song",
        "ballad",
        "music",
        "live",
        "night-time",
        "nighttime",
        "time",
        "atmosphere",
        "atmospheric",
        "mood",
        "vibe",
        "vibes",
        "big",
        "large",
        "small",
        "huge",
        "full",
        "rays",
        "ray",
        "beam",
        "sky",
        "wall",
        "lamp",
        "lamps",
        "glowing-lights",
        "sign",
        "signs",
        "shining",
    ]
)
WORN = set(
    [
        "dress",
        "shirt",
        "jacket",
        "hair",
        "eyes",
        "lips",
        "suit",
        "hat",
        "t-shirt",
        "sweater",
        "gown",
        "coat",
        "lipstick",
        "shoes",
        "skirt",
        "jeans",
        "top",
    ]
)
NEGATIONS = {"no", "without", "not"}


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


def size_of(aspect_ratio: str) -> tuple[int, int]:
    """(width, height) in px of an aspect ratio such as "16:9". Raises `ParameterError`."""
    if aspect_ratio not in SIZES:
        raise ParameterError(f"Unknown aspect ratio {aspect_ratio!r}.", f"Use one of {', '.join(SIZES)}.")
    return SIZES[aspect_ratio]
