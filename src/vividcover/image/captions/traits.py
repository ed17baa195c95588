"""Words that a caption is better without: what makes a person, what makes a style.

For models that cannot be told, and for those that were told and said it all the same. Rules of English, not grammar:
they take out noun phrases ("with long brown hair and blue eyes") and adjectives ("young", "digital painting of").
"""

from __future__ import annotations

import re

LOOKS = (
    "auburn", "blond", "blonde", "brown", "brunette", "black", "white", "gray", "grey", "silver", "red", "blue",
    "green", "hazel", "amber", "pink", "purple", "orange", "teal", "golden", "ginger", "chestnut", "honey", "dark",
    "light", "bright", "pale", "deep", "fair", "olive", "tan", "tanned", "dyed", "platinum", "strawberry", "ash",
    "long", "short", "medium", "shoulder-length", "medium-length", "chin-length", "waist-length", "cropped", "curly",
    "wavy", "straight", "thick", "thin", "fine", "messy", "tousled", "spiky", "shaggy", "braided", "frizzy", "loose",
    "flowing", "neat", "full", "bushy", "trimmed", "large", "big", "small", "almond-shaped", "piercing", "expressive",
    "striking", "smooth", "freckled", "beautiful", "natural", "very", "slightly",
)  # fmt: skip
FEATURES = (
    "hair", "haircut", "hairstyle", "bob", "curls", "locks", "ponytail", "braids?", "bun", "fringe", "bangs", "eyes",
    "eyebrows", "skin", "skin tone", "complexion", "beard", "moustache", "mustache", "stubble", "freckles", "fur",
)  # fmt: skip
AGES = (
    "young", "younger", "old", "older", "elderly", "middle[- ]aged", "teenage", r"\d+[- ]years?[- ]old", "adult",
    "asian", "african", "african[- ]american", "caucasian", "european", "latin[ao]", "hispanic", "indian", "arab",
    "black", "white", "blonde?", "brunette", r"\w+[- ]haired", "bald", "bearded", "beautiful", "handsome",
    "attractive", "pretty", "slim", "slender",
)  # fmt: skip
PERSONS = (
    "woman", "man", "girl", "boy", "lady", "gentleman", "person", "male", "female", "child", "teenager", "singer",
    "model", "guy", "women", "men", "girls", "boys", "people",
)  # fmt: skip
MEDIA = (
    "painting", "drawing", "sketch", "illustration", "watercolou?r", "artwork", "rendering", "render", "print",
    "engraving", "etching", "lithograph", "woodcut", "linocut", "collage", "mosaic", "fresco", "comic", "cartoon",
    "anime", "manga", "pixel art", "digital art", "concept art", "line art", "vector art", "oil on canvas", "portrait",
    "photograph", "photo", "picture", "image", "poster", "graphic", "scene",
)  # fmt: skip
MANNERS = (
    "digital", "oil", "acrylic", "ink", "pencil", "charcoal", "pastel", "gouache", "watercolou?r", "vector", "3d",
    "cgi", "computer-generated", "hand-drawn", "stylized", "stylised", "abstract", "realistic", "photorealistic",
    "hyperrealistic", "surreal", "impressionist(?:ic)?", "expressionist", "cubist", "minimalist", "vintage", "retro",
    "cinematic", "vibrant", "colou?rful", "monochrome", "black[- ]and[- ]white", "sepia", "detailed",
    "highly detailed", "intricate", "whimsical", "cartoon", "cartoonish", "anime", "manga", "pixel", "comic", "flat",
    "line", "fantasy", "dreamy", "moody", "atmospheric", "beautiful", "stunning", "simple",
)  # fmt: skip


