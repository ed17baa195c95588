"""`vividcover weights …`: what nets there are, what they cost and allow, and bringing them here."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from vividcover.cli.console import Common, Json, JsonRows, Quiet, fail, perform, table
from vividcover.errors import VividCoverError, WeightsError

weights = typer.Typer(no_args_is_help=True, help="Nets: list, show, pull, verify.")

MAY = {True: "yes", False: "no", None: "unstated"}  # commercial use

Nets = Annotated[list[str] | None, typer.Argument(help="Names; default: all that the classic engine needs.")]
Shown = Annotated[list[str], typer.Argument(help="Names of nets.")]
Group = Annotated[str, typer.Option("--group", help="A group of nets: voice, separation, pretraining, mdx, …")]


@weights.command("list")
def weights_list(group: Group = "", json: JsonRows = False) -> None:
    """The nets, and whether they are here.

    With their sizes, licences, and whether these allow commercial use.
    """
    try:
        rows = _rows(group)
    except VividCoverError as error:
        fail(error, json)
    if json:
        table(rows, [], True, "")
        return
    shown = [
        {
            "name": row["name"], "state": row["state"], "MB": _megabytes(row["size"]),
            "licence": row["licence"], "commercial": MAY[row["commercial"]], "group": ", ".join(row["groups"]),
        }
        for row in rows
    ]  # fmt: skip
    table(shown, ["name", "state", "MB", "licence", "commercial", "group"], False, "")
    if not group and sys.stdout.isatty():
        _say_groups(rows)


@weights.command()
def show(names: Shown, json: JsonRows = False) -> None:
    """All that is known of a net.

    What it does, its file, where it comes from, its sha256, and what its licence says.
    """
    from vividcover import weights as registry

    try:
        rows = [row for name in registry.select(names) for row in _rows() if row["name"] == name]
    except VividCoverError as error:
        fail(error, json)
    if json:
        table(rows, [], True, "")
        return
    for row in rows:
        row |= {"size": f"{row['size']:,} bytes" if row["size"] else "", "commercial": MAY[row["commercial"]]}
        row["groups"] = ", ".join(row["groups"])
        typer.echo("\n".join(f"{key.replace('_', ' '):13} {value}" for key, value in row.items()) + "\n")


@weights.command()
def pull(names: Nets = None, group: Group = "", json: Json = False, quiet: Quiet = False) -> None:
    """Fetch nets that are not here yet.

    What was cut off goes on where it was. Afterwards runs need no network, save for links.
    """
    from vividcover import weights as registry

    def fetch(session: Any) -> None:
        registry.pull(names, session.settings.weights, group=group, reporter=session.workspace)

    def tell(_: Any) -> None:
        if json or not quiet:
            wanted = set(registry.select(names, group))
            rows = [row for row in _rows() if row["name"] in wanted]
            shown = [row | {"MB": round(row["size"] / 1e6, 2)} for row in rows]
            table(shown, ["name", "state", "MB", "path"], json, "")

    perform(fetch, Common("auto", json, quiet), say=tell)


@weights.command()
def verify(json: JsonRows = False) -> None:
    """Compare every net that is here with its recorded sha256.

    Fails when one is not what it should be, or when one is missing that the classic engine needs.
    """
    from vividcover import weights as registry
    from vividcover.settings import settings

    try:
        states = registry.verify(settings().weights)
        rows = [row | {"state": states[row["name"]]} for row in _rows()]
        here = [row for row in rows if json or row["state"] != "missing" or registry.REGISTRY[row["name"]].default]
        table(here, ["name", "state", "sha256"], json, "")
        whole(states)
    except VividCoverError as error:
        fail(error, False)


def whole(states: dict[str, Any] | None = None) -> None:
    """Raises `WeightsError` unless the classic engine's nets are here, and every net that is here is what it should be.

    Without `states`, large files that have been hashed before are known by their size and time.
    """
    from vividcover import weights as registry
    from vividcover.settings import settings

    states = states or {row["name"]: row["state"] for row in registry.status(settings().weights)}
    wrong = [
        name for name, state in states.items()
        if state == "changed" or (state == "missing" and registry.REGISTRY[name].default)
    ]  # fmt: skip
    if wrong:
        which = "" if all(registry.REGISTRY[name].default for name in wrong) else f" {' '.join(wrong)}"
        said = ", ".join(f"{name} is {states[name]}" for name in wrong)
        raise WeightsError(f"{settings().weights}: {said}.", f"Run `vividcover weights pull{which}`.")


def _megabytes(size: int) -> str:
    return "    ?" if not size else f"{size / 1e6:5.1f}" if size < 10**9 else f"{size / 1e6:5.0f}"


def _rows(group: str = "") -> list[dict[str, Any]]:
    from vividcover import weights as registry
    from vividcover.settings import settings

    wanted = set(registry.select(group=group)) if group else set(registry.REGISTRY)
    return [row for row in registry.status(settings().weights) if row["name"] in wanted]


def _say_groups(rows: list[dict[str, Any]]) -> None:
    """Below the table, for people: what `--group` takes, and what each group weighs."""
    from vividcover import weights as registry

    typer.echo("", err=True)
    for group, meaning in registry.GROUPS.items():
        sizes = [row["size"] for row in rows if group in row["groups"]]
        whole = f"{sum(sizes) / 1e6:7,.0f} MB" if all(sizes) else " " * 10
        typer.echo(f"  --group {group:12} {whole}  {meaning}", err=True)
