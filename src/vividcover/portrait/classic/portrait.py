"""The classic singing portrait: `portrait(still, vocals, out)`, and the renderer behind it.

listen (what is heard) → act (how everything moves) → scene (mouth, eyes, head, camera, light) → encode.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vividcover.errors import ParameterError
from vividcover.portrait.classic.act import Act, act
from vividcover.portrait.classic.beat import onsets, track
from vividcover.portrait.classic.listen import listen
from vividcover.portrait.classic.scene import Scene
from vividcover.portrait.faces import Face, FaceKit, Rgb
from vividcover.portrait.framing import singer
from vividcover.portrait.opencv import cv2
from vividcover.portrait.render import Rendering, RenderSettings, encode
from vividcover.portrait.stills import even, read_still
from vividcover.workspace import Reporter, Silent


def portrait(
    still: Path,
    vocals: Path,
    out: Path,
    *,
    kit: FaceKit,
    beat: Path | None = None,
    min_resolution: int | None = 512,
    keep_resolution: bool = True,
    dynamic_scale: float = 1.0,
    fps: int = 25,
    seed: int = 0,
    threads: int = 2,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Makes the person on `still` sing `vocals` (a working file): a silent mp4 of exactly round(seconds * fps) frames.

    `beat` is the working file whose beat moves camera and light. Returns a report (size, frames, face, beats, notes).
    Raises `ImageError` (no usable face), `ParameterError`, `WeightsError`, `StorageError`, `Canceled`.
    """
    reporter = reporter or Silent()
    if not 1 <= fps <= 60:
        raise ParameterError(f"fps is {fps}.", "Use 1 to 60 frames a second.")
    if not 0.0 <= dynamic_scale <= 2.0:
        raise ParameterError(f"dynamic_scale is {dynamic_scale}.", "Use 0.0 (still head) to 2.0; 1.0 is natural.")
    if min_resolution is not None and not 64 <= min_resolution <= 2048:
        raise ParameterError(f"min_resolution is {min_resolution}.", "Use 64 to 2048 px.")
    settings = RenderSettings(fps, min_resolution or 512, keep_resolution, dynamic_scale, seed)
    cv2.setNumThreads(max(1, threads))
    rendering = ClassicRenderer(kit).render(read_still(still), vocals, settings, beat=beat, reporter=reporter)
    encode(rendering, out, fps=fps, reporter=reporter)
    reporter.progress(1.0, "portrait done")
    return rendering.report


class ClassicRenderer:
    """The embedded renderer (contract: `portrait/render.py`): warps the photo itself; no weights but the face nets."""

    def __init__(self, kit: FaceKit) -> None:
        self.kit = kit

    def render(
        self,
        still: Rgb,
        vocals: Path,
        settings: RenderSettings,
        *,
        beat: Path | None = None,
        reporter: Reporter | None = None,
    ) -> Rendering:
        reporter = reporter or Silent()
        notes: list[str] = []
        reporter.progress(0.0, "looking for the face")
        still, face = self._prepare(still, settings, notes)
        reporter.check()
        heard = listen(vocals, reporter=reporter)
        beats = track(onsets(beat, reporter=reporter)) if beat is not None else np.zeros(0)
        count = max(1, round(heard.seconds * settings.fps))
        play = act(heard, count, settings.fps, beats=beats, scale=settings.dynamic_scale, seed=settings.seed)
        reporter.check()
        matte = self.kit.matte(still)
        reporter.check()
        scene = Scene(still, face, matte)
        height, width = still.shape[:2]
        for note in notes:
            reporter.note(note)
        report: dict[str, Any] = {
            "width": width, "height": height, "fps": settings.fps, "frames": count, "seed": settings.seed,
            "face": {"height": round(face.h), "yaw": round(face.yaw), "pitch": round(face.pitch)},
            "sung_seconds": round(float(play.singing.sum()) / settings.fps, 2), "beats": len(beats), "notes": notes,
        }  # fmt: skip
        return Rendering(width, height, count, _frames(scene, play), report)

    def _prepare(self, still: Rgb, settings: RenderSettings, notes: list[str]) -> tuple[Rgb, Face]:
        face = singer(still, self.kit, notes)
        picture = _cut(still, face, settings.min_resolution) if not settings.keep_resolution else even(still, notes)
        if picture.shape != still.shape:
            face = next(iter(self.kit.detect(picture)), face)
        return picture, face


def _cut(still: Rgb, face: Face, side: int) -> Rgb:
    """A square around the face (twice its box), `side` px."""
    height, width = still.shape[:2]
    reach = min(max(face.w, face.h), min(height, width) / 2)
    x = float(np.clip(face.x + face.w / 2, reach, width - reach))
    y = float(np.clip(face.y + face.h / 2, reach, height - reach))
    left, top, size = round(x - reach), round(y - reach), round(2 * reach)
    piece = still[max(0, top) : top + size, max(0, left) : left + size]
    how = cv2.INTER_AREA if size > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(piece, (side // 2 * 2, side // 2 * 2), interpolation=how), np.uint8)


def _frames(scene: Scene, play: Act) -> Iterator[Rgb]:
    for number in range(len(play)):
        yield scene.draw(play.at(number))
