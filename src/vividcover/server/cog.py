"""A catalog model as a cog package: `cog.yaml`, a thin `run.py` (and `train.py`), and the schema.

cog reads signatures without running them, so every default, bound and choice stands in `run.py` as a literal; the
package is generated from the catalog and `tests/server/test_cog.py` holds the two together.
Facts: cog 0.23, `BaseRunner.run`, `Input(default, description, ge, le, min_length, max_length, regex, choices)`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vividcover import __version__
from vividcover.catalog.contract import Inputs, Model
from vividcover.files import write_text
from vividcover.server.schema import openapi_schema

OUTPUTS = {"file": "Path", "files": "list[Path]", "text": "str", "stream": "ConcatenateIterator[str]"}
KINDS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
BOUNDS = {
    "minimum": "ge", "maximum": "le", "minLength": "min_length", "maxLength": "max_length", "pattern": "regex",
}  # fmt: skip
WEIGHTS = "replicate_weights"  # the input of a model that runs what a training made
CONSENT = (
    'consent: str = Input(description="Whose face or voice this is, and that they agree: kept with the model.", '
    "min_length=1)"
)


def export(model: Model, folder: Path) -> list[Path]:
    """Writes the package into `folder` and returns its files."""
    files = {
        "cog.yaml": _cog_yaml(model), "run.py": _run_py(model), "requirements.txt": f"vividcover=={__version__}\n",
        ".cog/openapi_schema.json": json.dumps(_schema(model), indent=1) + "\n",
    }  # fmt: skip
    if model.TrainingInput:
        files["train.py"] = _train_py(model)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return [write_text(folder / name, text) for name, text in files.items()]


def _schema(model: Model) -> dict[str, Any]:
    """The model's schema with what the package adds: a consent where a person is learned."""
    schema: dict[str, Any] = json.loads(json.dumps(openapi_schema(model.name)))
    schemas = schema["components"]["schemas"]
    for name in [n for n, asked in (("Input", model.needs_consent), ("TrainingInput", True)) if asked]:
        if name in schemas:
            fields = schemas[name]["properties"]
            fields["consent"] = {"type": "string", "title": "Consent", "minLength": 1, "x-order": len(fields)}
            schemas[name].setdefault("required", []).append("consent")
    return schema


def _cog_yaml(model: Model) -> str:
    train = 'train: "train.py:train"\n' if model.TrainingInput else ""
    return (
        f"# {model.name} as a cog package, made by `vividcover cog export`.\n"
        'build:\n  gpu: false\n  python_version: "3.12"\n  python_requirements: requirements.txt\n'
        '  run:\n    - vividcover weights pull --quiet\nrun: "run.py:Runner"\n' + train
    )


def _run_py(model: Model) -> str:
    names = list(model.Input.model_fields)
    extra = [CONSENT] if model.needs_consent else []
    fixed = WEIGHTS in names
    setup = (
        f"""    def setup(self, weights: Optional[Path] = None) -> None:
        self.model = Served({model.name!r}, weights, {WEIGHTS!r})
"""
        if fixed
        else f"""    def setup(self) -> None:
        self.model = Served({model.name!r})
"""
    )
    calls = ", ".join(f"{n}={n}" for n in [*names, *(["consent"] if extra else [])])
    given = {
        "file": f"return Path(self.model.run({calls}))", "files": f"return [Path(p) for p in self.model.run({calls})]",
        "text": f"return str(self.model.run({calls}))", "stream": f"yield from self.model.run({calls})",
    }[model.output]  # fmt: skip
    return f'''"""{model.name} as a cog model, made by `vividcover cog export`: make it anew rather than edit it."""

from typing import Optional

from cog import BaseRunner, ConcatenateIterator, Input, Path

from vividcover.served import Served


class Runner(BaseRunner):
{setup}
    def run(
        self,
{_arguments(model.Input, extra)}
    ) -> {OUTPUTS[model.output]}:
        {given}
'''


def _train_py(model: Model) -> str:
    assert model.TrainingInput
    calls = ", ".join(f"{n}={n}" for n in [*model.TrainingInput.model_fields, "consent"])
    return f'''"""The training of {model.name} as a cog model, made by `vividcover cog export`."""

from typing import Optional

from cog import BaseModel, Input, Path

from vividcover.served import Served


class TrainingOutput(BaseModel):
    weights: Path


def train(
{_arguments(model.TrainingInput, [CONSENT], indent=4)}
) -> TrainingOutput:
    return TrainingOutput(weights=Path(Served({model.name!r}).train({calls})))
'''


def _arguments(schema: type[Inputs], extra: list[str], indent: int = 8) -> str:
    """The signature's parameters, required ones first as they stand in the catalog."""
    fields = schema.model_json_schema()["properties"]
    lines = [_argument(name, given, schema.model_fields[name].is_required()) for name, given in fields.items()]
    return "\n".join(" " * indent + line + "," for line in [*lines, *extra])


def _argument(name: str, given: dict[str, Any], required: bool) -> str:
    choice: dict[str, Any] = next((one for one in given.get("anyOf", ()) if one.get("type") != "null"), {})
    flat = {**given, **choice}
    kind = "Path" if given.get("format") == "uri" else KINDS[flat.get("type", "string")]
    optional = not required and given.get("default") is None
    parts = [] if required else [f"default={given.get('default')!r}"]
    parts.append(f"description={given.get('description', '')!r}")
    parts += [f"{ours}={flat[theirs]!r}" for theirs, ours in BOUNDS.items() if theirs in flat]
    if "enum" in flat:
        parts.append(f"choices={flat['enum']!r}")
    return f"{name}: {f'Optional[{kind}]' if optional else kind} = Input({', '.join(parts)})"
