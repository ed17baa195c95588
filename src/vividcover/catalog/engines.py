"""Which engine serves a run, and why: what `--engine auto` does, and what an engine that was asked for needs.

auto  1  the engine that made the trained model in the input: no other can read it
      2  neural, where its packages and weights are here, and a GPU if the work would take hours without
      3  hosted, where a token is set
      4  classic, which is always here
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vividcover.errors import EngineError
from vividcover.files import stamp
from vividcover.settings import Settings

if TYPE_CHECKING:
    from vividcover.catalog.contract import Engine, Model

NOT_YET = "the neural engine for {name} is not part of this release"
INSTEAD = "Use --engine classic, or auto."
NO_GPU = "no GPU was found, without which the neural engine would take hours"


def choose(
    model: Model, wanted: Engine, settings: Settings, reader: tuple[str, str] | None, input: Any, training: bool
) -> tuple[str, str]:
    """(engine, why). Raises `EngineError` for one that cannot serve the model here."""
    if wanted == "auto":
        return _best(model, settings, reader, input, training)
    if wanted == "neural":
        if lacks := model.neural_lacks(settings, input, training):
            raise EngineError(f"{lacks[:1].upper()}{lacks[1:]}.", INSTEAD)
    elif wanted == "hosted":
        if not model.is_hosted:
            raise EngineError(f"{model.name} runs on this machine only.", INSTEAD)
        if not model.hosted_at(settings):
            raise EngineError(
                "The hosted engine needs a token.", "Set VIVIDCOVER_REPLICATE_TOKEN, or use --engine classic."
            )
    return wanted, "asked for"


def _best(
    model: Model, settings: Settings, reader: tuple[str, str] | None, input: Any, training: bool
) -> tuple[str, str]:
    if reader and reader[0] != "neural":
        return reader
    lacks = model.neural_lacks(settings, input, training)
    if reader:
        if lacks:
            raise EngineError(f"{reader[1][:1].upper()}{reader[1][1:]}, but {lacks}.", "No other engine can read it.")
        return reader
    if not lacks and model.wants_gpu and settings.device in ("auto", "cpu") and not gpu_present():
        lacks = NO_GPU
    if not lacks:
        return "neural", "its packages and weights are here" + (" and a GPU" if model.wants_gpu else "")
    if model.is_hosted and (where := model.hosted_at(settings)):
        return "hosted", f"a token for {where} is set; {lacks}"
    return "classic", f"no token for hosted models is set, and {lacks}"


def missing(settings: Settings, nets: Iterable[str]) -> str:
    """What the neural engine lacks of its packages and of these nets, in words; "" when it has all."""
    from vividcover import tensors, weights

    if why := tensors.available():
        return why
    absent = [name for name in nets if not weights.has(name, settings.weights)]
    own = [name for name in absent if name in settings.weight_files]
    said = [
        f"VIVIDCOVER_WEIGHT_FILES says {settings.weight_files[name]} for {name}, and there is "
        + ("a file where a folder is needed" if settings.weight_files[name].is_file() else "nothing that it could be")
        for name in own
    ]
    if wanted := [name for name in absent if name not in own]:
        said.append(f"weights are missing: {', '.join(wanted)} (vividcover weights pull {' '.join(wanted)})")
    return "; ".join(said)


def own(settings: Settings, nets: Iterable[str]) -> dict[str, str]:
    """The user's own files among these nets, as they are now: what was made with others is not made with them."""
    files = {name: path for name, path in settings.weight_files.items() if name in set(nets)}
    return {name: f"{path} {stamp(path)}" for name, path in files.items()}


@lru_cache(maxsize=1)
def gpu_present() -> bool:
    """Whether a GPU for torch is here, asked of the driver: importing torch for it would take seconds."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
