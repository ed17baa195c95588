"""`vividcover image check|caption|about|convert|merge|batch|compare`: what stands around training and drawing."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vividcover.cli.complete import image_names
from vividcover.cli.console import Common, Consent, Engine, Json, Quiet, parsed, perform
from vividcover.errors import NotFoundError, ParameterError

Kind = Annotated[
    Literal["subject", "style", "product", "general"],
    typer.Option("--type", help="What is learnt: a person or thing, a style, a product, anything."),
]
Trigger = Annotated[str, typer.Option("--trigger-word", help="The word that stands for it.")]
Photos = Annotated[str, typer.Argument(help="A folder or zip of photos.", show_default=False)]
Lora = Annotated[
    str,
    typer.Argument(
        help="A trained image, or a LoRA: a name, a path, a link, huggingface.co/owner/name, civitai.com/models/ID.",
        show_default=False, autocompletion=image_names,
    ),
]  # fmt: skip
Spelling = Annotated[
    Literal["diffusers", "kohya", "bfl"],
    typer.Option("--format", help="diffusers: most programs; kohya: ComfyUI, Forge; bfl: FLUX's own names."),
]
Numbers = Annotated[Literal["fp16", "bf16", "fp32"], typer.Option("--dtype", help="Of the numbers in the file.")]
Rank = Annotated[int, typer.Option("--rank", min=0, max=1024, help="Reduce to this rank; 0: leave it.")]
File = Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")]


def check(
    photos: Photos, type: Kind = "subject", trigger_word: Trigger = "TOK", json: Json = False, quiet: Quiet = False
) -> None:
    """Say what photos are good for.

    What is missing or too much of one kind, what would be left out and why, and at which sizes they would be learnt.
    Makes nothing.
    """
    from vividcover import image_calls

    _perform(lambda s: image_calls.examine_photos_in(s, photos, trigger_word, type), json, quiet, _text)


def caption(
    photos: Photos,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for photos and captions.")],
    type: Kind = "subject", trigger_word: Trigger = "TOK",
    captioner: Annotated[
        Literal["auto", "florence-2", "qwen3-vl", "openai", "template"], typer.Option(help="Who writes.")
    ] = "auto",
    prefix: Annotated[str, typer.Option(help="What captions begin with.")] = "",
    suffix: Annotated[str, typer.Option(help="What captions end with.")] = "",
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write a caption beside each photo.

    Captions that are there already stay. Edit the .txt files, then train on the folder.
    """
    from vividcover import image_calls

    def show(report: dict[str, Any]) -> None:
        for name, text in sorted(report["captions"].items()):
            typer.echo(f"{name}: {text}")
        typer.echo(report["folder"])

    _perform(
        lambda s: image_calls.caption_photos_in(
            s, photos, output, captioner=captioner, kind=type, trigger_word=trigger_word, prefix=prefix, suffix=suffix
        ),
        json, quiet, show,
    )  # fmt: skip


def about(lora: Lora, json: Json = False) -> None:
    """Say what a LoRA is: base, rank, layers, trigger word, licence."""
    from vividcover import image_calls

    def show(told: dict[str, Any]) -> None:
        for key, value in told.items():
            if value not in (None, "", []):
                typer.echo(f"{key.replace('_', ' '):14}{_plain(value)}")

    _perform(lambda s: image_calls.lora_about_in(s, lora), json, True, show)


