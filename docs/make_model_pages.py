"""Writes the pages that are derived from the code: one page a model, the command line, settings, nets, prompt words.

    python docs/make_model_pages.py            # writes them
    python docs/make_model_pages.py --check    # exit status 1 and a list when one is not up to date

Nothing on these pages is written a second time by hand: change the model, run this, commit both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined

from vividcover import weights
from vividcover.catalog.contract import ENGINES, Inputs, Model, takes_file
from vividcover.catalog.pins import PINS
from vividcover.cli import build
from vividcover.cover import models
from vividcover.image import words
from vividcover.settings import Settings

DOCS = Path(__file__).parent
NOTE = "<!-- Made by docs/make_model_pages.py from the code: change the code, then run it. -->\n\n"
BIG = 2**31  # a bound above this is "any number" to a reader
GIB = 1024**3

EXAMPLES: dict[str, str] = {  # a value for each input that a page's example needs
    "song": "song.mp3", "voice": "me", "image": "me", "prompt": "TOK on stage performing", "youtube_url": "talk.mp3",
    "dataset_zip": "dataset_me.zip", "song_input": "song.mp3", "rvc_model": "me", "replicate_weights": "me",
    "input_images": "photos.zip", "audio": "vocals.wav", "txt": "hello",
    "finetune_id": "me", "control_image": "room.jpg",
}  # fmt: skip
ALSO: dict[str, tuple[str, ...]] = {  # inputs that are not required and yet belong into the example
    "vividcover/cover": ("image",), "zsxkib/realistic-voice-cloning": ("rvc_model",),
    "vividcover/flux-lora": ("replicate_weights",), "black-forest-labs/flux-pro-1.0-fill-finetuned": ("mask",),
    "ostris/flux-dev-lora-trainer": ("input_images",),
}  # fmt: skip
PICTURES = {
    "zsxkib/sonic": {"image": "me.jpg"},
    "black-forest-labs/flux-pro-1.0-fill-finetuned": {"image": "room.jpg", "mask": "mask.png"},
}
SHORT: dict[str, str] = {  # the command that does the same with the shelf of trained models
    "vividcover/cover": "vividcover cover song.mp3 --voice me --image me -o cover.mp4",
    "zsxkib/create-rvc-dataset": "vividcover voice dataset talk.mp3 --name me",
    "replicate/train-rvc-model": 'vividcover voice train talk.mp3 --name me --consent "This is my own voice."',
    "zsxkib/realistic-voice-cloning": "vividcover song cover song.mp3 --voice me -o cover.mp3",
    "replicate/fast-flux-trainer": 'vividcover image train photos/ --name me --consent "These are photos of me."',
    "ostris/flux-dev-lora-trainer": (
        'vividcover image train photos/ --name me --steps 1000 --consent "These are photos of me."'
    ),
    "vividcover/flux-lora": 'vividcover image generate me --prompt "TOK on stage performing" -o still.png',
    "zsxkib/sonic": "vividcover portrait me.jpg vocals.wav -o portrait.mp4",
}
MAKES = {
    "file": "one file",
    "files": "one or several files",
    "text": "a text",
    "stream": "a text, in pieces as they come",
}
COMMAND_INPUTS = {  # commands whose options are a model's inputs
    "cover": "vividcover/cover", "portrait": "zsxkib/sonic", "image generate": "vividcover/flux-lora",
    "song cover": "zsxkib/realistic-voice-cloning", "voice convert": "zsxkib/realistic-voice-cloning",
}  # fmt: skip


def pages() -> dict[str, str]:
    """Path below docs/ → text, of every derived page."""
    known = models()
    made = {f"models/{_file(name)}": _model(model) for name, model in known.items()}
    made["models/index.md"] = _models(known)
    made["reference/cli.md"] = _cli()
    made["reference/settings.md"] = _settings()
    made["reference/nets.md"] = _nets()
    made["reference/prompt-words.md"] = _prompt_words()
    return {path: NOTE + text.rstrip() + "\n" for path, text in made.items()}


def _file(name: str) -> str:
    return name.replace("/", "-") + ".md"


# --- models -------------------------------------------------------------------------------------------------------


def _models(known: Mapping[str, Model]) -> str:
    rows = [(f"[`{name}`]({_file(name)})", model.description) for name, model in known.items()]
    return (
        "# The catalog\n\nEverything that can be run or trained, with the names, inputs, defaults and ranges of the "
        "published models that it stands in for.\nEach is served by the classic engine, and by the neural or the "
        "hosted one where they can.\n\n"
        + _table(("Model", "What it does"), rows)
        + "\n\nOn the command line: `vividcover models` lists them, `vividcover models zsxkib/sonic` shows one's "
        "inputs, and\n`vividcover run` runs one. From Python: `vividcover.run(name, {…})`.\n\n"
        "Parameters that the chosen engine cannot follow are named in the result and in the record beside it, "
        "each with the reason;\nnone is ignored in silence. Unknown names and values out of range are errors "
        "(`bad-parameter`, exit status 2).\n"
    )


def _model(model: Model) -> str:
    text = f"# {model.name}\n\n{model.description}\n\nMakes {MAKES[model.output]}."
    if model.needs_consent:
        text += " It learns a person's face or voice, so it asks for their consent in words (`--consent`)."
    text += "\n\n"
    if model.TrainingInput:
        text += "## Training\n\nIt learns from what you give, so it asks for consent in words (`--consent`).\n\n"
        text += _calls(model, model.TrainingInput, True) + "\n\n" + _inputs(model.TrainingInput) + "\n\n"
    text += "## Run\n\n" + _calls(model, model.Input, False) + "\n\n" + _inputs(model.Input)
    ignored = model.ignores.get("classic", {})
    if ignored:
        order = [name for schema in (model.TrainingInput, model.Input) if schema for name in schema.model_fields]
        rows = [(f"`{name}`", ignored[name]) for name in dict.fromkeys(order) if name in ignored]
        text += "\n\n## What the classic engine cannot follow\n\nIf you give one of these, the run goes on and says so."
        text += "\n\n" + _table(("Parameter", "Why"), rows)
    if model.name in PINS:
        listed = "\n".join(f"- `{version}`" for version in reversed(PINS[model.name]))
        text += "\n\n## Version ids\n\nA server answers to each of these ids, which code for the published model pins:"
        text += "\n\n" + listed
    if model.name in SHORT:
        text += f"\n\n## The short way\n\n```bash\n{SHORT[model.name]}\n```"
    return text


def _calls(model: Model, schema: type[Inputs], training: bool) -> str:
    given = {
        key: PICTURES.get(model.name, {}).get(key) or EXAMPLES[key]
        for key, info in schema.model_fields.items()
        if info.is_required() or key in ALSO.get(model.name, ())
    }
    consent = model.needs_consent or training
    line = f"vividcover {'train' if training else 'run'} {model.name}"
    line += "".join(f" -i {k}={v!r}" if " " in v else f" -i {k}={v}" for k, v in given.items())
    said = "I am the person in it and I agree."
    more = (f'\n    consent="{said}",' if consent else "") + ("\n    training=True," if training else "")
    values = ", ".join(f'"{k}": "{v}"' for k, v in given.items())
    python = f'made = vividcover.run(\n    "{model.name}",\n    {{{values}}},{more}\n)'
    shell = line + (f' --consent "{said}"' if consent else "")
    return (
        f"```bash\n{shell}\n```\n\n```python\nimport vividcover\n\n{python}\n"
        f"print({'made.text' if model.output in ('text', 'stream') and not training else 'made.path'})\n```"
    )


def _inputs(schema: type[Inputs]) -> str:
    rows = []
    for name, info in schema.model_fields.items():
        kind, default = _kind(info.annotation), info.default
        if takes_file(info):
            kind = "file or link"
        if info.is_required():
            said = "**required**"
        else:
            shown = str(default).lower() if isinstance(default, bool) else default
            said = "" if default in (None, PydanticUndefined) else f"`{shown}`"
        rows.append((f"`{name}`", kind, said, _range(info.metadata), info.description or ""))
    return _table(("Input", "Type", "Default", "Range", "What it is"), rows)


def _kind(annotation: Any) -> str:
    arguments = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if arguments:
        return _kind(arguments[0])
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _range(metadata: list[Any]) -> str:
    bounds = {kind: getattr(m, kind) for m in metadata for kind in ("ge", "gt", "le", "lt") if hasattr(m, kind)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if low is None and high is None:
        return ""
    if high is None or high >= BIG:
        return f"{'above ' if 'gt' in bounds else 'from '}{low:g}"
    return f"{low:g} to {high:g}" if low is not None else f"up to {high:g}"


# --- the command line ---------------------------------------------------------------------------------------------


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(words behind `vividcover`, command) of every command that does something, in the order of the help."""
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, whole)
        else:
            yield whole, command


