"""`vividcover cache …`, `vividcover doctor`."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, Any

import typer

from vividcover.cli.console import Json, JsonRows, table
from vividcover.errors import VividCoverError

cache = typer.Typer(no_args_is_help=True, help="The cache of finished stages: list, prune, clear.")


@cache.command("list")
def cache_list(json: JsonRows = False) -> None:
    """Finished stages, least recently used first."""
    import datetime

    rows = [
        {
            "stage": e["name"], "MB": round(e["bytes"] / 1e6, 1), "seconds": e["seconds"], "key": e["key"][:12],
            "used": datetime.datetime.fromtimestamp(e["used"]).strftime("%Y-%m-%d %H:%M"),
        }
        for e in _workspace().entries()
    ]  # fmt: skip
    table(rows, ["stage", "MB", "seconds", "used", "key"], json, "The cache is empty.")
    if not json:
        typer.echo(f"{sum(r['MB'] for r in rows):.1f} MB in {len(rows)} stages", err=True)


@cache.command()
def prune(
    limit: Annotated[
        float | None, typer.Option("--limit", min=0, help="GB to keep at most; default VIVIDCOVER_CACHE_LIMIT.")
    ] = None,
    json: Json = False,
) -> None:
    """Make the cache smaller.

    Removes the least recently used stages beyond a limit, and what killed runs left behind.
    """
    from vividcover.settings import settings

    _freed(settings().cache_limit if limit is None else int(limit * 1e9), json)


@cache.command()
def clear(json: Json = False) -> None:
    """Remove every stage that no running command uses."""
    _freed(0, json)


def _freed(limit: int, as_json: bool) -> None:
    import json

    workspace = _workspace()
    freed = workspace.prune(limit)
    left = sum(e["bytes"] for e in workspace.entries())
    typer.echo(json.dumps({"freed_bytes": freed, "left_bytes": left}) if as_json else f"{freed / 1e6:.1f} MB freed")


def _workspace() -> Any:
    from vividcover.settings import settings
    from vividcover.workspace import Workspace

    return Workspace(settings().cache)


def doctor(json: JsonRows = False) -> None:
    """What works on this machine, and why not."""
    rows = [_check(name, check) for name, check in CHECKS.items()]
    table(rows, ["part", "works", "says"], json, "")
    if not all(row["works"] == "yes" or row["part"].startswith("engine ") for row in rows):
        raise SystemExit(1)


def _check(name: str, check: Any) -> dict[str, Any]:
    try:
        return {"part": name, "works": "yes", "says": check()}
    except VividCoverError as error:
        return {"part": name, "works": "no", "says": str(error)}
    except Exception as error:
        return {"part": name, "works": "no", "says": f"{type(error).__name__}: {error}"}


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _libraries() -> str:
    from vividcover.provenance import versions

    return ", ".join(f"{k} {v}" for k, v in versions().items() if k not in ("python", "vividcover"))


def _codecs() -> str:
    import av

    wanted = ("libx264", "aac", "libmp3lame", "flac", "libopus")
    missing = [w for w in wanted if w not in av.codecs_available]
    if missing:
        raise VividCoverError(f"PyAV lacks {', '.join(missing)}.", "Install the official wheel: pip install av.")
    return ", ".join(wanted)


def _home() -> str:
    from vividcover.sdk import writable
    from vividcover.settings import settings

    home = settings().home
    writable(home)
    free = shutil.disk_usage(home).free
    if free < 2e9:
        raise VividCoverError(f"{home}: only {free / 1e9:.1f} GB free.", "A 4-minute cover needs about 1 GB.")
    return f"{home}, {free / 1e9:.0f} GB free"


def _faces() -> str:
    import numpy as np

    from vividcover.cli.weights import whole
    from vividcover.portrait.faces import FaceKit
    from vividcover.settings import settings

    whole()
    FaceKit(settings().weights).detect(np.zeros((256, 256, 3), np.uint8))
    return "the nets are here and load"


def _shelf(kind: Any) -> str:
    from vividcover.catalog import shelf
    from vividcover.settings import settings

    bad = []
    for path in sorted(shelf.folder(kind, settings()).glob(f"*{shelf.SUFFIX[kind]}")):
        try:
            shelf.card(path, kind)
        except VividCoverError as error:
            bad.append(str(error))
    if bad:
        raise VividCoverError(" ".join(bad))
    return ", ".join(t.name for t in shelf.listed(kind, settings())) or "none trained yet"


def _neural_voices() -> str:
    """Packages, device, and the weights for voices."""
    from vividcover import weights
    from vividcover.catalog import engines
    from vividcover.settings import settings

    _demand(weights.select(group="voice"))
    begins = engines.missing(settings(), weights.select(group="pretraining"))
    return f"sings RVC voices on {_device()}" + ("" if begins else ", and trains them")


def _neural_images() -> str:
    """The same for pictures."""
    from vividcover.catalog import drawing, engines
    from vividcover.settings import settings

    place = settings()
    _demand(drawing.base_nets(place))
    unchecked = engines.missing(place, drawing.GUARDS)
    draws = "draws with FLUX LoRAs" if not unchecked else f"draws only with the safety check switched off: {unchecked}"
    return f"trains FLUX LoRAs on {_device()}, and {draws}"


def _neural_portraits() -> str:
    """The same for portraits, and which renderers there are."""
    from vividcover.catalog import animating
    from vividcover.portrait import renderers

    _demand(animating.about(None).nets)
    others = [name for name in renderers.known() if name not in ("classic", animating.USUAL)]
    return f"animates with Sonic on {_device()} (non-commercial weights)" + (
        f"; also {', '.join(others)}" if others else ""
    )


def _demand(nets: Any) -> None:
    from vividcover.catalog import engines
    from vividcover.settings import settings

    if lacks := engines.missing(settings(), nets):
        raise VividCoverError(f"{lacks[:1].upper()}{lacks[1:]}.", "The classic engine serves every model without it.")


def _device() -> str:
    from vividcover import tensors
    from vividcover.settings import settings

    return str(tensors.pick_device(settings().device))


def _hosted() -> str:
    from vividcover.settings import settings

    if not settings().replicate_token:
        raise VividCoverError(
            "No token for hosted models is set.", "Set VIVIDCOVER_REPLICATE_TOKEN; the classic engine needs none."
        )
    return f"a token for {settings().replicate_url} is set (not tried)"


CHECKS: dict[str, Any] = {
    "python": _python, "libraries": _libraries, "codecs": _codecs, "data folder": _home, "face nets": _faces,
    "voices": lambda: _shelf("voice"), "images": lambda: _shelf("image"),
    "engine classic": lambda: "serves every model",
    "neural voices": _neural_voices, "neural images": _neural_images, "neural portraits": _neural_portraits,
    "engine hosted": _hosted,
}  # fmt: skip
