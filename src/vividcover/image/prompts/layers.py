"""A prompt in layers, as FLUX reads it best: what matters most comes first.

    layers = Layers("VIVI in a yellow raincoat", "jumping a puddle", "on a cobbled street", "under a low grey sky",
                    "35mm street photograph", "carefree")
    layers.text()           # one line of English
    parse(layers.text())    # and back: a guess, but one that loses no word
    layers.line()           # "… | … | …", which `Layers.read` reads exactly

The layers and their order: [SUBJECT WITH TRIGGER] + [ACTION] + [SETTING] + [LIGHTING] + [CAMERA/STYLE] + [MOOD].
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from vividcover.errors import ParameterError
from vividcover.image.prompts.concepts import role_of, where

Kind = Literal["subject", "style", "product"]
BETWEEN = "|"  # of layers, in a file
SLOT = "{TOK}"  # where the trigger word goes, in a template


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


LIGHTING_WORDS = _words(
    "light lights lighting lit backlit sunlit moonlit candlelit floodlit glow glowing glows sun sunlight sunshine "
    "sunset sunrise dusk dawn twilight daylight moonlight moonbeams candlelight firelight lamplight starlight "
    "torchlight skylight spotlight spotlights floodlights footlights headlights neon shadow shadows shade lamp lamps "
    "lantern lanterns candles softbox softboxes strobe strobes flash flashes beam beams ray rays overcast golden-hour "
    "hour chiaroscuro silhouette gleam shimmer glare haze-lit fluorescent tungsten backlight highlights rim "
    "illuminated lasers laser afternoon noon midday sky falloff bounce moon candle bulb bulbs bright aurora"
)
CAMERA_WORDS = _words(
    "lens mm shot close-up closeup portrait photograph photography photo depth field bokeh film grain angle "
    "composition framing framed frame macro telephoto wide-angle fisheye aperture camera cinematic anamorphic "
    "panoramic polaroid focus render painting illustration watercolour watercolor drawing sketch engraving print "
    "poster etching gouache still-life flat-lay overhead aerial drone tracking shutter exposure long-exposure "
    "head-and-shoulders full-body half-length three-quarter low-angle high-angle eye-level symmetrical centred "
    "viewpoint lithograph linocut woodcut fresco mosaic pixel animation editorial documentary catalogue snapshot "
    "double-exposure medium-format view blur detail crop art halftone"
)
MOOD_WORDS = _words(
    "mood atmosphere feeling spirit air calm serene quiet hushed still tender joyful joyous carefree playful "
    "triumphant tense electric brooding melancholy wistful nostalgic dreamlike dreamy mysterious solemn intimate "
    "confident assured hopeful defiant wild raw elegant glamorous luxurious fresh crisp clean restful reflective "
    "thoughtful lonely heroic epic menacing eerie ethereal romantic mischievous whimsical festive proud bold fierce "
    "gentle patient focused determined composed cheerful exuberant magical uncanny sober stately inviting cosy homely "
    "sensual timeless modern understated restless relaxed unhurried amused awe wonder suspense danger freedom warmth "
    "energy energetic powerful tranquil peaceful majestic bittersweet poised precise futuristic"
)
PLACING = _words(
    "in on at inside beneath under by beside near among amid along across through against above before behind between "
    "atop overlooking outside within over around below aboard throughout past"
)
NO_VERBS = _words(
    "evening morning ceiling building wedding string ring king spring clothing painting lighting something nothing "
    "everything anything wing railing awning clearing landing opening crossing boxing ping sling swing bring thing "
    "burning flowing matching striking smiling glowing sparkling"
)
WORN_AFTER = _words("in wearing with of")
WORN = re.compile(
    r"\b(?:suit|coat|jacket|dress|gown|shirt|sweater|jumper|cape|cloak|hat|boots|armou?r|robe|robes|uniform|blazer|"
    r"overalls|apron|scarf|kimono|tunic|leather|silk|velvet|denim|linen|wool|tweed|sequins|white|black|waistcoat|"
    r"cardigan|raincoat|parka|tuxedo|turtleneck|waders|helmet|trousers|skirt|suit-jacket|spacesuit|flightsuit|"
    r"jumpsuit|vest|gloves|glasses|(?:\w+ )?(?:20|30|40|50|60|70|80)s)\b",
    re.I,
)


@dataclass(frozen=True)
class Layers:
    """A prompt, part by part; any of them may be empty."""

    subject: str = ""  # who or what, with the trigger word
    action: str = ""  # what it does, how it stands
    setting: str = ""  # where, among what
    lighting: str = ""
    camera: str = ""  # lens, framing, or the medium: a photograph, a woodcut
    mood: str = ""

    def text(self) -> str:
        """One line of English: subject, action and setting make the sentence, the others follow it."""
        sentence = " ".join(part.strip() for part in (self.subject, self.action, self.setting) if part.strip(" ,"))
        parts = (part.strip(" ,") for part in (sentence, self.lighting, self.camera, self.mood))
        return ", ".join(part for part in parts if part)

    def line(self) -> str:
        """All six, in order, as files keep them."""
        return f" {BETWEEN} ".join(self.parts())

    def parts(self) -> tuple[str, ...]:
        return tuple(getattr(self, name) for name in LAYERS)

    def missing(self) -> tuple[str, ...]:
        """The names of the layers that say nothing."""
        return tuple(name for name in LAYERS if not getattr(self, name).strip())

    @classmethod
    def read(cls, line: str) -> Layers:
        """What `line` wrote. A text without bars is taken for a whole prompt and parsed. Raises `ParameterError`."""
        if BETWEEN not in line:
            return parse(line)
        parts = [part.strip() for part in line.split(BETWEEN)]
        if len(parts) > len(LAYERS):
            raise ParameterError(
                f"A prompt in layers has {len(LAYERS)} parts, not {len(parts)}: {line!r}.",
                f"Write {f' {BETWEEN} '.join(LAYERS)}; leave empty what you do not want to say.",
            )
        return cls(*parts)


LAYERS = tuple(field.name for field in fields(Layers))


# reading ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> Layers:
    """Says of each clause of a prompt which layer it belongs to. A guess by words; none of them is lost."""
    clauses = [clause.strip() for clause in re.split(r"[,;\n]+|(?<=[^\d\W])\.(?=\s|$)", text) if clause.strip(" .")]
    found: dict[str, list[str]] = {name: [] for name in LAYERS}
    said, last = False, ""  # whether the sentence with the subject was there; the layer before
    for place, clause in enumerate(clauses):
        if not said and not _aside(clause):
            for name, part in zip(LAYERS, _sentence(clause)):
                found[name] += [part] if part else []
            said, last = True, ""
            continue
        layer = layer_of(clause)
        if not layer and place == len(clauses) - 1 and last in ("camera", "mood"):
            layer = "mood"  # what a prompt ends with after the camera
        last = layer or (last if last in ("lighting", "camera", "mood") else _more(clause, found))
        found[last].append(clause)
    return Layers(**{name: ", ".join(said) for name, said in found.items()})


def layer_of(clause: str) -> str:
    """ "lighting", "camera" or "mood" for a clause that plainly is about that; else ""."""
    words = [word.lower() for word in re.findall(r"[^\W_]+(?:[-'’/.][^\W_]+)*", clause)]
    if re.search(r"\b\d+ ?mm\b|\bf/\d", clause.lower()):
        return "camera"
    telling = {"camera": CAMERA_WORDS, "lighting": LIGHTING_WORDS, "mood": MOOD_WORDS}
    counts = {name: sum(word in listed for word in words) for name, listed in telling.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] and words and words[-1] in ("mood", "atmosphere", "feeling"):
        return "mood"
    return best if counts[best] else ""


def _aside(clause: str) -> bool:
    """Whether a clause before the subject is about something else: "cinematic lighting", "35mm film"."""
    return len(clause.split()) <= 3 and bool(layer_of(clause)) and not re.search(r"\bof\b|[A-Z]{3}|\{", clause)


def _sentence(clause: str) -> tuple[str, str, str]:
    """Subject, action and setting of a sentence; joined by spaces they are the sentence."""
    words = clause.split()
    verb = next((i for i, word in enumerate(words) if i and _verb(word) and not _attached(words, i)), len(words))
    start = verb + 1 if verb < len(words) else 1
    where = next((i for i in range(start, len(words)) if _places(words, i)), len(words))
    verb = min(verb, where)
    return " ".join(words[:verb]), " ".join(words[verb:where]), " ".join(words[where:])


def _verb(word: str) -> bool:
    return word.islower() and word.endswith("ing") and word not in NO_VERBS


def _attached(words: list[str], at: int) -> bool:
    """Whether the -ing word describes what follows or what is worn: "a running track", "wearing a hat"."""
    return words[at - 1].lower() in ("a", "an", "the") or words[at] == "wearing"


def _places(words: list[str], at: int) -> bool:
    if words[at].lower() not in PLACING or at + 1 >= len(words) or words[at + 1 : at + 3] == ["the", "style"]:
        return False
    return not (words[at].lower() in WORN_AFTER and WORN.search(" ".join(words[at + 1 : at + 6])))


def _more(clause: str, found: dict[str, list[str]]) -> str:
    """The layer of a further clause without telling words."""
    first = clause.split()[0].lower()
    if first in PLACING:
        return "setting"
    if _verb(first):
        return "action"
    if first in ("a", "an", "the") and not found["action"] and not found["setting"]:
        return "subject"
    return "setting" if found["setting"] else "action" if found["action"] else "subject"


# the trigger word ------------------------------------------------------------------------------------------------


def names(text: str, trigger: str) -> bool:
    """Whether the text has the trigger word, as a word of its own, in this spelling (text encoders tell case apart)."""
    return bool(trigger) and re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text) is not None


def with_trigger(text: str, trigger: str, kind: Kind = "subject") -> str:
    """The text with the trigger word for certain: another spelling is mended, and where it lacks it is put in early."""
    text = text.strip()
    if not trigger or names(text, trigger):
        return text
    other = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.I)
    if other.search(text):
        return other.sub(lambda _: trigger, text)
    if not text:
        return trigger
    if kind == "style":
        sentence, comma, rest = text.partition(",")
        return f"{sentence.rstrip()} in the style of {trigger}{comma}{rest}"
    if role_of(text) in ("event", "place"):  # nobody is a concert, but may well be at one
        return f"{trigger} {where(text)}"
    return f"{trigger}, {text}"


def fill(text: str, trigger: str, who: str = "") -> str:
    """A template's text for a trigger word; `who` ("a woman in her 40s") is said once, after the first of them.

    So a prompt does not misrepresent the age or the gender of whoever the word stands for.
    """
    if not who.strip():
        return text.replace(SLOT, trigger)
    first = re.compile(rf"{re.escape(SLOT)}(?!['’])(?:\s*,)?(?P<end>\s*$)?")
    said = f"{trigger}, {who.strip(' ,.')}"
    return first.sub(lambda found: said if found["end"] is not None else f"{said},", text, count=1).replace(
        SLOT, trigger
    )
