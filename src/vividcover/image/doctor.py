"""The dataset doctor: what to add to a set of photos, and what to drop, before hours of training show it.

    report = examine(dataset)                 # findings, worst first, and what was counted
    print(report.text())                      # one page

Advice is that of the people whose trainers this one replaces: two photos at the least, ten to twenty advised; of a
person or product, different angles, light, backdrops, clothes, expressions and distances; of a style, one manner and
many subjects; sharp photos of 1024 px; a trigger word that is no word. What is counted is measured (`looks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vividcover.errors import WeightsError
from vividcover.image import variety
from vividcover.image.buckets import size_of
from vividcover.image.dataset import Dataset
from vividcover.image.flux import triggers
from vividcover.image.looks import Look, look_at
from vividcover.portrait.faces import FaceKit
from vividcover.workspace import Reporter, Silent

Level = Literal["drop", "add", "mend", "know", "good"]
LEVELS: dict[str, str] = {
    "mend": "Mend", "drop": "Drop or replace", "add": "Add", "know": "Good to know", "good": "Well done",
}  # fmt: skip
FEWEST, ADVISED, MANY = 2, (10, 20), 60  # photos
SHARP = 14.0  # Laplacian variance at 512 px below which a photo is blurred
SHARP_FACE = 0.5  # of the face's mark; the backdrop may be as soft as it likes
DARK, BRIGHT = 0.16, 0.86  # mean grey
CLIPPED = 0.25  # share of pixels that are black or white
FLAT = 0.14  # contrast
BARS = 0.06  # share of the picture in plain borders
BLOCKS = 1.9  # of JPEG's grid
SMALL_FACE = 0.08  # of the photo's height
ALIKE_BITS = 34  # of 256: photos of one burst differ by less
COVER = (0.03, 0.97)  # share of a photo that a sensible mask covers
LONGEST_CAPTION = 1800  # characters: T5 reads 512 tokens


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: what to do about it; `photos`: names of those that it is about (none: all)."""

    level: Level
    text: str
    photos: tuple[str, ...] = ()

    def line(self) -> str:
        if not self.photos:
            return self.text
        more = f" and {len(self.photos) - 6} more" if len(self.photos) > 6 else ""
        return f"{self.text} ({', '.join(self.photos[:6])}{more})"


