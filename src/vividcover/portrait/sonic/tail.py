"""The end of the road: latents become pictures, two pictures get a third between them, and the video has its length.

    for rgb in frames(latents, vae, rife, count): …      # exactly `count` pictures uint8 [H, W, 3], 25 a second

The network draws F frames at 12.5 a second, which makes 2F - 1 at 25; the last one is held until the sound is over.
Piece by piece: the memory does not depend on the song. A thread makes the next piece while the caller uses this one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vividcover.portrait.sonic.config import DECODE_CHUNK, VIDEO_FPS
from vividcover.portrait.sonic.decode import LatentFrames, Rgb, as_rgb, decode
from vividcover.portrait.sonic.rife import IFNet
from vividcover.threads import as_chosen
from vividcover.workspace import Reporter, Silent

POLL = 0.05  # seconds between two looks at the cancel flag
Piece = NDArray[np.uint8]  # [n, H, W, 3]


def frames(
    latents: LatentFrames,
    vae: Any,
    rife: IFNet,
    count: int,
    *,
    smooth: bool = False,
    compile: bool = False,
    chunk: int = DECODE_CHUNK,
    reporter: Reporter | None = None,
) -> Generator[Rgb, None, None]:
    """The video's pictures; `smooth`, `compile`, `chunk` are the decoding's.

    Raises `EngineError` where the memory does not suffice, `Canceled` within a second.
    """
    reporter = reporter or Silent()
    made, last = 0, None
    drawn = decode(latents, vae, chunk=chunk, smooth=smooth, compile=compile, reporter=reporter)
    with _Ahead(_doubled(drawn, rife), reporter) as ahead:
        for piece in ahead:
            for rgb in piece:
                if made == count:
                    return
                made, last = made + 1, rgb
                yield rgb
    assert last is not None, "a song without frames"
    held = count - made
    if held > 1:
        reporter.note(
            f"The last picture is held for {held} frames ({held / VIDEO_FPS:.2f} s), until the sound is over."
        )
    for _ in range(held):
        yield last


@torch.no_grad()
def _doubled(pieces: Iterator[Tensor], rife: IFNet) -> Iterator[Piece]:
    """Pieces [n, 3, H, W] in 0..1 → pieces [2n, H, W, 3] (the first: 2n - 1) with a picture between every two."""
    before: Tensor | None = None  # [1, 3, H, W]
    for piece in pieces:
        row = piece if before is None else torch.cat((before, piece))
        before = row[-1:].clone()
        both = row.new_empty(2 * len(row) - 1, *row.shape[1:])
        both[::2] = row
        if len(row) > 1:
            both[1::2] = rife.between(row[:-1], row[1:])
        yield as_rgb(both if len(row) == len(piece) else both[1:])


class _Ahead:
    """Iterates over `pieces` in a thread of its own, one piece ahead of the caller, who can be canceled meanwhile."""

    def __init__(self, pieces: Iterator[Piece], reporter: Reporter) -> None:
        self._pieces, self._reporter = pieces, reporter
        self._made: queue.Queue[Piece | BaseException | None] = queue.Queue(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)

    def __iter__(self) -> Iterator[Piece]:
        while True:
            try:
                piece = self._made.get(timeout=POLL)
            except queue.Empty:
                self._reporter.check()
                continue
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def _work(self) -> None:
        as_chosen()
        try:
            for piece in self._pieces:
                if not self._put(piece):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Piece | BaseException | None) -> bool:
        """False: nobody waits for it any more."""
        while not self._stop.is_set():
            try:
                self._made.put(item, timeout=POLL)
                return True
            except queue.Full:
                pass
        return False

    def __enter__(self) -> _Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # a net that is at work ends by itself; nobody waits for it
