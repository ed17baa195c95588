"""What a key style is: prefixes, and which of FLUX's layers each of its modules changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from vividcover.image.flux.config import FluxConfig


@dataclass(frozen=True)
class Covers:
    """The layers, by canonical name, whose rows stand one under the other in a module of a file.

    `swapped`: the module's two halves of rows stand in the other order than in the layer.
    """

    names: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True)
class Style:
    """`modules`: the names of all layers, without prefix. `whole`: the norms, which no LoRA but a control LoRA has."""

    name: str
    prefixes: tuple[str, ...]
    modules: Callable[[FluxConfig], dict[str, Covers]]
    whole: Callable[[FluxConfig], dict[str, str]] = lambda config: {}

    def module(self, stem: str, table: dict[str, Covers]) -> str | None:
        """The module in a key without its part; None: not this style, or not this network."""
        names = (stem[len(prefix) :] for prefix in self.prefixes if stem.startswith(prefix))
        return next((name for name in names if name in table), None)

    def find(self, stem: str, table: dict[str, Covers]) -> Covers | None:
        """The layers behind a key without its part; None as above."""
        name = self.module(stem, table)
        return None if name is None else table[name]


@cache
def table(style: Style, config: FluxConfig) -> dict[str, Covers]:
    """A style's modules, made once. Not to be changed."""
    return style.modules(config)


def underscored(table: dict[str, Covers]) -> dict[str, Covers]:
    """The same modules as programs name them that may not have dots in names."""
    return {name.replace(".", "_"): covers for name, covers in table.items()}


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    all_of_them = list(names)
    shown = ", ".join(all_of_them[:most])
    return shown + (f" and {len(all_of_them) - most} more" if len(all_of_them) > most else "")
