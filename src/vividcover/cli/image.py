"""`vividcover image …`: training and generation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer, FluxDevLoraTraining
from vividcover.catalog.flux_lora import FluxLora, FluxLoraInput
from vividcover.cli import image_tools
from vividcover.cli.complete import image_names
from vividcover.cli.console import Common, Consent, Engine, Json, JsonRows, Quiet, perform, table
from vividcover.cli.options import takes_inputs
from vividcover.cli.voice import _advice

app = typer.Typer(no_args_is_help=True, help="Images: train on photos, generate stills, list.")


@app.command()
@takes_inputs(
    FluxDevLoraTraining, skip=frozenset({"input_images", "autocaptioning", "lora_type", "kind"}),
    ignored=FluxDevLoraTrainer.ignores["classic"],
)  # fmt: skip
def train(
    photos: Annotated[str, typer.Argument(help="A folder or zip of photos.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="The image model's name.")],
    options: dict[str, Any],
    type: Annotated[
        Literal["subject", "style", "product", "general"],
        typer.Option("--type", help="What is learnt: a person or thing, a style, a product, anything."),
    ] = "subject",
    consent: Consent = "", engine: Engine = "auto", json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Learn a person or a style from photos.

    One photo works, 10 to 20 varied ones are best. It is kept under NAME; --consent is asked for, in words.
    """
    from vividcover import sdk

    options |= sdk.kind_of(type)
    perform(lambda s: sdk.train_image_in(s, photos, name, consent, options), Common(engine, json, quiet), _learnt)


@app.command()
@takes_inputs(FluxLoraInput, skip=frozenset({"replicate_weights", "prompt"}), ignored=FluxLora.ignores["classic"])
def generate(
    trained: Annotated[
        str,
        typer.Argument(
            help="Trained image model: a name, a path or a link; a FLUX LoRA of Hugging Face or Civitai.",
            show_default=False, autocompletion=image_names,
        ),
    ],
    options: dict[str, Any],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to show.")] = "TOK on stage performing",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The picture to write.")] = None,
    engine: Engine = "auto", json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make pictures of the person from a prompt."""
    from vividcover import sdk

    if output and output.suffix:
        options.setdefault("output_format", output.suffix[1:].lower().replace("jpeg", "jpg"))
    if "width" in options or "height" in options:
        options.setdefault("aspect_ratio", "custom")  # of which one alone is an error
    values = {"replicate_weights": trained, "prompt": prompt, **options}
    perform(lambda s: sdk.run_model(FluxLora(), values, output, s), Common(engine, json, quiet))


def _learnt(made: Any) -> None:
    """What a training has to say to a person: what its photos lack, how far it came, what it cost."""
    report = made.result.details.get("report", {})
    if "validation" not in report:
        return _advice(made)
    for finding in report["findings"]:
        if finding["level"] in ("mend", "drop", "add"):
            typer.echo(f"  {finding['text']}", err=True)
    loss, steps = report["validation"], report["steps"]
    cost = f", about {report['cost_usd']:.2f} USD" if report["device"].startswith("cuda") else ""
    typer.echo(
        f"  {steps} steps, {report['steps_per_second']:.2f} a second; loss {loss['before']:.4f} → {loss['after']:.4f} "
        f"on {report['validation_on']}; {report['gpu_seconds']:.0f} s on {report['device']}{cost}",
        err=True,
    )
    return None


@app.command("list")
def list_(json: JsonRows = False) -> None:
    """The image models that are trained."""
    from vividcover.catalog import shelf
    from vividcover.settings import settings

    rows = [
        {
            "name": t.name, "engine": t.card.get("engine"), "trigger_word": t.card.get("trigger_word"),
            "type": t.card.get("type"),
            "consent": t.card.get("consent"), "file": str(t.path),
        }
        for t in shelf.listed("image", settings())
    ]  # fmt: skip
    table(rows, ["name", "engine", "trigger_word", "type", "consent", "file"], json, "No image model is trained yet.")


image_tools.add_to(app)
