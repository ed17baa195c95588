"""The command line. One file a command group; options of models are derived from their inputs."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def main() -> None:
    """Entry point of the `vividcover` command."""
    import sys

    _open_streams()
    as_json = "--json" in sys.argv
    try:
        status = build()(standalone_mode=not as_json)
    except Exception as error:  # a wrong option; a command that does no work in `perform`: never a traceback
        from vividcover.cli.console import fail, misused

        fail(misused(error), as_json)
    sys.exit(status if isinstance(status, int) else 0)


def _open_streams() -> None:
    """A closed stdout or stderr takes what is said and drops it; one that knows ASCII only gets UTF-8 names."""
    import io
    import os
    import sys
    from pathlib import Path

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            encoding = "utf-8" if stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968") else None
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def build() -> Any:
    """The Typer application."""
    from vividcover.cli import (
        access,
        cog,
        demo,
        housekeeping,
        image,
        models,
        prompts,
        serve,
        song,
        video,
        voice,
        weights,
    )

    app = typer.Typer(
        name="vividcover", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Photos of a person, recordings of their voice and a song in; a video of them singing it out.",
        epilog="First steps: `vividcover demo` makes a cover of the sample; `vividcover doctor` says what works here. "
        "Then `voice train`, `image train` and `cover`.",
    )  # fmt: skip
    app.callback(invoke_without_command=True)(_root)
    app.command()(video.cover)
    app.command()(video.portrait)
    app.add_typer(voice.app, name="voice")
    app.add_typer(image.app, name="image")
    app.add_typer(prompts.app, name="prompts")
    app.add_typer(song.app, name="song")
    app.command()(models.run)
    app.command()(models.train)
    app.command()(models.models)
    app.command()(models.renderers)
    app.add_typer(weights.weights, name="weights")
    app.add_typer(housekeeping.cache, name="cache")
    app.command()(housekeeping.doctor)
    app.command()(serve.up)
    app.command()(serve.worker)
    app.command()(demo.demo)
    app.add_typer(access.account, name="account")
    app.add_typer(access.token, name="token")
    app.command()(access.usage)
    app.add_typer(access.webhooks, name="webhooks")
    app.add_typer(cog.app, name="cog")
    return app


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from vividcover import __version__

        typer.echo(f"vividcover {__version__}")
        raise typer.Exit()
