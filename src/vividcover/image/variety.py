"""How varied a set of photos is, in the terms of people who train with them. For the dataset doctor.

A subject is learned as what its photos have in common, so everything else has to differ: angle, distance, light,
backdrop, clothes, expression. A style is what the pictures have in common, so their subjects have to differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.image.looks import Look, Person, apart

Said = tuple[str, str, list[str]]  # level, text, names of photos
Judged = tuple[list[Said], dict[str, Any]]

PEOPLE = 0.4  # share of photos with a face from which they are those of a person
ENOUGH = 4  # photos before variety can be judged
FRONT, SIDE = 15.0, 45.0  # degrees of yaw up to which a face is seen from the front, and three-quarter
CLOSE, FULL = 0.30, 0.12  # face's height / photo's: nearer is a close-up, farther a full body
TINY_FACE = 0.05
SAME_COLOURS = 0.25  # Hellinger distance up to which backdrops or clothes are called the same
SHARE = 0.4  # of the photos that may share a backdrop, clothes, a kind of light
ANGLES = ("from the front", "three-quarter", "in profile")
DISTANCES = ("close-ups", "medium shots", "full body")


# a person ---------------------------------------------------------------------------------------------------------


def of_person(looks: list[Look]) -> Judged:
    """What to say of photos of a person or a character."""
    seen = [(look, look.person) for look in looks if look.person is not None]
    if len(seen) < PEOPLE * len(looks):  # a dog, a doll, a drawn character; or the nets are missing
        said, counts = of_product(looks)
        if seen:
            names = [look.photo.name for look, _ in seen]
            said.append(
                ("know", "A face was found in few of the photos, so they are judged as those of a thing", names)
            )
        return said, counts
    said = _faults_of_people(looks, seen)
    people = [person for _, person in seen]
    angles = Counter(_angle(person) for person in people)
    distances = Counter(_distance(person) for person in people)
    backdrops = groups([person.backdrop for person in people], SAME_COLOURS)
    clothes = groups([person.clothes for person in people], SAME_COLOURS)
    lights = Counter(light_of(look) for look, _ in seen)
    counts = {
        "angles": {name: angles[name] for name in ANGLES},
        "distances": {name: distances[name] for name in DISTANCES},
        "backdrops": len(backdrops),
        "clothes": len(clothes),
        "lights": dict(lights.most_common()),
    }
    if len(seen) < ENOUGH:
        return said, counts
    names = [look.photo.name for look, _ in seen]
    said += _spread(angles, ANGLES, "Angles", "a profile")
    said += _spread(distances, DISTANCES, "Distances", "")
    said += _shared(backdrops, names, "backdrop", "other places: outdoors, indoors, plain and busy")
    said += _shared(clothes, names, "clothes", "other clothes: casual, formal, other colours")
    said += _lit(lights, seen)
    said += _expressions(people)
    return said, counts


def _faults_of_people(looks: list[Look], seen: list[tuple[Look, Person]]) -> list[Said]:
    checks: list[tuple[str, str, Callable[[Person], bool]]] = [
        ("drop", "Several people: cut the others off", lambda p: p.others > 0),
        ("drop", "The face is too small to be learned", lambda p: p.near < TINY_FACE),
        ("drop", "Part of the face is outside of the photo", lambda p: p.marks["inside"] < 0.75),
        ("drop", "Eyes closed", lambda p: p.marks["eyes"] < 0.25),
        ("drop", "The face is in deep shadow or burnt out", lambda p: p.brightness < 0.12 or p.brightness > 0.95),
    ]
    said = [
        (level, text, names)
        for level, text, wrong in checks
        if (names := [look.photo.name for look, person in seen if wrong(person)])
    ]
    if faceless := [look.photo.name for look in looks if look.person is None]:
        text = "No face was found: turned away, hidden or too small; keep a profile, drop what does not show who it is"
        said.append(("know", text, faceless))
    if strangers := _strangers(seen):
        said.append(("drop", "This may be somebody else", strangers))
    return said


def _strangers(seen: list[tuple[Look, Person]]) -> list[str]:
    """Photos whose face is far from all others. Only faces from the front are compared: turned ones all differ."""
    fair = [(k, p) for k, p in seen if abs(p.face.yaw) < 20 and p.near > 0.1 and 0.12 < p.brightness < 0.95]
    front = [(look.photo.name, person.signature) for look, person in fair]
    if len(front) < ENOUGH:
        return []
    table = np.array([[float(np.linalg.norm(a - b)) for _, b in front] for _, a in front])
    table[np.diag_indices(len(front))] = np.nan
    usual = np.nanmedian(table, axis=1)
    return [name for (name, _), far in zip(front, usual) if far > 0.55 and far > 1.5 * float(np.median(usual))]


def _angle(person: Person) -> str:
    turn = abs(person.face.yaw)
    return ANGLES[0] if turn < FRONT else ANGLES[1] if turn < SIDE else ANGLES[2]


def _distance(person: Person) -> str:
    return DISTANCES[0] if person.near > CLOSE else DISTANCES[1] if person.near > FULL else DISTANCES[2]


def _spread(found: Counter[str], wanted: Sequence[str], title: str, rare: str) -> list[Said]:
    """Whether the photos are spread over the wanted classes; `rare` may be missing without a word."""
    counted = ", ".join(f"{found[name]} {name}" for name in wanted if found[name])
    missing = [name for name in wanted if not found[name]]
    largest, total = max(found.values()), found.total()
    if largest == total:
        return [("add", f"{title}: all {total} {next(iter(found))}; add some {_either(missing)}", [])]
    if missing:
        return [("add", f"{title}: {counted}; one or two {_either(missing)} would help", [])]
    return [("good", f"{title}: {counted}", [])]


def _either(names: Sequence[str]) -> str:
    return " and ".join(names)


def _shared(found: list[list[int]], names: list[str], what: str, add: str) -> list[Said]:
    """Whether a large group of photos has the same backdrop, or clothes."""
    largest = max(found, key=len)
    if len(largest) > max(2, SHARE * len(names)):
        text = f"{len(largest)} of {len(names)} photos have the same {what}, which will be learned too; add {add}"
        return [("add", text, [names[i] for i in largest])]
    one = what.rstrip("s") if len(found) == 1 else what
    count = f"{len(found)} kinds of clothes" if what == "clothes" else f"{len(found)} {one}s"
    return [("good", f"{count} in {len(names)} photos", [])]


def light_of(look: Look) -> str:
    """The light in words: level, direction on the face, warmth."""
    person = look.person
    level = person.brightness if person else look.brightness
    words = ["dark" if level < 0.3 else "bright" if level > 0.75 else "even"]
    if person and abs(person.face.yaw) < SIDE and abs(person.side_light) > 0.12:
        words.append("from one side")
    words.append("warm" if look.warmth > 0.10 else "cold" if look.warmth < -0.06 else "neutral")
    return ", ".join(words)


def _lit(lights: Counter[str], seen: list[tuple[Look, Person]]) -> list[Said]:
    kind, count = lights.most_common(1)[0]
    if count > 0.7 * len(seen):
        text = f"{count} of {len(seen)} photos have much the same light ({kind}); add daylight, lamps, dusk, side light"
        return [("add", text, [])]
    return [("good", f"{len(lights)} kinds of light", [])]


def _expressions(people: list[Person]) -> list[Said]:
    """Only faces from the front: of turned ones, the mouth's width says nothing."""
    front = [person for person in people if abs(person.face.yaw) < 25]
    if len(front) < ENOUGH:
        return []
    smiles, mouths = ([getattr(person, name) for person in front] for name in ("smile", "mouth"))
    if max(smiles) - min(smiles) < 0.08 and max(mouths) - min(mouths) < 0.05:
        text = (
            f"Much the same expression in all {len(front)} photos from the front; add smiling, laughing, serious ones"
        )
        return [("add", text, [])]
    return [("good", "Expressions differ", [])]