@dataclass(frozen=True, slots=True)
class Examination:
    """`findings`, what matters most first; `counts`: what the advice on variety rests on, JSON."""

    dataset: Dataset
    findings: list[Finding]
    counts: dict[str, Any] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)

    def of(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    def to_json(self) -> dict[str, Any]:
        return {
            "photos": len(self.dataset.photos),
            "left_out": len(self.dataset.problems),
            "findings": [{"level": f.level, "text": f.text, "photos": list(f.photos)} for f in self.findings],
            "counts": self.counts,
        }

    def text(self) -> str:
        """One page for people."""
        report = self.dataset.report
        lines = [f"{report['used']} of {report['given']} photos can be used for {self.dataset.options.trigger_word}."]
        for level, title in LEVELS.items():
            found = self.of(level)  # type: ignore[arg-type]
            lines += ["", f"{title}:", *(f"  - {finding.line()}" for finding in found)] if found else []
        sizes = ", ".join(f"{row['photos']} x {row['width']}x{row['height']}" for row in report["buckets"][:12])
        lines += ["", f"Sizes for training: {sizes}{' …' if len(report['buckets']) > 12 else ''}."]
        return "\n".join(lines)


def examine(
    dataset: Dataset,
    *,
    kit: FaceKit | None = None,
    looks: list[Look] | None = None,
    reporter: Reporter | None = None,
) -> Examination:
    """Looks at every photo and says what to do. `looks` saves the work of looking again.

    Of a subject, faces are looked for; where the nets for that are missing, it is said and the rest is examined.
    Raises `Canceled`.
    """
    reporter, kind = reporter or Silent(), dataset.options.kind
    findings: list[Finding] = []
    if looks is None:
        try:
            looks = look_at(dataset.photos, (kit or FaceKit()) if kind in ("subject", "style") else None, reporter)
        except WeightsError as error:
            findings.append(Finding("know", f"Faces were not looked for: {error.message} {error.hint}"))
            looks = look_at(dataset.photos, None, reporter)
    findings += _left_out(dataset)
    findings += _count(dataset)
    findings += _quality(looks, kind)
    findings += _size(dataset)
    findings += _alike(looks)
    counts: dict[str, Any] = {}
    judge: dict[str, Callable[[list[Look]], tuple[list[tuple[str, str, list[str]]], dict[str, Any]]]] = {
        "subject": variety.of_person, "product": variety.of_product, "style": variety.of_style,
    }  # fmt: skip
    if kind in judge and looks:
        said, counts = judge[kind](looks)
        findings += [Finding(level, text, tuple(names)) for level, text, names in said]  # type: ignore[arg-type]
    findings += _masks(dataset)
    findings += _words(dataset)
    order = list(LEVELS)
    findings.sort(key=lambda f: order.index(f.level))  # stable: within a level, in the order of the checks
    reporter.progress(1.0, f"{len(findings)} findings")
    return Examination(dataset, findings, counts, looks)


def _named(looks: Iterable[Look], wrong: Callable[[Look], bool]) -> tuple[str, ...]:
    return tuple(look.photo.name for look in looks if wrong(look))


def _left_out(dataset: Dataset) -> list[Finding]:
    """What was found when the photos were read; the same fault of several photos is one finding."""
    said: dict[tuple[Level, str], list[str]] = {}
    for problem in dataset.problems:
        said.setdefault(("mend", f"Left out: {problem.why}"), []).append(problem.name)
    for problem in dataset.ignored:
        said.setdefault(("know", f"Not used: {problem.why}"), []).append(problem.name)
    for photo in dataset.photos:
        for note in photo.notes:
            said.setdefault(("know", note[:1].upper() + note[1:]), []).append(photo.name)
    return [Finding(level, text, tuple(names)) for (level, text), names in said.items()]


def _count(dataset: Dataset) -> list[Finding]:
    count, (low, high) = len(dataset.photos), ADVISED
    if count < FEWEST:
        return [Finding("add", f"Only one photo can be used; the least is {FEWEST}, and {low} to {high} are advised")]
    if count < low:
        more = f"{low - count} to {high - count}"
        return [Finding("add", f"{count} photos can be used; {low} to {high} are advised, so add {more} that differ")]
    if count > MANY:
        return [
            Finding(
                "know",
                f"{count} photos are many: beyond {high} well-chosen ones little is gained, and each is seen less",
            )
        ]
    return [Finding("good", f"{count} photos: as many as it takes")]


def _quality(looks: list[Look], kind: str) -> list[Finding]:
    """Faults of single photos: models learn them as well."""

    def blurred(look: Look) -> bool:
        if look.brightness < DARK or look.contrast < FLAT:  # said below; what is pale has no sharp edges
            return False
        return look.sharp < SHARP if look.person is None else look.person.marks["sharp"] < SHARP_FACE

    checks: list[tuple[str, Callable[[Look], bool]]] = [("Blurred", blurred)]
    if kind not in ("style", "product"):  # a manner may be dark or pale, and products stand before white
        checks += [
            ("Very dark", lambda look: look.brightness < DARK),
            ("Very bright", lambda look: look.brightness > BRIGHT and look.contrast < 0.5 and not look.studio),
            ("Large parts are pure black or white", lambda k: k.clipped > CLIPPED and k.bars < BARS and not k.studio),
            ("Faded, almost without contrast", lambda look: look.contrast < FLAT),
        ]
    checks += [
        ("Black bars or a white frame: cut them off", lambda look: look.bars > BARS),
        ("Packed so strongly that JPEG's blocks show", lambda look: look.blocks > BLOCKS),
    ]
    return [Finding("drop", text, names) for text, wrong in checks if (names := _named(looks, wrong))]


def _size(dataset: Dataset) -> list[Finding]:
    """Photos are never enlarged: small ones are not trained at the larger sizes."""
    wanted = max(dataset.options.resolutions)
    least = sorted(dataset.options.resolutions)[0]
    sizes = {photo.name: size_of(photo) for photo in dataset.photos}
    tiny = tuple(n for n, (w, h) in sizes.items() if w * h < 0.9 * least * least)
    small = tuple(n for n, (w, h) in sizes.items() if 0.9 * least * least <= w * h < 0.7 * wanted * wanted)
    long = tuple(n for n, (w, h) in sizes.items() if max(w, h) > 2.6 * min(w, h))
    found = []
    if tiny:
        found.append(Finding("drop", f"Smaller than {least} x {least} px: details will be missing", tiny))
    if small:
        found.append(
            Finding("know", f"Smaller than {wanted} x {wanted} px: trained at their own size, not enlarged", small)
        )
    if long:
        found.append(Finding("drop", "Very long or very wide: cut out what matters", long))
    return found


def _alike(looks: list[Look]) -> list[Finding]:
    """Groups of photos of one moment: a group counts as one, and outweighs the others."""
    groups: list[list[Look]] = []
    for look in looks:
        near = [
            g for g in groups if any(int((look.bits != o.bits).sum()) <= ALIKE_BITS and _shaped(look, o) for o in g)
        ]
        merged = [look, *(other for group in near for other in group)]
        groups = [group for group in groups if group not in near] + [merged]
    found = []
    for group in sorted(groups, key=len, reverse=True):
        if len(group) > 1:
            best = max(group, key=lambda look: look.sharp)
            names = tuple(look.photo.name for look in group if look is not best)
            found.append(Finding("drop", f"Almost the same as {best.photo.name}; keep the best one", names))
    return found


def _shaped(a: Look, b: Look) -> bool:
    return float((a.shape * b.shape).mean()) > 0.88


def _masks(dataset: Dataset) -> list[Finding]:
    from PIL import Image

    odd = []
    for photo in dataset.photos:
        if photo.mask is not None:
            with Image.open(photo.mask) as image:
                cover = float(np.asarray(image.convert("L")).mean()) / 255
            if not COVER[0] < cover < COVER[1]:
                odd.append(f"{photo.name}: {cover:.0%}")
    return [Finding("mend", "Masks that cover next to nothing, or all", tuple(odd))] if odd else []


def _words(dataset: Dataset) -> list[Finding]:
    """Trigger word and captions."""
    trigger = dataset.options.trigger_word
    found = [Finding("mend", text.rstrip(".")) for text in triggers.problems(trigger)]
    said = {photo.name: photo.caption for photo in dataset.photos if photo.caption}
    if not said:
        return found
    without = tuple(n for n, text in said.items() if trigger.casefold() not in text.casefold())
    if without:
        found.append(Finding("know", f"Captions without {trigger}: it will be put in", without))
    other = tuple(n for n, text in said.items() if trigger.casefold() != "tok" and variety.has_word(text, "TOK"))
    if other:
        found.append(Finding("mend", f"Captions that say TOK although the trigger word is {trigger}", other))
    long = tuple(n for n, text in said.items() if len(text) > LONGEST_CAPTION)
    if long:
        found.append(Finding("mend", f"Captions of more than {LONGEST_CAPTION} characters: the end is not read", long))
    texts = list(said.values())
    if len(texts) > 2 and len(set(texts)) == 1 and texts[0].strip(" .") not in (trigger, f"a photo of {trigger}"):
        found.append(Finding("mend", "All captions are the same: what they describe will stick to the trigger word"))
    if len(said) < len(dataset.photos):
        missing = tuple(p.name for p in dataset.photos if not p.caption)
        found.append(Finding("know", "Photos without a caption: one will be made", missing))
    return found
