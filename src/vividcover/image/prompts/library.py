"""The prompt library: ours, which comes with the program, and the user's own in a file beside it, with what worked.

    library = Library(home / "prompts.json")
    [entry.text("VIVI") for entry in library.find("rain", category="portrait")]
    library.add("{TOK} under a paper umbrella, on a bridge", name="umbrella", tags=["rain"])
    library.rate("umbrella", 5, image="vivi", seed=42)

Ours are in `templates/*.toml`, one prompt a line, in layers; the user's may be so too, or plain text.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock

from vividcover.errors import NotFoundError, ParameterError, StorageError
from vividcover.files import storage_errors, write_text
from vividcover.image.prompt import MAX_PROMPT
from vividcover.image.prompts.layers import BETWEEN, SLOT, Kind, Layers, fill

FORMAT = 1  # of the user's file
OWN = "own"  # category of a prompt that was added without one
STARS = range(1, 6)
WORKED = 4  # stars from which on a prompt counts as one that worked
KINDS: dict[str, Kind] = {"product": "product", "style": "style"}  # of categories; all others show a subject
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """A prompt of the library. `line`: its text with `{TOK}`, or its layers with bars between them."""

    name: str
    category: str
    line: str
    tags: tuple[str, ...] = ()
    own: bool = False
    ratings: tuple[Mapping[str, Any], ...] = ()  # {"stars", "image", "seed", "note"}

    @property
    def layers(self) -> Layers:
        return Layers.read(self.line)

    @property
    def template(self) -> str:
        return self.layers.text() if BETWEEN in self.line else self.line

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.category, "subject")

    @property
    def stars(self) -> float | None:
        """Mean of the ratings; None: not rated."""
        return sum(r["stars"] for r in self.ratings) / len(self.ratings) if self.ratings else None

    def text(self, trigger: str, who: str = "") -> str:
        """The prompt for a trigger word; `who` says whom it stands for: "a woman in her 40s"."""
        return fill(self.template, trigger, who)


@lru_cache
def built_in() -> tuple[Entry, ...]:
    """The prompts that come with the program."""
    folder = resources.files(__package__) / "templates"
    tables = (tomllib.loads(f.read_text("utf-8")) for f in sorted(folder.iterdir(), key=lambda f: f.name))
    return tuple(
        Entry(name, category, line)
        for table in tables
        for category, lines in table.items()
        for name, line in lines.items()
    )


class Library:
    """All prompts: ours and those in `file`, which need not be there. Without a file, ours only."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    # reading

    def entries(self) -> list[Entry]:
        """The user's own first."""
        kept = self._read()
        ratings = {name: tuple(given) for name, given in kept["ratings"].items()}
        tags = {name: tuple(given) for name, given in kept["tags"].items()}
        own = [Entry(name, p["category"], p["line"], own=True) for name, p in kept["prompts"].items()]
        return [
            Entry(e.name, e.category, e.line, tags.get(e.name, ()), e.own, ratings.get(e.name, ()))
            for e in (*own, *(e for e in built_in() if e.name not in kept["prompts"]))
        ]

    def categories(self) -> dict[str, int]:
        """Category → how many prompts it has."""
        counts: dict[str, int] = {}
        for entry in self.entries():
            counts[entry.category] = counts.get(entry.category, 0) + 1
        return counts

    def get(self, name: str) -> Entry:
        """Raises `NotFoundError` that names similar ones."""
        known = {entry.name: entry for entry in self.entries()}
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5)
            raise NotFoundError(
                f"There is no prompt called {name!r}.",
                f"Did you mean {' or '.join(near)}?" if near else "`vividcover prompts list` shows them all.",
            )
        return known[name]

    def find(self, words: str = "", *, category: str = "", tag: str = "", worked: bool = False) -> list[Entry]:
        """Those in which every word occurs or begins one (name, text, category, tags), best rated first.

        `worked`: only those that were rated with four stars or more. Raises `ParameterError` for an unknown category.
        """
        if category and category not in (known := self.categories()):
            raise ParameterError(f"There is no category {category!r}.", f"Choose one of {', '.join(sorted(known))}.")
        wanted = [re.compile(rf"\b{re.escape(word)}") for word in words.lower().split()]
        found = [
            entry
            for entry in self.entries()
            if (not category or entry.category == category)
            and (not tag or tag.lower() in entry.tags)
            and (not worked or (entry.stars or 0) >= WORKED)
            and all(word.search(_searched(entry)) for word in wanted)
        ]
        return sorted(found, key=lambda entry: -(entry.stars or 0))

    # writing

    def add(
        self, line: str, *, name: str = "", category: str = OWN, tags: Iterable[str] = (), trigger: str = "",
        replace: bool = False,
    ) -> Entry:  # fmt: skip
        """Keeps a prompt. `trigger`: the word in it that stands for the subject, when it is not `{TOK}`.

        Raises `ParameterError`: no trigger word in it, too long, a name that is taken (unless `replace`).
        """
        line = _checked(line, name, category, trigger)
        with self._changing() as kept:
            taken = {*kept["prompts"], *(entry.name for entry in built_in())}
            name = name or _free(_slug(line), taken)
            if name in taken and not replace:
                raise ParameterError(f"There is a prompt called {name!r} already.", "Choose another name, or replace.")
            kept["prompts"][name] = {"category": category or OWN, "line": line}
            _tag(kept, name, tags)
        return self.get(name)

    def add_file(self, path: Path, *, category: str = OWN, trigger: str = "") -> list[Entry]:
        """Keeps every prompt of a file: TOML as in `templates/`, or text with one prompt a line. All or none."""
        found = read_file(path, category)
        taken = {entry.name for entry in self.entries()} & {name for name, _, _ in found}
        if taken:
            raise ParameterError(f"{path.name}: {', '.join(sorted(taken)[:3])}: there already.", "Rename them.")
        for name, line, given in found:  # all are looked at before the first is kept
            _checked(line, name, given, trigger)
        return [self.add(line, name=name, category=given, trigger=trigger) for name, line, given in found]

    def remove(self, name: str) -> None:
        """Forgets one of the user's own, with its ratings. Raises `ParameterError` for one of ours."""
        if not self.get(name).own:
            raise ParameterError(f"{name!r} comes with the program.", "Only prompts that you added can be removed.")
        with self._changing() as kept:
            for part in ("prompts", "ratings", "tags"):
                kept[part].pop(name, None)

    def tag(self, name: str, tags: Iterable[str]) -> Entry:
        """Adds tags to a prompt, ours or the user's."""
        self.get(name)
        with self._changing() as kept:
            _tag(kept, name, tags)
        return self.get(name)

    def rate(self, name: str, stars: int, *, image: str = "", seed: int | None = None, note: str = "") -> Entry:
        """Remembers how well a prompt worked, 1 to 5, and with which image model and seed."""
        self.get(name)
        if stars not in STARS:
            raise ParameterError(f"{stars} stars are not possible.", "Give 1 (useless) to 5 (just what I wanted).")
        said = {"stars": stars, "image": image, "seed": seed, "note": note}
        with self._changing() as kept:
            kept["ratings"].setdefault(name, []).append(
                {key: value for key, value in said.items() if value not in ("", None)}
            )
        return self.get(name)

    def remember(self, prompt: str, trigger: str, stars: int, **where: Any) -> Entry:
        """Rates a prompt by its text; one that the library does not have is added to it first."""
        text = _with_slot(prompt, trigger)
        known = next((entry.name for entry in self.entries() if entry.template == text), "")
        return self.rate(known or self.add(text).name, stars, **where)

    # the file

    def _read(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"format": FORMAT, "prompts": {}, "ratings": {}, "tags": {}}
        if self.file is None or not self.file.exists():
            return empty
        try:
            with storage_errors("the prompt library", self.file.parent):
                kept: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
            entries = [(p["category"], p["line"]) for p in kept["prompts"].values()]
            stars = [r["stars"] + 0 for given in kept["ratings"].values() for r in given]
            sound = kept["format"] == FORMAT and all(isinstance(part, str) for entry in entries for part in entry)
            if not sound or not all(star in STARS for star in stars) or not isinstance(kept["tags"], dict):
                raise ValueError("its layout is not known")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParameterError(
                f"The prompt library {self.file} cannot be read: {error}.", "Mend the file, or move it away."
            ) from error
        return empty | kept

    def _changing(self) -> _Change:
        if self.file is None:
            raise StorageError("This library has no file to keep prompts in.", "Name one: Library(file).")
        return _Change(self, self.file)


