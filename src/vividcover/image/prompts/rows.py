"""The rows of a batch: prompts from a CSV file, a text file or a list, with seed, count and more for each.

    prompt,seed,count,aspect_ratio
    "TOK on a roof, neon light",7,4,16:9
    "TOK as a sailor, {TOK}'s hand on the wheel",,2,

A column `template` names a prompt of the library instead. Further columns are the engine's own inputs. All that is
wrong is said at once, by line.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vividcover.errors import NotFoundError, ParameterError
from vividcover.image.prompt import MAX_PROMPT
from vividcover.image.prompts.layers import fill, names
from vividcover.image.prompts.library import Library

COLUMNS = ("prompt", "template", "seed", "count", "aspect_ratio")
RATIOS = ("1:1", "21:9", "16:9", "3:2", "4:3", "5:4", "4:5", "3:4", "2:3", "9:16", "9:21", "custom")
MOST_ROWS, MOST_COUNT, MOST_SEED = 10_000, 100, 2**63 - 1
SHOWN = 5  # faults that one error names


@dataclass(frozen=True)
class Row:
    """What one line asks for. `seed` None: chosen by the batch; `options`: further columns, as text."""

    number: int  # line of the file, or place in the list, from 1
    prompt: str
    seed: int | None = None
    count: int = 1
    aspect_ratio: str = "1:1"
    options: Mapping[str, str] = field(default_factory=dict)


def read_rows(
    source: Path | Sequence[str | Mapping[str, Any]], *, options: Collection[str] = (), trigger: str = "",
    who: str = "", library: Library | None = None,
) -> list[Row]:  # fmt: skip
    """The rows of a `.csv` (or `.tsv`), of any other text file (a prompt a line), or of a list.

    `options`: names of further columns that the engine takes; `trigger` and `who` fill `{TOK}`, also of templates.
    Raises `ParameterError` that names every faulty line, `NotFoundError` for a file that is not there.
    """
    lines = _lines(source) if isinstance(source, Path) else _listed(source)
    if not lines:
        raise ParameterError("There are no prompts.", "Give at least one row.")
    if len(lines) > MOST_ROWS:
        raise ParameterError(f"There are {len(lines)} rows.", f"Give at most {MOST_ROWS} at a time.")
    unknown = dict.fromkeys(key for _, values in lines for key in values if key not in (*COLUMNS, *options))
    if unknown:
        raise ParameterError(f"Columns that nobody reads: {_named(unknown, (*COLUMNS, *options))}.", _columns(options))
    library = library or Library()
    rows, faults = list[Row](), list[str]()
    for number, values in lines:
        try:
            rows.append(_row(number, values, trigger, who, library))
        except (ParameterError, NotFoundError) as error:
            faults.append(f"Line {number}: {error.message}")
    if faults:
        more = f" And {len(faults) - SHOWN} more." if len(faults) > SHOWN else ""
        raise ParameterError(" ".join(faults[:SHOWN]) + more, "Mend these lines; nothing was painted yet.")
    return rows


def without_trigger(rows: Sequence[Row], trigger: str) -> list[int]:
    """Numbers of the rows that do not name the trigger word: these show nobody in particular."""
    return [row.number for row in rows if trigger and not names(row.prompt, trigger)]


def write_rows(rows: Sequence[Row]) -> str:
    """A CSV file of them, which `read_rows` reads back."""
    further = list(dict.fromkeys(key for row in rows for key in row.options))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["prompt", "seed", "count", "aspect_ratio", *further])
    for row in rows:
        own = [row.options.get(key, "") for key in further]
        table.writerow([row.prompt, "" if row.seed is None else row.seed, row.count, row.aspect_ratio, *own])
    return text.getvalue()


# files -----------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    text = _text(path)
    if path.suffix.lower() not in (".csv", ".tsv"):
        said = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
        return [(i, {"prompt": line}) for i, line in said if line and not line.startswith("#")]
    header = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = _header(cells, path)
                continue
            if len(cells) > len(columns) and any(cells[len(columns) :]):
                raise ParameterError(
                    f"{path.name}: line {reader.line_num} has {len(cells)} cells for {len(columns)} columns.",
                    'Put prompts with a comma between double quotes: "TOK on a roof, at night".',
                )
            lines.append((reader.line_num, {k: v for k, v in zip(columns, cells) if v}))
    except csv.Error as error:
        raise ParameterError(
            f"{path.name}: line {reader.line_num} is not CSV: {error}.", "Double the quotes inside quoted cells."
        ) from error
    return lines


def _header(cells: list[str], path: Path) -> list[str]:
    columns = [cell.lower().replace(" ", "_").replace("-", "_") for cell in cells]
    if not {"prompt", "template"} & set(columns):
        raise ParameterError(
            f"{path.name}: the first line names no column `prompt`: {', '.join(cells)[:120]!r}.",
            f"Begin with a line like {','.join(c for c in COLUMNS if c != 'template')}.",
        )
    twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
    if twice:
        raise ParameterError(f"{path.name}: the column {twice[0]!r} is there twice.", "Remove one.")
    return columns


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path.") from None
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}.", "Give a text file.") from error
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # what some spreadsheets call "Unicode text"
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path.name} is not text in UTF-8: {error}.", "Save it as CSV UTF-8.") from error


def _listed(source: Sequence[str | Mapping[str, Any]]) -> list[tuple[int, dict[str, str]]]:
    said = [{"prompt": given} if isinstance(given, str) else given for given in source]
    return [(i, {k: str(v) for k, v in row.items() if v not in ("", None)}) for i, row in enumerate(said, 1)]


# one row ---------------------------------------------------------------------------------------------------------


def _row(number: int, values: Mapping[str, str], trigger: str, who: str, library: Library) -> Row:
    if bool(values.get("prompt")) == bool(values.get("template")):
        raise ParameterError("give a prompt or the name of a template, one of them.")
    template = values.get("template")
    text = library.get(template).template if template else values["prompt"]
    if "{TOK}" in text and not trigger:
        raise ParameterError("{TOK} stands for a trigger word, and none is given.")
    prompt = " ".join((fill(text, trigger, who) if trigger else text).split())
    if len(prompt) > MAX_PROMPT:
        raise ParameterError(f"the prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read.")
    ratio = values.get("aspect_ratio", "1:1").replace("x", ":").replace("/", ":")
    if ratio not in RATIOS:
        raise ParameterError(f"aspect_ratio {ratio!r} is none of {', '.join(RATIOS)}.")
    seed = _number("seed", values.get("seed"), 0, MOST_SEED)
    count = _number("count", values.get("count"), 1, MOST_COUNT)
    further = {key: value for key, value in values.items() if key not in COLUMNS}
    return Row(number, prompt, seed, 1 if count is None else count, ratio, further)


def _number(name: str, text: str | None, low: int, high: int) -> int | None:
    if text is None:
        return None
    try:
        value = int(text.removesuffix(".0"))  # spreadsheets make decimals of whole numbers
    except ValueError:
        raise ParameterError(f"{name} {text!r} is not a whole number.") from None
    if not low <= value <= high:
        raise ParameterError(f"{name} {value} is not between {low} and {high}.")
    return value


def _named(unknown: Collection[str], known: Collection[str]) -> str:
    said = []
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1, 0.6)
        said.append(f"{name!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    return ", ".join(said)


def _columns(options: Collection[str]) -> str:
    further = f"; of the engine: {', '.join(sorted(options))}" if options else ""
    return f"There are {', '.join(COLUMNS)}{further}."
