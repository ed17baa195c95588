"""A model's inputs and outputs as cog describes them: the `openapi_schema` of a version.

Small on purpose, in cog's own shape, because clients read it: `x-order` for forms, enums behind `allOf`/`$ref`, a
`format: uri` on whatever is a file, `x-cog-array-type` on outputs that come in pieces.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from vividcover.catalog.contract import Inputs
from vividcover.cover import get

SCHEMAS = "#/components/schemas/"
KEPT = (
    "type", "format", "items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "pattern", "writeOnly", "x-cog-secret",
)  # fmt: skip
STATUSES = ("starting", "processing", "succeeded", "canceled", "failed")
EVENTS = ("start", "output", "logs", "completed")
FILE = {"type": "string", "format": "uri"}


@lru_cache(maxsize=64)
def openapi_schema(name: str) -> dict[str, Any]:
    """The schema of the catalog's model `owner/name`. Shared between callers: do not change it."""
    model = get(name)
    schemas: dict[str, Any] = {"Output": output_schema(model.output)}
    schemas["Input"] = _inputs("Input", model.Input, schemas)
    paths = {"/predictions": _path("predict", "Prediction")}
    schemas |= _envelopes("Prediction", "Input", "Output")
    if model.TrainingInput:
        schemas["TrainingOutput"] = {
            "type": "object", "title": "TrainingOutput", "required": ["weights"],
            "properties": {"weights": {**FILE, "title": "Weights"}},
        }  # fmt: skip
        schemas["TrainingInput"] = _inputs("TrainingInput", model.TrainingInput, schemas)
        schemas |= _envelopes("Training", "TrainingInput", "TrainingOutput")
        paths["/trainings"] = _path("train", "Training")
    schemas["Status"] = _enum("Status", STATUSES, "An enumeration.")
    schemas["WebhookEvent"] = _enum("WebhookEvent", EVENTS, "An enumeration.")
    return {
        "openapi": "3.0.2", "info": {"title": "Cog", "version": "0.1.0"}, "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }  # fmt: skip


def output_schema(output: str) -> dict[str, Any]:
    """The shape of what comes out, for `Model.output`."""
    match output:
        case "file":
            return {**FILE, "title": "Output"}
        case "files":
            return {"type": "array", "items": dict(FILE), "title": "Output"}
        case "stream":
            return {
                "type": "array", "items": {"type": "string"}, "title": "Output", "x-cog-array-type": "iterator",
                "x-cog-array-display": "concatenate",
            }  # fmt: skip
        case _:
            return {"type": "string", "title": "Output"}


def _inputs(title: str, schema: type[Inputs], schemas: dict[str, Any]) -> dict[str, Any]:
    """The object of a model's inputs. Their enums go into `schemas` under the input's name, as cog has it."""
    properties = schema.model_json_schema()["properties"]
    shown: dict[str, Any] = {}
    for order, (name, given) in enumerate(properties.items()):
        one = _property(name, given)
        choices = one.pop("enum", None)
        if choices:
            place = name if name not in schemas else f"{title}_{name}"
            schemas[place] = _enum(name, choices, "An enumeration.")
            one = {"allOf": [{"$ref": SCHEMAS + place}], **{k: v for k, v in one.items() if k not in ("type", "title")}}
        shown[name] = {**one, "x-order": order}
    required = [name for name, info in schema.model_fields.items() if info.is_required()]
    made: dict[str, Any] = {"type": "object", "title": title, "properties": shown}
    return {**made, "required": required} if required else made


def _property(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """One input, flat: `anyOf` with null becomes `nullable`, and a default of null is left out."""
    flat, nullable = dict(given), False
    for choice in given.get("anyOf", ()):
        if choice.get("type") == "null":
            nullable = True
        else:
            flat |= choice
    one: dict[str, Any] = {"title": given.get("title") or name.replace("_", " ").title()}
    if "const" in flat:
        flat["enum"] = [flat["const"]]
    if "enum" in flat:
        one["enum"] = list(flat["enum"])
    one |= {key: flat[key] for key in KEPT if key in flat}
    if flat.get("default") is not None:
        one["default"] = flat["default"]
    if nullable:
        one["nullable"] = True
    if flat.get("description"):
        one["description"] = flat["description"]
    return one


def _enum(title: str, choices: Any, description: str) -> dict[str, Any]:
    kinds = {int: "integer", float: "number", str: "string"}
    listed = list(choices)
    return {"type": kinds[type(listed[0])], "title": title, "description": description, "enum": listed}


def _path(verb: str, kind: str) -> dict[str, Any]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": SCHEMAS + name}}}

    return {
        "post": {
            "summary": verb.title(), "operationId": f"{verb}_{kind.lower()}s_post",
            "requestBody": {"content": content(f"{kind}Request")},
            "responses": {"200": {"description": "Successful Response", "content": content(f"{kind}Response")}},
        }
    }  # fmt: skip


def _envelopes(kind: str, taken: str, given: str) -> dict[str, Any]:
    """The request and the response of cog's own HTTP interface."""
    time = {"type": "string", "format": "date-time"}
    request = {
        "id": {"type": "string", "title": "Id"}, "input": {"$ref": SCHEMAS + taken},
        "webhook": {"type": "string", "format": "uri", "title": "Webhook"},
        "webhook_events_filter": {"type": "array", "items": {"$ref": SCHEMAS + "WebhookEvent"}},
    }  # fmt: skip
    response = {
        "id": request["id"], "input": {"$ref": SCHEMAS + taken}, "output": {"$ref": SCHEMAS + given},
        "status": {"$ref": SCHEMAS + "Status"}, "error": {"type": "string", "title": "Error"},
        "logs": {"type": "string", "title": "Logs", "default": ""}, "metrics": {"type": "object", "title": "Metrics"},
        "created_at": time, "started_at": time, "completed_at": time,
    }  # fmt: skip
    return {
        f"{kind}Request": {"type": "object", "title": f"{kind}Request", "properties": request},
        f"{kind}Response": {"type": "object", "title": f"{kind}Response", "properties": response},
    }
