"""Several ways to train, tried on the same photos, scored on prompts that none of them saw; the best is promoted.

    outcome = compare(
        {"default": {}, "gentle": {"learning_rate": 1e-4}, "style-times": {"timesteps": "style"}},
        train, paint, panel.judge, prompts=held_out("VIVI"), folder=work, out=Path("vivi.tar"),
    )
    outcome.text()      # a table for people

All are painted with the same prompts and seeds, so their totals are compared pair by pair. A lead that is smaller than
what chance makes of so few pictures is said to be none, and then the first of those that cannot be told from the best
is promoted: name the one first that you would take anyway.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from vividcover.errors import Canceled, EngineError, ParameterError, StorageError, VividCoverError
from vividcover.files import canonical, publish, storage_errors, write_text
from vividcover.image.batch import Judge, Painted, read_rgb
from vividcover.image.prompts.layers import Kind, names
from vividcover.image.prompts.library import built_in
from vividcover.image.score.measures import diversity
from vividcover.progress import Part
from vividcover.workspace import Reporter, Silent

FORMAT = 1
MOST = 24  # ways to train
PAIRS = 6  # prompts x seeds, below which a comparison says nothing
CHANCE = 0.05  # how often chance may make a lead
REPORT, STATE, TABLE = "report.json", "state.json", "report.md"


class Train(Protocol):
    """Trains with the changes of one variant and writes the model to `out`, beside which it may keep its own files.

    What it returns is kept.
    """

    def __call__(self, changes: Mapping[str, Any], out: Path, reporter: Reporter) -> Mapping[str, Any] | None: ...


Paint = Callable[[Path, str, Sequence[int], Reporter], Sequence[Painted]]  # model, prompt, seeds → a picture each


@dataclass(frozen=True)
class Variant:
    """What came of one way to train. `error`: why there are no scores."""

    name: str
    changes: dict[str, Any]
    model: str = ""
    totals: tuple[float, ...] = ()  # of each prompt and seed, in the same order for all variants
    values: Mapping[str, float] | None = None  # means of the single scores
    variety: float = 0.0  # how much pictures of one prompt differ
    seconds: float = 0.0  # of training
    error: str = ""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.totals) if self.totals else math.nan


@dataclass(frozen=True)
class Outcome:
    """`ranking`: best first, failures last. `promoted` is the one that was chosen, `why` says on what grounds."""

    ranking: list[Variant]
    promoted: Variant
    why: str
    clear: bool  # whether the lead over the next is more than chance
    prompts: list[str]
    seeds: list[int]

    def report(self) -> dict[str, Any]:
        return {
            "promoted": self.promoted.name, "why": self.why, "clear": self.clear, "prompts": self.prompts,
            "seeds": self.seeds,
            "variants": [asdict(v) | {"mean": None if math.isnan(v.mean) else v.mean} for v in self.ranking],
        }  # fmt: skip

    def text(self) -> str:
        """A Markdown table of all variants, and what was promoted."""
        scores = list(dict.fromkeys(name for v in self.ranking for name in v.values or {}))
        head = ["variant", "total", *scores, "variety", "training", "changes"]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for v in self.ranking:
            changes = ", ".join(f"{key}={value}" for key, value in v.changes.items()) or "none"
            if v.error:
                cells = [v.name, f"failed: {v.error}", *[""] * (len(scores) + 2), changes]
            else:
                spread = statistics.stdev(v.totals) / math.sqrt(len(v.totals)) if len(v.totals) > 1 else 0.0
                single = [f"{(v.values or {})[name]:.3f}" for name in scores]
                name = f"**{v.name}**" if v is self.promoted else v.name
                cells = [
                    name,
                    f"{v.mean:.3f} ± {spread:.3f}",
                    *single,
                    f"{v.variety:.2f}",
                    f"{v.seconds:.0f} s",
                    changes,
                ]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        return "\n".join([*lines, "", self.why, ""])


def held_out(trigger: str, kind: Kind = "subject", count: int = 8, *, seed: int = 0, who: str = "") -> list[str]:
    """Prompts to score by: of the library, from as many categories as there are, the same for the same seed."""
    draw = random.Random(f"held out {seed}")
    by_category: dict[str, list[str]] = {}
    for entry in built_in():
        if entry.kind == kind:
            by_category.setdefault(entry.category, []).append(entry.text(trigger, who))
    decks = [draw.sample(texts, len(texts)) for texts in by_category.values()]
    draw.shuffle(decks)
    dealt = [deck[i] for i in range(max(map(len, decks))) for deck in decks if i < len(deck)]
    if not 1 <= count <= len(dealt):
        raise ParameterError(f"{count} prompts cannot be held out.", f"Ask for 1 to {len(dealt)}.")
    return dealt[:count]


def compare(
    variants: Mapping[str, Mapping[str, Any]], train: Train, paint: Paint, score: Judge, *, prompts: Sequence[str],
    seeds: Sequence[int] = (0, 1), folder: Path, out: Path | None = None, trigger: str = "",
    captions: Sequence[str] = (), check: Callable[[Mapping[str, Any]], object] | None = None,
    about: Mapping[str, Any] | None = None, reporter: Reporter | None = None,
) -> Outcome:  # fmt: skip
    """Trains, paints and scores every variant, and copies the best one's model to `out`.

    `about`: what all share (the photos' hash, the base): what is finished in `folder` counts only for the same.
    `captions`: of the training photos; a prompt among them was not held out, and is refused. `check` raises for changes
    that mean nothing, before the first training (`options.with_(**changes)`). A variant that fails is reported and
    does not stop the others. Raises `ParameterError`, `EngineError` when all failed, `StorageError`, `Canceled`.
    """
    reporter = reporter or Silent()
    _check(variants, prompts, seeds, trigger, captions, reporter)
    for changes in variants.values():
        _ = check(changes) if check else None
    with storage_errors("the comparison", folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            found = []
            for i, (name, changes) in enumerate(variants.items()):
                part = Part(reporter, i / len(variants), (i + 1) / len(variants), name)
                bench = _Bench(folder, name, dict(changes), dict(about or {}), part)
                found.append(bench.go(train, paint, score, list(prompts), list(seeds)))
                if found[-1].error:
                    reporter.note(f"{name} failed: {found[-1].error}")
    except Timeout:
        raise StorageError(f"Another comparison is at work in {folder}.", "Wait for it, or name another.") from None
    outcome = _decide(found, list(prompts), list(seeds))
    write_text(folder / REPORT, json.dumps(outcome.report(), indent=1, ensure_ascii=False, default=str))
    write_text(folder / TABLE, outcome.text())
    if out is not None:
        publish(Path(outcome.promoted.model), out)
    reporter.note(outcome.why)
    reporter.progress(1.0, "done")
    return outcome


def _check(
    variants: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int], trigger: str, captions: Sequence[str],
    reporter: Reporter,
) -> None:  # fmt: skip
    if not 2 <= len(variants) <= MOST:
        raise ParameterError(f"{len(variants)} ways to train cannot be compared.", f"Name 2 to {MOST}.")
    told = {name: canonical(dict(changes)) for name, changes in variants.items()}
    for name in variants:
        same = [other for other in told if other != name and told[other] == told[name]]
        if same:
            raise ParameterError(f"{name} and {same[0]} are trained alike.", "Change something in one of them.")
        if not name or not all(c.isalnum() or c in "-_. " for c in name) or name.startswith("."):
            raise ParameterError(f"{name!r} cannot name a variant.", "Use letters, digits, hyphens and points.")
    if not prompts or not seeds or len(set(prompts)) < len(prompts) or len(set(seeds)) < len(seeds):
        raise ParameterError("Prompts and seeds to score by are empty or repeat themselves.", "Give each once.")
    seen = {" ".join(caption.lower().split()) for caption in captions}
    if known := [prompt for prompt in prompts if " ".join(prompt.lower().split()) in seen]:
        raise ParameterError(f"{known[0]!r} is a caption of the photos.", "Score by prompts that were not trained on.")
    if missing := [prompt for prompt in prompts if trigger and not names(prompt, trigger)]:
        raise ParameterError(f"{missing[0]!r} does not name {trigger}.", "Without it no training shows.")
    if len(prompts) * len(seeds) < PAIRS:
        reporter.note(
            f"{len(prompts) * len(seeds)} pictures of each are few: leads will mostly be chance; 16 say more."
        )  # fmt: skip


class _Bench:
    """One variant in its folder: model, pictures, and what is finished."""

    def __init__(
        self, folder: Path, name: str, changes: dict[str, Any], about: dict[str, Any], reporter: Reporter
    ) -> None:
        self.name, self.changes, self.reporter = name, changes, reporter
        told = canonical([FORMAT, name, changes, about])
        key = hashlib.sha256(told.encode()).hexdigest()[:10]
        self.folder = folder / f"{name.replace(' ', '-')}-{key}"
        self.model = self.folder / "model.tar"
        self.state: dict[str, Any] = {}
        if (self.folder / STATE).exists():
            try:
                self.state = json.loads((self.folder / STATE).read_text("utf-8"))
            except ValueError:
                reporter.note(f"{self.folder / STATE} cannot be read; {name} begins anew.")

    def go(self, train: Train, paint: Paint, score: Judge, prompts: list[str], seeds: list[int]) -> Variant:
        try:
            if not (self.model.is_file() and "seconds" in self.state):
                self._train(train)
            totals: list[float] = []
            values: dict[str, list[float]] = {}
            varieties = []
            for i, prompt in enumerate(prompts):
                self.reporter.progress(0.8 + 0.2 * i / len(prompts), f"painting {prompt[:40]}")
                shots = self._shots(paint, score, prompt, seeds)
                totals += shots["totals"]
                varieties.append(shots["variety"])
                for one in shots["values"]:
                    for name, value in one.items():
                        values.setdefault(name, []).append(value)
        except (Canceled, StorageError):
            raise
        except VividCoverError as error:
            return Variant(self.name, self.changes, error=f"{error.message} {error.hint}".strip())
        means = {name: statistics.fmean(numbers) for name, numbers in values.items()}
        variety, seconds = statistics.fmean(varieties), float(self.state["seconds"])
        return Variant(self.name, self.changes, str(self.model), tuple(totals), means, variety, seconds)

    def _train(self, train: Train) -> None:
        began = time.monotonic()
        with storage_errors("the variant", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        told = train(self.changes, self.model, Part(self.reporter, 0.0, 0.8))
        if not self.model.is_file():
            raise EngineError("The training left no model.", "See what it said before.")
        self.state = {"changes": self.changes, "seconds": time.monotonic() - began, "told": told, "shots": {}}
        self._write()

    def _shots(self, paint: Paint, score: Judge, prompt: str, seeds: list[int]) -> dict[str, Any]:
        key = canonical([prompt, seeds])
        if key not in self.state["shots"]:
            painted = list(paint(self.model, prompt, seeds, self.reporter))
            if [picture.seed for picture in painted] != seeds:
                raise EngineError(
                    f"{len(painted)} pictures came of {prompt!r}, not one of each of {len(seeds)} seeds.",
                    "Pictures may have been held back; choose other prompts.",
                )
            pictures = [read_rgb(picture.file) for picture in painted]
            for picture in painted:
                named = f"{hashlib.sha256(prompt.encode()).hexdigest()[:6]}-{picture.seed}{picture.file.suffix}"
                publish(picture.file, self.folder / "pictures" / named)
            judged = score(pictures, [prompt] * len(pictures))
            self.state["shots"][key] = {
                "totals": [j.total for j in judged], "values": [dict(j.values) for j in judged],
                "variety": diversity(pictures),
            }  # fmt: skip
            self._write()
        found: dict[str, Any] = self.state["shots"][key]
        return found

    def _write(self) -> None:
        write_text(self.folder / STATE, json.dumps(self.state, indent=1, ensure_ascii=False, default=str))


# deciding --------------------------------------------------------------------------------------------------------


def lead(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error) of `a` - `b`, pair by pair. Of a single pair the error is not known: infinite."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.inf
    return mean, statistics.stdev(differences) / math.sqrt(len(differences))


def _certain(pairs: int) -> float:
    """Standard errors that a lead must be worth: Student's t, two-sided, for the best may be any of them.

    Of ways to train that are equally good, one is then called better in 5 of 100 comparisons of two, in fewer of more.
    """
    from scipy.stats import t as student

    return float(student.ppf(1 - CHANCE / 2, pairs - 1)) if pairs > 1 else math.inf


def _decide(found: list[Variant], prompts: list[str], seeds: list[int]) -> Outcome:
    scored = [v for v in found if not v.error]
    if not scored:
        raise EngineError(
            f"All {len(found)} ways to train failed: {found[0].name}: {found[0].error}", "Mend that first."
        )
    ranking = sorted(scored, key=lambda v: -v.mean) + [v for v in found if v.error]
    best = ranking[0]
    if len(scored) == 1:
        return Outcome(ranking, best, f"{best.name} is promoted: the others failed.", False, prompts, seeds)

    needed = _certain(len(best.totals))

    def no_worse(v: Variant) -> bool:
        ahead, error = lead(best.totals, v.totals)
        return ahead <= needed * error

    level = [v for v in scored if v is best or no_worse(v)]  # in the order that was given
    if len(level) == 1:
        second = ranking[1]
        ahead, error = lead(best.totals, second.totals)
        why = f"{best.name} is promoted: {ahead:.3f} ± {error:.3f} ahead of {second.name}, more than chance."
        return Outcome(ranking, best, why, True, prompts, seeds)
    chosen = level[0]
    told, count = ", ".join(v.name for v in level), len(best.totals)
    why = f"{chosen.name} is promoted: {told} cannot be told apart by {count} pictures, and it was named first."
    return Outcome(ranking, chosen, why, False, prompts, seeds)
