"""Models of `transformers` that describe pictures, opened strictly from a folder on this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vividcover import tensors
from vividcover.errors import EngineError, ModelFileError

AGAIN = "Pull its weights again (`vividcover weights pull`), or another captioner's."


def open_folder(folder: Path, kind: str, name: str, device: str) -> tuple[Any, Any]:
    """(model, torch device): the class `kind` of transformers with the folder's weights, for inference only.

    Nothing is fetched and no code of the folder runs. Raises `ModelFileError` where a weight is missing or of
    another shape, `EngineError` without torch and transformers.
    """
    chosen = tensors.pick_device(device)
    dtype = tensors.pick_dtype(chosen)
    library()
    with reading(folder, name):
        model, told = opened(kind, folder, output_loading_info=True, ignore_mismatched_sizes=True, dtype=dtype)
    faults = {"missing_keys": "missing:", "mismatched_keys": "of another shape:"}
    wrong = [f"{said} {', '.join(sorted(map(str, told[k]))[:3])}" for k, said in faults.items() if told.get(k)]
    if wrong:
        raise ModelFileError(f"{folder} does not hold the weights of {name}. {'; '.join(wrong)}.", AGAIN)
    return model.to(chosen).eval(), chosen


def opened(kind: str, folder: Path, **more: Any) -> Any:
    """What the class `kind` of transformers reads from the folder alone."""
    return getattr(library(), kind).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **more)


def library() -> Any:
    """transformers, imported when it is first needed. Raises `EngineError` where it is not installed."""
    tensors.require()
    try:
        import transformers
    except ImportError as error:
        raise EngineError(f"Captions by a model need transformers: {error}.", tensors.INSTALL) from error
    return transformers


@contextlib.contextmanager
def reading(folder: Path, name: str) -> Iterator[None]:
    """Whatever a damaged folder makes the library raise becomes one error; its advice to developers is not shown."""
    logging = library().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # the readers of JSON, safetensors and tokenizers fail in ways of their own
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelFileError(f"{folder} cannot be read as {name}: {why}", AGAIN) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def finished(text: str) -> str:
    """The text up to the end of its last whole sentence, where it was cut off inside of one."""
    text = text.strip()
    if text.endswith((".", "!", "?", "”", '"')):
        return text
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text)]
    return text[: ends[-1]] if ends else text
