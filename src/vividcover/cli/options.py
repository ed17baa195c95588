"""From a model's `Inputs` to a command's options: names, types, help, ranges and defaults are declared once."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vividcover.catalog.contract import Inputs


def takes_inputs(
    schema: type[Inputs],
    *,
    arguments: Mapping[str, str] | None = None,
    skip: frozenset[str] = frozenset(),
    ignored: Collection[str] = (),
    complete: Mapping[str, Callable[[str], list[str]]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the fields of `schema` to a command as options; those in `arguments` (name → help) as arguments.

    The command receives the given ones as `options`, a dict; what was not given is left to the schema's defaults.
    The help says of those in `ignored` that the classic engine cannot follow them; `complete`: what the shell offers.
    """
    arguments, complete = arguments or {}, complete or {}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]
        names = {p.name for p in own}
        fields = {k: f for k, f in schema.model_fields.items() if k not in skip and k not in names}
        derived = [_parameter(k, f, arguments.get(k), k in ignored, complete.get(k)) for k, f in fields.items()]

        def command(**given: Any) -> Any:
            options = {k: given.pop(k) for k in fields}
            return function(**given, options={k: v for k, v in options.items() if v is not None})

        first = [p for p in derived if p.name in arguments]
        rest = [p for p in derived if p.name not in arguments]
        everything = first + own + rest
        order = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in everything]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in order}
        return command

    return decorate


def _parameter(
    name: str, info: FieldInfo, argument: str | None, ignored: bool, complete: Callable[[str], list[str]] | None
) -> inspect.Parameter:
    kind = _kind(info.annotation)
    required = info.is_required()
    text = (argument or info.description or "") + ("" if required else _default(info))
    if ignored:
        text += " Not followed by the classic engine."
    if argument is not None:
        annotation: Any = Annotated[kind, typer.Argument(help=text, show_default=False)]
    else:
        flag = f"--{name.replace('_', '-')}"
        flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
        option = typer.Option(*flags, help=text, show_default=False, autocompletion=complete)
        annotation = Annotated[kind if required else kind | None, option]
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(annotation: Any) -> Any:
    """The type without "or None"."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def _default(info: FieldInfo) -> str:
    bounds = {type(m).__name__.lower(): m for m in info.metadata}
    low = getattr(bounds.get("ge"), "ge", None)
    high = getattr(bounds.get("le"), "le", None)
    default = {True: "on", False: "off"}[info.default] if isinstance(info.default, bool) else info.default
    said = [] if default in (None, PydanticUndefined) else [f"default {default}"]
    if low is not None and high is not None and high < 2**31:
        said.append(f"{low} to {high}")
    return f" [{'; '.join(said)}]" if said else ""
