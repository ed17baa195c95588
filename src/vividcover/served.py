"""A catalog model behind somebody else's server: what the packages made by `vividcover cog export` call.

model = Served("zsxkib/sonic")
model.run(image="vivi.jpg", audio="sung.wav", seed=None)      # → a path, a list of paths, or a text
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vividcover.catalog.contract import Result
from vividcover.cover import get
from vividcover.errors import VividCoverError
from vividcover.sdk import session
from vividcover.workspace import Event, publish


class Served:
    """One model, kept between calls; its cache is the data folder's, so the same work is done once."""

    def __init__(self, name: str, weights: Path | None = None, weights_input: str = "") -> None:
        """`weights`: a trained model's file, given to every run as its input `weights_input`."""
        self._model = get(name)
        self._fixed = {weights_input: str(weights)} if weights and weights_input else {}

    def run(self, **values: Any) -> Path | list[Path] | str | list[str]:
        """The model's output; files are copies that the caller may move. Raises `RuntimeError` with a clear text."""
        return self._carry_out(values, training=False)

    def train(self, **values: Any) -> Path:
        """The trained model's file. `consent` among the values: what the people concerned agreed to."""
        made = self._carry_out(values, training=True)
        assert isinstance(made, Path)
        return made

    def _carry_out(self, values: Mapping[str, Any], training: bool) -> Path | list[Path] | str | list[str]:
        given = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None} | self._fixed
        consent = str(given.pop("consent", ""))
        try:
            with session(on_event=_log) as opened:
                context = opened.context(consent)
                result = (self._model.train if training else self._model.run)(given, context)
                return _copies(result)
        except VividCoverError as error:
            raise RuntimeError(str(error)) from None  # the server shows the text; our classes mean nothing to it


def _copies(result: Result) -> Path | list[Path] | str | list[str]:
    """Outputs outside the cache, where whoever called may move or delete them."""
    if not result.files:
        return result.output if isinstance(result.output, str) else [str(piece) for piece in result.output]  # type: ignore[union-attr]
    folder = Path(tempfile.mkdtemp(prefix="vividcover-"))
    files = [publish(one, folder / f"{number}-{one.name}") for number, one in enumerate(result.files)]
    return files if isinstance(result.output, list) else files[0]


def _log(event: Event) -> None:
    """Notes and stages as log lines: cog keeps what a model prints."""
    import sys

    if event.kind in ("note", "start"):
        sys.stdout.write(f"{event.stage}: {event.text}\n" if event.text else f"{event.stage} …\n")
        sys.stdout.flush()