def _cli() -> str:
    text = (
        "# The command line\n\nResults go to stdout, progress and remarks to stderr. Every command takes `-h`.\n"
        "Exit statuses and error codes: [Scripting](../guide/scripting.md), "
        "[Troubleshooting](../guide/troubleshooting.md).\n"
    )
    for name, command in commands(typer.main.get_command(build())):
        positional = [p for p in command.params if not p.opts[0].startswith("-")]
        usage = " ".join(["vividcover", name, *(_placeholder(p) for p in positional)])
        text += f"\n## {name}\n\n{_paragraph(command.help or '')}\n\n```text\n{usage} [options]\n```\n\n"
        rows = [(f"`{p.name}`", _help(p)) for p in positional]
        rows += [(_flags(p), _help(p, _choices(name, p.name))) for p in command.params if p.opts[0].startswith("-")]
        text += _table(("Argument or option", "What it is"), rows) + "\n"
        if name in COMMAND_INPUTS:
            model = COMMAND_INPUTS[name]
            text += f"\nThe model behind it: [`{model}`](../models/{_file(model)}).\n"
    return text


def _placeholder(parameter: Any) -> str:
    shown = parameter.name.upper().rstrip("_") + ("…" if parameter.nargs == -1 or parameter.multiple else "")
    return shown if parameter.required else f"[{shown}]"


