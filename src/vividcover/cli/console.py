"""How a command is carried out: progress on stderr, result on stdout, errors as messages, Ctrl-C within a second."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from vividcover.errors import Canceled, NotFoundError, ParameterError, VividCoverError

if TYPE_CHECKING:
    from vividcover.catalog.contract import Inputs

GRACE = 0.6  # seconds that running work gets to stop by itself after Ctrl-C; finished stages are safe either way
SHOW_CURSOR = "\x1b[?25h"  # ECMA-48 private mode 25: the bars had hidden it
PIPE_WIDTH = 1000  # columns of a table that goes to a file or another program: a row is a line
BUG = 70  # exit status (sysexits.h: EX_SOFTWARE)

Engine = Annotated[
    Literal["auto", "classic", "neural", "hosted"], typer.Option("--engine", help="Which engine serves the model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout when done.")]
JsonRows = Annotated[bool, typer.Option("--json", help="Print the rows as one JSON array.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Cookies = Annotated[
    Path | None, typer.Option("--cookies", help="A cookies file (Netscape format), for links that ask for a login.")
]
Consent = Annotated[
    str,
    typer.Option("--consent", help='Whose face or voice it is and that they agree, in words: "This is my own voice".'),
]


@dataclass(frozen=True)
class Common:
    """What every working command takes."""

    engine: str = "auto"
    json: bool = False
    quiet: bool = False
    cookies: Path | None = None


def perform(
    work: Callable[[Any], Any], common: Common, show: Callable[[Any], None] | None = None,
    say: Callable[[Any], None] | None = None,
) -> None:  # fmt: skip
    """Runs `work(session)` in a thread, so that this one can answer Ctrl-C at once; then prints what was made.

    `show` says more to a person, `say` says all of it in place of `tell`.

    Exits with the error's own status. A second Ctrl-C, or one that is not heeded within `GRACE`, ends the process:
    stages are committed atomically, so the same command continues where it was.
    """
    from vividcover.cli.progress import listener
    from vividcover.sdk import Session
    from vividcover.settings import settings
    from vividcover.workspace import storage_errors

    if common.cookies and not common.cookies.is_file():
        fail(
            NotFoundError(f"There is no cookies file {str(common.cookies)!r}.", "Export one from your browser."),
            common.json,
        )
    outcome: dict[str, Any] = {}
    opened: list[Session] = []

    def job() -> None:
        try:
            with (
                listener(common.quiet or False, plain=common.json) as on_event,
                storage_errors("the output", Path.cwd()),
                Session(settings(), cast(Any, common.engine), on_event, common.cookies) as session,
            ):
                opened.append(session)
                outcome["made"] = work(session)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=job, name="work", daemon=True)
    interrupted: list[float] = []

    def interrupt(*_: object) -> None:
        if interrupted:
            _leave(common.json)
        interrupted.append(time.monotonic())
        for session in opened:
            session.cancel()

    before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGTERM, interrupt)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if interrupted and time.monotonic() - interrupted[0] > GRACE:
            _leave(common.json)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    if interrupted and "error" in outcome:  # whatever it is: a child may have heard it first and be gone without a word
        _leave(common.json, "")
    if "error" in outcome:
        fail(outcome["error"], common.json)
    if say:
        say(outcome["made"])
    else:
        tell(outcome["made"], common, show)


def _leave(as_json: bool, first: str = "\n") -> None:
    """The end of a run that was stopped: at once, with the terminal as it was before.

    A net may still compute in a thread of its own, and an interpreter that is taken down around it aborts.
    """
    stopped = Canceled()
    text = f"{first}Error: {stopped.message}\n       {stopped.hint}\n"
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, ((SHOW_CURSOR if sys.stderr.isatty() else "") + text).encode())
        if as_json:
            story = {"code": stopped.code, "message": stopped.message, "hint": stopped.hint}
            os.write(1, (json.dumps({"error": story}) + "\n").encode())
    os._exit(stopped.exit_code)


def tell(made: Any, common: Common, show: Callable[[Any], None] | None = None) -> None:
    """Prints where the files are and what the user should know; with --json, everything as one object."""
    if common.json:
        _print(json.dumps({"files": [str(f) for f in made.files], "text": made.text, **made.record}, default=str))
        return
    for said in made.result.not_honoured:
        _say(f"not honoured: {said.parameter}={said.value} ({said.why})")
    if not common.quiet:
        _say(f"engine: {made.result.engine} ({made.result.why})")
    if show:
        show(made)
    for file in made.files:
        _print(str(file))
    if made.text:
        _print(made.text)


def fail(error: BaseException, as_json: bool) -> None:
    """Says what went wrong and exits with the error's status; an unforeseen error is kept in a file for a report."""
    if isinstance(error, VividCoverError):
        story, status = {"code": error.code, "message": error.message, "hint": error.hint}, error.exit_code
    else:
        story, status = _unforeseen(error), BUG
    if as_json:
        _print(json.dumps({"error": story}))
    _say(f"Error: {story['message']}" + (f"\n       {story['hint']}" if story["hint"] else ""))
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(status)


def misused(error: Exception) -> Exception:
    """A command line that cannot be understood, as an error of ours; any other error as it is."""
    said = getattr(error, "format_message", None)
    return ParameterError(said(), "See --help.") if said else error


def _unforeseen(error: BaseException) -> dict[str, str]:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="vividcover-", suffix=".log", delete=False, encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    return {
        "code": "bug",
        "message": f"Something unforeseen happened: {type(error).__name__}: {error}",
        "hint": f"This is a defect of vividcover. The details are in {log.name}; finished stages are kept.",
    }


def parsed(pairs: list[str], schema: type[Inputs] | None = None) -> dict[str, Any]:
    """`-i key=value` pairs: a value that is JSON (numbers, true, null, "…") is read so, anything else is text.

    Where `schema` wants text, `7` is the text "7".
    """
    properties = schema.model_json_schema()["properties"] if schema else {}
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ParameterError(f"-i {pair!r} is not key=value.", "For example -i seed=42.")
        values[key] = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            field = properties.get(key, {})
            textual = any(kind.get("type") == "string" for kind in (field, *field.get("anyOf", [])))
            if not textual or value is None or isinstance(value, str):
                values[key] = value
    return values


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stderr.write(text + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def table(rows: list[dict[str, Any]], columns: list[str], as_json: bool, empty: str) -> None:
    """Rows as a table for people, or as JSON for scripts."""
    if as_json:
        _print(json.dumps(rows, default=str))
        return
    if not rows:
        _say(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    headers = [column.replace("_", " ") for column in columns]
    drawn = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text("" if row.get(column) is None else str(row[column])) for column in columns))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(drawn)
