"""`vividcover voice …`: datasets, training, conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloningInput
from vividcover.cli.console import Common, Consent, Cookies, Engine, Json, Quiet, perform, table
from vividcover.cli.options import takes_inputs

Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")]

app = typer.Typer(no_args_is_help=True, help="Voices: make a dataset, train, convert vocals, list.")

Clips = Annotated[list[str], typer.Argument(help="Recordings: files, folders, zips or links.", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="The voice's name.")]


@app.command()
def dataset(
    recordings: Clips, name: Name = "rvc_v2_voices",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The zip to write.")] = None,
    isolate: Annotated[str, typer.Option(help="Take music away first: auto, yes or no.")] = "auto",
    cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Cut recordings into a dataset zip, dataset/NAME/split_I.wav."""
    from vividcover import sdk

    perform(
        lambda s: sdk.dataset_in(s, recordings, name, output, isolate), Common("auto", json, quiet, cookies), _advice
    )


@app.command()
def train(
    clips: Clips, name: Name, consent: Consent = "", engine: Engine = "auto", cookies: Cookies = None,
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Learn a voice from 30 seconds to 30 minutes of recordings and keep it under NAME."""
    from vividcover import sdk

    perform(lambda s: sdk.train_voice_in(s, clips, name, consent), Common(engine, json, quiet, cookies), _advice)


@app.command()
@takes_inputs(
    RealisticVoiceCloningInput,
    skip=frozenset(RealisticVoiceCloningInput.model_fields)
    - {"pitch_change", "index_rate", "filter_radius", "rms_mix_rate", "protect", "output_format"},
)
def convert(
    vocals: Annotated[str, typer.Argument(help="Vocals without music: a file or a link.", show_default=False)],
    voice: Annotated[str, typer.Option("--voice", help="Trained voice: a name, a path or a link.")],
    options: dict[str, Any], output: Output = None,
    engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Sing or say vocals again in a trained voice."""
    from vividcover import sdk

    if output and output.suffix:
        options.setdefault("output_format", output.suffix[1:].lower())
    perform(lambda s: sdk.convert_voice_in(s, vocals, voice, output, options), Common(engine, json, quiet, cookies))


@app.command("list")
def list_(json: Json = False) -> None:
    """The voices that are trained."""
    from vividcover.catalog import shelf
    from vividcover.settings import settings

    rows = [
        {"name": t.name, "engine": t.card.get("engine"), "consent": t.card.get("consent"), "file": str(t.path)}
        for t in shelf.listed("voice", settings())
    ]
    table(rows, ["name", "engine", "consent", "file"], json, "No voice is trained yet.")


def _advice(made: Any) -> None:
    """What the dataset or training report has to say to a person."""
    report = made.result.details.get("report", {})
    for line in [*report.get("advice", []), *report.get("warnings", [])]:
        typer.echo(f"  {line}", err=True)
