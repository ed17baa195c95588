"""What a training tells while it runs: its progress, `losses.jsonl`, TensorBoard, Weights & Biases.

log = Log(folder, steps, reporter, boards=[tensorboard(folder)])
log.step(state)                              # after each step: progress and the time left
log.row({"step": 10, "loss": 0.31})          # into losses.jsonl and onto the boards
log.pictures(250, {"TOK on a stage": rgb})
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import EngineError
from vividcover.files import write_text
from vividcover.workspace import Reporter

EVERY = 0.5  # s between two words of progress
Rgb = NDArray[np.uint8]  # [H, W, 3]


class Board(Protocol):
    """A place that shows curves and pictures."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, title: str, rgb: Rgb) -> None: ...

    def close(self) -> None: ...


class Log:
    """`quiet`: of a process that is not the first of several; it only looks whether the work is canceled."""

    def __init__(
        self, folder: Path, steps: int, reporter: Reporter, *, boards: Sequence[Board] = (), quiet: bool = False
    ) -> None:
        self.path, self.steps, self.reporter, self.boards, self.quiet = (
            folder / "losses.jsonl", steps, reporter, list(boards), quiet,
        )  # fmt: skip
        self.latest: dict[str, float] = {}
        self._began, self._first, self._said = time.monotonic(), -1, -EVERY

    def rewind(self, step: int) -> None:
        """Forgets rows after `step`: those steps are taken again."""
        if self.quiet or not self.path.exists():
            return
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    rows.append(line + "\n")
            except (ValueError, KeyError):  # half a line, of a process that was killed
                continue
        write_text(self.path, "".join(rows))

    def step(self, step: int) -> None:
        """After each step, whose number is `step`. Raises `Canceled`."""
        self.reporter.check()
        self._first = step - 1 if self._first < 0 else self._first
        now = time.monotonic()
        if self.quiet or (now - self._said < EVERY and step < self.steps):
            return
        self._said = now
        left = (now - self._began) / max(1, step - self._first) * (self.steps - step)
        loss = f", loss {self.latest['loss']:.4f}" if "loss" in self.latest else ""
        self.reporter.progress(step / self.steps, f"step {step} of {self.steps}{loss}, {clock(left)} left")

    def row(self, row: Mapping[str, float]) -> None:
        if self.quiet:
            return
        self.latest |= row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _rounded(value) for key, value in row.items()}) + "\n")
        values = {key: value for key, value in row.items() if key != "step"}
        for board in self.boards:
            board.numbers(int(row["step"]), values)

    def pictures(self, step: int, pictures: Mapping[str, Rgb]) -> None:
        for title, rgb in pictures.items():
            for board in self.boards:
                board.picture(step, title, rgb)

    def close(self) -> None:
        for board in self.boards:
            board.close()


def ready(*, tensorboard: bool, wandb: bool) -> None:
    """Raises `EngineError` for a board that is asked for and whose package is not installed."""
    for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)):
        if asked and not sys.modules.get(name) and importlib.util.find_spec(name) is None:
            raise _missing(name)


def _missing(name: str) -> EngineError:
    said = {"tensorboard": "TensorBoard", "wandb": "W&B"}[name]
    return EngineError(f"{said} was asked for, and is not installed.", f"Install it: pip install {name}.")


class TensorBoard:
    """Files for `tensorboard --logdir`. Raises `EngineError` without the package."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, step: int, title: str, rgb: Rgb) -> None:
        self._writer.add_image(title, rgb, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases. `key` None: that of the environment or of `wandb login`.

    Raises `EngineError` without the package, and when the service refuses.
    """

    def __init__(
        self, folder: Path, project: str, *, run: str = "", entity: str = "", key: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._wandb: Any = wandb
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if key:
                wandb.login(key=key)
            self._run: Any = wandb.init(
                project=project, name=run or None, entity=entity or None, dir=str(folder), config=dict(config or {}),
                id=folder.parent.name, resume="allow",
            )  # fmt: skip
        except Exception as error:  # its own errors, the network's and the service's
            first = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise EngineError(
                f"W&B does not take this training: {first}.", "Check the key, or train without."
            ) from error

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, title: str, rgb: Rgb) -> None:
        self._run.log({title: self._wandb.Image(rgb)}, step=step)

    def close(self) -> None:
        self._run.finish()


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
