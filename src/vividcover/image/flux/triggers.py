"""Trigger words: which model answers to which, and which of them get into each other's way.

    registry = Triggers(home / "triggers.json")
    registry.add(Model("vivi", "VIVI", kind="subject"))
    for warning in clashes([("vivi", "VIVI"), ("poster", "vivi")]): …

A trigger word is a name that the text encoders have no picture of. Two LoRAs worn together that answer to one word
cannot be told apart in a prompt; a word that means something already brings that with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from vividcover.errors import NotFoundError, ParameterError
from vividcover.files import storage_errors, write_text

FORMAT = 1  # of the file
SHORTEST = 3  # letters and digits
COMMON_TRIGGERS = ("tok", "ohwx", "sks", "zwx", "trigger", "lora")  # of guides and trainers' defaults: everybody's
BETTER = "Choose a string that is no word, in capitals, like CYBRPNK, ZIKI or ACME_STYLE."
# What a prompt is likely to say anyway: a trigger that is one of these is called without being meant.
COMMON_WORDS = """
    a an and animal anime art artist artwork baby background band beard beauty bird black blue boat body book bottle boy
    bride building business car cartoon cat celebrity chair character child chocolate city clothes cloud coffee color
    colour comic concept cool couple crowd cup cute cyberpunk dance dancer dark day design detailed digital dog doll
    door dragon drawing dress drink eagle eye face fairy fantasy fashion female film fire fish flower food forest fox
    friend fruit game garden ghost girl glass gold green guitar guy hair hand happy hat head hero home horse house human
    icon illustration image ink island jacket jewel king kitchen knight lady lamp landscape light lion little logo love
    machine magic male man mask me metal minimal model modern monster moon motion mountain mouse movie music musician
    my myself nature new night object ocean oil old painter painting paper park people perfume person pet phone photo
    photograph photographer piano pictorial picture pirate plane plant poster portrait president prince princess
    product purple queen rabbit rain realistic red retro ring river road robot rock rose scene sea self selfie shirt
    shoe shop sign silver singer sketch skin sky smile sneaker snow soft soldier space star statue stone store street
    style subject suit summer sun sunset superhero table tattoo team thing tiger toy train tree truck us vampire van
    vase vintage warrior watch water watercolor wedding white wife wine winter witch wizard wolf woman wood world yellow
    york young zombie