# products and styles ----------------------------------------------------------------------------------------------


def of_product(looks: list[Look]) -> Judged:
    """What to say of photos of a thing."""
    scenes = groups([look.colours for look in looks], SAME_COLOURS)
    lights = Counter(light_of(look) for look in looks)
    views = groups([look.shape for look in looks], 0.1, lambda a, b: 1 - float((a * b).mean()))
    counts = {"scenes": len(scenes), "lights": dict(lights.most_common()), "views": len(views)}
    if len(looks) < ENOUGH:
        return [], counts
    names = [look.photo.name for look in looks]
    said: list[Said] = []
    same = max(views, key=len)
    if len(same) > SHARE * len(looks):
        text = f"{len(same)} of {len(looks)} photos show it from the same side, at the same size; turn it, go nearer"
        said.append(("add", text, [names[i] for i in same]))
    else:
        said.append(("good", f"{len(views)} different views", []))
    same = max(scenes, key=len)
    if len(same) > SHARE * len(looks):
        text = f"{len(same)} of {len(looks)} photos have the same surroundings; show it in use, beside other things"
        said.append(("add", text, [names[i] for i in same]))
    else:
        said.append(("good", f"{len(scenes)} different surroundings", []))
    if len(lights) == 1:
        said.append(("add", f"The light is the same in all ({next(iter(lights))}); add studio light and daylight", []))
    return said, counts


