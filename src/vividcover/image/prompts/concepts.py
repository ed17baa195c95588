"""What a concept is about, by its words: a person, an animal, a thing, an occasion or a place.

role_of("a rock concert")                  # "event"
where("a rock concert")                    # "at a rock concert"
role_of("a woman in an old kitchen")       # "": a person, as is whatever is not plainly something else
"""

from __future__ import annotations

import re
from typing import Literal

Role = Literal["", "animal", "thing", "event", "place"]


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


PERSONS = _words(
    "person people man men woman women girl boy lady gentleman guy child children kid baby toddler teenager couple "
    "family friend brother sister mother father grandmother grandfather king queen prince princess singer band model"
)
ROLES: dict[Role, frozenset[str]] = {
    "event": _words(
        "concert gig festival party wedding birthday parade carnival match race rally ceremony gala exhibition "
        "conference meeting protest demonstration picnic barbecue dinner breakfast lunch brunch banquet feast rave "
        "rehearsal premiere celebration christmas halloween thanksgiving performance recital marathon tournament "
        "auction hike vacation holiday fireworks funeral reception dance-off fair"
    ),
    "place": _words(
        "city town village street alley square market beach coast island mountain hill valley forest jungle desert "
        "meadow field garden park lake river waterfall sea ocean harbour harbor port bridge castle palace church "
        "cathedral temple house cottage cabin farm barn kitchen bedroom bathroom office library museum gallery studio "
        "theatre theater stadium arena stage club bar pub café cafe restaurant hotel hall shop bakery bookshop station "
        "airport subway rooftop room lobby school hospital factory workshop canyon glacier landscape skyline "
        "countryside vineyard orchard cliff cave greenhouse courtyard"
    ),
    "thing": _words(
        "teapot kettle mug cup glass bottle bowl plate vase jar chair table sofa lamp car bicycle bike motorcycle "
        "scooter truck van boat ship plane guitar piano violin drum trumpet saxophone microphone camera phone laptop "
        "watch clock necklace bracelet shoe sneaker boot bag backpack handbag hat helmet jacket dress book candle "
        "perfume soap cake bread pizza burger sandwich coffee tea wine beer chocolate toy statue sculpture cactus "
        "flower rose knife pen keyboard headphone headphones speaker tent umbrella suitcase box surfboard skateboard"
    ),
    "animal": _words(
        "dog puppy cat kitten horse pony cow sheep goat pig bird parrot owl eagle duck goose chicken rabbit hamster "
        "mouse fox wolf bear lion tiger elephant giraffe monkey fish shark whale dolphin turtle snake lizard frog "
        "retriever poodle corgi terrier bulldog dachshund beagle spaniel labrador husky dalmatian"
    ),
}
ENDS = _words(  # of what says whom or what it is; the rest says more about it
    "of in on at by with without for from to near under over behind before beside between inside outside among during "
    "after through along against next and or who that which whose while as made full"
)
NO_ENDS = _words("wedding evening morning spring ring king string wing building painting clothing")
TIMES = _words("night dawn dusk sunset sunrise noon midnight winter spring summer autumn fall rain snow fog")
FIRST = _words("a an the some this that these those my our his her their")
ON = _words("beach coast island hill mountain cliff bridge rooftop street stage farm square")
AT = _words("lake river sea ocean waterfall harbour harbor port station airport stadium market")


def role_of(concept: str) -> Role:
    """ "" for a person, and for all that is not plainly something else."""
    head, told = _head(concept)
    if told & PERSONS:
        return ""
    for role, listed in ROLES.items():
        if head in listed:
            return role
    words = re.findall(r"[\w'’-]+", concept)
    if len(words) >= 3 and words[-2] in ("at", "in") and words[-1] in TIMES and words[0][:1].isupper():
        return "place" if len(words) == 3 else ""  # "Venice at night"
    return ""


def where(concept: str) -> str:
    """An occasion or a place as somebody is there: "at a rock concert", "on a beach", "in Venice at night"."""
    said, head = concept.strip(" .,"), _head(concept)[0]
    first, _, rest = said.partition(" ")
    if first.lower() in FIRST:
        said = f"{first.lower()} {rest}"
    elif first[:1].islower() and not _plural(said, head):
        said = f"{'an' if first[0] in 'aeiou' else 'a'} {said}"
    place = "at" if role_of(concept) == "event" or head in AT else "on" if head in ON else "in"
    return f"{place} {said}"


def _head(concept: str) -> tuple[str, set[str]]:
    """The word that says what it is, in the singular, and all that stand before it."""
    words: list[str] = []
    for word in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*|[,;.]", concept.lower()):
        participle = bool(words) and word.endswith("ing") and word not in NO_ENDS
        if word in ENDS or word in ",;." or (participle and words[-1] not in FIRST):
            break
        words.append(word)
    if not words:
        return "", set()
    return _single(words[-1]), {*words, _single(words[-1])}


def _single(word: str) -> str:
    known = frozenset().union(*ROLES.values())
    return next((w for w in (word, word.removesuffix("s"), word.removesuffix("es")) if w in known), word)


def _plural(said: str, head: str) -> bool:
    return bool(head) and f"{head}s" in said.lower()
