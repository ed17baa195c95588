"""The words of a caption: what a captioner is asked for, and what our own code holds it to.

A caption says what may vary; what it leaves out, the trigger word comes to mean. So a person's captions leave out what
makes the person (hair, eyes, skin, age), a style's captions leave out the style. Trigger word, prefix and suffix are
put in here, whatever a model was told and did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vividcover.errors import ParameterError
from vividcover.image.captions.traits import without_identity, without_style
from vividcover.image.dataset import KINDS, Kind
from vividcover.image.sidecars import clean

MOST = 1500  # characters of a description: about 350 of the 512 tokens that T5 reads
LONGEST_FIX = 400  # characters of a prefix or suffix
PLACES = re.compile(r"\[(?:trigger|name|trigger_word)\]|\{TOK\}", re.IGNORECASE)  # for the trigger, in others' captions
INSTRUCTIONS: dict[str, str] = {
    "subject": (
        "Describe this photo in one or two sentences for training an image model on the person or character in it. "
        "Say what they wear, what they do, their expression, the camera's view and distance, the light and the "
        "background. Do not mention anything that is the same in all photos of them: no name, age, sex, ethnicity, "
        "skin, hair, eye colour, face or body shape."
    ),
    "product": (
        "Describe this photo in one or two sentences for training an image model on the product in it. Say how it is "
        "turned and placed, what is beside it, the camera's view and distance, the light and the background. Do not "
        "describe the product's own design, colours, material, brand or lettering."
    ),
    "style": (
        "Describe what this picture shows in one or two sentences for training an image model on its style: subjects, "
        "what they do, how they are placed, the setting. Do not mention how it is made: no medium, technique, art "
        "movement, artist, colours, texture, mood or quality."
    ),
    "general": (
        "Describe this picture in two or three plain sentences: subjects, what they look like and do, setting, light, "
        "colours, view."
    ),
}
FACTS_ONLY = "Begin with the description itself: no introduction, no list, no quotation marks, nothing that you guess."
OPENINGS = re.compile(
    r"^(?:sure[,!.]?\s+|here(?:'s| is) (?:a|the) (?:caption|description)[^:]*:\s*|(?:caption|description):\s*)+"
    r"|^(?:in )?(?:the|this) (?:image|picture|photo|photograph|scene)"
    r"(?: is(?=\s+an?\b)| is of| shows| depicts| features| captures| presents| displays|,| contains| we see)\s+"
    r"|^(?:we can see|there is|there are|i see)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Wording:
    """What every caption is held to. `prefix` and `suffix` stand at its ends, word for word."""

    trigger: str
    kind: Kind = "subject"
    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError(f"Unknown kind {self.kind!r}.", f"Choose one of {', '.join(KINDS)}.")
        for name, text in (("prefix", self.prefix), ("suffix", self.suffix)):
            if len(text) > LONGEST_FIX:
                raise ParameterError(
                    f"The {name} of the captions has {len(text)} characters.", f"Give at most {LONGEST_FIX}."
                )


def instruction(wording: Wording) -> str:
    """What a model that can be told is told."""
    words = INSTRUCTIONS[wording.kind]
    if wording.kind in ("subject", "product") and wording.trigger:
        noun = "person or character" if wording.kind == "subject" else "product"
        words += f" Call the {noun} {wording.trigger}."
    return f"{words} {FACTS_ONLY}"


def compose(description: str, wording: Wording) -> str:
    """A model's description → the caption: without what must not be said, with what must."""
    text = tidy(description)
    if wording.kind == "subject":
        text = without_identity(text)
    elif wording.kind == "style":
        text = without_style(text)
    prefix, suffix = clean(wording.prefix), clean(wording.suffix)
    text = _shortened(_place(text, wording.trigger))
    text = _without_end(_without_start(text, prefix), suffix)
    said = f"{prefix} {text} {suffix}"
    if not names(said, wording.trigger):
        text = introduce(text, wording)
    if prefix.endswith(","):
        text = _lowered(text)
    if suffix[:1].isalnum() and text and text[-1] not in ",.;:!?":
        text += ","
    return " ".join(part for part in (prefix, text, suffix) if part)


def keep(caption: str, wording: Wording) -> str:
    """An own caption: only its trigger word is seen to."""
    text = _place(clean(caption), wording.trigger)
    return text if names(text, wording.trigger) else introduce(text, wording)


def introduce(text: str, wording: Wording) -> str:
    """The trigger word put where it means what is learned."""
    if wording.kind == "style":
        end = f"in the style of {wording.trigger}"
        return f"{text.rstrip(' .,;')}, {end}" if text else end
    if not text:
        return wording.trigger if wording.kind == "general" else f"a photo of {wording.trigger}"
    return f"{wording.trigger}, {_lowered(text)}"


def _lowered(text: str) -> str:
    """Fit to stand inside of a sentence."""
    return text[0].lower() + text[1:] if re.match(r"(?:A|An|The|She|He|They|It|Two|Three|Several)\b", text) else text


def names(text: str, trigger: str) -> bool:
    """Whether the text has the trigger word, as a word and spelled as it is."""
    return not trigger or re.search(_word(trigger), text) is not None


def tidy(description: str) -> str:
    """One line without what models put before and around a description."""
    text = clean(re.sub(r"<[^<>]{1,40}>|[*_#`]{2,}", " ", description))
    text = OPENINGS.sub("", text.strip("\"'“”‘’ "))
    text = text.strip("\"'“”‘’ ")
    return text[:1].upper() + text[1:]


def _place(text: str, trigger: str) -> str:
    """The trigger where a caption leaves a place for it, and where it is spelled in other letters (Vivi for VIVI)."""
    if not trigger:
        return text
    text = PLACES.sub(lambda _: trigger, text)
    return re.sub(_word(trigger), lambda _: trigger, text, flags=re.IGNORECASE)


def _word(trigger: str) -> str:
    return rf"(?<!\w){re.escape(trigger)}(?!\w)"


def _shortened(text: str) -> str:
    if len(text) <= MOST:
        return text
    end = max(text.rfind(mark, 0, MOST) for mark in (". ", "! ", "? "))
    return text[: end + 1] if end > MOST // 3 else text[: text.rfind(" ", 0, MOST)]


def _without_start(text: str, prefix: str) -> str:
    """Models that were told of a prefix write it themselves."""
    return text[len(prefix) :].lstrip(" ,.;:") if prefix and text.casefold().startswith(prefix.casefold()) else text


def _without_end(text: str, suffix: str) -> str:
    bare = text.rstrip(" .")
    ends = suffix and bare.casefold().endswith(suffix.rstrip(" .").casefold())
    return bare[: len(bare) - len(suffix.rstrip(" ."))].rstrip(" ,;") if ends else text
