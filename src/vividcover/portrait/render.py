"""The render contract: (still, vocals, settings) → a stream of frames, in memory that does not grow with the song.

A renderer looks at the still and listens to the vocals once, says how large and how many its frames will be, and then
makes them one after the other. `encode` turns any such stream into a silent H.264 file.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import StorageError
from vividcover.portrait.opencv import cv2
from vividcover.workspace import Reporter, Silent

Rgb = NDArray[np.uint8]  # [H, W, 3]

AHEAD = 6  # frames that may wait for the encoder
X264 = {  # two threads whatever the machine has, so that the same frames give the same bytes everywhere
    "preset": "superfast",
    "crf": "18",
    "x264-params": "threads=2:lookahead-threads=1:sliced-threads=0:mbtree=1:rc-lookahead=8:keyint=125:min-keyint=12",
}  # measured: 0.7 times the time of "veryfast" at the same quality, a third more bytes


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What a caller may ask of any renderer.

    `keep_resolution` keeps the still's own size (made even); otherwise the face is cut out and its shorter side becomes
    `min_resolution` px. `dynamic_scale` multiplies the movement. `fps` is in frames a second.
    """

    fps: int = 25
    min_resolution: int = 512
    keep_resolution: bool = True
    dynamic_scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rendering:
    """A performance about to be drawn: `frames` yields exactly `count` pictures uint8 [height, width, 3] RGB."""

    width: int
    height: int
    count: int
    frames: Iterator[Rgb]
    report: dict[str, Any] = field(default_factory=dict)


class Renderer(Protocol):
    """Makes a still sing. Raises `ImageError` where the still cannot be used, `AudioError`, `Canceled`."""

    def render(
        self, still: Rgb, vocals: Path, settings: RenderSettings, *, beat: Path | None = None,
        reporter: Reporter | None = None,
    ) -> Rendering: ...  # fmt: skip


def encode(rendering: Rendering, out: Path, *, fps: int, reporter: Reporter | None = None) -> int:
    """Writes a silent mp4 (H.264, yuv420p) and returns its number of frames. Encoding runs in a thread of its own."""
    reporter = reporter or Silent()
    waiting: queue.Queue[Rgb | None] = queue.Queue(AHEAD)
    failed: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            _write(_drain(waiting, stop), rendering, out, fps)
        except BaseException as error:
            failed.append(error)
            stop.set()

    thread = threading.Thread(target=work, name="encode", daemon=True)
    thread.start()
    done = 0
    try:
        for frame in rendering.frames:
            while not stop.is_set():
                try:
                    waiting.put(frame, timeout=0.2)
                    break
                except queue.Full:
                    reporter.check()
            if failed:
                break
            done += 1
            if done % 5 == 0:
                reporter.progress(done / rendering.count, f"frame {done} of {rendering.count}")
        if not failed:
            waiting.put(None)
            while thread.is_alive():
                thread.join(0.2)
                reporter.check()
    finally:
        stop.set()
        thread.join(10)
        if failed or done != rendering.count:
            out.unlink(missing_ok=True)
    if failed:
        error = failed[0]
        if isinstance(error, OSError):
            raise StorageError(
                f"The video cannot be written to {out}: {error.strerror or error}.",
                "Free some space or choose another folder.",
            ) from error
        raise error
    return done


def _drain(waiting: queue.Queue[Rgb | None], stop: threading.Event) -> Iterator[Rgb]:
    while not stop.is_set():
        try:
            frame = waiting.get(timeout=0.2)
        except queue.Empty:
            continue
        if frame is None:
            return
        yield frame


def _write(frames: Iterator[Rgb], rendering: Rendering, out: Path, fps: int) -> None:
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps), options=X264)
        stream.width, stream.height, stream.pix_fmt = rendering.width, rendering.height, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = 1, 5  # limited range, BT.601: what the conversion below makes
        context.color_primaries, context.color_trc = 1, 1
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