def of_style(looks: list[Look]) -> Judged:
    """What to say of pictures of one manner: that it is one, and that they show different things."""
    faces = [look for look in looks if look.person and look.person.near > CLOSE]
    grey = [look for look in looks if look.colour < 0.02]
    views = groups([look.shape for look in looks], 0.15, lambda a, b: 1 - float((a * b).mean()))
    shapes = Counter(_format(look) for look in looks)
    counts = {
        "faces from close": len(faces),
        "black and white": len(grey),
        "views": len(views),
        "formats": dict(shapes),
    }
    if len(looks) < ENOUGH:
        return [], counts
    said: list[Said] = []
    if odd := _odd_ones(looks):
        said.append(("drop", "Of another manner than the rest: colours, contrast or detail differ", odd))
    if 0 < len(grey) < len(looks):
        few = grey if len(grey) * 2 <= len(looks) else [look for look in looks if look not in grey]
        text = f"{len(grey)} of {len(looks)} are black and white: keep to one of both"
        said.append(("drop", text, [look.photo.name for look in few]))
    if not said:
        said.append(("good", "One manner throughout: colours, contrast and detail are alike", []))
    if len(faces) > 0.7 * len(looks):
        text = f"{len(faces)} of {len(looks)} show a face from close; add landscapes, still lifes, interiors, groups"
        said.append(("add", f"{text}, or faces will be taken for the style", []))
    same = max(views, key=len)
    if len(same) > SHARE * len(looks):
        text = f"{len(same)} of {len(looks)} are composed alike; add other subjects and compositions"
        said.append(("add", text, [looks[i].photo.name for i in same]))
    elif len(faces) <= 0.7 * len(looks):
        said.append(("good", f"{len(views)} different compositions in {len(looks)} pictures", []))
    if len(shapes) == 1:
        said.append(("know", f"All are {next(iter(shapes))}; other formats will look less like the style", []))
    return said, counts


def _format(look: Look) -> str:
    width, height = look.photo.size
    return "square" if abs(width / height - 1) < 0.1 else "wide" if width > height else "upright"


def _odd_ones(looks: list[Look]) -> list[str]:
    """Pictures far from the middle of the set, measured by the set's own spread."""
    numbers = np.array([[k.brightness, k.contrast, k.colour, k.warmth, k.busy] for k in looks])
    least = np.array([0.08, 0.12, 0.04, 0.05, 0.04])  # spread that any style has
    middle = np.median(numbers, axis=0)
    spread = np.maximum(1.48 * np.median(np.abs(numbers - middle), axis=0), least)
    far = np.abs(numbers - middle) / spread
    strokes = np.array([np.median([apart(a.texture, b.texture) for b in looks if b is not a]) for a in looks])
    foreign = (strokes > 0.35) & (strokes > 2 * float(np.median(strokes)))
    return [k.photo.name for k, row, alien in zip(looks, far, foreign) if alien or row.max() > 5 or (row > 3).sum() > 1]


# shared -----------------------------------------------------------------------------------------------------------


def groups(
    items: Sequence[NDArray[Any]], near: float, distance: Callable[[Any, Any], float] = apart
) -> list[list[int]]:
    """Indices of items that hang together: each is at most `near` from another of its group. Empty ones are in none."""
    found: list[list[int]] = []
    for i, item in enumerate(items):
        if not np.any(item):
            continue
        close = [group for group in found if any(distance(item, items[j]) <= near for j in group)]
        found = [group for group in found if group not in close] + [[j for group in close for j in group] + [i]]
    return found or [[]]


def has_word(text: str, word: str) -> bool:
    """Whether a word stands in a text, spelled so."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