class _Change:
    """Reads the file, and writes it back when the block ends well; one process at a time."""

    def __init__(self, library: Library, file: Path) -> None:
        self._library, self._file = library, file
        self._lock = FileLock(file.with_name(f".{file.name}.lock"))

    def __enter__(self) -> dict[str, Any]:
        with storage_errors("the prompt library", self._file.parent):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            self._kept = self._library._read()
        except BaseException:
            self._lock.release()
            raise
        return self._kept

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                write_text(self._file, json.dumps(self._kept, indent=1, ensure_ascii=False) + "\n")
        finally:
            self._lock.release()


def read_file(path: Path, category: str = OWN) -> list[tuple[str, str, str]]:
    """(name, line, category) of each prompt in a file; names are "" in a text file. Raises `ParameterError`."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} cannot be read: {error}.", "Give a text file in UTF-8.") from error
    if path.suffix.lower() != ".toml":
        lines = [line.strip() for line in text.splitlines()]
        found = [("", line, category) for line in lines if line and not line.startswith("#")]
    else:
        try:
            tables = tomllib.loads(text)
            found = [(name, line.strip(), key) for key, lines in tables.items() for name, line in lines.items()]
        except (tomllib.TOMLDecodeError, AttributeError) as error:
            raise ParameterError(
                f"{path.name} is not a file of prompts: {error}.",
                'Write [category] and below it lines of the kind name = "{TOK} …".',
            ) from error
    if not found:
        raise ParameterError(f"{path.name} has no prompts.", "Write one on each line.")
    return found


def _checked(line: str, name: str, category: str, trigger: str) -> str:
    """The line with `{TOK}`. Raises `ParameterError` for what `Library.add` cannot keep."""
    line = _with_slot(line, trigger)
    if SLOT not in line:
        raise ParameterError(
            f"The prompt has no trigger word: {line[:80]!r}.",
            f"Write {SLOT} where the subject or the style goes, or name the word that stands there (--trigger-word).",
        )
    if len(line) > MAX_PROMPT:
        raise ParameterError(f"The prompt has {len(line)} characters.", f"At most {MAX_PROMPT} are read.")
    Layers.read(line)
    for what, said in (("a prompt", name), ("a category", category)):
        if said and not NAME.fullmatch(said):
            raise ParameterError(f"{said!r} cannot name {what}.", "Use small letters, digits and hyphens, up to 64.")
    return line


def _with_slot(text: str, trigger: str) -> str:
    text = " ".join(text.split())
    return re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", lambda _: SLOT, text) if trigger else text


def _searched(entry: Entry) -> str:
    return f"{entry.name} {entry.category} {' '.join(entry.tags)} {entry.line}".lower()


def _tag(kept: dict[str, Any], name: str, tags: Iterable[str]) -> None:
    new = [tag.strip().lower() for tag in tags if tag.strip()]
    if new:
        kept["tags"][name] = list(dict.fromkeys([*kept["tags"].get(name, []), *new]))


def _slug(text: str) -> str:
    words = re.findall(r"[a-z0-9]+", text.replace(SLOT, "").lower())
    return "-".join([word for word in words if word not in ("a", "an", "the", "in", "of", "on", "with")][:4])[:48]


def _free(name: str, taken: Iterable[str]) -> str:
    name = name or "prompt"
    used = set(taken)
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(used) + 3))) if n not in used)
