"""Values against a model's declared inputs, and an output's name against what it will hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vividcover.errors import InputError, ParameterError

ONE_WORD = r"^\S+$"  # what trigger words have to look like


def fits(output: Path | None, suffix: str) -> None:
    """Raises `ParameterError` for an output whose name says another format, before the work."""
    if output is None or output.is_dir() or len(suffix) < 2:
        return
    alike = {".jpg", ".jpeg"}
    if output.suffix.lower() != suffix and not {output.suffix.lower(), suffix} <= alike:
        name = output.with_suffix(suffix).name
        if not output.suffix:
            raise ParameterError(f"{output.name} has no suffix.", f"Name it {name}, or give a folder that exists.")
        raise ParameterError(f"{output.name} would hold {suffix} data.", f"Name it {name}.")


def validated(model: str, schema: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """The values as `schema`. Raises `ParameterError` naming every one that is wrong."""
    try:
        return schema.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise parameter_error(model, schema, error) from None


def parameter_error(model: str, schema: type[BaseModel], error: ValidationError) -> InputError:
    """All of a request's wrong values in one message, each with the value, the range, and the nearest name."""
    import difflib

    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or str(problem.get("ctx", {}).get("field", ""))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, schema.model_fields, 1)
            lines.append(f"unknown parameter {key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        elif problem["type"] == "missing":
            lines.append(f"{key} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            if problem.get("ctx", {}).get("pattern") == ONE_WORD:
                message = "Should be one word, without spaces"
            lines.append(f"{key}={problem['input']!r}: {message[0].lower()}{message[1:]}")
    kinds = {problem["type"] for problem in error.errors()}
    if kinds & {"extra_forbidden", "missing"}:
        hint = f"The parameters are: {', '.join(schema.model_fields)}."
    else:
        hint = f"Types, ranges and choices of each: vividcover models {model}"
    return ParameterError(f"{model}: {'; '.join(lines)}.", hint)