"""


@dataclass(frozen=True)
class Model:
    """A trained model and the word that calls it. `kind`: subject, style…; `version`: what tells trainings apart."""

    name: str
    trigger: str
    kind: str = ""
    version: str = ""


class Triggers:
    """The registry: a small file, written whole, by one process at a time. It need not be there yet."""

    def __init__(self, file: Path) -> None:
        self.file = Path(file)

    def models(self) -> list[Model]:
        """All, by name. Raises `ParameterError` for a file that cannot be read."""
        try:
            kept = json.loads(self.file.read_text("utf-8"))
            if kept["format"] != FORMAT:
                raise ValueError("its layout is not known")
            return sorted((Model(**one) for one in kept["models"]), key=lambda one: (one.name, one.version))
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ParameterError(
                f"The list of trigger words {self.file} cannot be read: {error}.", "Mend the file, or move it away."
            ) from error

    def add(self, model: Model) -> list[str]:
        """Adds a model, in the place of one of the same name and version. Returns warnings, as `clashes` words them."""
        with self._lock():
            others = [one for one in self.models() if (one.name, one.version) != (model.name, model.version)]
            self._write([*others, model])
        taken = [one.name for one in others if one.name != model.name and _same(one.trigger, model.trigger)]
        both = [
            clashes([(model.name, model.trigger), (name, model.trigger)], alone=False) for name in dict.fromkeys(taken)
        ]
        return [*problems(model.trigger), *(warning for warnings in both for warning in warnings)]

    def remove(self, name: str) -> None:
        """Raises `NotFoundError`."""
        with self._lock():
            models = self.models()
            kept = [one for one in models if one.name != name]
            if len(kept) == len(models):
                known = ", ".join(sorted({one.name for one in models})[:8]) or "none"
                raise NotFoundError(f"There is no model {name!r} among the trigger words.", f"Known: {known}.")
            self._write(kept)

    def using(self, trigger: str) -> list[Model]:
        """The models that answer to a word, however it is written."""
        return [one for one in self.models() if _same(one.trigger, trigger)]

    def _lock(self) -> FileLock:
        with storage_errors("the list of trigger words", self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.file.with_name(f".{self.file.name}.lock"))

    def _write(self, models: Iterable[Model]) -> None:
        kept = {"format": FORMAT, "models": [asdict(one) for one in sorted(models, key=lambda m: (m.name, m.version))]}
        write_text(self.file, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


# --- warnings -------------------------------------------------------------------------------------------------------


def problems(trigger: str) -> list[str]:
    """What is wrong with a trigger word by itself, for who is about to train with it. Nothing: a good one."""
    word = _plain(trigger)
    if not word:
        return [f"The trigger word {trigger!r} has no letters. {BETTER}"]
    if word in COMMON_TRIGGERS:
        return [
            f"{trigger} is the trigger word of very many LoRAs: this one could not be worn with any of them. {BETTER}"
        ]
    if len(word) < SHORTEST:
        return [f"{trigger} is so short that it may occur in other words. {BETTER}"]
    parts = re.findall(r"[a-z]+", trigger.lower().replace("_", " "))
    if word in common_words():
        return [f"{trigger} is a word that prompts have anyway, with a meaning of its own. {BETTER}"]
    if len(parts) > 1 and all(part in common_words() for part in parts):
        return [f"{trigger} consists of words that prompts have anyway. {BETTER}"]
    return []


def clashes(models: Sequence[tuple[str, str]], *, alone: bool = True) -> list[str]:
    """Warnings for LoRAs that are worn together, (name, trigger) each; a trigger "" is one without.

    The same word, one word inside another, and, unless `alone` is False, what is wrong with each by itself.
    """
    found = []
    words = [(name, trigger) for name, trigger in models if trigger.strip()]
    for i, (name, trigger) in enumerate(words):
        for other, its in words[i + 1 :]:
            if _same(trigger, its):
                spelt = trigger if trigger == its else f"{trigger} and {its}"
                found.append(
                    f"{name} and {other} both answer to {spelt}: a prompt calls both at once. Train one of them with "
                    "another trigger word, or wear one at a time."
                )
            elif (short := _inside(trigger, its)) is not None:
                inner, outer = ((name, trigger), (other, its)) if short else ((other, its), (name, trigger))
                found.append(
                    f"{inner[1]} ({inner[0]}) is a part of {outer[1]} ({outer[0]}): calling {outer[0]} may call "
                    f"{inner[0]} as well."
                )
    if alone:
        found += [f"{name}: {text}" for name, trigger in dict(words).items() for text in problems(trigger)]
    return found


def absent(prompt: str, models: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings for worn LoRAs whose trigger word the prompt does not have."""
    spoken = prompt.casefold()
    return [
        f"The prompt does not have {trigger}, so {name} shows little of what it has learnt."
        for name, trigger in models
        if trigger.strip() and trigger.casefold() not in spoken
    ]


@cache
def common_words() -> frozenset[str]:
    """Words that prompts have anyway: ours, and those that the classic engine paints."""
    from vividcover.image import words

    phrases = [*words.SCENES.values(), *words.LIGHTS.values(), *words.FRAMINGS.values()]
    painted = {word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)}
    return frozenset({*COMMON_WORDS.split(), *painted, *words.COLOURS, *words.COLOUR_WORDS})


def _plain(trigger: str) -> str:
    """Letters and digits, without case: what two words have to differ in."""
    return "".join(character for character in trigger.casefold() if character.isalnum())


def _same(one: str, other: str) -> bool:
    return bool(_plain(one)) and _plain(one) == _plain(other)


def _inside(one: str, other: str) -> bool | None:
    """True: the first is a part of the second; False: the other way round; None: neither."""
    first, second = _plain(one), _plain(other)
    if len(first) < SHORTEST or len(second) < SHORTEST:
        return None
    return True if first in second else False if second in first else None
