"""`vividcover/hello`: says hello in pieces. For trying a server, a webhook or a client before the real work."""

from __future__ import annotations

import time
from typing import ClassVar, Literal

from pydantic import Field

from vividcover.catalog.contract import Context, Inputs, Made, Model
from vividcover.errors import InputError
from vividcover.workspace import Stage

TICK = 0.05  # seconds between two looks at whether to stop


class HelloInput(Inputs):
    text: str = Field(default="world", min_length=1, max_length=10_000, description="Whom to greet.")
    repeat: int = Field(default=1, ge=1, le=1000, description="How many pieces.")
    seconds: float = Field(default=0.0, ge=0, le=3600, description="How long each piece takes.")
    fail: bool = Field(default=False, description="Fail after the last piece, to see how failures look.")


class Hello(Model):
    name: ClassVar[str] = "vividcover/hello"
    description: ClassVar[str] = "Says hello, in pieces: for trying a server, a webhook or a client."
    Input: ClassVar[type[Inputs]] = HelloInput
    output: ClassVar[Literal["file", "files", "text", "stream"]] = "stream"
    synthetic: ClassVar[bool] = False
    is_hosted: ClassVar[bool] = False

    def classic(self, input: HelloInput, context: Context) -> Made:
        pieces = []
        for number in range(input.repeat):
            if input.seconds:
                self._piece(number, input, context)
            pieces.append("hello there, " + input.text if number == 0 else f" ({number + 1})")
            context.emit(pieces[-1])
        if input.fail:
            raise InputError("It was asked to fail.", "Leave fail=true out.")
        return Made(pieces)

    def _piece(self, number: int, input: HelloInput, context: Context) -> None:
        """A stage that takes its time: finished ones are not waited for again when the run is taken up again."""

        def compute(stage: Stage) -> None:
            until = time.monotonic() + input.seconds
            while (left := until - time.monotonic()) > 0:
                stage.progress(1 - left / input.seconds, f"piece {number + 1} of {input.repeat}")
                time.sleep(min(TICK, left))
            (stage.folder / "piece.txt").write_text(f"{input.text} {number}\n", encoding="utf-8")

        params = {"text": input.text, "number": number, "seconds": input.seconds}
        context.stage("hello/piece", version=1, inputs={}, params=params, compute=compute)
