"""The render contract: (still, vocals, settings) → a stream of frames, in memory that does not grow with the song.

A renderer looks at the still and says how large and how many its frames will be; does what takes long before the first
one can be shown, if there is such work; and then makes them one after the other. `encode` turns any such stream into a
silent H.264 file, `perform` a still and vocals. Which renderers there are: `renderers.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import EngineError, StorageError
from vividcover.files import aside
from vividcover.portrait.opencv import cv2
from vividcover.progress import Part
from vividcover.workspace import Reporter, Silent

Rgb = NDArray[np.uint8]  # [H, W, 3]
OnPreview = Callable[[float, Rgb], None]  # how far the long work is, 0..1; what one frame looks like by now

BROKEN = "This is a fault of the renderer, not of your files: tell its makers."
AHEAD = 6  # frames that may wait for the encoder
X264 = {  # two threads whatever the machine has, so that the same frames give the same bytes everywhere
    "preset": "superfast",
    "crf": "18",
    "x264-params": "threads=2:lookahead-threads=1:sliced-threads=0:mbtree=1:rc-lookahead=8:keyint=125:min-keyint=12",
}  # measured: 0.7 times the time of "veryfast" at the same quality, a third more bytes
AVX_512 = 13  # OpenCV's number for it (CV_CPU_AVX_512F)
NO_AVX_512 = ":asm=AVX2"  # x264's macroblock tree differs from run to run with it, and gains no time by it


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What a caller may ask of any renderer; what one does not follow, its `about.py` says.

    The size of the video: the face is cut out and its shorter side becomes `min_resolution` px; with `keep_resolution`
    the video has the size of the renderer's piece of the still, before that; with `paste_back` that of the whole still,
    into which the moving face is put back (a renderer whose piece is the whole still has nothing to put back). All
    sides are even. `dynamic_scale` multiplies the movement. `fps` is in frames a second.
    """

    fps: int = 25
    min_resolution: int = 512
    keep_resolution: bool = True
    dynamic_scale: float = 1.0
    seed: int = 0
    paste_back: bool = False


def nothing_ahead(reporter: Reporter, on_preview: OnPreview | None) -> None:
    """The `prepare` of a renderer that can show its first frame at once."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A performance about to be drawn: `frames` yields exactly `count` pictures uint8 [height, width, 3] RGB.

    `prepare(reporter, on_preview)` is called once before the first frame and does what takes long (hours, perhaps);
    `ahead` is the part of all the time that it takes, 0..1, so that progress is even. It answers a cancel within a
    second, as every step of `frames` does, and what it has done is found again by a renderer that is started anew.
    `report` is whole when the last frame has been drawn.
    """

    width: int
    height: int
    count: int
    frames: Iterator[Rgb]
    report: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Reporter, OnPreview | None], None] = nothing_ahead
    ahead: float = 0.0


class Renderer(Protocol):
    """Makes a still sing. `render` refuses what it cannot use, before any long work: it raises `ImageError` (no face,
    too small, turned away), `AudioError`, `ParameterError`, `Canceled`. `beat`: music for light or camera to follow."""

    def render(
        self, still: Rgb, vocals: Path, settings: RenderSettings, *, beat: Path | None = None,
        reporter: Reporter | None = None,
    ) -> Rendering: ...  # fmt: skip


def perform(
    renderer: Renderer, still: Rgb, vocals: Path, out: Path, settings: RenderSettings, *, beat: Path | None = None,
    reporter: Reporter | None = None, on_preview: OnPreview | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A silent mp4 of `still` singing `vocals` (a working file), whole or not at all; returns the renderer's report."""
    reporter = reporter or Silent()
    rendering = renderer.render(still, vocals, settings, beat=beat, reporter=reporter)
    with aside(out) as part:
        encode(rendering, part, fps=settings.fps, reporter=reporter, on_preview=on_preview)
    reporter.progress(1.0, "portrait done")
    return rendering.report


def encode(
    rendering: Rendering,
    out: Path,
    *,
    fps: int,
    reporter: Reporter | None = None,
    on_preview: OnPreview | None = None,
) -> int:
    """Writes a silent mp4 (H.264, yuv420p) and returns its number of frames. Encoding runs in a thread of its own."""
    whole = reporter or Silent()
    rendering.prepare(Part(whole, 0.0, rendering.ahead), on_preview)
    reporter = Part(whole, rendering.ahead, 1.0)
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
            if frame.shape != (rendering.height, rendering.width, 3) or frame.dtype != np.uint8:
                raise EngineError(
                    f"The renderer made a frame {frame.dtype}{list(frame.shape)}, and had announced "
                    f"{rendering.width}x{rendering.height} px.", BROKEN,
                )  # fmt: skip
            _hand(waiting, frame, stop, reporter)
            if failed:
                break
            done += 1
            if done % 5 == 0:
                reporter.progress(done / rendering.count, f"frame {done} of {rendering.count}")
        if not failed and done != rendering.count:
            raise EngineError(f"The renderer made {done} frames and had announced {rendering.count}.", BROKEN)
        if not failed:
            _hand(waiting, None, stop, reporter)
            while thread.is_alive():
                thread.join(0.2)
                reporter.check()
    finally:
        stop.set()
        thread.join(10)
        if isinstance(rendering.frames, Generator):
            rendering.frames.close()  # lets go of its threads and files, also when it is left half-way
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


def _hand(waiting: queue.Queue[Rgb | None], item: Rgb | None, stop: threading.Event, reporter: Reporter) -> None:
    """Waits for a place in the queue, unless the encoder has stopped."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.2)
            return
        except queue.Full:
            reporter.check()


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
        stream: Any = container.add_stream("libx264", rate=Fraction(fps), options=_x264())
        stream.width, stream.height, stream.pix_fmt = rendering.width, rendering.height, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = 1, 5  # limited range, BT.601: what the conversion below makes
        context.color_primaries, context.color_trc = 1, 1
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _x264() -> dict[str, str]:
    """x264's options on this processor."""
    if not cv2.checkHardwareSupport(AVX_512):
        return X264
    return X264 | {"x264-params": X264["x264-params"] + NO_AVX_512}
