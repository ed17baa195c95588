"""Many prompts at once: painted by whatever engine is handed in, scored, the best ones chosen.

    rows = read_rows(Path("prompts.csv"), trigger="VIVI")
    done = batch(rows, paint, panel.judge, top=12, folder=Path("out"), about={"image": sha256})

What is in the folder afterwards, and after a crash what was finished until then:

    pictures/*.webp   as the engine wrote them; the name ends in the seed
    results.csv       every picture with its scores and rank, every row that failed with the reason
    contact.jpg       all of them small, best first, the chosen ones framed
    top/01-….webp     the best
    batch.json        what is finished; the same call goes on from there and paints only what is new

A row whose input is at fault (`InputError`: all pictures held back, an option out of range) is noted and the others are
painted; any other error ends the batch, which can be called again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from vividcover.errors import ImageError, InputError, ParameterError, StorageError
from vividcover.files import canonical, publish, storage_errors, write_text
from vividcover.image.prompts.rows import Row
from vividcover.image.score.measures import diversity
from vividcover.image.score.panel import Judged, Rgb
from vividcover.image.score.sheet import Cell, write_sheet
from vividcover.progress import Part
from vividcover.workspace import Reporter, Silent

FORMAT = 1
STATE, RESULTS, SHEET, PICTURES, TOP = "batch.json", "results.csv", "contact.jpg", "pictures", "top"


@dataclass(frozen=True)
class Painted:
    """A picture that the engine wrote; it is copied from there."""

    seed: int
    file: Path


@dataclass(frozen=True)
class Shot:
    """A finished picture of a batch. `values` and `total` are empty and 0 where nothing scored it."""

    row: int
    prompt: str
    seed: int
    file: Path
    values: Mapping[str, float] = field(default_factory=dict)
    total: float = 0.0


@dataclass(frozen=True)
class Batch:
    """`shots`: best first. `failed`: row number and why. `variety`: how much the pictures of a row differ, 0..1."""

    shots: list[Shot]
    top: list[Path]
    failed: list[tuple[int, str]]
    variety: dict[int, float]
    folder: Path

    def report(self) -> dict[str, Any]:
        return {
            "pictures": len(self.shots), "failed": [{"line": n, "why": why} for n, why in self.failed],
            "variety": {str(n): round(v, 3) for n, v in self.variety.items()},
            "top": [str(path) for path in self.top],
            "best": [asdict(s) | {"file": str(s.file)} for s in self.shots[: len(self.top)]],
        }  # fmt: skip


Paint = Callable[[Row, Reporter], Sequence[Painted]]
Judge = Callable[[Sequence[Rgb], Sequence[str]], Sequence[Judged]]


def batch(
    rows: Sequence[Row], paint: Paint, score: Judge | None = None, *, top: int = 0, per_row: int = 0, folder: Path,
    seed: int = 0, about: Mapping[str, Any] | None = None, scored_by: Any = None, engine: str = "neural",
    reporter: Reporter | None = None,
) -> Batch:  # fmt: skip
    """Paints and scores every row; copies the `top` best, of each row `per_row` at most (0: any number).

    `seed` decides the seeds of rows that have none. `about`: what else decides what comes out (the model, its
    settings): finished rows count only for the same; `scored_by`: likewise for scores (`panel.legend()`).
    Raises `ImageError` when no row could be painted, `StorageError`, `Canceled`, and what `paint` and `score` raise.
    """
    reporter = reporter or Silent()
    if top and score is None:
        raise ParameterError("The best pictures cannot be chosen: nothing scores them.", "Name a score.")
    with storage_errors("the batch", folder):
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _Run(folder, dict(about or {}), engine, reporter).go(
                _seeded(rows, seed), paint, score, scored_by, top, per_row
            )
    except Timeout:
        raise StorageError(f"Another batch is at work in {folder}.", "Wait for it, or name another folder.") from None


def _seeded(rows: Sequence[Row], first: int) -> list[Row]:
    """Rows without a seed get one that follows from their prompt, so that it stays when lines come and go."""
    found: list[Row] = []
    times: dict[str, int] = {}
    for row in rows:
        times[row.prompt] = times.get(row.prompt, 0) + 1
        if row.seed is None:
            told = canonical([first, row.prompt, times[row.prompt]])
            row = replace(row, seed=int(hashlib.sha256(told.encode()).hexdigest()[:8], 16) % 2**31)
        found.append(row)
    return found


class _Run:
    """One batch in its folder."""

    def __init__(self, folder: Path, about: dict[str, Any], engine: str, reporter: Reporter) -> None:
        self.folder, self.about, self.engine, self.reporter = folder, about, engine, reporter
        self.state = self._read()

    def go(
        self, rows: list[Row], paint: Paint, score: Judge | None, scored_by: Any, top: int, per_row: int
    ) -> Batch:  # fmt: skip
        shots, failed, variety = list[Shot](), list[tuple[int, str]](), dict[int, float]()
        for i, row in enumerate(rows):
            part = Part(self.reporter, i / len(rows), (i + 1) / len(rows), f"row {i + 1} of {len(rows)}")
            part.progress(0.0, row.prompt[:60])
            try:
                made = self._finished(row) or self._paint(row, paint, part)
            except InputError as error:
                failed.append((row.number, f"{error.message} {error.hint}".strip()))
                self.reporter.note(f"line {row.number} was not painted: {error.message}")
                continue
            own, differ = self._scored(row, made, score, scored_by, part)
            shots += own
            variety[row.number] = differ
        shots.sort(key=lambda shot: (-shot.total, shot.row, shot.seed))
        best = _best(shots, top, per_row)
        done = Batch(shots, self._put_top(best), failed, variety, self.folder)
        write_text(self.folder / RESULTS, _table(rows, shots, best, failed))
        if not shots:
            raise ImageError(f"None of the {len(rows)} rows could be painted: {failed[0][1]}", "Mend the rows.")
        cells = [_cell(shot, shot in best, score is not None) for shot in shots]
        write_sheet(cells, self.folder / SHEET, engine=self.engine, description=f"A batch of {len(shots)} pictures.")
        self.reporter.progress(1.0, "done")
        return done

    def _finished(self, row: Row) -> dict[str, Any] | None:
        kept: dict[str, Any] | None = self.state["rows"].get(self._key(row))
        if kept and all((self.folder / PICTURES / shot["file"]).is_file() for shot in kept["shots"]):
            return kept
        return None

    def _paint(self, row: Row, paint: Paint, reporter: Reporter) -> dict[str, Any]:
        painted = paint(row, reporter)
        if not painted:
            raise ImageError("No picture came out.", "Change the prompt or the seed.")
        key, shots = self._key(row), []
        for picture in painted:
            slug = "-".join(re.findall(r"[a-z0-9]+", row.prompt.lower())[:5])[:40]
            name = f"{slug}-{key[:6]}-{picture.seed}{picture.file.suffix.lower()}"
            publish(picture.file, self.folder / PICTURES / name)
            shots.append({"seed": picture.seed, "file": name})
        self.state["rows"][key] = {"prompt": row.prompt, "shots": shots, "scored_by": None}
        self._write()
        return self.state["rows"][key]  # type: ignore[no-any-return]

    def _scored(
        self, row: Row, made: dict[str, Any], score: Judge | None, scored_by: Any, reporter: Reporter
    ) -> tuple[list[Shot], float]:
        files = [self.folder / PICTURES / shot["file"] for shot in made["shots"]]
        by = canonical(scored_by)
        if made["scored_by"] != by or "variety" not in made:
            pictures = [read_rgb(file) for file in files]
            reporter.progress(0.9, "scoring")
            judged = score(pictures, [row.prompt] * len(pictures)) if score else []
            for shot, said in zip(made["shots"], judged):
                shot |= {"values": dict(said.values), "total": said.total}
            made |= {"scored_by": by, "variety": diversity(pictures)}
            self._write()
        return [
            Shot(row.number, row.prompt, s["seed"], file, s.get("values", {}), s.get("total", 0.0))
            for s, file in zip(made["shots"], files)
        ], float(made["variety"])

    def _put_top(self, best: list[Shot]) -> list[Path]:
        place = self.folder / TOP
        with storage_errors("the best pictures", self.folder):
            for old in place.glob("[0-9]*-*"):
                old.unlink()
        return [publish(s.file, place / f"{i:02d}-{s.file.name}") for i, s in enumerate(best, 1)]

    def _key(self, row: Row) -> str:
        asked = {k: v for k, v in asdict(row).items() if k != "number"}
        return hashlib.sha256(canonical([FORMAT, asked, self.about]).encode()).hexdigest()

    def _read(self) -> dict[str, Any]:
        file = self.folder / STATE
        if not file.exists():
            return {"format": FORMAT, "rows": {}}
        try:
            state: dict[str, Any] = json.loads(file.read_text("utf-8"))
            known = state["format"] == FORMAT and isinstance(state["rows"], dict)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise ParameterError(f"{file} is not what a batch keeps.", "Name another folder, or remove that file.")
        return state

    def _write(self) -> None:
        write_text(self.folder / STATE, json.dumps(self.state, indent=1, ensure_ascii=False))


def read_rgb(file: Path) -> Rgb:
    """uint8 [H, W, 3]. Raises `ImageError`."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{file.name} cannot be read as a picture.", "Remove it: it is painted again.") from error