def convert(
    lora: Lora, output: File, format: Spelling = "diffusers", dtype: Numbers = "fp16", rank: Rank = 0,
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write a LoRA in another program's spelling.

    The file is read again and compared before it counts.
    """
    from vividcover import image_calls

    _perform(lambda s: image_calls.convert_lora_in(s, lora, output, format, dtype, rank), json, quiet, _file)


def merge(
    loras: Annotated[list[str], typer.Argument(help="LoRAs and weights: vivi@1.0 oils@0.6.", show_default=False)],
    output: File, format: Spelling = "diffusers", dtype: Numbers = "fp16", rank: Rank = 0, json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make one LoRA of several.

    It does exactly what they do together; its rank is the sum of theirs, unless --rank asks for less.
    """
    from vividcover import image_calls

    _perform(lambda s: image_calls.merge_loras_in(s, loras, output, format, dtype, rank), json, quiet, _file)


def batch(
    trained: Lora,
    prompts: Annotated[Path, typer.Option("--prompts", "-p", help="A .csv, or a text file with a prompt a line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for pictures and results.")],
    top: Annotated[int, typer.Option(min=0, help="How many of the best to choose.")] = 0,
    per_row: Annotated[int, typer.Option("--per-row", min=0, help="Of each prompt at most; 0: any number.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides the seeds of prompts that have none.")] = 0,
    scores: Annotated[
        str, typer.Option(help="auto, none, or names with commas: clip-t, clip-i, dino, face, sharpness.")
    ] = "auto",
    references: Annotated[str | None, typer.Option(help="Photos that likeness is compared with.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("-i", help="An input of vividcover/flux-lora for all: key=value.")
    ] = None,
    engine: Engine = "auto", json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Draw many prompts, score them, choose the best.

    Stopped, the same command goes on where it was. Columns of a .csv: prompt, template, seed, count, aspect_ratio, and
    inputs of vividcover/flux-lora.
    """
    from vividcover import image_calls
    from vividcover.catalog.flux_lora import FluxLoraInput

    def show(done: Any) -> None:
        for line, why in done.failed:
            typer.echo(f"line {line}: {why}", err=True)
        for file in done.top or [shot.file for shot in done.shots]:
            typer.echo(str(file))
        typer.echo(str(done.folder / "contact.jpg"))

    _perform(
        lambda s: image_calls.batch_in(
            s, trained, prompts, output, top=top, per_row=per_row, seed=seed, scores=scores, references=references,
            options=parsed(option or [], FluxLoraInput),
        ),
        json, quiet, show, engine,
    )  # fmt: skip


def compare(
    photos: Photos,
    variants: Annotated[
        Path, typer.Option("--variants", help="A TOML file: a table for each way to train, with what it changes.")
    ],
    name: Annotated[str, typer.Option("--name", help="The best one's name on the shelf.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for pictures, models and the report.")],
    type: Kind = "subject", trigger_word: Trigger = "TOK", consent: Consent = "",
    scores: Annotated[str, typer.Option(help="auto, or names with commas.")] = "auto",
    option: Annotated[
        list[str] | None, typer.Option("-i", help="An input of ostris/flux-dev-lora-trainer for all: key=value.")
    ] = None,
    drawing: Annotated[
        list[str] | None, typer.Option("-d", help="An input of vividcover/flux-lora for the pictures: key=value.")
    ] = None,
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train several ways on the same photos and keep the best.

    Each draws the same prompts, which none of them saw, with the same seeds; the scores decide. A lead that chance
    explains is said to be none, and the way that is named first is kept.
    """
    from vividcover import image_calls
    from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTraining
    from vividcover.catalog.flux_lora import FluxLoraInput

    shared = {"trigger_word": trigger_word, "kind": type} | parsed(option or [], FluxDevLoraTraining)
    _perform(
        lambda s: image_calls.compare_in(
            s, photos, _tables(variants), name, consent, output, options=shared, scores=scores,
            drawing=parsed(drawing or [], FluxLoraInput),
        ),
        json, quiet, lambda outcome: typer.echo(outcome.text()),
    )  # fmt: skip


def _tables(file: Path) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file. Raises `NotFoundError`, `ParameterError`."""
    import tomllib

    if not file.is_file():
        raise NotFoundError(f"There is no file {str(file)!r}.", "Write one: [default] and [gentle] learning_rate=1e-4.")
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ParameterError(f"{file.name} is no TOML: {error}.", "A table for each way: [gentle]") from None
    if not found or not all(isinstance(value, dict) for value in found.values()):
        raise ParameterError(f"{file.name} names no ways to train.", "Give each a table: [gentle]")
    return found


def _perform(work: Any, json: bool, quiet: bool, show: Any, engine: str = "auto") -> None:
    def say(made: Any) -> None:
        if json:
            typer.echo(jsons.dumps(made if isinstance(made, dict) else made.report(), default=str, ensure_ascii=False))
        else:
            show(made)

    perform(work, Common(engine, json, quiet), say=say)


def _text(told: dict[str, Any]) -> None:
    typer.echo(told["text"])


def _file(told: dict[str, Any]) -> None:
    typer.echo(told["file"])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def add_to(app: typer.Typer) -> None:
    """The commands, in the order of the help."""
    for command in (check, caption, about, convert, merge, batch, compare):
        app.command()(command)