def _flags(parameter: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))


def _help(parameter: Any, choices: tuple[str, ...] = ()) -> str:
    text = _paragraph(parameter.help or "")
    if choices:
        text += " One of " + ", ".join(f"`{c}`" for c in choices) + "."
    default = parameter.default
    if parameter.required:
        return f"{text} **Required.**"
    if isinstance(default, bool) or default in (None, "") or not isinstance(default, str | int | float | Path):
        return text
    return f"{text} Default `{default}`."


def _choices(command: str, parameter: str) -> tuple[str, ...]:
    if parameter == "engine":
        return ENGINES
    if command not in COMMAND_INPUTS:
        return ()
    info = models()[COMMAND_INPUTS[command]].Input.model_fields.get(parameter)
    return get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()


def _paragraph(text: str) -> str:
    return " ".join(text.split())


# --- settings, nets, words ----------------------------------------------------------------------------------------


def _settings() -> str:
    rows = []
    for name, info in Settings.model_fields.items():
        default = info.default
        if name == "home":
            said = "your system's user data folder"
        elif name == "weights_dir":
            said = "your system's user cache folder"
        elif name == "threads":
            said = "all"
        elif default in (None, "", PydanticUndefined):
            said = ""
        elif isinstance(default, str):
            said = f"`{default}`"
        elif isinstance(default, int) and default and default % GIB == 0:
            said = f"`{default}` ({default // GIB} GiB)"
        else:
            said = f"`{default:g}`"
        rows.append((f"`VIVIDCOVER_{name.upper()}`", said, info.description or ""))
    return (
        "# Settings\n\nEach is an environment variable, read when a command starts.\n\n"
        + _table(("Variable", "Default", "What it is"), rows)
        + "\n\n`vividcover doctor` prints the data folder in use and the space that is left there.\n\n"
        "```text\nHOME/\n  voices/NAME.zip   trained voices, each with its record NAME.json\n"
        "  images/NAME.tar   trained image models, each with its record NAME.json\n"
        "  cache/            finished stages; safe to delete while nothing runs\n```\n"
    )


def _nets() -> str:
    text = (
        "# Nets\n\nThe project ships no weights. `vividcover weights pull` fetches the small nets that the classic "
        "engine needs: set-up does that,\nand a run that finds one missing fetches it once and says so. The larger "
        "nets of the neural engine are fetched by name or\nby group, when they are wanted: see "
        "[Weights](../guide/weights.md). Each file is checked against its sha256, and no run\nneeds a network for "
        "them.\n"
    )
    for group, meaning in weights.GROUPS.items():
        nets = [net for net in weights.REGISTRY.values() if group in net.groups]
        rows = [
            (f"`{net.name}`", net.purpose, f"{net.size / 1e6:.1f} MB" if net.size else "", _place(net.source),
             net.licence, {True: "yes", False: "no", None: "not stated"}[net.commercial], f"`{net.sha256[:16]}…`")
            for net in nets
        ]  # fmt: skip
        text += f"\n## {group}\n\n{meaning[0].upper()}{meaning[1:]}.\n\n"
        text += _table(
            ("Net", "What it does", "Size", "Taken from", "Licence", "Commercial use", "sha256"), rows
        ) + "\n\n"  # fmt: skip
        text += "\n".join(sorted({f"- {net.licence}: {net.licence_note}" for net in nets})) + "\n"
    return text


def _place(source: weights.Wheel | weights.Url) -> str:
    if isinstance(source, weights.Wheel):
        return f"`{source}`"
    return f"[{source.page.split('/')[2]}]({source.page})"


def _prompt_words() -> str:
    text = (
        "# Words that the classic engine can paint\n\nIt reads a prompt for the words below. Words that it does not "
        "know are named in the result, never dropped in silence.\nEach row's words mean the same to it; "
        "`no`, `without` and `not` before an element leave it out.\n"
    )
    for title, table in (
        ("Scenes", words.SCENES), ("Light", words.LIGHTS), ("Framing", words.FRAMINGS), ("Mood", words.MOODS),
        ("Elements", words.ELEMENTS),
    ):  # fmt: skip
        rows = [(f"**{name}**", ", ".join(phrases.split("|"))) for name, phrases in table.items()]
        text += f"\n## {title}\n\n" + _table(("Means", "Words"), rows) + "\n"
    also: dict[str, list[str]] = {name: [] for name in words.COLOURS}
    for word, name in words.COLOUR_WORDS.items():
        also[name].append(word)
    colours = [name + (f" ({', '.join(more)})" if more else "") for name, more in also.items()]
    return text + "\n## Colours of the light\n\n" + ", ".join(colours) + ".\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _there(path: str) -> str:
    page = DOCS / path
    return page.read_text(encoding="utf-8") if page.is_file() else ""


def main() -> int:
    made = pages()
    stale = [path for path, text in made.items() if _there(path) != text]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.stderr.write(f"Not up to date: {', '.join(stale)}. Run: python docs/make_model_pages.py\n")
        return 1 if stale else 0
    for path in stale:
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(made[path], encoding="utf-8")
        sys.stdout.write(f"docs/{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
