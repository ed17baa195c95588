"""Which renderers there are. Each is one folder beside this file, or a package elsewhere; neither is listed anywhere.

    vividcover/portrait/NAME/about.py      ABOUT = About(…)
                                           def open_renderer(means: Means) -> Renderer: …
                                           def check(options): …       optional: raises `ParameterError`, early

A package elsewhere has the same file, and names itself by an entry point of the group `vividcover.renderers` whose
value is that module (`musetalk = "my_package.about"`). `about.py` imports nothing heavy: it is read to show a list.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from vividcover import portrait
from vividcover.errors import EngineError, NotFoundError, ParameterError
from vividcover.weights import Resolver, Shelf
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from vividcover.portrait.faces import FaceKit
    from vividcover.portrait.render import Renderer

GROUP = "vividcover.renderers"  # of entry points
ASKED = ("fps", "min_resolution", "keep_resolution", "dynamic_scale", "seed", "paste_back", "beat")
# what anybody may ask of a renderer: `RenderSettings`, and music to move with


@dataclass(frozen=True)
class About:
    """What a renderer is, before any of it is loaded.

    `nets` are names of the weights registry that it cannot do without; `licence` is that of its weights in a few words,
    `commercial` whether it allows commercial use (None: not known). `options` are those of its own with what each does;
    `ignores` what it does not follow of `ASKED`, with why. `keeps` are those of both kinds that do not change what it
    has in its work folder, and with them the folder stays when the video is there: another size or smoother pictures
    are then shown from what was drawn.
    """

    name: str
    title: str
    engine: Literal["classic", "neural"]
    nets: tuple[str, ...] = ()
    licence: str = ""
    commercial: bool | None = None
    wants_gpu: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ignores: Mapping[str, str] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [name for name in self.ignores if name not in ASKED]:
            raise ParameterError(
                f"The renderer {self.name} says that it ignores {unknown[0]!r}, which nobody can ask for.",
                f"ignores may have {', '.join(ASKED)}.",
            )


@dataclass(frozen=True)
class Means:
    """What a renderer is opened with. `work`: a folder of the caller's where it may keep what it needs to go on after
    a kill; the caller has it alone, and removes it when the video is there (but see `About.keeps`). `options`: the
    renderer's own. `loaded`: what stays in memory from one portrait to the next (nets under a name of the renderer's;
    another may be there)."""

    kit: FaceKit
    weights: Resolver
    work: Path
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0  # 0: as many as the libraries choose
    options: Mapping[str, Any] = field(default_factory=dict)
    reporter: Reporter = field(default_factory=Silent)
    loaded: dict[str, Any] = field(default_factory=dict)


def known() -> dict[str, About]:
    """Every renderer by name. Raises `EngineError` for one whose `about.py` is none."""
    return {name: about(name) for name in sorted(_modules())}


def about(name: str) -> About:
    """Raises `NotFoundError` for a name that no renderer has."""
    found: About = _module(name).ABOUT
    return found


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raises `ParameterError` for an option that the renderer has not, or a value that it refuses; loads nothing."""
    module = _module(name)
    for option in options:
        if option not in module.ABOUT.options:
            near = difflib.get_close_matches(option, module.ABOUT.options, 1)
            raise ParameterError(
                f"The renderer {name} has no option {option!r}.",
                f"Did you mean {near[0]}?" if near else f"It has {', '.join(module.ABOUT.options) or 'none'}.",
            )
    if refuse := getattr(module, "check", None):
        refuse(options)


def open_renderer(name: str, means: Means) -> Renderer:
    """The renderer, ready for `render`. Raises `NotFoundError`, `ParameterError` (an option that it has not),
    `WeightsError` and `EngineError` (what it needs is not here)."""
    check(name, means.options)
    opened: Renderer = _module(name).open_renderer(means)
    return opened


def lacks(name: str, weights: Resolver | None = None) -> str:
    """The nets of a renderer that are not here, in words; "" when it has all."""
    from vividcover.settings import settings

    shelf = weights or Shelf(settings().weights)
    absent = [net for net in about(name).nets if not shelf.has(net)]
    return f"weights are missing: {', '.join(absent)} (vividcover weights pull {' '.join(absent)})" if absent else ""


def _modules() -> dict[str, str]:
    """Name of a renderer → its `about` module. A folder here goes before a package elsewhere of the same name."""
    elsewhere = {point.name: point.value for point in entry_points(group=GROUP)}
    here = {
        found.name: f"{portrait.__name__}.{found.name}.about"
        for found in pkgutil.iter_modules(portrait.__path__)
        if found.ispkg and importlib.util.find_spec(f"{portrait.__name__}.{found.name}.about") is not None
    }
    return elsewhere | here


def _module(name: str) -> ModuleType:
    modules = _modules()
    if name not in modules:
        raise NotFoundError(f"There is no renderer {name!r}.", f"There are {', '.join(sorted(modules))}.")
    try:
        module = importlib.import_module(modules[name])
    except ImportError as error:
        raise EngineError(
            f"The renderer {name} cannot be imported from {modules[name]}: {error}.", "Install or remove it."
        ) from error
    said = getattr(module, "ABOUT", None)
    if not isinstance(said, About) or not callable(getattr(module, "open_renderer", None)) or said.name != name:
        raise EngineError(
            f"{modules[name]} is not what a renderer called {name} has to say of itself.",
            f"It needs ABOUT = About({name!r}, …) and open_renderer(means); see docs/guide/adding-a-renderer.md.",
        )
    return module
