"""`vividcover voice …`: datasets, training, conversion."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vividcover.catalog.realistic_voice_cloning import VOICE_OPTIONS, RealisticVoiceCloning, RealisticVoiceCloningInput
from vividcover.catalog.train_rvc_model import TrainRvcModel, TrainRvcModelInput
from vividcover.cli.complete import voice_names
from vividcover.cli.console import Common, Consent, Cookies, Engine, Json, JsonRows, Quiet, perform, table
from vividcover.cli.options import takes_inputs

Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")]

app = typer.Typer(no_args_is_help=True, help="Voices: make a dataset, train, convert vocals, list.")

Clips = Annotated[list[str], typer.Argument(help="Recordings: files, folders, zips or links.", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="The voice's name.")]


@app.command()
def dataset(
    recordings: Clips, name: Name = "rvc_v2_voices",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The zip to write.")] = None,
    isolate: Annotated[Literal["auto", "yes", "no"], typer.Option(help="Take music away first.")] = "auto",
    dereverb: Annotated[
        Literal["off", "auto", "all"], typer.Option(help="Take the room off: where it is heard, or everywhere.")
    ] = "off",
    engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Cut recordings into a dataset zip.

    Its files are dataset/NAME/split_I.wav, as RVC trainers read them. `voice train` takes recordings as they are, too.
    """
    from vividcover import sdk

    how = Common(engine, json, quiet, cookies)
    perform(lambda s: sdk.dataset_in(s, recordings, name, output, isolate, dereverb), how, _advice)


@app.command()
def check(recordings: Clips, json: JsonRows = False) -> None:
    """Say what recordings are good for.

    How many minutes could be used, what would be left out and why, and what to add. Makes nothing.
    """
    from vividcover import sdk

    report = sdk.examine_recordings(recordings)
    if json:
        typer.echo(dumps(report, ensure_ascii=False))
        return
    rows = [
        {
            "file": r["file"], "minutes": f"{r['seconds'] / 60:.1f}", "usable": f"{r['usable_seconds'] / 60:.1f}",
            "clips": r["clips"], "left out": ", ".join(sorted({x["reason"] for x in r["rejected"]})),
        }
        for r in report["recordings"]
    ]  # fmt: skip
    table(rows, ["file", "minutes", "usable", "clips", "left out"], False, "")
    typer.echo(f"\n{report['usable_minutes']:.1f} minutes usable in {report['clips']} clips.")
    for line in report["advice"]:
        typer.echo(f"  {line}")


@app.command()
@takes_inputs(
    TrainRvcModelInput, skip=frozenset({"dataset_zip"}), ignored=TrainRvcModel.ignores["classic"],
)  # fmt: skip
def train(
    clips: Clips, name: Name, options: dict[str, Any], consent: Consent = "", engine: Engine = "auto",
    cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Learn a voice from recordings.

    From 30 seconds to 30 minutes of one person. It is kept under NAME; --consent is asked for, in words.
    """
    from vividcover import sdk

    how = Common(engine, json, quiet, cookies)
    perform(lambda s: sdk.train_voice_in(s, clips, name, consent, options), how, _advice)


@app.command()
@takes_inputs(
    RealisticVoiceCloningInput,
    skip=frozenset(RealisticVoiceCloningInput.model_fields) - set(VOICE_OPTIONS),
    ignored=RealisticVoiceCloning.ignores["classic"],
)
def convert(
    vocals: Annotated[
        list[str], typer.Argument(help="Vocals without music: files or links.", show_default=False)
    ],
    voice: Annotated[
        str, typer.Option("--voice", help="Trained voice: a name, a path or a link.", autocompletion=voice_names)
    ],
    options: dict[str, Any], output: Output = None,
    output_format: Annotated[
        Literal["wav", "flac", "mp3"] | None, typer.Option(help="Default: what --output's name says, else wav.")
    ] = None,
    engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Sing or say vocals again in a trained voice.

    Of several recordings at once, --output is the folder that the results go into.
    """
    from vividcover import sdk

    if output and output.suffix and len(vocals) == 1:
        options["output_format"] = output.suffix[1:].lower()
    if output_format:
        options["output_format"] = output_format
    perform(lambda s: sdk.convert_voices_in(s, vocals, voice, output, options), Common(engine, json, quiet, cookies))


@app.command("list")
def list_(json: JsonRows = False) -> None:
    """The voices that are trained."""
    from vividcover.catalog import shelf
    from vividcover.settings import settings

    rows = [
        {"name": t.name, "engine": t.card.get("engine"), "consent": t.card.get("consent"), "file": str(t.path)}
        for t in shelf.listed("voice", settings())
    ]
    table(rows, ["name", "engine", "consent", "file"], json, "No voice is trained yet.")


def _advice(made: Any) -> None:
    """What the dataset or training report has to say to a person, where it was not said on the way."""
    report = made.result.details.get("report", {})
    for line in [*report.get("advice", []), *report.get("warnings", [])]:
        if line not in made.result.notes:
            typer.echo(f"  {line}", err=True)
