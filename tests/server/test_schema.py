"""A version's schema is what cog would have said of the same inputs, and what the clients read in it is there."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import Field

from vividcover.catalog.contract import Inputs, secret, takes_file, uri
from vividcover.cover import models as catalog
from vividcover.server.schema import _inputs, openapi_schema, output_schema


class Example(Inputs):
    prompt: str = Field(description="What to show", min_length=1, max_length=2000)
    replicate_weights: str | None = uri("w", required=False)
    aspect_ratio: Literal["1:1", "16:9"] = Field(default="1:1", description="ar")
    width: int | None = Field(default=None, ge=256, le=1440, description="px")
    rank: Literal[16, 32] = Field(default=32, description="r")
    lora_scale: float = Field(default=1.0, ge=-1, le=3, description="s")
    hf_token: str | None = secret("t")
    go_fast: bool = Field(default=False, description="g")


# What `python -m cog.command.openapi_schema` of cog 0.16.12 printed for the same inputs.
COG: dict[str, Any] = {
    "Input": {
        "type": "object", "title": "Input", "required": ["prompt"],
        "properties": {
            "prompt": {
                "type": "string", "maxLength": 2000, "minLength": 1, "title": "Prompt", "description": "What to show",
                "x-order": 0,
            },
            "replicate_weights": {
                "title": "Replicate Weights", "description": "w", "x-order": 1, "type": "string", "format": "uri",
                "nullable": True,
            },
            "aspect_ratio": {
                "description": "ar", "default": "1:1", "x-order": 2,
                "allOf": [{"$ref": "#/components/schemas/aspect_ratio"}],
            },
            "width": {
                "title": "Width", "description": "px", "x-order": 3, "type": "integer", "maximum": 1440.0,
                "minimum": 256.0, "nullable": True,
            },
            "rank": {
                "description": "r", "default": 32, "x-order": 4, "allOf": [{"$ref": "#/components/schemas/rank"}]
            },
            "lora_scale": {
                "type": "number", "maximum": 3.0, "minimum": -1.0, "title": "Lora Scale", "description": "s",
                "default": 1.0, "x-order": 5,
            },
            "hf_token": {
                "title": "Hf Token", "description": "t", "x-order": 6, "type": "string", "format": "password",
                "writeOnly": True, "x-cog-secret": True, "nullable": True,
            },
            "go_fast": {"type": "boolean", "title": "Go Fast", "description": "g", "default": False, "x-order": 7},
        },
    },
    "aspect_ratio": {
        "type": "string", "enum": ["1:1", "16:9"], "title": "aspect_ratio", "description": "An enumeration."
    },
    "rank": {"type": "integer", "enum": [16, 32], "title": "rank", "description": "An enumeration."},
}  # fmt: skip


def test_inputs_are_described_as_cog_describes_them() -> None:
    schemas: dict[str, Any] = {}
    schemas["Input"] = _inputs("Input", Example, schemas)
    assert schemas == COG


def test_outputs_tell_the_clients_what_is_a_file_and_what_comes_in_pieces() -> None:
    assert output_schema("file") == {"type": "string", "format": "uri", "title": "Output"}
    assert output_schema("files") == {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
    assert output_schema("text") == {"type": "string", "title": "Output"}
    stream = output_schema("stream")
    assert (stream["x-cog-array-type"], stream["x-cog-array-display"]) == ("iterator", "concatenate")


@pytest.mark.parametrize("name", catalog())
def test_every_models_schema_is_whole(name: str) -> None:
    model, schema = catalog()[name], openapi_schema(name)
    schemas = schema["components"]["schemas"]
    text = json.dumps(schema)
    assert "$defs" not in text and "anyOf" not in text and '"default": null' not in text
    references = [part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]]
    assert set(references) <= set(schemas)
    for title, inputs in (("Input", model.Input), ("TrainingInput", model.TrainingInput)):
        if inputs is None:
            assert title not in schemas
            continue
        properties = schemas[title]["properties"]
        assert list(properties) == list(inputs.model_fields)
        assert [one["x-order"] for one in properties.values()] == list(range(len(properties)))
        for field, info in inputs.model_fields.items():
            assert (properties[field].get("format") == "uri") == takes_file(info), field
            assert (field in schemas[title].get("required", ())) == info.is_required()
    assert bool(model.TrainingInput) == ("weights" in schemas.get("TrainingOutput", {}).get("required", ()))
