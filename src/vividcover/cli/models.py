"""`vividcover run`, `train`, `models`: any model of the catalog by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vividcover.cli.complete import model_names
from vividcover.cli.console import Common, Consent, Cookies, Engine, Json, JsonRows, Quiet, fail, parsed, perform, table
from vividcover.errors import VividCoverError

Name = Annotated[
    str,
    typer.Argument(help="owner/name, as `vividcover models` lists it.", show_default=False, autocompletion=model_names),
]
Pairs = Annotated[list[str] | None, typer.Option("--input", "-i", help="key=value, as often as needed.")]
BIG = 2**31  # from here on an upper end is no limit that anybody meets
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write what is made.")]


def run(
    model: Name, input: Pairs = None, output: Output = None, consent: Consent = "", engine: Engine = "auto",
    cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Run any model by its name.

    With its own inputs, as `vividcover models NAME` shows them:

    vividcover run zsxkib/sonic -i image=me.jpg -i audio=vocals.wav -o portrait.mp4
    """
    _go(model, input, output, consent, False, Common(engine, json, quiet, cookies))


def train(
    model: Name, input: Pairs = None, output: Output = None, consent: Consent = "", engine: Engine = "auto",
    cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train any model that has a training.

    With its own inputs, as `vividcover models NAME` shows them:

    vividcover train replicate/fast-flux-trainer -i input_images=photos.zip --consent "…" -o me.tar
    """
    _go(model, input, output, consent, True, Common(engine, json, quiet, cookies))


def _go(name: str, pairs: list[str] | None, output: Path | None, consent: str, training: bool, common: Common) -> None:
    from vividcover import sdk
    from vividcover.cover import get

    try:
        model = get(name)
        values = parsed(pairs or [], (training and model.TrainingInput) or model.Input)
    except VividCoverError as error:
        fail(error, common.json)
        return
    perform(lambda s: sdk.run_model(model, values, output, s, consent=consent, training=training), common)


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="One model, with its inputs.", show_default=False, autocompletion=model_names),
    ] = None,
    json: JsonRows = False,
) -> None:  # fmt: skip
    """List the models, or one model's inputs."""
    from vividcover.cover import get
    from vividcover.cover import models as known

    if name is None:
        rows: list[dict[str, Any]] = [{"model": m.name, "description": m.description} for m in known().values()]
        table(rows, ["model", "description"], json, "")
        return
    try:
        model = get(name)
    except VividCoverError as error:
        fail(error, json)
        return
    schemas = {"input": model.Input} | ({"training_input": model.TrainingInput} if model.TrainingInput else {})
    rows = []
    for kind, schema in schemas.items():
        found = schema.model_json_schema()
        for key, field in found["properties"].items():
            choice = next((a for a in field.get("anyOf", []) if a.get("type") != "null"), {}) | field
            kinds = "|".join(map(str, choice["enum"])) if "enum" in choice else choice.get("type", "")
            low, high = choice.get("minimum"), choice.get("maximum")
            rows.append(
                {
                    "of": kind, "name": key, "type": kinds, "required": key in found.get("required", []),
                    "default": field.get("default"), "range": _range(low, high),
                    "description": field.get("description", ""),
                }
            )  # fmt: skip
    if not json:
        rows = [row | ({"default": "required"} if row["required"] else {}) for row in rows]
    table(rows, ["of", "name", "type", "default", "range", "description"], json, "")


def renderers(json: JsonRows = False) -> None:
    """List who can make a picture sing."""
    from vividcover.catalog import engines
    from vividcover.portrait import renderers as found
    from vividcover.settings import settings

    rows: list[dict[str, Any]] = []
    for name, about in found.known().items():
        lacks = engines.missing(settings(), about.nets) if about.engine == "neural" else ""
        rows.append(
            {
                "name": name, "engine": about.engine, "licence": about.licence, "commercial": about.commercial,
                "ready": not lacks, "lacks": lacks, "description": about.title,
            }
        )  # fmt: skip
    if not json:
        said = {True: "yes", False: "no", None: "?"}
        rows = [row | {"commercial": said[row["commercial"]], "ready": said[row["ready"]]} for row in rows]
    table(rows, ["name", "engine", "licence", "commercial", "ready", "description"], json, "")


def _range(low: float | None, high: float | None) -> str:
    """`0.5..2.0`, or `0..` where the upper end is only that of the number's kind."""
    return "" if low is None else f"{low}.." if high is None or high >= BIG else f"{low}..{high}"