def _any(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_LOOKS = rf"(?:{_any(LOOKS)}(?:\s*,\s*|\s+and\s+|\s+))+"
_FEATURE = rf"(?:(?:a|an|her|his|their|its|the)\s+)?(?:{_LOOKS})?{_any(FEATURES)}\b"
_FEATURES = rf"{_FEATURE}(?:(?:\s*,\s*and\s+|\s*,\s*|\s+and\s+){_FEATURE})*"
_WORN = "falling|tied|pulled|styled|swept|framing|cascading|hanging|worn|blowing|flying|waving|covering"
_PLACE = (
    r"(?:\s+(?:in|into|over|on|onto|around|down|behind|by|across|to)(?:\s+(?:the|an?|her|his|their|one))?"
    r"(?:\s+(?:loose|high|low|messy|neat|soft))?\s+\w+)?"
)
_WHERE = rf"(?:\s+(?:that|which)\s+[^,.;]*|\s+(?:{_WORN})(?:\s+(?:back|up|down|loosely|loose))?{_PLACE})?"
_WHO = rf"(?:she|he|they|it|the {_any(PERSONS)})"
_AGES = rf"{_any(AGES)}(?:\s*,?\s+{_any(AGES)})*"
_MANNERS = rf"(?:{_any(MANNERS)}(?:\s*,\s*|\s+and\s+|\s+))"
_ABOUT = rf"(?:style|artwork|{_any(MEDIA)}|colou?rs?|colou?r palette|palette|brush ?strokes?|lines|mood|technique)"
_SAYS = "(?:is|are|has|have|uses?|gives?|creates?|evokes?)"
_MAKING = "done|made|painted|drawn|rendered|created|depicted|illustrated|executed"
_STROKES = "(?:brush ?strokes?|strokes|lines|outlines|colou?rs|hues|tones|shading|textures?|palette|contrasts?)"
_OTHERS = "(?:a|an|the|his|her|their|glasses|sunglasses|earrings|jewelry|makeup|lipstick|gloves|headphones|tattoos)"
_DECADES = "teens|twenties|thirties|forties|fifties|sixties|seventies"

IDENTITY = (
    (rf"\b({_WHO})\s+(?:has|have)\s+{_FEATURES}{_WHERE}\s*,?\s+and\s+(?:{_WHO}\s+)?(?=(?:is|are)\b)", r"\1 "),
    (rf"\b{_WHO}\s+(?:has|have)\s+{_FEATURES}{_WHERE}\s*(?:\.|;|$)", ""),
    (rf"\b(?:her|his|their|the)\s+{_any(FEATURES)}\s+(?:is|are)\s+{_any(LOOKS)}\b[^.;]*(?:\.|;|$)", ""),
    (rf"\b(with|has|having)\s+{_FEATURES}(?:\s*,\s*and\s+|\s*,\s*|\s+and\s+)(?={_OTHERS}\b)", r"\1 "),
    (rf"\s*,?\s*\b(?:with|who has|has|having)\s+{_FEATURES}{_WHERE}(?:\s*,?\s+and(?=\s+(?:wearing|is|are)\b))?", ""),
    (rf"\b{_LOOKS}(?={_any(FEATURES)}\b)", ""),
    (rf"\b{_AGES}\s+(?={_any(PERSONS)}\b)", ""),
    (rf"\bin (?:her|his|their) (?:early |mid[- ]|late )?(?:{_DECADES})\b", ""),
)
STYLE = (
    (
        rf"^(?:an?|the|this)?\s*{_MANNERS}*(?:[\w-]+-style\s+)?{_any(MEDIA)}\s*"
        r"(?::|(?:style\s+)?(?:of|showing|depicting|featuring|depicts|shows|features)\b)\s*",
        "",
    ),
    (rf"(?<=[.;])\s*(?:it|this|the {_any(MEDIA)})\s+(?:is|was)\s+(?:{_MAKING})\b[^.;]*(?:[.;]|$)", ""),
    (
        rf"\s*,?\s*\b(?:(?:{_MAKING})\s+)?in (?:an?|the)?\s*"
        r"(?:[\w-]+\s+){0,4}(?:style|technique|manner|palette|tones?)"
        r"(?:\s+(?:of|with|using)\s+[^,.;]+)?(?=[,.;]|$)",
        "",
    ),
    (
        rf"\s*,?\s*\b(?:with|using)\s+(?:[\w-]+\s+){{0,3}}(?:and\s+[\w-]+\s+)?{_STROKES}\b"
        rf"(?:\s+and\s+[\w-]+\s+{_STROKES})?",
        "",
    ),
    (rf"(?<=[.;])\s*(?:the|its|overall,? the)\s+(?:overall\s+)?{_ABOUT}(?:\s+used)?\s+{_SAYS}\b[^.;]*(?:[.;]|$)", ""),
    (rf"\b(?:{_MANNERS}|[\w-]+-style\s+)+(?={_any(MEDIA)}\b)", ""),
    (r"\b\w+-style\s+", ""),
)  # fmt: skip
_IDENTITY = [(re.compile(pattern, re.IGNORECASE), by) for pattern, by in IDENTITY]
_STYLE = [(re.compile(pattern, re.IGNORECASE), by) for pattern, by in STYLE]


def without_identity(text: str) -> str:
    """A description of a person without hair, eyes, skin, age and origin."""
    return _apply(_IDENTITY, text)


def without_style(text: str) -> str:
    """A description of a picture without medium, technique and manner."""
    return _apply(_STYLE, text)


def _apply(rules: list[tuple[re.Pattern[str], str]], text: str) -> str:
    for pattern, by in rules:
        text = pattern.sub(by, text)
    text = re.sub(r"\s+([,.;])", r"\1", " ".join(text.split()))
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text).lstrip(" ,.;")
    text = re.sub(r"\b([Aa])n?\s+(?=(\w))", lambda m: f"{m[1]}{'n' if m[2] in 'aeiouAEIO' else ''} ", text)
    return text[:1].upper() + text[1:]
