"""`vividcover cog export`: a catalog model as a package for Replicate or any registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vividcover.cli.console import Json, fail
from vividcover.errors import VividCoverError

app = typer.Typer(no_args_is_help=True, help="Cog packages of the catalog's models.")


@app.callback()
def _group() -> None: ...  # so that a group of one command keeps the command's name


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="owner/name, as `vividcover models` lists it.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")] = None,
    json: Json = False,
) -> None:
    """Write cog.yaml, run.py and the schema of MODEL, ready for `cog push`."""
    from vividcover.cover import get
    from vividcover.files import storage_errors

    try:
        from vividcover.server.cog import export as write

        chosen = get(model)
        folder = output or Path(chosen.name.replace("/", "-"))
        with storage_errors("the package", folder):
            files = [str(path) for path in write(chosen, folder)]
    except VividCoverError as error:
        fail(error, json)
        return
    if json:
        import json as json_

        typer.echo(json_.dumps({"model": chosen.name, "folder": str(folder), "files": files}))
    else:
        typer.echo("\n".join(files))
