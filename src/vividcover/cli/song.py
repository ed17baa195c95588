"""`vividcover song …`: separation, and covers as audio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloning, RealisticVoiceCloningInput
from vividcover.cli.complete import voice_names
from vividcover.cli.console import Common, Cookies, Engine, Json, JsonRows, Quiet, perform, table
from vividcover.cli.options import takes_inputs

Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")]

app = typer.Typer(no_args_is_help=True, help="Songs: separate them, sing them in another voice.")

Song = Annotated[
    str, typer.Argument(help="A file, a link to audio, or a page (YouTube and others).", show_default=False)
]


@app.command()
def separate(
    song: Song,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write into.")] = Path("stems"),
    separator: Annotated[
        str, typer.Option(help="classic, auto (the best net whose weights are here), or a name: `song separators`.")
    ] = "classic",
    cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Split a song into vocals and instrumental.

    And backing vocals, where they can be told from the lead. The parts are float WAV files that add up to the song.
    """
    from vividcover import sdk

    perform(lambda s: sdk.separate_in(s, song, output, separator), Common("auto", json, quiet, cookies))


@app.command()
def separators(json: JsonRows = False) -> None:
    """List what takes songs apart, best first.

    With the part of the work that each one does, and whether its weights are here.
    """
    from vividcover.song.separators.known import KNOWN
    from vividcover.weights import has

    rows = [
        {"name": k.name, "takes": k.stage, "quick": not k.slow, "weights": "here" if has(k.weights) else "not here"}
        for k in KNOWN.values()
    ]
    table(rows, ["name", "takes", "quick", "weights"], json, "")


@app.command()
@takes_inputs(
    RealisticVoiceCloningInput, skip=frozenset({"song_input", "rvc_model", "custom_rvc_model_download_url"}),
    ignored=RealisticVoiceCloning.ignores["classic"],
)  # fmt: skip
def cover(
    song: Song,
    voice: Annotated[
        str, typer.Option("--voice", help="Trained voice: a name, a path or a link.", autocompletion=voice_names)
    ],
    options: dict[str, Any], output: Output = None,
    engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Sing a song in a trained voice, as audio."""
    from vividcover import sdk

    if output and output.suffix:
        options.setdefault("output_format", output.suffix[1:].lower())
    values = {"song_input": song, "rvc_model": voice, **options}
    perform(lambda s: sdk.run_model(RealisticVoiceCloning(), values, output, s), Common(engine, json, quiet, cookies))
