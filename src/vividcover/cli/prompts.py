"""`vividcover prompts …`: the library, ten varied prompts about one concept, and tables of prompts for a batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vividcover.cli.complete import image_names
from vividcover.cli.console import Common, Json, JsonRows, fail, perform, table
from vividcover.errors import NotFoundError, ParameterError, VividCoverError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vividcover.image.prompts.layers import Kind
    from vividcover.image.prompts.library import Entry, Library
    from vividcover.image.prompts.variations import Variation

app = typer.Typer(no_args_is_help=True, help="Prompts: a library, your own beside it, ten varied ones, tables.")

LISTED = 60  # characters of a prompt in a table
TOKENS = 200  # of a prompt that a language model writes, at most

Trigger = Annotated[str, typer.Option("--trigger-word", help="The word for the subject or the style.")]
Image = Annotated[
    str,
    typer.Option("--image", help="A trained image model: its trigger word and type.", autocompletion=image_names),
]
Who = Annotated[str, typer.Option("--who", help='Whom the word stands for: "a woman in her 40s".')]
Type = Annotated[
    Literal["subject", "style", "product"] | None,
    typer.Option("--type", help="A person or thing, a style, or a product.", show_default="subject"),
]
Category = Annotated[str, typer.Option("--category", help="professional, casual, portrait, stage, fantasy, …")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be given again.")]
Name = Annotated[str, typer.Argument(help="A prompt's name.")]
Seed = Annotated[int, typer.Option("--seed", help="Another seed, other words.")]


@app.command("list")
def list_(
    words: Annotated[list[str] | None, typer.Argument(help="Only prompts with all of these words.")] = None,
    category: Category = "",
    tag: Annotated[str, typer.Option("--tag", help="Only prompts with this tag.")] = "",
    worked: Annotated[bool, typer.Option("--worked", help="Only those that you gave four stars or more.")] = False,
    json: JsonRows = False,
) -> None:
    """The prompts there are, best rated first."""
    try:
        found = _library().find(" ".join(words or ()), category=category, tag=tag, worked=worked)
    except VividCoverError as error:
        fail(error, json)
    if json:
        table([_row(entry) for entry in found], [], True, "")
        return
    rows = [
        _row(entry) | {"prompt": entry.template[:LISTED] + ("…" if len(entry.template) > LISTED else "")}
        for entry in found
    ]
    table(rows, ["name", "category", "stars", "prompt"], False, "No prompt has these words.")


@app.command()
def show(name: Name, trigger_word: Trigger = "", image: Image = "", who: Who = "", json: JsonRows = False) -> None:
    """A prompt in full, layer by layer, with your trigger word in it."""
    try:
        entry = _library().get(name)
        trigger, _ = _subject(trigger_word, image, None)
    except VividCoverError as error:
        fail(error, json)
    row = _row(entry) | {"prompt": entry.text(trigger, who)}
    layers = {part: getattr(entry.layers, part).replace("{TOK}", trigger) for part in row["layers"]}
    if json:
        table([row | {"layers": layers, "ratings": [dict(r) for r in entry.ratings]}], [], True, "")
        return
    shown = {"name": name, "category": entry.category, "tags": ", ".join(entry.tags), "stars": row["stars"], **layers}
    for key, value in shown.items():
        if value not in ("", None):
            typer.echo(f"{key:9} {value}", err=True)
    typer.echo(row["prompt"])


@app.command()
def write(
    concept: Annotated[str, typer.Argument(help='What it is about: "a woman in her 40s with short grey hair".')],
    trigger_word: Trigger = "", image: Image = "", type: Type = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many prompts.")] = 10,
    category: Annotated[list[str] | None, typer.Option("--category", help="Only such scenes; may be repeated.")] = None,
    clear_face: Annotated[bool, typer.Option("--clear-face", help="Only such that show the face well.")] = False,
    wish: Annotated[list[str] | None, typer.Option("--wish", help="What holds for all; may be repeated.")] = None,
    seed: Seed = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Without the language model that is set up.")] = False,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Only print what a language model would be asked, to paste it.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv for a batch, or a text file.", show_default=False)
    ] = None,
    json: JsonRows = False,
) -> None:  # fmt: skip
    """Ten varied prompts about one concept.

    A language model writes them where one is set up (VIVIDCOVER_LLM_URL), else they are drawn up from the library.
    """
    from vividcover.image.prompts import variations as wording

    wishes = wish or []
    try:
        trigger, kind = _subject(trigger_word, image, type)
        if instructions:
            typer.echo(wording.instructions(concept, trigger, count, clear_face=clear_face, constraints=wishes))
            return
        model = None if offline else _model()
        if model is None:
            made = wording.variations(
                concept, trigger, count, kind=kind, seed=seed, categories=category or (), clear_face=clear_face,
                constraints=wishes,
            )  # fmt: skip
            _tell(made, output, json)
            return
        if category:
            raise ParameterError("--category is for prompts of the library.", "Add --offline, or put it as a --wish.")
    except VividCoverError as error:
        fail(error, json)

    writer: Any = model

    def work(session: Any) -> list[Variation]:
        from vividcover.image.flux.upsample import talk
        from vividcover.patience import Patient

        def ask(order: str) -> str:
            with Patient(session.workspace) as patient:
                return patient.call(partial(talk, writer, "", order, seed=seed, longest=TOKENS * count))

        return wording.asked(ask, concept, trigger, count, kind=kind, clear_face=clear_face, constraints=wishes)

    perform(work, Common(json=json, quiet=True), say=lambda made: _tell(made, output, json))


@app.command()
def expand(
    prompt: Annotated[str, typer.Argument(help="A short prompt.")],
    trigger_word: Trigger = "", image: Image = "", type: Type = None, seed: Seed = 0, json: JsonRows = False,
) -> None:  # fmt: skip
    """A short prompt written out: what it leaves open is filled in."""
    from vividcover.image.prompts.expand import expansion

    try:
        trigger, kind = _subject(trigger_word, image, type) if trigger_word or image else ("", type or "subject")
        made = expansion(prompt, trigger=trigger, seed=seed, kind=kind)
    except VividCoverError as error:
        fail(error, json)
    if json:
        table([{"prompt": made.text, "added": made.added}], [], True, "")
    else:
        typer.echo(made.text)


@app.command()
def add(
    prompt: Annotated[str, typer.Argument(help="The prompt, with {TOK} where the trigger word goes.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="Many at once: text with one a line, or .toml.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Default: of its first words.", show_default=False)] = "",
    category: Annotated[str, typer.Option("--category", help="One of ours, or a new one.")] = "own",
    tag: Tags = None, trigger_word: Trigger = "",
    replace: Annotated[bool, typer.Option("--replace", help="Also where the name is taken.")] = False,
    json: JsonRows = False,
) -> None:  # fmt: skip
    """Keep a prompt of your own."""
    try:
        if bool(prompt) == bool(file):
            raise ParameterError("Give a prompt or --file, one of them.", 'For example "{TOK} under a paper umbrella".')
        library = _library()
        if file:
            added = library.add_file(file, category=category, trigger=trigger_word)
            added = [library.tag(entry.name, tag) for entry in added] if tag else added
        else:
            added = [
                library.add(
                    prompt, name=name, category=category, tags=tag or (), trigger=trigger_word, replace=replace
                )
            ]  # fmt: skip
    except VividCoverError as error:
        fail(error, json)
    _said(added, json)


@app.command()
def tag(name: Name, tags: Annotated[list[str], typer.Argument(help="Tags to add.")], json: JsonRows = False) -> None:
    """Put tags on a prompt, yours or ours."""
    try:
        tagged = _library().tag(name, tags)
    except VividCoverError as error:
        fail(error, json)
    _said([tagged], json)


@app.command()
def rate(
    name: Annotated[str, typer.Argument(help="A prompt's name, or a prompt in full: a new one is kept.")],
    stars: Annotated[int, typer.Argument(help="1 (useless) to 5 (just what you wanted).")],
    image: Annotated[str, typer.Option("--image", help="With which image model.", autocompletion=image_names)] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="With which seed.", show_default=False)] = None,
    note: Annotated[str, typer.Option("--note", help="What to remember.")] = "", trigger_word: Trigger = "",
    json: JsonRows = False,
) -> None:  # fmt: skip
    """Remember how well a prompt worked."""
    try:
        library, where = _library(), {"image": image, "seed": seed, "note": note}
        if " " in name.strip():
            trigger = trigger_word or (_subject("", image, None)[0] if image else "")
            rated = library.remember(name, trigger, stars, **where)
        else:
            rated = library.rate(name, stars, image=image, seed=seed, note=note)
    except VividCoverError as error:
        fail(error, json)
    _said([rated], json)


@app.command()
def remove(name: Name, json: Json = False) -> None:
    """Forget a prompt of your own, with its ratings."""
    try:
        _library().remove(name)
    except VividCoverError as error:
        fail(error, json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A .csv with a column `prompt`, or text with one prompt a line.")],
    trigger_word: Trigger = "", image: Image = "", who: Who = "", json: JsonRows = False,
) -> None:  # fmt: skip
    """Read a table of prompts as a batch would, and say what is wrong with it."""
    from vividcover.image.prompts.rows import read_rows, without_trigger
    from vividcover.image_calls import ROW_OPTIONS

    try:
        trigger = _subject(trigger_word, image, None)[0] if trigger_word or image else ""
        rows = read_rows(file, options=ROW_OPTIONS, trigger=trigger, who=who, library=_library())
    except VividCoverError as error:
        fail(error, json)
    columns = ("seed", "count", "aspect_ratio", "prompt")
    shown = [{"line": row.number} | {name: getattr(row, name) for name in columns} | dict(row.options) for row in rows]
    table(shown, ["line", *columns], json, "")
    if lacking := without_trigger(rows, trigger):
        said = ", ".join(map(str, lacking[:10])) + (", …" if len(lacking) > 10 else "")
        typer.echo(f"{trigger} is not named on line {said}: these show nobody in particular.", err=True)
    typer.echo(f"{len(rows)} rows, {sum(row.count for row in rows)} pictures.", err=True)


# parts -----------------------------------------------------------------------------------------------------------


def _library() -> Library:
    from vividcover.image.prompts.library import Library
    from vividcover.settings import settings

    return Library(settings().home / "prompts.json")


def _subject(trigger: str, image: str, kind: Kind | None) -> tuple[str, Kind]:
    """Trigger word and type as given, else as the image model on the shelf has them, else TOK and subject."""
    if not image:
        return trigger or "TOK", kind or "subject"
    from vividcover.catalog import shelf
    from vividcover.settings import settings

    cards = {trained.name: trained.card for trained in shelf.listed("image", settings())}
    if image not in cards:
        raise NotFoundError(f"There is no image model {image!r}.", "`vividcover image list` shows those there are.")
    own: Kind = "style" if cards[image].get("type") == "style" else "subject"
    return trigger or str(cards[image].get("trigger_word") or "TOK"), kind or own


def _model() -> Any:
    """The language model that is set up, or None."""
    from vividcover.settings import settings

    if not settings().llm_url:
        return None
    from vividcover.image.flux.upsample import Writer

    return Writer(settings().llm_url, settings().llm_key, settings().llm_model)


def _row(entry: Entry) -> dict[str, Any]:
    from vividcover.image.prompts.layers import LAYERS

    return {
        "name": entry.name, "category": entry.category, "tags": list(entry.tags), "own": entry.own,
        "stars": None if entry.stars is None else round(entry.stars, 2), "prompt": entry.template,
        "layers": {part: getattr(entry.layers, part) for part in LAYERS},
    }  # fmt: skip


def _tell(made: Sequence[Variation], output: Path | None, json: bool) -> None:
    """The prompts, one a line, also as a file that a batch reads."""
    from vividcover.files import write_text
    from vividcover.image.prompts.rows import Row, write_rows

    if output:
        rows = [Row(i, one.text) for i, one in enumerate(made, 1)]
        plain = "".join(f"{one.text}\n" for one in made)
        try:
            write_text(output, write_rows(rows) if output.suffix.lower() == ".csv" else plain)
        except VividCoverError as error:
            fail(error, json)
    if json:
        table([{"prompt": one.text, "category": one.category} for one in made], [], True, "")
    else:
        typer.echo("\n".join(one.text for one in made))


def _said(entries: Sequence[Entry], json: bool) -> None:
    if json:
        table([_row(entry) for entry in entries], [], True, "")
        return
    for entry in entries:
        stars = [] if entry.stars is None else [f"{entry.stars:.1f} stars"]
        typer.echo("  ".join([entry.name, *stars, ", ".join(entry.tags)]).rstrip())
