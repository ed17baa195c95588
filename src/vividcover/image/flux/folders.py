"""Nets of the transformers and diffusers libraries, out of a folder and never from the network.

Both libraries fill what a file lacks with random numbers and only log it. Here that is an error.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vividcover.errors import WeightsError

AGAIN = "Get it again with `vividcover weights pull`, or check the folder that was given for it."


def strictly(kind: Any, folder: Path, what: str, **more: Any) -> Any:
    """`kind.from_pretrained(folder)` in eval mode without gradients. Raises `WeightsError`; `what` names it there."""
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder} with {what}.", AGAIN)
    try:
        with quietly():
            net, told = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True, **more)
    except Exception as error:  # a damaged folder fails in as many ways as the libraries have readers
        raise WeightsError(f"{folder.name} does not hold {what}: {_first_line(error)}.", AGAIN) from error
    absent, wrong = list(told.get("missing_keys", ())), list(told.get("mismatched_keys", ()))
    if absent or wrong:
        names = ", ".join(str(name) for name in (absent + wrong)[:3])
        raise WeightsError(
            f"{folder.name} does not hold all of {what}: {len(absent + wrong)} missing ({names}).", AGAIN
        )
    return net.eval().requires_grad_(False)


def processor_of(name: str, folder: Path) -> Any:
    """How the net wants its pictures: `preprocessor_config.json`, read by the class `name` of transformers.

    By the one that works with Pillow, so that pictures are the same whether torchvision is there or not. Raises
    `WeightsError`.
    """
    import transformers

    try:
        with quietly():
            kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
            return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise WeightsError(f"{folder.name} has no preprocessor_config.json that can be read.", AGAIN) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the libraries' log lines and bars, which say nothing to a user."""
    from transformers.utils import logging as untyped

    bars: Any = untyped
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        had_bars = bars.is_progress_bar_enabled()
        try:
            bars.disable_progress_bar()
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            if had_bars:
                bars.enable_progress_bar()
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