def _best(shots: Sequence[Shot], top: int, per_row: int) -> list[Shot]:
    """The first `top` of the sorted shots, of each row `per_row` at most."""
    chosen: list[Shot] = []
    taken: dict[int, int] = {}
    for shot in shots:
        if len(chosen) < top and (not per_row or taken.get(shot.row, 0) < per_row):
            chosen.append(shot)
            taken[shot.row] = taken.get(shot.row, 0) + 1
    return chosen


def _cell(shot: Shot, chosen: bool, scored: bool) -> Cell:
    score = f"{shot.total:.3f}  " if scored else ""
    return Cell(shot.file, f"{score}line {shot.row}, seed {shot.seed}", chosen)


def _table(rows: Sequence[Row], shots: Sequence[Shot], best: Sequence[Shot], failed: Sequence[tuple[int, str]]) -> str:
    by_number = {row.number: row for row in rows}
    names = list(dict.fromkeys(name for shot in shots for name in shot.values))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["rank", "line", "prompt", "seed", "aspect_ratio", "file", "total", *names, "chosen", "error"]
    )  # fmt: skip
    for rank, shot in enumerate(shots, 1):
        values = [f"{shot.values[name]:.5f}" if name in shot.values else "" for name in names]
        total = f"{shot.total:.5f}" if shot.values else ""
        place = f"{PICTURES}/{shot.file.name}"
        ratio = by_number[shot.row].aspect_ratio
        chosen = "yes" if shot in best else ""
        table.writerow([rank, shot.row, shot.prompt, shot.seed, ratio, place, total, *values, chosen, ""])
    for number, why in failed:
        row = by_number[number]
        table.writerow(["", number, row.prompt, row.seed, row.aspect_ratio, "", "", *[""] * len(names), "", why])
    return text.getvalue()
